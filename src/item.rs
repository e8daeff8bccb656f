//! What a key holds. This is the ground floor: every part of the server may know it, and it knows only `memory`.

use std::borrow::Cow;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::memory::{LargeValue, Memory};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 250;

/// Seconds of unix time. 32 bits are enough until 2106, and an item carries one.
pub type UnixTime = u32;

/// An item: key, value, and their metadata.
///
/// An item that is made for the store owns its bytes. An item that is read from the store borrows them from the
/// [room](Item::copied_to) of its reader, but for a large value, which it shares.
#[derive(Debug, Clone)]
pub struct Item<'a> {
    /// The key, and behind it the value, unless that is large.
    pub(crate) bytes: Cow<'a, [u8]>,
    pub(crate) key_length: u8,
    pub(crate) large: Option<Arc<LargeValue>>,
    /// The client's 32 bits.
    pub flags: u32,
    /// When it expires.
    pub expiry: Expiry,
    /// Changes whenever the value changes. 0 until the item is stored.
    pub cas: u64,
    /// What meta commands have noted on it.
    pub marks: Marks,
    /// When it was last read (or else stored), before this command.
    pub last_access: UnixTime,
    /// Whether it was read before this command. For an item that is about to be stored: whether it counts as read.
    pub fetched: bool,
}

/// What meta commands note on an item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// The key is binary: meta commands show it in base64.
    pub binary_key: bool,
    /// The value is out of date (`md … I`).
    pub stale: bool,
    /// One client has the right to bring a new value (`W`). The others see `Z`.
    pub won: bool,
}

impl<'a> Item<'a> {
    /// An item with a value of `bytes` bytes, to be filled through [`Item::value_mut`].
    pub fn blank(key: &[u8], flags: u32, expiry: Expiry, bytes: usize) -> Self {
        debug_assert!(key.len() <= MAX_KEY);
        // Zeros come from the system without being written, and the room is exactly as large as it must be.
        let mut room = vec![0; key.len() + bytes];
        let (key_room, _) = room.split_at_mut(key.len());
        key_room.copy_from_slice(key);
        Item {
            bytes: room.into(),
            key_length: key.len() as u8,
            large: None,
            flags,
            expiry,
            cas: 0,
            marks: Marks::default(),
            last_access: 0,
            fetched: false,
        }
    }

    /// An item whose value is these parts, one behind the other.
    pub fn new(key: &[u8], flags: u32, expiry: Expiry, value: &[&[u8]]) -> Self {
        let length = value.iter().map(|part| part.len()).sum();
        let mut item = Item::blank(key, flags, expiry, length);
        let mut room = item.value_mut();
        for part in value {
            let (here, rest) = room.split_at_mut(part.len());
            here.copy_from_slice(part);
            room = rest;
        }
        item
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        self.bytes.split_at(self.key_length.into()).0
    }

    /// The value. That of a large item is put together from its parts.
    pub fn value(&self) -> Cow<'_, [u8]> {
        let mut value = Vec::new();
        match self.large {
            None => return self.bytes.split_at(self.key_length.into()).1.into(),
            // A Vec takes everything.
            Some(_) => drop(self.write_value(&mut value)),
        }
        value.into()
    }

    /// Writes the value.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_value(&self, out: &mut impl Write) -> io::Result<()> {
        match &self.large {
            None => out.write_all(self.bytes.split_at(self.key_length.into()).1),
            Some(large) => large.for_each_part(&mut Vec::new(), |part| out.write_all(part)),
        }
    }

    /// How many bytes the value has.
    pub fn value_length(&self) -> usize {
        match &self.large {
            None => self.bytes.len() - usize::from(self.key_length),
            Some(large) => large.length(),
        }
    }

    /// The room for the value of an item that was [made](Item::blank) to be filled.
    pub fn value_mut(&mut self) -> &mut [u8] {
        self.bytes.to_mut().split_at_mut(self.key_length.into()).1
    }

    /// The same item, and if it has more than `max_small` bytes, with its value as a large one.
    pub(crate) fn with_large_value(mut self, max_small: usize, memory: &Arc<Memory>) -> Self {
        if self.bytes.len() > max_small {
            self.large = Some(Arc::new(LargeValue::new(&self.value(), memory)));
            self.bytes = self.key().to_vec().into();
        }
        self
    }

    /// The same item without a copy of its bytes.
    pub fn borrowed(&self) -> Item<'_> {
        self.with_bytes(Cow::Borrowed(&self.bytes))
    }

    /// The same item with its bytes in `room`, in place of what is there. A large value is shared and not copied.
    pub fn copied_to<'r>(&self, room: &'r mut Vec<u8>) -> Item<'r> {
        room.clear();
        room.extend_from_slice(&self.bytes);
        self.with_bytes(Cow::Borrowed(room))
    }

    /// The same item with bytes of its own. A large value is shared and not copied.
    pub fn into_owned(self) -> Item<'static> {
        self.with_bytes(Cow::Owned(self.bytes.to_vec()))
    }

    fn with_bytes<'b>(&self, bytes: Cow<'b, [u8]>) -> Item<'b> {
        Item {
            bytes,
            key_length: self.key_length,
            large: self.large.clone(),
            flags: self.flags,
            expiry: self.expiry,
            cas: self.cas,
            marks: self.marks,
            last_access: self.last_access,
            fetched: self.fetched,
        }
    }

    /// The size that memcached would give this item: what `-I` limits, so that what fits there fits
    /// here. 48 bytes of header, 8 of cas unique, the key and a NUL, 4 of flags unless they are 0, the
    /// value and `\r\n`.
    pub fn size_in_memcached(key: &[u8], flags: u32, bytes: usize) -> usize {
        48 + 8 + key.len() + 1 + if flags == 0 { 0 } else { 4 } + bytes + b"\r\n".len()
    }
}

