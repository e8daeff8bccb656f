//! The store: items by key, with a limit, a clock and a flush. (The Go program's `datastore_handler`.)
//!
//! ```text
//! Datastore
//!   shards        up to 256, each behind an RwLock; a key's hash decides its shard
//!     index       hash of a key -> location: a segment and a slot
//!     segments    each has many small items, or one large item
//!     queues      probation and main: the order in which segments are evicted
//! ```
//!
//! Readers of a shard do not wait for each other. A reader gets a copy of a small item, and shares the value of a large
//! one. A command that changes a key takes the key's [`KeyGuard`](guard::KeyGuard), which holds the shard's write lock:
//! until the guard is dropped, no other thread reads or changes the key. This module does not know the commands of the
//! protocol.
//!
//! # The words
//!
//! - **Shard**: a share of the keys, with a lock, an index, segments and queues of its own.
//! - **Segment**: 64 KB of memory with small items one behind another, or else one large item (over 16 KB).
//! - **Head**: the 16 bytes in front of an item's key and value: its cas unique, its flags and its expiry.
//! - **Slot**: 8 bytes beside the piece, one slot for each item: where the item begins, its last access, and whether it
//!   is dead.
//! - **Dead bytes**: the memory of items that were replaced or removed. It is freed together with their segment.
//! - **Probation queue**: the segments with new items, the oldest segment in front.
//! - **Main queue**: the segments with items that were read in time, so that eviction has spared them.
//!
//! # The files, in the order in which to read them
//!
//! 1. `mod.rs`, this file: the store, how it finds a key's shard, `get` and `flush_all`.
//! 2. `segment.rs`: how items lie in memory, with a picture.
//! 3. `head.rs`: an item's head and slot.
//! 4. `item_ref.rs`: a reference to an item in its segment.
//! 5. `index.rs`: where a shard's items are, by key.
//! 6. `shard.rs`: the items of a shard: find, put, update, remove.
//! 7. `shard/reclaim.rs`: how a shard frees segments: expiry, compaction, and its part of eviction.
//! 8. `guard.rs`: how a command changes a key.
//! 9. `clock.rs`: what time it is, and when the memory of an expired item is freed.
//! 10. `reserve.rs`: how a write asks for memory before it takes any (the memory itself is in `src/memory.rs`).
//! 11. `eviction.rs`: which items are evicted when memory is short, and the sweep of expired ones.
//! 12. `persistence.rs`: the store and its log: what is recorded, and the replay.
//!
//! Tests are in the files themselves, in `tests.rs` (the whole store), `shard/tests.rs` and `segment/tests.rs`.
//!
//! # Invariants
//!
//! - Nothing here waits for the network. When a method has returned, no lock is held, except the one in a `KeyGuard`,
//!   and a `KeyGuard` cannot reach a socket.
//! - Lock order: `evicting`, then a shard, then the log's locks, or those of `memory`, or that of the watchers. They
//!   are held for a moment only. No thread locks two shards at once, except all of them in ascending order
//!   ([`Datastore::flush`]).
//! - A lock that a panic has poisoned still works: each change to a shard is complete in itself.

pub mod clock;
pub(crate) mod eviction;
pub(crate) mod guard;
mod head;
mod index;
mod item_ref;
mod persistence;
pub(crate) mod reserve;
mod segment;
mod shard;

use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::aof::Aof;
use crate::aof::record::Record;
use crate::item::{Item, UnixTime};
use crate::memory::Memory;
use crate::protocol::Exptime;
use crate::stats::{Counter, Stats};
use crate::watch::Watchers;
use clock::Clock;
use index::MAX_SEGMENTS;
pub use reserve::PendingItem;
use segment::{ITEM_OVERHEAD, MAX_SMALL_ITEM};
use shard::{HashedKey, Shard, Shared};

/// The most shards that a store has. With many shards, few clients wait when a table grows, and only for a short time.
const MAX_SHARDS: usize = 256;

/// A store has one shard for each this many bytes of its memory limit, and at least one. More would cost too much: each
/// shard has an open segment in each queue.
const MIN_SHARD_MEMORY: usize = 4 << 20;

/// How much memory a shard can have before its segment numbers run out, in bytes. The smallest segment is that of a
/// large item: at least `MAX_SMALL_ITEM`. The memory limit is at most the sum for all shards.
const MAX_SHARD_MEMORY: usize = MAX_SEGMENTS * MAX_SMALL_ITEM;

/// What happens when the memory limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Items are evicted to make room.
    Evict,
    /// Nothing more is stored (`-M`).
    Refuse,
}

/// Whether a read marks the item as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bump {
    /// Mark the item as read.
    Yes,
    /// Leave the item as it is (`mg … u`).
    No,
}

/// Why the store could not do what a command asked for. Then nothing has changed, except that items may have been
/// evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreError {
    /// The item would be larger than `-I` allows.
    TooLarge,
    /// There is not enough memory, and `-M` forbids eviction, or eviction cannot free enough.
    OutOfMemory,
    /// The append-only file cannot be written.
    LogFailed,
}

