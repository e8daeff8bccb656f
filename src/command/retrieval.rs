//! `get`, `gets`, `gat`, `gats`, and `touch`, which is a `gat` without the value.
//!
//! Lesson: [12](crate::conversations::lesson_12_many_keys_and_pipelines).

use std::io;

use super::log_fetch;
use crate::datastore::{Bump, Datastore};
use crate::item::Item;
use crate::prefixes::Prefixes;
use crate::protocol::{End, Exptime, ProtocolError, Retrieval};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};
use crate::watch::Events;

/// Answers with the value of each key that is found, then with `END`, unless the line goes on. A value is written
/// before the next key is looked up. So a line of ten thousand keys never holds more than one value in memory, even if
/// the client reads slowly.
#[inline(never)] // The stack of the other commands does not grow by its part.
pub fn get(
    request: &Retrieval<'_>,
    store: &Datastore,
    counts: &Counts,
    events: &Events<'_>,
    prefixes: Option<&Prefixes>,
    value_buffer: &mut Vec<u8>,
    answer: &mut impl FnMut(Response<'_>) -> io::Result<()>,
) -> io::Result<()> {
    for key in request.keys.iter() {
        let found = match request.touch {
            None => look_up(key, store, counts, events, value_buffer),
            Some(exptime) => {
                match touch_and_read(key, exptime, store, counts, events, value_buffer) {
                    Ok(found) => found,
                    Err(error) => return answer(Response::Error(error)),
                }
            }
        };
        if let Some(prefixes) = prefixes {
            prefixes.count_get(key, found.is_some());
        }
        if let Some(item) = found {
            answer(Response::Value(item, request.with_cas))?;
        }
    }
    match request.end {
        End::Follows => answer(Response::End),
        End::Later => Ok(()),
    }
}

/// `touch`
pub fn touch(
    key: &[u8],
    exptime: Exptime,
    store: &Datastore,
    counts: &Counts,
    events: &Events<'_>,
) -> Result<Response<'static>, ProtocolError> {
    // The value is not used.
    Ok(
        match touch_and_read(key, exptime, store, counts, events, &mut Vec::new())? {
            Some(_) => Response::Touched,
            None => Response::NotFound,
        },
    )
}

#[inline]
fn look_up<'r>(
    key: &[u8],
    store: &Datastore,
    counts: &Counts,
    events: &Events<'_>,
    value_buffer: &'r mut Vec<u8>,
) -> Option<Item<'r>> {
    let found = store.get(key, Bump::Yes, value_buffer);
    events.fetched(key, found.as_ref(), || store.has_expired(key));
    counts.add(Counter::CmdGet);
    counts.add(if found.is_some() {
        Counter::GetHits
    } else {
        Counter::GetMisses
    });
    found
}

/// Sets the item's new expiry, and returns the item. An exptime that has passed expires the item at once, but the
/// client that sent it still gets the value.
fn touch_and_read<'r>(
    key: &[u8],
    exptime: Exptime,
    store: &Datastore,
    counts: &Counts,
    events: &Events<'_>,
    value_buffer: &'r mut Vec<u8>,
) -> Result<Option<Item<'r>>, ProtocolError> {
    let mut guard = store.lock_key(key);
    let expiry = exptime.expiry(guard.now());
    let found = guard.item().map(|item| item.copied_to(value_buffer));
    log_fetch(&guard, key, events);
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
