//! The invariants of a shard, and tests of a single shard.

use std::collections::HashMap;

use super::super::index::MAX_SEGMENTS;
use super::super::segment::{MAX_SLOTS, SEGMENT_SIZE};
use super::*;
use crate::item::Expiry;
use crate::memory::Memory;

impl Shard {
    /// Checks the invariants of the shard and of its segments.
    pub fn validate(&self) {
        let (mut usage, mut earliest, mut items) = (Usage::default(), None, 0);
        for (segment, id) in self.segments.iter().zip(0..) {
            let Some(segment) = segment else {
                assert!(
                    self.unused_ids.contains(&id),
                    "a number without a segment is listed as unused"
                );
                continue;
            };
            segment.validate();
            assert!(
                !self.unused_ids.contains(&id),
                "the number of a segment is not listed as unused"
            );
            usage.replace(Usage::default(), segment.usage());
            earliest = earlier(earliest, segment.earliest_expiry);
            assert!(
                segment.items().next().is_some(),
                "a segment has an item that is alive"
            );
            for (slot, item) in segment.items() {
                let key = HashedKey::new(item.key(), &self.shared.hasher);
                let found = self.find(key);
                let expected = Some(Location::new(id, slot));
                assert_eq!(found, expected, "the index finds each item");
                items += 1;
            }
            let in_queue = |queue: &Queue| queue.segments.get(&segment.sequence) == Some(&id);
            let (probation, main) = (in_queue(&self.probation), in_queue(&self.main));
            let is_probation = segment.queue == QueueId::Probation;
            assert_eq!(
                (probation, main),
                (is_probation, !is_probation),
                "a segment is in its queue only"
            );
        }
        let queued = self.probation.segments.len() + self.main.segments.len();
        assert_eq!(
            queued,
            self.segment_count(),
            "the queues have no other segments"
        );
        for queue in [&self.probation, &self.main] {
            let is_in_queue = queue
                .open
                .is_none_or(|id| queue.segments.values().any(|&it| it == id));
            assert!(is_in_queue, "the open segment is in its queue");
        }
        assert_eq!(self.index.len(), items, "the index has nothing else");
        assert_eq!(
            self.usage, usage,
            "the usage is the sum of that of the segments"
        );
        assert!(
            earliest.is_none_or(|earliest| self.earliest_expiry.is_some_and(|it| it <= earliest)),
            "no item expires before the earliest expiry"
        );
        // This does not call `is_dirty`, because `is_dirty` is tested here.
        let allowed = (usage.alive + items * 24) / 4 + 3 * 65_536;
        assert!(usage.dead <= allowed, "too many bytes are dead");
    }
}

/// A shard whose keys are numbers.
struct Sample {
    shard: Shard,
    now: UnixTime,
}

fn hashed<'k>(key: &'k str, shard: &Shard) -> HashedKey<'k> {
    HashedKey::new(key.as_bytes(), &shard.shared.hasher)
}

impl Sample {
    fn new() -> Self {
        let shared = Shared {
            hasher: RandomState::new(),
            memory: Arc::new(Memory::new(usize::MAX / 2)),
            sequence: AtomicU64::new(0),
        };
        Sample {
            shard: Shard::new(Arc::new(shared)),
            now: 100,
        }
    }

    /// A shard with several segments of these keys, and nothing else.
    fn filled(keys: std::ops::Range<u32>) -> Self {
        let mut sample = Sample::new();
        keys.for_each(|key| sample.put(key, &[b'v'; 1000]));
        sample
    }

    fn put(&mut self, key: u32, value: &[u8]) {
        self.put_until(key, value, Expiry::NEVER);
    }

    fn put_until(&mut self, key: u32, value: &[u8], expiry: Expiry) {
        let key = key.to_string();
        let item = Item::new(key.as_bytes(), 0, expiry, &[value]);
        let key = hashed(&key, &self.shard);
        let old = self.shard.find(key);
        let at = self.shard.put(key, old, item, self.now);
        assert_eq!(self.shard.find(key), Some(at));
    }

    fn value(&self, key: u32) -> Option<Vec<u8>> {
        let key = key.to_string();
        let at = self.shard.find(hashed(&key, &self.shard))?;
        Some(self.shard.get(at)?.item(self.now).value().to_vec())
    }

    /// Reads a key. Returns whether it is there.
    fn read(&self, key: u32) -> bool {
        let key = key.to_string();
        let at = self.shard.find(hashed(&key, &self.shard));
        let item = at.and_then(|at| self.shard.get(at));
        item.inspect(|item| item.slot.access.mark_read(self.now))
            .is_some()
    }

