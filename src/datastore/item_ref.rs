//! A reference to an item in its segment.

use std::sync::Arc;

use super::head::{Head, Slot};
use crate::item::{Item, UnixTime};
use crate::memory::LargeValue;

/// An item in its segment.
#[derive(Debug, Clone, Copy)]
pub struct ItemRef<'s> {
    pub head: Head,
    pub slot: &'s Slot,
    /// The key, followed by the value unless that is large.
    pub bytes: &'s [u8],
    /// The value, if it is large.
    pub large: Option<&'s Arc<LargeValue>>,
}

impl<'s> ItemRef<'s> {
    /// The key.
    pub fn key(self) -> &'s [u8] {
        self.bytes.split_at(self.slot.key_length.into()).0
    }

    /// Whether a reader is still sending its value. If so, removing the item does not free its memory yet.
    pub fn is_being_sent(self) -> bool {
        self.large.is_some_and(|large| Arc::strong_count(large) > 1)
    }

    /// The item as it is at the time `now`. It can be used while the shard is locked.
    pub fn item(self, now: UnixTime) -> Item<'s> {
        Item {
            bytes: self.bytes.into(),
            key_length: self.slot.key_length,
            large: self.large.cloned(),
            flags: self.head.flags,
            expiry: self.head.expiry,
            cas: self.head.cas,
            marks: self.slot.marks(),
            last_access: self.slot.access.time(now),
            fetched: self.slot.access.is_fetched(),
        }
    }
}
