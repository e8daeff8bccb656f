//! An item as a shard keeps it: its text, and in 8 bytes what changes while it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::item::{Expiry, UnixTime};
use crate::item::{Item, Marks, Tail, Text, allocated, key_of, numbers_of, stamp_of};

/// What a queue has of an item.
#[derive(Debug)]
pub struct Entry {
    text: Kept,
    expiry: Expiry,
    notes: Notes,
}

/// Where the text of an item is kept.
#[derive(Debug)]
pub enum Kept {
    /// In an allocation of its own.
    Own(Arc<[u8]>),
    /// In the [`Block`] of its chunk, from here to there.
    Packed {
        /// Where it begins.
        start: u32,
        /// Where it ends.
        end: u32,
    },
}

// A shard's queues are vectors of these: every byte counts a million times.
const _: () = assert!(size_of::<Option<Entry>>() == 24);

impl Entry {
    /// An item that is stored at the time `now`, and so many stores after the first.
    pub fn new(mut item: Item, now: UnixTime, stamp: u32) -> Self {
        let tail = item.text.set_tail(item.tail, item.cas, item.flags, stamp);
        let mut notes = Notes::default();
        notes.set(LONG_TAIL, tail == Tail::Long);
        notes.set(FETCHED, item.fetched);
        notes.set_marks(item.marks);
        notes.set_last_access(now);
        Entry {
            text: Kept::Own(item.text.into_own()),
            expiry: item.expiry,
            notes,
        }
    }

    /// Where its text is.
    pub fn kept(&self) -> &Kept {
        &self.text
    }

    /// Its text is somewhere else now.
    pub fn keep(&mut self, text: Kept) {
        self.text = text;
    }

    /// When it ends.
    pub fn expiry(&self) -> Expiry {
        self.expiry
    }

    /// When it was last read, or stored.
    pub fn last_access(&self, now: UnixTime) -> UnixTime {
        self.notes.last_access(now)
    }

    /// Whether it was ever read.
    pub fn fetched(&self) -> bool {
        self.notes.has(FETCHED)
    }

    /// Whether it was read since it took its place in the queue.
    pub fn visited(&self) -> bool {
        self.notes.has(VISITED)
    }

    /// What meta commands have noted on it.
    pub fn marks(&self) -> Marks {
        self.notes.marks()
    }

    /// Notes that it was read.
    pub fn note(&self, now: UnixTime) {
        self.notes.read(now);
    }

    /// It takes another place in a queue, so many stores after the first.
    pub fn set_unvisited(&mut self, stamp: u32) {
        self.notes.set(VISITED, false);
        self.change_text(|text, tail| {
            let (cas, flags) = numbers_of(text.bytes(), tail);
            text.set_tail(tail, cas, flags, stamp)
        });
    }

    /// Another cas unique.
    pub fn set_cas(&mut self, cas: u64) {
        self.change_text(|text, tail| {
            let (_, flags) = numbers_of(text.bytes(), tail);
            text.set_tail(tail, cas, flags, stamp_of(text.bytes()))
        });
    }

    /// Changes a text that is in an allocation of its own, where it is if no reader shares it.
    fn change_text(&mut self, change: impl FnOnce(&mut Text, Tail) -> Tail) {
        let tail = self.tail();
        let nothing = Kept::Packed { start: 0, end: 0 };
        self.text = match std::mem::replace(&mut self.text, nothing) {
            Kept::Own(text) => {
                let mut text = Text::whole(text);
                let tail = change(&mut text, tail);
                self.notes.set(LONG_TAIL, tail == Tail::Long);
                Kept::Own(text.into_own())
            }
            packed => packed,
        };
    }

    /// Changes what is not in the text.
    pub fn update(&mut self, expiry: Expiry, marks: Marks) {
        self.expiry = expiry;
        self.notes.set_marks(marks);
    }

    fn tail(&self) -> Tail {
        if self.notes.has(LONG_TAIL) {
            Tail::Long
        } else {
            Tail::Short
        }
    }
}

/// The texts of small items that stand together.
#[derive(Debug)]
pub enum Block {
    /// More will come.
    Open(Vec<u8>),
    /// All have come.
    Full(Arc<[u8]>),
}

impl Block {
    fn bytes(&self) -> &[u8] {
        match self {
            Block::Open(bytes) => bytes,
            Block::Full(bytes) => bytes,
        }
    }

    /// The texts, to be changed, if no reader has one of them.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            Block::Open(bytes) => Some(bytes),
            Block::Full(bytes) => Arc::get_mut(bytes),
        }
    }

    /// How much memory it takes.
    pub fn size(&self) -> usize {
        let length = match self {
            Block::Open(bytes) => bytes.capacity(),
            Block::Full(bytes) => bytes.len(),
        };
        if length == 0 { 0 } else { allocated(length) }
    }
}

/// An entry with the block in which its text may be.
#[derive(Debug, Clone, Copy)]
pub struct View<'q> {
    /// The entry.
    pub entry: &'q Entry,
    /// The block of its chunk.
    pub block: &'q Block,
}

