//! `get`, `gets`, `gat`, `gats`, and `touch`, which is a `gat` without the value.

use std::io;

use crate::datastore::{Bump, Datastore};
use crate::item::Item;
use crate::protocol::{Exptime, ProtocolError, Retrieval};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};

/// A value for each key that holds one, then `END`. Each is written before the next is looked up: a line
/// of ten thousand keys never holds more than one value in memory for a client that reads slowly.
pub fn get(
    request: &Retrieval<'_>,
    store: &Datastore,
    counts: &Counts,
    room: &mut Vec<u8>,
    answer: &mut impl FnMut(Response<'_>) -> io::Result<()>,
) -> io::Result<()> {
    for key in request.keys.iter() {
        let found = match request.touch {
            None => look_up(key, store, counts, room),
            Some(exptime) => match touched(key, exptime, store, counts, room) {
                Ok(found) => found,
                Err(error) => return answer(Response::Error(error)),
            },
        };
        if let Some(item) = found {
            answer(Response::Value(item, request.with_cas))?;
        }
    }
    answer(Response::End)
}

/// `touch`
pub fn touch(
    key: &[u8],
    exptime: Exptime,
    store: &Datastore,
    counts: &Counts,
) -> Result<Response<'static>, ProtocolError> {
    // The value is not wanted.
    Ok(
        match touched(key, exptime, store, counts, &mut Vec::new())? {
            Some(_) => Response::Touched,
            None => Response::NotFound,
        },
    )
}

fn look_up<'r>(
    key: &[u8],
    store: &Datastore,
    counts: &Counts,
    room: &'r mut Vec<u8>,
) -> Option<Item<'r>> {
    let found = store.get(key, Bump::Yes, room);
    counts.add(Counter::CmdGet);
    counts.add(if found.is_some() {
        Counter::GetHits
    } else {
        Counter::GetMisses
    });
    found
}

/// Gives the item its new expiry, and the item. An exptime that has passed ends it, but the client that
/// said so still gets the value.
fn touched<'r>(
    key: &[u8],
    exptime: Exptime,
    store: &Datastore,
    counts: &Counts,
    room: &'r mut Vec<u8>,
) -> Result<Option<Item<'r>>, ProtocolError> {
    let mut guard = store.lock_key(key);
    let expiry = exptime.expiry(guard.now());
    let found = guard.item().map(|item| item.copied_to(room));
    if found.is_some() {
        guard.mark_read();
        guard.touch(expiry)?;
    }
    counts.add(Counter::CmdTouch);
    counts.add(if found.is_some() {
        Counter::TouchHits
    } else {
        Counter::TouchMisses
    });
    Ok(found)
}
