//! Random histories: whatever happens to a store, and whenever its file is rewritten, replaying the file
//! gives the very state that memory held. Nobody has to know what a command does for that; it is enough to
//! look at both.
//!
//! A longer hunt: `PROPTEST_CASES=10000 cargo test --release --test histories`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::folder::Folder;
use common::memory::{Memory, NOW, State, assert_same};
use proptest::prelude::*;

/// So little room, in bytes, that evictions are part of most histories; and so much that there are none.
const LITTLE: usize = 256 << 10;
const ENOUGH: usize = 1 << 20;

/// What happens to a store.
#[derive(Debug, Clone)]
enum Event {
    /// A client says something.
    Said(String),
    /// So many seconds pass.
    Passed(u32),
    /// The file is rewritten.
    Rewritten,
    /// The server is killed, and started again after so many seconds.
    Restarted(u32),
}
use Event::{Passed, Restarted, Rewritten, Said};

/// Keys, as classic commands and as meta commands spell them. (The last is `f g`, and only meta commands
/// can say it.)
fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c", "d", "key-\u{e9}"])
}

fn meta_key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c", "YQ== b", "ZiBn b"])
}

/// exptimes: none, some that come within a history, a date, one that has passed.
fn exptime() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("0".to_owned()),
        4 => (1..40u32).prop_map(|seconds| seconds.to_string()),
        1 => (1..40u32).prop_map(|seconds| (NOW + seconds).to_string()),
        1 => Just("-1".to_owned()),
    ]
}

/// Values: numbers to count with, texts, and long ones that need room.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (0..200u32).prop_map(|number| number.to_string()),
        2 => "[a-z\r\n]{0,20}",
        2 => (100..2000usize).prop_map(|length| "v".repeat(length)),
    ]
}

fn classic() -> impl Strategy<Value = String> {
    let verb = prop::sample::select(vec!["set", "set", "add", "replace", "append", "prepend"]);
    prop_oneof![
        4 => (verb, key(), 0..3u32, exptime(), value()).prop_map(|(verb, key, flags, exptime, value)| {
            format!("{verb} {key} {flags} {exptime} {}\r\n{value}\r\n", value.len())
        }),
        1 => (key(), value(), 0..30u32).prop_map(|(key, value, unique)| {
            format!("cas {key} 0 0 {} {unique}\r\n{value}\r\n", value.len())
        }),
        1 => (key(), 0..300u32).prop_map(|(key, delta)| format!("incr {key} {delta}\r\n")),
        1 => (key(), 0..300u32).prop_map(|(key, delta)| format!("decr {key} {delta}\r\n")),
        1 => (key(), exptime()).prop_map(|(key, exptime)| format!("touch {key} {exptime}\r\n")),
        1 => (key(), exptime()).prop_map(|(key, exptime)| format!("gat {exptime} {key} a b\r\n")),
        1 => key().prop_map(|key| format!("delete {key}\r\n")),
        1 => key().prop_map(|key| format!("get {key}\r\n")),
    ]
}

/// A flag with its value, or none.
fn flag(
    letter: &'static str,
    value: impl Strategy<Value = String>,
) -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(String::new()),
        1 => value.prop_map(move |value| format!(" {letter}{value}")),
    ]
}

fn switch(letter: &'static str) -> impl Strategy<Value = String> {
    flag(letter, Just(String::new()))
}

fn unique() -> impl Strategy<Value = String> {
    (0..60u32).prop_map(|unique| unique.to_string())
}

