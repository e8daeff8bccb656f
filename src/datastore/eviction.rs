//! Eviction: which items leave when memory is short.
//!
//! A shard has two queues of segments, and items get a second chance. New items are in the *probation* queue. When a
//! segment reaches its front, the items that were read meanwhile move to the end of the *main* queue, and the others
//! are evicted: so keys that come once and never again pass through, and leave those alone that are in
//! use. When a segment reaches the front of the main queue, the items that were read since move to its end again, and
//! the others are evicted. The shard whose probation queue has the oldest segment evicts first, so new items leave in the
//! order in which they came, whatever shard they are in. Before a shard evicts, it removes what has expired.
//!
//! Two of five evictions look at the main queue first, if it has more than 30 per cent of a shard's segments. So it
//! shrinks to what is read again within such a round, and when popularity shifts, what was popular is gone after
//! one. How long the probation queue is follows from that; nothing has to be set or learned. A hit costs a bit,
//! which only the first hit sets.
//!
//! Invariant: an eviction is recorded before it is made.
//!
//! # Why this one
//!
//! The share of hits, in per cent, of a read-through cache with room for 131,000 of a million keys, on three kinds
//! of traces: popularity that stays as it is (Zipf, 0.99), the same with scans of keys that never return, and
//! popularity that shifts. `cargo bench --bench hits -- --simulate` makes this table:
//!
//! | algorithm                                | stable |  scans | shifts |
//! |------------------------------------------|--------|--------|--------|
//! | FIFO                                     |  75.39 |  55.88 |  73.67 |
//! | LRU                                      |  78.03 |  58.52 |  73.92 |
//! | CLOCK (FIFO with a second chance)        |  78.55 |  59.35 |  73.67 |
//! | SIEVE (Zhang et al., NSDI 2024)          |  79.58 |  61.31 |  68.08 |
//! | S3-FIFO (Yang et al., SOSP 2023)         |  79.31 |  60.97 |  71.38 |
//! | S3-FIFO, half of it for new ones         |  78.94 |  61.51 |  73.16 |
//! | CAR (Bansal and Modha, FAST 2004), close |  79.15 |  61.36 |  73.62 |
//! | **this one**                             |  79.01 |  60.57 |  73.49 |
//! | memcached 1.6.45, measured, 131,064 keys |  78.49 |  59.37 |  73.17 |
//!
//! SIEVE and S3-FIFO keep what was popular long after it is not any more. S3-FIFO and CAR also remember keys that
//! were evicted, and what that takes is taken from the items. (They were simulated item by item.) In as much memory as memcached
//! has, the server itself holds 156,000 of these items, for 79.65, 61.44 and 74.31 per cent: `cargo bench --bench hits`.

use std::sync::{RwLock, TryLockError};
use std::thread;

use super::item_ref::ItemRef;
use super::segment::{QueueId, SEGMENT_SIZE};
use super::shard::{Removed, Shard};
use super::{Datastore, StoreError, lock, read, write};
use crate::aof::record::Record;
use crate::stats::Counter;

/// A write stops evicting when it has freed this many bytes more than it needs, so that nobody waits long when
/// `cache_memlimit` has made the limit much lower: then many writes share the work.
const SHRINK_STEP: usize = SEGMENT_SIZE;

/// A write of at most this many bytes reserves nothing, and does not wait for another thread that evicts, as long as hardly
/// more is used than may be: that thread frees a segment, which is enough for many small writes. (Without that bound,
/// 100 clients were measured to leave one evicting thread so little time that memory grew to three times `-m`.)
pub const MAX_SMALL_WRITE: usize = 1 << 10;

/// What a look at all shards has found.
struct Survey<'s> {
    /// The shard with the oldest segment, if there is one.
    oldest: Option<&'s RwLock<Shard>>,
    /// How many segments there are.
    segments: usize,
    /// How much memory the shards take, in bytes.
    size: usize,
}

