//! The store: items by key, with a limit, a clock and a flush. (The Go program's `datastore_handler`.)
//!
//! It is an `RwLock<HashMap>` [many times over](SHARDS): a key belongs to one shard. Readers of a shard
//! go together and leave with a clone of the item; a writer takes a key's [`Slot`], which is the
//! shard's write lock, looks, decides and changes, and nobody comes in between. What a command means is
//! not known here.
//!
//! To be read in this order: `item.rs` (what a key holds), `shard.rs` (a share of the items: an `index.rs`, which is
//! the `HashMap`, and two of `queue.rs`, where the items stand, each as an `entry.rs`), `slot.rs` (how a change is
//! made), `room.rs` and `eviction.rs` (what happens when memory is used up), `persistence.rs` (the store and its
//! log).
//!
//! Invariants:
//! - Nothing here ever waits for a network: no lock is held once a method has returned, but for the one
//!   in a `Slot`, and a `Slot` has no way to a socket.
//! - Never two shards at once, except all of them in ascending order ([`Datastore::flush`]).
//! - A lock that a panic has poisoned still works: each change to a shard is complete in itself.

pub mod clock;
mod entry;
mod eviction;
mod index;
mod persistence;
mod queue;
mod room;
mod shard;
mod slot;

use std::hash::RandomState;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::aof::Aof;
use crate::aof::record::Record;
use crate::item::{Item, UnixTime};
use crate::protocol::Exptime;
use crate::stats::{Counter, Stats};
use clock::Clock;
pub use room::{Draft, Reservation};
use shard::{Hashed, Shard};
pub use slot::Slot;

/// How many shards at the most. Many, so that a table that grows or is swept keeps few clients waiting for a short
/// time, …
const SHARDS: usize = 256;

/// … but none for less than so many bytes of the memory limit: each has chunks and tables of which it needs only part.
const SHARE: usize = 256 << 10;

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

/// Why the store did not do what it was asked to do. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreError {
    /// The item would be larger than `-I` allows.
    TooLarge,
    /// There is no room, and `-M` forbids eviction, or nothing is left to evict.
    OutOfMemory,
    /// The append-only file cannot be written.
    LogFailed,
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

/// A shard and its lock.
#[derive(Debug)]
struct Bay {
    shard: RwLock<Shard>,
    /// The [stamp](Shard::oldest) of its oldest item, to be read without the lock: who has the oldest of all makes
    /// room first.
    oldest: AtomicU64,
}

impl Bay {
    /// In place of the stamp: there is no item.
    const EMPTY: u64 = u64::MAX;

    fn new(hasher: RandomState) -> Self {
        Bay {
            shard: RwLock::new(Shard::new(hasher)),
            oldest: AtomicU64::new(Bay::EMPTY),
        }
    }
}

/// Items by key.
#[derive(Debug)]
pub struct Datastore {
    bays: Box<[Bay]>,
    hasher: RandomState,
    clock: Clock,
    stats: Arc<Stats>,
    limits: Limits,
    /// `limits.memory` in bytes, which `cache_memlimit` changes.
    memory_limit: AtomicUsize,
    /// What all items are charged, in bytes.
    used: AtomicUsize,
    /// What all [reservations](room::Reservation) are, in bytes.
    reserved: AtomicUsize,
    /// The last cas unique that was given out.
    last_cas: AtomicU64,
    /// How many items were stored, modulo 2^32: an item's stamp tells its age.
    stamps: AtomicU32,
    /// When a delayed flush is due; 0: none is.
    flush_at: AtomicU32,
    /// Where changes are recorded, if they are.
    log: Option<Aof>,
}

impl Datastore {
    /// An empty store.
    pub fn new(limits: Limits, stats: Arc<Stats>) -> Self {
        let hasher = RandomState::new();
        Datastore {
            bays: std::iter::repeat_with(|| Bay::new(hasher.clone()))
                .take((limits.memory / SHARE).clamp(1, SHARDS))
                .collect(),
            hasher,
            clock: Clock::default(),
            stats,
            limits,
            memory_limit: AtomicUsize::new(limits.memory),
            used: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            last_cas: AtomicU64::new(0),
            stamps: AtomicU32::new(0),
            flush_at: AtomicU32::new(0),
            log: None,
        }
    }

    /// The item under a key, as it was before this reading of it, which is noted if `bump` says so.
    pub fn get(&self, key: &[u8], bump: Bump) -> Option<Item> {
        self.flush_if_due();
        let now = self.clock.now();
        let key = Hashed::new(key, &self.hasher);
        let shard = read(&self.bay(key.hash).shard);
        let view = shard.get(key)?;
        if view.entry.expiry().has_passed(now) {
            self.stats.add(Counter::GetExpired, 1);
            return None;
        }
        let item = view.item(now);
        if bump == Bump::Yes {
            view.entry.note(now);
        }
        Some(item)
    }

