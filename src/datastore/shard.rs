//! One shard of the store: items behind their own lock, so that clients of different keys seldom wait for each
//! other.
//!
//! Invariants: an item stands in one of the two queues, and the index knows where; nothing else stands there.

use std::hash::{BuildHasher, RandomState};

use super::entry::{Entry, View};
use super::index::{Index, Part, Place, Tag};
use super::queue::Queue;
use crate::item::{Expiry, UnixTime};
use crate::item::{Item, Marks};

/// A key with its hash, which says in which shard it is and where it stands there.
#[derive(Debug, Clone, Copy)]
pub struct Hashed<'k> {
    pub key: &'k [u8],
    pub hash: u64,
}

impl<'k> Hashed<'k> {
    /// Hashes a key. std's hasher has a random secret: no client can choose keys that collide.
    pub fn new(key: &'k [u8], hasher: &RandomState) -> Self {
        let hash = hasher.hash_one(key);
        Hashed { key, hash }
    }

    /// The lower half of the hash; the shard is chosen by the upper one.
    fn tag(self) -> Tag {
        self.hash as Tag
    }
}

/// Items of a share of all keys.
#[derive(Debug)]
pub struct Shard {
    index: Index,
    probation: Queue,
    main: Queue,
    hasher: RandomState,
    /// No item ends before this (`None`: none ever ends): a sweep with nothing to do costs one look.
    next_expiry: Option<UnixTime>,
    /// How often somebody had to make room.
    evictions: u32,
    /// Where the oldest item stands, and its stamp.
    oldest: Option<(Place, u32)>,
}

impl Shard {
    /// An empty shard of a store that hashes its keys so.
    pub fn new(hasher: RandomState) -> Self {
        Shard {
            index: Index::default(),
            probation: Queue::default(),
            main: Queue::default(),
            hasher,
            next_expiry: None,
            evictions: 0,
            oldest: None,
        }
    }

    /// What is kept under a key, expired or not.
    pub fn get(&self, key: Hashed<'_>) -> Option<View<'_>> {
        self.view(self.place(key)?)
    }

    /// Stores an item under its key, which has this hash: in the place of the old one if that is good enough, or
    /// else at the end of that queue, or of the one for new items. `stamp` is how many stores there have been, in
    /// all shards.
    pub fn put(&mut self, hash: u64, item: Item, now: UnixTime, stamp: u32) {
        self.expect(item.expiry);
        let key = Hashed {
            key: item.key(),
            hash,
        };
        let (old, tag) = (self.place(key), key.tag());
        let mut entry = Entry::new(item, now, stamp);
        if let Some(old) = old {
            match self.queue_mut(old.part()).overwrite(old.number(), entry) {
                None => return,
                Some(given_back) => entry = given_back,
            }
        }
        let part = old.map_or(Part::Probation, Place::part);
        let place = Place::new(part, self.queue_mut(part).push(entry));
        match old {
            None => self.index.insert(tag, place),
            Some(old) => {
                self.index.relocate(tag, old, place);
                self.queue_mut(part).remove(old.number());
                self.tidy();
            }
        }
    }

    /// Changes what is kept under a key beside key, value and flags. Another cas unique, which is part of the text,
    /// makes it stand at the end of its queue.
    pub fn update(&mut self, key: Hashed<'_>, expiry: Expiry, cas: u64, marks: Marks) {
        let Some(place) = self.place(key) else { return };
        self.expect(expiry);
        let has_it = self.view(place).is_some_and(|view| view.cas() == cas);
        let queue = self.queue_mut(place.part());
        queue.update(place.number(), expiry, marks);
        if !has_it && let Some(mut entry) = queue.take(place.number()) {
            entry.set_cas(cas);
            let to = Place::new(place.part(), queue.push(entry));
            self.index.relocate(key.tag(), place, to);
            self.tidy();
        }
    }

    /// Removes what a key holds.
    pub fn remove(&mut self, key: Hashed<'_>) {
        if let Some(place) = self.place(key) {
            self.queue_mut(place.part()).remove(place.number());
            self.index.remove(key.tag(), place);
            self.tidy();
        }
    }

    /// Removes every item for which `goes` says so.
    pub fn remove_where(&mut self, mut goes: impl FnMut(&Entry) -> bool) {
        let mut next_expiry = None;
        let mut goes = |entry: &Entry| {
            let goes = goes(entry);
            if !goes {
                next_expiry = earlier(next_expiry, entry.expiry());
            }
            goes
        };
        self.probation.remove_where(&mut goes);
        self.main.remove_where(&mut goes);
        self.next_expiry = next_expiry;
        let (probation, main) = (&self.probation, &self.main);
        self.index.retain(|place| match place.part() {
            Part::Probation => probation.get(place.number()).is_some(),
            Part::Main => main.get(place.number()).is_some(),
        });
        self.tidy();
    }

    /// Who is first in a queue.
    pub fn front(&self, part: Part) -> Option<View<'_>> {
        self.queue(part).front().map(|(_, view)| view)
    }

