//! The counters of `stats detail`: how often clients used keys with the same prefix. The prefix of a key is what is
//! before its first delimiter (`-D`). A key without delimiter is not counted.
//!
//! Counting is off until `stats detail on` or `-D`. Then each counted command takes one lock for all clients, as in
//! memcached. While it is off, a command only reads one flag.
//!
//! Lesson: [36](crate::conversations::lesson_36_sizes_and_prefixes).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The largest number of prefixes. Keys with further prefixes are not counted, so clients cannot fill memory with them:
/// a prefix has up to 249 bytes, so all of them take less than 4 MB. (memcached has 65,536.)
const MAX_PREFIXES: usize = 8192;

/// The counters of each prefix.
#[derive(Debug)]
pub struct Prefixes {
    is_on: AtomicBool,
    delimiter: u8,
    counts: Mutex<BTreeMap<Vec<u8>, PrefixCounts>>,
}

/// The counters of one prefix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrefixCounts {
    /// Keys requested with `get`, `gets`, `gat` or `gats`.
    pub gets: u64,
    /// Those of them that were found.
    pub hits: u64,
    /// Data blocks announced by a classic storage command. Not all were stored.
    pub sets: u64,
    /// `delete`, whether or not it found an item.
    pub deletes: u64,
}

impl Default for Prefixes {
    fn default() -> Self {
        Prefixes::new(false, b':')
    }
}

impl Prefixes {
    /// No counts yet. `delimiter` ends a prefix.
    pub fn new(is_on: bool, delimiter: u8) -> Self {
        Prefixes {
            is_on: AtomicBool::new(is_on),
            delimiter,
            counts: Mutex::default(),
        }
    }

    /// Turns counting on or off. The counts stay.
    pub fn set_on(&self, is_on: bool) {
        self.is_on.store(is_on, Relaxed);
    }

    /// Whether keys are counted.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// These counters if keys are counted, and otherwise `None`.
    pub fn if_on(&self) -> Option<&Self> {
        self.is_on().then_some(self)
    }

    /// Counts a key that a client asked for.
    #[cold] // Keys are seldom counted, so this is kept out of the code of every command.
    pub fn count_get(&self, key: &[u8], is_hit: bool) {
        self.count(key, |counts| {
            counts.gets += 1;
            counts.hits += u64::from(is_hit);
        });
    }

    /// Counts a key for which a client announced a data block.
    #[cold]
    pub fn count_set(&self, key: &[u8]) {
        self.count(key, |counts| counts.sets += 1);
    }

    /// Counts a key that a client deleted.
    #[cold]
    pub fn count_delete(&self, key: &[u8]) {
        self.count(key, |counts| counts.deletes += 1);
    }

    /// Each prefix and its counters, sorted by prefix.
    pub fn list(&self) -> Vec<(Vec<u8>, PrefixCounts)> {
        let counts = self.lock();
        let copied = |(prefix, counts): (&Vec<u8>, &PrefixCounts)| (prefix.clone(), *counts);
        counts.iter().map(copied).collect()
    }

    /// Forgets all prefixes (`stats reset`).
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn count(&self, key: &[u8], add: impl FnOnce(&mut PrefixCounts)) {
        // As in memcached, nothing after a NUL is looked at.
        let end = key
            .iter()
            .position(|&byte| byte == self.delimiter || byte == 0);
        let Some((prefix, [delimiter, ..])) = end.map(|end| key.split_at(end)) else {
            return;
        };
        if *delimiter != self.delimiter {
            return;
        }
        let mut counts = self.lock();
        if let Some(counts) = counts.get_mut(prefix) {
            add(counts);
        } else if counts.len() < MAX_PREFIXES {
            add(counts.entry(prefix.into()).or_default());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, PrefixCounts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_counted_under_what_is_before_its_first_delimiter() {
        let prefixes = Prefixes::new(true, b'/');
        for key in ["a/b/c", "a/", "/x", "none", "", "nul\0/x"] {
            prefixes.count_set(key.as_bytes());
        }
        prefixes.count_get(b"a/none", false);
        prefixes.count_get(b"a/b/c", true);
        prefixes.count_delete(b"a/b/c");
        let a = PrefixCounts {
            gets: 2,
            hits: 1,
            sets: 2,
            deletes: 1,
        };
        let empty = PrefixCounts {
            sets: 1,
            ..PrefixCounts::default()
        };
        assert_eq!(prefixes.list(), [(b"".to_vec(), empty), (b"a".to_vec(), a)]);
        prefixes.clear();
        assert_eq!(prefixes.list(), []);
    }

    #[test]
    fn the_number_of_prefixes_is_bounded() {
        let prefixes = Prefixes::new(true, b':');
        for number in 0..2 * MAX_PREFIXES {
            prefixes.count_set(format!("{number}:").as_bytes());
        }
        assert_eq!(prefixes.list().len(), MAX_PREFIXES);
        prefixes.count_set(b"0:x");
        let first = prefixes.list().first().map(|(_, counts)| counts.sets);
        assert_eq!(first, Some(2));
    }
}
