//! Tests of the whole store: time, flushes, and random histories that are compared with a simple model.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::segment::SEGMENT_SIZE;
use super::*;

pub(super) const MEGABYTE: usize = 1 << 20;

pub(super) fn store_with(memory: usize, when_full: WhenFull) -> Datastore {
    let limits = Limits {
        memory,
        item: memory / 2,
        when_full,
    };
    let watchers = Watchers::new(Arc::default());
    let store = Datastore::new(limits, Arc::default(), Arc::new(watchers));
    store.clock().pause();
    store
}

pub(super) fn store() -> Datastore {
    store_with(64 * MEGABYTE, WhenFull::Evict)
}

/// Stores an item, if there is room for it. Returns its cas unique.
pub(super) fn try_set(
    store: &Datastore,
    key: &str,
    value: &[u8],
    exptime: Exptime,
) -> Result<u64, StoreError> {
    let pending = store.reserve_for(key.as_bytes(), exptime, value)?;
    store.lock_key(key.as_bytes()).put(pending.item, None)
}

pub(super) fn set(store: &Datastore, key: &str, value: &str, exptime: Exptime) -> u64 {
    try_set(store, key, value.as_bytes(), exptime).expect("there is room")
}

/// Checks the invariants of all shards, and that all used memory is theirs. No item may be pending or being sent.
pub(super) fn validate(store: &Datastore) {
    let mut sizes = store.memory.free_parts();
    for shard in &store.shards {
        let shard = read(shard);
        shard.validate();
        sizes += shard.size();
    }
    assert_eq!(
        store.memory.used(),
        sizes,
        "all used memory belongs to the shards"
    );
}

pub(super) fn get(store: &Datastore, key: &str) -> Option<String> {
    store
        .get(key.as_bytes(), Bump::Yes, &mut Vec::new())
        .map(|item| String::from_utf8_lossy(&item.value()).into_owned())
}

pub(super) fn advance_clock(store: &Datastore, seconds: i64) {
    store.clock().jump(seconds);
}

#[test]
fn an_expired_item_is_not_found_and_the_next_sweep_frees_its_memory() {
    let store = store();
    set(&store, "k", "v", Exptime::After(10));
    advance_clock(&store, 9);
    assert_eq!(get(&store, "k"), Some("v".into()));
    advance_clock(&store, 1);
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
fn each_stored_item_gets_a_greater_cas_unique() {
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
    advance_clock(&store, 5);
    assert_eq!(get(&store, "k"), None);
}

#[test]
fn a_delayed_flush_removes_all_items_one_second_before_its_time() {
    let store = store();
    set(&store, "before", "", Exptime::Never);
    store
        .flush_later(Exptime::After(10))
        .expect("nothing is recorded");
    set(&store, "meanwhile", "", Exptime::Never);
    advance_clock(&store, 8);
    assert!(get(&store, "before").is_some());
    advance_clock(&store, 1);
    assert_eq!(
        (get(&store, "before"), get(&store, "meanwhile")),
        (None, None)
    );
    set(&store, "after", "", Exptime::Never);
    advance_clock(&store, 100);
    assert!(get(&store, "after").is_some(), "a flush happens once");
}

#[test]
fn a_new_flush_replaces_the_one_that_was_pending() {
    let store = store();
    store
        .flush_later(Exptime::After(10))
        .expect("nothing is recorded");
    store.flush().expect("nothing is recorded");
    set(&store, "k", "", Exptime::Never);
    advance_clock(&store, 20);
    assert!(get(&store, "k").is_some());
    store
        .flush_later(Exptime::After(10))
        .expect("nothing is recorded");
    store
        .flush_later(Exptime::At(1))
        .expect("nothing is recorded");
    advance_clock(&store, 20);
    assert!(
        get(&store, "k").is_some(),
        "a date that has passed flushes nothing"
    );
}

/// What can happen to a store.
#[derive(Debug, Clone)]
enum Event {
    Set {
        key: u8,
        length: usize,
        exptime: Option<u32>,
    },
    Touch {
        key: u8,
        exptime: Option<u32>,
    },
    Invalidate {
        key: u8,
    },
    Remove {
        key: u8,
    },
    Get {
        key: u8,
    },
    AdvanceClock {
        seconds: u8,
    },
    Sweep,
    Flush,
    FlushLater {
        seconds: u8,
    },
}

/// Lengths of values, small and large. One length is frequent, so that items are overwritten in place.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..40usize,
        2 => Just(100usize),
        4 => 500..5000usize,
        2 => 15_000..40_000usize,
    ]
}

fn event(keys: u8) -> impl Strategy<Value = Event> {
    let key = 0..keys;
    let exptime = proptest::option::of(1..20u32);
    prop_oneof![
        8 => (key.clone(), length(), exptime.clone())
            .prop_map(|(key, length, exptime)| Event::Set { key, length, exptime }),
        2 => (key.clone(), exptime).prop_map(|(key, exptime)| Event::Touch { key, exptime }),
        1 => key.clone().prop_map(|key| Event::Invalidate { key }),
        2 => key.clone().prop_map(|key| Event::Remove { key }),
        6 => key.prop_map(|key| Event::Get { key }),
        2 => (1..10u8).prop_map(|seconds| Event::AdvanceClock { seconds }),
        1 => Just(Event::Sweep),
        1 => prop_oneof![
            Just(Event::Flush),
            (1..10u8).prop_map(|seconds| Event::FlushLater { seconds }),
        ],
    ]
}

/// A simple store: a map from which expired items are removed whenever time passes.
#[derive(Default)]
struct Model {
    now: u32,
    /// Values, each of one letter that is repeated, and when they expire.
    items: HashMap<u8, (String, Option<u32>)>,
    flush_at: Option<u32>,
    sets: usize,
}

