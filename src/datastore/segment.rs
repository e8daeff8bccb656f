//! A segment: items that were stored one behind another, and that leave together.
//!
//! ```text
//!          start of 0      start of 1        start of 2     bytes.len()
//!          v               v                 v              v
//! bytes:   | key value CRLF | key value CRLF  | key value CRLF |  free         |   64 KB, a piece of the pool
//!
//! heads:   [ cas flags expiry access start key_length state ]  of slot 0         24 bytes an item, beside the bytes
//!          [ cas flags expiry access start key_length state ]  of slot 1
//!          [ cas flags expiry access start key_length state ]  of slot 2
//! ```
//!
//! An item is a head and its bytes, and both stay where they are until the whole segment is given back. The bytes of a
//! slot end where those of the next slot begin. An item that is replaced or removed is *dead*: its bytes stay, and a
//! bit in its head says so. A *large* item is a segment of its own, with one slot; its bytes are shared with
//! readers, so that nobody copies them.
//!
//! Invariants, which `Segment::validate` checks:
//! - `alive_bytes` is the sum of the bytes of the slots that are not dead;
//! - no item that is alive expires before `earliest_expiry`;
//! - the charge is what the segment takes.

use std::ops::Range;
use std::sync::Arc;

use super::head::Head;
use super::index::QueueId;
use super::memory::{Memory, Piece};
use crate::item::{Bytes, Charge, Item, LargeBytes, UnixTime, earlier};

/// The size of a segment, in bytes, but for that of a large item. An eviction frees one at a time: large enough that
/// it is worth the while, small enough that nobody waits for it long (a tenth of a millisecond).
pub const SEGMENT: usize = 64 << 10;

/// An item with more bytes than this is large. So at most a quarter of a segment stays free at its end.
pub const LARGE: usize = SEGMENT / 4;

/// The most slots that a segment has, so that a slot's number has 11 bits.
pub const MAX_SLOTS: usize = 1 << 11;

/// An item in its segment.
#[derive(Debug, Clone, Copy)]
pub struct ItemRef<'s> {
    pub head: &'s Head,
    bytes: &'s [u8],
    large: Option<&'s Arc<LargeBytes>>,
}

impl<'s> ItemRef<'s> {
    /// The key.
    pub fn key(self) -> &'s [u8] {
        self.bytes.split_at(self.head.key_length.into()).0
    }

    /// Key, value and `\r\n`.
    pub fn bytes(self) -> &'s [u8] {
        self.bytes
    }

    /// Whether a reader is still sending it: its memory does not come free now.
    pub fn is_being_sent(self) -> bool {
        self.large.is_some_and(|large| Arc::strong_count(large) > 1)
    }

    /// The item as it is at the time `now`, to be looked at while the shard is locked.
    pub fn item(self, now: UnixTime) -> Item<'s> {
        Item {
            bytes: match self.large {
                Some(large) => Bytes::Shared(Arc::clone(large)),
                None => Bytes::Borrowed(self.bytes),
            },
            key_length: self.head.key_length,
            flags: self.head.flags,
            expiry: self.head.expiry,
            cas: self.head.cas,
            marks: self.head.marks(),
            last_access: self.head.access.time(now),
            fetched: self.head.access.is_fetched(),
        }
    }
}

/// How many bytes there are of what.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Keys, values and `\r\n` of items that are alive.
    pub alive: usize,
    /// The same of items that are dead.
    pub dead: usize,
    /// Memory, with all that is beside them.
    pub size: usize,
}

/// Items that were stored one behind another.
#[derive(Debug)]
pub struct Segment {
    bytes: SegmentBytes,
    heads: Vec<Head>,
    alive_bytes: usize,
    charge: Charge,
    /// `None`: none of its items ever expires.
    pub earliest_expiry: Option<UnixTime>,
    /// The queue that it is in, …
    pub queue: QueueId,
    /// … and its place there.
    pub sequence: u64,
}

#[derive(Debug)]
enum SegmentBytes {
    Packed(Piece),
    Large(Arc<LargeBytes>),
}

impl Segment {
    /// An empty segment in a piece of the pool, for this queue.
    pub fn packed(queue: QueueId, memory: &Arc<Memory>) -> Self {
        Segment::new(
            SegmentBytes::Packed(memory.piece()),
            queue,
            memory.charge(SEGMENT),
        )
    }

    /// The segment of a large item, for this queue.
    pub fn large(head: Head, bytes: Vec<u8>, queue: QueueId, memory: &Arc<Memory>) -> Self {
        let large = SegmentBytes::Large(Arc::new(memory.large(bytes)));
        let mut segment = Segment::new(large, queue, memory.charge(size_of::<Head>()));
        segment.alive_bytes = segment.bytes.get().len();
        segment.earliest_expiry = head.expiry.time();
        segment.heads = vec![head];
        segment
    }

    fn new(bytes: SegmentBytes, queue: QueueId, charge: Charge) -> Self {
        Segment {
            bytes,
            heads: Vec::new(),
            alive_bytes: 0,
            charge,
            earliest_expiry: None,
            queue,
            sequence: 0,
        }
    }

