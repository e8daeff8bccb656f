//! An item: key, flags, expiry, cas unique, marks and data block.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::clock::{Expiry, UnixTime};
use crate::protocol::MAX_KEY;

/// What ends every data block on the wire. An item keeps it, so that a `get` sends it with the value.
const END: &[u8] = b"\r\n";

/// What one key holds. Cloning is cheap: key and value are shared, so a reader takes its clone out of
/// the lock and sends it in its own time.
#[derive(Debug, Clone)]
pub struct Item {
    /// Key and value.
    pub text: Text,
    /// The client's 32 bits.
    pub flags: u32,
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

/// Key and value of an item in one allocation: a byte with the key's length, the key, the value, `\r\n`.
///
/// Equal, and of the same hash, are two texts of the same key. So a table of texts is a table by key,
/// and no key is kept twice.
#[derive(Debug, Clone)]
pub struct Text(Arc<[u8]>);

impl Text {
    fn blank(key: &[u8], bytes: usize) -> Self {
        debug_assert!(key.len() <= MAX_KEY);
        let length = 1 + key.len() + bytes + END.len();
        let mut text: Arc<[u8]> = std::iter::repeat_n(0, length).collect();
        if let Some((key_length, rest)) = Arc::make_mut(&mut text).split_first_mut() {
            *key_length = key.len() as u8;
            let (key_room, _) = rest.split_at_mut(key.len());
            key_room.copy_from_slice(key);
        }
        Text(text)
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        self.split().0
    }

    /// Key, and value with its `\r\n`.
    fn split(&self) -> (&[u8], &[u8]) {
        match self.0.split_first() {
            Some((key_length, rest)) => rest.split_at(usize::from(*key_length)),
            None => (&[], &[]),
        }
    }

    /// Its length in bytes, all of it.
    #[allow(clippy::len_without_is_empty)] // It never is.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// How many bytes of memory an item with this text takes, all told: what counts against `-m`.
    pub fn charge(&self) -> usize {
        charge(self.0.len())
    }
}

impl Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As a borrowed `[u8]` hashes, which `Borrow` demands.
        self.key().hash(state);
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Text {}

impl Item {
    /// An item with room for `bytes` of value, to be filled through [`Item::data_block_mut`].
    pub fn blank(key: &[u8], flags: u32, expiry: Expiry, bytes: usize) -> Self {
        let (text, marks) = (Text::blank(key, bytes), Marks::default());
        Item {
            text,
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
        self.text.key()
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        let block = self.data_block();
        block.strip_suffix(END).unwrap_or(block)
    }

    /// The value and the `\r\n` behind it, as it travels.
    pub fn data_block(&self) -> &[u8] {
        self.text.split().1
    }

    /// The room for value and `\r\n`. While the item is new it is nobody else's, and this is the very
    /// memory that will be kept; of an item that is shared already, it is a copy.
    pub fn data_block_mut(&mut self) -> &mut [u8] {
        let start = 1 + self.key().len();
        Arc::make_mut(&mut self.text.0).split_at_mut(start).1
    }

    /// The charge of an item before it exists.
    pub fn charge_of(key: &[u8], bytes: usize) -> usize {
        charge(1 + key.len() + bytes + END.len())
    }

    /// The size that memcached would give this item: what `-I` limits, so that what fits there fits
    /// here. 48 bytes of header, 8 of cas unique, the key and a NUL, 4 of flags unless they are 0, the
    /// value and `\r\n`.
    pub fn size_in_memcached(key: &[u8], flags: u32, bytes: usize) -> usize {
        48 + 8 + key.len() + 1 + if flags == 0 { 0 } else { 4 } + bytes + END.len()
    }
}

/// Beside the text: an `Arc`'s two counts, what the allocator keeps of a block and rounds it up to, and
/// the item's place in the table (a pointer with a length, an [`Entry`](super::shard::Entry) and a byte,
/// in a table that doubles and so is on average two thirds full).
fn charge(text: usize) -> usize {
    const COUNTS: usize = 16;
    const ALLOCATOR: usize = 8;
    const PLACE: usize = (size_of::<Text>() + size_of::<super::shard::Entry>() + 1) * 3 / 2;
    (COUNTS + text + ALLOCATOR).next_multiple_of(16) + PLACE
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
