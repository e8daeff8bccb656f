//! Random histories: whatever happens to a store, and whenever its file is rewritten, replaying the file restores
//! exactly the state that memory held. For this the test need not know what a command does: it compares the two states.
//!
//! A longer run: `PROPTEST_CASES=10000 cargo test --release --test histories`
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

/// A memory limit, in bytes, so small that most histories have evictions.
const SMALL_LIMIT: usize = 256 << 10;
/// A memory limit, in bytes, so large that evictions are rare.
const LARGE_LIMIT: usize = 1 << 20;

/// What happens to a store.
#[derive(Debug, Clone)]
enum Event {
    /// A client sends a command.
    Command(String),
    /// This number of seconds passes.
    TimePasses(u32),
    /// The file is rewritten.
    Rewrite,
    /// The server is killed, and started again after this number of seconds.
    Restart(u32),
}
use Event::{Command, Restart, Rewrite, TimePasses};

/// Keys as they are written in classic commands.
fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c", "d", "key-\u{e9}"])
}

/// Keys as they are written in meta commands. (The last one is `f g`. Only a meta command can contain it.)
fn meta_key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c", "YQ== b", "ZiBn b"])
}

/// exptimes: never, times that pass during a history, dates, and one that has passed.
fn exptime() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("0".to_owned()),
        4 => (1..40u32).prop_map(|seconds| seconds.to_string()),
        1 => (1..40u32).prop_map(|seconds| (NOW + seconds).to_string()),
        1 => Just("-1".to_owned()),
    ]
}

/// Values: numbers for `incr` and `decr`, texts, and long values that need memory.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (0..200u32).prop_map(|number| number.to_string()),
        2 => "[a-z\r\n]{0,20}",
        2 => (100..2000usize).prop_map(|length| "v".repeat(length)),
    ]
}

fn classic_command() -> impl Strategy<Value = String> {
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

/// A flag of a meta command with its value, or nothing.
fn flag(
    letter: &'static str,
    value: impl Strategy<Value = String>,
) -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(String::new()),
        1 => value.prop_map(move |value| format!(" {letter}{value}")),
    ]
}

/// A flag without a value, or nothing.
fn switch(letter: &'static str) -> impl Strategy<Value = String> {
    flag(letter, Just(String::new()))
}

fn unique() -> impl Strategy<Value = String> {
    (0..60u32).prop_map(|unique| unique.to_string())
}

fn meta_command() -> impl Strategy<Value = String> {
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
    // `YQ== b`: the length is between the key and its flag.
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
    // Many different keys with long values: only these fill the store.
    let filler = (0..1000u32, 10_000..30_000usize).prop_map(|(number, length)| {
        format!("set f{number} 0 0 {length}\r\n{}\r\n", "f".repeat(length))
    });
    prop_oneof![
        12 => classic_command().prop_map(Command),
        12 => meta_command().prop_map(Command),
        8 => filler.prop_map(Command),
        1 => flush.prop_map(Command),
        4 => (1..15u32).prop_map(TimePasses),
        1 => Just(Rewrite),
        1 => (0..15u32).prop_map(Restart),
    ]
}

fn config() -> ProptestConfig {
    let is_number_chosen = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    match is_number_chosen {
        true => config,
        false => ProptestConfig {
            cases: 64,
            ..config
        },
    }
}

/// After a restart, meta commands show every key with a space in base64, because it is in base64 in the file.
fn as_after_restart(mut state: State) -> State {
    for (key, held) in &mut state {
        held.binary_key |= key.contains(' ');
    }
    state
}

/// Restarts on a copy of the file after this number of seconds. The new store must have the same state as the old one
/// has then.
#[track_caller]
fn restarted(memory: &Memory, seconds: u32) -> Memory {
    let restarted = memory.successor(seconds);
    let state = as_after_restart(memory.pass(seconds).state());
    assert_same(&restarted.state(), &state, "replayed once");
    // The first start may append a record (of a flush that came due meanwhile), but the next one does not.
    let file = restarted.file();
    let restarted = restarted.restart(0);
    assert_same(&restarted.state(), &state, "replayed twice");
    assert!(
        restarted.file() == file,
        "a replay does not change the file"
    );
    restarted
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn replaying_the_file_of_any_history_restores_exactly_the_state_that_memory_held(
        history in prop::collection::vec(event(), 1..100),
        limit in prop::sample::select(vec![SMALL_LIMIT, SMALL_LIMIT, LARGE_LIMIT]),
        rewritten_at_the_end: bool,
        downtime in 0..30u32,
    ) {
        let folder = Folder::new();
        let mut memory = Memory::open_within(&folder.file("aof"), NOW, limit);
        for event in history {
            match event {
                Command(command) => drop(memory.say(command)),
                TimePasses(seconds) => drop(memory.pass(seconds)),
                Rewrite => drop(memory.rewrite()),
                Restart(seconds) => memory = restarted(&memory, seconds),
            }
        }
        if rewritten_at_the_end {
            memory.rewrite();
        }
        // Once immediately, and once after some time: then a wrong expiry or a wrong pending flush shows.
        for seconds in [0, downtime] {
            memory = restarted(&memory, seconds);
        }
        // A new item gets a cas unique that no other item has.
        let state = memory.state();
        memory.say("ms new 0\r\n\r\n");
        let new = memory.cas("new");
        prop_assert!(state.values().all(|held| held.cas < new), "{} is too small", new);
    }
}