    /// Whether there is room for one more item with so many bytes.
    pub fn has_room(&self, length: usize) -> bool {
        !self.is_large()
            && self.heads.len() < MAX_SLOTS
            && self.bytes.get().len() + length <= SEGMENT
    }

    /// Stores an item, with these bytes, for which there [is room](Segment::has_room). Gives its slot.
    pub fn push(&mut self, mut head: Head, bytes: &[u8]) -> usize {
        let slot = self.heads.len();
        if let SegmentBytes::Packed(piece) = &mut self.bytes {
            head.start = piece.bytes.len() as u16;
            piece.bytes.extend_from_slice(bytes);
            if slot == self.heads.capacity() {
                // A little more room, since items of one segment are mostly about as large as each other.
                self.heads.reserve_exact(slot / 4 + 16);
                let heads = self.heads.capacity() * size_of::<Head>();
                self.charge.set(SEGMENT + heads);
            }
            self.earliest_expiry = earlier(self.earliest_expiry, head.expiry.time());
            self.heads.push(head);
            self.alive_bytes += bytes.len();
        }
        slot
    }

    /// Puts an item in the place of another with the same key, if it is as long and not large; whether it is. Nothing
    /// moves, and nothing is dead. The item counts as visited, because its place in the queue is older than it is.
    pub fn overwrite(&mut self, slot: usize, new: &Head, bytes: &[u8]) -> bool {
        let range = self.range(slot);
        if let SegmentBytes::Packed(piece) = &mut self.bytes
            && let Some(room) = piece.bytes.get_mut(range)
            && room.len() == bytes.len()
        {
            room.copy_from_slice(bytes);
            self.update(slot, |head| *head = new.in_place_of(head));
            return true;
        }
        false
    }

    /// Changes what is known of an item beside its bytes.
    pub fn update(&mut self, slot: usize, change: impl FnOnce(&mut Head)) {
        if let Some(head) = self.heads.get_mut(slot) {
            change(head);
            self.earliest_expiry = earlier(self.earliest_expiry, head.expiry.time());
        }
    }

    /// Marks an item, which is alive, as dead.
    pub fn kill(&mut self, slot: usize) {
        self.alive_bytes -= self.range(slot).len();
        self.update(slot, Head::set_dead);
    }

    /// Forgets which items were visited.
    pub fn set_unvisited(&mut self) {
        for head in &mut self.heads {
            *head = head.moved();
        }
    }

    /// Looks again when the first item expires.
    pub fn find_earliest_expiry(&mut self) {
        let alive = self.heads.iter().filter(|head| !head.is_dead());
        self.earliest_expiry = alive.filter_map(|head| head.expiry.time()).min();
    }

    /// The item in a slot; `None` if it is dead.
    pub fn get(&self, slot: usize) -> Option<ItemRef<'_>> {
        let large = match &self.bytes {
            SegmentBytes::Packed(_) => None,
            SegmentBytes::Large(large) => Some(large),
        };
        Some(ItemRef {
            head: self.heads.get(slot).filter(|head| !head.is_dead())?,
            bytes: self.bytes.get().get(self.range(slot))?,
            large,
        })
    }

    /// The items that are alive, each with its slot, in the order in which they were stored.
    pub fn items(&self) -> impl Iterator<Item = (usize, ItemRef<'_>)> {
        (0..self.heads.len()).filter_map(|slot| Some((slot, self.get(slot)?)))
    }

    /// Whether this is the segment of a large item.
    pub fn is_large(&self) -> bool {
        matches!(self.bytes, SegmentBytes::Large(_))
    }

    /// How many bytes it has of what. (The bytes of a large item are charged apart, and come free with it.)
    pub fn usage(&self) -> Usage {
        let bytes = self.bytes.get().len();
        let (dead, apart) = match self.is_large() {
            true => (0, bytes),
            false => (bytes - self.alive_bytes, 0),
        };
        Usage {
            alive: self.alive_bytes,
            dead,
            size: self.charge.bytes() + apart,
        }
    }

    /// Where the bytes of a slot are.
    fn range(&self, slot: usize) -> Range<usize> {
        let start = |slot: usize| {
            let head = self.heads.get(slot);
            head.map_or(self.bytes.get().len(), |head| head.start.into())
        };
        start(slot)..start(slot + 1)
    }

    /// Checks the invariants.
    #[cfg(test)]
    pub fn validate(&self) {
        let alive: usize = self.items().map(|(_, item)| item.bytes.len()).sum();
        assert_eq!(self.alive_bytes, alive, "what is alive is counted");
        let expiries = self.items().filter_map(|(_, item)| item.head.expiry.time());
        assert!(
            expiries
                .min()
                .is_none_or(|first| self.earliest_expiry.is_some_and(|known| known <= first)),
            "no item expires before the earliest expiry"
        );
        let heads = self.heads.capacity() * size_of::<Head>();
        let own = if self.is_large() { 0 } else { SEGMENT };
        assert_eq!(
            self.charge.bytes(),
            own + heads,
            "the charge is what it takes"
        );
    }
}

impl SegmentBytes {
    fn get(&self) -> &[u8] {
        match self {
            SegmentBytes::Packed(piece) => &piece.bytes,
            SegmentBytes::Large(large) => large.bytes(),
        }
    }
}
