//! The store as a whole: limits, flushes, time, and random histories against a simple model.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::item::Expiry;

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

fn set(store: &Datastore, key: &str, value: &str, exptime: Exptime) -> u64 {
    let draft = store
        .draft_of(key.as_bytes(), 0, exptime, value.as_bytes())
        .expect("there is room");
    store
        .slot(key.as_bytes())
        .put(draft.item, None)
        .expect("nothing is recorded")
}

fn get(store: &Datastore, key: &str) -> Option<String> {
    store
        .get(key.as_bytes(), Bump::Yes)
        .map(|item| String::from_utf8_lossy(item.value()).into_owned())
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
    assert_eq!((store.size(), store.used.load(Relaxed)), ((0, 0), 0));
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
    store.slot(b"k").touch(expiry).expect("nothing is recorded");
    let item = store.get(b"k", Bump::Yes).expect("it is still there");
    assert_eq!((item.cas, item.value()), (cas, &b"v"[..]));
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
fn memory_stays_under_its_limit_by_evicting() {
    let store = store_with(MEGABYTE, WhenFull::Evict);
    let value = "v".repeat(1000);
    for n in 0..5000 {
        set(&store, &format!("key {n}"), &value, Exptime::Never);
        // A shard that begins another chunk may take a little more for a moment.
        assert!(store.used.load(Relaxed) <= MEGABYTE + 5000);
    }
    assert_eq!(
        get(&store, "key 4999"),
        Some(value),
        "what was stored last is there"
    );
    assert!(store.stats.get(Counter::Evictions) > 3000);
    assert_eq!(store.used.load(Relaxed), store.size().1);
}

#[test]
fn without_evictions_a_full_store_refuses_and_forgets_nothing() {
    let store = store_with(MEGABYTE, WhenFull::Refuse);
    let value = "v".repeat(1000);
    let mut stored = 0;
    while let Ok(mut draft) = store.draft(
        format!("key {stored}").as_bytes(),
        0,
        Exptime::Never,
        value.len(),
    ) {
        draft
            .item
            .data_block_mut()
            .copy_from_slice(format!("{value}\r\n").as_bytes());
        store
            .slot(format!("key {stored}").as_bytes())
            .put(draft.item, None)
            .expect("nothing is recorded");
        stored += 1;
    }
    assert!((500..1000).contains(&stored), "{stored}");
    assert_eq!(store.size().0, stored);
    assert!(get(&store, "key 0").is_some());
    store.slot(b"key 0").remove().expect("nothing is recorded");
    assert!(store.draft(b"new", 0, Exptime::Never, value.len()).is_ok());
}

#[test]
fn what_is_announced_counts_until_it_is_stored_or_given_up() {
    let store = store_with(MEGABYTE, WhenFull::Evict);
    let announce = || store.draft(b"k", 0, Exptime::Never, 100_000);
    let announced: Vec<_> = std::iter::from_fn(|| announce().ok()).take(100).collect();
    assert!((8..=10).contains(&announced.len()), "{}", announced.len());
    set(&store, "small", "v", Exptime::Never);
    assert!(announce().is_err());
    assert!(
        get(&store, "small").is_some(),
        "what is announced in vain evicts nobody"
    );
    drop(announced);
    assert_eq!(store.reserved.load(Relaxed), 0);
    assert!(announce().is_ok());
}

#[test]
fn what_was_stored_first_goes_first_also_if_clients_choose_the_cas_uniques() {
    let store = store_with(4 * MEGABYTE, WhenFull::Evict);
    let key = |n: u32| format!("key {n}");
    for n in 0..70_000 {
        let draft = store
            .draft_of(key(n).as_bytes(), 0, Exptime::Never, b"value")
            .expect("there is room");
        store
            .slot(key(n).as_bytes())
            .put(draft.item, Some(7))
            .expect("nothing is recorded");
    }
    let there =
        |keys: std::ops::Range<u32>| keys.filter(|&n| get(&store, &key(n)).is_some()).count();
    assert_eq!((there(0..1000), there(69_000..70_000)), (0, 1000));
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
}

#[test]
fn without_evictions_what_is_removed_makes_room_for_others() {
    let store = store_with(4 * MEGABYTE, WhenFull::Refuse);
    let key = |n: usize| format!("key {n}");
    let store_one = |n: usize| {
        let draft = store.draft_of(key(n).as_bytes(), 0, Exptime::Never, &[b'v'; 50]);
        draft.map(|draft| {
            let key = key(n);
            let mut slot = store.slot(key.as_bytes());
            slot.put(draft.item, None).expect("nothing is recorded");
        })
    };
    let stored = (0..).take_while(|&n| store_one(n).is_ok()).count();
    for n in (0..stored).step_by(5) {
        let key = key(n);
        store
            .slot(key.as_bytes())
            .remove()
            .expect("nothing is recorded");
    }
    let more = (stored..).take_while(|&n| store_one(n).is_ok()).count();
    assert!(more > stored / 10, "{more} beside {stored}");
}

#[test]
fn marking_items_as_stale_takes_no_more_memory_than_there_is() {
    let store = store_with(4 * MEGABYTE, WhenFull::Evict);
    let keys: Vec<_> = (0..40_000).map(|n| format!("key {n}")).collect();
    for key in &keys {
        set(&store, key, "value", Exptime::Never);
    }
    let before = store.size().0;
    for key in &keys {
        let _room = store.room_for(key.as_bytes(), 5);
        let mut slot = store.slot(key.as_bytes());
        slot.invalidate(Expiry::NEVER, None)
            .expect("nothing is recorded");
    }
    assert!(
        store.size().1 <= 4 * MEGABYTE + MEGABYTE / 8,
        "{:?}",
        store.size()
    );
    assert!(
        store.size().0 > before / 2,
        "{:?} of {before}",
        store.size()
    );
}

#[test]
fn after_a_flush_room_is_made_where_the_items_are() {
    let store = store_with(16 * MEGABYTE, WhenFull::Evict);
    for n in 0..10_000 {
        set(&store, &n.to_string(), "", Exptime::Never);
    }
    store.flush().expect("nothing is recorded");
    let value = "v".repeat(MEGABYTE);
    for n in 0..10 {
        set(&store, &n.to_string(), &value, Exptime::Never);
    }
    let enough = || store.used.load(Relaxed) <= 4 * MEGABYTE;
    assert_eq!(store.make_room(enough), Ok(true));
}

/// What can happen to a store.
#[derive(Debug, Clone)]
enum Event {
    Set {
        key: u8,
        value: String,
        exptime: Option<u32>,
    },
    Touch {
        key: u8,
        exptime: Option<u32>,
    },
    Remove {
        key: u8,
    },
    Get {
        key: u8,
    },
    Pass {
        seconds: u8,
    },
    Sweep,
    Flush,
    FlushLater {
        seconds: u8,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let key = 0..6u8;
    let exptime = proptest::option::of(1..20u32);
    prop_oneof![
        4 => (key.clone(), "[a-z]{0,40}", exptime.clone())
            .prop_map(|(key, value, exptime)| Event::Set { key, value, exptime }),
        2 => (key.clone(), exptime).prop_map(|(key, exptime)| Event::Touch { key, exptime }),
        1 => key.clone().prop_map(|key| Event::Remove { key }),
        4 => key.prop_map(|key| Event::Get { key }),
        2 => (1..10u8).prop_map(|seconds| Event::Pass { seconds }),
        1 => Just(Event::Sweep),
        1 => Just(Event::Flush),
        1 => (1..10u8).prop_map(|seconds| Event::FlushLater { seconds }),
    ]
}

/// The store as one would first write it: a map, and a look at everything whenever time passes.
#[derive(Default)]
struct Model {
    now: u32,
    items: HashMap<u8, (String, Option<u32>)>,
    flush_at: Option<u32>,
}

impl Model {
    fn pass(&mut self, seconds: u8) {
        self.now += u32::from(seconds);
        if self.flush_at.is_some_and(|due| due <= self.now) {
            self.flush_at = None;
            self.items.clear();
        }
        self.items
            .retain(|_, (_, end)| end.is_none_or(|end| end > self.now));
    }
}

fn exptime_of(seconds: Option<u32>) -> Exptime {
    seconds.map_or(Exptime::Never, Exptime::After)
}

proptest! {
    #[test]
    fn any_history_leaves_the_store_as_the_model_has_it(
        history in proptest::collection::vec(event(), 1..80)
    ) {
        let (store, mut model) = (store(), Model::default());
        for event in history {
            match event {
                Event::Set { key, value, exptime } => {
                    set(&store, &key.to_string(), &value, exptime_of(exptime));
                    model.items.insert(key, (value, exptime.map(|seconds| model.now + seconds)));
                }
                Event::Touch { key, exptime } => {
                    let expiry = exptime_of(exptime).expiry(store.clock().now());
                    store.slot(key.to_string().as_bytes()).touch(expiry).expect("nothing is recorded");
                    if let Some((_, end)) = model.items.get_mut(&key) {
                        *end = exptime.map(|seconds| model.now + seconds);
                    }
                }
                Event::Remove { key } => {
                    store.slot(key.to_string().as_bytes()).remove().expect("nothing is recorded");
                    model.items.remove(&key);
                }
                Event::Get { key } => {
                    let expected = model.items.get(&key).map(|(value, _)| value.clone());
                    prop_assert_eq!(get(&store, &key.to_string()), expected);
                }
                Event::Pass { seconds } => {
                    pass(&store, seconds.into());
                    model.pass(seconds);
                }
                Event::Sweep => store.sweep(),
                Event::Flush => {
                    store.flush().expect("nothing is recorded");
                    model.items.clear();
                    model.flush_at = None;
                }
                Event::FlushLater { seconds } => {
                    store.flush_later(Exptime::After(seconds.into())).expect("nothing is recorded");
                    model.flush_at = Some(model.now + u32::from(seconds) - 1);
                    model.pass(0);
                }
            }
        }
        store.sweep();
        let live: HashMap<String, String> = store
            .snapshot()
            .flatten()
            .map(|item| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                (text(item.key()), text(item.value()))
            })
            .collect();
        let expected: HashMap<String, String> =
            model.items.iter().map(|(key, (value, _))| (key.to_string(), value.clone())).collect();
        prop_assert_eq!(live, expected);
        prop_assert_eq!(store.size().1, store.used.load(Relaxed));
    }
}
