//! Eviction: which items are evicted when memory is short.
//!
//! A shard has two queues of segments, and items get a second chance. New items are in the *probation* queue. When a
//! segment at its front is evicted, the items that were read since they were queued are moved to the end of the *main*
//! queue, and the others are evicted. So keys that are stored once and never read do not push out those that are in
//! use. When a segment at the front of the main queue is evicted, the items that were read since are moved to its end
//! again, and the others are evicted.
//!
//! The shard whose probation queue has the oldest segment evicts first, so new items are evicted in the order in which
//! they were stored, whatever shard they are in. Before a shard evicts, it removes the items that have expired.
//!
//! Two of five evictions try the main queue first, if it has more than 30 per cent of a shard's segments. So the main
//! queue shrinks to the items that are read again within one round of the queue. When popularity shifts, the items that
//! were popular are evicted after one round. The length of the probation queue follows from this, so nothing has to be
//! configured or learned. All it needs is one bit for each item, which a hit sets.
//!
//! Invariant: an eviction is recorded before it is made.
//!
//! # Why this one
//!
//! The share of hits, in per cent, of a read-through cache with room for 131,000 of a million keys, on three kinds
//! of traces: popularity that does not change (Zipf, 0.99), the same with scans of keys that are never read again, and
//! popularity that shifts. `cargo bench --bench hits -- --simulate` prints this table:
//!
//! | algorithm                                | stable |  scans | shifts |
//! |------------------------------------------|--------|--------|--------|
//! | FIFO                                     |  75.39 |  55.88 |  73.67 |
//! | LRU                                      |  78.03 |  58.52 |  73.92 |
//! | CLOCK (FIFO with a second chance)        |  78.55 |  59.35 |  73.67 |
//! | SIEVE (Zhang et al., NSDI 2024)          |  79.58 |  61.31 |  68.08 |
//! | S3-FIFO (Yang et al., SOSP 2023)         |  79.31 |  60.97 |  71.38 |
//! | S3-FIFO, half of it for new items        |  78.94 |  61.51 |  73.16 |
//! | CAR (Bansal and Modha, FAST 2004), close |  79.15 |  61.36 |  73.62 |
//! | **this one**                             |  79.01 |  60.57 |  73.49 |
//! | memcached 1.6.45, measured, 131,064 keys |  78.49 |  59.37 |  73.17 |
//!
//! SIEVE and S3-FIFO keep items long after they were popular. S3-FIFO and CAR also remember keys that were evicted, and
//! the memory for that is missing for items. (They were simulated item by item.) With as much memory as memcached has,
//! the server itself holds 156,000 of these items, and 79.65, 61.44 and 74.31 per cent are hits:
//! `cargo bench --bench hits`.
//!
//! Lesson: [10](crate::conversations::lesson_10_flush_all).

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{RwLock, TryLockError};
use std::thread;

use super::item_ref::ItemRef;
use super::segment::{QueueId, SEGMENT_SIZE};
use super::shard::{Removed, Shard};
use super::{Datastore, StoreError, lock, read, write};
use crate::aof::record::Record;
use crate::item::UnixTime;
use crate::protocol::Streams;
use crate::stats::Counter;

/// A write stops evicting when it has freed this many bytes more than it needs. If `cache_memlimit` has made the limit
/// much lower, many writes share the work, and no client waits long.
const SHRINK_STEP: usize = SEGMENT_SIZE;

/// A write of at most this many bytes is small: it reserves nothing. It does not wait for another thread that evicts,
/// as long as used memory exceeds the limit by at most 1/64: that thread frees a segment, which is enough for many
/// small writes. (Without that bound, 100 clients left the one evicting thread so little time that memory was measured
/// to grow to three times `-m`.)
///
/// `cache_memlimit` can lower the limit far below the used memory. Then used memory is not compared with the limit, but
/// with the least memory that was used since. (Without that, a small write waited for up to 44 ms, until other threads
/// had freed 900 MB.)
pub const MAX_SMALL_WRITE: usize = 1 << 10;

