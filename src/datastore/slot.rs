//! A key, held for writing: how a command changes what the store holds.
//!
//! Invariant: every change but who has won or read an item is recorded before it is made, and both happen while
//! the shard is locked. So the order of the log is the order of the store, key by key, and what the log refuses
//! has not happened.

use std::sync::atomic::Ordering::Relaxed;

use super::Datastore;
use super::StoreError;
use super::entry::View;
use super::room::Held;
use super::shard::Hashed;
use crate::aof::record::Record;
use crate::item::{Expiry, Item, Marks, UnixTime};

/// One key, held for writing: whoever has it is alone with that key (and its shard) until it is dropped.
#[derive(Debug)]
pub struct Slot<'s> {
    store: &'s Datastore,
    shard: Held<'s>,
    key: Hashed<'s>,
    now: UnixTime,
    /// Whoever ends up to here has expired.
    expired_by: UnixTime,
}

impl Datastore {
    /// Takes hold of a key, to look at its item and change it. Its shard is locked until the slot is dropped:
    /// meanwhile this thread must not look into the store in any other way.
    pub fn slot<'s>(&'s self, key: &'s [u8]) -> Slot<'s> {
        // A flush that is due comes first, while no lock is held.
        self.flush_if_due();
        let key = Hashed::new(key, &self.hasher);
        let shard = self.hold(self.bay(key.hash));
        // The time is that of holding the lock, not of waiting for it: what has expired for one must not be
        // alive for the next.
        let now = self.clock.now();
        Slot {
            store: self,
            shard,
            key,
            now,
            expired_by: now,
        }
    }

    /// The same while a log is replayed: nothing has expired.
    pub(super) fn slot_in_replay<'s>(&'s self, key: &'s [u8]) -> Slot<'s> {
        let key = Hashed::new(key, &self.hasher);
        Slot {
            store: self,
            shard: self.hold(self.bay(key.hash)),
            key,
            now: self.clock.now(),
            expired_by: 0,
        }
    }
}

impl Slot<'_> {
    /// The item that the key holds; one that has expired is none.
    pub fn item(&self) -> Option<Item> {
        self.view().map(|view| view.item(self.now))
    }

    fn view(&self) -> Option<View<'_>> {
        let view = self.shard.get(self.key);
        view.filter(|view| !view.entry.expiry().has_passed(self.expired_by))
    }

    /// The time at which the key was taken hold of.
    pub fn now(&self) -> UnixTime {
        self.now
    }

    /// Stores an item under the key, in place of any other. It gets the given cas unique, or else a new
    /// one, which is returned.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then nothing has changed.
    pub fn put(&mut self, mut item: Item, cas: Option<u64>) -> Result<u64, StoreError> {
        debug_assert_eq!(item.key(), self.key.key);
        let cas = cas.unwrap_or_else(|| self.store.new_cas());
        let now = self.now;
        item.cas = cas;
        self.store.record(|| match item.expiry.has_passed(now) {
            false => Record::Put(item.clone()),
            true => Record::Remove {
                key: self.key.key.into(),
                cas: Some(cas),
            },
        })?;
        let stamp = self.store.stamps.fetch_add(1, Relaxed);
        self.shard.put(self.key.hash, item, now, stamp);
        Ok(cas)
    }

    /// Gives the item, if there is one, another expiry. Its cas unique stays: its content does.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then nothing has changed.
    pub fn touch(&mut self, expiry: Expiry) -> Result<(), StoreError> {
        let Some(view) = self.view() else {
            return Ok(());
        };
        let (cas, marks) = (view.cas(), view.entry.marks());
        let key = self.key.key.into();
        self.store.record(|| match expiry.has_passed(self.now) {
            false => Record::Touch { key, expiry },
            true => Record::Remove { key, cas: None },
        })?;
        self.shard.update(self.key, expiry, cas, marks);
        Ok(())
    }

    /// Notes on the item, if there is one, that somebody has won it. This is forgotten with the process.
    pub fn win(&mut self) {
        if let Some(view) = self.view() {
            let (expiry, cas) = (view.entry.expiry(), view.cas());
            let marks = Marks {
                won: true,
                ..view.entry.marks()
            };
            self.shard.update(self.key, expiry, cas, marks);
        }
    }

    /// Marks the item, if there is one, as stale: the next reader wins. Its cas unique becomes the given
    /// one, or else a new one, so that who read it before cannot store over what comes after.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then nothing has changed.
    pub fn invalidate(&mut self, expiry: Expiry, cas: Option<u64>) -> Result<(), StoreError> {
        let Some(view) = self.view() else {
            return Ok(());
        };
        let marks = Marks {
            stale: true,
            won: false,
            ..view.entry.marks()
        };
        let cas = cas.unwrap_or_else(|| self.store.new_cas());
        let key = self.key.key.into();
        self.store.record(|| match expiry.has_passed(self.now) {
            false => Record::Stale { key, expiry, cas },
            true => Record::Remove {
                key,
                cas: Some(cas),
            },
        })?;
        self.shard.update(self.key, expiry, cas, marks);
        Ok(())
    }

    /// Notes that the item was read.
    pub fn note(&self) {
        if let Some(view) = self.shard.get(self.key) {
            view.entry.note(self.now);
        }
    }

    /// Removes the item, if there is one.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then nothing has changed.
    pub fn remove(&mut self) -> Result<(), StoreError> {
        if self.view().is_some() {
            self.store.record(|| Record::Remove {
                key: self.key.key.into(),
                cas: None,
            })?;
        }
        self.shard.remove(self.key);
        Ok(())
    }
}
