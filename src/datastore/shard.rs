//! One shard of the store: a table of items behind its own lock, so that clients of different keys
//! seldom wait for each other.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::clock::{Expiry, UnixTime};
use super::item::Item;

/// A table of items. std's default hasher has random keys: no client can choose keys that collide.
#[derive(Debug, Default)]
pub struct Shard {
    items: HashMap<ByKey, Access>,
    /// What all its items are charged together, in bytes.
    charge: usize,
    /// No item ends before this (`None`: none ever ends): a sweep with nothing to do costs one look.
    next_expiry: Option<UnixTime>,
}

/// An item as the table sees it: its key, and nothing else, decides where it lies. So no key is kept
/// twice.
#[derive(Debug)]
struct ByKey(Item);

impl Borrow<[u8]> for ByKey {
    fn borrow(&self) -> &[u8] {
        self.0.key()
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As a borrowed `[u8]` hashes, which `Borrow` demands.
        self.0.key().hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for ByKey {}

/// What is known of the reading of an item. Readers hold the lock with others, hence the atomics.
#[derive(Debug)]
pub struct Access {
    last: AtomicU32,
    fetched: AtomicBool,
}

impl Access {
    fn new(now: UnixTime) -> Self {
        Access {
            last: AtomicU32::new(now),
            fetched: AtomicBool::new(false),
        }
    }

    /// Notes that the item was read.
    pub fn note(&self, now: UnixTime) {
        // Written only when it changes, so that the readers of a popular item share its cache line.
        if self.last.load(Relaxed) != now {
            self.last.store(now, Relaxed);
        }
        if !self.fetched.load(Relaxed) {
            self.fetched.store(true, Relaxed);
        }
    }

    /// When the item was last read, or stored.
    pub fn last(&self) -> UnixTime {
        self.last.load(Relaxed)
    }

    /// Whether the item was ever read.
    pub fn fetched(&self) -> bool {
        self.fetched.load(Relaxed)
    }
}

impl Shard {
    /// The item under a key, expired or not.
    pub fn get(&self, key: &[u8]) -> Option<(&Item, &Access)> {
        self.items
            .get_key_value(key)
            .map(|(ByKey(item), access)| (item, access))
    }

    /// Stores an item as new, in place of what its key held.
    pub fn put(&mut self, item: Item, now: UnixTime) {
        // `insert` alone would keep the old item: to the table it is an equal key.
        self.remove(item.key());
        self.insert(item, Access::new(now));
    }

    /// Gives the item under a key another expiry; it counts as read.
    pub fn touch(&mut self, key: &[u8], expiry: Expiry, now: UnixTime) {
        if let Some((ByKey(mut item), access)) = self.items.remove_entry(key) {
            self.charge -= item.charge();
            item.expiry = expiry;
            access.note(now);
            self.insert(item, access);
        }
    }

    fn insert(&mut self, item: Item, access: Access) {
        self.charge += item.charge();
        if let Some(end) = item.expiry.time() {
            self.next_expiry = Some(self.next_expiry.map_or(end, |next| next.min(end)));
        }
        self.items.insert(ByKey(item), access);
    }

    /// Removes what a key holds.
    pub fn remove(&mut self, key: &[u8]) {
        if let Some((ByKey(item), _)) = self.items.remove_entry(key) {
            self.charge -= item.charge();
        }
    }

    /// Whether an item may have expired.
    pub fn has_expired(&self, now: UnixTime) -> bool {
        self.next_expiry.is_some_and(|end| end <= now)
    }

    /// Removes every item for which `goes` says so.
    pub fn remove_where(&mut self, mut goes: impl FnMut(&Item, &Access) -> bool) {
        let mut next_expiry = None;
        self.items.retain(|ByKey(item), access| {
            if goes(item, access) {
                self.charge -= item.charge();
                return false;
            }
            next_expiry = [next_expiry, item.expiry.time()]
                .into_iter()
                .flatten()
                .min();
            true
        });
        self.next_expiry = next_expiry;
        // A table that has emptied gives its memory back, but not so eagerly that it grows again at once.
        if self.items.capacity() > 8 * self.items.len().max(16) {
            self.items.shrink_to(2 * self.items.len());
        }
    }

    /// Every item.
    pub fn iter(&self) -> impl Iterator<Item = (&Item, &Access)> {
        self.items
            .iter()
            .map(|(ByKey(item), access)| (item, access))
    }

    /// What all items are charged together, in bytes.
    pub fn charge(&self) -> usize {
        self.charge
    }

    /// How many items there are, those included that have expired and not been swept yet.
    pub fn len(&self) -> usize {
        self.items.len()
    }
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
        assert_eq!(shard.get(b"k").expect("there is one").0.value(), b"new");
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
        assert_eq!(shard.charge(), small.charge());
        shard.put(large.clone(), 1);
        shard.touch(b"k", ends(1), 100);
        assert_eq!(shard.charge(), large.charge());
        shard.put(item("other", "", Expiry::NEVER), 1);
        shard.remove(b"k");
        shard.remove_where(|_, _| true);
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
        shard.remove_where(|item, _| item.expiry.is_over(110));
        assert_eq!(shard.len(), 2);
        assert!(!shard.has_expired(119) && shard.has_expired(120));
    }
}
