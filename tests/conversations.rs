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
//! The format of a file. A line of any other form is prose.
//!
//! | line            | meaning                                                                            |
//! |-----------------|------------------------------------------------------------------------------------|
//! | `server: -M`    | (before the first section) the server runs with these flags                        |
//! | `## A sentence` | a section begins: the player sends `flush_all` and opens new connections           |
//! | `> text`        | the client sends the text and `\r\n`                                               |
//! | `>- text`       | the client sends only the text                                                     |
//! | `< text`        | the server answers the text and `\r\n`                                             |
//! | `>x 80 key:61`  | the client sends these bytes (binary protocol)                                     |
//! | `<x 81 "text"`  | the server answers these bytes (binary protocol)                                   |
//! | `<- text`       | the server answers the text and `\n` alone                                         |
//! | `<closed`       | the server closes the connection, and sends nothing before that                    |
//! | `<...until END` | the server sends lines up to `END`, with any content                               |
//! | `<...has text`  | one of the lines up to `END` is this one (several such lines are about one answer) |
//! | `anna> text`    | `anna` names a connection; every line above can have such a name                   |
//! | `@ +10`         | ten seconds pass (`debugtime`)                                                     |
//!
//! The sentence of a section can end in a mark. `(ours alone)`: only rustmemc does this. `(since 1.6.40)`: an older
//! memcached answers something else.
//!
//! In a text, `\r \n \t \0 \\ \xHH` are bytes and `\s` is a space; `{250*k}` is 250 times `k`. `{=a}` is a number. The
//! player remembers the first one as `a`, and from then on `{=a}` is this number, also in a text that is sent. `{>a}`
//! is a greater number, `{#}` is any number, and `{*}` is anything up to the end of the line.
//!
//! In a line of bytes, a word is hexadecimal, or a text in quotation marks. A name before a colon explains the word.
//! `{=a}` is a number of 8 bytes. The player remembers it too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;
#[path = "common/target.rs"]
mod target;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use common::memcached::{Memcached, Release};
use common::process::passed_over;
use common::system::free_port;
use common::{Client, TestServer, shortened};
use rustmemc::internals::VERBS;

