//! Memory: what is spoken for, what is used, and how room is made.
//!
//! Invariant: items and reservations together stay within `-m`, but for what a number takes that grows, or a chunk
//! or a table that a shard begins: then the next write makes room for that too. Room is reserved before anything
//! is allocated, by evicting if need be, and while no lock is held. (Where the limit is lowered while running, or `-M` meets a log that holds more, what is there
//! stays until it is evicted or removed. After a start, a little more than the limit may be there.)

use std::ops::{Deref, DerefMut};
use std::sync::RwLockWriteGuard;
use std::sync::atomic::Ordering::Relaxed;

use super::StoreError;
use super::eviction::{self, Removed};
use super::shard::Shard;
use super::{Bay, Datastore, WhenFull, read, write};
use crate::aof::record::Record;
use crate::item::Item;
use crate::protocol::Exptime;
use crate::stats::Counter;

/// So many evictions are made while a shard is locked: they share the cost of that, and whoever waits for the
/// shard hardly notices.
const AT_A_TIME: usize = 16;

/// So many who were read are spared while a shard is locked, for the same reason; then another shard is looked at.
const SPARED: usize = 64;

/// Memory that is spoken for, as long as this lives.
#[derive(Debug)]
pub struct Reservation<'s> {
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
    /// [`StoreError::TooLarge`] or [`StoreError::OutOfMemory`]; then nothing is allocated.
    pub fn draft(
        &self,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        bytes: usize,
    ) -> Result<Draft<'_>, StoreError> {
        if !self.fits(key, flags, bytes) {
            self.stats.add(Counter::StoreTooLarge, 1);
            return Err(StoreError::TooLarge);
        }
        let reservation = self.reserve(Item::charge_of(key, flags, bytes))?;
        // Only a span of time needs to know when it begins: most items have none.
        let now = if let Exptime::After(_) = exptime {
            self.clock.now()
        } else {
            0
        };
        let expiry = exptime.expiry(now);
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
    ) -> Result<Draft<'_>, StoreError> {
        let mut draft = self.draft(key, flags, exptime, value.len())?;
        draft.item.fill(&[value]);
        Ok(draft)
    }

    /// Frees the memory of what has expired; unread items would keep it for ever.
    pub fn sweep(&self) {
        self.flush_if_due();
        let now = self.clock.now();
        for bay in &self.bays {
            if read(&bay.shard).has_expired(now) {
                self.count(&eviction::remove_expired(&mut self.hold(bay), now));
            }
        }
    }

    fn reserve(&self, bytes: usize) -> Result<Reservation<'_>, StoreError> {
        let no_room = || {
            self.stats.add(Counter::StoreNoMemory, 1);
            StoreError::OutOfMemory
        };
        // What is spoken for cannot be evicted: if that alone leaves no room, nobody's items have to go.
        let fits =
            |reserved: usize| Some(reserved + bytes).filter(|&sum| sum <= self.memory_limit());
        self.reserved
            .fetch_update(Relaxed, Relaxed, fits)
            .map_err(|_| no_room())?;
        let reservation = Reservation { store: self, bytes };
        let has_room =
            || self.used.load(Relaxed) + self.reserved.load(Relaxed) <= self.memory_limit();
        if !has_room() && self.limits.when_full == WhenFull::Refuse {
            // What was removed may have left holes between those who are there.
            for bay in &self.bays {
                self.hold(bay).tidy_well();
            }
        }
        let is_there = match self.limits.when_full {
            WhenFull::Evict => self.make_room(has_room)?,
            WhenFull::Refuse => has_room(),
        };
        if is_there {
            Ok(reservation)
        } else {
            Err(no_room())
        }
    }

    /// Speaks for the room that an item takes which is about to change; if there is none, the change is made all
    /// the same.
    pub fn room_for(&self, key: &[u8], bytes: usize) -> Option<Reservation<'_>> {
        match self.limits.when_full {
            WhenFull::Evict => self.reserve(Item::charge_of(key, 1, bytes)).ok(),
            WhenFull::Refuse => None,
        }
    }

    /// Makes room until there is enough; whether there is.
    pub(super) fn make_room(&self, is_enough: impl Fn() -> bool) -> Result<bool, StoreError> {
        let mut in_vain = 0;
        while !is_enough() {
            // In the first round those who were read are spared, in the second one nobody is.
            let patience = if in_vain < self.bays.len() { SPARED } else { 0 };
            if in_vain == 2 * self.bays.len() {
                return Ok(false);
            }
            in_vain = match self.make_some_room(patience, &is_enough)? {
                true => 0,
                false => in_vain + 1,
            };
        }
        Ok(true)
    }

    /// Makes some room in the shard that has the oldest item of all; whether there was any to be made.
    ///
    /// So items leave in the order in which they came, whatever shard they are in, and their memory comes free in
    /// large pieces: with each shard's turn coming now and then instead, the process was measured to grow to
    /// twice its size when items of another size came.
    fn make_some_room(
        &self,
        patience: usize,
        is_enough: &impl Fn() -> bool,
    ) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let age = |bay: &Bay| {
            let oldest = u32::try_from(bay.oldest.load(Relaxed)).ok()?;
            Some(self.stamps.load(Relaxed).wrapping_sub(oldest))
        };
        let ages = self.bays.iter().filter_map(|bay| Some((age(bay)?, bay)));
        let Some((_, bay)) = ages.max_by_key(|(age, _)| *age) else {
            return Ok(false);
        };
        let mut shard = self.hold(bay);
        let expired = eviction::remove_expired(&mut shard, now);
        if expired != Removed::default() {
            self.count(&expired);
            return Ok(true);
        }
        for evicted in 0..AT_A_TIME {
            if evicted > 0 && is_enough() {
                break;
            }
            let stamp = self.stamps.load(Relaxed);
            let Some((part, view)) = eviction::victim(&mut shard, patience, stamp) else {
                return Ok(evicted > 0);
            };
            // Recorded like any removal: an evicted item must not come back with a restart, least of all
            // after somebody has deleted what was not there any more.
            self.record(|| Record::Remove {
                key: view.key().into(),
                cas: None,
            })?;
            self.count(&eviction::evict(&mut shard, part));
            shard.settle();
        }
        Ok(true)
    }

    fn count(&self, removed: &Removed) {
        self.stats.add(Counter::Reclaimed, removed.expired);
        self.stats
            .add(Counter::ExpiredUnfetched, removed.expired_unfetched);
        self.stats.add(Counter::Evictions, removed.evicted);
        self.stats
            .add(Counter::EvictedUnfetched, removed.evicted_unfetched);
    }

    /// Locks a shard for writing.
    pub(super) fn hold<'s>(&'s self, bay: &'s Bay) -> Held<'s> {
        let shard = write(&bay.shard);
        let charge = shard.charge();
        Held {
            store: self,
            bay,
            shard,
            charge,
        }
    }
}

/// A shard that is locked for writing. Whatever is done with it, the store's account is right afterwards.
#[derive(Debug)]
pub(super) struct Held<'s> {
    store: &'s Datastore,
    bay: &'s Bay,
    shard: RwLockWriteGuard<'s, Shard>,
    /// What it was charged when the account was settled last.
    charge: usize,
}

impl Held<'_> {
    /// Brings the store's account up to date.
    fn settle(&mut self) {
        // Written only when they change: what everybody writes, everybody waits for.
        let charge = self.shard.charge();
        if charge != self.charge {
            // Wrapping: the difference may be negative, and added to the whole it comes out right.
            let more = charge.wrapping_sub(self.charge);
            self.store.used.fetch_add(more, Relaxed);
            self.charge = charge;
        }
        let oldest = self.shard.oldest().map_or(Bay::EMPTY, u64::from);
        if oldest != self.bay.oldest.load(Relaxed) {
            self.bay.oldest.store(oldest, Relaxed);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Deref for Held<'_> {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        &self.shard
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }
}
