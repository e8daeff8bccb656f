//! The store: items by key, with a limit, a clock and a flush. (The Go program's `datastore_handler`.)
//!
//! It has many shards, each an `RwLock` around a `HashMap` and the segments that it points into. A key belongs to one shard.
//! Readers of a shard do not wait for each other, and leave with a copy of a small item or a share of a large one. A
//! command that changes a key takes the key's [`KeyGuard`](guard::KeyGuard), which is the shard's write lock, and meanwhile no other
//! thread reads or changes the key. This module does not know the protocol.
//!
//! To be read in this order:
//!
//! - `segment.rs`, `head.rs`, `item_ref.rs`: how items lie in memory, with a picture;
//! - `index.rs`, `shard.rs`, `shard/reclaim.rs`: the `HashMap`, segments in queues, and how they leave;
//! - `guard.rs`: how a key is changed;
//! - `reserve.rs`, `eviction.rs`: how memory is asked for (`src/memory.rs` has it), and which items leave;
//! - `persistence.rs`: the store and its log.
//!
//! Invariants:
//! - Nothing here ever waits for a network: no lock is held once a method has returned, but for the one
//!   in a `KeyGuard`, and a `KeyGuard` has no way to a socket.
//! - Lock order: `evicting`, then a shard, then the log's locks or those of `memory`, which are held for a moment only.
//!   Never two shards at once, except all of them in ascending order ([`Datastore::flush`]).
//! - A lock that a panic has poisoned still works: each change to a shard is complete in itself.

pub mod clock;
mod eviction;
pub(crate) mod guard;
mod head;
mod index;
mod item_ref;
mod persistence;
mod reserve;
mod segment;
mod shard;

use std::hash::RandomState;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::aof::Aof;
use crate::aof::record::Record;
use crate::item::{Item, UnixTime};
use crate::memory::Memory;
use crate::protocol::Exptime;
use crate::stats::{Counter, Stats};
use clock::Clock;
use index::MAX_SEGMENTS;
pub use reserve::PendingItem;
use segment::{ITEM_OVERHEAD, MAX_SMALL_ITEM};
use shard::{HashedKey, Shard, Shared};

/// How many shards there are at the most. Many, so that a table that grows keeps few clients waiting for a short time, …
const MAX_SHARDS: usize = 256;

/// … but none for less than this many bytes of the memory limit: each has an open segment in each of its queues.
const MIN_SHARD_MEMORY: usize = 4 << 20;

/// How much memory the numbers of a shard's segments can address: no limit is higher than all shards have together.
const MAX_SHARD_MEMORY: usize = MAX_SEGMENTS * MAX_SMALL_ITEM;

/// What happens when the memory limit is reached.
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
    /// Mark the item as read.
    Yes,
    /// Do not (`mg … u`).
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
    /// What happens when the memory is used up.
    pub when_full: WhenFull,
}

/// Items by key.
#[derive(Debug)]
pub struct Datastore {
    shards: Box<[RwLock<Shard>]>,
    shared: Arc<Shared>,
    memory: Arc<Memory>,
    clock: Clock,
    stats: Arc<Stats>,
    limits: Limits,
    /// Held by the one thread that evicts.
    evicting: Mutex<()>,
    /// The last cas unique that was given out.
    last_cas: AtomicU64,
    /// When a delayed flush is due; 0: none is.
    flush_at: AtomicU32,
    /// Where changes are recorded, if they are.
    log: Option<Aof>,
}

impl Datastore {
    /// An empty store.
    pub fn new(limits: Limits, stats: Arc<Stats>) -> Self {
        let shards = (limits.memory / MIN_SHARD_MEMORY).clamp(1, MAX_SHARDS);
        let memory = Arc::new(Memory::new(limits.memory.min(shards * MAX_SHARD_MEMORY)));
        let shared = Arc::new(Shared {
            hasher: RandomState::new(),
            memory: Arc::clone(&memory),
            sequence: AtomicU64::new(0),
        });
        let empty = || RwLock::new(Shard::new(Arc::clone(&shared)));
        Datastore {
            shards: std::iter::repeat_with(empty).take(shards).collect(),
            shared,
            memory,
            clock: Clock::default(),
            stats,
            limits,
            evicting: Mutex::default(),
            last_cas: AtomicU64::new(0),
            flush_at: AtomicU32::new(0),
            log: None,
        }
    }

