//! Plays a conversation with a server: sends what the clients send, and compares what the server answers.
//!
//! The tests, `memc learn` and `memc check` use it. The server may be any: rustmemc, memcached, or one that somebody
//! writes and that has errors. So a wait is bounded, and everything that goes wrong is a [`Difference`].

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use super::format::{Action, Piece, Release, Section, Step, Text};
use crate::stream::{Address, Stream, is_timeout};

/// The most bytes that are read of one answer. No answer in the conversations is longer.
const LONGEST_ANSWER: usize = 16 << 20;

/// A server that is silent for this time has nothing more to send.
const MOMENT: Duration = Duration::from_millis(100);

/// How long memcached needs after its clock was moved, until its next tick.
const NEXT_TICK: Duration = Duration::from_millis(1200);

/// The release that a server without a release of memcached is compared with.
const NEWEST: Release = (u32::MAX, 0, 0);

/// A server that a conversation is played with.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where it listens.
    pub address: Address,
    /// What it is.
    pub kind: Kind,
    /// How long it may take for an answer.
    pub patience: Duration,
}

/// The kinds of servers.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A rustmemc.
    Rustmemc,
    /// Any other server.
    Memcached {
        /// The release of memcached that it says it is.
        release: Release,
        /// The seconds by which its clock was moved.
        moved: Arc<AtomicI64>,
    },
}

/// What the server did not do as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What the conversation shows.
    pub expected: String,
    /// What the server did.
    pub got: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}\n  but got  {}", self.expected, self.got)
    }
}

impl Server {
    /// Finds out what the server at an address is.
    ///
    /// # Errors
    /// What it does instead of answering as a memcached.
    pub fn identify(address: Address, patience: Duration) -> Result<Self, String> {
        let mut server = Server {
            address,
            kind: Kind::Rustmemc,
            patience,
        };
        let (command, answer) = server.first_answer().map_err(|why| {
            format!("does not answer: to `version` and to `get` it answers with {why}")
        })?;
        let others = [&b"HTTP/"[..], b"-ERR", b"SSH-"];
        if others.iter().any(|other| answer.starts_with(other)) {
            let answer = quoted(&answer);
            return Err(format!(
                "is not a memcached: it answers {answer} to `{command}`"
            ));
        }
        if server.stat("rustmemc_version").is_none() {
            server.kind = Kind::Memcached {
                release: release(&answer).unwrap_or(NEWEST),
                moved: Arc::default(),
            };
        }
        Ok(server)
    }

    /// The first question that the server answers at all, and its answer.
    ///
    /// # Errors
    /// What comes instead of an answer to the last question.
    pub fn first_answer(&self) -> io::Result<(&'static str, Vec<u8>)> {
        let ask = |command| match self.ask(format!("{command}\r\n").as_bytes()) {
            Ok(answer) => Ok((command, answer)),
            Err(error) => Err(error),
        };
        ask("version").or_else(|_| ask("get memc-check"))
    }

    /// A value of `stats`; `None` if the server does not have it.
    pub fn stat(&self, name: &str) -> Option<String> {
        let lines = self.list(b"stats\r\n").ok()?;
        let name = format!("STAT {name} ");
        let value = (lines.iter()).find_map(|line| line.strip_prefix(name.as_bytes()))?;
        Some(String::from_utf8_lossy(value.trim_ascii()).into_owned())
    }

    /// The reason why this server cannot play a section; `None` if it can.
    pub fn passes_over(&self, section: &Section<'_>) -> Option<String> {
        if let Kind::Memcached { release, .. } = &self.kind {
            if section.is_ours_alone {
                return Some("marked (ours alone)".into());
            }
            if section.since > *release {
                let (major, minor, patch) = release;
                return Some(format!("newer than memcached {major}.{minor}.{patch}"));
            }
        }
        let is_travel = |step: &Step<'_>| matches!(step.action, Action::TimePasses(_));
        if !section.steps.iter().any(is_travel) || self.has_debugtime() {
            return None;
        }
        Some(match self.kind {
            Kind::Rustmemc => "in need of debugtime, which a rustmemc has with --debug".into(),
            Kind::Memcached { .. } => {
                "in need of debugtime, which memcached has only in its debug build".into()
            }
        })
    }