/// The earlier of two moments, where `None` is never.
pub(crate) fn earlier(one: Option<UnixTime>, other: Option<UnixTime>) -> Option<UnixTime> {
    [one, other].into_iter().flatten().min()
}

/// The last moment at which an item can expire (7 February 2106). A client can name dates until January 2038 only, but a
/// number of seconds from now on can end later.
const LAST_DATE: UnixTime = UnixTime::MAX - 1;

/// The moment from which an item is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry(NonZeroU32);

impl Expiry {
    /// The item stays until it is deleted or evicted.
    pub const NEVER: Expiry = Expiry(NonZeroU32::MAX);

    /// The item has expired as soon as it is stored.
    pub const AT_ONCE: Expiry = Expiry(NonZeroU32::MIN);

    /// The item expires at this unix time, in seconds, or at [`LAST_DATE`] if that is earlier; 0 means never.
    pub fn at(date: u64) -> Self {
        let date = date.min(LAST_DATE.into()) as UnixTime;
        NonZeroU32::new(date).map_or(Expiry::NEVER, Expiry)
    }

    /// Encodes it.
    pub(crate) fn to_u32(self) -> u32 {
        self.0.get()
    }

    /// Decodes it.
    pub(crate) fn from_u32(number: u32) -> Self {
        NonZeroU32::new(number).map_or(Expiry::NEVER, Expiry)
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
        assert_eq!((&*item.value(), item.value_length()), (&b"a\r\nc"[..], 4));
    }

    #[test]
    fn the_longest_key_and_the_empty_value_fit() {
        let key = [b'k'; MAX_KEY];
        let item = Item::new(&key, 0, Expiry::NEVER, &[]);
        assert_eq!(item.key(), key);
        assert!(item.value().is_empty());
    }

    #[test]
    fn a_copy_in_a_room_takes_the_place_of_what_was_there() {
        let mut room = b"what was there before".to_vec();
        let item = Item::new(b"k", 0, Expiry::NEVER, &[b"v"]);
        let copy = item.copied_to(&mut room);
        assert_eq!((copy.key(), &*copy.value()), (&b"k"[..], &b"v"[..]));
        drop(copy);
        assert_eq!(room, b"kv");
    }

    #[test]
    fn a_large_item_is_the_same_in_parts_and_counts_until_its_last_reader_lets_go() {
        let memory = Arc::new(Memory::new(1 << 20));
        let value: Vec<u8> = (0..100_000).map(|n| (n % 251) as u8).collect();
        let item = Item::new(b"key", 7, Expiry::NEVER, &[&value]);
        let item = item.with_large_value(100_002, &memory);
        assert!(item.large.is_some());
        assert_eq!(
            (item.key(), item.value_length()),
            (&b"key"[..], value.len())
        );
        assert_eq!(item.value(), value);
        let reader = item.copied_to(&mut Vec::new()).into_owned();
        drop(item);
        assert!(memory.used() > 100_000);
        drop(reader);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn the_border_of_1_mb_is_memcacheds() {
        assert_eq!(Item::size_in_memcached(b"k", 0, 1_048_516), 1 << 20);
        assert_eq!(Item::size_in_memcached(b"k", 1, 1_048_512), 1 << 20);
    }
}
