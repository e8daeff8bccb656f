//! Where the items of a shard are, by key.
//!
//! A `HashMap` with the keys in it would store each key twice, because the item has its key too. So the index maps a
//! [`Hash32`], 32 bits of the key's hash, to a [`Location`], which has 32 bits too: std's table takes 9 bytes a bucket.
//! The items themselves are in segments. Two keys may have the same 32 bits, so the caller compares the item's key.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::segment::MAX_SLOTS;
use crate::memory::{Charge, Memory};

/// 32 bits of a key's hash.
pub type Hash32 = u32;

/// The number of a segment in its shard.
pub type SegmentId = u32;

/// A segment and a slot in it: 21 and 11 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location(u32);

/// How many segments a shard can have.
pub const MAX_SEGMENTS: usize = 1 << 21;

impl Location {
    /// The location of this slot.
    pub fn new(segment: SegmentId, slot: usize) -> Self {
        debug_assert!((segment as usize) < MAX_SEGMENTS && slot < MAX_SLOTS);
        Location(segment * MAX_SLOTS as u32 + slot as u32)
    }

    /// The segment.
    pub fn segment(self) -> SegmentId {
        self.0 / MAX_SLOTS as u32
    }

    /// The slot in it.
    pub fn slot(self) -> usize {
        self.0 as usize % MAX_SLOTS
    }
}

/// How many tables an index has. A table is copied when it grows, and leaves a hole in memory when it shrinks. If
/// tables are small, neither matters. (With one table a shard and `-m 64`, memory grew by 10 MB each time that small
/// values were stored after large ones.)
const TABLES: usize = 16;

/// Locations by hash.
#[derive(Debug)]
pub struct Index {
    tables: [Table; TABLES],
    /// The locations of keys whose hash is in a table already, for another key: a handful among a million.
    collisions: Vec<(Hash32, Location)>,
    charge: Charge,
}

impl Index {
    /// An empty index.
    pub fn new(memory: &Arc<Memory>) -> Self {
        Index {
            tables: Default::default(),
            collisions: Vec::new(),
            charge: memory.charge(0),
        }
    }

    /// Calls `look` with each location of this hash, until it returns something.
    pub fn find<T>(&self, hash: Hash32, look: impl Fn(Location) -> Option<T>) -> Option<T> {
        #[allow(clippy::indexing_slicing)] // It is less than TABLES.
        let first = self.tables[table_of(hash)].map.get(&hash);
        first.and_then(|&at| look(at)).or_else(|| {
            let collisions = self.collisions.iter().filter(|(other, _)| *other == hash);
            collisions.map(|(_, at)| *at).find_map(&look)
        })
    }

    /// Adds the location of a key that has none.
    pub fn insert(&mut self, hash: Hash32, location: Location) {
        if let Some(first) = self.change(hash, |table| table.insert(hash, location)) {
            self.change(hash, |table| table.insert(hash, first));
            self.collisions.push((hash, location));
        }
    }

    /// Removes a location.
    pub fn remove(&mut self, hash: Hash32, location: Location) {
        if !self.change(hash, |table| table.remove(hash, location)) {
            self.collisions.retain(|(_, other)| *other != location);
        }
    }

    /// Changes the location of an item that has moved.
    pub fn relocate(&mut self, hash: Hash32, from: Location, to: Location) {
        let collisions = self.collisions.iter_mut().map(|(_, location)| location);
        #[allow(clippy::indexing_slicing)] // It is less than TABLES.
        let first = self.tables[table_of(hash)].map.get_mut(&hash);
        let mut locations = first.into_iter().chain(collisions);
        if let Some(location) = locations.find(|location| **location == from) {
            *location = to;
        }
    }

    /// How many locations there are.
    pub fn len(&self) -> usize {
        let tables = self.tables.iter().map(|table| table.map.len());
        tables.sum::<usize>() + self.collisions.len()
    }

    /// How much memory the index takes, in bytes.
    pub fn size(&self) -> usize {
        self.charge.bytes()
    }

    /// Changes the table of a hash, and charges for its new size.
    fn change<T>(&mut self, hash: Hash32, change: impl FnOnce(&mut Table) -> T) -> T {
        #[allow(clippy::indexing_slicing)] // It is less than TABLES.
        let table = &mut self.tables[table_of(hash)];
        let before = table.size();
        let outcome = change(table);
        self.charge.set(self.charge.bytes() + table.size() - before);
        outcome
    }
}

fn table_of(hash: Hash32) -> usize {
    hash as usize % TABLES
}

