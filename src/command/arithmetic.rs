//! `incr`, `decr` and `ma`: arithmetic with a 64-bit number, which is stored as text like any other value.
//!
//! Lessons: [07](crate::conversations::lesson_07_arithmetic), [24](crate::conversations::lesson_24_meta_arithmetic).

use super::log_fetch;
use crate::datastore::{Datastore, PendingItem};
use crate::item::Item;
use crate::item::{Expiry, UnixTime};
use crate::protocol::{Arithmetic, Direction, ProtocolError, number_in_value};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};
use crate::watch::Events;

/// The outcome of an arithmetic command.
#[derive(Debug)]
pub enum Outcome {
    /// The item has a new number.
    Calculated {
        /// The new number.
        number: u64,
        /// The item's new cas unique.
        cas: u64,
        /// Its expiry before this command; [`Expiry::NEVER`] if the item was created.
        expiry: Expiry,
        /// Whether the item was created.
        created: bool,
        /// The time of this command.
        now: UnixTime,
    },
    /// There is no item, and the command does not ask to create one.
    NotFound,
    /// The item's cas unique is this one, not the one to compare with.
    Exists(u64),
}

impl From<Outcome> for Response<'_> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Calculated { number, .. } => Response::Number(number),
            Outcome::NotFound => Response::NotFound,
            Outcome::Exists(cas) => Response::Exists(cas),
        }
    }
}

/// Adds or subtracts.
pub fn apply(
    request: &Arithmetic<'_>,
    store: &Datastore,
    counts: &Counts,
    events: &Events<'_>,
) -> Result<Outcome, ProtocolError> {
    let (hits, misses) = match request.direction {
        Direction::Up => (Counter::IncrHits, Counter::IncrMisses),
        Direction::Down => (Counter::DecrHits, Counter::DecrMisses),
    };
    let key = &*request.key.bytes;
    // Memory for an item that may have to be created is reserved while no lock is held.
    let initial = match request.vivify {
        None => None,
        Some((created, number)) => Some((
            number,
            store.reserve_for(key, created.final_exptime, number.to_string().as_bytes())?,
        )),
    };
    store.make_room_for_number();
    let mut guard = store.lock_key(key);
    log_fetch(&guard, key, events);
    let Some(old) = guard.item() else {
        let Some((number, PendingItem { item, .. })) = initial else {
            counts.add(misses);
            return Ok(Outcome::NotFound);
        };
        let expiry = Expiry::NEVER;
        let cas = guard.put(item, request.cas)?;
        counts.add(Counter::TotalItems);
        let bytes = number.to_string().len();
        events.stored(key, "stored", "add", || guard.ttl(), bytes);
        return Ok(Outcome::Calculated {
            number,
            cas,
            expiry,
            created: true,
            now: guard.now(),
        });
    };
    if old.value_length() == 0 {
        return Err(ProtocolError::NotNumeric);
    }
    if request.compare.is_some_and(|unique| unique != old.cas) {
        return Ok(Outcome::Exists(old.cas));
    }
    let number = number_in_value(&old.value()).ok_or(ProtocolError::NotNumeric)?;
    let number = match request.direction {
        Direction::Up => number.wrapping_add(request.delta),
        Direction::Down => number.saturating_sub(request.delta),
    };
    // memcached writes the result over the old text, and fills the rest with spaces if the result is shorter.
    let mut text = number.to_string().into_bytes();
    let is_longer = text.len() > old.value_length();
    text.resize(text.len().max(old.value_length()), b' ');
    let expiry = request
        .touch
        .map_or(old.expiry, |exptime| exptime.expiry(guard.now()));
    let mut item = Item::new(key, old.flags, expiry, &[&text]);
    // In memcached a longer number makes a new item, which has no marks and was not fetched.
    if !is_longer {
        (item.marks, item.fetched) = (old.marks, old.fetched);
    }
    let old_expiry = old.expiry;
    let cas = guard.put(item, request.cas)?;
    counts.add(hits);
    if is_longer {
        counts.add(Counter::TotalItems);
    }
    Ok(Outcome::Calculated {
        number,
        cas,
        expiry: old_expiry,
        created: false,
        now: guard.now(),
    })
}
