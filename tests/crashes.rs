//! `kill -9` under load, at random moments, again and again on the same file: no acknowledged change is lost.
//!
//! Each writer has keys of its own, so it knows what each key must hold: its last acknowledged value. If the server was
//! killed before it answered the next command, the key may also hold the result of that command.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use common::folder::Folder;
use common::process::{self, Process, eventually};
use common::random::Random;
use common::{Client, shortened};

const WRITERS: u64 = 4;
const KEYS: usize = 12;
/// How many commands a writer sends before it reads the answers. Each has another key.
const PIPELINE: usize = 4;

/// A key, and what it may hold.
#[derive(Default)]
struct Key {
    name: String,
    acknowledged: Option<String>,
    /// What the key holds after the command that has no answer yet, if there is one.
    unanswered: Option<Option<String>>,
}

struct Writer {
    keys: Vec<Key>,
    /// A number that makes each value different.
    sequence: u64,
    random: Random,
    /// The maximal length of a value, in bytes.
    max_length: usize,
}

impl Writer {
    fn new(number: u64, max_length: usize) -> Self {
        let key = |key| Key {
            name: format!("w{number}-k{key}"),
            ..Key::default()
        };
        Writer {
            keys: (0..KEYS).map(key).collect(),
            sequence: 0,
            random: Random(number + 1),
            max_length,
        }
    }

    /// Sends commands until the server is killed.
    fn work(&mut self, stream: TcpStream, acknowledged: &AtomicU64) {
        let mut answers = BufReader::new(&stream);
        loop {
            let first = self.random.below(KEYS);
            let mut expected = Vec::new();
            let mut commands = String::new();
            for index in (first..first + PIPELINE).map(|index| index % KEYS) {
                let (command, answer) = self.command(index);
                commands.push_str(&command);
                expected.push((index, answer));
            }
            if (&stream).write_all(commands.as_bytes()).is_err() {
                return;
            }
            for (index, answer) in expected {
                let mut line = String::new();
                // A killed server may have sent part of a line, which acknowledges nothing.
                if answers.read_line(&mut line).is_err() || !line.ends_with('\n') {
                    return;
                }
                assert_eq!(
                    line.trim_end(),
                    answer,
                    "in {}",
                    shortened(commands.as_bytes())
                );
                let key = &mut self.keys[index];
                key.acknowledged = key.unanswered.take().expect("a command was sent");
                acknowledged.fetch_add(1, Relaxed);
            }
        }
    }

    /// Returns a random command for a key, and the answer that it must get.
    fn command(&mut self, index: usize) -> (String, String) {
        self.sequence += 1;
        let number = self.sequence;
        let length = self.random.below(self.max_length);
        let what = self.random.below(8);
        let key = &mut self.keys[index];
        let (name, old) = (&key.name, &key.acknowledged);
        let (command, answer, new) = match (what, old) {
            (0, Some(_)) => (format!("delete {name}\r\n"), "DELETED".into(), None),
            (0, None) => (format!("delete {name}\r\n"), "NOT_FOUND".into(), None),
            (1..=3, Some(old)) if let Ok(count) = old.parse::<u64>() => {
                let sum = (count + number).to_string();
                (format!("incr {name} {number}\r\n"), sum.clone(), Some(sum))
            }
            (1 | 2, Some(old)) if old.len() < 2 * self.max_length => {
                let more = format!("+{number}");
                let command = format!("append {name} 0 0 {}\r\n{more}\r\n", more.len());
                (command, "STORED".into(), Some(format!("{old}{more}")))
            }
            _ => {
                let value = match what {
                    4 | 5 => (number + 1_000_000).to_string(),
                    _ => format!("{number} {}", "v".repeat(length)),
                };
                let command = format!("set {name} 0 0 {}\r\n{value}\r\n", value.len());
                (command, "STORED".into(), Some(value))
            }
        };
        key.unanswered = Some(new);
        (command, answer)
    }

