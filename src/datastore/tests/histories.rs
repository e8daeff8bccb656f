//! Random histories of a store, beside a model that is as simple as can be. After each event all invariants hold.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

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
    Pass {
        seconds: u8,
    },
    Sweep,
    Flush,
    FlushLater {
        seconds: u8,
    },
}

/// Values of all lengths, small and large, with a few lengths that come again and again.
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
        2 => (1..10u8).prop_map(|seconds| Event::Pass { seconds }),
        1 => Just(Event::Sweep),
        1 => prop_oneof![
            Just(Event::Flush),
            (1..10u8).prop_map(|seconds| Event::FlushLater { seconds }),
        ],
    ]
}

/// The store as one would first write it: a map, and a look at everything whenever time passes.
#[derive(Default)]
struct Model {
    now: u32,
    /// Values, each all of one letter, and when they expire.
    items: HashMap<u8, (String, Option<u32>)>,
    flush_at: Option<u32>,
    sets: usize,
}

impl Model {
    /// A value of this length that is not the one before.
    fn value(&mut self, length: usize) -> String {
        self.sets += 1;
        let letter = char::from(b'a' + (self.sets % 26) as u8);
        letter.to_string().repeat(length)
    }

    fn pass(&mut self, seconds: u8) {
        self.now += u32::from(seconds);
        if self.flush_at.is_some_and(|due| due <= self.now) {
            self.flush_at = None;
            self.items.clear();
        }
        self.items
            .retain(|_, (_, end)| end.is_none_or(|end| end > self.now));
    }

    /// Plays a history on a store and on the model. After each event all invariants are checked, and a key that was
    /// asked for holds what `agrees` allows.
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
                Event::Pass { seconds } => {
                    pass(store, seconds.into());
                    self.pass(seconds);
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
                    self.pass(0);
                }
            }
            validate(store);
        }
    }
}

fn exptime_of(seconds: Option<u32>) -> Exptime {
    seconds.map_or(Exptime::Never, Exptime::After)
}

proptest! {
    #[test]
    fn any_history_leaves_the_store_as_the_model_has_it(
        history in proptest::collection::vec(event(6), 1..80)
    ) {
        let (store, mut model) = (store(), Model::default());
        model.play(&store, history, |found, expected| found == expected);
        store.sweep();
        let live: HashMap<String, String> = store
            .snapshot()
            .flatten()
            .map(|item| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                (text(item.key()), text(&item.value()))
            })
            .collect();
        let expected: HashMap<String, String> =
            model.items.iter().map(|(key, (value, _))| (key.to_string(), value.clone())).collect();
        prop_assert_eq!(live, expected);
    }
}

proptest! {
    // Each history is long, so that memory runs out, and is checked after each event.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn in_a_store_that_is_full_a_key_holds_its_last_value_or_nothing(
        history in proptest::collection::vec(event(200), 1..600)
    ) {
        let store = store_with(MEGABYTE / 2, WhenFull::Evict);
        Model::default().play(&store, history, |found, expected| {
            found.is_none() || found == expected
        });
        prop_assert!(store.memory.used() <= MEGABYTE / 2 + 2 * SEGMENT);
    }
}