impl Datastore {
    /// Evicts until at most `limit` bytes are used, or until it has freed [enough](SHRINK_STEP) for a write of this many
    /// bytes. Returns `false` if eviction cannot free enough: pending items or readers hold the memory.
    pub(super) fn evict_down_to(&self, limit: usize, bytes: usize) -> Result<bool, StoreError> {
        // One thread at a time: the segment that it frees is room for many small writes, which go on meanwhile.
        let need_not_wait = bytes <= MAX_SMALL_WRITE && self.memory.used() <= limit + limit / 64;
        let evicting = match self.evicting.try_lock() {
            Err(TryLockError::WouldBlock) if need_not_wait => return Ok(true),
            Ok(evicting) => evicting,
            Err(_) => lock(&self.evicting),
        };
        let at_most = bytes.saturating_add(SHRINK_STEP);
        let (mut freed, mut failed_attempts) = (0, 0);
        while self.memory.used() > limit && freed < at_most {
            let survey = self.survey();
            let Some(shard) = survey.oldest else {
                return Ok(false);
            };
            // If what eviction cannot free is too much already, it evicts nothing. It gives up when all that is left is
            // being sent.
            let not_evictable = self.memory.used().saturating_sub(survey.size);
            if not_evictable > limit || failed_attempts > 2 * survey.segments {
                return Ok(false);
            }
            // In the first round items that were read stay, in the second round they do not.
            let spares_read = failed_attempts <= survey.segments;
            let more = self.evict_from(&mut write(shard), spares_read)?;
            failed_attempts = if more > 0 { 0 } else { failed_attempts + 1 };
            freed += more;
        }
        drop(evicting);
        if self.memory.used() > limit {
            // More writes will evict. A mutex is not fair: now a thread that waits has its turn.
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

    /// Evicts from one segment of a shard, or removes what has expired there. Gives how many bytes have come free.
    fn evict_from(&self, shard: &mut Shard, spares_read: bool) -> Result<usize, StoreError> {
        let (before, now) = (shard.size(), self.clock.now());
        if let Some(removed) = shard.remove_expired(now) {
            self.count_expired(removed);
        } else if let Some(id) = shard.next_victim() {
            // Asked once: a reader may let go at any moment, and what is recorded must be what is then evicted.
            let is_being_sent = shard.items_of(id).any(ItemRef::is_being_sent);
            let stays = |item: ItemRef<'_>| {
                let is_wanted = spares_read && item.slot.access.is_visited();
                (is_wanted || is_being_sent).then(|| item.slot.unvisited_copy())
            };
            // Recorded like any removal: an evicted item must not come back with a restart, least of all after a client
            // deleted the missing key.
            let evicted = shard.items_of(id).filter(|item| stays(*item).is_none());
            self.record_all(evicted.map(|item| Record::Remove {
                key: item.key().into(),
                cas: None,
            }))?;
            let removed = shard.reclaim(id, QueueId::Main, stays);
            shard.compact();
            self.stats.add(Counter::Evictions, removed.items);
            self.stats.add(Counter::EvictedUnfetched, removed.unfetched);
        }
        Ok(before.saturating_sub(shard.size()))
    }

    /// Removes the items that have expired: an item that nobody asks for would keep its memory for ever.
    ///
    /// A shard is locked for one segment at a time, so nobody waits for millions of items that expire together.
    pub fn sweep(&self) {
        self.flush_if_due();
        let now = self.clock.now();
        for shard in &self.shards {
            while read(shard).may_have_expired(now)
                && let Some(removed) = write(shard).remove_expired(now)
            {
                self.count_expired(removed);
            }
        }
    }

    fn count_expired(&self, removed: Removed) {
        self.stats.add(Counter::Reclaimed, removed.items);
        self.stats.add(Counter::ExpiredUnfetched, removed.unfetched);
    }
}

#[cfg(test)]
mod tests {
    use super::super::WhenFull;
    use super::super::segment::SEGMENT_SIZE;
    use super::super::tests::{MEGABYTE, get, set, store_with, validate};
    use super::*;
    use crate::protocol::Exptime;

    #[test]
    fn memory_stays_within_its_limit_by_evicting() {
        let store = store_with(MEGABYTE, WhenFull::Evict);
        let value = "v".repeat(1000);
        for n in 0..5000 {
            set(&store, &format!("key {n}"), &value, Exptime::Never);
            // A shard that begins a segment may take a little more for a moment.
            assert!(store.memory.used() <= MEGABYTE + 2 * SEGMENT_SIZE);
        }
        validate(&store);
        assert_eq!(
            get(&store, "key 4999"),
            Some(value),
            "what was stored last is there"
        );
        assert!(store.stats.get(Counter::Evictions) > 3000);
    }

    #[test]
    fn items_are_evicted_in_the_order_of_storing_whatever_their_cas_uniques_are() {
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
    fn an_item_in_use_outlives_those_that_are_not_however_large_they_are() {
        let store = store_with(16 * MEGABYTE, WhenFull::Evict);
        let value = "v".repeat(MEGABYTE / 8);
        for n in 0..400 {
            set(&store, &format!("once {n}"), &value, Exptime::Never);
            for hot in 0..20 {
                let hot = format!("hot {hot}");
                if get(&store, &hot).is_none() {
                    assert!(n == 0, "{hot} is gone after {n}");
                    set(&store, &hot, &value, Exptime::Never);
                }
            }
        }
        validate(&store);
    }

    #[test]
    fn a_limit_that_is_lowered_is_reached_by_many_writes_and_not_by_one() {
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
    fn after_a_flush_all_memory_can_be_used_again() {
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
