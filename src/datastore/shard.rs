//! One shard of the store: a table of items behind its own lock, so that clients of different keys
//! seldom wait for each other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::clock::{Expiry, UnixTime};
use super::item::{Item, Marks, Text};

/// A table of items. std's default hasher has random keys: no client can choose keys that collide.
#[derive(Debug, Default)]
pub struct Shard {
    items: HashMap<Text, Entry>,
    /// What all its items are charged together, in bytes.
    charge: usize,
    /// No item ends before this (`None`: none ever ends): a sweep with nothing to do costs one look.
    next_expiry: Option<UnixTime>,
    /// How often an item has taken a place at the end of the queue of those to be evicted.
    turns: u32,
}

/// An item without its text. Readers hold the lock with others, so what they note is atomic.
#[derive(Debug)]
pub struct Entry {
    cas: u64,
    flags: u32,
    expiry: Expiry,
    marks: Marks,
    fetched: AtomicBool,
    visited: AtomicBool,
    last_access: AtomicU32,
    /// Its place in the queue: the count of turns when it took it.
    turn: u32,
}

impl Entry {
    fn new(item: &Item, now: UnixTime, turn: u32) -> Self {
        Entry {
            cas: item.cas,
            flags: item.flags,
            expiry: item.expiry,
            marks: item.marks,
            fetched: AtomicBool::new(item.fetched),
            visited: AtomicBool::new(false),
            last_access: AtomicU32::new(now),
            turn,
        }
    }

    /// The item with its text.
    pub fn with(&self, text: &Text) -> Item {
        Item {
            text: text.clone(),
            flags: self.flags,
            expiry: self.expiry,
            cas: self.cas,
            marks: self.marks,
            last_access: self.last_access(),
            fetched: self.fetched(),
        }
    }

    /// When it ends.
    pub fn expiry(&self) -> Expiry {
        self.expiry
    }

    /// When it was last read, or stored.
    pub fn last_access(&self) -> UnixTime {
        self.last_access.load(Relaxed)
    }

    /// Whether it was ever read.
    pub fn fetched(&self) -> bool {
        self.fetched.load(Relaxed)
    }

    /// Whether it was read since it took that place.
    pub fn visited(&self) -> bool {
        self.visited.load(Relaxed)
    }

    /// Notes that it was read.
    pub fn note(&self, now: UnixTime) {
        if !self.visited() {
            self.visited.store(true, Relaxed);
        }
        // Written only when it changes, so that the readers of a popular item share its cache line.
        if self.last_access() != now {
            self.last_access.store(now, Relaxed);
        }
        if !self.fetched() {
            self.fetched.store(true, Relaxed);
        }
    }
}

impl Shard {
    /// What is kept under a key, expired or not.
    pub fn get(&self, key: &[u8]) -> Option<(&Text, &Entry)> {
        self.items.get_key_value(key)
    }

    /// Stores an item as new, in place of what its key held.
    pub fn put(&mut self, item: Item, now: UnixTime) {
        // `insert` alone would keep the old text: to the table it is an equal key.
        self.remove(item.key());
        self.charge += item.text.charge();
        self.expect(item.expiry);
        let turn = self.next_turn();
        let entry = Entry::new(&item, now, turn);
        self.items.insert(item.text, entry);
    }

    /// Changes what is kept under a key beside the text.
    pub fn update(&mut self, key: &[u8], expiry: Expiry, cas: u64, marks: Marks) {
        if let Some(entry) = self.items.get_mut(key) {
            (entry.expiry, entry.cas, entry.marks) = (expiry, cas, marks);
            self.expect(expiry);
        }
    }

    /// Lets an item that was visited take a place at the end of the queue, not visited.
    pub fn requeue(&mut self, key: &[u8]) {
        let turn = self.next_turn();
        if let Some(entry) = self.items.get_mut(key) {
            entry.turn = turn;
            *entry.visited.get_mut() = false;
        }
    }

    /// How long ago an item took its place in the queue, in turns.
    pub fn age(&self, entry: &Entry) -> u32 {
        self.turns.wrapping_sub(entry.turn)
    }

