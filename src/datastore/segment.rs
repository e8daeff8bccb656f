//! A segment: items that were stored one behind another, and that leave together.
//!
//! ```text
//!   start of 0      start of 1        start of 2     written
//!   v               v                 v              v
//! | key value       | key value       | key value    |      free      | head of 2 | head of 1 | head of 0 |
//! 0                                                                                                     64 KB
//!
//! head: cas (8 bytes), flags (4), expiry (4), start (2), key length (1), state (1)
//! ```
//!
//! An item is its bytes and a head, which says what is known of it. Bytes are written from the front, heads from the
//! back, and both stay where they are until the whole segment is given back. The bytes of a slot end where those of the
//! next slot begin. An item that is replaced or removed is *dead*: its bytes stay, and a bit in its head says so.
//!
//! The last access of each item is beside the segment, since readers write it and nobody else is kept out meanwhile.
//!
//! A *large* item is a segment of its own, with one slot: its key is there, and its value is shared with readers, so that
//! nobody copies it as a whole (`memory/large.rs`).
//!
//! Invariants, which `Segment::validate` checks:
//! - `alive_bytes` is the sum of the bytes of the slots that are not dead;
//! - no item that is alive expires before `earliest_expiry`;
//! - bytes and heads do not overlap.

use std::ops::Range;
use std::sync::Arc;

use super::head::{Access, Head};
use super::item_ref::ItemRef;
use crate::item::{Expiry, Item, UnixTime, earlier};
use crate::memory::{Charge, LargeValue, Memory, PIECE, Piece};

/// The size of a segment, in bytes, but for that of a large item. An eviction frees one at a time: large enough that
/// it is worth the while, small enough that nobody waits for it long (a tenth of a millisecond).
pub const SEGMENT: usize = PIECE;

/// An item with more bytes than this is large. So at most a quarter of a segment stays free at its end.
pub const LARGE: usize = SEGMENT / 4;

/// The most slots that a segment has, so that a slot's number has 11 bits.
pub const MAX_SLOTS: usize = 1 << 11;

/// How many more accesses there is room for when there is no more. They are over 1 KB: the allocator keeps what is smaller
/// for the thread that frees it, and small pieces between large ones would make holes of those.
const ACCESSES_STEP: usize = 272;

/// One of the two queues of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueId {
    /// Where new items are.
    Probation,
    /// Where items are that were read before they would have been evicted.
    Main,
}

/// How many bytes there are of what.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Keys and values of items that are alive.
    pub alive: usize,
    /// The same of items that are dead.
    pub dead: usize,
    /// Memory, with all that is beside them.
    pub size: usize,
}

/// Items that were stored one behind another.
#[derive(Debug)]
pub struct Segment {
    content: Content,
    /// The last access of each slot.
    accesses: Vec<Access>,
    /// For the accesses. The rest is charged apart.
    charge: Charge,
    alive_bytes: usize,
    /// `None`: none of its items ever expires.
    pub earliest_expiry: Option<UnixTime>,
    /// The queue that it is in, …
    pub queue: QueueId,
    /// … and its place there.
    pub sequence: u64,
}

#[derive(Debug)]
enum Content {
    /// Bytes and heads of small items. So many bytes are written.
    Packed { piece: Piece, written: usize },
    /// A large item.
    Large {
        head: Head,
        key: Vec<u8>,
        value: Arc<LargeValue>,
    },
}

impl Segment {
    /// An empty segment for this queue.
    pub fn packed(queue: QueueId, memory: &Arc<Memory>) -> Self {
        let mut piece = memory.piece();
        piece.bytes.resize(SEGMENT, 0);
        Segment::new(Content::Packed { piece, written: 0 }, queue, memory)
    }

    /// The segment of a large item, for this queue.
    pub fn large(
        item: &Item<'_>,
        value: &Arc<LargeValue>,
        access: Access,
        queue: QueueId,
        memory: &Arc<Memory>,
    ) -> Self {
        let content = Content::Large {
            head: Head::new(item),
            key: item.key().to_vec(),
            value: Arc::clone(value),
        };
        let mut segment = Segment::new(content, queue, memory);
        segment.accesses.reserve_exact(1);
        segment.add(access, item.expiry, value.length());
        segment
    }

    fn new(content: Content, queue: QueueId, memory: &Arc<Memory>) -> Self {
        Segment {
            content,
            accesses: Vec::new(),
            charge: memory.charge(0),
            alive_bytes: 0,
            earliest_expiry: None,
            queue,
            sequence: 0,
        }
    }

    /// Whether there is room for one more item with so many bytes.
    pub fn has_room(&self, length: usize) -> bool {
        let slots = self.slots();
        match &self.content {
            Content::Packed { written, .. } => {
                slots < MAX_SLOTS && written + length + (slots + 1) * Head::SIZE <= SEGMENT
            }
            Content::Large { .. } => false,
        }
    }

    /// Stores an item, with these bytes, for which there [is room](Segment::has_room). Gives its slot.
    pub fn push(&mut self, mut head: Head, access: Access, bytes: &[u8]) -> usize {
        let slot = self.slots();
        if let Content::Packed { piece, written } = &mut self.content {
            head.start = *written as u16;
            let end = *written + bytes.len();
            if let Some(room) = piece.bytes.get_mut(*written..end) {
                room.copy_from_slice(bytes);
            }
            *written = end;
        }
        self.add(access, head.expiry, bytes.len());
        self.set_head(slot, head);
        slot
    }