    /// Plays a section. Another section may not be played at the same time, because it would flush the items.
    ///
    /// # Errors
    /// The number of the line at which the server did something else, and what that was.
    pub fn play(&self, section: &Section<'_>) -> Result<(), (usize, Difference)> {
        self.flush();
        self.play_unflushed(section)
    }

    /// Plays a section without removing the items first: for a server that has no `flush_all`.
    ///
    /// # Errors
    /// The number of the line at which the server did something else, and what that was.
    pub fn play_unflushed(&self, section: &Section<'_>) -> Result<(), (usize, Difference)> {
        let mut player = Player::new(self);
        for step in &section.steps {
            let played = player.play(step);
            played.map_err(|difference| (step.line, difference))?;
        }
        let is_exchange = |step: &&Step<'_>| !matches!(step.action, Action::Prose);
        let last = section.steps.iter().rfind(is_exchange);
        let last = last.map_or(0, |step| step.line);
        player.finish().map_err(|difference| (last, difference))
    }

    fn has_debugtime(&self) -> bool {
        let answer = self.ask(b"debugtime r\r\n");
        answer.is_ok_and(|line| line == b"OK\r\n")
    }

    /// Removes all items. Returns whether the server has done so: with `-F` it refuses.
    pub fn flush(&self) -> bool {
        self.ask(b"flush_all\r\n")
            .is_ok_and(|line| line == b"OK\r\n")
    }

    /// Sends lines on a connection of its own, and returns the first line of the answer. Its end may be missing.
    ///
    /// # Errors
    /// The server does not accept the connection, or answers nothing.
    pub fn ask(&self, lines: &[u8]) -> io::Result<Vec<u8>> {
        let stream = self.address.connect(self.patience)?;
        (&stream).write_all(lines)?;
        match read_until(&stream, b"\n") {
            (line, why) if line.is_empty() => Err(io::Error::other(why)),
            (line, _) => Ok(line),
        }
    }

    /// Sends a command on a connection of its own, and returns the lines of the answer up to END.
    ///
    /// # Errors
    /// The answer is an error, or has no END.
    pub fn list(&self, command: &[u8]) -> Result<Vec<Vec<u8>>, Difference> {
        let mut player = Player::new(self);
        player.send("", command)?;
        player.lines_until_end("")
    }

    fn let_time_pass(&self, seconds: u32) -> io::Result<()> {
        match &self.kind {
            Kind::Rustmemc => {
                self.ask(format!("debugtime {seconds}\r\n").as_bytes())?;
            }
            Kind::Memcached { moved, .. } => {
                // At each move memcached adds the sum of all moves to its clock, which is too much after the first
                // move. Its next tick, after at most a second, corrects that. Two moves in one write have the right
                // result at once, so that nothing expires too early.
                let before = moved.fetch_add(seconds.into(), Relaxed);
                let (back, forth) = (-2 * before, 2 * before + i64::from(seconds));
                self.ask(format!("debugtime {back}\r\ndebugtime {forth}\r\n").as_bytes())?;
                std::thread::sleep(NEXT_TICK);
            }
        }
        Ok(())
    }
}

/// Plays the steps of one section.
pub struct Player<'s> {
    server: &'s Server,
    streams: HashMap<String, Stream>,
    remembered: HashMap<String, u64>,
    /// The lines of the last answer up to END, while the next step may ask about it.
    listed: Option<Vec<Vec<u8>>>,
}

impl<'s> Player<'s> {
    /// A player that has no connection yet.
    #[must_use]
    pub fn new(server: &'s Server) -> Self {
        Player {
            server,
            streams: HashMap::new(),
            remembered: HashMap::new(),
            listed: None,
        }
    }

    /// Removes all items, as each section begins. The answer may be an error: with `-F` the server refuses, and the
    /// conversations about `-F` do not need it.
    pub fn flush(&self) {
        self.server.flush();
    }

