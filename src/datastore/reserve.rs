//! Memory is reserved before it is allocated.
//!
//! Invariant: what is used stays within `-m`. Memory is reserved, by evicting if need be, before anything is allocated,
//! and while no lock is held. Only a segment or a table that a write begins may pass the limit for a moment: the next
//! write makes room for that too. (Where the limit is lowered while the server runs, or `-M` meets a log that holds more,
//! what is there stays until it is evicted or removed.)

use super::head::{Head, Slot};
use super::segment::LARGE;
use super::{Datastore, StoreError, WhenFull, write};
use crate::item::Item;
use crate::memory::Charge;
use crate::protocol::Exptime;
use crate::stats::Counter;

/// An item whose value is still to come. Its memory counts from the moment at which it is announced: clients
/// that announce much and send little cannot make the server larger than `-m`.
#[derive(Debug)]
pub struct PendingItem {
    /// The item, to be filled through [`Item::value_mut`] and stored by [`KeyGuard::put`](super::KeyGuard::put).
    pub item: Item<'static>,
    /// The memory that it will take.
    pub reservation: Charge,
}

impl Datastore {
    /// Reserves memory for an item whose value is still to come.
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
        let reservation = self.make_room(key.len() + bytes + Head::SIZE + size_of::<Slot>())?;
        // Only a span of time needs to know when it begins: most items have none.
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

    /// The item, whose value has come. From now on it counts as what it takes: a large item is copied to the memory where
    /// it will be kept, while no lock is held.
    pub fn complete(&self, pending: PendingItem) -> Item<'static> {
        pending.item.with_large_value(LARGE, &self.memory)
    }

    /// Reserves memory for an item that a change may make this many bytes longer. If there is none, the change is made
    /// nevertheless.
    pub fn reserve_change(&self, bytes: usize) -> Option<Charge> {
        match self.limits.when_full {
            WhenFull::Evict => self.make_room(bytes).ok(),
            WhenFull::Refuse => None,
        }
    }

    /// Whether an item of this size may be stored at all (`-I`).
    pub fn is_size_allowed(&self, key: &[u8], flags: u32, bytes: usize) -> bool {
        Item::size_in_memcached(key, flags, bytes) <= self.limits.item
    }

    /// Reserves memory, and evicts items if there is too little.
    ///
    /// # Errors
    /// [`StoreError::OutOfMemory`], or [`StoreError::LogFailed`] if evictions cannot be recorded.
    pub(super) fn make_room(&self, bytes: usize) -> Result<Charge, StoreError> {
        let reservation = self.memory.charge(bytes);
        if self.memory.is_short() {
            let has_room = match self.limits.when_full {
                WhenFull::Evict => self.evict_down_to(self.memory.limit(), bytes)?,
                WhenFull::Refuse => {
                    for shard in &self.shards {
                        write(shard).clean_well();
                    }
                    !self.memory.is_short()
                }
            };
            if !has_room {
                self.stats.add(Counter::StoreNoMemory, 1);
                return Err(StoreError::OutOfMemory);
            }
        }
        self.memory.trim_pool();
        Ok(reservation)
    }
}
