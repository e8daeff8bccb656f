//! Eviction: which items leave when memory is short.
//!
//! A shard has two queues of segments, and items get a second chance. New items are in the *probation* queue. When a
//! segment reaches its front, the items that were read meanwhile move to the end of the *main* queue, and the others
//! are evicted: so keys that come once and never again pass through, and leave those alone that are in
//! use. When a segment reaches the front of the main queue, the items that were read since move to its end again, and
//! the others are evicted. Of all shards, the one with the oldest segment is the first to evict, so items leave in the order in which
//! they came, whatever shard they are in. Before anything is evicted there, what has expired is removed.
//!
//! Two of five evictions look at the main queue first, as long as it has more than 30 per cent of a shard's items. So it
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

use std::sync::RwLock;

use super::item_ref::ItemRef;
use super::segment::{QueueId, SEGMENT};
use super::shard::{Removed, Shard};
use super::{Datastore, StoreError, lock, read, write};
use crate::aof::record::Record;
use crate::stats::Counter;

/// A write frees at most this many bytes more than it needs, so that nobody waits long when `cache_memlimit` has
/// made the limit much lower: then many writes share the work.
const SHRINK_STEP: usize = SEGMENT;

/// A write of so many bytes does not wait for another thread that evicts: for each of them a segment comes free. (With
/// waiting, one `set` was measured to wait 50 ms while millions of items were evicted, because a mutex is not fair.)
const SMALL_WRITE: usize = 1 << 10;

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
    /// bytes. Gives `false` if neither is to be had: what is used is not the items' (coming values, large items that readers
    /// still hold), or all that is left is being sent.
    pub(super) fn evict_down_to(&self, limit: usize, bytes: usize) -> Result<bool, StoreError> {
        // One thread at a time: the segment that it frees is room for many small writes, which go on meanwhile.
        let _alone = match self.evicting.try_lock() {
            Ok(alone) => alone,
            Err(_) if bytes <= SMALL_WRITE => return Ok(true),
            Err(_) => lock(&self.evicting),
        };
        let at_most = bytes.saturating_add(SHRINK_STEP);
        let (mut freed, mut in_vain) = (0, 0);
        while self.memory.used() > limit && freed < at_most {
            let survey = self.survey();
            let Some(shard) = survey.oldest else {
                return Ok(false);
            };
            // What eviction cannot free is already too much: then nobody's items have to go. And nothing may be left but
            // items that are being sent.
            let not_evictable = self.memory.used().saturating_sub(survey.size);
            if not_evictable > limit || in_vain > 2 * survey.segments {
                return Ok(false);
            }
            // In the first round items that were read are spared, in the second round they are not.
            let spares_read = in_vain <= survey.segments;
            let more = self.evict_from(&mut write(shard), spares_read)?;
            in_vain = if more > 0 { 0 } else { in_vain + 1 };
            freed += more;
        }
        Ok(true)
    }

    /// Looks at all shards, one after the other.
    fn survey(&self) -> Survey<'_> {
        let (mut segments, mut size, mut oldest) = (0, 0, None);
        for lock in &self.shards {
            let shard = read(lock);
            segments += shard.segments();
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
            let stays = |item: ItemRef<'_>| {
                let is_wanted = spares_read && item.slot.access.is_visited();
                is_wanted || item.is_being_sent()
            };
            // Recorded like any removal: an evicted item must not come back with a restart, least of all
            // after a client has deleted what was not there any more.
            let evicted = shard.items_of(id).filter(|item| !stays(*item));
            self.record_all(evicted.map(|item| Record::Remove {
                key: item.key().into(),
                cas: None,
            }))?;
            let removed = shard.reclaim(id, QueueId::Main, stays);
            self.stats.add(Counter::Evictions, removed.items);
            self.stats.add(Counter::EvictedUnfetched, removed.unfetched);
        }
        Ok(before.saturating_sub(shard.size()))
    }

    /// Removes the items that have expired: nobody may ever ask for them, and they would keep their memory.
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
