//! Plays `tests/conversations/*.txt`: a file is prose with literal exchanges, and every exchange must
//! happen just so. The files are the tutorial of the protocol, and this is how we know that they are true:
//!
//! - `make test` holds rustmemc to them;
//! - `make conversations TARGET=host:port` holds any other server to them. The real memcached must pass
//!   every section that is not marked `(ours alone)`.
//!
//! Every file in the folder is played, and every verb must be shown in one of them. `CONVERSATION=expiry` plays only the
//! files that have this in their name.
//!
//! The form of a file (what is none of these is prose):
//!
//! | line            | meaning                                                                          |
//! |-----------------|----------------------------------------------------------------------------------|
//! | `server: -M`    | (before the first section) the server runs with these flags                      |
//! | `## A sentence` | a section: new connections, and a `flush_all` before it                          |
//! | `> text`        | the client sends the text and `\r\n`                                             |
//! | `>- text`       | … the text alone                                                                 |
//! | `< text`        | the server answers the text and `\r\n`                                           |
//! | `<closed`       | the server closes the connection, without another byte                           |
//! | `<...until END` | lines up to `END` are passed over                                                |
//! | `<...has text`  | the lines up to `END` have this one among them (several such lines: one answer)  |
//! | `anna> text`    | the same with a connection of that name; so for all of the above                 |
//! | `@ +10`         | ten seconds pass (`debugtime`)                                                   |
//!
//! In a text, `\r \n \t \0 \\ \xHH` are bytes and `\s` is a space; `{250*k}` is 250 times `k`; `{=a}` is a
//! number that is remembered as `a` when it is seen first, and the same number later, also when sent;
//! `{>a}` is a number above it, `{#}` any number, `{*}` anything up to the line's end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use common::{Client, TestServer, shortened};
use rustmemc::internals::VERBS;

