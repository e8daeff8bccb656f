//! Plays `tests/conversations/*.txt`. Each file is prose with exchanges between clients and the server, and the server
//! must answer exactly what the file shows. The files are the tutorial of the protocol, and this test keeps them true:
//!
//! - `make test` plays them against rustmemc, and against memcached if it is installed;
//! - `make conversations TARGET=host:port` plays them against the server at this address, and empties it. If it holds
//!   items, that needs `EMPTY=yes`.
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
#[path = "common/target.rs"]
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use common::memcached::{Memcached, Release};
use common::process::passed_over;
use common::system::free_port;
use common::{Client, TIMEOUT, TestServer};
use rustmemc::Address;
use rustmemc::conversations::ALL;
use rustmemc::conversations::format::{Action, Conversation, Piece};
use rustmemc::conversations::player::{Kind, Server};
use rustmemc::internals::VERBS;

#[test]
fn the_server_answers_what_the_conversations_show() {
    let named = target();
    if named.is_empty() {
        let failures = play_all(AtOnce::AllFiles, |flags| {
            let server = common::server(&format!("--debug {flags}"));
            Ok(Target {
                server: server_at(server.address, Kind::Rustmemc),
                _ends_with_it: Some(Process::Rustmemc(server)),
            })
        });
        check_none(&failures);
    } else {
        let may_empty = std::env::var("EMPTY").is_ok_and(|word| word == "yes");
        print_line(&format!(
            "The conversations empty the server that they are played against: {named}"
        ));
        let (address, version) = target::examine(&named, may_empty).unwrap_or_else(|why| {
            print_line(&why);
            // The exit code of a test program that fails. A panic would print more than this sentence.
            std::process::exit(101);
        });
        let release = release(&version);
        // All files share this server and its clock.
        let moved = Arc::default();
        let failures = play_all(AtOnce::OneFile, |flags| {
            target_at(address, release, flags, &moved)
        });
        target::empty(address);
        check_none(&failures);
    }
}

#[test]
fn memcached_answers_what_the_conversations_show() {
    if !target().is_empty() {
        return;
    }
    let Some((program, release)) = Memcached::find_any() else {
        return;
    };
    let failures = play_all(AtOnce::AllFiles, |flags| {
        // This thread of memcached removes expired items, and keeps those that are read, a moment later. Without it,
        // its answers do not depend on that moment.
        let flags = format!("-o no_lru_maintainer {flags}");
        let process = Memcached::start(&program, &flags);
        let moved = Arc::default();
        let kind = Kind::Memcached { release, moved };
        Ok(Target {
            server: server_at(process.address, kind),
            _ends_with_it: Some(Process::Memcached(process)),
        })
    });
    check_none(&failures);
}

#[test]
fn a_target_that_is_not_host_and_port_is_refused_with_one_sentence() {
    for named in [
        "localhost",
        "127.0.0.1:",
        ":11211",
        "::1",
        "a:b",
        "h:0",
        "h:65536",
    ] {
        let why = target::examine(named, true).expect_err(named);
        let expected = format!("TARGET={named} is not host:port, such as 127.0.0.1:11211.");
        assert_eq!(why, expected);
    }
    // A name with two dots in a row is invalid, so no name server is asked.
    let why = target::examine("nonsense..here:11211", true).expect_err("no host");
    let expected = "The host of TARGET=nonsense..here:11211 is not known: ";
    assert!(why.starts_with(expected), "{why}");
}

#[test]
fn a_target_that_is_no_memcached_is_refused_with_one_sentence() {
    let named = format!("127.0.0.1:{}", free_port().expect("a port is free"));
    let why = target::examine(&named, true).expect_err("nobody listens");
    let expected = format!("No server answers at TARGET={named}: ");
    assert!(why.starts_with(&expected), "{why}");

    for (answer, why) in [
        ("", "does not answer: it closes the connection."),
        (
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            r#"is not a memcached: it answers "HTTP/1.1 400 Bad Request" to "version"."#,
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let named = listener.local_addr().expect("it has one").to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client comes");
            let request = stream.read(&mut [0; 100]).expect("it asks");
            assert_eq!(request, b"version\r\n".len());
            stream.write_all(answer.as_bytes()).expect("it reads");
        });
        let found = target::examine(&named, true);
        server.join().expect("the server was asked");
        assert_eq!(found, Err(format!("The server at TARGET={named} {why}")));
    }
}

