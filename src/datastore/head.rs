//! The head of an item: what a segment knows of it beside its bytes, in 24 bytes.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::item::{Expiry, Item, Marks, UnixTime};

/// What is known of an item, beside its bytes.
#[derive(Debug)]
pub struct Head {
    pub cas: u64,
    pub flags: u32,
    pub expiry: Expiry,
    pub access: Access,
    /// Where its bytes begin: its segment knows.
    pub start: u16,
    pub key_length: u8,
    /// Bits, see below.
    state: u8,
}

// There is one for each item: every byte counts a million times.
const _: () = assert!(size_of::<Head>() == 24);

const BINARY_KEY: u8 = 1;
const STALE: u8 = 2;
const WON: u8 = 4;
const DEAD: u8 = 8;

impl Head {
    /// The head of an item that is stored at the time `now`.
    pub fn new(item: &Item<'_>, now: UnixTime) -> Self {
        let mut head = Head {
            cas: item.cas,
            flags: item.flags,
            expiry: item.expiry,
            access: Access::new(now, item.fetched),
            start: 0,
            key_length: item.key_length,
            state: 0,
        };
        head.set_marks(item.marks);
        head
    }

    /// What meta commands have noted on the item.
    pub fn marks(&self) -> Marks {
        Marks {
            binary_key: self.state & BINARY_KEY != 0,
            stale: self.state & STALE != 0,
            won: self.state & WON != 0,
        }
    }

    /// Changes what meta commands have noted on the item.
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

    /// The item is replaced or removed.
    pub fn set_dead(&mut self) {
        self.state |= DEAD;
    }

    /// The same head at another place in a queue: not visited.
    pub fn moved(&self) -> Self {
        self.with(self.start, self.access.0.load(Relaxed) & !VISITED)
    }

    /// The same head where the bytes of another one were. It counts as visited, because its place in the queue is older
    /// than it is.
    pub fn in_place_of(&self, other: &Head) -> Self {
        self.with(other.start, self.access.0.load(Relaxed) | VISITED)
    }

    fn with(&self, start: u16, access: u32) -> Self {
        let access = Access(AtomicU32::new(access));
        Head {
            start,
            access,
            ..*self
        }
    }
}

/// When an item was last read, or else stored, and whether it was read since it was stored (`FETCHED`), and since it
/// took its place in the queue (`VISITED`). Several readers hold the lock at the same time, so this is atomic.
///
/// 30 bits of seconds come round every 34 years.
#[derive(Debug)]
pub struct Access(AtomicU32);

const FETCHED: u32 = 1 << 31;
const VISITED: u32 = 1 << 30;
const SECONDS: u32 = VISITED - 1;

impl Access {
    fn new(now: UnixTime, fetched: bool) -> Self {
        let fetched = if fetched { FETCHED } else { 0 };
        Access(AtomicU32::new(now & SECONDS | fetched))
    }

    /// Whether the item was read since it was stored.
    pub fn is_fetched(&self) -> bool {
        self.0.load(Relaxed) & FETCHED != 0
    }

    /// Whether the item was read since it took its place in the queue.
    pub fn is_visited(&self) -> bool {
        self.0.load(Relaxed) & VISITED != 0
    }

    /// When the item was last read, or else stored.
    pub fn time(&self, now: UnixTime) -> UnixTime {
        let ago = now.wrapping_sub(self.0.load(Relaxed)) & SECONDS;
        now.saturating_sub(ago)
    }

    /// Notes that the item is read now. All other bits stay as they are while somebody reads, so all readers
    /// write the same.
    pub fn mark_read(&self, now: UnixTime) {
        let before = self.0.load(Relaxed);
        let after = now & SECONDS | FETCHED | VISITED;
        // Written only when it changes, so that the readers of a popular item share its cache line.
        if after != before {
            self.0.store(after, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_keeps_what_is_known_of_an_item() {
        let mut item = Item::new(b"key", 7, Expiry::at(109), &[b"v"]);
        (item.cas, item.fetched) = (u64::MAX, true);
        (item.marks.stale, item.marks.binary_key) = (true, true);
        let head = Head::new(&item, 100);
        assert_eq!((head.cas, head.flags, head.key_length), (u64::MAX, 7, 3));
        assert_eq!((head.expiry, head.marks()), (item.expiry, item.marks));
        assert_eq!(head.access.time(200), 100);
        assert!(head.access.is_fetched() && !head.access.is_visited());
    }

    #[test]
    fn a_dead_item_stays_dead_when_its_marks_change() {
        let mut head = Head::new(&Item::new(b"k", 0, Expiry::NEVER, &[]), 100);
        head.set_dead();
        head.set_marks(Marks::default());
        assert!(head.is_dead());
    }

    #[test]
    fn the_last_access_is_the_last_reading_or_else_the_storing() {
        let now = 1_800_000_000;
        let access = Access::new(now, false);
        assert_eq!((access.time(now), access.is_fetched()), (now, false));
        access.mark_read(now + 5);
        assert_eq!(access.time(now + 70), now + 5);
        assert!(access.is_fetched() && access.is_visited());
    }

    #[test]
    fn an_item_that_moves_is_not_visited_and_still_fetched() {
        let head = Head::new(&Item::new(b"k", 0, Expiry::NEVER, &[]), 100);
        head.access.mark_read(105);
        let moved = head.moved();
        assert_eq!(moved.access.time(200), 105);
        assert!(moved.access.is_fetched() && !moved.access.is_visited());
    }
}
