//! Items: what a key holds. Every part of the server may use this file, and it uses only `memory`.

use std::borrow::Cow;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::memory::{LargeValue, Memory};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 250;

/// Unix time in seconds. 32 bits are enough until 2106, and keep an item small.
pub type UnixTime = u32;

/// An item: key, value, and their metadata.
///
/// An item that is created for the store owns its bytes. An item that is read from the store borrows them from the
/// [buffer](Item::copied_to) of its reader, except a large value, which it shares.
#[derive(Debug, Clone)]
pub struct Item<'a> {
    /// The key, and after it the value, unless that is large.
    pub(crate) bytes: Cow<'a, [u8]>,
    pub(crate) key_length: u8,
    pub(crate) large: Option<Arc<LargeValue>>,
    /// The client's 32 bits.
    pub flags: u32,
    /// When it expires.
    pub expiry: Expiry,
    /// Changes whenever the value changes. 0 until the item is stored.
    pub cas: u64,
    /// The marks that meta commands set.
    pub marks: Marks,
    /// When it was last read before this command, or stored if it was never read.
    pub last_access: UnixTime,
    /// Whether it was read before this command. For an item that is about to be stored: whether it counts as read.
    pub fetched: bool,
}

/// The marks that meta commands set on an item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// The key is binary: meta commands show it in base64.
    pub binary_key: bool,
    /// The value is out of date (`md … I`).
    pub stale: bool,
    /// One client has won (`W`): it should send a new value. The other clients get `Z`.
    pub won: bool,
}

impl<'a> Item<'a> {
    /// An item whose value is `bytes` zeros. Write the real value to [`Item::value_mut`].
    pub fn blank(key: &[u8], flags: u32, expiry: Expiry, bytes: usize) -> Self {
        Item::blank_in(Vec::new(), key, flags, expiry, bytes)
    }

    /// The same item. Its bytes are in `room` if that has the capacity for them. [`Item::into_room`] returns it.
    pub fn blank_in(
        mut room: Vec<u8>,
        key: &[u8],
        flags: u32,
        expiry: Expiry,
        bytes: usize,
    ) -> Self {
        debug_assert!(key.len() <= MAX_KEY);
        let length = key.len() + bytes;
        let key_and_value = if length <= room.capacity() {
            room.clear();
            room.extend_from_slice(key);
            room.resize(length, 0);
            room
        } else {
            // `vec![0; n]` gets zeroed memory from the system without writing to it, and allocates no more than n bytes.
            let mut key_and_value = vec![0; length];
            let (key_bytes, _) = key_and_value.split_at_mut(key.len());
            key_bytes.copy_from_slice(key);
            key_and_value
        };
        Item {
            bytes: key_and_value.into(),
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

    /// An item whose value is these parts, one after the other.
    pub fn new(key: &[u8], flags: u32, expiry: Expiry, value: &[&[u8]]) -> Self {
        let length = value.iter().map(|part| part.len()).sum();
        let mut item = Item::blank(key, flags, expiry, length);
        let mut unwritten = item.value_mut();
        for part in value {
            let (target, rest) = unwritten.split_at_mut(part.len());
            target.copy_from_slice(part);
            unwritten = rest;
        }
        item
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        self.bytes.split_at(self.key_length.into()).0
    }

    /// The value. A large value is assembled from its parts.
    pub fn value(&self) -> Cow<'_, [u8]> {
        let mut value = Vec::new();
        match self.large {
            None => return self.bytes.split_at(self.key_length.into()).1.into(),
            // Writing to a Vec does not fail.
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
            Some(large) => large.write_to(|bytes| out.write_all(bytes)),
        }
    }

    /// The length of the value in bytes.
    pub fn value_length(&self) -> usize {
        match &self.large {
            None => self.bytes.len() - usize::from(self.key_length),
            Some(large) => large.length(),
        }
    }

    /// The bytes of the value, to be written after [`Item::blank`].
    pub fn value_mut(&mut self) -> &mut [u8] {
        self.bytes.to_mut().split_at_mut(self.key_length.into()).1
    }

    /// The vector that has the item's bytes, for the next [`Item::blank_in`].
    pub fn into_room(self) -> Vec<u8> {
        self.bytes.into_owned()
    }

    /// The same item. If key and value are longer than `max_small` bytes, its value becomes a large value.
    pub(crate) fn with_large_value(mut self, max_small: usize, memory: &Arc<Memory>) -> Self {
        if self.bytes.len() > max_small {
            self.large = Some(Arc::new(LargeValue::new(&self.value(), memory)));
            self.bytes = self.key().to_vec().into();
        }
        self
    }

    /// The same item, with borrowed bytes.
    pub fn borrowed(&self) -> Item<'_> {
        self.with_bytes(Cow::Borrowed(&self.bytes))
    }