#[test]
fn the_server_answers_what_the_conversations_show() {
    let named = target();
    if named.is_empty() {
        let failures = play_all(AtOnce::AllFiles, |flags| {
            let server = common::server(&format!("--debug {flags}"));
            Ok(Target::Rustmemc(server))
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
            Target::at(address, release, flags, &moved)
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
        Ok(Target::Other {
            address: process.address,
            release,
            moved: Arc::default(),
            _process: Some(process),
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
    for path in files() {
        for section in conversation(&path).sections {
            for (_, step) in section.steps {
                verbs.retain(|verb| match &step {
                    Step::Send { text, .. } => !begins_with(text, verb),
                    Step::TimePasses(_) => *verb != "debugtime",
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

/// The files in the folder, sorted by name.
fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations");
    let entries = folder.read_dir().expect("the folder exists");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    // `users` is for the conversation about the login.
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files
}

fn name(path: &Path) -> String {
    let name = path.file_name().expect("it is a file");
    name.to_string_lossy().into_owned()
}

fn conversation(path: &Path) -> Conversation {
    let text = std::fs::read_to_string(path).expect("the file can be read");
    let parsed = Conversation::parse(&text);
    parsed.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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
    let files: Vec<PathBuf> = (files().into_iter())
        .filter(|path| name(path).contains(&chosen))
        .collect();
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
                .map(|path| {
                    // The message of a panic has the name of the thread.
                    let player = std::thread::Builder::new().name(name(path));
                    let player = player.spawn_scoped(scope, || play(path, &server));
                    (name(path), player.expect("a thread starts"))
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
                    not_played.add(why, &file);
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

fn play(path: &Path, server: impl Fn(&str) -> Result<Target, String>) -> Outcome {
    let file = name(path);
    let conversation = conversation(path);
    let mut outcome = Outcome::default();
    let target = match server(&conversation.flags) {
        Ok(target) => target,
        Err(why) => {
            outcome.passed_over = vec![why; conversation.sections.len()];
            return outcome;
        }
    };
    for section in &conversation.sections {
        if let Some(why) = target.passes_over(section) {
            outcome.passed_over.push(why);
            continue;
        }
        outcome.played += 1;
        if let Err(Failure { line, what }) = section.play(&target) {
            let title = &section.title;
            let failure = format!("{file}, line {line}: {title}\n  {what}");
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

/// The server that plays its part in a file.
enum Target {
    /// A rustmemc in this process.
    Rustmemc(TestServer),
    /// memcached, or the server that `TARGET` names.
    Other {
        address: SocketAddr,
        release: Release,
        /// The seconds by which its clock was moved.
        moved: Arc<AtomicI64>,
        /// The process ends when this is dropped. `None`: the test did not start it.
        _process: Option<Memcached>,
    },
}

impl Target {
    /// The server that `TARGET` names.
    ///
    /// # Errors
    /// It runs with other flags than the file needs. `OPTIONS` names its flags, because it cannot be asked.
    fn at(
        address: SocketAddr,
        release: Release,
        flags: &str,
        moved: &Arc<AtomicI64>,
    ) -> Result<Self, String> {
        let options = std::env::var("OPTIONS").unwrap_or_default();
        if !options.split_whitespace().eq(flags.split_whitespace()) {
            return Err(format!("for a server with OPTIONS={flags:?}"));
        }
        Ok(Target::Other {
            address,
            release,
            moved: Arc::clone(moved),
            _process: None,
        })
    }

    fn connect(&self) -> Client {
        match self {
            Target::Rustmemc(server) => server.client(),
            Target::Other { address, .. } => Client::connect(*address),
        }
    }

    /// The reason why this server cannot play a section; `None` if it can.
    fn passes_over(&self, section: &Section) -> Option<String> {
        let Target::Other { release, .. } = self else {
            return None;
        };
        let moves_clock = section
            .steps
            .iter()
            .any(|(_, step)| matches!(step, Step::TimePasses(_)));
        if section.is_ours_alone {
            Some("marked (ours alone)".into())
        } else if section.since > *release {
            let (major, minor, patch) = release;
            Some(format!("newer than memcached {major}.{minor}.{patch}"))
        } else if moves_clock && self.connect().send("debugtime r\r\n").line() != "OK" {
            Some("in need of debugtime, which memcached has only in its debug build".into())
        } else {
            None
        }
    }

    fn let_time_pass(&self, seconds: u32) {
        let mut client = self.connect();
        match self {
            Target::Rustmemc(_) => {
                client.check(format!("debugtime {seconds}\r\n"), "OK\r\n");
            }
            Target::Other { moved, .. } => {
                // At each move memcached adds the sum of all moves to its clock, which is too much after the first
                // move. Its next tick, after at most a second, corrects that. Two moves in one write have the right
                // result at once, so that nothing expires too early.
                let before = moved.fetch_add(seconds.into(), Relaxed);
                let (back, forth) = (-2 * before, 2 * before + i64::from(seconds));
                client.check(
                    format!("debugtime {back}\r\ndebugtime {forth}\r\n"),
                    "OK\r\nOK\r\n",
                );
                std::thread::sleep(Duration::from_millis(1200));
            }
        }
    }
}

struct Conversation {
    flags: String,
    sections: Vec<Section>,
}

struct Section {
    title: String,
    is_ours_alone: bool,
    since: Release,
    /// Each step with the number of its line.
    steps: Vec<(usize, Step)>,
}

enum Step {
    Send {
        client: String,
        text: Vec<Piece>,
    },
    Answer {
        client: String,
        text: Vec<Piece>,
    },
    Closed {
        client: String,
    },
    UntilEnd {
        client: String,
    },
    /// Each of these is one of the lines up to END.
    Has {
        client: String,
        lines: Vec<Vec<Piece>>,
    },
    TimePasses(u32),
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Bytes(Vec<u8>),
    Remembered(String),
    Above(String),
    Number,
    Anything,
    /// A number of eight bytes.
    Remembered8(String),
}

struct Failure {
    line: usize,
    what: String,
}

impl Conversation {
    fn parse(text: &str) -> Result<Self, String> {
        let mut conversation = Conversation {
            flags: String::new(),
            sections: Vec::new(),
        };
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if let Some(flags) = line.strip_prefix("server: ") {
                conversation.flags = flags.trim().to_owned();
            } else if let Some(title) = line.strip_prefix("## ") {
                conversation.sections.push(Section::new(title));
            } else if let Some(step) =
                Step::parse(line).map_err(|error| format!("line {number}: {error}"))?
            {
                let section = conversation.sections.last_mut();
                section
                    .ok_or(format!(
                        "line {number}: an exchange before the first section"
                    ))?
                    .add(number, step);
            }
        }
        Ok(conversation)
    }
}

impl Section {
    fn new(title: &str) -> Self {
        let since = title
            .split_once("(since 1.6.")
            .map_or("0", |(_, rest)| rest.trim_end_matches(')'));
        Section {
            title: title.to_owned(),
            is_ours_alone: title.ends_with("(ours alone)"),
            since: if since == "0" {
                (0, 0, 0)
            } else {
                (1, 6, since.parse().expect("a release"))
            },
            steps: Vec::new(),
        }
    }

    fn add(&mut self, number: usize, step: Step) {
        // Several `<...has` in a row are about one answer.
        if let (Step::Has { lines: new, .. }, Some((_, Step::Has { lines, .. }))) =
            (&step, self.steps.last_mut())
        {
            lines.extend(new.iter().cloned());
        } else {
            self.steps.push((number, step));
        }
    }

    fn play(&self, target: &Target) -> Result<(), Failure> {
        // The answer is an error if the server runs with -F. Those sections do not need the flush.
        target.connect().send("flush_all\r\n").line();
        let mut player = Player {
            target,
            clients: HashMap::new(),
            remembered: HashMap::new(),
        };
        for (line, step) in &self.steps {
            player
                .play(step)
                .map_err(|what| Failure { line: *line, what })?;
        }
        let last = self.steps.last().map_or(0, |(line, _)| *line);
        for (name, client) in player.clients {
            let rest = client.finish();
            if !rest.is_empty() {
                let what = format!("the server sent more to {name:?}: \"{}\"", shortened(&rest));
                return Err(Failure { line: last, what });
            }
        }
        Ok(())
    }
}

impl Step {
    /// `None` for prose.
    fn parse(line: &str) -> Result<Option<Self>, String> {
        if let Some(seconds) = line.strip_prefix("@ +") {
            return Ok(Some(Step::TimePasses(
                seconds
                    .trim()
                    .parse()
                    .map_err(|_| "no seconds".to_owned())?,
            )));
        }
        let start = line
            .find(|c: char| !c.is_ascii_lowercase())
            .unwrap_or(line.len());
        let (client, rest) = line.split_at(start);
        let client = client.to_owned();
        let text = |text: &str, end: &str| pieces(text.strip_prefix(' ').unwrap_or(text), end);
        Ok(Some(if let Some(rest) = rest.strip_prefix(">x ") {
            Step::Send {
                client,
                text: hexadecimal(rest)?,
            }
        } else if let Some(rest) = rest.strip_prefix("<x ") {
            Step::Answer {
                client,
                text: hexadecimal(rest)?,
            }
        } else if let Some(rest) = rest.strip_prefix(">-") {
            Step::Send {
                client,
                text: text(rest, "")?,
            }
        } else if let Some(rest) = rest.strip_prefix('>') {
            Step::Send {
                client,
                text: text(rest, "\r\n")?,
            }
        } else if rest == "<closed" {
            Step::Closed { client }
        } else if rest == "<...until END" {
            Step::UntilEnd { client }
        } else if let Some(rest) = rest.strip_prefix("<...has ") {
            Step::Has {
                client,
                lines: vec![text(rest, "")?],
            }
        } else if let Some(rest) = rest.strip_prefix("<-") {
            Step::Answer {
                client,
                text: text(rest, "\n")?,
            }
        } else if let Some(rest) = rest.strip_prefix('<') {
            Step::Answer {
                client,
                text: text(rest, "\r\n")?,
            }
        } else {
            return Ok(None);
        }))
    }
}

/// Plays the steps of one section.
struct Player<'t> {
    target: &'t Target,
    clients: HashMap<String, Client>,
    remembered: HashMap<String, u64>,
}

impl Player<'_> {
    fn client(&mut self, name: &str) -> &mut Client {
        self.clients
            .entry(name.to_owned())
            .or_insert_with(|| self.target.connect())
    }

    fn play(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Send { client, text } => {
                let bytes: Vec<u8> = text
                    .iter()
                    .flat_map(|piece| self.bytes_to_send(piece))
                    .collect();
                self.client(client).send(bytes);
                Ok(())
            }
            Step::Answer { client, text } => self.answer(client, text),
            Step::Closed { client } => {
                let rest = self.client(client).rest();
                self.clients.remove(client);
                if rest.is_empty() {
                    Ok(())
                } else {
                    Err(format!(
                        "the server sent \"{}\" before it closed the connection",
                        shortened(&rest)
                    ))
                }
            }
            Step::UntilEnd { client } => self.lines_until_end(client).map(drop),
            Step::Has { client, lines } => {
                let answer = self.lines_until_end(client)?;
                for wanted in lines {
                    if !answer
                        .iter()
                        .any(|line| self.matches(wanted, line.as_bytes()))
                    {
                        return Err(format!("no line {wanted:?} in\n  {}", answer.join("\n  ")));
                    }
                }
                Ok(())
            }
            Step::TimePasses(seconds) => {
                self.target.let_time_pass(*seconds);
                Ok(())
            }
        }
    }

    /// Reads an answer and compares it with the expected text. If the length of the text is known, this reads as many
    /// bytes, otherwise one line.
    fn answer(&mut self, client: &str, text: &[Piece]) -> Result<(), String> {
        let length = text.iter().map(|piece| match piece {
            Piece::Bytes(bytes) => Some(bytes.len()),
            Piece::Remembered8(_) => Some(8),
            _ => None,
        });
        let got = match length.sum() {
            Some(bytes) => self.read(client, bytes),
            None if text.last() == Some(&Piece::Bytes(b"\n".into())) => {
                self.client(client).line_that_ends_in(b"\n")
            }
            None => self.client(client).line_that_ends_in(b"\r\n"),
        };
        if self.matches(text, &got) {
            return Ok(());
        }
        let literal = text.iter().map(|piece| match piece {
            Piece::Bytes(bytes) => Some(&bytes[..]),
            _ => None,
        });
        let literal: Option<Vec<&[u8]>> = literal.collect();
        let expected = literal.map_or(format!("{text:?}"), |bytes| {
            format!("\"{}\"", shortened(&bytes.concat()))
        });
        Err(format!(
            "expected {expected}\n  but got  \"{}\"",
            shortened(&got)
        ))
    }

    /// Reads `length` bytes, or fewer if the server closes the connection or answers with an error.
    fn read(&mut self, client: &str, length: usize) -> Vec<u8> {
        let mut stream = &self.client(client).stream;
        let mut got = Vec::new();
        while got.len() < length {
            let mut buffer = vec![0; (length - got.len()).min(1 << 16)];
            match stream.read(&mut buffer) {
                Ok(n) if n > 0 => got.extend_from_slice(&buffer[..n]),
                _ => break,
            }
            // An error line is often shorter than the expected text. To wait for more bytes would only end by a
            // timeout.
            if got.ends_with(b"\r\n")
                && [&b"ERROR"[..], b"CLIENT_", b"SERVER_"]
                    .iter()
                    .any(|e| got.starts_with(e))
            {
                break;
            }
        }
        got
    }

    fn lines_until_end(&mut self, client: &str) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        loop {
            let line = self.client(client).line();
            match line.as_str() {
                "END" => return Ok(lines),
                "ERROR" => return Err("the answer is ERROR".into()),
                _ => lines.push(line),
            }
        }
    }

    /// The bytes of a piece of a text that is sent.
    fn bytes_to_send(&self, piece: &Piece) -> Vec<u8> {
        match piece {
            Piece::Bytes(bytes) => bytes.clone(),
            Piece::Remembered(name) => self.remembered[name].to_string().into_bytes(),
            Piece::Remembered8(name) => self.remembered[name].to_be_bytes().into(),
            other => panic!("{other:?} cannot be sent"),
        }
    }

    /// Whether the pieces match all the bytes.
    fn matches(&mut self, pieces: &[Piece], bytes: &[u8]) -> bool {
        let Some((piece, rest)) = pieces.split_first() else {
            return bytes.is_empty();
        };
        let digits = bytes
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let number = str::from_utf8(&bytes[..digits])
            .ok()
            .and_then(|digits| digits.parse::<u64>().ok());
        match piece {
            Piece::Bytes(literal) => bytes
                .strip_prefix(&literal[..])
                .is_some_and(|bytes| self.matches(rest, bytes)),
            Piece::Remembered(name) => number.is_some_and(|number| {
                *self.remembered.entry(name.clone()).or_insert(number) == number
                    && self.matches(rest, &bytes[digits..])
            }),
            Piece::Remembered8(name) => bytes.split_first_chunk().is_some_and(|(number, bytes)| {
                let number = u64::from_be_bytes(*number);
                *self.remembered.entry(name.clone()).or_insert(number) == number
                    && self.matches(rest, bytes)
            }),
            Piece::Above(name) => {
                number.is_some_and(|number| number > self.remembered[name])
                    && self.matches(rest, &bytes[digits..])
            }
            Piece::Number => number.is_some() && self.matches(rest, &bytes[digits..]),
            Piece::Anything => {
                let line = bytes
                    .iter()
                    .position(|&byte| byte == b'\r')
                    .unwrap_or(bytes.len());
                (0..=line).any(|end| self.matches(rest, &bytes[end..]))
            }
        }
    }
}

/// Parses a text into pieces; `end` is the last one.
fn pieces(text: &str, end: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let special = match next {
            '{' => rest
                .split_once('}')
                .and_then(|(inside, after)| Some((wildcard(&inside[1..])?, after))),
            '\\' => Some(escape(rest)?),
            _ => None,
        };
        let (piece, after) = special.unwrap_or_else(|| {
            let (first, after) = rest.split_at(next.len_utf8());
            (Piece::Bytes(first.into()), after)
        });
        pieces.push(piece);
        rest = after;
    }
    pieces.push(Piece::Bytes(end.into()));
    Ok(pieces)
}

/// Parses the bytes of a binary request or answer.
fn hexadecimal(line: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    // Every second part is inside quotation marks.
    for (place, part) in line.split('"').enumerate() {
        if place % 2 == 1 {
            pieces.push(Piece::Bytes(part.into()));
            continue;
        }
        for word in part.split_whitespace() {
            let (_, word) = word.rsplit_once(':').unwrap_or(("", word));
            pieces.push(match word.strip_prefix("{=") {
                Some(name) => Piece::Remembered8(name.trim_end_matches('}').into()),
                None => {
                    let digits = (0..word.len()).step_by(2);
                    let bytes = digits.map(|at| {
                        let two = word
                            .get(at..at + 2)
                            .ok_or(format!("{word} has an odd digit"))?;
                        u8::from_str_radix(two, 16)
                            .map_err(|_| format!("{word} is not hexadecimal"))
                    });
                    Piece::Bytes(bytes.collect::<Result<_, String>>()?)
                }
            });
        }
    }
    Ok(pieces)
}

/// Parses what is between braces. `None`: it has no meaning here, so the braces are ordinary bytes.
fn wildcard(inside: &str) -> Option<Piece> {
    match inside {
        "#" => return Some(Piece::Number),
        "*" => return Some(Piece::Anything),
        _ => {}
    }
    if let Some(name) = inside.strip_prefix('=') {
        return Some(Piece::Remembered(name.to_owned()));
    }
    if let Some(name) = inside.strip_prefix('>') {
        return Some(Piece::Above(name.to_owned()));
    }
    let (count, what) = inside.split_once('*')?;
    Some(Piece::Bytes(what.repeat(count.parse().ok()?).into_bytes()))
}

fn escape(text: &str) -> Result<(Piece, &str), String> {
    let unknown = || format!("no such escape: {text:?}");
    let (escape, mut after) = text.split_at_checked(2).ok_or_else(unknown)?;
    let byte = match escape {
        r"\r" => b'\r',
        r"\n" => b'\n',
        r"\t" => b'\t',
        r"\0" => 0,
        r"\s" => b' ',
        r"\\" => b'\\',
        r"\x" => {
            let (digits, rest) = after.split_at_checked(2).ok_or_else(unknown)?;
            after = rest;
            u8::from_str_radix(digits, 16).map_err(|_| unknown())?
        }
        _ => return Err(unknown()),
    };
    Ok((Piece::Bytes(vec![byte]), after))
}
