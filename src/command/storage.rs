//! `set`, `add`, `replace`, `append`, `prepend`, `cas`, `delete`; and `ms`, which can do the same and more.
//!
//! Lessons: [03](crate::conversations::lesson_03_storage), [06](crate::conversations::lesson_06_cas),
//! [22](crate::conversations::lesson_22_meta_set), [28](crate::conversations::lesson_28_meta_cas).

use super::log_fetch;
use crate::datastore::guard::KeyGuard;
use crate::datastore::{Datastore, PendingItem, StoreError};
use crate::item::Item;
use crate::protocol::{OnFailure, ProtocolError, Storage, StoreMode, Streams};
use crate::serialization::{FailedCondition, Response};
use crate::stats::{Counter, Counts};
use crate::watch::Events;

/// The outcome of a storage command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The item is stored.
    Stored {
        /// Its cas unique.
        cas: u64,
        /// The size of its value.
        bytes: usize,
    },
    /// The command's condition was not met.
    NotStored(FailedCondition),
    /// The item's cas unique is this one, not the one to compare with.
    Exists(u64),
    /// There is no item whose cas unique could be compared.
    NotFound,
}

impl Outcome {
    /// Its name in the log for watchers.
    fn status(self) -> &'static str {
        match self {
            Outcome::Stored { .. } => "stored",
            Outcome::NotStored(_) => "not_stored",
            Outcome::Exists(_) => "exists",
            Outcome::NotFound => "not_found",
        }
    }
}

impl From<Outcome> for Response<'_> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Stored { .. } => Response::Stored,
            Outcome::NotStored(condition) => Response::NotStored(condition),
            Outcome::Exists(cas) => Response::Exists(cas),
            Outcome::NotFound => Response::NotFound,
        }
    }
}

/// Reserves memory for the item that a storage command announces.
pub fn reserve(
    announced: &Storage<'_>,
    store: &Datastore,
    events: &Events<'_>,
) -> Result<PendingItem, ProtocolError> {
    let key = &announced.key;
    let pending = store.reserve(
        &key.bytes,
        announced.flags,
        announced.exptime,
        announced.bytes,
    );
    if let Err(error) = pending {
        log_refusal(announced, error, events);
        if announced.on_failure == OnFailure::RemoveOld {
            let mut guard = store.lock_key(&key.bytes);
            log_fetch(&guard, &key.bytes, events);
            guard.remove()?;
        }
    }
    let mut pending = pending?;
    pending.item.marks.binary_key = key.binary;
    Ok(pending)
}

/// Stores an item whose value has been read, if the command's conditions are met.
pub fn store(
    request: &Storage<'_>,
    pending: PendingItem,
    store: &Datastore,
    counts: &Counts,
    events: &Events<'_>,
) -> Result<Outcome, ProtocolError> {
    counts.add(Counter::CmdSet);
    let new = store.complete(pending);
    let mut guard = store.lock_key(&request.key.bytes);
    let key = &*request.key.bytes;
    log_fetch(&guard, key, events);
    // A plain `set` is the most frequent command. It does not look at the old item.
    let is_unconditional = request.mode == StoreMode::Set && request.compare.is_none();
    let old = if is_unconditional { None } else { guard.item() };
    let outcome = match item_to_store(request, new, old, store, counts) {
        Ok(item) => {
            let bytes = item.value_length();
            let cas = guard.put(item, request.cas)?;
            counts.add(Counter::TotalItems);
            Outcome::Stored { cas, bytes }
        }
        Err(refused) => refused,
    };
    if events.is_watched(Streams::MUTATIONS) {
        log_outcome(request, outcome, &guard, events);
    }
    Ok(outcome)
}

/// Logs for the watchers what became of a value: it was stored, or a condition was not met.
#[cold]
fn log_outcome(request: &Storage<'_>, outcome: Outcome, guard: &KeyGuard<'_>, events: &Events<'_>) {
    let (bytes, is_stored) = match outcome {
        Outcome::Stored { bytes, .. } => (bytes, true),
        Outcome::NotStored(_) | Outcome::Exists(_) | Outcome::NotFound => (request.bytes, false),
    };
    let ttl = || {
        if is_stored {
            return guard.ttl();
        }
        let end = request.exptime.expiry(guard.now()).time();
        end.map_or(0, |end| end.saturating_sub(guard.now()))
    };
    let key = &request.key.bytes;
    events.stored(key, outcome.status(), command(request), ttl, bytes);
}

