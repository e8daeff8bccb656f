//! `incr`, `decr` and `ma`: a number of 64 bits, kept as text like any other value.

use crate::datastore::clock::Expiry;
use crate::datastore::{Datastore, Draft, Item, Slot};
use crate::protocol::{Arithmetic, Direction, ProtocolError, counter};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};

/// What came of counting.
#[derive(Debug)]
pub enum Outcome<'s> {
    /// The number, and the item that has it now, still held: its expiry may be asked for and changed.
    Counted(u64, Counted<'s>),
    /// There is no item, and none was to be created.
    NotFound,
    /// The item has another cas unique than the one to compare with, namely this one.
    Exists(u64),
    /// The value is not a number, or there is no room for a new one.
    Failed(ProtocolError),
}

/// An item that has been counted up or down, or was created.
#[derive(Debug)]
pub struct Counted<'s> {
    /// Hold of its key.
    pub slot: Slot<'s>,
    /// Its new cas unique.
    pub cas: u64,
    /// When it ends.
    pub expiry: Expiry,
}

impl From<Outcome<'_>> for Response<'_> {
    fn from(outcome: Outcome<'_>) -> Self {
        match outcome {
            Outcome::Counted(number, _) => Response::Number(number),
            Outcome::NotFound => Response::NotFound,
            Outcome::Exists(cas) => Response::Exists(cas),
            Outcome::Failed(error) => Response::Error(error),
        }
    }
}

/// Adds or subtracts.
pub fn apply<'s>(
    request: &'s Arithmetic<'_>,
    store: &'s Datastore,
    counts: &mut Counts,
) -> Outcome<'s> {
    let (hits, misses) = match request.direction {
        Direction::Up => (Counter::IncrHits, Counter::IncrMisses),
        Direction::Down => (Counter::DecrHits, Counter::DecrMisses),
    };
    let key = &*request.key.bytes;
    // Room for an item that may have to be created, while no lock is held.
    let initial = match request.vivify {
        None => None,
        Some((exptime, initial)) => {
            match store.draft_of(key, 0, exptime, initial.to_string().as_bytes()) {
                Ok(draft) => Some((initial, draft)),
                Err(error) => return Outcome::Failed(error),
            }
        }
    };
    let mut slot = store.slot(key);
    let Some(old) = slot.item() else {
        let Some((initial, Draft { item, .. })) = initial else {
            counts[misses] += 1;
            return Outcome::NotFound;
        };
        let expiry = item.expiry;
        let cas = slot.put(item, request.cas);
        return Outcome::Counted(initial, Counted { slot, cas, expiry });
    };
    if old.value().is_empty() {
        return Outcome::Failed(ProtocolError::NotNumeric);
    }
    if request.compare.is_some_and(|unique| unique != old.cas) {
        return Outcome::Exists(old.cas);
    }
    let Some(number) = counter(old.value()) else {
        return Outcome::Failed(ProtocolError::NotNumeric);
    };
    let result = match request.direction {
        Direction::Up => number.wrapping_add(request.delta),
        Direction::Down => number.saturating_sub(request.delta),
    };
    // memcached writes the result over the old text, so a shorter one leaves spaces behind it.
    let text = format!("{result:<width$}", width = old.value().len());
    let mut item = Item::new(key, old.flags, old.expiry, &[text.as_bytes()]);
    // A longer one makes a new item, on which nothing is noted.
    if text.len() == old.value().len() {
        item.marks = old.marks;
    }
    let cas = slot.put(item, request.cas);
    counts[hits] += 1;
    Outcome::Counted(
        result,
        Counted {
            slot,
            cas,
            expiry: old.expiry,
        },
    )
}
