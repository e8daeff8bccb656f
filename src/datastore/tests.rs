//! The store as a whole: time, flushes, memory and eviction.

mod histories;

use super::segment::SEGMENT;
use super::*;

const MEGABYTE: usize = 1 << 20;

fn store_with(memory: usize, when_full: WhenFull) -> Datastore {
    let limits = Limits {
        memory,
        item: memory / 2,
        when_full,
    };
    let store = Datastore::new(limits, Arc::default());
    store.clock().pause();
    store
}

fn store() -> Datastore {
    store_with(64 * MEGABYTE, WhenFull::Evict)
}

/// Stores an item, if there is room for it. Gives its cas unique.
fn try_set(
    store: &Datastore,
    key: &str,
    value: &[u8],
    exptime: Exptime,
) -> Result<u64, StoreError> {
    let pending = store.reserve_for(key.as_bytes(), exptime, value)?;
    store.lock_key(key.as_bytes()).put(pending.item, None)
}

fn set(store: &Datastore, key: &str, value: &str, exptime: Exptime) -> u64 {
    try_set(store, key, value.as_bytes(), exptime).expect("there is room")
}

/// Checks the invariants of all shards, and that all memory is accounted for while nobody else has any.
fn validate(store: &Datastore) {
    let mut sizes = store.memory.free_parts();
    for shard in &store.shards {
        let shard = read(shard);
        shard.validate();
        sizes += shard.size();
    }
    assert_eq!(
        store.memory.used(),
        sizes,
        "all that is used is accounted for"
    );
}

fn get(store: &Datastore, key: &str) -> Option<String> {
    store
        .get(key.as_bytes(), Bump::Yes, &mut Vec::new())
        .map(|item| String::from_utf8_lossy(&item.value()).into_owned())
}

fn pass(store: &Datastore, seconds: i64) {
    store.clock().jump(seconds);
}

#[test]
fn an_expired_item_is_gone_at_once_and_its_memory_with_the_next_sweep() {
    let store = store();
    set(&store, "k", "v", Exptime::After(10));
    pass(&store, 9);
    assert_eq!(get(&store, "k"), Some("v".into()));
    pass(&store, 1);
    assert_eq!(get(&store, "k"), None);
    assert_eq!(store.size().0, 1);
    store.sweep();
    assert_eq!((store.size(), store.memory.used()), ((0, 0), 0));
    assert_eq!(store.stats.get(Counter::Reclaimed), 1);
    assert_eq!(
        store.stats.get(Counter::ExpiredUnfetched),
        0,
        "it was read once"
    );
}

#[test]
fn every_store_gives_a_greater_cas_unique() {
    let store = store();
    let first = set(&store, "a", "", Exptime::Never);
    assert!(first > 0);
    assert!(set(&store, "b", "", Exptime::Never) > first);
}

#[test]
fn a_touch_changes_the_expiry_and_nothing_else() {
    let store = store();
    let cas = set(&store, "k", "v", Exptime::Never);
    let expiry = Exptime::After(5).expiry(store.clock().now());
    store
        .lock_key(b"k")
        .touch(expiry)
        .expect("nothing is recorded");
    let mut room = Vec::new();
    let item = store
        .get(b"k", Bump::Yes, &mut room)
        .expect("it is still there");
    assert_eq!((item.cas, &*item.value()), (cas, &b"v"[..]));
    pass(&store, 5);
    assert_eq!(get(&store, "k"), None);
}

#[test]
fn a_delayed_flush_takes_what_is_there_one_second_before_its_time() {
    let store = store();
    set(&store, "before", "", Exptime::Never);
    store
        .flush_later(Exptime::After(10))
        .expect("nothing is recorded");
    set(&store, "meanwhile", "", Exptime::Never);
    pass(&store, 8);
    assert!(get(&store, "before").is_some());
    pass(&store, 1);
    assert_eq!(
        (get(&store, "before"), get(&store, "meanwhile")),
        (None, None)
    );
    set(&store, "after", "", Exptime::Never);
    pass(&store, 100);
    assert!(get(&store, "after").is_some(), "a flush happens once");
}

#[test]
fn a_flush_takes_the_place_of_the_one_that_was_pending() {
    let store = store();
    store
        .flush_later(Exptime::After(10))
        .expect("nothing is recorded");
    store.flush().expect("nothing is recorded");
    set(&store, "k", "", Exptime::Never);
    pass(&store, 20);
    assert!(get(&store, "k").is_some());
    store
        .flush_later(Exptime::After(10))
        .expect("nothing is recorded");
    store
        .flush_later(Exptime::At(1))
        .expect("nothing is recorded");
    pass(&store, 20);
    assert!(
        get(&store, "k").is_some(),
        "a date that has passed flushes nothing"
    );
}

#[test]
fn memory_stays_within_its_limit_by_evicting() {
    let store = store_with(MEGABYTE, WhenFull::Evict);
    let value = "v".repeat(1000);
    for n in 0..5000 {
        set(&store, &format!("key {n}"), &value, Exptime::Never);
        // A shard that begins a segment may take a little more for a moment.
        assert!(store.memory.used() <= MEGABYTE + 2 * SEGMENT);
    }
    validate(&store);
    assert_eq!(
        get(&store, "key 4999"),
        Some(value),
        "what was stored last is there"
    );
    assert!(store.stats.get(Counter::Evictions) > 3000);
}

