//! `incr`, `decr` and `ma`: a number of 64 bits, kept as text like any other value.

use crate::datastore::{Datastore, PendingItem};
use crate::item::Item;
use crate::item::{Expiry, UnixTime};
use crate::protocol::{Arithmetic, Direction, ProtocolError, number_in_value};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};

/// What came of counting.
#[derive(Debug)]
pub enum Outcome {
    /// The item has a new number.
    Counted {
        /// The number.
        number: u64,
        /// The item's new cas unique.
        cas: u64,
        /// When it ended before; never, if it was created.
        expiry: Expiry,
        /// Whether it was created.
        created: bool,
        /// When that was.
        now: UnixTime,
    },
    /// There is no item, and none was to be created.
    NotFound,
    /// The item has another cas unique than the one to compare with, namely this one.
    Exists(u64),
}

impl From<Outcome> for Response<'_> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Counted { number, .. } => Response::Number(number),
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
) -> Result<Outcome, ProtocolError> {
    let (hits, misses) = match request.direction {
        Direction::Up => (Counter::IncrHits, Counter::IncrMisses),
        Direction::Down => (Counter::DecrHits, Counter::DecrMisses),
    };
    let key = &*request.key.bytes;
    // Room for an item that may have to be created, while no lock is held.
    let initial = match request.vivify {
        None => None,
        Some((created, number)) => Some((
            number,
            store.reserve_for(key, created.final_exptime, number.to_string().as_bytes())?,
        )),
    };
    // A number has up to 20 digits.
    let _room = store.reserve_change(key.len() + 20);
    let mut guard = store.lock_key(key);
    let Some(old) = guard.item() else {
        let Some((number, PendingItem { item, .. })) = initial else {
            counts.add(misses);
            return Ok(Outcome::NotFound);
        };
        let expiry = Expiry::NEVER;
        let cas = guard.put(item, request.cas)?;
        return Ok(Outcome::Counted {
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
    // memcached writes the result over the old text, so a shorter one leaves spaces behind it.
    let mut text = number.to_string().into_bytes();
    let grows = text.len() > old.value_length();
    text.resize(text.len().max(old.value_length()), b' ');
    let expiry = request
        .touch
        .map_or(old.expiry, |exptime| exptime.expiry(guard.now()));
    let mut item = Item::new(key, old.flags, expiry, &[&text]);
    // A longer one makes a new item, on which nothing is noted.
    if !grows {
        (item.marks, item.fetched) = (old.marks, old.fetched);
    }
    let old_expiry = old.expiry;
    let cas = guard.put(item, request.cas)?;
    counts.add(hits);
    Ok(Outcome::Counted {
        number,
        cas,
        expiry: old_expiry,
        created: false,
        now: guard.now(),
    })
}
