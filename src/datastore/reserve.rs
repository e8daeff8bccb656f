//! How a write asks for memory before it takes any.
//!
//! Invariant: the memory that is used stays within `-m`. A write that needs memory evicts before anything is allocated,
//! and while it holds no lock. If it is not small, it also reserves the memory. The following may exceed the limit for
//! a moment. The next write then evicts for them too:
//! - a new segment, or a table that grows;
//! - small writes, which reserve nothing, and do not wait for another thread that evicts;
//! - a large item while it is copied into its pieces and parts, when it counts twice;
//! - the item that `append` or `prepend` makes, while the old one is still there.
//!
//! (If the limit is lowered while the server runs, the next writes evict. With `-M` the items stay until they are
//! removed. A replay evicts with `-M` too, down to a little more than `-m`: see `persistence.rs`.)
//!
//! Lessons: [13](crate::conversations::lesson_13_large_items), [17](crate::conversations::lesson_17_no_evictions),
//! [18](crate::conversations::lesson_18_item_size_limit).

use super::eviction::MAX_SMALL_WRITE;
use super::segment::{ITEM_OVERHEAD, MAX_SMALL_ITEM};
use super::{Datastore, StoreError, WhenFull, write};
use crate::item::Item;
use crate::memory::Charge;
use crate::protocol::Exptime;
use crate::stats::Counter;

/// An item whose data block has not arrived. Unless it is small, its memory counts as used from the moment at which its
/// length is announced: clients that announce much and send little cannot make the server use more than `-m`.
#[derive(Debug)]
pub struct PendingItem {
    /// The item, to be filled through [`Item::value_mut`] and stored by [`KeyGuard::put`](super::guard::KeyGuard::put).
    pub item: Item<'static>,
    /// The memory that it will take; `None` for a small write.
    pub reservation: Option<Charge>,
}

impl Datastore {
    /// Reserves memory for an item whose data block has not arrived.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::OutOfMemory`], or [`StoreError::LogFailed`] if evictions cannot be
    /// recorded. Then nothing is allocated.
    pub fn reserve(
        &self,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        bytes: usize,
    ) -> Result<PendingItem, StoreError> {
        if !self.is_size_allowed(key, flags, bytes) {
            self.stats.add(Counter::StoreTooLarge, 1);
            return Err(StoreError::TooLarge);
        }
        let reservation = self.make_room(key.len() + bytes + ITEM_OVERHEAD);
        let reservation = reservation.inspect_err(|error| {
            if *error == StoreError::OutOfMemory {
                self.stats.add(Counter::StoreNoMemory, 1);
            }
        })?;
        // Only a relative exptime needs the clock: most items have none.
        let now = match exptime {
            Exptime::After(_) => self.clock.now(),
            Exptime::Never | Exptime::At(_) | Exptime::AtOnce => 0,
        };
        Ok(PendingItem {
            item: Item::blank(key, flags, exptime.expiry(now), bytes),
            reservation,
        })
    }

    /// Reserves memory for an item whose value is here already.
    ///
    /// # Errors
    /// As [`Datastore::reserve`].
    pub fn reserve_for(
        &self,
        key: &[u8],
        exptime: Exptime,
        value: &[u8],
    ) -> Result<PendingItem, StoreError> {
        let mut pending = self.reserve(key, 0, exptime, value.len())?;
        pending.item.value_mut().copy_from_slice(value);
        Ok(pending)
    }

