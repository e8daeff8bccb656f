//! An item: key, flags, expiry, cas unique, marks and data block.

use std::num::NonZeroU32;
use std::sync::Arc;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 250;

/// Seconds of unix time. 32 bits are enough until 2106, and an item carries one.
pub type UnixTime = u32;

/// What ends every data block on the wire. An item keeps it, so that a `get` sends it with the value.
const END: &[u8] = b"\r\n";

/// What one key holds. Cloning is cheap: key and value are shared, so a reader takes its clone out of
/// the lock and sends it in its own time.
#[derive(Debug, Clone)]
pub struct Item {
    pub(crate) text: Text,
    pub(crate) tail: Tail,
    /// The client's 32 bits. They never change: the text has room for them, or has none.
    pub(crate) flags: u32,
    /// When it ends.
    pub expiry: Expiry,
    /// Changes whenever the item does. 0 until it is stored.
    pub cas: u64,
    /// What meta commands have noted on it.
    pub marks: Marks,
    /// When it was last read (or else stored), before it was looked up this time.
    pub last_access: UnixTime,
    /// Whether it was ever read before it was looked up this time; or, of one that is to be stored, whether
    /// it counts as read.
    pub fetched: bool,
}

/// What meta commands note on an item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// The key is binary: meta commands show it in base64.
    pub binary_key: bool,
    /// The value is out of date (`md … I`).
    pub stale: bool,
    /// One client has been told that it is its part to bring a new value (`W`); the others are told so
    /// (`Z`).
    pub won: bool,
}

/// The bytes of an item: a byte with the key's length, the key, the value, `\r\n`, and a [`Tail`]. They are all of
/// an allocation, or, once they are kept, perhaps part of one that small items share. Clones share it too.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    block: Arc<[u8]>,
    start: u32,
    end: u32,
}

/// How a text ends: the cas unique and the flags, which most items hardly need room for, and a stamp of 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// 4 bytes of cas unique; the flags are 0.
    Short,
    /// 8 bytes of cas unique and 4 of flags.
    Long,
}

const STAMP: usize = size_of::<u32>();

impl Tail {
    /// How many bytes it is long.
    const fn length(self) -> usize {
        match self {
            Tail::Short => 4 + STAMP,
            Tail::Long => 12 + STAMP,
        }
    }

    /// That of a new item. Its cas unique is most likely none of those above 4 billion.
    const fn of(flags: u32) -> Self {
        if flags == 0 { Tail::Short } else { Tail::Long }
    }
}

/// How long the text of such an item is, in bytes.
const fn length(key: usize, flags: u32, bytes: usize) -> usize {
    1 + key + bytes + END.len() + Tail::of(flags).length()
}

impl Text {
    /// A text that is the whole of a block.
    pub fn whole(block: Arc<[u8]>) -> Self {
        let end = block.len() as u32;
        Text {
            block,
            start: 0,
            end,
        }
    }

    /// A text that is part of a block.
    pub fn part(block: Arc<[u8]>, start: u32, end: u32) -> Self {
        Text { block, start, end }
    }

    fn blank(key: &[u8], flags: u32, bytes: usize) -> Self {
        debug_assert!(key.len() <= MAX_KEY);
        let length = length(key.len(), flags, bytes);
        let mut text = Text::whole(std::iter::repeat_n(0, length).collect());
        if let Some((key_length, rest)) = text.own().split_first_mut() {
            *key_length = key.len() as u8;
            let (key_room, _) = rest.split_at_mut(key.len());
            key_room.copy_from_slice(key);
        }
        text
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        let range = self.start as usize..self.end as usize;
        self.block.get(range).unwrap_or_default()
    }

    /// All of it, to be changed, in an allocation of its own that nobody shares.
    fn own(&mut self) -> &mut [u8] {
        if self.bytes().len() < self.block.len() {
            *self = Text::whole(self.bytes().into());
        }
        Arc::make_mut(&mut self.block)
    }

    /// The same in an allocation of its own.
    pub fn into_own(mut self) -> Arc<[u8]> {
        self.own();
        self.block
    }

