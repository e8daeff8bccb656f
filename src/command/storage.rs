//! `set`, `add`, `replace`, `append`, `prepend`, `cas`, and `delete`.

use crate::datastore::{Datastore, Draft, Item, Slot};
use crate::protocol::{ProtocolError, Storage, StoreMode};
use crate::serialization::{Response, Unmet};
use crate::stats::{Counter, Counts};

/// The new item that a storage command announces, with room for its data.
///
/// Where there is no room for it, a `set` has removed the old value all the same, as memcached does: a
/// client that wanted to replace it must not go on reading it. The other modes leave it.
pub fn draft<'s>(
    announced: &Storage<'_>,
    store: &'s Datastore,
) -> Result<Draft<'s>, ProtocolError> {
    let draft = store.draft(
        announced.key,
        announced.flags,
        announced.exptime,
        announced.bytes,
    );
    if draft.is_err() && announced.mode == StoreMode::Set {
        store.slot(announced.key).remove();
    }
    draft
}

/// Stores a draft that has got its data, if the command's condition is met.
pub fn store(
    request: &Storage<'_>,
    draft: Draft<'_>,
    store: &Datastore,
    counts: &mut Counts,
) -> Response {
    counts[Counter::CmdSet] += 1;
    let new = draft.item;
    let slot = store.slot(request.key);
    match (request.mode, slot.item()) {
        (StoreMode::Set, _) | (StoreMode::Add, None) | (StoreMode::Replace, Some(_)) => {
            put(slot, new, counts)
        }
        (StoreMode::Add, Some(_)) => Response::NotStored(Unmet::KeyIsTaken),
        (StoreMode::Replace | StoreMode::Append | StoreMode::Prepend, None) => {
            Response::NotStored(Unmet::KeyIsFree)
        }
        (StoreMode::Append, Some(old)) => match joined(old, [old.value(), new.value()], store) {
            Some(item) => put(slot, item, counts),
            None => Response::NotStored(Unmet::TooLarge),
        },
        (StoreMode::Prepend, Some(old)) => match joined(old, [new.value(), old.value()], store) {
            Some(item) => put(slot, item, counts),
            None => Response::NotStored(Unmet::TooLarge),
        },
        (StoreMode::Cas(_), None) => {
            counts[Counter::CasMisses] += 1;
            Response::NotFound
        }
        (StoreMode::Cas(unique), Some(old)) if old.cas != unique => {
            counts[Counter::CasBadval] += 1;
            Response::Exists(old.cas)
        }
        (StoreMode::Cas(_), Some(_)) => {
            counts[Counter::CasHits] += 1;
            put(slot, new, counts)
        }
    }
}

fn put(mut slot: Slot<'_>, item: Item, counts: &mut Counts) -> Response {
    counts[Counter::TotalItems] += 1;
    slot.put(item);
    Response::Stored
}

/// An item that is the old one with more data: flags and expiry stay the old ones, whatever the command
/// line says. `None` if it would be too large.
fn joined(old: &Item, value: [&[u8]; 2], store: &Datastore) -> Option<Item> {
    let bytes = value.iter().map(|part| part.len()).sum();
    store
        .fits(old.key(), old.flags, bytes)
        .then(|| Item::new(old.key(), old.flags, old.expiry, &value))
}

/// `delete`
pub fn delete(key: &[u8], store: &Datastore, counts: &mut Counts) -> Response {
    let mut slot = store.slot(key);
    if slot.item().is_some() {
        slot.remove();
        counts[Counter::DeleteHits] += 1;
        Response::Deleted
    } else {
        counts[Counter::DeleteMisses] += 1;
        Response::NotFound
    }
}