    /// Returns the item under a key, with its state before this read. A small item is copied into `room`.
    pub fn get<'r>(&self, key: &[u8], bump: Bump, room: &'r mut Vec<u8>) -> Option<Item<'r>> {
        self.flush_if_due();
        let now = self.clock.now();
        let key = HashedKey::new(key, &self.shared.hasher);
        let shard = read(self.shard(key));
        let (_, found) = shard.look_up(key)?;
        if found.head.expiry.has_passed(now) {
            self.stats.add(Counter::GetExpired, 1);
            return None;
        }
        let item = found.item(now).copied_to(room);
        if bump == Bump::Yes {
            found.slot.access.mark_read(now);
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
        // The first shard's lock guards `flush_at`.
        let _first = self.shards.first().map(write);
        self.record(|| due.map_or(Record::FlushNever, Record::FlushAt))?;
        self.flush_at.store(due.unwrap_or(0), Relaxed);
        Ok(())
    }

    /// The clock, for those who tell the time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How many items there are, and how many bytes they have: keys, values, and metadata.
    pub fn size(&self) -> (usize, usize) {
        self.shards.iter().fold((0, 0), |(items, bytes), shard| {
            let shard = read(shard);
            (items + shard.len(), bytes + shard.bytes(ITEM_OVERHEAD))
        })
    }

    /// Seconds since the least recently read item was read; 0 when there is none.
    pub fn age(&self) -> u32 {
        let now = self.clock.now();
        let oldest = self.shards.iter().filter_map(|shard| {
            let shard = read(shard);
            let items = shard.items();
            items.map(|item| item.slot.access.time(now)).min()
        });
        oldest.min().map_or(0, |last| now.saturating_sub(last))
    }

    /// Every item. Each shard is copied when the iterator reaches it.
    pub fn snapshot(&self) -> impl Iterator<Item = Vec<Item<'static>>> {
        self.flush_if_due();
        let now = self.clock.now();
        self.shards.iter().map(move |shard| {
            let shard = read(shard);
            let alive = shard.alive(now);
            alive.map(Item::into_owned).collect()
        })
    }

    /// What all items may take together, in bytes.
    pub fn memory_limit(&self) -> usize {
        self.memory.limit()
    }

    /// Changes the memory limit. The next writes evict what is too much, each a little (with `-M` nothing is evicted).
    pub fn set_memory_limit(&self, bytes: usize) {
        self.memory
            .set_limit(bytes.min(self.shards.len() * MAX_SHARD_MEMORY));
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
        // All shards are locked before the first is emptied, so the flush is atomic.
        let mut shards: Vec<_> = self.shards.iter().map(write).collect();
        if due.is_some_and(|due| self.flush_at.load(Relaxed) != due) {
            return Ok(());
        }
        self.record(|| Record::Flush)?;
        self.flush_at.store(0, Relaxed);
        let emptied: Vec<Shard> = shards
            .iter_mut()
            .map(|shard| std::mem::replace(&mut **shard, Shard::new(Arc::clone(&self.shared))))
            .collect();
        drop(shards);
        // Giving the memory back takes a while, and nobody has to wait for it but this client.
        drop(emptied);
        Ok(())
    }

    /// The shard of a key. All shards have equal shares of the upper half of the hashes.
    fn shard(&self, key: HashedKey<'_>) -> &RwLock<Shard> {
        let number = ((key.hash >> 32) * self.shards.len() as u64) >> 32;
        #[allow(clippy::indexing_slicing)] // It is less than the number of shards.
        &self.shards[number as usize]
    }

    fn new_cas(&self) -> u64 {
        self.last_cas.fetch_add(1, Relaxed) + 1
    }
}

fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
