//! An item: key, flags, expiry, cas unique and data block.

use std::sync::Arc;

use super::clock::Expiry;
use crate::protocol::MAX_KEY;

/// What ends every data block on the wire. An item keeps it, so that a `get` sends it with the value.
const END: &[u8] = b"\r\n";

/// What one key holds. Cloning is cheap: key and value are shared, so a reader takes its clone out of
/// the lock and sends it in its own time.
#[derive(Debug, Clone)]
pub struct Item {
    /// One allocation: a byte with the key's length, the key, the value, `\r\n`.
    text: Arc<[u8]>,
    /// The client's 32 bits.
    pub flags: u32,
    /// When it ends.
    pub expiry: Expiry,
    /// Changes whenever the item does. 0 until it is stored, never after.
    pub cas: u64,
}

impl Item {
    /// An item with room for `bytes` of value, to be filled through [`Item::data_block_mut`].
    pub fn blank(key: &[u8], flags: u32, expiry: Expiry, bytes: usize) -> Self {
        debug_assert!(key.len() <= MAX_KEY);
        let length = 1 + key.len() + bytes + END.len();
        let mut text: Arc<[u8]> = std::iter::repeat_n(0, length).collect();
        let [key_length, rest @ ..] = Arc::make_mut(&mut text) else {
            unreachable!("length is at least 3")
        };
        *key_length = key.len() as u8;
        let (key_room, _) = rest.split_at_mut(key.len());
        key_room.copy_from_slice(key);
        Item {
            text,
            flags,
            expiry,
            cas: 0,
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
        let mut room = item.data_block_mut();
        for part in value.iter().chain([&END]) {
            let (here, rest) = room.split_at_mut(part.len());
            here.copy_from_slice(part);
            room = rest;
        }
        item
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        self.split().0
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        let block = self.data_block();
        block.strip_suffix(END).unwrap_or(block)
    }

    /// The value and the `\r\n` behind it, as it travels.
    pub fn data_block(&self) -> &[u8] {
        self.split().1
    }

    /// The room for value and `\r\n`. While the item is new it is nobody else's, and this is the very
    /// memory that will be kept; of an item that is shared already, it is a copy.
    pub fn data_block_mut(&mut self) -> &mut [u8] {
        let start = 1 + self.key().len();
        Arc::make_mut(&mut self.text).split_at_mut(start).1
    }

    fn split(&self) -> (&[u8], &[u8]) {
        match &*self.text {
            [key_length, rest @ ..] => rest.split_at(usize::from(*key_length)),
            [] => (&[], &[]),
        }
    }

    /// How many bytes of memory this item takes, all told: what counts against `-m`.
    pub fn charge(&self) -> usize {
        charge(self.text.len())
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
/// the item's place in the table (a place is `size_of::<Item>()` and a little, and a table that doubles
/// is on average two thirds full).
fn charge(text: usize) -> usize {
    const COUNTS: usize = 16;
    const ALLOCATOR: usize = 8;
    const TABLE: usize = (size_of::<Item>() + 9) * 3 / 2;
    (COUNTS + text + ALLOCATOR).next_multiple_of(16) + TABLE
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