    /// Lets the first in a queue take a place at the end of the main queue, not visited.
    pub fn spare_front(&mut self, part: Part, stamp: u32) {
        let Some((number, view)) = self.queue(part).front() else {
            return;
        };
        let tag = Hashed::new(view.key(), &self.hasher).tag();
        if let Some(mut entry) = self.queue_mut(part).take(number) {
            entry.set_unvisited(stamp);
            // A queue that it leaves empty gives it the same number again.
            self.oldest = None;
            let (from, to) = (Place::new(part, number), self.main.push(entry));
            self.index.relocate(tag, from, Place::new(Part::Main, to));
            self.tidy();
        }
    }

    /// Removes the first in a queue.
    pub fn remove_front(&mut self, part: Part) {
        if let Some((number, view)) = self.queue(part).front() {
            let tag = Hashed::new(view.key(), &self.hasher).tag();
            self.index.remove(tag, Place::new(part, number));
            self.queue_mut(part).remove(number);
            self.tidy();
        }
    }

    /// Counts how often somebody has to make room.
    pub fn count_eviction(&mut self) -> u32 {
        self.evictions = self.evictions.wrapping_add(1);
        self.evictions
    }

    /// The stamp of the first in the probation queue, or else in the main one.
    pub fn oldest(&mut self) -> Option<u32> {
        let front = |part| {
            let (number, view) = self.queue(part).front()?;
            Some((Place::new(part, number), view))
        };
        self.oldest = match front(Part::Probation).or_else(|| front(Part::Main)) {
            // Known already: its text lies somewhere far away in memory.
            Some((place, _)) if self.oldest.is_some_and(|(known, _)| known == place) => self.oldest,
            front => front.map(|(place, view)| (place, view.stamp())),
        };
        self.oldest.map(|(_, stamp)| stamp)
    }

    /// Whether an item may have expired.
    pub fn has_expired(&self, now: UnixTime) -> bool {
        self.next_expiry.is_some_and(|end| end <= now)
    }

    /// Every item, expired or not, in the order of the queues: new ones first.
    pub fn items(&self) -> impl Iterator<Item = View<'_>> {
        self.probation.iter().chain(self.main.iter())
    }

    /// About how many bytes of log would say what is here.
    pub fn size_of_records(&self) -> u64 {
        // Beside key and value: verb, numbers and checksums.
        const LINE: usize = 48;
        self.items()
            .map(|view| (view.bytes().len() + LINE) as u64)
            .sum()
    }

    /// Every item that has not expired.
    pub fn live(&self, now: UnixTime) -> Vec<Item> {
        let live = self
            .items()
            .filter(|view| !view.entry.expiry().has_passed(now));
        live.map(|view| view.item(now)).collect()
    }

    /// How much memory it all takes, in bytes: the queues with the texts, and the index.
    pub fn charge(&self) -> usize {
        self.probation.size() + self.main.size() + self.index.size()
    }

    /// How many items there are, those included that have expired and not been swept yet.
    pub fn len(&self) -> usize {
        self.probation.len() + self.main.len()
    }

    /// How many items are in a queue.
    pub fn len_of(&self, part: Part) -> usize {
        self.queue(part).len()
    }

    fn place(&self, key: Hashed<'_>) -> Option<Place> {
        let is_it = |place| self.view(place).is_some_and(|view| view.key() == key.key);
        self.index.find(key.tag(), is_it)
    }

    fn view(&self, place: Place) -> Option<View<'_>> {
        self.queue(place.part()).get(place.number())
    }

    fn queue(&self, part: Part) -> &Queue {
        match part {
            Part::Probation => &self.probation,
            Part::Main => &self.main,
        }
    }

    fn queue_mut(&mut self, part: Part) -> &mut Queue {
        match part {
            Part::Probation => &mut self.probation,
            Part::Main => &mut self.main,
        }
    }

    /// Gives memory back where much has gone: what there is to do is little beside what has gone.
    fn tidy(&mut self) {
        self.tidy_to(2);
    }

    /// Gives back also what little has gone has left, because memory is short.
    pub fn tidy_well(&mut self) {
        self.tidy_to(8);
    }

    fn tidy_to(&mut self, items: usize) {
        let (index, oldest) = (&mut self.index, &mut self.oldest);
        let parts = [
            (Part::Probation, &mut self.probation),
            (Part::Main, &mut self.main),
        ];
        for (part, queue) in parts {
            queue.tidy(items, |new| {
                index.renumber(part, new);
                // Its place may be another item's now.
                *oldest = None;
            });
        }
        self.index.tidy();
    }

    fn expect(&mut self, expiry: Expiry) {
        self.next_expiry = earlier(self.next_expiry, expiry);
    }
}