impl<'q> View<'q> {
    /// The text.
    pub fn bytes(self) -> &'q [u8] {
        match &self.entry.text {
            Kept::Own(text) => text,
            Kept::Packed { start, end } => {
                let range = *start as usize..*end as usize;
                self.block.bytes().get(range).unwrap_or_default()
            }
        }
    }

    /// The key.
    pub fn key(self) -> &'q [u8] {
        key_of(self.bytes())
    }

    /// When it took its place, counted in stores.
    pub fn stamp(self) -> u32 {
        stamp_of(self.bytes())
    }

    /// The text for whoever takes it along: that of a small item is copied as long as its block is open.
    fn text(self) -> Text {
        match (&self.entry.text, self.block) {
            (Kept::Own(text), _) => Text::whole(Arc::clone(text)),
            (Kept::Packed { start, end }, Block::Full(block)) => {
                Text::part(Arc::clone(block), *start, *end)
            }
            (Kept::Packed { .. }, Block::Open(_)) => Text::whole(self.bytes().into()),
        }
    }

    /// The text in an allocation of its own.
    pub fn own_text(self) -> Arc<[u8]> {
        match &self.entry.text {
            Kept::Own(text) => Arc::clone(text),
            Kept::Packed { .. } => self.bytes().into(),
        }
    }

    /// The item, looked at at the time `now`.
    pub fn item(self, now: UnixTime) -> Item {
        let tail = self.entry.tail();
        let (cas, flags) = numbers_of(self.bytes(), tail);
        Item {
            text: self.text(),
            tail,
            flags,
            expiry: self.entry.expiry,
            cas,
            marks: self.entry.marks(),
            last_access: self.entry.last_access(now),
            fetched: self.entry.fetched(),
        }
    }

    /// The cas unique.
    pub fn cas(self) -> u64 {
        numbers_of(self.bytes(), self.entry.tail()).0
    }
}

/// What is noted on an item: six bits, and in the other 26 the second of the last access. Readers hold the
/// lock with others, so it is atomic.
///
/// 26 bits of seconds come round every two years: of an item that nobody has read for longer, it is not known
/// how long.
#[derive(Debug, Default)]
struct Notes(AtomicU32);

const LONG_TAIL: u32 = 1 << 31;
const FETCHED: u32 = 1 << 30;
const VISITED: u32 = 1 << 29;
const BINARY_KEY: u32 = 1 << 28;
const STALE: u32 = 1 << 27;
const WON: u32 = 1 << 26;
const SECONDS: u32 = WON - 1;

impl Notes {
    fn has(&self, bit: u32) -> bool {
        self.0.load(Relaxed) & bit != 0
    }

    fn set(&mut self, bit: u32, on: bool) {
        let notes = self.0.get_mut();
        *notes = if on { *notes | bit } else { *notes & !bit };
    }

    fn marks(&self) -> Marks {
        Marks {
            binary_key: self.has(BINARY_KEY),
            stale: self.has(STALE),
            won: self.has(WON),
        }
    }

    fn set_marks(&mut self, marks: Marks) {
        self.set(BINARY_KEY, marks.binary_key);
        self.set(STALE, marks.stale);
        self.set(WON, marks.won);
    }

    fn last_access(&self, now: UnixTime) -> UnixTime {
        let ago = now.wrapping_sub(self.0.load(Relaxed)) & SECONDS;
        now.saturating_sub(ago)
    }

    fn set_last_access(&mut self, now: UnixTime) {
        let notes = self.0.get_mut();
        *notes = *notes & !SECONDS | now & SECONDS;
    }

    /// All the other bits stand as long as somebody reads, so readers can only write the same.
    fn read(&self, now: UnixTime) {
        let before = self.0.load(Relaxed);
        let after = before & !SECONDS | FETCHED | VISITED | now & SECONDS;
        // Written only when it changes, so that the readers of a popular item share its cache line.
        if after != before {
            self.0.store(after, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Exptime;

    /// What is kept of an entry that stands alone.
    fn item(entry: &Entry, now: UnixTime) -> Item {
        let block = &Block::Open(Vec::new());
        View { entry, block }.item(now)
    }

    #[test]
    fn what_is_kept_of_an_item_is_the_whole_item() {
        let large = u64::from(u32::MAX) + 1;
        for (flags, cas) in [(0, 5), (0, large), (1, 5), (u32::MAX, u64::MAX)] {
            let mut new = Item::new(b"k", flags, Exptime::After(9).expiry(100), &[b"v"]);
            new.cas = cas;
            new.fetched = true;
            new.marks.stale = true;
            let again = item(&Entry::new(new, 100, 0), 200);
            assert_eq!((again.key(), again.value()), (&b"k"[..], &b"v"[..]));
            assert_eq!((again.flags(), again.cas), (flags, cas));
            assert_eq!((again.expiry.time(), again.last_access), (Some(109), 100));
            assert!(again.fetched && again.marks.stale && !again.marks.won);
        }
    }

    #[test]
    fn a_cas_unique_can_change_and_who_has_read_the_item_keeps_the_old_one() {
        let large = u64::from(u32::MAX) + 1;
        for flags in [0, 7] {
            let mut entry = Entry::new(Item::new(b"k", flags, Expiry::NEVER, &[b"v"]), 100, 0);
            let before = item(&entry, 100);
            for cas in [7, large + 7, 8] {
                entry.set_cas(cas);
                let after = item(&entry, 100);
                assert_eq!((after.cas, after.flags()), (cas, flags));
                assert_eq!((after.key(), after.value()), (&b"k"[..], &b"v"[..]));
            }
            assert_eq!(numbers_of(before.text.bytes(), before.tail), (0, flags));
        }
    }

    #[test]
    fn the_last_access_is_the_last_reading_or_else_the_storing() {
        let now = 1_800_000_000;
        let entry = Entry::new(Item::new(b"k", 0, Expiry::NEVER, &[]), now, 0);
        assert_eq!((entry.last_access(now), entry.fetched()), (now, false));
        entry.note(now + 5);
        assert_eq!(
            (entry.last_access(now + 70), entry.fetched()),
            (now + 5, true)
        );
    }
}
