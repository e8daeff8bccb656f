//! `incr` and `decr`: a number of 64 bits, kept as text like any other value.

use crate::datastore::{Datastore, Item};
use crate::protocol::{Arithmetic, Direction, ProtocolError, counter};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};

/// Adds or subtracts; answers with the result.
pub fn apply(request: &Arithmetic<'_>, store: &Datastore, counts: &mut Counts) -> Response {
    let (hits, misses) = match request.direction {
        Direction::Up => (Counter::IncrHits, Counter::IncrMisses),
        Direction::Down => (Counter::DecrHits, Counter::DecrMisses),
    };
    let mut slot = store.slot(request.key);
    let Some(old) = slot.item() else {
        counts[misses] += 1;
        return Response::NotFound;
    };
    let Some(number) = counter(old.value()) else {
        return Response::Error(ProtocolError::NotNumeric);
    };
    let result = match request.direction {
        Direction::Up => number.wrapping_add(request.delta),
        Direction::Down => number.saturating_sub(request.delta),
    };
    // memcached writes the result over the old text, so a shorter one leaves spaces behind it.
    let text = format!("{result:<width$}", width = old.value().len());
    let item = Item::new(request.key, old.flags, old.expiry, &[text.as_bytes()]);
    slot.put(item);
    counts[hits] += 1;
    Response::Number(result)
}
