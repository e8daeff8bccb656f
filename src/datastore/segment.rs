//! A segment: items that are stored one behind another.
//!
//! ```text
//!          start of 0           start of 1            start of 2        written
//!          v                    v                     v                 v
//! piece:   | head key value     | head key value      | head key value  |      free       |   64 KB
//!
//! slots:   [ access start key_length state ] [ ... ] [ ... ]          8 bytes an item, beside the piece
//!
//! head:    cas (8 bytes) flags (4) expiry (4)
//! ```
//!
//! An item is a slot, a head and its bytes. They stay where they are until the whole segment is freed. The bytes of an
//! item end where the head of the next one begins. An item that is replaced or removed is *dead*: its bytes stay, and a
//! bit in its slot is set. (The last access is in the slot, because a reader writes it while other readers read the
//! piece.)
//!
//! A *large* item has a segment of its own, with its key and one slot. Its value is shared with readers, so no reader
//! copies it as a whole (`memory/large.rs`).
//!
//! Invariants, which `Segment::validate` checks:
//! - `alive_items` and `alive_bytes` are the number of the slots that are not dead and the sum of their bytes;
//! - no item that is alive expires before `earliest_expiry`;
//! - the items are one behind another, and end within the piece.

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use super::head::{Head, Slot};
use super::item_ref::ItemRef;
use crate::item::{Item, UnixTime, earlier};
use crate::memory::{Charge, LargeValue, Memory, PIECE_SIZE, Piece};

/// The size of a segment of small items, in bytes. An eviction frees one segment at a time. Its size is large enough
/// for that to be efficient, and small enough that no client waits long for it (a tenth of a millisecond).
pub const SEGMENT_SIZE: usize = PIECE_SIZE;

/// An item with more bytes than this is large. So at most a quarter of a segment stays free at its end, unless its
/// items are so small that they use all its slots.
pub const MAX_SMALL_ITEM: usize = SEGMENT_SIZE / 4;

/// How many bytes an item takes in its segment beside key and value.
pub const ITEM_OVERHEAD: usize = Head::SIZE + size_of::<Slot>();

/// The most slots that a segment has: the number of a slot has 11 bits.
pub const MAX_SLOTS: usize = 1 << 11;

/// The most slots that are allocated at a time. They take over 1 KB, because the allocator keeps smaller allocations
/// for the thread that frees them, and many of those between large ones would leave holes. (If items are so long that
/// fewer slots are needed, these are allocated all at once.)
const SLOTS_STEP: usize = 136;

/// One of the two queues of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueId {
    /// The queue of new items.
    Probation,
    /// The queue of items that were read before they would have been evicted.
    Main,
}

/// Byte counts of a segment, or of all segments of a shard.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Keys and values of items that are alive.
    pub alive: usize,
    /// What compaction frees: keys and values of items that are dead, their heads and slots.
    pub dead: usize,
    /// Memory that is allocated for them.
    pub size: usize,
}

/// Many small items that were stored one behind another, or one large item.
#[derive(Debug)]
pub struct Segment {
    content: Content,
    slots: Vec<Slot>,
    /// Counts the memory of the slots. The piece has a charge of its own.
    charge: Charge,
    alive_items: usize,
    alive_bytes: usize,
    /// None of its items expires before this time; `None`: none ever expires.
    pub earliest_expiry: Option<UnixTime>,
    /// The queue that the segment is in.
    pub queue: QueueId,
    /// Its place in the queue: segments with lower numbers are older.
    pub sequence: u64,
}

