//! Many clients use the same keys, and each command happens whole at one moment or not at all. The races that exactly
//! one client must win are in `winners.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::process::eventually;
use common::{Client, TestServer, VERSION, server};

const CLIENTS: usize = 8;

/// Lets all clients work at the same time, and waits for them. `work` gets the number of its client.
fn together(server: &TestServer, work: impl Fn(usize, Client) + Sync) {
    let work = &work;
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let client = server.client();
            scope.spawn(move || work(number, client));
        }
    });
}

/// Reads a whole answer to a `get`.
fn until_end(client: &mut Client) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"END\r\n") {
        let mut room = [0; 1 << 14];
        let bytes = client.stream.read(&mut room).expect("the answer comes");
        assert_ne!(bytes, 0, "the server does not close the connection");
        answer.extend_from_slice(&room[..bytes]);
    }
    String::from_utf8(answer).expect("it is text")
}

/// The value of a key that has an item, and its cas unique.
fn gets(client: &mut Client, key: &str) -> (String, String) {
    let line = client.send(format!("gets {key}\r\n")).line();
    let cas = line
        .rsplit(' ')
        .next()
        .expect("a line has a last word")
        .to_owned();
    assert!(line.starts_with("VALUE "), "{line}");
    let value = client.line();
    client.expect("END\r\n");
    (value, cas)
}

#[test]
fn no_increment_is_lost() {
    const EACH: usize = 1000;
    let server = server("");
    server.client().check("set n 0 0 1\r\n0\r\n", "STORED\r\n");
    together(&server, |_, mut client| {
        // Half of the commands have noreply.
        for _ in 0..EACH / 2 {
            client.send("incr n 1\r\nincr n 1 noreply\r\n");
            client.line();
        }
        client.check("version\r\n", VERSION);
    });
    server
        .client()
        .check("incr n 0\r\n", format!("{}\r\n", CLIENTS * EACH));
}

/// A value is one letter, repeated, and its length depends on the letter. So a mixture of two values is noticed. No two
/// values may have the same cas unique.
#[test]
fn a_reader_never_sees_a_mixture_of_two_writers_values() {
    const ROUNDS: usize = 150;
    let server = server("");
    let value = |letter: u8| {
        String::from_utf8(vec![letter; 1 + usize::from(letter - b'a') * 700]).expect("letters")
    };
    let set = |letter: u8| format!("set k 0 0 {}\r\n{}\r\n", value(letter).len(), value(letter));
    server.client().check(set(b'a'), "STORED\r\n");
    let letter_of_cas = Mutex::new(HashMap::new());
    together(&server, |number, mut client| {
        for round in 0..ROUNDS {
            if number % 2 == 0 {
                client.check(set(b'a' + ((round * 7 + number) % 26) as u8), "STORED\r\n");
                continue;
            }
            let (seen, cas) = gets(&mut client, "k");
            let letter = seen.as_bytes()[0];
            assert!(
                seen == value(letter),
                "a torn value: {} bytes, from {}",
                seen.len(),
                letter as char
            );
            let mut letters = letter_of_cas.lock().expect("no client has panicked");
            assert_eq!(
                *letters.entry(cas).or_insert(letter),
                letter,
                "two values with one cas unique"
            );
        }
    });
}

/// Each client appends or prepends its own digit: the value must have all of them.
#[test]
fn no_append_is_lost() {
    const EACH: usize = 100;
    let server = server("");
    server.client().check("set k 0 0 0\r\n\r\n", "STORED\r\n");
    together(&server, |number, mut client| {
        for _ in 0..EACH {
            let verb = match number % 2 {
                0 => "append",
                _ => "prepend",
            };
            client.check(format!("{verb} k 0 0 1\r\n{number}\r\n"), "STORED\r\n");
        }
    });
    let (value, _) = gets(&mut server.client(), "k");
    for number in 0..CLIENTS {
        let digits = value.matches(&number.to_string()).count();
        assert_eq!(digits, EACH, "client {number} in {value}");
    }
}

/// Each client stores its keys in order. A flush that happens at one moment leaves the last keys of each client,
/// without a gap. A flush that locked one shard after the other would leave gaps.
#[test]
fn a_flush_during_writes_happens_at_one_moment() {
    const ROUNDS: usize = 20;
    let server = server("");
    for _ in 0..ROUNDS {
        flush_during_writes(&server);
    }
}

fn flush_during_writes(server: &TestServer) {
    const KEYS: usize = 1000;
    const AT_A_TIME: usize = 20;
    const ENOUGH: usize = KEYS / 10;
    let keys = |number: usize| (0..KEYS).map(move |n| format!("c{number}-{n}"));
    let stored: Vec<AtomicUsize> = (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            together(server, |number, mut client| {
                let keys: Vec<String> = keys(number).collect();
                for some in keys.chunks(AT_A_TIME) {
                    let sets: String = some
                        .iter()
                        .map(|key| format!("set {key} 0 0 1\r\nx\r\n"))
                        .collect();
                    client.check(sets, "STORED\r\n".repeat(AT_A_TIME));
                    stored[number].fetch_add(AT_A_TIME, Relaxed);
                }
            });
        });
        let mut flusher = server.client();
        eventually("all clients are storing", || {
            stored.iter().all(|n| n.load(Relaxed) > ENOUGH)
        });
        flusher.check("flush_all\r\n", "OK\r\n");
    });

    let mut client = server.client();
    let mut left = 0;
    for number in 0..CLIENTS {
        let names = keys(number).collect::<Vec<_>>().join(" ");
        let answer = until_end(client.send(format!("get {names}\r\n")));
        let found: HashSet<&str> = answer
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .collect();
        let is_found: Vec<bool> = keys(number).map(|key| found.contains(&*key)).collect();
        let first = is_found.iter().position(|&found| found).unwrap_or(KEYS);
        assert!(
            first >= ENOUGH,
            "key {first} of client {number} was stored before the flush"
        );
        assert!(
            is_found[first..].iter().all(|&found| found),
            "client {number} has gaps"
        );
        left += KEYS - first;
    }
    assert_eq!(client.stat("curr_items"), left.to_string());
    client.check("flush_all\r\n", "OK\r\n");
    assert_eq!(
        (client.stat("curr_items"), client.stat("bytes")),
        ("0".into(), "0".into())
    );
}