    /// Plays a step. Returns what the server has sent, or what was sent to it.
    ///
    /// # Errors
    /// The server has not done what the step shows.
    pub fn play(&mut self, step: &Step<'_>) -> Result<Vec<u8>, Difference> {
        let listed = self.listed.take();
        match &step.action {
            Action::Prose => {
                self.listed = listed;
                Ok(Vec::new())
            }
            Action::Send(text) => {
                let bytes = self.bytes(text)?;
                self.send(step.client, &bytes)?;
                Ok(bytes)
            }
            Action::Answer(text) => self.answer(step.client, text),
            Action::Closed => self.closed(step.client),
            Action::UntilEnd => Ok(self.lines_until_end(step.client)?.concat()),
            Action::Has(wanted) => {
                let lines = match listed {
                    Some(lines) => lines,
                    None => self.lines_until_end(step.client)?,
                };
                let mut contents = lines.iter().map(|line| without_end(line));
                if !contents.any(|line| self.matches(wanted, line)) {
                    return Err(Difference {
                        expected: format!("a line {}", describe(wanted)),
                        got: quoted(&lines.concat()),
                    });
                }
                let received = lines.concat();
                self.listed = Some(lines);
                Ok(received)
            }
            Action::TimePasses(seconds) => {
                let passed = self.server.let_time_pass(*seconds);
                let error = |error: io::Error| Difference {
                    expected: format!("that {seconds} seconds pass"),
                    got: error.to_string(),
                };
                passed.map(|()| Vec::new()).map_err(error)
            }
        }
    }

    /// The connection of this client. It is opened when it is used first.
    ///
    /// # Errors
    /// The server does not accept it.
    pub fn stream(&mut self, client: &str) -> Result<&Stream, Difference> {
        if !self.streams.contains_key(client) {
            let connected = self.server.address.connect(self.server.patience);
            let stream = connected.map_err(|error| Difference {
                expected: "that the server accepts a connection".into(),
                got: error.to_string(),
            })?;
            self.streams.insert(client.to_owned(), stream);
        }
        self.streams.get(client).ok_or_else(|| Difference {
            expected: "a connection".into(),
            got: "none".into(),
        })
    }

    /// Closes the connections, and checks that the server sends nothing more and closes them too.
    ///
    /// # Errors
    /// It does something else.
    pub fn finish(mut self) -> Result<(), Difference> {
        for (_, stream) in self.streams.drain() {
            let _ = stream.shutdown(Shutdown::Write);
            let expected =
                "that the server sends nothing more, and closes the connection after the client";
            rest(&stream, expected)?;
        }
        Ok(())
    }

    /// Reads what the server has sent and nobody has asked for, until it is silent for a moment.
    pub fn skip(&mut self, client: &str) -> Vec<u8> {
        let mut skipped = Vec::new();
        if let Some(stream) = self.streams.get(client) {
            let _ = stream.set_timeout(Some(MOMENT));
            // The end is a time-out.
            let _ = stream.take(LONGEST_ANSWER as u64).read_to_end(&mut skipped);
            let _ = stream.set_timeout(Some(self.server.patience));
        }
        skipped
    }

    /// The bytes of a text that is sent.
    ///
    /// # Errors
    /// The text has a number that no answer had before.
    pub fn bytes(&self, text: &Text) -> Result<Vec<u8>, Difference> {
        let mut bytes = Vec::new();
        for piece in text {
            let known = match piece {
                Piece::Bytes(literal) => Some(literal.clone()),
                Piece::Remembered(name) => {
                    (self.remembered.get(name)).map(|number| number.to_string().into_bytes())
                }
                Piece::Remembered8(name) => {
                    (self.remembered.get(name)).map(|number| number.to_be_bytes().into())
                }
                Piece::Above(_) | Piece::Number | Piece::Anything => None,
            };
            bytes.extend(known.ok_or_else(|| Difference {
                expected: "bytes that can be sent".into(),
                got: describe(text),
            })?);
        }
        Ok(bytes)
    }

    /// Sends bytes, which need not be in a conversation.
    ///
    /// # Errors
    /// The server does not accept the connection, or does not read.
    pub fn send(&mut self, client: &str, bytes: &[u8]) -> Result<(), Difference> {
        let sent = self.stream(client)?.write_all(bytes);
        sent.map_err(|error| Difference {
            expected: "that the server reads".into(),
            got: error.to_string(),
        })
    }

