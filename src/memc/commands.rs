//! The commands for one key, and those about the server. Each function is one command.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustmemc::conversations::answer::Ending;
use rustmemc::internals::MAX_KEY;

use crate::client::Server;
use crate::screen::{Style, styled};
use crate::{CommandLine, Failure, failed, print};

/// In the protocol a longer time is not a number of seconds, but a date.
const MAX_RELATIVE_TIME: u64 = 30 * 24 * 60 * 60;

/// The last date that a command can name, in January 2038.
const LAST_DATE: u64 = i32::MAX as u64;

/// How long `ping --wait` waits before it tries again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Parses a time with its unit: `100ms`, `90s`, `5m`, `2h`, `30d`. A number alone is a number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let milliseconds = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60 * 1000),
        "h" => Some(60 * 60 * 1000),
        "d" => Some(24 * 60 * 60 * 1000),
        _ => None,
    };
    let product = number.parse().ok().zip(milliseconds);
    product
        .map(|(number, unit): (u64, u64)| Duration::from_millis(number.saturating_mul(unit)))
        .ok_or_else(|| "a time is a number of seconds, or a number with ms, s, m, h or d".into())
}

/// Parses the time to wait for an answer.
pub fn timeout(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let is_possible = !time.is_zero();
    (is_possible.then_some(time)).ok_or_else(|| "an answer takes longer than no time".into())
}

/// Parses the time after which an item expires, into the number that the protocol has for it.
pub fn exptime(text: &str) -> Result<u64, String> {
    let time = duration(text)?;
    if time.subsec_millis() > 0 {
        return Err("an item expires after whole seconds".into());
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let date = now.unwrap_or_default().saturating_add(time).as_secs();
    match time.as_secs() {
        seconds @ ..=MAX_RELATIVE_TIME => Ok(seconds),
        _ if date <= LAST_DATE => Ok(date),
        _ => Err("the protocol has no date after January 2038 (0 means never)".into()),
    }
}

/// The line of a command, without its line end. Each word may be a key: it must not break the line.
fn line_of(words: &[&str]) -> Result<String, Failure> {
    for word in words {
        if word.is_empty() || word.len() > MAX_KEY || word.contains([' ', '\r', '\n']) {
            let rule = "a key has 1 to 250 bytes, and no space or line end";
            return Err(failed(format!("{word:?} is not possible: {rule}")));
        }
    }
    Ok(words.join(" "))
}

/// `get`. It adds a line end only on a terminal: in a file that would be a part of the value.
pub fn get(server: &Server, key: &str) -> Result<(), Failure> {
    let (command, mut found) = (line_of(&["get", key])?, None);
    server.connect()?.ask_for_list(&command, |line, value| {
        let is_expected = match value {
            Some(_) => line.starts_with(&format!("VALUE {key} ")),
            None => line == "END",
        };
        if !is_expected {
            return Err(server.unexpected(&command, line));
        }
        found = found.take().or(value);
        Ok(())
    })?;
    let none = || Failure::NotDone(format!("END: the key {key} holds no item"));
    let value = found.ok_or_else(none)?;
    let mut out = io::stdout().lock();
    out.write_all(&value)?;
    if out.is_terminal() {
        writeln!(out)?;
    }
    Ok(out.flush()?)
}

/// `set` and `add`. The value is a word, a file, or standard input.
pub fn store(
    server: &Server,
    verb: &str,
    key: &str,
    value: Option<&str>,
    line: &CommandLine,
) -> Result<(), Failure> {
    let flags = line.flags.as_deref().unwrap_or("0");
    if flags.parse::<u32>().is_err() {
        return Err(failed(format!(
            "--flags {flags}: this is no number of 32 bits"
        )));
    }
    let value = match (value, &line.file) {
        (Some(_), Some(_)) => Err(io::Error::other("there is a value and a --file")),
        (Some(word), None) => Ok(word.into()),
        (None, Some(path)) => fs::read(path),
        (None, None) => {
            if io::stdin().is_terminal() {
                let _ = writeln!(
                    io::stderr(),
                    "Type the value, then Ctrl-D on an empty line."
                );
            }
            let mut value = Vec::new();
            io::stdin().read_to_end(&mut value).map(|_| value)
        }
    };
    let value = value.map_err(|error| failed(format!("cannot read the value: {error}")))?;
    let numbers = [line.ttl.unwrap_or(0), value.len() as u64].map(|number| number.to_string());
    let [ttl, length] = numbers.each_ref().map(String::as_str);
    change(server, &[verb, key, flags, ttl, length], Some(&value))
}

/// `touch`.
pub fn touch(server: &Server, key: &str, time: &str) -> Result<(), Failure> {
    let time = exptime(time).map_err(|what| failed(format!("{time}: {what}")))?;
    change(server, &["touch", key, &time.to_string()], None)
}

/// A command of these words, with its data block if it has one. The answer is one line.
pub fn change(server: &Server, words: &[&str], data: Option<&[u8]>) -> Result<(), Failure> {
    let line = line_of(words)?;
    let mut command = line.clone().into_bytes();
    let mut client = server.connect()?;
    if let Some(data) = data {
        command.extend_from_slice(b"\r\n");
        command.extend_from_slice(data);
        // A server with -Y takes the first `set` for a login, and may answer STORED to it. Any other command it refuses.
        client.ask("version")?;
    }
    let answer = client.ask(command)?;
    let verb = words.first().copied().unwrap_or("");
    let holds = match (verb, answer.split(' ').next().unwrap_or("")) {
        ("set" | "add", "STORED") | ("delete", "DELETED") | ("touch", "TOUCHED") => {
            return print(&answer);
        }
        ("flush_all", "OK") | ("version", "VERSION") => return print(&answer),
        ("incr" | "decr", number) if number.parse::<u64>().is_ok() => return print(number),
        (_, "NOT_FOUND") => "no item",
        (_, "NOT_STORED") => "an item already",
        _ => return Err(server.unexpected(&line, &answer)),
    };
    let key = words.get(1).unwrap_or(&"");
    let message = format!("{answer}: the key {key} holds {holds}");
    Err(Failure::NotDone(message))
}

/// `ping`. It tries until a server answers, or until this time has passed.
pub fn ping(server: &Server, wait: Duration) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let connecting = Instant::now();
        let answer = server
            .connect()
            .and_then(|mut client| client.ask("version"));
        let took = connecting.elapsed().as_secs_f64() * 1000.0;
        let failure = match answer {
            Ok(answer) if answer.starts_with("VERSION ") => {
                return print(&format!("{answer} ({}, {took:.2} ms)", server.name));
            }
            Ok(answer) => server.unexpected("version", &answer),
            Err(failure) => failure,
        };
        if start.elapsed() >= wait {
            // For a health check a server that answers with an error is as bad as none.
            return Err(match failure {
                Failure::NotDone(message) => failed(message),
                failure => failure,
            });
        }
        thread::sleep(RETRY_INTERVAL);
    }
}