/// One attempt to evict from a shard.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    /// If items have expired by this time, they are removed, and nothing is evicted.
    now: UnixTime,
    /// The next sequence number of a segment when this thread began to evict.
    sequence_at_start: u64,
    /// Whether items that were read stay.
    spares_read: bool,
}

/// What [`Datastore::survey`] has found in all shards.
struct Survey<'s> {
    /// The shard that evicts next: the one whose probation queue has the oldest segment. `None`: all are empty.
    oldest: Option<&'s RwLock<Shard>>,
    /// How many segments there are.
    segments: usize,
    /// How much memory the shards take, in bytes.
    size: usize,
}

impl Datastore {
    /// Evicts until at most `limit` bytes are used, or until it has freed [enough](SHRINK_STEP) for a write of `bytes`
    /// bytes. If another thread evicts already, a [small write](MAX_SMALL_WRITE) usually returns at once. Returns
    /// `false` if eviction cannot free enough, because pending items or readers hold the memory.
    ///
    /// Items that have expired by `now` are removed before others are evicted. (In a replay `now` is 0, because time
    /// marks remove them.)
    pub(super) fn evict_down_to(
        &self,
        limit: usize,
        bytes: usize,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        // One thread evicts at a time. The segment that it frees is enough for many small writes, so these do not wait.
        let expected = limit.max(self.least_used.load(Relaxed));
        let need_not_wait = bytes <= MAX_SMALL_WRITE && self.memory.used() <= expected + limit / 64;
        let evicting = match self.evicting.try_lock() {
            Err(TryLockError::WouldBlock) if need_not_wait => return Ok(true),
            Ok(evicting) => evicting,
            Err(_) => lock(&self.evicting),
        };
        let enough = bytes.saturating_add(SHRINK_STEP);
        let sequence_at_start = self.shared.sequence.load(Relaxed);
        let (mut freed, mut failed_attempts) = (0, 0);
        while self.memory.used() > limit && freed < enough {
            let survey = self.survey();
            let Some(shard) = survey.oldest else {
                return Ok(false);
            };
            // If the memory that eviction cannot free exceeds the limit already, it evicts nothing. It gives up when
            // two rounds over all segments have freed nothing, because readers are still sending the items.
            let not_evictable = self.memory.used().saturating_sub(survey.size);
            if not_evictable > limit || failed_attempts > 2 * survey.segments {
                return Ok(false);
            }
            // In the first round items that were read stay, in the second round they do not.
            let attempt = Attempt {
                now,
                sequence_at_start,
                spares_read: failed_attempts <= survey.segments,
            };
            let freed_now = self.evict_from(&mut write(shard), attempt)?;
            failed_attempts = if freed_now > 0 {
                0
            } else {
                failed_attempts + 1
            };
            freed += freed_now;
        }
        self.least_used.fetch_min(self.memory.used(), Relaxed);
        drop(evicting);
        if self.memory.used() > limit {
            // More writes must evict. A mutex is not fair: this lets a thread that waits for it run first.
            thread::yield_now();
        }
        Ok(true)
    }

