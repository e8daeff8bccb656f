//! Eviction: which items of a shard go when room is needed.
//!
//! Expired items go first, all of them. If there are none, it is FIFO with a second chance (CLOCK): items
//! are considered in the order in which they were stored; one that was read since then is spared once,
//! and takes a place at the end as if it were new. A hit costs no more than a flag, which only the
//! first one sets.
//!
//! There is no queue to keep: every item knows its place, and an eighth of the shard goes at a time, so
//! that the cost of looking through the shard is spread over many writes.

use std::cmp::Reverse;

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

/// Who is to make room in a shard: nobody only if nobody is there. Those who are spared for now take
/// their new places.
pub fn victims(shard: &mut Shard) -> Vec<Text> {
    let quota = shard.len().div_ceil(8);
    let mut queue: Vec<_> = shard.entries().collect();
    queue.sort_unstable_by_key(|(_, entry)| Reverse(shard.age(entry)));
    let mut victims = Vec::with_capacity(quota);
    let mut spared = Vec::new();
    for (text, entry) in queue {
        if victims.len() == quota {
            break;
        }
        if entry.visited() {
            &mut spared
        } else {
            &mut victims
        }
        .push(text.clone());
    }
    for text in &spared {
        shard.requeue(text.key());
    }
    // Where all have been spared, it is the turn of the first of them again.
    let missing = quota - victims.len();
    victims.extend(spared.into_iter().take(missing));
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
    shard.shrink();
    removed
}

#[cfg(test)]
mod tests {
    use super::super::clock::Expiry;
    use super::super::item::Item;
    use super::*;
    use crate::protocol::Exptime;

    fn shard(items: impl IntoIterator<Item = (String, Expiry)>) -> Shard {
        let mut shard = Shard::default();
        for (key, expiry) in items {
            shard.put(Item::new(key.as_bytes(), 0, expiry, &[]), 100);
        }
        shard
    }

    fn read(shard: &Shard, key: &str) {
        shard
            .get(key.as_bytes())
            .expect("it was stored")
            .1
            .note(100);
    }

    fn make_room(shard: &mut Shard) -> Removed {
        let victims = victims(shard);
        evict(shard, &victims)
    }

    #[test]
    fn those_who_were_stored_first_go_first() {
        let mut shard = shard((0..80).map(|n| (format!("{n}"), Expiry::NEVER)));
        let removed = make_room(&mut shard);
        assert_eq!(
            (removed.evicted, removed.evicted_unfetched, shard.len()),
            (10, 10, 70)
        );
        for gone in 0..10 {
            assert!(shard.get(format!("{gone}").as_bytes()).is_none(), "{gone}");
        }
    }

    #[test]
    fn one_that_was_read_is_spared_once_for_each_time_that_its_turn_comes() {
        let mut shard = shard((0..8).map(|n| (format!("{n}"), Expiry::NEVER)));
        read(&shard, "0");
        make_room(&mut shard);
        assert!(shard.get(b"0").is_some() && shard.get(b"1").is_none());
        // Now it stands behind the others, and nobody reads it again.
        for _ in 0..6 {
            make_room(&mut shard);
        }
        assert!(shard.get(b"0").is_some() && shard.len() == 1);
        make_room(&mut shard);
        assert_eq!(shard.len(), 0);
    }

    #[test]
    fn where_all_were_read_the_oldest_goes_all_the_same() {
        let mut shard = shard((0..8).map(|n| (format!("{n}"), Expiry::NEVER)));
        (0..8).for_each(|n| read(&shard, &format!("{n}")));
        assert_eq!(make_room(&mut shard).evicted, 1);
        assert!(shard.get(b"0").is_none() && shard.len() == 7);
    }

    #[test]
    fn only_what_has_expired_is_removed_as_expired() {
        let soon = Expiry::new(Exptime::After(10), 100);
        let mut shard = shard([("a".into(), soon), ("b".into(), Expiry::NEVER)]);
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
        let mut shard = shard((0..20).map(|n| (format!("{n}"), Expiry::NEVER)));
        while shard.len() > 0 {
            assert!(make_room(&mut shard).evicted > 0);
        }
        assert_eq!(make_room(&mut shard), Removed::default());
    }
}