    /// The same item, with its bytes copied to the buffer `room`, which is cleared first. A large value is shared and
    /// not copied.
    pub fn copied_to<'r>(&self, room: &'r mut Vec<u8>) -> Item<'r> {
        room.clear();
        room.extend_from_slice(&self.bytes);
        self.with_bytes(Cow::Borrowed(room))
    }

    /// The same item, with a copy of its bytes that it owns. A large value is shared and not copied.
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

    /// The size of this item in memcached, in bytes. `-I` limits this size, so that an item is allowed here if
    /// memcached allows it. It is the sum of 48 bytes of header, 8 of cas unique, the key and a NUL, 4 of flags unless
    /// they are 0, the value and `\r\n`.
    pub fn size_in_memcached(key: &[u8], flags: u32, bytes: usize) -> usize {
        48 + 8 + key.len() + 1 + if flags == 0 { 0 } else { 4 } + bytes + b"\r\n".len()
    }
}

/// The earlier of two times, where `None` is never.
pub(crate) fn earlier(one: Option<UnixTime>, other: Option<UnixTime>) -> Option<UnixTime> {
    [one, other].into_iter().flatten().min()
}

/// The last moment at which an item can expire (7 February 2106). A client can name dates until January 2038 only, but
/// a number of seconds from now can lead to a later time.
const LAST_DATE: UnixTime = UnixTime::MAX - 1;

/// The time from which an item is expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry(NonZeroU32);

impl Expiry {
    /// The item never expires. It may still be deleted or evicted.
    pub const NEVER: Expiry = Expiry(NonZeroU32::MAX);

    /// The item is expired as soon as it is stored.
    pub const AT_ONCE: Expiry = Expiry(NonZeroU32::MIN);

    /// The item expires at this unix time, in seconds, or at [`LAST_DATE`] if that is earlier; 0 means never.
    pub fn at(date: u64) -> Self {
        let date = date.min(LAST_DATE.into()) as UnixTime;
        NonZeroU32::new(date).map_or(Expiry::NEVER, Expiry)
    }

    /// The number that represents this expiry in an item's head.
    pub(crate) fn to_u32(self) -> u32 {
        self.0.get()
    }

    /// The expiry that this number represents.
    pub(crate) fn from_u32(number: u32) -> Self {
        NonZeroU32::new(number).map_or(Expiry::NEVER, Expiry)
    }

    /// Whether the item is expired at the time `now`.
    pub fn has_passed(self, now: UnixTime) -> bool {
        self.0.get() <= now && self != Expiry::NEVER
    }

    /// The time; `None`: never.
    pub fn time(self) -> Option<UnixTime> {
        (self != Expiry::NEVER).then_some(self.0.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_and_value_of_an_item_are_separate() {
        let item = Item::new(b"key", 7, Expiry::NEVER, &[b"a", b"\r\n", b"c"]);
        assert_eq!(item.key(), b"key");
        assert_eq!((&*item.value(), item.value_length()), (&b"a\r\nc"[..], 4));
    }

    #[test]
    fn an_item_may_have_the_longest_key_and_an_empty_value() {
        let key = [b'k'; MAX_KEY];
        let item = Item::new(&key, 0, Expiry::NEVER, &[]);
        assert_eq!(item.key(), key);
        assert!(item.value().is_empty());
    }

    #[test]
    fn a_blank_item_in_used_room_has_only_its_key_and_zeros() {
        let room = b"old contents, which are longer".to_vec();
        let item = Item::blank_in(room, b"k", 0, Expiry::NEVER, 2);
        assert_eq!((item.key(), &*item.value()), (&b"k"[..], &b"\0\0"[..]));
        let item = Item::blank_in(item.into_room(), b"key", 0, Expiry::NEVER, 100);
        assert_eq!((item.key(), &*item.value()), (&b"key"[..], &[0; 100][..]));
    }

    #[test]
    fn an_item_copied_to_a_buffer_replaces_its_old_contents() {
        let mut room = b"old contents, which are longer".to_vec();
        let item = Item::new(b"k", 0, Expiry::NEVER, &[b"v"]);
        let copy = item.copied_to(&mut room);
        assert_eq!((copy.key(), &*copy.value()), (&b"k"[..], &b"v"[..]));
        drop(copy);
        assert_eq!(room, b"kv");
    }

    #[test]
    fn a_large_value_is_complete_and_uses_memory_until_its_last_reader_drops_it() {
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
    fn the_largest_value_with_a_limit_of_1_mb_is_that_of_memcached() {
        assert_eq!(Item::size_in_memcached(b"k", 0, 1_048_516), 1 << 20);
        assert_eq!(Item::size_in_memcached(b"k", 1, 1_048_512), 1 << 20);
    }
}