    /// Looks at all shards, one after the other.
    fn survey(&self) -> Survey<'_> {
        let (mut segments, mut size, mut oldest) = (0, 0, None);
        for lock in &self.shards {
            let shard = read(lock);
            segments += shard.segment_count();
            size += shard.size();
            if let Some(sequence) = shard.oldest()
                && oldest.is_none_or(|(known, _)| sequence < known)
            {
                oldest = Some((sequence, lock));
            }
        }
        Survey {
            oldest: oldest.map(|(_, lock)| lock),
            segments,
            size,
        }
    }

    /// Removes the expired items of one segment of a shard, or if none has expired, evicts from one segment. Returns
    /// how many bytes were freed.
    fn evict_from(&self, shard: &mut Shard, attempt: Attempt) -> Result<usize, StoreError> {
        let before = shard.size();
        if let Some(removed) = shard.remove_expired(attempt.now) {
            self.count_expired(removed);
        } else if let Some(id) = shard.next_victim(attempt.sequence_at_start) {
            // Determined once: a reader may finish at any moment, but the items that are recorded must be those that
            // are then evicted.
            let is_being_sent = shard.items_of(id).any(ItemRef::is_being_sent);
            let stays = |item: ItemRef<'_>| {
                is_being_sent || attempt.spares_read && item.slot.access.is_visited()
            };
            // An eviction is recorded like any removal. A restart must not bring an evicted item back, least of all
            // after a client has deleted the missing key.
            let evicted = shard.items_of(id).filter(|item| !stays(*item));
            self.record_all(evicted.map(|item| Record::Remove {
                key: item.key().into(),
                cas: None,
            }))?;
            if self.watchers.is_watched(Streams::EVICTIONS) {
                let evicted = shard.items_of(id).filter(|item| !stays(*item));
                evicted
                    .for_each(|item| self.watchers.evicted(&item.item(attempt.now), attempt.now));
            }
            let removed = shard.reclaim(id, QueueId::Main, |item| {
                stays(item).then(|| item.slot.unvisited_copy())
            });
            shard.compact();
            self.stats.add(Counter::Evictions, removed.items);
            self.stats.add(Counter::EvictedUnfetched, removed.unfetched);
        }
        Ok(before.saturating_sub(shard.size()))
    }

    /// Removes the items that have expired. Otherwise an expired item would keep its memory until it is replaced,
    /// flushed, or removed by an eviction.
    ///
    /// A shard is locked for one segment at a time, so no client waits long when millions of items expire together.
    pub fn sweep(&self) {
        self.flush_if_due();
        let now = self.clock.now();
        let has_removed = self.remove_expired(now);
        self.mark_log(now, has_removed);
    }

    /// Removes the items that have expired by `now`. Returns whether there were any.
    pub(super) fn remove_expired(&self, now: UnixTime) -> bool {
        let mut has_removed = false;
        for shard in &self.shards {
            while read(shard).may_have_expired(now)
                && let Some(removed) = write(shard).remove_expired(now)
            {
                self.count_expired(removed);
                has_removed |= removed.items > 0;
            }
        }
        has_removed
    }

    fn count_expired(&self, removed: Removed) {
        self.stats.add(Counter::Reclaimed, removed.items);
        self.stats.add(Counter::ExpiredUnfetched, removed.unfetched);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::super::WhenFull;
    use super::super::segment::SEGMENT_SIZE;
    use super::super::tests::{MEGABYTE, get, set, store_with, validate};
    use super::*;
    use crate::protocol::Exptime;

    #[test]
    fn evictions_keep_used_memory_within_its_limit() {
        let store = store_with(MEGABYTE, WhenFull::Evict);
        let value = "v".repeat(1000);
        for n in 0..5000 {
            set(&store, &format!("key {n}"), &value, Exptime::Never);
            // A new segment may exceed the limit for a moment.
            assert!(store.memory.used() <= MEGABYTE + 2 * SEGMENT_SIZE);
        }
        validate(&store);
        assert_eq!(
            get(&store, "key 4999"),
            Some(value),
            "the item that was stored last is there"
        );
        assert!(store.stats.get(Counter::Evictions) > 3000);
    }

    #[test]
    fn the_items_that_were_stored_first_are_evicted_first_whatever_their_cas_uniques_are() {
        let store = store_with(16 * MEGABYTE, WhenFull::Evict);
        let key = |n: u32| format!("key {n}");
        for n in 0..600_000 {
            let pending = store
                .reserve_for(key(n).as_bytes(), Exptime::Never, b"value")
                .expect("there is room");
            store
                .lock_key(key(n).as_bytes())
                .put(pending.item, Some(7))
                .expect("nothing is recorded");
        }
        let there =
            |keys: std::ops::Range<u32>| keys.filter(|&n| get(&store, &key(n)).is_some()).count();
        assert_eq!((there(0..1000), there(599_000..600_000)), (0, 1000));
    }

    #[test]
    fn items_in_use_are_not_evicted_while_there_are_others_however_large_they_are() {
        let store = store_with(16 * MEGABYTE, WhenFull::Evict);
        let value = "v".repeat(MEGABYTE / 8);
        for n in 0..400 {
            set(&store, &format!("once {n}"), &value, Exptime::Never);
            for hot in 0..20 {
                let hot = format!("hot {hot}");
                if get(&store, &hot).is_none() {
                    assert!(n == 0, "{hot} was evicted after {n}");
                    set(&store, &hot, &value, Exptime::Never);
                }
            }
        }
        validate(&store);
    }

    #[test]
    fn after_the_limit_is_lowered_many_writes_share_the_evictions() {
        let store = store_with(64 * MEGABYTE, WhenFull::Evict);
        for n in 0..50_000 {
            set(&store, &n.to_string(), &"v".repeat(1000), Exptime::Never);
        }
        store.set_memory_limit(8 * MEGABYTE);
        let (mut writes, mut before) = (0, store.memory.used());
        while store.memory.used() > 8 * MEGABYTE {
            set(&store, "k", &writes.to_string(), Exptime::Never);
            let freed = before.saturating_sub(store.memory.used());
            assert!(freed <= 8 * SEGMENT_SIZE, "one write frees {freed} bytes");
            (writes, before) = (writes + 1, store.memory.used());
        }
        assert!((50..1000).contains(&writes), "{writes}");
        validate(&store);
    }

    #[test]
    fn while_memory_shrinks_a_small_write_does_not_wait_for_the_eviction_of_another() {
        let store = store_with(64 * MEGABYTE, WhenFull::Evict);
        for n in 0..20_000 {
            set(&store, &n.to_string(), &"v".repeat(1000), Exptime::Never);
        }
        store.set_memory_limit(8 * MEGABYTE);
        let evicting = lock(&store.evicting);
        let (sender, written) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| sender.send(set(&store, "k", "value", Exptime::Never)));
            let outcome = written.recv_timeout(Duration::from_secs(10));
            drop(evicting);
            outcome.expect("it did not wait");
        });
    }

    /// Stores small items from many threads. Returns how much memory was used at most.
    fn most_used_by_small_writes(store: &Datastore) -> usize {
        let most_used = &AtomicUsize::new(0);
        thread::scope(|scope| {
            for thread in 0..100 {
                scope.spawn(move || {
                    for n in 0..4_000 {
                        set(store, &format!("{thread} {n}"), "value", Exptime::Never);
                        most_used.fetch_max(store.memory.used(), Relaxed);
                    }
                });
            }
        });
        most_used.load(Relaxed)
    }

    #[test]
    fn many_threads_with_small_writes_do_not_outrun_eviction() {
        let store = store_with(8 * MEGABYTE, WhenFull::Evict);
        let limit = 8 * MEGABYTE;
        let allowed = limit + limit / 64 + 2 * SEGMENT_SIZE;
        let most = most_used_by_small_writes(&store);
        assert!(most <= allowed, "{most}");
        // After the limit is lowered, no more is used than before, and in the end no more than the new limit.
        store.set_memory_limit(limit / 4);
        let most = most_used_by_small_writes(&store);
        assert!(most <= allowed, "{most}");
        let used = store.memory.used();
        assert!(used <= limit / 4 + limit / 256 + 2 * SEGMENT_SIZE, "{used}");
    }

    #[test]
    fn after_a_flush_the_whole_memory_can_be_used_again() {
        let store = store_with(16 * MEGABYTE, WhenFull::Evict);
        for n in 0..10_000 {
            set(&store, &n.to_string(), "", Exptime::Never);
        }
        store.flush().expect("nothing is recorded");
        assert_eq!(store.memory.used(), 0);
        let value = "v".repeat(MEGABYTE);
        for n in 0..14 {
            set(&store, &n.to_string(), &value, Exptime::Never);
        }
        assert_eq!(store.stats.get(Counter::Evictions), 0);
    }
}