    /// Ends the reservation of an item whose data block has arrived. A large value is copied into pieces and parts now,
    /// while no lock is held.
    pub fn complete(&self, pending: PendingItem) -> Item<'static> {
        pending.item.with_large_value(MAX_SMALL_ITEM, &self.memory)
    }

    /// Evicts items if memory is short, before a number is stored in the place of another. If that frees nothing, the
    /// number is stored nevertheless: it is short.
    pub fn make_room_for_number(&self) {
        if self.limits.when_full == WhenFull::Evict {
            let _ = self.make_room(MAX_SMALL_WRITE);
        }
    }

    /// Compacts all shards as far as it frees memory.
    pub(super) fn compact_fully(&self) {
        for shard in &self.shards {
            write(shard).compact_fully();
        }
    }

    /// Whether an item of this size may be stored at all (`-I`).
    pub fn is_size_allowed(&self, key: &[u8], flags: u32, bytes: usize) -> bool {
        Item::size_in_memcached(key, flags, bytes) <= self.limits.item
    }

    /// Reserves memory, and evicts items if memory is short. A [small write](MAX_SMALL_WRITE) reserves nothing.
    ///
    /// # Errors
    /// [`StoreError::OutOfMemory`], or [`StoreError::LogFailed`] if evictions cannot be recorded.
    fn make_room(&self, bytes: usize) -> Result<Option<Charge>, StoreError> {
        let reservation = (bytes > MAX_SMALL_WRITE).then(|| self.memory.charge(bytes));
        if self.memory.is_short() {
            let has_room = match self.limits.when_full {
                WhenFull::Evict => {
                    self.evict_down_to(self.memory.limit(), bytes, self.clock.now())?
                }
                WhenFull::Refuse => {
                    self.compact_fully();
                    !self.memory.is_short()
                }
            };
            if !has_room {
                return Err(StoreError::OutOfMemory);
            }
        }
        self.memory.trim_pool();
        Ok(reservation)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Bump;
    use super::super::tests::{MEGABYTE, get, set, store_with, try_set, validate};
    use super::*;

    #[test]
    fn without_evictions_a_full_store_refuses_writes_and_keeps_all_items() {
        let store = store_with(MEGABYTE, WhenFull::Refuse);
        let key = |n: usize| format!("key {n}");
        let value = [b'v'; 1000];
        let fits = |n: &usize| try_set(&store, &key(*n), &value, Exptime::Never).is_ok();
        let stored = (0..).take_while(fits).count();
        assert!((500..1000).contains(&stored), "{stored}");
        assert_eq!(store.size().0, stored);
        assert!(get(&store, "key 0").is_some());
    }

    #[test]
    fn without_evictions_removed_items_make_room_for_others() {
        let store = store_with(4 * MEGABYTE, WhenFull::Refuse);
        let key = |n: usize| format!("key {n}");
        let fits = |n: &usize| try_set(&store, &key(*n), &[b'v'; 50], Exptime::Never).is_ok();
        let stored = (0..).take_while(fits).count();
        for n in (0..stored).step_by(5) {
            let key = key(n);
            let mut guard = store.lock_key(key.as_bytes());
            guard.remove().expect("nothing is recorded");
        }
        validate(&store);
        let more = (stored..).take_while(fits).count();
        assert!(more > stored / 10, "{more} beside {stored}");
    }

    #[test]
    fn without_evictions_removed_tiny_items_make_room_for_others() {
        let store = store_with(4 * MEGABYTE, WhenFull::Refuse);
        let key = |n: usize| format!("{n}");
        let fits = |n: &usize| try_set(&store, &key(*n), b"", Exptime::Never).is_ok();
        let stored = (0..).take_while(fits).count();
        for n in (0..stored).step_by(5) {
            let key = key(n);
            let mut guard = store.lock_key(key.as_bytes());
            guard.remove().expect("nothing is recorded");
        }
        validate(&store);
        let more = (stored..).take_while(fits).count();
        assert!(more > stored / 10, "{more} beside {stored}");
    }

    #[test]
    fn a_pending_item_counts_as_used_memory_until_it_is_dropped() {
        let store = store_with(MEGABYTE, WhenFull::Evict);
        let reserve = || store.reserve(b"k", 0, Exptime::Never, 100_000);
        let pending: Vec<_> = std::iter::from_fn(|| reserve().ok()).take(100).collect();
        assert!((8..=10).contains(&pending.len()), "{}", pending.len());
        set(&store, "small", "v", Exptime::Never);
        assert!(reserve().is_err());
        assert!(
            get(&store, "small").is_some(),
            "a refused reservation evicts nothing"
        );
        drop(pending);
        validate(&store);
        assert!(reserve().is_ok());
    }

    #[test]
    fn a_replaced_large_item_counts_as_used_memory_until_its_readers_have_sent_it() {
        let store = store_with(4 * MEGABYTE, WhenFull::Evict);
        let value = "v".repeat(MEGABYTE);
        let mut rooms = vec![Vec::new(); 10];
        let mut readers = Vec::new();
        let mut refused = 0;
        for room in &mut rooms {
            refused += usize::from(try_set(&store, "k", value.as_bytes(), Exptime::Never).is_err());
            readers.extend(store.get(b"k", Bump::Yes, room));
            assert!(
                store.memory.used() <= 5 * MEGABYTE,
                "{}",
                store.memory.used()
            );
        }
        assert_eq!((readers.len(), refused), (10, 7));
        assert_eq!(
            get(&store, "k"),
            Some(value.clone()),
            "a refused write evicts nothing"
        );
        drop(readers);
        validate(&store);
        set(&store, "k", &value, Exptime::Never);
    }
}