/// Logs for the watchers that there is no memory for a value, or that it is too large.
#[cold]
fn log_refusal(announced: &Storage<'_>, error: StoreError, events: &Events<'_>) {
    let status = match error {
        StoreError::TooLarge => "too_large",
        StoreError::OutOfMemory => "no_memory",
        StoreError::LogFailed => return,
    };
    let (key, command) = (&announced.key.bytes, command(announced));
    events.stored(key, status, command, || 0, 0);
}

/// The name of a storage command in the log for watchers.
fn command(request: &Storage<'_>) -> &'static str {
    match (request.mode, request.compare) {
        (StoreMode::Add, _) => "add",
        (StoreMode::Append, _) => "append",
        (StoreMode::Prepend, _) => "prepend",
        (StoreMode::Set | StoreMode::Replace, Some(_)) => "cas",
        (StoreMode::Set, None) => "set",
        (StoreMode::Replace, None) => "replace",
    }
}

/// Returns the item to store if the conditions are met, and the outcome otherwise. `old` is the item that the key holds
/// now.
fn item_to_store<'s>(
    request: &Storage<'_>,
    mut new: Item<'s>,
    old: Option<Item<'_>>,
    store: &Datastore,
    counts: &Counts,
) -> Result<Item<'s>, Outcome> {
    match (request.mode, old) {
        (StoreMode::Add, None) => Ok(new),
        (StoreMode::Add, Some(_)) => Err(Outcome::NotStored(FailedCondition::KeyIsTaken)),
        (StoreMode::Set, old) => compared(request, new, old, counts),
        (StoreMode::Replace, None) if request.compare.is_none() => {
            Err(Outcome::NotStored(FailedCondition::KeyIsFree))
        }
        (StoreMode::Replace, old) => compared(request, new, old, counts),
        (StoreMode::Append | StoreMode::Prepend, None) => match request.vivify {
            Some(exptime) => {
                new.expiry = exptime.expiry(store.clock().now());
                Ok(new)
            }
            None => Err(Outcome::NotStored(FailedCondition::KeyIsFree)),
        },
        (StoreMode::Append, Some(old)) => joined(request, &old, [&old, &new], store),
        (StoreMode::Prepend, Some(old)) => joined(request, &old, [&new, &old], store),
    }
}

/// Returns the new item if the old one has the cas unique that the request compares with, or if the request compares
/// nothing.
fn compared<'s>(
    request: &Storage<'_>,
    mut new: Item<'s>,
    old: Option<Item<'_>>,
    counts: &Counts,
) -> Result<Item<'s>, Outcome> {
    let Some(unique) = request.compare else {
        return Ok(new);
    };
    let Some(old) = old else {
        counts.add(Counter::CasMisses);
        return Err(Outcome::NotFound);
    };
    if unique == old.cas && unique != 0 {
        counts.add(Counter::CasHits);
        Ok(new)
    } else if request.stale && unique < old.cas && unique != 0 {
        // The value is out of date, but better than none. So it is stored as stale. If a client has won the item, it is
        // still the winner.
        counts.add(Counter::CasHits);
        new.expiry = old.expiry;
        (new.marks.stale, new.marks.won) = (true, old.marks.won);
        Ok(new)
    } else {
        counts.add(Counter::CasBadval);
        Err(Outcome::Exists(old.cas))
    }
}

/// Joins the two values in this order. The item keeps its old flags and expiry: `append` and `prepend` ignore those on
/// their line.
#[inline(never)] // Otherwise each `set` would need its part of the stack.
fn joined(
    request: &Storage<'_>,
    old: &Item<'_>,
    [first, second]: [&Item<'_>; 2],
    store: &Datastore,
) -> Result<Item<'static>, Outcome> {
    // A cas unique of 0 means here that nothing is compared.
    let differs = |unique| unique != 0 && unique != old.cas;
    if request.compare.is_some_and(differs) {
        return Err(Outcome::Exists(old.cas));
    }
    let bytes = first.value_length() + second.value_length();
    if !store.is_size_allowed(old.key(), old.flags, bytes) {
        return Err(Outcome::NotStored(FailedCondition::TooLarge));
    }
    let (first, second) = (first.value(), second.value());
    Ok(Item::new(
        old.key(),
        old.flags,
        old.expiry,
        &[&first, &second],
    ))
}

/// `delete`
pub fn delete(
    key: &[u8],
    store: &Datastore,
    counts: &Counts,
    events: &Events<'_>,
) -> Result<Response<'static>, ProtocolError> {
    let mut guard = store.lock_key(key);
    log_fetch(&guard, key, events);
    let Some(bytes) = guard.item().map(|item| item.value_length()) else {
        counts.add(Counter::DeleteMisses);
        return Ok(Response::NotFound);
    };
    guard.remove()?;
    counts.add(Counter::DeleteHits);
    events.deleted(key, "delete", bytes);
    Ok(Response::Deleted)
}
