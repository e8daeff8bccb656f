//! Many clients send the same command at the same moment, and exactly one wins. Clients rely on this so that one
//! process, and not a hundred, computes a missing value.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::{Barrier, Mutex};

use common::Client;

const CLIENTS: usize = 32;
/// How often each race is run: a mistake may show only in some of the runs.
const ROUNDS: usize = 25;

/// In each round it prepares the key `k`, and then all clients send the same command at the same moment. Exactly one of
/// their answers must be `winning`, and all others must be `losing`.
#[track_caller]
fn one_wins(mut prepare: impl FnMut(&mut Client) -> String, winning: &str, losing: &str) {
    let server = common::server("");
    let mut author = server.client();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.client()).collect();
    for round in 1..=ROUNDS {
        let command = prepare(&mut author);
        let (start, answers) = (Barrier::new(CLIENTS), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| {
                    start.wait();
                    let answer = client.send(&command).line();
                    // The second line is the value.
                    let value = if answer.starts_with("VA ") {
                        client.line()
                    } else {
                        String::new()
                    };
                    answers
                        .lock()
                        .expect("no client panics")
                        .push(format!("{answer}\r\n{value}"));
                });
            }
        });
        let answers = answers.into_inner().expect("no client panics");
        let count = |text: &str| {
            answers
                .iter()
                .filter(|answer| answer.trim_end() == text)
                .count()
        };
        assert_eq!(
            (count(winning), count(losing)),
            (1, CLIENTS - 1),
            "round {round}, {command:?}: {answers:#?}"
        );
    }
}

/// The cas unique of `k`.
fn unique(author: &mut Client) -> String {
    let answer = author.send("mg k c\r\n").line();
    answer
        .strip_prefix("HD c")
        .expect("k has an item")
        .to_owned()
}

#[test]
fn of_32_readers_of_a_missing_key_one_wins_the_right_to_store_it() {
    let prepare = |author: &mut Client| {
        author.check("flush_all\r\n", "OK\r\n");
        "mg k v N30\r\n".to_owned()
    };
    one_wins(prepare, "VA 0 W", "VA 0 Z");
}

#[test]
fn of_32_readers_of_a_stale_value_one_wins_after_each_invalidation() {
    let mut first = true;
    let prepare = |author: &mut Client| {
        // The first round stores it, and later rounds only invalidate it again.
        if std::mem::take(&mut first) {
            author.check("ms k 3\r\nold\r\n", "HD\r\n");
        }
        author.check("md k I\r\n", "HD\r\n");
        "mg k v\r\n".to_owned()
    };
    one_wins(prepare, "VA 3 X W\r\nold", "VA 3 Z X\r\nold");
}

#[test]
fn of_32_readers_of_a_value_that_expires_soon_one_wins() {
    let prepare = |author: &mut Client| {
        author.check("ms k 1 T20\r\n1\r\n", "HD\r\n");
        "mg k R30 v\r\n".to_owned()
    };
    one_wins(prepare, "VA 1 W\r\n1", "VA 1 Z\r\n1");
}

#[test]
fn of_32_clients_that_add_the_same_key_one_stores_it() {
    let prepare = |author: &mut Client| {
        author.check("flush_all\r\n", "OK\r\n");
        "add k 0 0 1\r\n1\r\n".to_owned()
    };
    one_wins(prepare, "STORED", "NOT_STORED");
}

#[test]
fn of_32_clients_that_send_the_same_cas_unique_one_stores_its_value() {
    let prepare = |author: &mut Client| {
        author.check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
        format!("cas k 0 0 1 {}\r\n2\r\n", unique(author))
    };
    one_wins(prepare, "STORED", "EXISTS");
}
