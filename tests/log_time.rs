//! Time in the log: a replay removes expired items where the running server removed them, under any memory limit.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::folder::{Folder, content};
use common::memory::{Memory, NOW, assert_same};
use common::process;
use rustmemc::OpenError;

/// One command that stores an item.
fn set(key: &str, exptime: u32, length: usize) -> String {
    format!(
        "set {key} 0 {exptime} {length} noreply\r\n{}\r\n",
        "v".repeat(length)
    )
}

#[test]
fn sessions_that_were_touched_in_time_survive_a_replay_beside_many_items_that_expired() {
    const ROOM: usize = 1 << 20;
    let folder = Folder::new();
    let memory = Memory::open_within(&folder.file("aof"), NOW, ROOM);
    let sessions: Vec<String> = (0..100).map(|n| format!("s{n}")).collect();
    for session in &sessions {
        memory.check(set(session, 8, 200), "");
    }
    for second in 0..16 {
        for page in 0..100 {
            memory.check(set(&format!("page{second}-{page}"), 1, 3000), "");
        }
        for session in sessions.iter().filter(|_| second % 2 == 0) {
            memory.check(format!("touch {session} 8\r\n"), "TOUCHED\r\n");
        }
        memory.pass(1);
    }
    let state = memory.state();
    assert_eq!(state.len(), sessions.len(), "the sessions are alive");
    let restarted = memory.successor(0);
    assert_same(&restarted.state(), &state, "after a restart");
    // An item that is deleted after the restart does not come back.
    restarted.check("delete s1\r\n", "DELETED\r\n");
    assert!(!restarted.restart(0).state().contains_key("s1"));
}

#[test]
fn an_item_that_expired_while_the_clock_was_ahead_stays_away_after_a_restart() {
    let folder = Folder::new();
    let memory = Memory::open(&folder.file("aof"), NOW);
    memory.check(set("k", 600, 5), "");
    memory.check(set("other", 0, 5), "");
    memory.pass(3600).check("get k\r\n", "END\r\n");
    memory.turn_back(3600).check("get k\r\n", "END\r\n");
    memory.check(set("new", 600, 5), "");
    memory.pass(1);
    let expected = memory.state();
    assert_same(&memory.successor(0).state(), &expected, "after a restart");
    // The clock is an hour behind the last mark, so the file is rewritten.
    memory.rewrite();
    assert_same(&memory.restart(0).state(), &expected, "after a rewrite");
}

#[test]
fn a_time_mark_shows_that_whole_records_before_it_were_lost_or_doubled() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let memory = Memory::open(&path, NOW);
    for second in 0..3 {
        memory.check(set(&format!("k{second}"), 0, 5), "");
        memory.pass(1);
    }
    drop(memory);
    let file = content(&path);
    let at = |text: &str| {
        let found = file
            .windows(text.len())
            .position(|window| window == text.as_bytes());
        found.unwrap_or_else(|| panic!("the file has {text}"))
    };
    let (start, end) = (at("ms k1 "), at("ms k2 "));
    for changed in [
        [&file[..start], &file[end..]].concat(),
        [&file[..end], &file[start..]].concat(),
    ] {
        std::fs::write(&path, changed).expect("the file can be written");
        match Memory::try_open(&path, NOW, 1 << 24) {
            Err(OpenError::Damaged { .. }) => {}
            other => panic!("{:?}", other.map(|memory| memory.state())),
        }
    }
}

#[test]
fn a_cas_unique_that_a_crash_took_back_is_not_given_out_again() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let memory = Memory::open(&path, NOW);
    memory.check(set("k", 0, 1), "");
    let before_the_crash = content(&path);
    for _ in 0..100 {
        memory.check(set("k", 0, 1), "");
    }
    let seen = memory.cas("k");
    drop(memory);
    // The machine crashed, and the disk never had the last changes.
    std::fs::write(&path, before_the_crash).expect("the file can be written");
    let memory = Memory::open(&path, NOW);
    memory.check(set("k", 0, 1), "");
    assert!(memory.cas("k") > seen);
}

#[test]
fn cas_uniques_that_were_given_out_are_not_repeated_after_a_client_chose_a_huge_one() {
    let folder = Folder::new();
    let mut memory = Memory::open(&folder.file("aof"), NOW);
    memory.check("ms x 1 E4611686018427387903\r\n1\r\n", "HD\r\n");
    let mut last = 0;
    for _ in 0..3 {
        memory = memory.restart(1);
        memory.check(set("k", 0, 1), "");
        memory.pass(1);
        let cas = memory.cas("k");
        assert!(cas > last, "{cas} after {last}");
        last = cas;
        memory.check("delete k\r\n", "DELETED\r\n");
    }
}

#[test]
fn a_replay_keeps_within_the_memory_limit_even_if_evictions_are_off() {
    let folder = Folder::new();
    let aof = format!("--aof {}", folder.file("aof").display());
    let start = |flags: &str| process::spawn(&format!("{flags} {aof}"));
    let server = start("-m 64");
    let mut client = server.client();
    for n in 0..400 {
        client.send(set(&format!("k{n}"), 0, 100_000));
    }
    client.check("mn\r\n", "MN\r\n");
    assert_eq!(client.stat("curr_items"), "400");
    server.signal("TERM");
    server.outcome();

    let server = start("-M -m 8");
    let kept = server.count("curr_items");
    assert!(
        (40..90).contains(&kept),
        "{kept} of 400 items of 100 kB are kept"
    );
    let most = server.memory("VmHWM");
    assert!(most < 20 << 10, "{most} kB at most");
    let printed = server.stderr();
    let evicted = format!(
        "-m holds less than the file: {} items were evicted",
        400 - kept
    );
    assert!(printed.contains(&evicted), "{printed}");
    server.signal("TERM");
    server.outcome();
    assert_eq!(
        start("-m 64").count("curr_items"),
        kept,
        "the file forgot them too"
    );
}