#[test]
fn without_evictions_a_full_store_refuses_and_forgets_nothing() {
    let store = store_with(MEGABYTE, WhenFull::Refuse);
    let key = |n: usize| format!("key {n}");
    let value = [b'v'; 1000];
    let fits = |n: &usize| try_set(&store, &key(*n), &value, Exptime::Never).is_ok();
    let stored = (0..).take_while(fits).count();
    assert!((500..1000).contains(&stored), "{stored}");
    assert_eq!(store.size().0, stored);
    assert!(get(&store, "key 0").is_some());
}

#[test]
fn without_evictions_items_that_are_removed_make_room_for_others() {
    let store = store_with(4 * MEGABYTE, WhenFull::Refuse);
    let key = |n: usize| format!("key {n}");
    let fits = |n: &usize| try_set(&store, &key(*n), &[b'v'; 50], Exptime::Never).is_ok();
    let stored = (0..).take_while(fits).count();
    for n in (0..stored).step_by(5) {
        let key = key(n);
        let mut guard = store.lock_key(key.as_bytes());
        guard.remove().expect("nothing is recorded");
    }
    validate(&store);
    let more = (stored..).take_while(fits).count();
    assert!(more > stored / 10, "{more} beside {stored}");
}

#[test]
fn an_announced_item_counts_until_it_is_stored_or_given_up() {
    let store = store_with(MEGABYTE, WhenFull::Evict);
    let announce = || store.reserve(b"k", 0, Exptime::Never, 100_000);
    let announced: Vec<_> = std::iter::from_fn(|| announce().ok()).take(100).collect();
    assert!((8..=10).contains(&announced.len()), "{}", announced.len());
    set(&store, "small", "v", Exptime::Never);
    assert!(announce().is_err());
    assert!(
        get(&store, "small").is_some(),
        "an announcement in vain evicts nothing"
    );
    drop(announced);
    validate(&store);
    assert!(announce().is_ok());
}

#[test]
fn a_large_item_that_is_being_sent_counts_until_its_reader_lets_go() {
    let store = store_with(4 * MEGABYTE, WhenFull::Evict);
    let value = "v".repeat(MEGABYTE);
    let mut rooms = vec![Vec::new(); 10];
    let mut readers = Vec::new();
    let mut refused = 0;
    for room in &mut rooms {
        refused += usize::from(try_set(&store, "k", value.as_bytes(), Exptime::Never).is_err());
        readers.extend(store.get(b"k", Bump::Yes, room));
        assert!(
            store.memory.used() <= 5 * MEGABYTE,
            "{}",
            store.memory.used()
        );
    }
    assert_eq!((readers.len(), refused), (10, 7));
    assert_eq!(
        get(&store, "k"),
        Some(value.clone()),
        "a refusal evicts nothing"
    );
    drop(readers);
    validate(&store);
    set(&store, "k", &value, Exptime::Never);
}

#[test]
fn items_are_evicted_in_the_order_of_storing_whatever_their_cas_uniques_are() {
    let store = store_with(16 * MEGABYTE, WhenFull::Evict);
    let key = |n: u32| format!("key {n}");
    for n in 0..600_000 {
        let pending = store
            .reserve_for(key(n).as_bytes(), Exptime::Never, b"value")
            .expect("there is room");
        store
            .lock_key(key(n).as_bytes())
            .put(pending.item, Some(7))
            .expect("nothing is recorded");
    }
    let there =
        |keys: std::ops::Range<u32>| keys.filter(|&n| get(&store, &key(n)).is_some()).count();
    assert_eq!((there(0..1000), there(599_000..600_000)), (0, 1000));
}

#[test]
fn an_item_in_use_outlives_those_that_are_not_however_large_they_are() {
    let store = store_with(16 * MEGABYTE, WhenFull::Evict);
    let value = "v".repeat(MEGABYTE / 8);
    for n in 0..400 {
        set(&store, &format!("once {n}"), &value, Exptime::Never);
        for hot in 0..20 {
            let hot = format!("hot {hot}");
            if get(&store, &hot).is_none() {
                assert!(n == 0, "{hot} is gone after {n}");
                set(&store, &hot, &value, Exptime::Never);
            }
        }
    }
    validate(&store);
}

#[test]
fn a_limit_that_is_lowered_is_reached_by_many_writes_and_not_by_one() {
    let store = store_with(64 * MEGABYTE, WhenFull::Evict);
    for n in 0..50_000 {
        set(&store, &n.to_string(), &"v".repeat(1000), Exptime::Never);
    }
    store.set_memory_limit(8 * MEGABYTE);
    let (mut writes, mut before) = (0, store.memory.used());
    while store.memory.used() > 8 * MEGABYTE {
        set(&store, "k", &writes.to_string(), Exptime::Never);
        let freed = before.saturating_sub(store.memory.used());
        assert!(freed <= 8 * SEGMENT, "one write frees {freed} bytes");
        (writes, before) = (writes + 1, store.memory.used());
    }
    assert!((50..1000).contains(&writes), "{writes}");
    validate(&store);
}

#[test]
fn after_a_flush_all_memory_can_be_used_again() {
    let store = store_with(16 * MEGABYTE, WhenFull::Evict);
    for n in 0..10_000 {
        set(&store, &n.to_string(), "", Exptime::Never);
    }
    store.flush().expect("nothing is recorded");
    assert_eq!(store.memory.used(), 0);
    let value = "v".repeat(MEGABYTE);
    for n in 0..14 {
        set(&store, &n.to_string(), &value, Exptime::Never);
    }
    assert_eq!(store.stats.get(Counter::Evictions), 0);
}