#[test]
fn a_target_with_items_is_refused_until_the_user_lets_it_be_emptied() {
    let check = |address: SocketAddr| {
        let named = address.to_string();
        let is_empty = || target::examine(&named, false);
        let mut client = Client::connect(address);
        assert_eq!(is_empty().map(|found| found.0), Ok(address));
        client.check(
            "set a 0 0 1\r\nx\r\nset b 0 0 1\r\nx\r\n",
            "STORED\r\nSTORED\r\n",
        );
        let why = is_empty().expect_err("it has items");
        assert!(
            why.contains(&named) && why.contains("all its items (2)"),
            "{why}"
        );
        assert!(why.contains("EMPTY=yes"), "{why}");
        assert!(target::examine(&named, true).is_ok());
        client.check("get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n");
        target::empty(address);
        assert_eq!(is_empty().map(|found| found.0), Ok(address));
    };
    check(common::server("").address);
    if let Some(program) = Memcached::find((1, 6, 0)) {
        check(Memcached::start(&program, "").address);
    }
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

/// The address of the server to test. If it is empty, each test starts its own servers.
fn target() -> String {
    std::env::var("TARGET").unwrap_or_default()
}

/// How many files are played at the same time: one if they share a server, all if each has its own.
enum AtOnce {
    OneFile,
    AllFiles,
}

/// Plays every file, or those that `CONVERSATION` chooses. `server` returns a server with the flags of a file, or the
/// reason why there is none. Returns the failures.
fn play_all(
    at_once: AtOnce,
    server: impl Fn(&str) -> Result<Target, String> + Sync,
) -> Vec<String> {
    let chosen = std::env::var("CONVERSATION").unwrap_or_default();
    let files = ALL.iter().filter(|(name, _)| name.contains(&chosen));
    let files: Vec<&(&str, &str)> = files.collect();
    assert!(!files.is_empty(), "no file has {chosen:?} in its name");
    let at_once = match at_once {
        AtOnce::OneFile => 1,
        AtOnce::AllFiles => files.len(),
    };
    let mut failures = Vec::new();
    let mut not_played = NotPlayed::default();
    for files in files.chunks(at_once) {
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
    }
    not_played.print();
    failures
}

#[track_caller]
fn check_none(failures: &[String]) {
    assert!(failures.is_empty(), "\n\n{}\n", failures.join("\n\n"));
}

/// Prints a line that the test harness does not hide.
fn print_line(line: &str) {
    let written = writeln!(std::io::stderr(), "{line}");
    written.expect("the line can be written");
}

/// The numbers in the answer to `version`.
fn release(version: &str) -> Release {
    let mut numbers = version
        .trim_start_matches("VERSION ")
        .split('.')
        .map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

/// What happened to the sections of one file.
#[derive(Default)]
struct Outcome {
    played: usize,
    failures: Vec<String>,
    /// The reason for each section that was passed over.
    passed_over: Vec<String>,
}

fn play(file: &str, text: &str, target: impl Fn(&str) -> Result<Target, String>) -> Outcome {
    let conversation = conversation(file, text);
    let mut outcome = Outcome::default();
    let Target { server, .. } = &match target(conversation.flags) {
        Ok(target) => target,
        Err(why) => {
            outcome.passed_over = vec![why; conversation.sections.len()];
            return outcome;
        }
    };
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

/// The server that plays its part in a file. It ends when this is dropped, if the test has started it.
struct Target {
    server: Server,
    _ends_with_it: Option<Process>,
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

/// The server that `TARGET` names.
///
/// # Errors
/// It runs with other flags than the file needs. `OPTIONS` names its flags, because it cannot be asked.
fn target_at(
    address: SocketAddr,
    release: Release,
    flags: &str,
    moved: &Arc<AtomicI64>,
) -> Result<Target, String> {
    let options = std::env::var("OPTIONS").unwrap_or_default();
    if !options.split_whitespace().eq(flags.split_whitespace()) {
        return Err(format!("for a server with OPTIONS={flags:?}"));
    }
    let moved = Arc::clone(moved);
    Ok(Target {
        server: server_at(address, Kind::Memcached { release, moved }),
        _ends_with_it: None,
    })
}