    /// Reads an answer and compares it with the expected text. If the length of the text is known, this reads as many
    /// bytes, otherwise one line.
    fn answer(&mut self, client: &str, text: &Text) -> Result<Vec<u8>, Difference> {
        let known = text.iter().map(|piece| match piece {
            Piece::Bytes(bytes) => Some(bytes.clone()),
            Piece::Remembered8(_) => Some(vec![0; 8]),
            _ => None,
        });
        let known = known.collect::<Option<Vec<_>>>();
        let is_line = matches!(text.last(), Some(Piece::Bytes(end)) if end.ends_with(b"\n"));
        let stream = self.stream(client)?;
        let (mut got, mut end) = match known {
            Some(known) => read_bytes(stream, &known.concat(), is_line),
            None if text.last() == Some(&Piece::Bytes(b"\n".into())) => read_until(stream, b"\n"),
            None => read_until(stream, b"\r\n"),
        };
        if self.matches(text, &got) {
            return Ok(got);
        }
        // The server may have sent a longer line: NOT_STORED instead of STORED. The message has the whole line.
        if is_line && end.is_empty() && !got.ends_with(b"\n") {
            let more;
            (more, end) = read_until(self.stream(client)?, b"\n");
            got.extend(more);
        }
        Err(Difference {
            expected: describe(text),
            got: received(&got, &end),
        })
    }

    fn closed(&mut self, client: &str) -> Result<Vec<u8>, Difference> {
        self.stream(client)?;
        match self.streams.remove(client) {
            Some(stream) => {
                let expected =
                    "that the server closes the connection, and sends nothing before that";
                rest(&stream, expected).map(|()| Vec::new())
            }
            None => Ok(Vec::new()),
        }
    }

    fn lines_until_end(&mut self, client: &str) -> Result<Vec<Vec<u8>>, Difference> {
        let stream = self.stream(client)?;
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        loop {
            let (line, end) = read_until(stream, b"\n");
            bytes += line.len();
            let is_end = line == b"END\r\n";
            let has_failed = is_error(&line) || !line.ends_with(b"\n") || bytes > LONGEST_ANSWER;
            lines.push(line);
            if is_end {
                return Ok(lines);
            }
            if has_failed {
                return Err(Difference {
                    expected: "lines up to END".into(),
                    got: received(&lines.concat(), &end),
                });
            }
        }
    }

    /// Whether the pieces match all the bytes.
    fn matches(&mut self, pieces: &[Piece], bytes: &[u8]) -> bool {
        let Some((piece, rest)) = pieces.split_first() else {
            return bytes.is_empty();
        };
        let is_digit = |byte: &&u8| byte.is_ascii_digit();
        let (digits, after) = bytes.split_at(bytes.iter().take_while(is_digit).count());
        let number = str::from_utf8(digits).ok();
        let number = number.and_then(|digits| digits.parse::<u64>().ok());
        match piece {
            Piece::Bytes(literal) => bytes
                .strip_prefix(&literal[..])
                .is_some_and(|bytes| self.matches(rest, bytes)),
            Piece::Remembered(name) => {
                number.is_some_and(|number| self.matches_number(name, number, rest, after))
            }
            Piece::Remembered8(name) => bytes.split_first_chunk().is_some_and(|(number, after)| {
                self.matches_number(name, u64::from_be_bytes(*number), rest, after)
            }),
            Piece::Above(name) => {
                let before = self.remembered.get(name).copied();
                number.is_some_and(|number| before.is_some_and(|before| number > before))
                    && self.matches(rest, after)
            }
            Piece::Number => number.is_some() && self.matches(rest, after),
            Piece::Anything => {
                let line = bytes.iter().position(|&byte| byte == b'\r');
                (0..=line.unwrap_or(bytes.len()))
                    .any(|end| self.matches(rest, bytes.split_at(end).1))
            }
        }
    }

    /// Whether the number has this name, and the pieces match the bytes after it. The first number gets the name, unless
    /// the rest does not match.
    fn matches_number(&mut self, name: &str, number: u64, rest: &[Piece], after: &[u8]) -> bool {
        if let Some(&known) = self.remembered.get(name) {
            return known == number && self.matches(rest, after);
        }
        self.remembered.insert(name.to_owned(), number);
        let matches = self.matches(rest, after);
        if !matches {
            self.remembered.remove(name);
        }
        matches
    }
}

