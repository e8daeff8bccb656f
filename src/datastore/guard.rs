//! A key's guard: how a command changes what a key holds.
//!
//! Invariant: every change that a client could see after a restart is recorded before it is made, and both happen while
//! the shard is locked. So for each key, the log and the store have the same order of changes, and a change that cannot
//! be recorded is not made. (Not recorded: an item was read or won, or an expired one is removed.)

use std::sync::RwLockWriteGuard;

use super::index::Location;
use super::item_ref::ItemRef;
use super::shard::{HashedKey, Shard};
use super::{Datastore, StoreError, write};
use crate::aof::record::Record;
use crate::item::{Expiry, Item, Marks, UnixTime};

/// A key that is locked to be changed. No other thread reads or changes it, or another key of its shard, until the
/// guard is dropped.
#[derive(Debug)]
pub struct KeyGuard<'s> {
    store: &'s Datastore,
    shard: RwLockWriteGuard<'s, Shard>,
    key: HashedKey<'s>,
    /// Where the key's item is, expired or not.
    at: Option<Location>,
    now: UnixTime,
    /// `now`, or 0 during replay, when nothing counts as expired.
    expired_by: UnixTime,
}

impl Datastore {
    /// Locks a key, to look at its item and change it. Its shard is locked until the guard is dropped. Until then this
    /// thread must not use the store in any other way.
    pub fn lock_key<'s>(&'s self, key: &'s [u8]) -> KeyGuard<'s> {
        // A flush that is due happens first, while no lock is held.
        self.flush_if_due();
        let mut guard = self.lock_key_in_replay(key);
        guard.expired_by = guard.now;
        guard
    }

    /// Locks a key while a log is replayed: then no item counts as expired.
    pub(super) fn lock_key_in_replay<'s>(&'s self, key: &'s [u8]) -> KeyGuard<'s> {
        let key = HashedKey::new(key, &self.shared.hasher);
        let shard = write(self.shard(key));
        let at = shard.find(key);
        KeyGuard {
            store: self,
            shard,
            key,
            at,
            // The clock is read after the lock is taken: an item that has expired for one client must not be there for
            // the next one.
            now: self.clock.now(),
            expired_by: 0,
        }
    }
}

impl KeyGuard<'_> {
    /// The item that the key holds. `None` if there is none or it has expired.
    pub fn item(&self) -> Option<Item<'_>> {
        Some(self.item_ref()?.1.item(self.now))
    }

    fn item_ref(&self) -> Option<(Location, ItemRef<'_>)> {
        let at = self.at?;
        let item = self.shard.get(at)?;
        (!item.head.expiry.has_passed(self.expired_by)).then_some((at, item))
    }

    /// Whether the key's item has expired, but is not removed yet.
    pub fn has_expired(&self) -> bool {
        self.at.is_some() && self.item_ref().is_none()
    }

    /// The seconds until the key's item expires; 0 if it never expires, or has expired.
    pub fn ttl(&self) -> u32 {
        let end = self
            .item_ref()
            .and_then(|(_, item)| item.head.expiry.time());
        end.map_or(0, |end| end.saturating_sub(self.now))
    }

    /// The time at which the key was locked.
    pub fn now(&self) -> UnixTime {
        self.now
    }

    /// Stores an item under the key, and replaces the old one. The item gets the given cas unique, or else a new one.
    /// Returns its cas unique.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then nothing has changed.
    pub fn put(&mut self, mut item: Item<'_>, cas: Option<u64>) -> Result<u64, StoreError> {
        debug_assert_eq!(item.key(), self.key.key);
        let cas = cas.unwrap_or_else(|| self.store.new_cas());
        item.cas = cas;
        self.store
            .record(|| match item.expiry.has_passed(self.now) {
                false => Record::Put(item.borrowed()),
                true => Record::Remove {
                    key: self.key.key.into(),
                    cas: Some(cas),
                },
            })?;
        self.at = Some(self.shard.put(self.key, self.at, item, self.now));
        Ok(cas)
    }

    /// Changes the expiry of the item, if there is one. Its cas unique does not change, because its value does not
    /// change.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then nothing has changed.
    pub fn touch(&mut self, expiry: Expiry) -> Result<(), StoreError> {
        let Some((at, _)) = self.item_ref() else {
            return Ok(());
        };
        let key = self.key.key.into();
        self.store.record(|| match expiry.has_passed(self.now) {
            false => Record::Touch { key, expiry },
            true => Record::Remove { key, cas: None },
        })?;
        self.shard.update(at, |_, head| head.expiry = expiry);
        Ok(())
    }

    /// Marks the item, if there is one, as won by a client. This is not recorded, so a restart forgets it.
    pub fn mark_won(&mut self) {
        if let Some((at, _)) = self.item_ref() {
            self.shard.update(at, |slot, _| {
                slot.set_marks(Marks {
                    won: true,
                    ..slot.marks()
                });
            });
        }
    }

    /// Marks the item, if there is one, as stale: the next reader wins. The item gets the given cas unique, or else a
    /// new one, so that a client that read the item before cannot overwrite a newer value.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then nothing has changed.
    pub fn invalidate(&mut self, expiry: Expiry, cas: Option<u64>) -> Result<(), StoreError> {
        let Some((at, _)) = self.item_ref() else {
            return Ok(());
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
        self.shard.update(at, |slot, head| {
            (head.expiry, head.cas) = (expiry, cas);
            slot.set_marks(Marks {
                stale: true,
                won: false,
                ..slot.marks()
            });
        });
        Ok(())
    }

    /// Marks the item, if there is one, as read.
    pub fn mark_read(&self) {
        if let Some((_, item)) = self.item_ref() {
            item.slot.access.mark_read(self.now);
        }
    }

    /// Removes the item, if there is one.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then nothing has changed.
    pub fn remove(&mut self) -> Result<(), StoreError> {
        if self.item_ref().is_some() {
            self.store.record(|| Record::Remove {
                key: self.key.key.into(),
                cas: None,
            })?;
        }
        if let Some(at) = self.at.take() {
            self.shard.remove(self.key, at);
        }
        Ok(())
    }
}