    /// Writes down cas unique, flags and stamp (when it took its place, counted in stores), with the long tail if need
    /// be. Gives how it ends now. Readers who share the text keep it as it was.
    pub fn set_tail(&mut self, tail: Tail, cas: u64, flags: u32, stamp: u32) -> Tail {
        let short = u32::try_from(cas).ok().filter(|_| tail == Tail::Short);
        if short.is_none() && tail == Tail::Short {
            let (begin, _) = self.bytes().split_at(self.bytes().len() - tail.length());
            let room = std::iter::repeat_n(0, Tail::Long.length());
            *self = Text::whole(begin.iter().copied().chain(room).collect());
        }
        let Some((text, room)) = self.own().split_last_chunk_mut() else {
            return tail;
        };
        *room = stamp.to_ne_bytes();
        if let Some(cas) = short
            && let Some(room) = text.last_chunk_mut()
        {
            *room = cas.to_ne_bytes();
            return Tail::Short;
        }
        if let Some((text, room)) = text.split_last_chunk_mut() {
            *room = flags.to_ne_bytes();
            if let Some(room) = text.last_chunk_mut() {
                *room = cas.to_ne_bytes();
            }
        }
        Tail::Long
    }
}

/// Cas unique and flags in a text that ends so.
pub(crate) fn numbers_of(text: &[u8], tail: Tail) -> (u64, u32) {
    let (text, _) = text.split_at(text.len() - STAMP);
    match tail {
        Tail::Short => {
            let cas = text.last_chunk().copied().map(u32::from_ne_bytes);
            (cas.unwrap_or(0).into(), 0)
        }
        Tail::Long => {
            let (text, flags) = text.split_last_chunk().unwrap_or((text, &[0; 4]));
            let cas = text.last_chunk().copied().map(u64::from_ne_bytes);
            (cas.unwrap_or(0), u32::from_ne_bytes(*flags))
        }
    }
}

/// When the item of a text took its place, counted in stores.
pub(crate) fn stamp_of(text: &[u8]) -> u32 {
    let stamp = text.last_chunk().copied();
    stamp.map_or(0, u32::from_ne_bytes)
}

/// The key in a text, and what is behind it.
fn split(text: &[u8]) -> (&[u8], &[u8]) {
    match text.split_first() {
        Some((key_length, rest)) => rest.split_at(usize::from(*key_length)),
        None => (&[], &[]),
    }
}

/// The key in a text.
pub(crate) fn key_of(text: &[u8]) -> &[u8] {
    split(text).0
}

impl Item {
    /// An item with room for `bytes` of value, to be filled through [`Item::data_block_mut`].
    pub fn blank(key: &[u8], flags: u32, expiry: Expiry, bytes: usize) -> Self {
        let (text, marks) = (Text::blank(key, flags, bytes), Marks::default());
        Item {
            text,
            tail: Tail::of(flags),
            flags,
            expiry,
            cas: 0,
            marks,
            last_access: 0,
            fetched: false,
        }
    }

    /// An item whose value is these parts, one behind the other.
    pub fn new(key: &[u8], flags: u32, expiry: Expiry, value: &[&[u8]]) -> Self {
        let mut item = Item::blank(
            key,
            flags,
            expiry,
            value.iter().map(|part| part.len()).sum(),
        );
        item.fill(value);
        item
    }

    /// Fills a blank item whose value has just this length.
    pub fn fill(&mut self, value: &[&[u8]]) {
        let mut room = self.data_block_mut();
        for part in value.iter().chain([&END]) {
            let (here, rest) = room.split_at_mut(part.len());
            here.copy_from_slice(part);
            room = rest;
        }
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        key_of(self.text.bytes())
    }

