//! A shard: a share of the items behind a lock of its own, so that clients of different keys seldom wait for each
//! other.
//!
//! ```text
//! index:      hash of the key  ->  segment and slot
//! segments:   0        1        2        3        -        5            each in one of two queues; 4 is unused
//! probation:  (3)  <-  (0)  <-  (5, open)                               the oldest in front
//! main:       (2)  <-  (1, open)
//! ```
//!
//! Items are appended to the open segment of a queue. A segment leaves its queue as a whole: see `reclaim.rs`. It keeps
//! its number until it is freed, so an item's [`Location`] changes only if the item itself moves.
//!
//! Invariants, which `Shard::validate` checks:
//! - the index finds each item that is alive by its key, and nothing else;
//! - a segment is in exactly one queue, under its sequence number, and holds at least one item that is alive;
//! - the usage is the sum of that of the segments;
//! - no item expires before `earliest_expiry`;
//! - the number of dead bytes is bounded: see `reclaim.rs`.

mod reclaim;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::head::{Head, Slot};
use super::index::{Hash32, Index, Location, SegmentId};
use super::item_ref::ItemRef;
use super::segment::{MAX_SMALL_ITEM, QueueId, Segment, Usage};
use crate::item::{Item, UnixTime, earlier};
use crate::memory::Memory;
pub use reclaim::Removed;

/// A key with its hash. The hash decides the shard of the key, and finds the key in the shard's index.
#[derive(Debug, Clone, Copy)]
pub struct HashedKey<'k> {
    pub key: &'k [u8],
    pub hash: u64,
}

impl<'k> HashedKey<'k> {
    /// Hashes a key. std's hasher has a random secret, so no client can choose keys that collide.
    pub fn new(key: &'k [u8], hasher: &RandomState) -> Self {
        let mut hasher = hasher.build_hasher();
        // `hash_one` would hash the length too, which separates a key from what is hashed after it.
        hasher.write(key);
        let hash = hasher.finish();
        HashedKey { key, hash }
    }

    /// The lower half of the hash; the shard is chosen by the upper half.
    fn hash32(self) -> Hash32 {
        self.hash as Hash32
    }
}

/// What the shards of a store share.
#[derive(Debug)]
pub struct Shared {
    pub hasher: RandomState,
    pub memory: Arc<Memory>,
    /// The next sequence number. A segment takes one when it enters a queue.
    pub sequence: AtomicU64,
}

/// A queue of segments, the oldest first.
#[derive(Debug, Default)]
struct Queue {
    /// By sequence number.
    segments: BTreeMap<u64, SegmentId>,
    /// The segment that items are appended to.
    open: Option<SegmentId>,
}

/// A share of the items.
#[derive(Debug)]
pub struct Shard {
    shared: Arc<Shared>,
    index: Index,
    segments: Vec<Option<Segment>>,
    /// Numbers of segments that are not in use.
    unused_ids: Vec<SegmentId>,
    probation: Queue,
    main: Queue,
    usage: Usage,
    /// No item expires before this time; `None`: none ever expires. A sweep with nothing to do reads only this.
    earliest_expiry: Option<UnixTime>,
    /// How many victims have been chosen.
    victim_turn: u32,
}

impl Shard {
    /// An empty shard.
    pub fn new(shared: Arc<Shared>) -> Self {
        Shard {
            index: Index::new(&shared.memory),
            shared,
            segments: Vec::new(),
            unused_ids: Vec::new(),
            probation: Queue::default(),
            main: Queue::default(),
            usage: Usage::default(),
            earliest_expiry: None,
            victim_turn: 0,
        }
    }

    /// Where a key's item is, expired or not.
    pub fn find(&self, key: HashedKey<'_>) -> Option<Location> {
        Some(self.look_up(key)?.0)
    }

    /// A key's item, expired or not, and where it is.
    pub fn look_up(&self, key: HashedKey<'_>) -> Option<(Location, ItemRef<'_>)> {
        self.index.find(key.hash32(), |at| {
            let item = self.get(at).filter(|item| item.key() == key.key)?;
            Some((at, item))
        })
    }

