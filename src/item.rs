//! What a key holds. This is the ground floor: every part of the server may know it, and it knows none of them.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 250;

/// Seconds of unix time. 32 bits are enough until 2106, and an item carries one.
pub type UnixTime = u32;

/// What ends every data block on the wire. An item keeps it, so that a `get` sends it with the value.
const END: &[u8] = b"\r\n";

/// An item: key, value, and what is known of them.
///
/// An item that is made for the store owns its bytes. An item that is read from the store borrows them from the
/// [room](Item::copied_to) of its reader, or shares them if they are many.
#[derive(Debug, Clone)]
pub struct Item<'a> {
    /// The key, the value and `\r\n`, one behind the other.
    pub(crate) bytes: Bytes<'a>,
    pub(crate) key_length: u8,
    /// The client's 32 bits.
    pub flags: u32,
    /// When it expires.
    pub expiry: Expiry,
    /// Changes whenever the item does. 0 until it is stored.
    pub cas: u64,
    /// What meta commands have noted on it.
    pub marks: Marks,
    /// When it was last read (or else stored), before this look at it.
    pub last_access: UnixTime,
    /// Whether it was read before this look at it. For an item that is about to be stored: whether it counts as read.
    pub fetched: bool,
}

/// Where the bytes of an item are.
#[derive(Debug, Clone)]
pub(crate) enum Bytes<'a> {
    /// In the store, as long as its lock is held, or in the room of a reader.
    Borrowed(&'a [u8]),
    /// In the item itself.
    Owned(Vec<u8>),
    /// In memory that the store and readers share.
    Shared(Arc<LargeBytes>),
}

/// What meta commands note on an item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// The key is binary: meta commands show it in base64.
    pub binary_key: bool,
    /// The value is out of date (`md … I`).
    pub stale: bool,
    /// One client has been told to bring a new value (`W`). The others are told so (`Z`).
    pub won: bool,
}

impl<'a> Item<'a> {
    /// An item with a value of `bytes` bytes, to be filled through [`Item::data_block_mut`].
    pub fn blank(key: &[u8], flags: u32, expiry: Expiry, bytes: usize) -> Self {
        debug_assert!(key.len() <= MAX_KEY);
        // Zeros come from the system without being written, and the room is exactly as large as it must be.
        let mut room = vec![0; key.len() + bytes + END.len()];
        let (key_room, _) = room.split_at_mut(key.len());
        key_room.copy_from_slice(key);
        Item {
            bytes: Bytes::Owned(room),
            key_length: key.len() as u8,
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
        item.fill(value);
        item
    }

    /// Fills a blank item whose value is exactly as long as these parts together.
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
        self.parts().0
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        let block = self.data_block();
        block.strip_suffix(END).unwrap_or(block)
    }

    /// The value and the `\r\n` behind it, as they are sent.
    pub fn data_block(&self) -> &[u8] {
        self.parts().1
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes().split_at(self.key_length.into())
    }

    /// Key, value and `\r\n`.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Borrowed(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
            Bytes::Shared(large) => &large.bytes,
        }
    }

    /// The room for value and `\r\n`. An item that does not own its bytes gets a copy first.
    pub fn data_block_mut(&mut self) -> &mut [u8] {
        if !matches!(self.bytes, Bytes::Owned(_)) {
            self.bytes = Bytes::Owned(self.bytes().to_vec());
        }
        match &mut self.bytes {
            Bytes::Owned(bytes) => bytes.split_at_mut(self.key_length.into()).1,
            Bytes::Borrowed(_) | Bytes::Shared(_) => &mut [],
        }
    }

    /// Its bytes, for the store to keep.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        match self.bytes {
            Bytes::Owned(bytes) => bytes,
            Bytes::Borrowed(_) | Bytes::Shared(_) => self.bytes().to_vec(),
        }
    }

    /// The same item without a copy of its bytes.
    pub fn borrowed(&self) -> Item<'_> {
        self.with_bytes(Bytes::Borrowed(self.bytes()))
    }

    /// The same item with its bytes in `room`, in place of what is there. Large bytes are shared and not copied.
    pub fn copied_to<'r>(&self, room: &'r mut Vec<u8>) -> Item<'r> {
        self.with_bytes(match &self.bytes {
            Bytes::Shared(large) => Bytes::Shared(Arc::clone(large)),
            Bytes::Borrowed(_) | Bytes::Owned(_) => {
                room.clear();
                room.extend_from_slice(self.bytes());
                Bytes::Borrowed(room)
            }
        })
    }

    /// The same item with bytes of its own. Large bytes are shared and not copied.
    pub fn into_owned(self) -> Item<'static> {
        self.with_bytes(match &self.bytes {
            Bytes::Shared(large) => Bytes::Shared(Arc::clone(large)),
            Bytes::Borrowed(_) | Bytes::Owned(_) => Bytes::Owned(self.bytes().to_vec()),
        })
    }

    fn with_bytes<'b>(&self, bytes: Bytes<'b>) -> Item<'b> {
        Item {
            bytes,
            key_length: self.key_length,
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
        48 + 8 + key.len() + 1 + if flags == 0 { 0 } else { 4 } + bytes + END.len()
    }
}