    /// `flush_all`: removes every item, now. A delayed flush that was pending is no longer.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then nothing is removed.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.remove_everything(None)
    }

    /// Flushes later: what is there then goes, also what was stored since. Takes the place of a flush
    /// that was pending. A time that has passed is none.
    ///
    /// It happens one second before its time, as in memcached: `flush_all 1` happens at once.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then it is not pending.
    pub fn flush_later(&self, when: Exptime) -> Result<(), StoreError> {
        self.flush_if_due();
        let now = self.clock.now();
        let time = when.expiry(now).time().filter(|&time| time > now);
        if time == Some(now.saturating_add(1)) {
            return self.flush();
        }
        let due = time.map(|time| time - 1);
        // The first shard's lock stands for all that a single shard's does not guard.
        let _first = self.bays.first().map(|bay| write(&bay.shard));
        self.record(|| due.map_or(Record::FlushNever, Record::FlushAt))?;
        self.flush_at.store(due.unwrap_or(0), Relaxed);
        Ok(())
    }

    /// The clock, for those who tell the time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How many items there are, and what they are charged in bytes.
    pub fn size(&self) -> (usize, usize) {
        self.bays.iter().fold((0, 0), |(items, bytes), bay| {
            let shard = read(&bay.shard);
            (items + shard.len(), bytes + shard.charge())
        })
    }

    /// For how many seconds the item that waits longest has not been read; 0 when there is none.
    pub fn age(&self) -> u32 {
        let now = self.clock.now();
        let oldest = self.bays.iter().filter_map(|bay| {
            let shard = read(&bay.shard);
            let last = shard.items().map(|view| view.entry.last_access(now));
            last.min()
        });
        oldest.min().map_or(0, |last| now.saturating_sub(last))
    }

    /// Every item, a shard at a time: each shard as it is when its turn comes.
    pub fn snapshot(&self) -> impl Iterator<Item = Vec<Item>> {
        self.flush_if_due();
        let now = self.clock.now();
        self.bays.iter().map(move |bay| read(&bay.shard).live(now))
    }

    /// What all items may take together, in bytes.
    pub fn memory_limit(&self) -> usize {
        self.memory_limit.load(Relaxed)
    }

    /// Changes the memory limit; what is too much is evicted with the next writes.
    pub fn set_memory_limit(&self, bytes: usize) {
        self.memory_limit.store(bytes, Relaxed);
    }

    /// A delayed flush that is due happens here, before anyone sees an item. It takes all locks: nobody
    /// who holds one may call this.
    fn flush_if_due(&self) {
        let due = self.flush_at.load(Relaxed);
        if due != 0 && due <= self.clock.now() {
            // If it cannot be recorded now, it is tried again with the next look.
            let _ = self.remove_everything(Some(due));
        }
    }

    /// Removes every item; with a time, only if a flush is still pending for just this time.
    fn remove_everything(&self, due: Option<UnixTime>) -> Result<(), StoreError> {
        // All shards are locked before the first is emptied: a flush is one moment for everybody.
        let mut shards: Vec<_> = self.bays.iter().map(|bay| write(&bay.shard)).collect();
        if due.is_some_and(|due| self.flush_at.load(Relaxed) != due) {
            return Ok(());
        }
        self.record(|| Record::Flush)?;
        self.flush_at.store(0, Relaxed);
        let emptied: Vec<Shard> = shards
            .iter_mut()
            .map(|shard| std::mem::replace(&mut **shard, Shard::new(self.hasher.clone())))
            .collect();
        self.used
            .fetch_sub(emptied.iter().map(Shard::charge).sum(), Relaxed);
        for bay in &self.bays {
            bay.oldest.store(Bay::EMPTY, Relaxed);
        }
        drop(shards);
        // Freeing millions of items takes a while, and nobody has to wait for it but this client.
        drop(emptied);
        Ok(())
    }

    /// Where keys of this hash belong.
    ///
    /// Shards have unequal shares of the keys: the largest has twice as many as the smallest, and the others
    /// lie evenly between them. A table doubles when it is full, so with equal shards all of them would double
    /// at the same time, and be half empty afterwards. These double one after the other, and taken together
    /// they are as full as ever.
    fn bay(&self, hash: u64) -> &Bay {
        // Fractions of 2^16. Even steps of the logarithm are even steps of a factor; log2(1 + x) is about
        // x + 0.343 x (1 - x), which is right to a hundredth.
        const ONE: u64 = 1 << 16;
        let x = hash >> (u64::BITS - ONE.ilog2());
        let logarithm = x + x * (ONE - x) / ONE * 22_479 / ONE;
        #[allow(clippy::indexing_slicing)] // It is less than ONE.
        &self.bays[logarithm as usize * self.bays.len() / ONE as usize]
    }

    fn new_cas(&self) -> u64 {
        self.last_cas.fetch_add(1, Relaxed) + 1
    }
}

fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