    /// The client's 32 bits.
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        let block = self.data_block();
        block.strip_suffix(END).unwrap_or(block)
    }

    /// The value and the `\r\n` behind it, as it travels.
    pub fn data_block(&self) -> &[u8] {
        let (_, rest) = split(self.text.bytes());
        rest.split_at(rest.len() - self.tail.length()).0
    }

    /// The room for value and `\r\n`. While the item is new it is nobody else's, and this is the very
    /// memory that will be kept; of an item that is shared already, it is a copy.
    pub fn data_block_mut(&mut self) -> &mut [u8] {
        let start = 1 + self.key().len();
        let rest = self.text.own().split_at_mut(start).1;
        rest.split_at_mut(rest.len() - self.tail.length()).0
    }

    /// How many bytes of memory an item needs before it is stored. Its place in a queue and one in an index come to
    /// that, which the shard has already or makes.
    pub fn charge_of(key: &[u8], flags: u32, bytes: usize) -> usize {
        charge_of_text(length(key.len(), flags, bytes))
    }

    /// The size that memcached would give this item: what `-I` limits, so that what fits there fits
    /// here. 48 bytes of header, 8 of cas unique, the key and a NUL, 4 of flags unless they are 0, the
    /// value and `\r\n`.
    pub fn size_in_memcached(key: &[u8], flags: u32, bytes: usize) -> usize {
        48 + 8 + key.len() + 1 + if flags == 0 { 0 } else { 4 } + bytes + END.len()
    }
}

/// What an item is charged for a text in an allocation of its own. Between pieces of all sizes the allocator loses
/// some memory, which was measured to be up to a quarter of what is used.
pub(crate) fn charge_of_text(length: usize) -> usize {
    allocated(length) * 5 / 4
}

/// How much memory a text of so many bytes takes: an `Arc` has two counts before it, and the allocator keeps
/// 8 bytes of its own and rounds up to 16.
pub(crate) fn allocated(text: usize) -> usize {
    const COUNTS: usize = 2 * size_of::<usize>();
    const ALLOCATOR: usize = 8;
    (COUNTS + text + ALLOCATOR).next_multiple_of(16)
}

/// The last date that the protocol can say (19 January 2038): its exptime has 31 bits, and so has the time
/// in a log.
const LAST: UnixTime = i32::MAX as UnixTime;

/// The moment from which an item is no longer there. It is never 0, so that an `Option` of what has an expiry
/// is no larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry(NonZeroU32);

impl Expiry {
    /// It stays until it is deleted or evicted.
    pub const NEVER: Expiry = Expiry(NonZeroU32::MAX);

    /// The item has expired as soon as it is stored.
    pub const AT_ONCE: Expiry = Expiry(NonZeroU32::MIN);

    /// The item expires at this unix time, in seconds; 0 means never.
    pub fn at(date: u64) -> Self {
        let date = date.min(LAST.into()) as UnixTime;
        NonZeroU32::new(date).map_or(Expiry::NEVER, Expiry)
    }

    /// Whether the moment has come.
    pub fn has_passed(self, now: UnixTime) -> bool {
        self.0.get() <= now && self != Expiry::NEVER
    }

    /// The moment itself; `None` for never.
    pub fn time(self) -> Option<UnixTime> {
        (self != Expiry::NEVER).then_some(self.0.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_keeps_key_and_value_apart() {
        let item = Item::new(b"key", 7, Expiry::NEVER, &[b"a", b"\r\n", b"c"]);
        assert_eq!(item.key(), b"key");
        assert_eq!(item.value(), b"a\r\nc");
        assert_eq!(item.data_block(), b"a\r\nc\r\n");
    }

    #[test]
    fn the_longest_key_and_the_empty_value_fit() {
        let key = [b'k'; MAX_KEY];
        let item = Item::new(&key, 0, Expiry::NEVER, &[]);
        assert_eq!(item.key(), key);
        assert_eq!(item.value(), b"");
    }

    #[test]
    fn data_read_into_a_new_item_is_not_copied_again() {
        let mut item = Item::blank(b"k", 0, Expiry::NEVER, 3);
        let room = item.data_block_mut();
        room.copy_from_slice(b"abc\r\n");
        let address = room.as_ptr();
        assert_eq!(item.clone().data_block().as_ptr(), address);
        assert_eq!(item.value(), b"abc");
    }

    #[test]
    fn the_border_of_1_mb_is_memcacheds() {
        assert_eq!(Item::size_in_memcached(b"k", 0, 1_048_516), 1 << 20);
        assert_eq!(Item::size_in_memcached(b"k", 1, 1_048_512), 1 << 20);
    }
}