    /// Checks that every key holds what was acknowledged, or the result of its unanswered command.
    fn check(&mut self, client: &mut Client) {
        for key in &mut self.keys {
            let line = client.send(format!("get {}\r\n", key.name)).line();
            let length = line.rsplit(' ').next().and_then(|word| word.parse().ok());
            let value = length.map(|length| {
                let mut value = vec![0; length];
                client
                    .stream
                    .read_exact(&mut value)
                    .expect("the value comes");
                client.expect("\r\nEND\r\n");
                String::from_utf8(value).expect("it is text")
            });
            let unanswered = key.unanswered.take();
            assert!(
                value == key.acknowledged || Some(&value) == unanswered.as_ref(),
                "{} holds {}\n  acknowledged: {}\n  after the unanswered command: {}",
                key.name,
                shown(value.as_ref()),
                shown(key.acknowledged.as_ref()),
                unanswered.map_or("there is none".into(), |value| shown(value.as_ref()))
            );
            key.acknowledged = value;
        }
    }
}

fn shown(value: Option<&String>) -> String {
    value.map_or("no value".into(), |value| shortened(value.as_bytes()))
}

/// The writers and the server's file. Both stay from one crash to the next.
struct Crashes {
    folder: Folder,
    writers: Vec<Writer>,
    random: Random,
}

impl Crashes {
    fn new(max_length: usize) -> Self {
        Crashes {
            folder: Folder::new(),
            writers: (0..WRITERS)
                .map(|number| Writer::new(number, max_length))
                .collect(),
            random: Random(0),
        }
    }

    /// Starts a server on the file and checks all keys. Then lets the writers work until `is_long_enough` returns true,
    /// and for a random number of commands more, and kills the server.
    fn round(&mut self, flags: &str, mut is_long_enough: impl FnMut(&Process) -> bool) {
        let path = self.folder.file("aof");
        let server = process::spawn(&format!("-c 16 --aof {} {flags}", path.display()));
        self.check(&server);
        let (address, acknowledged) = (server.address(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for writer in &mut self.writers {
                let stream = Client::connect(address).stream;
                scope.spawn(|| writer.work(stream, &acknowledged));
            }
            eventually("the writers have worked long enough", || {
                is_long_enough(&server)
            });
            let enough = acknowledged.load(Relaxed) + self.random.below(300) as u64;
            eventually("more commands are acknowledged", || {
                acknowledged.load(Relaxed) >= enough
            });
            server.signal("KILL");
        });
        let outcome = server.outcome();
        assert_eq!(
            outcome.status.code(),
            None,
            "it was killed: {}",
            outcome.stderr
        );
    }

    fn check(&mut self, server: &Process) {
        let mut client = server.client();
        for writer in &mut self.writers {
            writer.check(&mut client);
        }
        let names = self.folder.names();
        assert!(
            !names.iter().any(|name| name.contains("damaged")),
            "{names:?}"
        );
    }

    /// Checks everything after the last crash.
    fn finish(mut self) {
        let path = self.folder.file("aof");
        let server = process::spawn(&format!("-c 16 --aof {}", path.display()));
        self.check(&server);
        let mut names = self.folder.names();
        // What a crash left of a record is kept.
        names.retain(|name| !name.starts_with("aof.torn-"));
        assert_eq!(names, ["aof"], "there is no other file");
    }
}

#[test]
fn a_killed_server_loses_nothing_acknowledged() {
    let mut crashes = Crashes::new(300);
    for fsync in ["everysec", "never", "always"].repeat(4) {
        crashes.round(&format!("--fsync {fsync}"), |_| true);
    }
    crashes.finish();
}

#[test]
fn a_server_killed_during_a_rewrite_loses_nothing_acknowledged() {
    let mut crashes = Crashes::new(40_000);
    for _ in 0..2 {
        crashes.round("--aof-rewrite-size 1", |server| {
            server.count("aof_rewrite_in_progress") == 1 || server.count("aof_rewrites") > 0
        });
    }
    crashes.finish();
}