/// The bytes of a large item. The store and the readers that still send them share them, and they count as used
/// memory until the last of those lets go.
#[derive(Debug)]
pub struct LargeBytes {
    bytes: Vec<u8>,
    _charge: Charge,
}

impl LargeBytes {
    /// These bytes, charged to an account of used memory.
    pub(crate) fn new(bytes: Vec<u8>, account: &Arc<AtomicUsize>) -> Self {
        let _charge = Charge::new(account, bytes.capacity());
        LargeBytes { bytes, _charge }
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The earlier of two moments, where `None` is never.
pub(crate) fn earlier(one: Option<UnixTime>, other: Option<UnixTime>) -> Option<UnixTime> {
    [one, other].into_iter().flatten().min()
}

/// Memory that counts as used as long as this value lives.
#[derive(Debug)]
pub struct Charge {
    account: Arc<AtomicUsize>,
    bytes: usize,
}

impl Charge {
    /// Charges this many bytes to an account.
    pub fn new(account: &Arc<AtomicUsize>, bytes: usize) -> Self {
        account.fetch_add(bytes, Relaxed);
        Charge {
            account: Arc::clone(account),
            bytes,
        }
    }

    /// How much it is, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// It is this much now. Written only when it changes: what all threads write, all threads wait for.
    pub fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            // Wrapping: the difference may be negative, and added to the whole it comes out right.
            let more = bytes.wrapping_sub(self.bytes);
            self.account.fetch_add(more, Relaxed);
            self.bytes = bytes;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.fetch_sub(self.bytes, Relaxed);
    }
}

/// The last date that the protocol can say (19 January 2038): its exptime has 31 bits, and so has the time
/// in a log.
const LAST: UnixTime = i32::MAX as UnixTime;

/// The moment from which an item is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry(NonZeroU32);

impl Expiry {
    /// The item stays until it is deleted or evicted.
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
    fn a_copy_in_a_room_takes_the_place_of_what_was_there() {
        let mut room = b"what was there before".to_vec();
        let item = Item::new(b"k", 0, Expiry::NEVER, &[b"v"]);
        let copy = item.copied_to(&mut room);
        assert_eq!((copy.key(), copy.value()), (&b"k"[..], &b"v"[..]));
        drop(copy);
        assert_eq!(room, b"kv\r\n");
    }

    #[test]
    fn large_bytes_are_charged_until_the_last_holder_lets_go() {
        let account = Arc::default();
        let large = Arc::new(LargeBytes::new(vec![0; 100_000], &account));
        let reader = Item {
            bytes: Bytes::Shared(Arc::clone(&large)),
            ..Item::blank(b"", 0, Expiry::NEVER, 0)
        };
        let copy = reader.copied_to(&mut Vec::new()).into_owned();
        drop((large, reader));
        assert_eq!(account.load(Relaxed), 100_000);
        drop(copy);
        assert_eq!(account.load(Relaxed), 0);
    }

    #[test]
    fn a_charge_follows_what_it_is_set_to() {
        let account = Arc::default();
        let mut charge = Charge::new(&account, 100);
        charge.set(30);
        assert_eq!((account.load(Relaxed), charge.bytes()), (30, 30));
        charge.set(70);
        assert_eq!(account.load(Relaxed), 70);
        drop(charge);
        assert_eq!(account.load(Relaxed), 0);
    }

    #[test]
    fn the_border_of_1_mb_is_memcacheds() {
        assert_eq!(Item::size_in_memcached(b"k", 0, 1_048_516), 1 << 20);
        assert_eq!(Item::size_in_memcached(b"k", 1, 1_048_512), 1 << 20);
    }
}