impl Model {
    /// A value of this length, with another letter than the value before.
    fn value(&mut self, length: usize) -> String {
        self.sets += 1;
        let letter = char::from(b'a' + (self.sets % 26) as u8);
        letter.to_string().repeat(length)
    }

    fn advance_clock(&mut self, seconds: u8) {
        self.now += u32::from(seconds);
        if self.flush_at.is_some_and(|due| due <= self.now) {
            self.flush_at = None;
            self.items.clear();
        }
        self.items
            .retain(|_, (_, end)| end.is_none_or(|end| end > self.now));
    }

    /// Plays a history on a store and on the model. Checks all invariants after each event, and checks with `agrees`
    /// what the store returns for a `Get` against what the model has.
    fn play(
        &mut self,
        store: &Datastore,
        history: Vec<Event>,
        agrees: impl Fn(&Option<String>, &Option<String>) -> bool,
    ) {
        for event in history {
            match event {
                Event::Set {
                    key,
                    length,
                    exptime,
                } => {
                    let value = self.value(length);
                    set(store, &key.to_string(), &value, exptime_of(exptime));
                    let end = exptime.map(|seconds| self.now + seconds);
                    self.items.insert(key, (value, end));
                }
                Event::Touch { key, exptime } => {
                    let expiry = exptime_of(exptime).expiry(store.clock().now());
                    let touched = store.lock_key(key.to_string().as_bytes()).touch(expiry);
                    touched.expect("nothing is recorded");
                    if let Some((_, end)) = self.items.get_mut(&key) {
                        *end = exptime.map(|seconds| self.now + seconds);
                    }
                }
                Event::Invalidate { key } => {
                    let key = key.to_string();
                    let mut guard = store.lock_key(key.as_bytes());
                    if let Some(expiry) = guard.item().map(|item| item.expiry) {
                        guard.invalidate(expiry, None).expect("nothing is recorded");
                    }
                }
                Event::Remove { key } => {
                    let removed = store.lock_key(key.to_string().as_bytes()).remove();
                    removed.expect("nothing is recorded");
                    self.items.remove(&key);
                }
                Event::Get { key } => {
                    let expected = self.items.get(&key).map(|(value, _)| value.clone());
                    let found = get(store, &key.to_string());
                    assert!(agrees(&found, &expected), "{key}: {found:?}, {expected:?}");
                }
                Event::AdvanceClock { seconds } => {
                    advance_clock(store, seconds.into());
                    self.advance_clock(seconds);
                }
                Event::Sweep => store.sweep(),
                Event::Flush => {
                    store.flush().expect("nothing is recorded");
                    self.items.clear();
                    self.flush_at = None;
                }
                Event::FlushLater { seconds } => {
                    let later = store.flush_later(Exptime::After(seconds.into()));
                    later.expect("nothing is recorded");
                    self.flush_at = Some(self.now + u32::from(seconds) - 1);
                    self.advance_clock(0);
                }
            }
            validate(store);
        }
    }
}

fn exptime_of(seconds: Option<u32>) -> Exptime {
    seconds.map_or(Exptime::Never, Exptime::After)
}

#[test]
fn a_list_of_all_items_copies_a_segment_at_a_time_and_ends_although_items_keep_coming() {
    let store = store_with(16 * MEGABYTE, WhenFull::Evict);
    let key = |n: usize| format!("key {n}");
    for n in 0..40_000 {
        set(&store, &key(n), &"v".repeat(100), Exptime::Never);
    }
    let (mut listed, mut steps) = (HashSet::new(), 0);
    for items in store.snapshot() {
        assert!(items.len() * 100 <= SEGMENT_SIZE, "{} items", items.len());
        listed.extend(items.iter().map(|item| item.key().to_vec()));
        for n in 0..1000 {
            let new = format!("new {steps} {n}");
            set(&store, &new, &"v".repeat(100), Exptime::Never);
        }
        // Items that are read are moved when their segment would be evicted.
        for n in (0..40_000).step_by(300) {
            get(&store, &key(n));
        }
        steps += 1;
    }
    let there: Vec<_> = (0..40_000)
        .filter(|&n| get(&store, &key(n)).is_some())
        .collect();
    let missed = there
        .iter()
        .filter(|&&n| !listed.contains(key(n).as_bytes()))
        .count();
    assert!(there.len() > 100, "{}", there.len());
    assert_eq!(missed, 0);
}

proptest! {
    #[test]
    fn after_any_history_the_store_holds_the_items_of_the_model(
        history in proptest::collection::vec(event(6), 1..80)
    ) {
        let (store, mut model) = (store(), Model::default());
        model.play(&store, history, |found, expected| found == expected);
        store.sweep();
        let found: HashMap<String, String> = store
            .snapshot()
            .flatten()
            .map(|item| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                (text(item.key()), text(&item.value()))
            })
            .collect();
        let expected: HashMap<String, String> =
            model.items.iter().map(|(key, (value, _))| (key.to_string(), value.clone())).collect();
        prop_assert_eq!(found, expected);
    }
}

proptest! {
    // There are few cases, because each history is long (memory must run out) and is checked after each event.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn in_a_full_store_a_key_holds_its_last_value_or_nothing(
        history in proptest::collection::vec(event(200), 1..600)
    ) {
        let store = store_with(MEGABYTE / 2, WhenFull::Evict);
        Model::default().play(&store, history, |found, expected| {
            found.is_none() || found == expected
        });
        prop_assert!(store.memory.used() <= MEGABYTE / 2 + 2 * SEGMENT_SIZE);
    }
}
