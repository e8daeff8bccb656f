//! Where the items of a shard stand, by key.
//!
//! A `HashMap` from keys would keep with each item, or keep twice, what the item has already. So it is a map
//! from a [`Tag`], 32 bits of the key's hash, to a [`Place`], 32 bits too: 9 bytes a place in std's table. The
//! items themselves stand in queues, closer together than in any table. Two keys may have the same tag: whoever
//! asks says whether it is the right item that was found.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::queue::Queue;

/// 32 bits of a key's hash.
pub type Tag = u32;

/// Which queue of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Where new items stand.
    Probation,
    /// Where those stand that were read meanwhile.
    Main,
}

/// A queue, in the highest bit, and a number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// A place of this queue.
    pub fn new(part: Part, number: u32) -> Self {
        debug_assert!(number < Queue::NUMBERS);
        match part {
            Part::Probation => Place(number),
            Part::Main => Place(number + Queue::NUMBERS),
        }
    }

    /// The queue.
    pub fn part(self) -> Part {
        if self.0 < Queue::NUMBERS {
            Part::Probation
        } else {
            Part::Main
        }
    }

    /// The number there.
    pub fn number(self) -> u32 {
        self.0 % Queue::NUMBERS
    }
}

/// Places by tag.
#[derive(Debug, Default)]
pub struct Index {
    places: HashMap<Tag, Place, BuildHasherDefault<AsItIs>>,
    /// Those whose tag another key has had first: a handful among a million.
    namesakes: Vec<(Tag, Place)>,
    /// For how many places the table was made. (What `HashMap` says is less when some are used up, see
    /// [`Index::insert`].)
    capacity: usize,
}

impl Index {
    /// The place for which `is_it` says so, among those of this tag.
    pub fn find(&self, tag: Tag, is_it: impl Fn(Place) -> bool) -> Option<Place> {
        let first = self.places.get(&tag).copied().filter(|&place| is_it(place));
        first.or_else(|| {
            let namesakes = self.namesakes.iter().filter(|(other, _)| *other == tag);
            namesakes
                .map(|(_, place)| *place)
                .find(|&place| is_it(place))
        })
    }

    /// Notes one more place.
    pub fn insert(&mut self, tag: Tag, place: Place) {
        let full = self.places.len() == self.places.capacity();
        // A place that was given up can stay unusable until the table is made anew, and then std makes it
        // twice as large. Where there is still room in it, it is made anew with the size that it has.
        if full && self.places.len() < self.capacity / 16 * 15 {
            let anew =
                HashMap::with_capacity_and_hasher(self.capacity, BuildHasherDefault::default());
            let old = std::mem::replace(&mut self.places, anew);
            self.places.extend(old);
        }
        if let Some(first) = self.places.insert(tag, place) {
            self.places.insert(tag, first);
            self.namesakes.push((tag, place));
        }
        self.capacity = self.capacity.max(self.places.capacity());
    }

    /// Forgets a place.
    pub fn remove(&mut self, tag: Tag, place: Place) {
        if self.places.get(&tag) == Some(&place) {
            self.places.remove(&tag);
        } else {
            self.namesakes.retain(|(_, other)| *other != place);
        }
    }

    /// Forgets all places but those for which `stays` says so.
    pub fn retain(&mut self, mut stays: impl FnMut(Place) -> bool) {
        self.places.retain(|_, place| stays(*place));
        self.namesakes.retain(|(_, place)| stays(*place));
    }

    /// An item stands somewhere else now.
    pub fn relocate(&mut self, tag: Tag, from: Place, to: Place) {
        let first = self.places.get_mut(&tag).into_iter();
        let namesakes = self.namesakes.iter_mut().map(|(_, place)| place);
        let place = first.chain(namesakes).find(|place| **place == from);
        if let Some(place) = place {
            *place = to;
        }
    }

    /// Other numbers for all items of a queue.
    pub fn renumber(&mut self, part: Part, new: &dyn Fn(u32) -> u32) {
        let namesakes = self.namesakes.iter_mut().map(|(_, place)| place);
        let places = self.places.values_mut().chain(namesakes);
        for place in places.filter(|place| place.part() == part) {
            *place = Place::new(part, new(place.number()));
        }
    }

    /// Gives memory back if there is much to be given.
    pub fn tidy(&mut self) {
        let len = self.places.len();
        if self.capacity > 8 * len {
            self.places.shrink_to(2 * len);
            self.capacity = self.places.capacity();
        }
    }

    /// How much memory it takes: std's table has a power of two of places, fills seven of eight, and keeps a
    /// byte for each beside what stands there.
    pub fn size(&self) -> usize {
        const PLACE: usize = size_of::<(Tag, Place)>() + 1;
        match self.capacity {
            0 => 0,
            capacity => (capacity * 8 / 7).next_power_of_two() * PLACE,
        }
    }
}

/// A tag is part of a good hash already: all that is left to do is to spread its bits over 64.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write_u32(&mut self, tag: u32) {
        // An odd number whose bits look random: 2^64 divided by the golden ratio.
        self.0 = u64::from(tag).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write(&mut self, bytes: &[u8]) {
        // Nothing but a tag is ever hashed here; this is what the trait demands.
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

    fn place(number: u32) -> Place {
        Place::new(Part::Main, number)
    }

    #[test]
    fn keys_of_the_same_tag_are_told_apart_whoever_goes_first() {
        for gone in 0..3 {
            let mut index = Index::default();
            (0..3).for_each(|number| index.insert(7, place(number)));
            index.remove(7, place(gone));
            index.insert(7, place(3));
            index.relocate(7, place(3), place(4));
            let found = (0..5).filter(|&number| index.find(7, |at| at == place(number)).is_some());
            let expected: Vec<_> = [0, 1, 2, 4]
                .into_iter()
                .filter(|&number| number != gone)
                .collect();
            assert_eq!(found.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_table_does_not_grow_because_items_come_and_go() {
        let mut index = Index::default();
        let spread = |number: u32| number.wrapping_mul(0x9E37_79B9);
        (0..6000).for_each(|number| index.insert(spread(number), place(number)));
        let size = index.size();
        for number in 6000..1_000_000 {
            index.remove(spread(number - 6000), place(number - 6000));
            index.insert(spread(number), place(number));
            assert_eq!(index.size(), size);
        }
        index.retain(|place| place.number() >= 999_990);
        index.tidy();
        assert!(index.size() <= 32 * 9);
        assert!(index.find(spread(999_999), |_| true).is_some());
    }
}
