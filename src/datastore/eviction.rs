//! Eviction: which items of a shard go when room is needed.
//!
//! Expired items go first, all of them. If there are none, the eighth of the shard that was neither
//! read nor stored for the longest time goes. Taking an eighth at a time spreads the cost of looking
//! through the shard over many writes; a hit costs no more than noting the second in which it happened.

use super::clock::UnixTime;
use super::item::Text;
use super::shard::Shard;

/// How a shard's loss is counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Items that had expired.
    pub expired: u64,
    /// … and that nobody had read.
    pub expired_unfetched: u64,
    /// Items that had to make room.
    pub evicted: u64,
    /// … and that nobody had read.
    pub evicted_unfetched: u64,
}

/// Removes the expired items.
pub fn remove_expired(shard: &mut Shard, now: UnixTime) -> Removed {
    let mut removed = Removed::default();
    if shard.has_expired(now) {
        shard.remove_where(|entry| {
            let goes = entry.expiry().is_over(now);
            removed.expired += u64::from(goes);
            removed.expired_unfetched += u64::from(goes && !entry.fetched());
            goes
        });
    }
    removed
}

/// Who is to make room in a shard: nobody only if nobody is there.
pub fn victims(shard: &Shard) -> Vec<Text> {
    let mut quota = shard.len().div_ceil(8);
    if quota == 0 {
        return Vec::new();
    }
    let mut last_accesses: Vec<UnixTime> = shard
        .entries()
        .map(|(_, entry)| entry.last_access())
        .collect();
    let (_, &mut oldest, _) = last_accesses.select_nth_unstable(quota - 1);
    let mut victims = Vec::with_capacity(quota);
    for (text, entry) in shard.entries() {
        if quota > 0 && entry.last_access() <= oldest {
            quota -= 1;
            victims.push(text.clone());
        }
    }
    victims
}

/// Removes them.
pub fn evict(shard: &mut Shard, victims: &[Text]) -> Removed {
    let mut removed = Removed::default();
    for text in victims {
        if let Some((_, entry)) = shard.get(text.key()) {
            removed.evicted += 1;
            removed.evicted_unfetched += u64::from(!entry.fetched());
        }
        shard.remove(text.key());
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::super::clock::Expiry;
    use super::super::item::Item;
    use super::*;
    use crate::protocol::Exptime;

    fn shard(items: impl IntoIterator<Item = (String, Expiry, UnixTime)>) -> Shard {
        let mut shard = Shard::default();
        for (key, expiry, stored) in items {
            shard.put(Item::new(key.as_bytes(), 0, expiry, &[]), stored);
        }
        shard
    }

    #[test]
    fn the_items_that_were_read_longest_ago_go() {
        let mut shard = shard((0..80).map(|n| (format!("{n}"), Expiry::NEVER, 100 + n)));
        shard.get(b"0").expect("it was stored").1.note(1000);
        let victims = victims(&shard);
        let removed = evict(&mut shard, &victims);
        assert_eq!(
            (removed.evicted, removed.evicted_unfetched, shard.len()),
            (10, 10, 70)
        );
        for gone in 1..=10 {
            assert!(shard.get(format!("{gone}").as_bytes()).is_none(), "{gone}");
        }
        assert!(shard.get(b"0").is_some(), "it was read since");
    }

    #[test]
    fn only_what_has_expired_is_removed_as_expired() {
        let soon = Expiry::new(Exptime::After(10), 100);
        let mut shard = shard([("a".into(), soon, 100), ("b".into(), Expiry::NEVER, 50)]);
        let removed = remove_expired(&mut shard, 110);
        assert_eq!(
            removed,
            Removed {
                expired: 1,
                expired_unfetched: 1,
                ..Removed::default()
            }
        );
        assert!(shard.get(b"b").is_some());
    }

    #[test]
    fn a_shard_can_be_emptied_to_the_last_item() {
        let mut shard = shard((0..20).map(|n| (format!("{n}"), Expiry::NEVER, 100)));
        while shard.len() > 0 {
            let victims = victims(&shard);
            assert!(evict(&mut shard, &victims).evicted > 0);
        }
        assert!(victims(&shard).is_empty());
    }
}