fn meta() -> impl Strategy<Value = String> {
    let mode = prop::sample::select(vec!["S", "E", "A", "P", "R"]).prop_map(str::to_owned);
    let set = (
        (meta_key(), value(), flag("M", mode), flag("T", exptime())),
        (
            flag("N", exptime()),
            flag("C", unique()),
            flag("E", unique()),
        ),
        (switch("I"), flag("F", unique())),
    );
    let get = (
        meta_key(),
        (
            flag("T", exptime()),
            flag("N", exptime()),
            flag("R", exptime()),
        ),
        flag("E", unique()),
    );
    let delete = (
        (meta_key(), switch("I"), switch("x"), flag("T", exptime())),
        (
            flag("C", unique()),
            flag("E", unique()),
            flag("F", unique()),
        ),
    );
    let direction = prop::sample::select(vec!["I", "D"]).prop_map(str::to_owned);
    let count = (
        (meta_key(), flag("M", direction), flag("T", exptime())),
        (
            flag("N", exptime()),
            flag("J", unique()),
            flag("D", unique()),
        ),
        (flag("C", unique()), flag("E", unique())),
    );
    // `YQ== b`: the key's flag stands behind the length.
    let with_length = |key: &str, length: usize| match key.split_once(' ') {
        Some((key, b)) => format!("{key} {length} {b}"),
        None => format!("{key} {length}"),
    };
    prop_oneof![
        3 => set.prop_map(move |((key, value, m, t), (n, c, e), (i, f))| {
            format!("ms {}{m}{t}{n}{c}{e}{i}{f}\r\n{value}\r\n", with_length(key, value.len()))
        }),
        2 => get.prop_map(|(key, (t, n, r), e)| format!("mg {key} v{t}{n}{r}{e}\r\n")),
        2 => delete.prop_map(|((key, i, x, t), (c, e, f))| format!("md {key}{i}{x}{t}{c}{e}{f}\r\n")),
        1 => count.prop_map(|((key, m, t), (n, j, d), (c, e))| {
            format!("ma {key}{m}{t}{n}{j}{d}{c}{e}\r\n")
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let flush = prop_oneof![
        Just("flush_all\r\n".to_owned()),
        (1..60u32).prop_map(|seconds| format!("flush_all {seconds}\r\n")),
        Just("flush_all 2592001\r\n".to_owned()),
    ];
    // Many keys, each once: only these fill the store.
    let filler = (0..1000u32, 10_000..30_000usize).prop_map(|(number, length)| {
        format!("set f{number} 0 0 {length}\r\n{}\r\n", "f".repeat(length))
    });
    prop_oneof![
        12 => classic().prop_map(Said),
        12 => meta().prop_map(Said),
        8 => filler.prop_map(Said),
        1 => flush.prop_map(Said),
        4 => (1..15u32).prop_map(Passed),
        1 => Just(Rewritten),
        1 => (0..15u32).prop_map(Restarted),
    ]
}

fn config() -> ProptestConfig {
    let asked_for = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    match asked_for {
        true => config,
        false => ProptestConfig {
            cases: 64,
            ..config
        },
    }
}

/// A key that no classic command can say is spelled in base64 after a restart, in any case.
fn spelled(mut state: State) -> State {
    for (key, held) in &mut state {
        held.binary_key |= key.contains(' ');
    }
    state
}

/// Restarts on a copy of the file after so many seconds. The new memory must be as the old one is by then.
#[track_caller]
fn restarted(memory: &Memory, seconds: u32) -> Memory {
    let restarted = memory.successor(seconds);
    let state = spelled(memory.pass(seconds).state());
    assert_same(&restarted.state(), &state, "replayed once");
    // A start may note something down (a flush that came due meanwhile), but the next one does not.
    let file = restarted.file();
    let restarted = restarted.restart(0);
    assert_same(&restarted.state(), &state, "replayed twice");
    assert!(restarted.file() == file, "replaying it changes nothing");
    restarted
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn replaying_any_history_gives_exactly_the_state_that_memory_held(
        history in prop::collection::vec(event(), 1..100),
        room in prop::sample::select(vec![LITTLE, LITTLE, ENOUGH]),
        rewritten_at_the_end: bool,
        downtime in 0..30u32,
    ) {
        let folder = Folder::new();
        let mut memory = Memory::open_within(&folder.file("aof"), NOW, room);
        for event in history {
            match event {
                Said(commands) => drop(memory.say(commands)),
                Passed(seconds) => drop(memory.pass(seconds)),
                Rewritten => drop(memory.rewrite()),
                Restarted(seconds) => memory = restarted(&memory, seconds),
            }
        }
        if rewritten_at_the_end {
            memory.rewrite();
        }
        // At once, and after some time: then it shows when which item ends, and whether a flush is to come.
        for seconds in [0, downtime] {
            memory = restarted(&memory, seconds);
        }
        // And no unique is given out that an item has.
        let state = memory.state();
        memory.say("ms new 0\r\n\r\n");
        let new = memory.cas("new");
        prop_assert!(state.values().all(|held| held.cas < new), "{} is too small", new);
    }
}