    fn remove(&mut self, key: u32) {
        let key = key.to_string();
        let key = hashed(&key, &self.shard);
        if let Some(at) = self.shard.find(key) {
            self.shard.remove(key, at);
        }
    }

    /// Evicts from one segment, as a full store does. Returns how many items were evicted.
    fn evict(&mut self) -> u64 {
        let Some(victim) = self.shard.next_victim(u64::MAX) else {
            return 0;
        };
        let stays = |item: ItemRef<'_>| {
            let visited = item.slot.access.is_visited();
            visited.then(|| item.slot.unvisited_copy())
        };
        let removed = self.shard.reclaim(victim, QueueId::Main, stays);
        self.shard.compact();
        self.shard.validate();
        removed.items
    }

    /// The keys of this range that have an item.
    fn stored_keys(&self, keys: std::ops::Range<u32>) -> Vec<u32> {
        keys.filter(|&key| self.value(key).is_some()).collect()
    }
}

#[test]
fn a_key_holds_its_last_value_whatever_the_lengths_of_its_values() {
    let mut sample = Sample::new();
    for length in [
        3,
        3,
        100,
        0,
        100,
        SEGMENT_SIZE,
        SEGMENT_SIZE,
        MAX_SMALL_ITEM,
        100,
        7,
    ] {
        let value = vec![b'v'; length];
        sample.put(1, &value);
        sample.put(2, b"another");
        sample.shard.validate();
        assert_eq!(sample.value(1), Some(value));
    }
    sample.remove(1);
    sample.remove(1);
    assert_eq!((sample.value(1), sample.shard.len()), (None, 1));
    assert_eq!(sample.value(2), Some(b"another".to_vec()));
}

#[test]
fn keys_with_the_same_hash_have_their_own_items() {
    let mut sample = Sample::new();
    let same = |key: &'static str| HashedKey {
        key: key.as_bytes(),
        hash: 7,
    };
    for key in ["a", "b", "c", "a"] {
        let item = Item::new(key.as_bytes(), 0, Expiry::NEVER, &[key.as_bytes()]);
        let old = sample.shard.find(same(key));
        sample.shard.put(same(key), old, item, 100);
    }
    let at = sample.shard.find(same("a")).expect("it is there");
    sample.shard.remove(same("a"), at);
    let value = |key| {
        let at = sample.shard.find(same(key))?;
        Some(sample.shard.get(at)?.item(100).value().to_vec())
    };
    assert_eq!(value("a"), None);
    assert_eq!(
        (value("b"), value("c")),
        (Some(b"b".to_vec()), Some(b"c".to_vec()))
    );
}

#[test]
fn an_item_of_the_same_length_overwrites_the_old_one() {
    let mut sample = Sample::filled(0..200);
    let before = sample.shard.usage;
    sample.put(7, &[b'w'; 1000]);
    assert_eq!(sample.shard.usage, before);
    assert_eq!(sample.value(7), Some(vec![b'w'; 1000]));
}

#[test]
fn a_shard_without_items_takes_no_memory() {
    let mut sample = Sample::filled(0..300);
    sample.put(300, &[b'v'; MAX_SMALL_ITEM]);
    (0..=300).for_each(|key| sample.remove(key));
    assert_eq!(sample.shard.size(), 0);
    assert_eq!(sample.shard.shared.memory.used(), 0);
}

#[test]
fn a_segment_has_no_more_slots_than_a_location_can_address() {
    let mut sample = Sample::new();
    let keys = 2 * MAX_SLOTS as u32;
    for key in 0..keys {
        let key = key.to_string();
        let item = Item::new(key.as_bytes(), 0, Expiry::NEVER, &[]);
        let key = hashed(&key, &sample.shard);
        sample.shard.put(key, None, item, 100);
    }
    sample.shard.validate();
    assert_eq!(
        (
            sample.stored_keys(0..keys).len(),
            sample.shard.segment_count()
        ),
        (keys as usize, 2)
    );
    const { assert!(MAX_SEGMENTS * MAX_SLOTS == 1 << 32) };
}

#[test]
fn the_segment_that_was_filled_first_is_evicted_first() {
    let mut sample = Sample::filled(0..200);
    let evicted = sample.evict() as u32;
    assert!((50..70).contains(&evicted), "{evicted}");
    assert_eq!(sample.stored_keys(0..200), Vec::from_iter(evicted..200));
}

#[test]
fn items_that_were_read_stay_longer_than_those_that_were_not() {
    let mut sample = Sample::filled(0..200);
    (0..10).for_each(|key| assert!(sample.read(key)));
    sample.evict();
    sample.evict();
    assert_eq!(sample.stored_keys(0..100), Vec::from_iter(0..10));
}