/// The numbers in the answer to `version`, unless it is a program with other numbers.
pub fn release(answer: &[u8]) -> Option<Release> {
    let answer = str::from_utf8(answer).ok()?;
    let version = answer.strip_prefix("VERSION ")?.trim_end();
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let release = (numbers.next()?, numbers.next()?, numbers.next()?);
    (release >= (1, 4, 0)).then_some(release)
}

/// Reads until the server closes the connection, and checks that it sends nothing before that.
fn rest(stream: &Stream, expected: &str) -> Result<(), Difference> {
    let mut sent = Vec::new();
    let read = stream.take(LONGEST_ANSWER as u64).read_to_end(&mut sent);
    let is_closed = match read {
        Ok(_) => true,
        // A reset closes a connection too.
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    };
    if is_closed && sent.is_empty() {
        return Ok(());
    }
    let got = match (is_closed, sent.is_empty()) {
        (true, _) => quoted(&sent),
        (false, true) => "a connection that stays open".into(),
        (false, false) => format!("{}, and the connection stays open", quoted(&sent)),
    };
    Err(Difference {
        expected: expected.into(),
        got,
    })
}

/// Reads up to this end, which is included. If there is none, the text says why.
fn read_until(mut stream: &Stream, end: &[u8]) -> (Vec<u8>, String) {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(end) && line.len() < LONGEST_ANSWER {
        if let Err(error) = stream.read_exact(&mut byte) {
            return (line, why_no_more(&error));
        }
        line.extend_from_slice(&byte);
    }
    (line, String::new())
}

/// Reads as many bytes as are expected, or fewer if the server closes the connection, sends another line, or sends
/// nothing more.
fn read_bytes(mut stream: &Stream, expected: &[u8], is_line: bool) -> (Vec<u8>, String) {
    let mut got = Vec::new();
    while got.len() < expected.len() {
        let mut buffer = vec![0; (expected.len() - got.len()).min(1 << 16)];
        match stream.read(&mut buffer) {
            Ok(0) => return (got, why_no_more(&io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => got.extend(buffer.iter().take(n)),
            Err(error) => return (got, why_no_more(&error)),
        }
        // Another line is often shorter than the expected one. To wait for more bytes would only end by a timeout.
        let is_other_line = is_line && got.ends_with(b"\n") && !expected.starts_with(&got);
        if is_error(&got) || is_other_line {
            break;
        }
    }
    (got, String::new())
}

fn why_no_more(error: &io::Error) -> String {
    match error.kind() {
        _ if is_timeout(error) => "silence".into(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "the end of the connection".into()
        }
        _ => error.to_string(),
    }
}

/// What was received, for a message: the bytes, and why there are no more.
fn received(bytes: &[u8], end: &str) -> String {
    match (bytes, end) {
        ([], "silence") => "no answer".into(),
        ([], end) if !end.is_empty() => end.into(),
        (_, "") => quoted(bytes),
        (_, end) => format!("{}, and then {end}", quoted(bytes)),
    }
}

/// A line without its line end.
fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether this is a whole error line.
fn is_error(line: &[u8]) -> bool {
    let errors = [&b"ERROR"[..], b"CLIENT_", b"SERVER_"];
    line.ends_with(b"\r\n") && errors.iter().any(|error| line.starts_with(error))
}

/// The text as a conversation has it, for a message.
fn describe(text: &[Piece]) -> String {
    let mut description = Vec::new();
    for piece in text {
        match piece {
            Piece::Bytes(bytes) => description.extend_from_slice(bytes),
            Piece::Remembered(name) => description.extend(format!("{{={name}}}").bytes()),
            Piece::Remembered8(name) => description.extend(format!("{{={name}}}").bytes()),
            Piece::Above(name) => description.extend(format!("{{>{name}}}").bytes()),
            Piece::Number => description.extend_from_slice(b"{#}"),
            Piece::Anything => description.extend_from_slice(b"{*}"),
        }
    }
    quoted(&description)
}

/// Bytes for a message: escaped, and at most 300 of them.
pub fn quoted(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".into();
    }
    match bytes.split_at_checked(300) {
        Some((start, rest)) => {
            format!(
                "\"{}\"... ({} bytes more)",
                start.escape_ascii(),
                rest.len()
            )
        }
        None => format!("\"{}\"", bytes.escape_ascii()),
    }
}

#[cfg(test)]
mod tests;