/// Locations of a share of the hashes.
#[derive(Debug, Default)]
struct Table {
    map: HashMap<Hash32, Location, BuildHasherDefault<SpreadHasher>>,
    /// For how many locations the map was made. (`HashMap::capacity` is less when removals have made buckets unusable,
    /// see [`Table::insert`].)
    capacity: usize,
}

impl Table {
    /// Inserts a location. Returns the old location of this hash, which it replaces.
    fn insert(&mut self, hash: Hash32, location: Location) -> Option<Location> {
        let is_full = self.map.len() == self.map.capacity();
        // A bucket that was emptied can stay unusable until the map is rebuilt, and std rebuilds it twice as large. If
        // there are enough empty buckets, it is rebuilt here with the size that it has.
        if is_full && self.map.len() < self.capacity / 16 * 15 {
            let empty =
                HashMap::with_capacity_and_hasher(self.capacity, BuildHasherDefault::default());
            let full = std::mem::replace(&mut self.map, empty);
            self.map.extend(full);
        }
        let old = self.map.insert(hash, location);
        self.capacity = self.capacity.max(self.map.capacity());
        old
    }

    /// Removes a location. Returns whether it was there.
    fn remove(&mut self, hash: Hash32, location: Location) -> bool {
        let is_there = self.map.get(&hash) == Some(&location);
        if is_there {
            self.map.remove(&hash);
        }
        let len = self.map.len();
        if self.capacity > 8 * len {
            self.map.shrink_to(2 * len);
            self.capacity = self.map.capacity();
        }
        is_there
    }

    /// How much memory the table takes, in bytes. The number of buckets in std's map is a power of two. The map fills
    /// at most seven of eight buckets, and has one more byte for each bucket.
    fn size(&self) -> usize {
        const BUCKET: usize = size_of::<(Hash32, Location)>() + 1;
        match self.capacity {
            0 => 0,
            capacity => (capacity * 8 / 7).next_power_of_two() * BUCKET,
        }
    }
}

/// Hashes a [`Hash32`]. That is a part of a good hash already, so its bits only have to be spread over 64.
#[derive(Debug, Default)]
struct SpreadHasher(u64);

impl Hasher for SpreadHasher {
    fn write_u32(&mut self, hash: u32) {
        // An odd number whose bits look random: 2^64 divided by the golden ratio.
        self.0 = u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write(&mut self, bytes: &[u8]) {
        // The trait demands this method. Only a `Hash32` is ever hashed here.
        for &byte in bytes {
            self.write_u32(self.0 as u32 ^ u32::from(byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(number: u32) -> Location {
        Location::new(number, number as usize % MAX_SLOTS)
    }

    fn index() -> Index {
        Index::new(&Arc::new(Memory::new(usize::MAX / 2)))
    }

    #[test]
    fn a_location_keeps_segment_and_slot_apart() {
        let last = Location::new(MAX_SEGMENTS as u32 - 1, MAX_SLOTS - 1);
        assert_eq!(
            (last.segment() as usize, last.slot()),
            (MAX_SEGMENTS - 1, MAX_SLOTS - 1)
        );
        assert_eq!(
            (location(5000).segment(), location(5000).slot()),
            (5000, 904)
        );
    }

    #[test]
    fn each_key_of_the_same_hash_is_found_whichever_is_removed_first() {
        for removed in 0..3 {
            let mut index = index();
            (0..3).for_each(|number| index.insert(7, location(number)));
            index.remove(7, location(removed));
            index.insert(7, location(3));
            index.relocate(7, location(3), location(4));
            let found = (0..5).filter(|&number| {
                index
                    .find(7, |at| (at == location(number)).then_some(()))
                    .is_some()
            });
            let expected: Vec<_> = [0, 1, 2, 4]
                .into_iter()
                .filter(|&number| number != removed)
                .collect();
            assert_eq!(found.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn an_index_keeps_its_size_while_items_are_replaced_and_shrinks_when_most_are_removed() {
        let mut index = index();
        // Hashes as random as a real hash: their buckets have full neighbours, so a removal leaves some unusable.
        let hash = |number: u32| {
            let mut hash = u64::from(number)
                .wrapping_add(1)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15);
            hash = (hash ^ hash >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            (hash >> 29) as u32
        };
        (0..4800).for_each(|number| index.insert(hash(number), location(number)));
        let size = index.size();
        for number in 4800..1_000_000 {
            index.remove(hash(number - 4800), location(number - 4800));
            index.insert(hash(number), location(number));
            assert_eq!(index.size(), size);
        }
        (995_200..999_990).for_each(|number| index.remove(hash(number), location(number)));
        assert!(index.size() <= TABLES * 8 * 9, "{}", index.size());
        assert!(index.find(hash(999_999), Some).is_some());
    }
}