#[test]
fn keys_that_are_stored_once_and_never_read_do_not_evict_those_in_use() {
    let mut sample = Sample::filled(0..300);
    for once in 1000..3000 {
        (0..50).for_each(|key| assert!(sample.read(key), "{key} was evicted before {once}"));
        sample.put(once, &[b'v'; 1000]);
        if sample.shard.len() > 400 {
            sample.evict();
        }
    }
}

#[test]
fn items_that_are_no_longer_popular_are_evicted() {
    let mut sample = Sample::filled(0..300);
    (0..300).for_each(|key| assert!(sample.read(key)));
    for new in 1000..3000 {
        sample.put(new, &[b'v'; 1000]);
        if sample.shard.len() > 350 {
            sample.evict();
        }
        (new - 20..=new).for_each(|key| _ = sample.read(key));
    }
    let old = sample.stored_keys(0..300).len();
    assert!(old <= 90, "{old} old keys are still there");
}

#[test]
fn a_large_item_that_eviction_spares_is_not_copied() {
    let mut sample = Sample::new();
    sample.put(1, &[b'v'; 100_000]);
    let address = |sample: &Sample| {
        let at = sample
            .shard
            .find(hashed("1", &sample.shard))
            .expect("it is there");
        let item = sample.shard.get(at).map(|item| item.item(sample.now));
        item.and_then(|item| item.large.as_ref().map(Arc::as_ptr))
    };
    let before = address(&sample);
    sample.read(1);
    assert_eq!(sample.evict(), 0);
    assert_eq!(address(&sample), before);
    // It was spared once, and is in the main queue now.
    assert_eq!((sample.evict(), sample.value(1)), (1, None));
}

#[test]
fn expired_items_are_removed_and_the_others_keep_their_places() {
    let mut sample = Sample::new();
    for key in 0..200 {
        let expiry = if key % 3 == 0 {
            Expiry::at(110)
        } else {
            Expiry::at(120)
        };
        sample.put_until(key, &[b'v'; 1000], expiry);
    }
    assert_eq!(sample.shard.remove_expired(109), None);
    let mut removed = 0;
    while let Some(some) = sample.shard.remove_expired(110) {
        removed += some.items;
        sample.shard.validate();
    }
    assert_eq!(removed, 67);
    let expected: Vec<_> = (0..200).filter(|key| key % 3 != 0).collect();
    assert_eq!(sample.stored_keys(0..200), expected);
    assert!(!sample.shard.may_have_expired(119) && sample.shard.may_have_expired(120));
    let evicted = sample.evict() as u32;
    assert_eq!(
        sample.stored_keys(0..200).first(),
        expected.get(evicted as usize),
        "the oldest items are evicted"
    );
}

#[test]
fn segments_that_were_just_moved_to_the_main_queue_are_not_the_next_victims() {
    let mut sample = Sample::filled(0..500);
    let sequence_at_start = sample.shard.shared.sequence.load(Relaxed);
    let oldest = sample.shard.probation.segments.values().copied().take(5);
    for id in oldest.collect::<Vec<_>>() {
        let stays = |item: ItemRef<'_>| Some(item.slot.copy());
        sample.shard.reclaim(id, QueueId::Main, stays);
    }
    assert!(sample.shard.main.segments.len() > sample.shard.probation.segments.len());
    for _ in 0..5 {
        let victim = sample.shard.next_victim(sequence_at_start);
        let segment = victim.and_then(|id| sample.shard.segment(id));
        let queue = segment.map(|segment| segment.queue);
        assert_eq!(queue, Some(QueueId::Probation));
    }
}

#[test]
fn dead_bytes_are_bounded_by_those_that_are_alive() {
    let mut sample = Sample::new();
    // Random, so that a segment keeps a few items that are alive for long.
    let (mut expected, mut random) = (HashMap::new(), 1_u64);
    for round in 0..10_000_u32 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let (key, length) = (
            (random >> 33) as u32 % 500,
            200 + (random >> 48) as u32 % 3000,
        );
        sample.put(key, &vec![b'v'; length as usize]);
        expected.insert(key, length as usize);
        if round % 50 == 0 {
            sample.shard.validate();
        }
    }
    for (key, length) in &expected {
        assert_eq!(sample.value(*key).map(|value| value.len()), Some(*length));
    }
    let (alive, size) = (sample.shard.usage.alive, sample.shard.usage.size);
    assert!(
        size < alive * 3 / 2 + 4 * SEGMENT_SIZE,
        "{size} bytes of memory for {alive} bytes of items"
    );
}
