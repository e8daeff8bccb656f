//! An item where it is: what a segment gives to who looks into it.

use std::sync::Arc;

use super::head::{Access, Head};
use crate::item::{Item, UnixTime};
use crate::memory::LargeValue;

/// An item in its segment.
#[derive(Debug, Clone, Copy)]
pub struct ItemRef<'s> {
    /// What is known of it.
    pub head: Head,
    /// When it was last read.
    pub access: &'s Access,
    /// The key, and behind it the value, unless that is large.
    pub bytes: &'s [u8],
    /// The value, if it is large.
    pub large: Option<&'s Arc<LargeValue>>,
}

impl<'s> ItemRef<'s> {
    /// The key.
    pub fn key(self) -> &'s [u8] {
        self.bytes.split_at(self.head.key_length.into()).0
    }

    /// Whether a reader is still sending it: its memory does not come free now.
    pub fn is_being_sent(self) -> bool {
        self.large.is_some_and(|large| Arc::strong_count(large) > 1)
    }

    /// The item as it is at the time `now`, to be looked at while the shard is locked.
    pub fn item(self, now: UnixTime) -> Item<'s> {
        Item {
            bytes: self.bytes.into(),
            key_length: self.head.key_length,
            large: self.large.cloned(),
            flags: self.head.flags,
            expiry: self.head.expiry,
            cas: self.head.cas,
            marks: self.head.marks(),
            last_access: self.access.time(now),
            fetched: self.access.is_fetched(),
        }
    }
}