    fn add(&mut self, access: Access, expiry: Expiry, length: usize) {
        let slots = self.accesses.len();
        if slots == self.accesses.capacity() {
            self.accesses.reserve_exact(ACCESSES_STEP);
        }
        self.accesses.push(access);
        self.charge
            .set(self.accesses.capacity() * size_of::<Access>());
        self.alive_bytes += length;
        self.earliest_expiry = earlier(self.earliest_expiry, expiry.time());
    }

    /// Puts an item in the place of another with the same key, if it is as long and not large; whether it is. Nothing
    /// moves, and nothing is dead. The item counts as visited, because its place in the queue is older than it is.
    pub fn overwrite(&mut self, slot: usize, mut new: Head, access: &Access, bytes: &[u8]) -> bool {
        let range = self.range(slot);
        let room = match &mut self.content {
            Content::Packed { piece, .. } => piece.bytes.get_mut(range.clone()),
            Content::Large { .. } => None,
        };
        let Some(room) = room.filter(|room| room.len() == bytes.len()) else {
            return false;
        };
        room.copy_from_slice(bytes);
        if let Some(old) = self.accesses.get_mut(slot) {
            *old = access.visited();
        }
        new.start = range.start as u16;
        self.update(slot, |head| *head = new);
        true
    }

    /// Changes what is known of an item beside its bytes.
    pub fn update(&mut self, slot: usize, change: impl FnOnce(&mut Head)) {
        if let Some(mut head) = self.head(slot) {
            change(&mut head);
            self.set_head(slot, head);
            self.earliest_expiry = earlier(self.earliest_expiry, head.expiry.time());
        }
    }

    /// Marks an item, which is alive, as dead.
    pub fn kill(&mut self, slot: usize) {
        self.alive_bytes -= match &self.content {
            Content::Packed { .. } => self.range(slot).len(),
            Content::Large { .. } => self.alive_bytes,
        };
        self.update(slot, Head::set_dead);
    }

    /// Forgets which items were visited.
    pub fn set_unvisited(&mut self) {
        for access in &mut self.accesses {
            *access = access.unvisited();
        }
    }

    /// Looks again when the first item expires.
    pub fn find_earliest_expiry(&mut self) {
        let times = self.items().filter_map(|(_, item)| item.head.expiry.time());
        self.earliest_expiry = times.min();
    }

    /// The item in a slot; `None` if it is dead.
    pub fn get(&self, slot: usize) -> Option<ItemRef<'_>> {
        let access = self.accesses.get(slot)?;
        let head = self.head(slot).filter(|head| !head.is_dead())?;
        let (bytes, large) = match &self.content {
            Content::Packed { piece, .. } => (piece.bytes.get(self.range(slot))?, None),
            Content::Large { key, value, .. } => (&key[..], Some(value)),
        };
        Some(ItemRef {
            head,
            access,
            bytes,
            large,
        })
    }

    /// The items that are alive, each with its slot, in the order in which they were stored.
    pub fn items(&self) -> impl Iterator<Item = (usize, ItemRef<'_>)> {
        (0..self.slots()).filter_map(|slot| Some((slot, self.get(slot)?)))
    }

    /// Whether this is the segment of a large item.
    pub fn is_large(&self) -> bool {
        matches!(self.content, Content::Large { .. })
    }

    /// How many bytes it has of what.
    pub fn usage(&self) -> Usage {
        let (dead, size) = match &self.content {
            Content::Packed { written, .. } => (written - self.alive_bytes, SEGMENT),
            Content::Large { value, .. } => (0, value.size()),
        };
        Usage {
            alive: self.alive_bytes,
            dead,
            size: self.charge.bytes() + size,
        }
    }

    fn slots(&self) -> usize {
        self.accesses.len()
    }

    /// Where the bytes of a slot are.
    fn range(&self, slot: usize) -> Range<usize> {
        let written = match &self.content {
            Content::Packed { written, .. } => *written,
            Content::Large { .. } => 0,
        };
        let start = |slot| match slot < self.slots() {
            true => self.head(slot).map_or(written, |head| head.start.into()),
            false => written,
        };
        start(slot)..start(slot + 1)
    }

    fn head(&self, slot: usize) -> Option<Head> {
        match &self.content {
            Content::Packed { piece, .. } => {
                let heads = piece.bytes.get(..SEGMENT - slot * Head::SIZE)?;
                heads.last_chunk().copied().map(Head::from_bytes)
            }
            Content::Large { head, .. } => Some(*head),
        }
    }

    fn set_head(&mut self, slot: usize, new: Head) {
        match &mut self.content {
            Content::Packed { piece, .. } => {
                let heads = piece.bytes.get_mut(..SEGMENT - slot * Head::SIZE);
                if let Some(room) = heads.and_then(|heads| heads.last_chunk_mut()) {
                    *room = new.to_bytes();
                }
            }
            Content::Large { head, .. } => *head = new,
        }
    }

    /// Checks the invariants.
    #[cfg(test)]
    pub fn validate(&self) {
        let length =
            |item: ItemRef<'_>| item.large.map_or(item.bytes.len(), |large| large.length());
        let alive: usize = self.items().map(|(_, item)| length(item)).sum();
        assert_eq!(self.alive_bytes, alive, "what is alive is counted");
        let expiries = self.items().filter_map(|(_, item)| item.head.expiry.time());
        let known = |first| self.earliest_expiry.is_some_and(|known| known <= first);
        assert!(
            expiries.min().is_none_or(known),
            "no item expires before the earliest expiry"
        );
        if let Content::Packed { written, .. } = &self.content {
            let heads = self.slots() * Head::SIZE;
            assert!(written + heads <= SEGMENT, "bytes and heads do not overlap");
        }
    }
}