#[derive(Debug)]
enum Content {
    /// Heads and bytes of small items. The first `written` bytes of the piece are in use.
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
        let piece = memory.take_piece();
        Segment::new(Content::Packed { piece, written: 0 }, queue, memory)
    }

    /// The segment of a large item, for this queue.
    pub fn large(
        item: &Item<'_>,
        value: &Arc<LargeValue>,
        slot: Slot,
        queue: QueueId,
        memory: &Arc<Memory>,
    ) -> Self {
        let head = Head::new(item);
        let content = Content::Large {
            head,
            key: item.key().to_vec(),
            value: Arc::clone(value),
        };
        let mut segment = Segment::new(content, queue, memory);
        segment.add(slot, head, item.key().len() + value.length());
        segment
    }

    fn new(content: Content, queue: QueueId, memory: &Arc<Memory>) -> Self {
        Segment {
            content,
            slots: Vec::new(),
            charge: memory.charge(0),
            alive_items: 0,
            alive_bytes: 0,
            earliest_expiry: None,
            queue,
            sequence: 0,
        }
    }

    /// Whether there is space for one more item with this many bytes.
    pub fn has_room(&self, length: usize) -> bool {
        match &self.content {
            Content::Packed { written, .. } => {
                self.slots.len() < MAX_SLOTS && written + Head::SIZE + length <= SEGMENT_SIZE
            }
            Content::Large { .. } => false,
        }
    }

    /// Appends an item with these bytes, for which there [is room](Segment::has_room). Returns the number of its slot.
    pub fn push(&mut self, mut slot: Slot, head: Head, bytes: &[u8]) -> usize {
        if let Content::Packed { piece, written } = &mut self.content {
            slot.start = *written as u16;
            let end = *written + Head::SIZE + bytes.len();
            if let Some(room) = piece.bytes.get_mut(*written..end) {
                let (head_room, bytes_room) = room.split_at_mut(Head::SIZE);
                head_room.copy_from_slice(&head.to_bytes());
                bytes_room.copy_from_slice(bytes);
            }
            *written = end;
        }
        self.add(slot, head, bytes.len());
        self.slots.len() - 1
    }

    fn add(&mut self, slot: Slot, head: Head, length: usize) {
        if self.slots.len() == self.slots.capacity() {
            // How many slots fill the segment, if the next items are as long as this one.
            let free_bytes = SEGMENT_SIZE.saturating_sub(slot.start.into());
            let needed_slots = free_bytes / (length + Head::SIZE) + 1;
            self.slots.reserve_exact(needed_slots.min(SLOTS_STEP));
            self.charge.set(self.slots.capacity() * size_of::<Slot>());
        }
        self.slots.push(slot);
        self.alive_items += 1;
        self.alive_bytes += length;
        self.earliest_expiry = earlier(self.earliest_expiry, head.expiry.time());
    }

    /// Overwrites an item in place if the new item has as many bytes, and neither item is large. Returns whether it
    /// did.
    pub fn overwrite(&mut self, number: usize, new: &Slot, head: Head, bytes: &[u8]) -> bool {
        let range = self.range(number);
        if let Content::Packed { piece, .. } = &mut self.content
            && let Some(room) = piece.bytes.get_mut(range)
            && room.len() == bytes.len()
            && let Some(slot) = self.slots.get_mut(number)
        {
            room.copy_from_slice(bytes);
            *slot = new.overwriting(slot);
            self.update(number, |_, old| *old = head);
            return true;
        }
        false
    }

    /// Changes an item's slot and head.
    pub fn update(&mut self, number: usize, change: impl FnOnce(&mut Slot, &mut Head)) {
        let head = self.head(number);
        if let Some(slot) = self.slots.get_mut(number)
            && let Some(mut head) = head
        {
            change(slot, &mut head);
            let start = usize::from(slot.start);
            match &mut self.content {
                Content::Packed { piece, .. } => {
                    if let Some(room) = piece.bytes.get_mut(start..start + Head::SIZE) {
                        room.copy_from_slice(&head.to_bytes());
                    }
                }
                Content::Large { head: old, .. } => *old = head,
            }
            self.earliest_expiry = earlier(self.earliest_expiry, head.expiry.time());
        }
    }

    /// Marks an item, which is alive, as dead.
    pub fn mark_dead(&mut self, number: usize) {
        self.alive_bytes -= match &self.content {
            Content::Packed { .. } => self.range(number).len(),
            Content::Large { .. } => self.alive_bytes,
        };
        if let Some(slot) = self.slots.get_mut(number) {
            slot.set_dead();
            self.alive_items -= 1;
        }
    }

    /// Clears the visited bit of all slots.
    pub fn clear_visited(&mut self) {
        for slot in &mut self.slots {
            *slot = slot.unvisited_copy();
        }
    }

    /// Recomputes the time at which the first item expires.
    pub fn update_earliest_expiry(&mut self) {
        let times = self.items().filter_map(|(_, item)| item.head.expiry.time());
        self.earliest_expiry = times.min();
    }

    /// The item in a slot; `None` if it is dead.
    pub fn get(&self, number: usize) -> Option<ItemRef<'_>> {
        let slot = self.slots.get(number).filter(|slot| !slot.is_dead())?;
        let (bytes, large) = match &self.content {
            Content::Packed { piece, .. } => (piece.bytes.get(self.range(number))?, None),
            Content::Large { key, value, .. } => (&key[..], Some(value)),
        };
        Some(ItemRef {
            head: self.head(number)?,
            slot,
            bytes,
            large,
        })
    }

    /// The items that are alive, each with its slot's number, in the order in which they were stored.
    pub fn items(&self) -> impl Iterator<Item = (usize, ItemRef<'_>)> {
        (0..self.slots.len()).filter_map(|number| Some((number, self.get(number)?)))
    }

    /// Whether this is the segment of a large item.
    pub fn is_large(&self) -> bool {
        matches!(self.content, Content::Large { .. })
    }

    /// The byte counts of the segment.
    pub fn usage(&self) -> Usage {
        let heads = self.slots.len() * Head::SIZE;
        let dead_items = self.slots.len() - self.alive_items;
        let (dead_bytes, size) = match &self.content {
            Content::Packed { written, .. } => (written - heads - self.alive_bytes, SEGMENT_SIZE),
            Content::Large { value, .. } => (0, value.size()),
        };
        Usage {
            alive: self.alive_bytes,
            dead: dead_bytes + dead_items * ITEM_OVERHEAD,
            size: self.charge.bytes() + size,
        }
    }

    /// Where an item's key and value are in the piece.
    fn range(&self, number: usize) -> Range<usize> {
        let written = match &self.content {
            Content::Packed { written, .. } => *written,
            Content::Large { .. } => 0,
        };
        let start = |number: usize| self.slots.get(number).map(|slot| usize::from(slot.start));
        let end = start(number + 1).unwrap_or(written);
        start(number).map_or(end, |start| start + Head::SIZE)..end
    }

    fn head(&self, number: usize) -> Option<Head> {
        match &self.content {
            Content::Packed { piece, .. } => {
                let (_, behind) = piece
                    .bytes
                    .split_at_checked(self.slots.get(number)?.start.into())?;
                behind.first_chunk().copied().map(Head::from_bytes)
            }
            Content::Large { head, .. } => Some(*head),
        }
    }
}
