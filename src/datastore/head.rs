//! Metadata of an item in a segment: a [`Head`] before its bytes, and a [`Slot`] beside the piece.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::item::{Expiry, Item, Marks, UnixTime};

/// The head of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub cas: u64,
    pub flags: u32,
    pub expiry: Expiry,
}

impl Head {
    /// The size of a head in a segment, in bytes. Each item has a head, so every byte counts a million times.
    pub const SIZE: usize = 16;

    /// The head of an item.
    pub fn new(item: &Item<'_>) -> Self {
        Head {
            cas: item.cas,
            flags: item.flags,
            expiry: item.expiry,
        }
    }

    /// Encodes the head.
    pub fn to_bytes(self) -> [u8; Head::SIZE] {
        let [a, b, c, d, e, f, g, h] = self.cas.to_le_bytes();
        let [i, j, k, l] = self.flags.to_le_bytes();
        let [m, n, o, p] = self.expiry.to_u32().to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Decodes a head.
    pub fn from_bytes(bytes: [u8; Head::SIZE]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Head {
            cas: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            flags: u32::from_le_bytes([i, j, k, l]),
            expiry: Expiry::from_u32(u32::from_le_bytes([m, n, o, p])),
        }
    }
}

/// What the store must know about an item before it looks at the item's bytes.
#[derive(Debug)]
pub struct Slot {
    pub access: Access,
    /// Where its head begins in the segment.
    pub start: u16,
    pub key_length: u8,
    /// The bits `BINARY_KEY`, `STALE`, `WON` and `DEAD`.
    state: u8,
}

const _: () = assert!(size_of::<Slot>() == 8);

const BINARY_KEY: u8 = 1;
const STALE: u8 = 2;
const WON: u8 = 4;
const DEAD: u8 = 8;

impl Slot {
    /// The slot of an item that is stored at the time `now`.
    pub fn new(item: &Item<'_>, now: UnixTime) -> Self {
        let mut slot = Slot {
            access: Access::new(now, item.fetched),
            start: 0,
            key_length: item.key_length,
            state: 0,
        };
        slot.set_marks(item.marks);
        slot
    }

    /// The slot for a copy of the item in the same queue.
    pub fn copy(&self) -> Self {
        let visited = if self.access.is_visited() { VISITED } else { 0 };
        Slot {
            access: self.access.with_visited_bit(visited),
            ..*self
        }
    }

    /// The slot for a copy of the item that an eviction has spared: the visited bit is cleared.
    pub fn unvisited_copy(&self) -> Self {
        Slot {
            access: self.access.with_visited_bit(0),
            ..*self
        }
    }

    /// The slot of a new item that overwrites an old one in its place. It is marked as visited: otherwise a new value
    /// at an old place in the queue would be evicted too early.
    pub fn overwriting(&self, old: &Slot) -> Self {
        Slot {
            access: self.access.with_visited_bit(VISITED),
            start: old.start,
            ..*self
        }
    }

    /// The marks that meta commands have set on the item.
    pub fn marks(&self) -> Marks {
        Marks {
            binary_key: self.state & BINARY_KEY != 0,
            stale: self.state & STALE != 0,
            won: self.state & WON != 0,
        }
    }

    /// Changes the marks that meta commands have set on the item.
    pub fn set_marks(&mut self, marks: Marks) {
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        self.state = self.state & DEAD
            | bit(marks.binary_key, BINARY_KEY)
            | bit(marks.stale, STALE)
            | bit(marks.won, WON);
    }

    /// Whether the item was replaced or removed.
    pub fn is_dead(&self) -> bool {
        self.state & DEAD != 0
    }