/// The limits of a store.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How much memory all items may use together, in bytes (`-m`).
    pub memory: usize,
    /// How large one item may be, in bytes, as [memcached measures it](Item::size_in_memcached) (`-I`).
    pub item: usize,
    /// What happens when the memory limit is reached.
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
    watchers: Arc<Watchers>,
    limits: Limits,
    /// Locked by the one thread that evicts.
    evicting: Mutex<()>,
    /// The least memory that was used after an eviction, in bytes, since the limit was changed.
    least_used: AtomicUsize,
    /// The last cas unique that an item got.
    last_cas: AtomicU64,
    /// When a delayed flush is due; 0 if none is pending.
    flush_at: AtomicU32,
    /// Whether a delayed flush has removed the items, but is not recorded yet.
    has_unrecorded_flush: AtomicBool,
    /// The time of the last `mark_log`, which may have found nothing to mark. It shows whether the clock went back.
    marked_at: AtomicU32,
    /// Where changes are recorded; `None` without an append-only file.
    log: Option<Aof>,
}

impl Datastore {
    /// An empty store.
    pub fn new(limits: Limits, stats: Arc<Stats>, watchers: Arc<Watchers>) -> Self {
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
            watchers,
            limits,
            evicting: Mutex::default(),
            least_used: AtomicUsize::new(0),
            last_cas: AtomicU64::new(0),
            flush_at: AtomicU32::new(0),
            has_unrecorded_flush: AtomicBool::new(false),
            marked_at: AtomicU32::new(0),
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

    /// Whether the key's item has expired, but is not removed yet.
    pub fn has_expired(&self, key: &[u8]) -> bool {
        let key = HashedKey::new(key, &self.shared.hasher);
        let shard = read(self.shard(key));
        let found = shard.look_up(key);
        found.is_some_and(|(_, found)| found.head.expiry.has_passed(self.clock.now()))
    }

    /// `flush_all`: removes every item now, and cancels a delayed flush that is pending.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then nothing is removed.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.remove_everything(None)
    }

    /// `flush_all <exptime>`: removes every item at that time, also those that are stored until then. It replaces a
    /// delayed flush that is pending. If the time has passed already, it only cancels the pending one.
    ///
    /// The flush happens one second before its time, as in memcached: `flush_all 1` happens at once.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then nothing has changed.
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

    /// The clock that decides when items of this store expire.
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

    /// Seconds since the least recently read item was read; 0 if there is no item.
    pub fn age(&self) -> u32 {
        let now = self.clock.now();
        let oldest = self.shards.iter().filter_map(|shard| {
            let shard = read(shard);
            let items = shard.items();
            items.map(|item| item.slot.access.time(now)).min()
        });
        oldest.min().map_or(0, |last| now.saturating_sub(last))
    }

    /// Every item, a segment at a time. A segment is copied when the iterator reaches it, so a client that reads slowly
    /// keeps one segment in memory and no lock. An item that is moved or replaced meanwhile may be returned twice.
    pub fn snapshot(&self) -> impl Iterator<Item = Vec<Item<'static>>> {
        self.flush_if_due();
        let now = self.clock.now();
        self.shards.iter().flat_map(move |lock| {
            let mut next = 0;
            let segments = std::iter::from_fn(move || {
                let mut shard = write(lock);
                let (sequence, items) = shard.close_segment(next, now)?;
                next = sequence + 1;
                Some(items.map(Item::into_owned).collect())
            });
            // Items that move get into segments with higher numbers, and so do new items. This bound ends the iteration
            // even if new segments are made faster than the client reads.
            segments.take(2 * read(lock).segment_count() + 2)
        })
    }

    /// How much memory all items may use together, in bytes.
    pub fn memory_limit(&self) -> usize {
        self.memory.limit()
    }

    /// Changes the memory limit. If more is used, each of the next writes evicts a little (with `-M`, none does).
    pub fn set_memory_limit(&self, bytes: usize) {
        self.least_used.store(self.memory.used(), Relaxed);
        self.memory
            .set_limit(bytes.min(self.shards.len() * MAX_SHARD_MEMORY));
    }

    /// Flushes if a delayed flush is due. A method that returns or changes items calls this first. It locks all shards,
    /// so the caller must hold no lock.
    fn flush_if_due(&self) {
        let due = self.flush_at.load(Relaxed);
        if due != 0 && due <= self.clock.now() {
            // If the flush cannot be recorded now, the next call tries again.
            let _ = self.remove_everything(Some(due));
        }
    }

    /// Removes every item. If `due` is a time, it does so only if a flush is still pending for exactly this time.
    fn remove_everything(&self, due: Option<UnixTime>) -> Result<(), StoreError> {
        // All shards are locked before the first is emptied, so the flush is atomic.
        let mut shards: Vec<_> = self.shards.iter().map(write).collect();
        if due.is_some_and(|due| self.flush_at.load(Relaxed) != due) {
            return Ok(());
        }
        let recorded = self.record_flush();
        if due.is_none() {
            recorded?;
        }
        // A delayed flush is in the log already, so the items are removed even if `Record::Flush` cannot be appended
        // now. Then the flush stays pending, and is tried again before the next change.
        self.has_unrecorded_flush.store(recorded.is_err(), Relaxed);
        if recorded.is_ok() {
            self.flush_at.store(0, Relaxed);
        } else if shards.iter().all(|shard| shard.len() == 0) {
            return Ok(());
        }
        let emptied: Vec<Shard> = shards
            .iter_mut()
            .map(|shard| std::mem::replace(&mut **shard, Shard::new(Arc::clone(&self.shared))))
            .collect();
        drop(shards);
        // Freeing the memory takes a while, and only this client has to wait for it.
        drop(emptied);
        Ok(())
    }

    /// The shard of a key. The upper 32 bits of the key's hash decide it. All shards have equal shares of their values.
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
