//! Memory: what is spoken for, what is used, and how room is made.
//!
//! Invariant: items and reservations together stay within `-m`, but for a few bytes by which a number
//! grows. Room is reserved before anything is allocated, by evicting if need be, and while no lock is
//! held. (Where the limit is lowered while running, or `-M` meets a log that holds more, what is there
//! stays until it is evicted or removed.)

use std::sync::atomic::Ordering::Relaxed;

use super::clock::Expiry;
use super::eviction::{self, Removed};
use super::item::Item;
use super::shard::Shard;
use super::{Datastore, SHARDS, WhenFull, read, write};
use crate::aof::record::Record;
use crate::protocol::{Exptime, ProtocolError};
use crate::stats::Counter;

/// Memory that is spoken for, as long as this lives.
#[derive(Debug)]
pub(super) struct Reservation<'s> {
    store: &'s Datastore,
    bytes: usize,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.store.reserved.fetch_sub(self.bytes, Relaxed);
    }
}

/// An item whose data is still being read. Its memory counts against the limit from the moment at which
/// it is announced: clients that announce much and send little cannot make the server larger than `-m`.
#[derive(Debug)]
pub struct Draft<'s> {
    /// The item, to be filled through [`Item::data_block_mut`] and stored by [`Slot::put`](super::Slot::put).
    pub item: Item,
    _reservation: Reservation<'s>,
}

impl Datastore {
    /// A new item, of which the data is still to come, and the room for it.
    ///
    /// # Errors
    /// [`ProtocolError::TooLarge`] or [`ProtocolError::OutOfMemory`]; then nothing is allocated.
    pub fn draft(
        &self,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        bytes: usize,
    ) -> Result<Draft<'_>, ProtocolError> {
        if !self.fits(key, flags, bytes) {
            self.stats.add(Counter::StoreTooLarge, 1);
            return Err(ProtocolError::TooLarge);
        }
        let reservation = self.reserve(Item::charge_of(key, bytes))?;
        // Only a span of time needs to know when it begins: most items have none.
        let now = if let Exptime::After(_) = exptime {
            self.clock.now()
        } else {
            0
        };
        let expiry = Expiry::new(exptime, now);
        Ok(Draft {
            item: Item::blank(key, flags, expiry, bytes),
            _reservation: reservation,
        })
    }

    /// Whether an item of this size may be stored at all (`-I`).
    pub fn fits(&self, key: &[u8], flags: u32, bytes: usize) -> bool {
        Item::size_in_memcached(key, flags, bytes) <= self.limits.item
    }

    /// A draft that has its data already.
    ///
    /// # Errors
    /// As [`Datastore::draft`].
    pub fn draft_of(
        &self,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        value: &[u8],
    ) -> Result<Draft<'_>, ProtocolError> {
        let mut draft = self.draft(key, flags, exptime, value.len())?;
        draft.item.fill(&[value]);
        Ok(draft)
    }

    /// Frees the memory of what has expired; unread items would keep it for ever.
    pub fn sweep(&self) {
        self.flush_if_due();
        let now = self.clock.now();
        for shard in &self.shards {
            if read(shard).has_expired(now) {
                self.removing(&mut write(shard), |shard| {
                    eviction::remove_expired(shard, now)
                });
            }
        }
    }

    fn reserve(&self, bytes: usize) -> Result<Reservation<'_>, ProtocolError> {
        let no_room = || {
            self.stats.add(Counter::StoreNoMemory, 1);
            ProtocolError::OutOfMemory
        };
        // What is spoken for cannot be evicted: if that alone leaves no room, nobody's items have to go.
        let fits =
            |reserved: usize| Some(reserved + bytes).filter(|&sum| sum <= self.memory_limit());
        self.reserved
            .fetch_update(Relaxed, Relaxed, fits)
            .map_err(|_| no_room())?;
        let reservation = Reservation { store: self, bytes };
        // One round over all shards that frees nothing means that nothing is left.
        let mut in_vain = 0;
        while self.used.load(Relaxed) + self.reserved.load(Relaxed) > self.memory_limit() {
            if self.limits.when_full == WhenFull::Refuse || in_vain == SHARDS {
                return Err(no_room());
            }
            in_vain = if self.make_room()? { 0 } else { in_vain + 1 };
        }
        Ok(reservation)
    }

    /// Makes some room in the shard whose turn it is; whether there was any to be made.
    pub(super) fn make_room(&self) -> Result<bool, ProtocolError> {
        let now = self.clock.now();
        let turn = self.hand.fetch_add(1, Relaxed) % SHARDS;
        let Some(shard) = self.shards.get(turn) else {
            return Ok(false);
        };
        let mut shard = write(shard);
        if self.removing(&mut shard, |shard| eviction::remove_expired(shard, now))
            != Removed::default()
        {
            return Ok(true);
        }
        let victims = eviction::victims(&mut shard);
        // Recorded like any removal: an evicted item must not come back with a restart, least of all
        // after somebody has deleted what was not there any more.
        let keys = victims.iter().map(|text| Record::Remove {
            key: text.key().into(),
            cas: None,
        });
        self.record_all(&keys.collect::<Vec<_>>())?;
        Ok(
            self.removing(&mut shard, |shard| eviction::evict(shard, &victims))
                != Removed::default(),
        )
    }

    /// Lets `remove` work on a shard, and counts what it took away.
    fn removing(&self, shard: &mut Shard, remove: impl FnOnce(&mut Shard) -> Removed) -> Removed {
        let before = shard.charge();
        let removed = remove(shard);
        self.used.fetch_sub(before - shard.charge(), Relaxed);
        self.stats.add(Counter::Reclaimed, removed.expired);
        self.stats
            .add(Counter::ExpiredUnfetched, removed.expired_unfetched);
        self.stats.add(Counter::Evictions, removed.evicted);
        self.stats
            .add(Counter::EvictedUnfetched, removed.evicted_unfetched);
        removed
    }
}
