//! How a shard gets memory back: segments leave their queues whole.
//!
//! [`Shard::reclaim`] moves the items of a segment that stay to a queue's end, and removes the rest. Eviction reclaims the
//! oldest segment, and the items that were read since stay. Compaction reclaims the segment with the most dead bytes, and
//! all items that are alive stay. Items that have expired are removed where they are: then their bytes are dead.
//!
//! Invariant: after each change, the bytes that are dead (heads and slots included) are at most a quarter of those that
//! are alive and
//! [`DEAD_ALLOWANCE`].

use super::super::head::Slot;
use super::super::index::{Hash32, Location, SegmentId};
use super::super::item_ref::ItemRef;
use super::super::segment::{ITEM_OVERHEAD, QueueId, SEGMENT_SIZE, Segment};
use super::Shard;
use crate::item::UnixTime;

/// How many bytes may be dead in a shard, beside a quarter of those that are alive: the open segments are not cleaned.
const DEAD_ALLOWANCE: usize = 3 * SEGMENT_SIZE;

/// Items that expiry or eviction has removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// How many there are.
    pub items: u64,
    /// How many of them nobody had ever read.
    pub unfetched: u64,
}

impl Removed {
    fn count(&mut self, item: ItemRef<'_>) {
        self.items += 1;
        self.unfetched += u64::from(!item.slot.access.is_fetched());
    }
}

impl Shard {
    /// Takes a segment out of its queue. Its items for which `stays` returns a slot are appended to the end of the queue `to`,
    /// with that slot; the others are removed. A large item moves with its segment, and is not copied.
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
        // Only now: until here the index pointed into the segment, so no other may have had its number.
        self.unused_ids.push(id);
        removed
    }

    /// Removes the items of one segment that have expired; `None` if there is nothing more to be removed.
    ///
    /// The other items of the segment keep their places, unless so many bytes are dead now that it is compacted.
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

    /// Compacts segments until few bytes are dead. Returns whether items have moved.
    ///
    /// The dirtiest segment is at least as dirty as the average, so what a change costs here is a few copies of what it
    /// has made dead.
    pub fn compact(&mut self) -> bool {
        let mut moved = false;
        while self.is_dirty() && self.compact_dirtiest() {
            moved = true;
        }
        moved
    }

    /// Whether more bytes are dead than may be.
    pub(super) fn is_dirty(&self) -> bool {
        self.usage.dead > self.bytes(ITEM_OVERHEAD) / 4 + DEAD_ALLOWANCE
    }

    /// Compacts segments as long as that is worth it, because memory is short and nothing may be evicted.
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

    /// The segment that is evicted next.
    ///
    /// In two of five turns the main queue is tried first, if it has more than 30 per cent of the segments.
    pub fn next_victim(&mut self) -> Option<SegmentId> {
        self.victim_turn = self.victim_turn.wrapping_add(1);
        let (probation, main) = (&self.probation.segments, &self.main.segments);
        let main_is_long = main.len() * 10 > (main.len() + probation.len()) * 3;
        let queues = match self.victim_turn % 5 < 2 && main_is_long {
            true => [main, probation],
            false => [probation, main],
        };
        queues
            .into_iter()
            .find_map(|queue| queue.values().next().copied())
    }

    /// The sequence number of its oldest segment: of the probation queue, or if that is empty, of the main queue.
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
