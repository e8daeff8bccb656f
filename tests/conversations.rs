//! Plays `tests/conversations/*.txt`. Each file is prose with exchanges between clients and the server, and the server
//! must answer exactly what the file shows. The files are the tutorial of the protocol, and this test keeps them true: it
//! plays them against rustmemc, and against memcached if it is installed. (`memc check` plays them against any server.)
//!
//! memcached must pass every section that is not marked `(ours alone)`. The test prints what it passes over, and why.
//!
//! Every file in the folder is played, and every verb must be shown in one of them. `CONVERSATION=expiry` plays only
//! the files that have this in their name.
//!
//! `src/conversations/format.rs` describes the format of a file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use common::memcached::Memcached;
use common::process::passed_over;
use common::{TIMEOUT, TestServer};
use rustmemc::Address;
use rustmemc::conversations::ALL;
use rustmemc::conversations::format::{Action, Conversation, Piece};
use rustmemc::conversations::player::{Kind, Server};
use rustmemc::internals::VERBS;

#[test]
fn the_server_answers_what_the_conversations_show() {
    let failures = play_all(|flags| {
        let server = common::server(&format!("--debug {flags}"));
        Target {
            server: server_at(server.address, Kind::Rustmemc),
            _ends_with_it: Process::Rustmemc(server),
        }
    });
    check_none(&failures);
}

#[test]
fn memcached_answers_what_the_conversations_show() {
    let Some((program, release)) = Memcached::find_any() else {
        return;
    };
    let failures = play_all(|flags| {
        // This thread of memcached removes expired items, and keeps those that are read, a moment later. Without it,
        // its answers do not depend on that moment.
        let flags = format!("-o no_lru_maintainer {flags}");
        let process = Memcached::start(&program, &flags);
        let moved = Arc::default();
        let kind = Kind::Memcached { release, moved };
        Target {
            server: server_at(process.address, kind),
            _ends_with_it: Process::Memcached(process),
        }
    });
    check_none(&failures);
}

#[test]
fn every_verb_is_in_a_conversation() {
    let mut verbs: BTreeSet<&str> = VERBS.into_iter().collect();
    for (name, text) in ALL {
        for section in conversation(name, text).sections {
            for step in section.steps {
                verbs.retain(|verb| match &step.action {
                    Action::Send(text) => !begins_with(text, verb),
                    Action::TimePasses(_) => *verb != "debugtime",
                    _ => true,
                });
            }
        }
    }
    assert!(verbs.is_empty(), "no conversation shows {verbs:?}");
}

/// Whether the verb is the first word of the text.
fn begins_with(text: &[Piece], verb: &str) -> bool {
    let bytes = text.iter().map_while(|piece| match piece {
        Piece::Bytes(bytes) => Some(&bytes[..]),
        _ => None,
    });
    let sent = bytes.collect::<Vec<_>>().concat();
    let rest = sent.strip_prefix(verb.as_bytes());
    rest.is_some_and(|rest| rest.starts_with(b" ") || rest.starts_with(b"\r\n"))
}

fn conversation<'t>(name: &str, text: &'t str) -> Conversation<'t> {
    let parsed = Conversation::parse(text);
    parsed.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Plays every file, or those that `CONVERSATION` chooses, all at the same time. `server` starts a server with the flags
/// of a file. Returns the failures.
fn play_all(server: impl Fn(&str) -> Target + Sync) -> Vec<String> {
    let chosen = std::env::var("CONVERSATION").unwrap_or_default();
    let files = ALL.iter().filter(|(name, _)| name.contains(&chosen));
    let files: Vec<&(&str, &str)> = files.collect();
    assert!(!files.is_empty(), "no file has {chosen:?} in its name");
    let mut failures = Vec::new();
    let mut not_played = NotPlayed::default();
    std::thread::scope(|scope| {
        let players: Vec<_> = (files.iter())
            .map(|(file, text)| {
                // The message of a panic has the name of the thread.
                let player = std::thread::Builder::new().name((*file).into());
                let player = player.spawn_scoped(scope, || play(file, text, &server));
                (file, player.expect("a thread starts"))
            })
            .collect();
        for (file, player) in players {
            let Ok(outcome) = player.join() else {
                failures.push(format!("{file} panicked: see above"));
                continue;
            };
            println!("{file}: {} sections played", outcome.played);
            failures.extend(outcome.failures);
            for why in outcome.passed_over {
                not_played.add(why, file);
            }
        }
    });
    not_played.print();
    failures
}

#[track_caller]
fn check_none(failures: &[String]) {
    assert!(failures.is_empty(), "\n\n{}\n", failures.join("\n\n"));
}

/// What happened to the sections of one file.
#[derive(Default)]
struct Outcome {
    played: usize,
    failures: Vec<String>,
    /// The reason for each section that was passed over.
    passed_over: Vec<String>,
}

fn play(file: &str, text: &str, target: impl Fn(&str) -> Target) -> Outcome {
    let conversation = conversation(file, text);
    let mut outcome = Outcome::default();
    let Target { server, .. } = &target(conversation.flags);
    for section in &conversation.sections {
        if let Some(why) = server.passes_over(section) {
            outcome.passed_over.push(why);
            continue;
        }
        outcome.played += 1;
        if let Err((line, difference)) = server.play(section) {
            let title = section.title;
            let failure = format!("{file}, line {line}: {title}\n  {difference}");
            outcome.failures.push(failure);
        }
    }
    outcome
}

/// The sections that were passed over: for each reason their number, and the numbers of their files.
#[derive(Default)]
struct NotPlayed(BTreeMap<String, (usize, BTreeSet<String>)>);

impl NotPlayed {
    fn add(&mut self, why: String, file: &str) {
        let number = file.split('-').next().unwrap_or(file);
        let (sections, files) = self.0.entry(why).or_default();
        *sections += 1;
        files.insert(number.to_owned());
    }

    /// Prints one line for each reason.
    fn print(self) {
        for (why, (sections, files)) in self.0 {
            let files: Vec<String> = files.into_iter().collect();
            let files = files.join(", ");
            passed_over(&format!("sections {why}: {sections}, in the files {files}"));
        }
    }
}

/// The server that plays its part in a file. It ends when this is dropped.
struct Target {
    server: Server,
    _ends_with_it: Process,
}

enum Process {
    Rustmemc(#[allow(dead_code, reason = "it is only dropped")] TestServer),
    Memcached(#[allow(dead_code, reason = "it is only dropped")] Memcached),
}

fn server_at(address: SocketAddr, kind: Kind) -> Server {
    Server {
        address: Address::Tcp(address),
        kind,
        patience: TIMEOUT,
    }
}