/// `stats`. It prints names and values in two columns, and lines of another form as they are.
pub fn stats(server: &Server, topic: &[&str]) -> Result<(), Failure> {
    let command = line_of(&[&["stats"], topic].concat())?;
    server
        .connect()?
        .ask_for_list(&command, |line, _| match line.split_once(' ') {
            Some(("STAT", stat)) => {
                let (name, value) = stat.split_once(' ').unwrap_or((stat, ""));
                print(&format!("{name:<30} {value}"))
            }
            Some(("PREFIX" | "ITEM", _)) => print(line),
            None if line == "END" => Ok(()),
            None if line == "RESET" || line == "OK" => print(line),
            _ => Err(server.unexpected(&command, line)),
        })
}

/// `watch`. Each line is printed at once. On a terminal it has a colour.
pub fn watch(server: &Server, streams: &[&str]) -> Result<(), Failure> {
    let streams = match streams {
        [] => &["fetchers", "mutations", "evictions"],
        streams => streams,
    };
    let mut client = server.connect()?;
    let command = line_of(&[&["watch"], streams].concat())?;
    let answer = client.ask(&command)?;
    if answer != "OK" {
        return Err(server.unexpected(&command, &answer));
    }
    if io::stderr().is_terminal() {
        let streams = streams.join(", ");
        let _ = writeln!(io::stderr(), "Watching {streams}. Ctrl-C ends.");
    }
    client.set_timeout(None);
    client.read(Ending::Never, |line, _| print(&styled(style(line), line)))
}

/// The style of a line of `watch`.
fn style(line: &str) -> Style {
    let (_, event) = line.split_once(" type=").unwrap_or_default();
    match event.split(' ').next() {
        Some("item_get") if event.contains(" status=found ") => Style::Green,
        Some("item_get") => Style::Yellow,
        Some("item_store") => Style::Cyan,
        Some("deleted") => Style::Magenta,
        Some("eviction") => Style::Red,
        Some("conn_new" | "conn_close") => Style::Blue,
        _ => Style::Plain,
    }
}
