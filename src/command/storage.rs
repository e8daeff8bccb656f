//! `set`, `add`, `replace`, `append`, `prepend`, `cas`, `delete`; and `ms`, which says the same and more.

use crate::datastore::{Datastore, PendingItem};
use crate::item::Item;
use crate::protocol::{OnFailure, ProtocolError, Storage, StoreMode};
use crate::serialization::{Response, Unmet};
use crate::stats::{Counter, Counts};

/// What came of an attempt to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The item has this cas unique now, and this many bytes of value.
    Stored {
        /// Its cas unique.
        cas: u64,
        /// The size of its value.
        bytes: usize,
    },
    /// The command's condition was not met.
    NotStored(Unmet),
    /// The item has another cas unique, namely this one.
    Exists(u64),
    /// There is no item whose cas unique could be compared.
    NotFound,
}

impl From<Outcome> for Response<'_> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Stored { .. } => Response::Stored,
            Outcome::NotStored(unmet) => Response::NotStored(unmet),
            Outcome::Exists(cas) => Response::Exists(cas),
            Outcome::NotFound => Response::NotFound,
        }
    }
}

/// Reserves memory for the item that a storage command announces.
pub fn reserve(announced: &Storage<'_>, store: &Datastore) -> Result<PendingItem, ProtocolError> {
    let key = &announced.key;
    let pending = store.reserve(
        &key.bytes,
        announced.flags,
        announced.exptime,
        announced.bytes,
    );
    if pending.is_err() && announced.on_failure == OnFailure::RemoveOld {
        store.lock_key(&key.bytes).remove()?;
    }
    let mut pending = pending?;
    pending.item.marks.binary_key = key.binary;
    Ok(pending)
}

/// Stores an item that has got its value, if the command's conditions are met.
pub fn store(
    request: &Storage<'_>,
    pending: PendingItem,
    store: &Datastore,
    counts: &Counts,
) -> Result<Outcome, ProtocolError> {
    counts.add(Counter::CmdSet);
    let mut new = store.complete(pending);
    let mut guard = store.lock_key(&request.key.bytes);
    // The commonest command does not look at what is there.
    let unconditional = request.mode == StoreMode::Set && request.compare.is_none();
    let old = if unconditional { None } else { guard.item() };
    let item = match (request.mode, old) {
        (StoreMode::Add, Some(_)) => return Ok(Outcome::NotStored(Unmet::KeyIsTaken)),
        (StoreMode::Add, None) => new,
        (StoreMode::Set | StoreMode::Replace, old) => match (request.compare, old) {
            (None, None) if request.mode == StoreMode::Replace => {
                return Ok(Outcome::NotStored(Unmet::KeyIsFree));
            }
            (None, _) => new,
            (Some(_), None) => {
                counts.add(Counter::CasMisses);
                return Ok(Outcome::NotFound);
            }
            (Some(unique), Some(old)) if unique == old.cas && unique != 0 => {
                counts.add(Counter::CasHits);
                new
            }
            // It comes too late, and is better than nothing: it is stored as what it is, and whoever was
            // to bring a new value still is.
            (Some(unique), Some(old)) if request.stale && unique < old.cas && unique != 0 => {
                counts.add(Counter::CasHits);
                new.expiry = old.expiry;
                (new.marks.stale, new.marks.won) = (true, old.marks.won);
                new
            }
            (Some(_), Some(old)) => {
                counts.add(Counter::CasBadval);
                return Ok(Outcome::Exists(old.cas));
            }
        },
        (StoreMode::Append | StoreMode::Prepend, None) => match request.vivify {
            Some(exptime) => {
                new.expiry = exptime.expiry(guard.now());
                new
            }
            None => return Ok(Outcome::NotStored(Unmet::KeyIsFree)),
        },
        (StoreMode::Append | StoreMode::Prepend, Some(old)) => {
            // 0 stands for: do not compare.
            if request
                .compare
                .is_some_and(|unique| unique != 0 && unique != old.cas)
            {
                return Ok(Outcome::Exists(old.cas));
            }
            let value = match request.mode {
                StoreMode::Append => [old.value(), new.value()],
                _ => [new.value(), old.value()],
            };
            match joined(&old, [&value[0], &value[1]], store) {
                Some(item) => item,
                None => return Ok(Outcome::NotStored(Unmet::TooLarge)),
            }
        }
    };
    let bytes = item.value_length();
    let cas = guard.put(item, request.cas)?;
    counts.add(Counter::TotalItems);
    Ok(Outcome::Stored { cas, bytes })
}

/// An item that is the old one with more data: flags and expiry stay the old ones, whatever the command
/// line says. `None` if it would be too large.
fn joined(old: &Item<'_>, value: [&[u8]; 2], store: &Datastore) -> Option<Item<'static>> {
    let bytes = value.iter().map(|part| part.len()).sum();
    store
        .is_size_allowed(old.key(), old.flags, bytes)
        .then(|| Item::new(old.key(), old.flags, old.expiry, &value))
}

/// `delete`
pub fn delete(
    key: &[u8],
    store: &Datastore,
    counts: &Counts,
) -> Result<Response<'static>, ProtocolError> {
    let mut guard = store.lock_key(key);
    if guard.item().is_none() {
        counts.add(Counter::DeleteMisses);
        return Ok(Response::NotFound);
    }
    guard.remove()?;
    counts.add(Counter::DeleteHits);
    Ok(Response::Deleted)
}