    fn next_turn(&mut self) -> u32 {
        self.turns = self.turns.wrapping_add(1);
        self.turns
    }

    /// Removes what a key holds.
    pub fn remove(&mut self, key: &[u8]) {
        if let Some((text, _)) = self.items.remove_entry(key) {
            self.charge -= text.charge();
        }
    }

    /// Whether an item may have expired.
    pub fn has_expired(&self, now: UnixTime) -> bool {
        self.next_expiry.is_some_and(|end| end <= now)
    }

    /// Removes every item for which `goes` says so.
    pub fn remove_where(&mut self, mut goes: impl FnMut(&Entry) -> bool) {
        let mut next_expiry = None;
        self.items.retain(|text, entry| {
            if goes(entry) {
                self.charge -= text.charge();
                return false;
            }
            next_expiry = earlier(next_expiry, entry.expiry);
            true
        });
        self.next_expiry = next_expiry;
        self.shrink();
    }

    /// Lets a table that has emptied give its memory back, but not so eagerly that it grows again at once.
    pub fn shrink(&mut self) {
        if self.items.capacity() > 8 * self.items.len().max(16) {
            self.items.shrink_to(2 * self.items.len());
        }
    }

    /// Every item, expired or not.
    pub fn entries(&self) -> impl Iterator<Item = (&Text, &Entry)> {
        self.items.iter()
    }

    /// About how many bytes of log would say what is here.
    pub fn size_of_records(&self) -> u64 {
        // Beside key and value: verb, numbers and checksums.
        const LINE: usize = 48;
        self.items
            .keys()
            .map(|text| (text.len() + LINE) as u64)
            .sum()
    }

    /// Every item that has not expired.
    pub fn live(&self, now: UnixTime) -> Vec<Item> {
        let live = self
            .items
            .iter()
            .filter(|(_, entry)| !entry.expiry.is_over(now));
        live.map(|(text, entry)| entry.with(text)).collect()
    }

    /// What all items are charged together, in bytes.
    pub fn charge(&self) -> usize {
        self.charge
    }

    /// How many items there are, those included that have expired and not been swept yet.
    pub fn len(&self) -> usize {
        self.items.len()
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
        Expiry::new(Exptime::After(seconds), 100)
    }

    #[test]
    fn storing_replaces_the_whole_item_and_not_only_what_the_table_calls_its_value() {
        let mut shard = Shard::default();
        shard.put(item("k", "old", Expiry::NEVER), 1);
        shard.put(item("k", "new", Expiry::NEVER), 1);
        assert_eq!(
            shard
                .get(b"k")
                .map(|(text, entry)| entry.with(text))
                .expect("there is one")
                .value(),
            b"new"
        );
        assert_eq!(shard.len(), 1);
    }

    #[test]
    fn the_charge_is_that_of_the_items_that_are_there() {
        let mut shard = Shard::default();
        let (small, large) = (
            item("k", "v", Expiry::NEVER),
            item("k", &"v".repeat(1000), Expiry::NEVER),
        );
        shard.put(small.clone(), 1);
        assert_eq!(shard.charge(), small.text.charge());
        shard.put(large.clone(), 1);
        shard.update(b"k", ends(1), 1, Marks::default());
        assert_eq!(shard.charge(), large.text.charge());
        shard.put(item("other", "", Expiry::NEVER), 1);
        shard.remove(b"k");
        shard.remove_where(|_| true);
        assert_eq!(shard.charge(), 0);
    }

    #[test]
    fn the_next_expiry_is_known_without_looking_at_the_items() {
        let mut shard = Shard::default();
        shard.put(item("forever", "", Expiry::NEVER), 100);
        assert!(!shard.has_expired(UnixTime::MAX));
        shard.put(item("late", "", ends(20)), 100);
        shard.put(item("soon", "", ends(10)), 100);
        assert!(!shard.has_expired(109) && shard.has_expired(110));
        shard.remove_where(|entry| entry.expiry().is_over(110));
        assert_eq!(shard.len(), 2);
        assert!(!shard.has_expired(119) && shard.has_expired(120));
    }
}
