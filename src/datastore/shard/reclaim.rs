//! How a shard frees memory: one segment at a time.
//!
//! [`Shard::reclaim`] frees a segment. It appends the items that stay to the end of a queue, and removes the others.
//! Eviction reclaims the oldest segment, and the items that were read since they were queued stay. Compaction reclaims
//! the segment with the most dead bytes, and all items that are alive stay. Expiry moves nothing: items that have
//! expired are removed from the index, and then their bytes are dead.
//!
//! Invariant: after each change, the bytes that are dead (heads and slots included) are at most [`DEAD_ALLOWANCE`] plus
//! a quarter of those that are alive.

use super::super::head::Slot;
use super::super::index::{Hash32, Location, SegmentId};
use super::super::item_ref::ItemRef;
use super::super::segment::{ITEM_OVERHEAD, QueueId, SEGMENT_SIZE, Segment};
use super::Shard;
use crate::item::UnixTime;

/// How many bytes may be dead in a shard, in addition to a quarter of those that are alive. Some must be allowed,
/// because open segments are not compacted.
const DEAD_ALLOWANCE: usize = 3 * SEGMENT_SIZE;

/// Items that expiry or eviction has removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// How many there are.
    pub items: u64,
    /// How many of them were never read.
    pub unfetched: u64,
}

impl Removed {
    fn count(&mut self, item: ItemRef<'_>) {
        self.items += 1;
        self.unfetched += u64::from(!item.slot.access.is_fetched());
    }
}

impl Shard {
    /// Frees a segment. If `stays` returns a slot for an item, the item is appended to the queue `to` with that slot;
    /// if not, it is removed. A large item that stays is not copied: its segment moves to the end of the queue.
    pub fn reclaim(
        &mut self,
        id: SegmentId,
        to: QueueId,
        stays: impl Fn(ItemRef<'_>) -> Option<Slot>,
    ) -> Removed {
        let mut removed = Removed::default();
        let Some(mut segment) = self.detach(id) else {
            return removed;
        };
        if segment.is_large() && segment.items().all(|(_, item)| stays(item).is_some()) {
            segment.clear_visited();
            segment.queue = to;
            self.attach(id, segment);
            return removed;
        }
        for (slot, item) in segment.items() {
            let (hash, from) = (self.hash32(item), Location::new(id, slot));
            if let Some(slot) = stays(item) {
                let at = self.append(to, slot, item.head, item.bytes);
                self.index.relocate(hash, from, at);
            } else {
                self.index.remove(hash, from);
                removed.count(item);
            }
        }
        // Not earlier: until here the index had locations in this segment, so no other segment could have its number.
        self.unused_ids.push(id);
        removed
    }

    /// Removes the expired items of one segment. Returns `None` if there are no more expired items.
    ///
    /// The other items of the segment stay where they are, unless so many bytes are dead now that segments are
    /// compacted.
    pub fn remove_expired(&mut self, now: UnixTime) -> Option<Removed> {
        if !self.may_have_expired(now) {
            return None;
        }
        let earliest = |segment: &Segment| segment.earliest_expiry;
        let has_expired = |segment: &Segment| earliest(segment).is_some_and(|end| end <= now);
        let mut segments = self.segments.iter().zip(0..);
        let Some((_, id)) = segments.find(|(segment, _)| segment.as_ref().is_some_and(has_expired))
        else {
            self.earliest_expiry = self.segments.iter().flatten().filter_map(earliest).min();
            return None;
        };
        let (mut removed, mut expired) = (Removed::default(), Vec::<(Location, Hash32)>::new());
        for (slot, item) in self.segment(id).into_iter().flat_map(Segment::items) {
            if item.head.expiry.has_passed(now) {
                removed.count(item);
                expired.push((Location::new(id, slot), self.hash32(item)));
            }
        }
        for (at, hash) in expired {
            self.index.remove(hash, at);
            self.mark_dead(at);
        }
        self.change(id, Segment::update_earliest_expiry);
        self.compact();
        Some(removed)
    }

    /// Whether an item may have expired.
    pub fn may_have_expired(&self, now: UnixTime) -> bool {
        self.earliest_expiry.is_some_and(|earliest| earliest <= now)
    }

    /// Compacts segments until no more bytes are dead than are allowed. Returns whether items have moved.
    ///
    /// The dirtiest segment has at least as many dead bytes as the average. So for each byte that a change has made
    /// dead, only a few bytes are copied here.
    pub fn compact(&mut self) -> bool {
        let mut moved = false;
        while self.is_dirty() && self.compact_dirtiest() {
            moved = true;
        }
        moved
    }

    /// Whether more bytes are dead than are allowed.
    fn is_dirty(&self) -> bool {
        self.usage.dead > self.bytes(ITEM_OVERHEAD) / 4 + DEAD_ALLOWANCE
    }

    /// Compacts segments while enough bytes are dead to be worth it. It is called when memory is short and nothing may
    /// be evicted.
    pub fn compact_fully(&mut self) {
        while self.usage.dead > SEGMENT_SIZE / 4 && self.compact_dirtiest() {}
    }

    /// Compacts the dirtiest segment that is not open. Returns whether there was one.
    fn compact_dirtiest(&mut self) -> bool {
        let is_open = |id| [self.probation.open, self.main.open].contains(&Some(id));
        let dirty = self.segments.iter().zip(0..).filter_map(|(segment, id)| {
            let segment = segment.as_ref().filter(|_| !is_open(id))?;
            Some((segment.usage().dead, id, segment.queue)).filter(|(dead, ..)| *dead > 0)
        });
        let dirtiest = dirty.max_by_key(|(dead, ..)| *dead);
        if let Some((_, id, queue)) = dirtiest {
            self.reclaim(id, queue, |item| Some(item.slot.copy()));
        }
        dirtiest.is_some()
    }

    /// The segment that is evicted next, by a thread that began when `sequence_at_start` was the next sequence number.
    ///
    /// In two of five turns the main queue is tried first, if it has more than 30 per cent of the segments. It is not
    /// tried first if this thread has just moved the items there: no client had time to read them again.
    pub fn next_victim(&mut self, sequence_at_start: u64) -> Option<SegmentId> {
        self.victim_turn = self.victim_turn.wrapping_add(1);
        let (probation, main) = (&self.probation.segments, &self.main.segments);
        let main_is_long = main.len() * 10 > (main.len() + probation.len()) * 3;
        let main_is_old = main
            .keys()
            .next()
            .is_some_and(|sequence| *sequence < sequence_at_start);
        let queues = match self.victim_turn % 5 < 2 && main_is_long && main_is_old {
            true => [main, probation],
            false => [probation, main],
        };
        queues
            .into_iter()
            .find_map(|queue| queue.values().next().copied())
    }

    /// The sequence number of the oldest segment of the probation queue, or of the main queue if the probation queue is
    /// empty.
    pub fn oldest(&self) -> Option<u64> {
        let queues = [&self.probation, &self.main].into_iter();
        let mut sequences = queues.flat_map(|queue| queue.segments.keys());
        sequences.next().copied()
    }

    /// How many segments there are.
    pub fn segment_count(&self) -> usize {
        self.segments.len() - self.unused_ids.len()
    }
}
