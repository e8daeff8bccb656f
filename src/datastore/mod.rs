//! The store: items by key, with a limit, a clock and a flush. (The Go program's `datastore_handler`.)
//!
//! It is an `RwLock<HashMap>` [many times over](SHARDS): a key belongs to one shard. Readers of a shard
//! go together and leave with a clone of the item; a writer takes a key's [`Slot`], which is the
//! shard's write lock, looks, decides and changes, and nobody comes in between. What a command means is
//! not known here.
//!
//! Invariants:
//! - Nothing here ever waits for a network: no lock is held once a method has returned, but for the one
//!   in a `Slot`, and a `Slot` has no way to a socket.
//! - Never two shards at once, except all of them in ascending order ([`Datastore::flush`]).
//! - A lock that a panic has poisoned still works: each change to a shard is complete in itself.

pub mod clock;
mod eviction;
pub mod item;
mod persistence;
mod shard;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::aof::Aof;
use crate::aof::record::Record;
use crate::protocol::{Exptime, ProtocolError};
use crate::stats::{Counter, Stats};
use clock::{Clock, Expiry, UnixTime};
use eviction::Removed;
pub use item::{Item, Marks};
use shard::Shard;

/// How many shards. Many, so that a table that grows or is swept keeps few clients waiting for a short
/// time; a power of two, so that the top bits of a hash choose one.
const SHARDS: usize = 256;

/// What is done when the memory limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Items are evicted to make room.
    Evict,
    /// Nothing more is stored (`-M`).
    Refuse,
}

/// Whether reading an item is noted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bump {
    /// As always.
    Yes,
    /// Not this time (`mg … u`).
    No,
}

/// The limits of a store.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// What all items may take together, in bytes (`-m`).
    pub memory: usize,
    /// How large one item may be, in bytes, as [memcached measures it](Item::size_in_memcached) (`-I`).
    pub item: usize,
    /// What is done when the memory is used up.
    pub when_full: WhenFull,
}

/// Items by key.
#[derive(Debug)]
pub struct Datastore {
    shards: Box<[RwLock<Shard>]>,
    hasher: RandomState,
    clock: Clock,
    stats: Arc<Stats>,
    limits: Limits,
    /// `limits.memory`, which `cache_memlimit` changes.
    memory_limit: AtomicUsize,
    /// What all items are charged.
    used: AtomicUsize,
    /// What all [`Reservation`]s are.
    reserved: AtomicUsize,
    /// The last cas unique that was given out.
    last_cas: AtomicU64,
    /// When a delayed flush is due; 0: none is.
    flush_at: AtomicU32,
    /// The shard that makes room next.
    hand: AtomicUsize,
    /// Where changes are recorded, if they are.
    log: Option<Aof>,
}

impl Datastore {
    /// An empty store.
    pub fn new(limits: Limits, stats: Arc<Stats>) -> Self {
        Datastore {
            shards: std::iter::repeat_with(RwLock::default)
                .take(SHARDS)
                .collect(),
            hasher: RandomState::new(),
            clock: Clock::default(),
            stats,
            limits,
            memory_limit: AtomicUsize::new(limits.memory),
            used: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            last_cas: AtomicU64::new(0),
            flush_at: AtomicU32::new(0),
            hand: AtomicUsize::new(0),
            log: None,
        }
    }

    /// The item under a key, as it was before this reading of it, which is noted if `bump` says so.
    pub fn get(&self, key: &[u8], bump: Bump) -> Option<Item> {
        let now = self.tick();
        let shard = self
            .shard(key)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let (text, entry) = shard.get(key)?;
        if entry.expiry().is_over(now) {
            self.stats.add(Counter::GetExpired, 1);
            return None;
        }
        let item = entry.with(text);
        if bump == Bump::Yes {
            entry.note(now);
        }
        Some(item)
    }

    /// Takes hold of a key, to look at its item and change it.
    pub fn slot<'s>(&'s self, key: &'s [u8]) -> Slot<'s> {
        let now = self.tick();
        Slot {
            store: self,
            shard: write(self.shard(key)),
            key,
            now,
        }
    }

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
        let expiry = Expiry::new(exptime, self.tick());
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

    /// `flush_all`: removes every item, now. A delayed flush that was pending is no longer.
    ///
    /// # Errors
    /// [`ProtocolError::LogFailed`]: then nothing is removed.
    pub fn flush(&self) -> Result<(), ProtocolError> {
        self.remove_everything(None)
    }

