//! The invariants of a segment. What segments do is tested with their shard.

use super::*;

impl Segment {
    /// Checks the invariants.
    pub fn validate(&self) {
        let large = |item: ItemRef<'_>| item.large.map_or(0, |large| large.length());
        let lengths = self.items().map(|(_, item)| item.bytes.len() + large(item));
        let alive: usize = lengths.sum();
        assert_eq!(
            self.alive_items,
            self.items().count(),
            "the items that are alive are counted"
        );
        assert_eq!(
            self.alive_bytes, alive,
            "the bytes that are alive are counted"
        );
        let expiries = self.items().filter_map(|(_, item)| item.head.expiry.time());
        let known = |first| self.earliest_expiry.is_some_and(|known| known <= first);
        assert!(
            expiries.min().is_none_or(known),
            "no item expires before the earliest expiry"
        );
        let ends = (0..self.slots.len()).map(|number| self.range(number).end);
        if let Content::Packed { written, .. } = &self.content {
            assert!(
                ends.is_sorted() && *written <= SEGMENT_SIZE,
                "the items are one behind another, within the piece"
            );
        }
    }
}