    /// The item at a location.
    pub fn get(&self, at: Location) -> Option<ItemRef<'_>> {
        self.segment(at.segment())?.get(at.slot())
    }

    /// Stores an item under its key, and returns its location. `old` is where the key's old item is, if it has one.
    ///
    /// If the new item is as long as the old one, it overwrites the old one in place. If not, it is appended to the
    /// queue that the old one is in. The item of a new key is appended to the probation queue.
    pub fn put(
        &mut self,
        key: HashedKey<'_>,
        old: Option<Location>,
        item: Item<'_>,
        now: UnixTime,
    ) -> Location {
        let item = item.with_large_value(MAX_SMALL_ITEM, &self.shared.memory);
        let slot = Slot::new(&item, now);
        let Some(old) = old else {
            let at = self.append_new(QueueId::Probation, &item, slot);
            self.index.insert(key.hash32(), at);
            return at;
        };
        let (head, is_large) = (Head::new(&item), item.large.is_some());
        let overwrite = |segment: &mut Segment| {
            !is_large && segment.overwrite(old.slot(), &slot, head, &item.bytes)
        };
        if self.change(old.segment(), overwrite) == Some(true) {
            return old;
        }
        let queue = self.segment(old.segment()).map(|segment| segment.queue);
        let at = self.append_new(queue.unwrap_or(QueueId::Probation), &item, slot);
        self.index.relocate(key.hash32(), old, at);
        self.mark_dead(old);
        match self.compact() {
            true => self.find(key).unwrap_or(at),
            false => at,
        }
    }

    /// Changes an item's slot and head.
    pub fn update(&mut self, at: Location, change: impl FnOnce(&mut Slot, &mut Head)) {
        self.change(at.segment(), |segment| segment.update(at.slot(), change));
    }

    /// Removes a key's item, which is at location `at`.
    pub fn remove(&mut self, key: HashedKey<'_>, at: Location) {
        self.index.remove(key.hash32(), at);
        self.mark_dead(at);
        self.compact();
    }

    /// Every item, expired or not: the probation queue first, then the main queue.
    pub fn items(&self) -> impl Iterator<Item = ItemRef<'_>> {
        let queues = [&self.probation, &self.main].into_iter();
        let ids = queues.flat_map(|queue| queue.segments.values());
        ids.flat_map(|id| self.items_of(*id))
    }

    /// The items of a segment, in the order in which they were stored.
    pub fn items_of(&self, id: SegmentId) -> impl Iterator<Item = ItemRef<'_>> {
        let items = self.segment(id).into_iter().flat_map(Segment::items);
        items.map(|(_, item)| item)
    }

    /// Every item that has not expired, as it is at the time `now`.
    pub fn unexpired(&self, now: UnixTime) -> impl Iterator<Item = Item<'_>> {
        let is_unexpired = move |item: &ItemRef<'_>| !item.head.expiry.has_passed(now);
        self.items()
            .filter(is_unexpired)
            .map(move |item| item.item(now))
    }

    /// The unexpired items of the first segment whose sequence number is at least `from`, and this segment's sequence
    /// number. No item is appended to that segment any more: later ones get into segments with higher numbers.
    pub fn close_segment(
        &mut self,
        from: u64,
        now: UnixTime,
    ) -> Option<(u64, impl Iterator<Item = Item<'_>>)> {
        let queues = [&self.probation, &self.main].into_iter();
        let segments = queues.filter_map(|queue| queue.segments.range(from..).next());
        let (sequence, id) = segments.min().map(|(sequence, id)| (*sequence, *id))?;
        for queue in [&mut self.probation, &mut self.main] {
            queue.open = queue.open.filter(|open| *open != id);
        }
        let is_unexpired = move |item: &ItemRef<'_>| !item.head.expiry.has_passed(now);
        let items = self.items_of(id).filter(is_unexpired);
        Some((sequence, items.map(move |item| item.item(now))))
    }

    /// How many items there are, including those that have expired and were not removed yet.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// How many bytes the items have: keys, values, and `overhead` bytes more for each item.
    pub fn bytes(&self, overhead: usize) -> usize {
        self.usage.alive + self.len() * overhead
    }

    /// How much memory the shard takes, in bytes: segments and index.
    pub fn size(&self) -> usize {
        self.usage.size + self.index.size()
    }

    fn append_new(&mut self, queue: QueueId, item: &Item<'_>, slot: Slot) -> Location {
        let Some(value) = &item.large else {
            return self.append(queue, slot, Head::new(item), &item.bytes);
        };
        let id = self.take_unused_id();
        let segment = Segment::large(item, value, slot, queue, &self.shared.memory);
        self.attach(id, segment);
        Location::new(id, 0)
    }

    /// Appends an item that is not large to the end of a queue.
    fn append(&mut self, queue: QueueId, slot: Slot, head: Head, bytes: &[u8]) -> Location {
        let has_room = |segment: &Segment| segment.has_room(bytes.len());
        let open = self.queue(queue).open;
        let open = open.filter(|id| self.segment(*id).is_some_and(has_room));
        let id = open.unwrap_or_else(|| {
            let id = self.take_unused_id();
            self.attach(id, Segment::packed(queue, &self.shared.memory));
            self.queue(queue).open = Some(id);
            id
        });
        let number = self.change(id, |segment| segment.push(slot, head, bytes));
        Location::new(id, number.unwrap_or(0))
    }

    /// Marks an item as dead, and frees its segment if all its items are dead.
    fn mark_dead(&mut self, at: Location) {
        self.change(at.segment(), |segment| segment.mark_dead(at.slot()));
        let segment = self.segment(at.segment());
        if segment.is_some_and(|segment| segment.usage().alive == 0) {
            self.detach(at.segment());
            self.unused_ids.push(at.segment());
        }
    }

    /// Changes a segment, and updates the sums.
    fn change<T>(&mut self, id: SegmentId, change: impl FnOnce(&mut Segment) -> T) -> Option<T> {
        let segment = self.segments.get_mut(id as usize)?.as_mut()?;
        let before = segment.usage();
        let outcome = change(segment);
        self.usage.replace(before, segment.usage());
        self.earliest_expiry = earlier(self.earliest_expiry, segment.earliest_expiry);
        Some(outcome)
    }

    /// Puts a segment at the end of its queue.
    fn attach(&mut self, id: SegmentId, mut segment: Segment) {
        segment.sequence = self.shared.sequence.fetch_add(1, Relaxed);
        self.usage.replace(Usage::default(), segment.usage());
        self.earliest_expiry = earlier(self.earliest_expiry, segment.earliest_expiry);
        let (queue, sequence) = (segment.queue, segment.sequence);
        self.queue(queue).segments.insert(sequence, id);
        if let Some(entry) = self.segments.get_mut(id as usize) {
            *entry = Some(segment);
        }
    }

    /// Takes a segment out of its queue. Its number stays in use.
    fn detach(&mut self, id: SegmentId) -> Option<Segment> {
        let segment = self.segments.get_mut(id as usize)?.take()?;
        self.usage.replace(segment.usage(), Usage::default());
        let queue = self.queue(segment.queue);
        queue.segments.remove(&segment.sequence);
        queue.open = queue.open.filter(|open| *open != id);
        Some(segment)
    }

    fn take_unused_id(&mut self) -> SegmentId {
        self.unused_ids.pop().unwrap_or_else(|| {
            self.segments.push(None);
            self.segments.len() as SegmentId - 1
        })
    }

    fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.get(id as usize)?.as_ref()
    }

    fn queue(&mut self, queue: QueueId) -> &mut Queue {
        match queue {
            QueueId::Probation => &mut self.probation,
            QueueId::Main => &mut self.main,
        }
    }

    fn hash32(&self, item: ItemRef<'_>) -> Hash32 {
        HashedKey::new(item.key(), &self.shared.hasher).hash32()
    }
}

impl Usage {
    /// Counts `new` in place of `old`, which was counted.
    fn replace(&mut self, old: Usage, new: Usage) {
        self.alive = self.alive + new.alive - old.alive;
        self.dead = self.dead + new.dead - old.dead;
        self.size = self.size + new.size - old.size;
    }
}