#[test]
fn what_the_conversations_tell_is_what_happens() {
    let chosen = std::env::var("CONVERSATION").unwrap_or_default();
    let files: Vec<PathBuf> = (files().into_iter())
        .filter(|path| name(path).contains(&chosen))
        .collect();
    assert!(!files.is_empty(), "no file is named like {chosen:?}");
    // Each of our own servers is for one file; another server is one for all files.
    let at_once = if target().is_empty() { files.len() } else { 1 };
    let mut failed = Vec::new();
    for files in files.chunks(at_once) {
        std::thread::scope(|scope| {
            let playing: Vec<_> = (files.iter())
                .map(|path| {
                    let player = std::thread::Builder::new().name(name(path));
                    let player = player.spawn_scoped(scope, || play(path));
                    (name(path), player.expect("a thread starts"))
                })
                .collect();
            for (file, player) in playing {
                // If it panics, the message of the panic has the name of the thread.
                let outcome = player
                    .join()
                    .unwrap_or(Err("it panicked: see above".into()));
                match outcome {
                    Ok(()) => println!("{file}: ok"),
                    Err(failures) => failed.push(format!("{file}: FAILED\n{failures}")),
                }
            }
        });
    }
    assert!(failed.is_empty(), "\n\n{}\n", failed.join("\n\n"));
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

/// Whether this is the first word that is sent.
fn begins_with(text: &[Piece], verb: &str) -> bool {
    let bytes = text.iter().map_while(|piece| match piece {
        Piece::Bytes(bytes) => Some(&bytes[..]),
        _ => None,
    });
    let sent = bytes.collect::<Vec<_>>().concat();
    let rest = sent.strip_prefix(verb.as_bytes());
    rest.is_some_and(|rest| rest.starts_with(b" ") || rest.starts_with(b"\r\n"))
}

/// The files in the folder, in the order of their names.
fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations");
    let entries = folder.read_dir().expect("the conversations are there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
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

/// The other server that is held to the conversations; empty: it is one of our own.
fn target() -> String {
    std::env::var("TARGET").unwrap_or_default()
}

/// Plays one file against a server of our own, or against the one that `TARGET` names.
///
/// # Errors
/// The sections that failed, one behind the other.
fn play(path: &Path) -> Result<(), String> {
    let file = name(path);
    let conversation = conversation(path);
    let target = Target::for_flags(&conversation.flags);
    let Some(target) = target else {
        println!(
            "{file}: skipped, it needs a server that runs with {} (say so with OPTIONS)",
            conversation.flags
        );
        return Ok(());
    };
    let mut failures = Vec::new();
    for section in &conversation.sections {
        if let Some(why) = target.passes_over(section) {
            println!("{file}: skipped ({why}): {}", section.title);
        } else if let Err(failure) = section.play(&target) {
            failures.push(format!(
                "{file}, line {}: {}\n  {}",
                failure.line, section.title, failure.what
            ));
        }
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(failures.join("\n")),
    }
}

/// The seconds by which another server's clock was moved, by all files together.
static MOVED: AtomicI64 = AtomicI64::new(0);

/// The server that is talked to.
enum Target {
    Ours(TestServer),
    Other {
        address: SocketAddr,
        version: (u32, u32, u32),
    },
}

impl Target {
    /// `None` when the other server does not run with these flags.
    fn for_flags(flags: &str) -> Option<Self> {
        let other = target();
        if other.is_empty() {
            return Some(Target::Ours(common::server(&format!("--debug {flags}"))));
        }
        let options = std::env::var("OPTIONS").unwrap_or_default();
        if options.split_whitespace().collect::<Vec<_>>()
            != flags.split_whitespace().collect::<Vec<_>>()
        {
            return None;
        }
        let address = other
            .to_socket_addrs()
            .expect("TARGET is host:port")
            .next()
            .expect("TARGET has an address");
        let answer = Client::connect(address).send("version\r\n").line();
        let mut numbers = answer
            .trim_start_matches("VERSION ")
            .split('.')
            .map(|part| part.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Some(Target::Other {
            address,
            version: (next(), next(), next()),
        })
    }

    fn connect(&self) -> Client {
        match self {
            Target::Ours(server) => server.client(),
            Target::Other { address, .. } => Client::connect(*address),
        }
    }

    /// Why a section is not for this server.
    fn passes_over(&self, section: &Section) -> Option<String> {
        let Target::Other { version, .. } = self else {
            return None;
        };
        let moves_time = section
            .steps
            .iter()
            .any(|(_, step)| matches!(step, Step::TimePasses(_)));
        if section.ours_alone {
            Some("ours alone".into())
        } else if section.since > *version {
            Some(format!("since 1.6.{}", section.since.2))
        } else if moves_time && self.connect().send("debugtime r\r\n").line() != "OK" {
            Some("the server has no debugtime".into())
        } else {
            None
        }
    }

    fn let_time_pass(&self, seconds: u32) {
        let mut control = self.connect();
        match self {
            Target::Ours(_) => {
                control.check(format!("debugtime {seconds}\r\n"), "OK\r\n");
            }
            Target::Other { .. } => {
                // memcached adds all it was ever moved to its clock, once too often, and comes right only
                // with its next tick. Two moves in one write undo that, so that nothing expires too early.
                let before = MOVED.fetch_add(seconds.into(), Relaxed);
                let (back, forth) = (-2 * before, 2 * before + i64::from(seconds));
                control.check(
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
    ours_alone: bool,
    since: (u32, u32, u32),
    /// Each with the number of its line.
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
    /// All of these are among the lines up to END.
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
            ours_alone: title.ends_with("(ours alone)"),
            since: if since == "0" {
                (0, 0, 0)
            } else {
                (1, 6, since.parse().expect("a release"))
            },
            steps: Vec::new(),
        }
    }

    fn add(&mut self, number: usize, step: Step) {
        // Several `<...has` in a row look at one answer.
        if let (Step::Has { lines: new, .. }, Some((_, Step::Has { lines, .. }))) =
            (&step, self.steps.last_mut())
        {
            lines.extend(new.iter().cloned());
        } else {
            self.steps.push((number, step));
        }
    }

    fn play(&self, target: &Target) -> Result<(), Failure> {
        // A server that refuses to flush says so, and that is as well.
        target.connect().send("flush_all\r\n").line();
        let mut scene = Scene {
            target,
            clients: HashMap::new(),
            remembered: HashMap::new(),
        };
        for (line, step) in &self.steps {
            scene
                .play(step)
                .map_err(|what| Failure { line: *line, what })?;
        }
        let last = self.steps.last().map_or(0, |(line, _)| *line);
        for (name, client) in scene.clients {
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
        Ok(Some(if let Some(rest) = rest.strip_prefix(">-") {
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

/// A section while it is played.
struct Scene<'t> {
    target: &'t Target,
    clients: HashMap<String, Client>,
    remembered: HashMap<String, u64>,
}

impl Scene<'_> {
    fn client(&mut self, name: &str) -> &mut Client {
        self.clients
            .entry(name.to_owned())
            .or_insert_with(|| self.target.connect())
    }

    fn play(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Send { client, text } => {
                let bytes: Vec<u8> = text.iter().flat_map(|piece| self.spelled(piece)).collect();
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
                    Err(format!("before the end came \"{}\"", shortened(&rest)))
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

    /// Reads as much as the expected text is long, or as many lines as it has where its length is open.
    fn answer(&mut self, client: &str, text: &[Piece]) -> Result<(), String> {
        let literal: Option<Vec<u8>> = text
            .iter()
            .map(|piece| {
                if let Piece::Bytes(bytes) = piece {
                    Some(bytes.clone())
                } else {
                    None
                }
            })
            .collect::<Option<Vec<_>>>()
            .map(|parts| parts.concat());
        let got = match &literal {
            Some(bytes) => self.read(client, bytes.len()),
            None => self.line(client),
        };
        if self.matches(text, &got) {
            return Ok(());
        }
        let expected = literal.map_or(format!("{text:?}"), |bytes| {
            format!("\"{}\"", shortened(&bytes))
        });
        Err(format!(
            "expected {expected}\n  but got  \"{}\"",
            shortened(&got)
        ))
    }

    /// At most so many bytes: fewer if the server closes, or answers with an error instead.
    fn read(&mut self, client: &str, length: usize) -> Vec<u8> {
        let mut stream = &self.client(client).stream;
        let mut got = Vec::new();
        while got.len() < length {
            let mut room = vec![0; (length - got.len()).min(1 << 16)];
            match stream.read(&mut room) {
                Ok(n) if n > 0 => got.extend_from_slice(&room[..n]),
                _ => break,
            }
            // What is shorter than expected would be waited for until the patience ends.
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

    fn line(&mut self, client: &str) -> Vec<u8> {
        (self.client(client).line() + "\r\n").into_bytes()
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

    /// What a piece is when it is sent.
    fn spelled(&self, piece: &Piece) -> Vec<u8> {
        match piece {
            Piece::Bytes(bytes) => bytes.clone(),
            Piece::Remembered(name) => self.remembered[name].to_string().into_bytes(),
            other => panic!("{other:?} cannot be sent"),
        }
    }

    /// Whether the bytes are what the pieces say, from the first byte to the last.
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

/// The pieces of a text and its end.
fn pieces(text: &str, end: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let special = match next {
            '{' => rest
                .split_once('}')
                .and_then(|(inside, behind)| Some((wildcard(&inside[1..])?, behind))),
            '\\' => Some(escape(rest)?),
            _ => None,
        };
        let (piece, behind) = special.unwrap_or_else(|| {
            let (first, behind) = rest.split_at(next.len_utf8());
            (Piece::Bytes(first.into()), behind)
        });
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(Piece::Bytes(end.into()));
    Ok(pieces)
}

/// What stands between braces; `None` if that is no form of ours, and so stands for itself.
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
    let bad = || format!("no such escape: {text:?}");
    let (escape, mut behind) = text.split_at_checked(2).ok_or_else(bad)?;
    let byte = match escape {
        r"\r" => b'\r',
        r"\n" => b'\n',
        r"\t" => b'\t',
        r"\0" => 0,
        r"\s" => b' ',
        r"\\" => b'\\',
        r"\x" => {
            let (digits, rest) = behind.split_at_checked(2).ok_or_else(bad)?;
            behind = rest;
            u8::from_str_radix(digits, 16).map_err(|_| bad())?
        }
        _ => return Err(bad()),
    };
    Ok((Piece::Bytes(vec![byte]), behind))
}