    /// Flushes later: what is there then goes, also what was stored since. Takes the place of a flush
    /// that was pending. A time that has passed is none.
    ///
    /// It happens one second before its time, as in memcached: `flush_all 1` happens at once.
    ///
    /// # Errors
    /// [`ProtocolError::LogFailed`]: then it is not pending.
    pub fn flush_later(&self, when: Exptime) -> Result<(), ProtocolError> {
        let now = self.tick();
        let time = Expiry::new(when, now).time().filter(|&time| time > now);
        if time == Some(now + 1) {
            return self.flush();
        }
        let due = time.map(|time| time - 1);
        // The first shard's lock stands for all that a single shard's does not guard.
        let _first = self.shards.first().map(write);
        self.record(|| due.map_or(Record::FlushNever, Record::FlushAt))?;
        self.flush_at.store(due.unwrap_or(0), Relaxed);
        Ok(())
    }

    /// Frees the memory of what has expired; unread items would keep it for ever.
    pub fn sweep(&self) {
        let now = self.tick();
        for shard in &self.shards {
            if read(shard).has_expired(now) {
                self.removing(&mut write(shard), |shard| {
                    eviction::remove_expired(shard, now)
                });
            }
        }
    }

    /// The clock, for those who tell the time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How many items there are, and what they are charged in bytes.
    pub fn size(&self) -> (usize, usize) {
        self.shards.iter().fold((0, 0), |(items, bytes), shard| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            (items + shard.len(), bytes + shard.charge())
        })
    }

    /// For how many seconds the item that waits longest has not been read; 0 when there is none.
    pub fn age(&self) -> u32 {
        let oldest = self.shards.iter().filter_map(|shard| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.entries().map(|(_, entry)| entry.last_access()).min()
        });
        oldest
            .min()
            .map_or(0, |last| self.clock.now().saturating_sub(last))
    }

    /// Every item, a shard at a time: each shard as it is when its turn comes.
    pub fn snapshot(&self) -> impl Iterator<Item = Vec<Item>> {
        let now = self.tick();
        self.shards.iter().map(move |shard| {
            shard
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .live(now)
        })
    }

    /// What all items may take together, in bytes.
    pub fn memory_limit(&self) -> usize {
        self.memory_limit.load(Relaxed)
    }

    /// Changes the memory limit; what is too much is evicted with the next writes.
    pub fn set_memory_limit(&self, bytes: usize) {
        self.memory_limit.store(bytes, Relaxed);
    }

    /// The time now. A delayed flush that is due happens here, before anyone sees an item. It takes all
    /// locks: nobody who holds one may call this.
    fn tick(&self) -> UnixTime {
        let now = self.clock.now();
        let due = self.flush_at.load(Relaxed);
        if due != 0 && due <= now {
            // If it cannot be recorded now, it is tried again with the next look at the clock.
            let _ = self.remove_everything(Some(due));
        }
        now
    }

    /// Removes every item; with a time, only if a flush is still pending for just this time.
    fn remove_everything(&self, due: Option<UnixTime>) -> Result<(), ProtocolError> {
        // All shards are locked before the first is emptied: a flush is one moment for everybody.
        let mut shards: Vec<_> = self.shards.iter().map(write).collect();
        if due.is_some_and(|due| self.flush_at.load(Relaxed) != due) {
            return Ok(());
        }
        self.record(|| Record::Flush)?;
        self.flush_at.store(0, Relaxed);
        let emptied: Vec<Shard> = shards
            .iter_mut()
            .map(|shard| std::mem::take(&mut **shard))
            .collect();
        self.used
            .fetch_sub(emptied.iter().map(Shard::charge).sum(), Relaxed);
        drop(shards);
        // Freeing millions of items takes a while, and nobody has to wait for it but this client.
        drop(emptied);
        Ok(())
    }

    fn shard(&self, key: &[u8]) -> &RwLock<Shard> {
        // The top bits: the table uses the others.
        let shard = self.hasher.hash_one(key) >> (u64::BITS - SHARDS.ilog2());
        #[allow(clippy::indexing_slicing)] // So many bits cannot be more than SHARDS - 1.
        &self.shards[shard as usize]
    }

    fn new_cas(&self) -> u64 {
        self.last_cas.fetch_add(1, Relaxed) + 1
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
    fn make_room(&self) -> Result<bool, ProtocolError> {
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

fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

/// One key, held for writing: whoever has it is alone with that key (and its shard) until it is dropped.
#[derive(Debug)]
pub struct Slot<'s> {
    store: &'s Datastore,
    shard: RwLockWriteGuard<'s, Shard>,
    key: &'s [u8],
    now: UnixTime,
}

impl Slot<'_> {
    /// The item that the key holds; one that has expired is none.
    pub fn item(&self) -> Option<Item> {
        let (text, entry) = self.shard.get(self.key)?;
        (!entry.expiry().is_over(self.now)).then(|| entry.with(text))
    }

    /// The time at which the key was taken hold of.
    pub fn now(&self) -> UnixTime {
        self.now
    }

    /// Stores an item under the key, in place of any other. It gets the given cas unique, or else a new
    /// one, which is returned.
    ///
    /// # Errors
    /// Here and below, [`ProtocolError::LogFailed`]: then nothing has changed.
    pub fn put(&mut self, mut item: Item, cas: Option<u64>) -> Result<u64, ProtocolError> {
        debug_assert_eq!(item.key(), self.key);
        let cas = cas.unwrap_or_else(|| self.store.new_cas());
        let now = self.now;
        item.cas = cas;
        self.store.record(|| match item.expiry.is_over(now) {
            false => Record::Put(item.clone()),
            true => Record::Remove {
                key: self.key.into(),
            },
        })?;
        self.change(|shard, _| shard.put(item, now));
        Ok(cas)
    }

    /// Gives the item, if there is one, another expiry. Its cas unique stays: its content does.
    pub fn touch(&mut self, expiry: Expiry) -> Result<(), ProtocolError> {
        let Some(Item { cas, marks, .. }) = self.item() else {
            return Ok(());
        };
        let key = self.key.into();
        self.store.record(|| match expiry.is_over(self.now) {
            false => Record::Touch { key, expiry },
            true => Record::Remove { key },
        })?;
        self.shard.update(self.key, expiry, cas, marks);
        Ok(())
    }

    /// Notes on the item, if there is one, that somebody has won it. This is forgotten with the process.
    pub fn win(&mut self) {
        if let Some(Item {
            cas, expiry, marks, ..
        }) = self.item()
        {
            self.shard
                .update(self.key, expiry, cas, Marks { won: true, ..marks });
        }
    }

    /// Marks the item, if there is one, as stale: the next reader wins. Its cas unique becomes the given
    /// one, or else a new one, so that who read it before cannot store over what comes after.
    pub fn invalidate(&mut self, expiry: Expiry, cas: Option<u64>) -> Result<(), ProtocolError> {
        let Some(Item { marks, .. }) = self.item() else {
            return Ok(());
        };
        let cas = cas.unwrap_or_else(|| self.store.new_cas());
        let key = self.key.into();
        self.store.record(|| match expiry.is_over(self.now) {
            false => Record::Stale { key, expiry, cas },
            true => Record::Remove { key },
        })?;
        self.shard.update(
            self.key,
            expiry,
            cas,
            Marks {
                stale: true,
                won: false,
                ..marks
            },
        );
        Ok(())
    }

    /// Notes that the item was read.
    pub fn note(&self) {
        if let Some((_, entry)) = self.shard.get(self.key) {
            entry.note(self.now);
        }
    }

    /// Removes the item, if there is one.
    pub fn remove(&mut self) -> Result<(), ProtocolError> {
        if self.item().is_some() {
            self.store.record(|| Record::Remove {
                key: self.key.into(),
            })?;
        }
        self.change(Shard::remove);
        Ok(())
    }

    /// Every change goes through here, so that the store's account of its memory stays right.
    fn change(&mut self, change: impl FnOnce(&mut Shard, &[u8])) {
        let before = self.shard.charge();
        change(&mut self.shard, self.key);
        // Wrapping: the difference may be negative, and added to the whole it comes out right.
        self.store
            .used
            .fetch_add(self.shard.charge().wrapping_sub(before), Relaxed);
    }
}

/// Memory that is spoken for, as long as this lives.
#[derive(Debug)]
struct Reservation<'s> {
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
    /// The item, to be filled through [`Item::data_block_mut`] and stored by [`Slot::put`].
    pub item: Item,
    _reservation: Reservation<'s>,
}

#[cfg(test)]
mod tests;