fn earlier(end: Option<UnixTime>, expiry: Expiry) -> Option<UnixTime> {
    [end, expiry.time()].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Exptime;

    fn item(key: &str, value: &str, expiry: Expiry) -> Item {
        Item::new(key.as_bytes(), 0, expiry, &[value.as_bytes()])
    }

    fn ends(seconds: u32) -> Expiry {
        Exptime::After(seconds).expiry(100)
    }

    /// All keys have the same hash here.
    fn hashed(key: &str) -> Hashed<'_> {
        Hashed {
            key: key.as_bytes(),
            hash: 7,
        }
    }

    fn put(shard: &mut Shard, key: &str, value: &str, expiry: Expiry) {
        shard.put(hashed(key).hash, item(key, value, expiry), 100, 0);
    }

    fn value(shard: &Shard, key: &str) -> Option<String> {
        let item = shard.get(hashed(key))?.item(100);
        Some(String::from_utf8_lossy(item.value()).into_owned())
    }

    #[test]
    fn a_key_holds_what_was_stored_last_also_beside_others_of_the_same_hash() {
        let mut shard = Shard::new(RandomState::new());
        for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")] {
            put(&mut shard, key, value, Expiry::NEVER);
        }
        assert_eq!(value(&shard, "a"), Some("3".into()));
        shard.remove(hashed("a"));
        shard.remove(hashed("a"));
        assert_eq!(value(&shard, "a"), None);
        assert_eq!(value(&shard, "b"), Some("2".into()));
        assert_eq!((value(&shard, "c"), shard.len()), (Some("4".into()), 2));
    }

    #[test]
    fn the_charge_is_what_the_items_take_and_nothing_when_there_are_none() {
        let mut shard = Shard::new(RandomState::new());
        put(&mut shard, "k", "v", Expiry::NEVER);
        let small = shard.charge();
        put(&mut shard, "k", &"v".repeat(1000), Expiry::NEVER);
        shard.update(hashed("k"), ends(1), 1, Marks::default());
        assert!(shard.charge() > small + 1000);
        (0..1000).for_each(|n| put(&mut shard, &n.to_string(), "v", Expiry::NEVER));
        for n in 0..1000 {
            put(&mut shard, &n.to_string(), "another", Expiry::NEVER);
            shard.remove(hashed(&(n / 2).to_string()));
        }
        assert!(shard.charge() > 500 * 16);
        shard.remove_where(|_| true);
        assert_eq!(shard.charge(), 0);
    }

    #[test]
    fn the_next_expiry_is_known_without_looking_at_the_items() {
        let mut shard = Shard::new(RandomState::new());
        put(&mut shard, "forever", "", Expiry::NEVER);
        assert!(!shard.has_expired(UnixTime::MAX));
        put(&mut shard, "late", "", ends(20));
        put(&mut shard, "soon", "", ends(10));
        assert!(!shard.has_expired(109) && shard.has_expired(110));
        shard.remove_where(|entry| entry.expiry().has_passed(110));
        assert_eq!(shard.len(), 2);
        assert!(!shard.has_expired(119) && shard.has_expired(120));
    }
}