    /// Marks the item as replaced or removed.
    pub fn set_dead(&mut self) {
        self.state |= DEAD;
    }
}

/// When an item was last read, or stored if it was not read since. This is atomic, because several readers hold the
/// shard's lock at the same time.
///
/// Two of the bits are flags. `FETCHED`: the item was read since it was stored. `VISITED`: it was read since it took
/// its place in the queue. The other 30 bits are seconds, which wrap every 34 years.
#[derive(Debug)]
pub struct Access(AtomicU32);

const FETCHED: u32 = 1 << 31;
const VISITED: u32 = 1 << 30;
const SECONDS: u32 = VISITED - 1;

impl Access {
    /// The access of an item that is stored at the time `now`.
    pub fn new(now: UnixTime, is_fetched: bool) -> Self {
        let fetched = if is_fetched { FETCHED } else { 0 };
        Access(AtomicU32::new(now & SECONDS | fetched))
    }

    fn with_visited_bit(&self, visited: u32) -> Self {
        Access(AtomicU32::new(self.0.load(Relaxed) & !VISITED | visited))
    }

    /// Whether the item was read since it was stored.
    pub fn is_fetched(&self) -> bool {
        self.0.load(Relaxed) & FETCHED != 0
    }

    /// Whether the item was read since it took its place in the queue.
    pub fn is_visited(&self) -> bool {
        self.0.load(Relaxed) & VISITED != 0
    }

    /// When the item was last read, or stored if it was not read since.
    pub fn time(&self, now: UnixTime) -> UnixTime {
        let ago = now.wrapping_sub(self.0.load(Relaxed)) & SECONDS;
        // More than half of the 34 years means that the clock was set back since.
        let ago = if ago > SECONDS / 2 { 0 } else { ago };
        now.saturating_sub(ago)
    }

    /// Marks the item as read now.
    pub fn mark_read(&self, now: UnixTime) {
        let before = self.0.load(Relaxed);
        let after = now & SECONDS | FETCHED | VISITED;
        // It is written only when it changes, so that the readers of a popular item share its cache line.
        if after != before {
            self.0.store(after, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item() -> Item<'static> {
        let mut item = Item::new(b"key", 7, Expiry::NEVER, &[b"v"]);
        item.cas = u64::MAX - 1;
        (item.marks.stale, item.marks.binary_key) = (true, true);
        item
    }

    #[test]
    fn a_head_is_decoded_as_it_was_encoded() {
        for expiry in [Expiry::NEVER, Expiry::AT_ONCE, Expiry::at(109)] {
            let head = Head::new(&Item { expiry, ..item() });
            assert_eq!(Head::from_bytes(head.to_bytes()), head);
            assert_eq!(
                (head.cas, head.flags, head.expiry),
                (u64::MAX - 1, 7, expiry)
            );
        }
    }

    #[test]
    fn a_dead_item_stays_dead_when_its_marks_change() {
        let mut slot = Slot::new(&item(), 100);
        assert_eq!((slot.marks(), slot.key_length), (item().marks, 3));
        slot.set_dead();
        slot.set_marks(Marks::default());
        assert!(slot.is_dead() && slot.marks() == Marks::default());
    }

    #[test]
    fn the_last_access_of_an_item_is_its_last_read_or_else_its_store() {
        let now = 1_800_000_000;
        let access = Access::new(now, false);
        assert_eq!((access.time(now), access.is_fetched()), (now, false));
        access.mark_read(now + 5);
        assert_eq!(access.time(now + 70), now + 5);
        assert_eq!(access.time(now), now, "the clock was set back");
        assert!(access.is_fetched() && access.is_visited());
    }

    #[test]
    fn a_spared_item_is_not_marked_as_visited_and_an_overwritten_item_is() {
        let slot = Slot::new(&item(), 100);
        slot.access.mark_read(105);
        assert!(slot.copy().access.is_visited());
        let spared = slot.unvisited_copy();
        assert!(spared.access.is_fetched() && !spared.access.is_visited());
        assert_eq!(spared.access.time(200), 105);
        let new = Slot::new(&item(), 110).overwriting(&slot);
        assert!(!new.access.is_fetched() && new.access.is_visited());
    }
}
