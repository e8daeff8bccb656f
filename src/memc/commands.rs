//! The commands for one key, and those about the server. Each function is one command.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::client::Server;
use crate::{CommandLine, Failure, print};
use rustmemc::internals::MAX_KEY;

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

/// The line of a command. Each word may be a key: it must not break the line.
fn line_of(words: &[&str]) -> Result<String, Failure> {
    for word in words {
        if word.is_empty() || word.len() > MAX_KEY || word.contains([' ', '\r', '\n']) {
            let rule = "a key has 1 to 250 bytes, and no space or line end";
            return Err(Failure::Failed(format!("{word:?} is not possible: {rule}")));
        }
    }
    Ok(words.join(" ") + "\r\n")
}

/// `get`. It adds a line end only on a terminal: in a file that would be a part of the value.
pub fn get(server: &Server, key: &str) -> Result<(), Failure> {
    let command = line_of(&["get", key])?;
    let mut client = server.connect()?;
    let answer = client.ask(&command)?;
    let length = match answer.split(' ').collect::<Vec<_>>().as_slice() {
        ["END"] => {
            return Err(Failure::NotDone(format!(
                "END: the key {key} holds no item"
            )));
        }
        ["VALUE", _, _, length] => length.parse().ok(),
        _ => None,
    };
    let length = length.ok_or_else(|| client.unexpected(&answer))?;
    let mut out = io::stdout().lock();
    client.value(length, &mut out)?;
    if out.is_terminal() {
        writeln!(out)?;
    }
    out.flush()?;
    client.expect("END")
}

/// `set` and `add`. The value is a word, a file, or standard input.
pub fn store(
    server: &Server,
    verb: &str,
    key: &str,
    value: Option<&str>,
    line: &CommandLine,
) -> Result<(), Failure> {
    let mut data = Vec::new();
    let read = match (value, &line.file) {
        (Some(_), Some(_)) => Err(io::Error::other("there is a value and a --file")),
        (Some(word), None) => data.write_all(word.as_bytes()),
        (None, Some(path)) => fs::read(path).map(|bytes| data = bytes),
        (None, None) => {
            if io::stdin().is_terminal() {
                let _ = writeln!(
                    io::stderr(),
                    "Type the value, then Ctrl-D on an empty line."
                );
            }
            io::stdin().read_to_end(&mut data).map(drop)
        }
    };
    read.map_err(|error| Failure::Failed(format!("cannot read the value: {error}")))?;
    let (flags, ttl) = (line.flags.unwrap_or(0), line.ttl.unwrap_or(0));
    let numbers = [flags.to_string(), ttl.to_string(), data.len().to_string()];
    let [flags, ttl, length] = numbers.each_ref().map(String::as_str);
    data.extend_from_slice(b"\r\n");
    change(server, &[verb, key, flags, ttl, length], &data)
}

/// `touch`.
pub fn touch(server: &Server, key: &str, time: &str) -> Result<(), Failure> {
    let time = exptime(time).map_err(|what| Failure::Failed(format!("{time}: {what}")))?;
    change(server, &["touch", key, &time.to_string()], b"")
}

/// A command of these words, with its data block if it has one. The answer is one line.
pub fn change(server: &Server, words: &[&str], data: &[u8]) -> Result<(), Failure> {
    let command = [line_of(words)?.as_bytes(), data].concat();
    let key = words.get(1).unwrap_or(&"");
    let mut client = server.connect()?;
    client.send(&command)?;
    let answer = client.line()?;
    let holds = match answer.split(' ').next().unwrap_or("") {
        "STORED" | "DELETED" | "TOUCHED" | "OK" | "VERSION" => return print(&answer),
        number if number.parse::<u64>().is_ok() => return print(number),
        "NOT_FOUND" => "no item",
        "NOT_STORED" => "an item already",
        _ => return Err(client.unexpected(&answer)),
    };
    let message = format!("{answer}: the key {key} holds {holds}");
    Err(Failure::NotDone(message))
}

/// `ping`. It tries until a server answers, or until this time has passed.
pub fn ping(server: &Server, wait: Duration) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let connecting = Instant::now();
        let answer = server.connect().and_then(|mut client| {
            let answer = client.ask("version\r\n")?;
            match answer.starts_with("VERSION ") {
                true => Ok(answer),
                false => Err(client.unexpected(&answer)),
            }
        });
        let took = connecting.elapsed().as_secs_f64() * 1000.0;
        match answer {
            Ok(answer) => return print(&format!("{answer} ({}, {took:.2} ms)", server.name)),
            Err(_) if start.elapsed() < wait => thread::sleep(RETRY_INTERVAL),
            // For a health check a server that answers with an error is as bad as none.
            Err(Failure::NotDone(message)) => return Err(Failure::Failed(message)),
            Err(failure) => return Err(failure),
        }
    }
}

/// `stats`. It prints names and values in two columns, and lines of another form as they are.
pub fn stats(server: &Server, topic: &[&str]) -> Result<(), Failure> {
    let mut client = server.connect()?;
    let mut line = client.ask(&line_of(&[&["stats"], topic].concat())?)?;
    loop {
        match line.split_once(' ') {
            Some(("STAT", stat)) => {
                let (name, value) = stat.split_once(' ').unwrap_or((stat, ""));
                print(&format!("{name:<30} {value}"))?;
            }
            Some(("PREFIX" | "ITEM", _)) => print(&line)?,
            None if line == "END" => return Ok(()),
            None if line == "RESET" || line == "OK" => return print(&line),
            _ => return Err(client.unexpected(&line)),
        }
        line = client.line()?;
    }
}

/// `watch`. Each line is printed at once. On a terminal it has a colour, unless NO_COLOR is set.
pub fn watch(server: &Server, streams: &[&str]) -> Result<(), Failure> {
    let streams = match streams {
        [] => &["fetchers", "mutations", "evictions"],
        streams => streams,
    };
    let mut client = server.connect()?;
    let answer = client.ask(&line_of(&[&["watch"], streams].concat())?)?;
    if answer != "OK" {
        return Err(client.unexpected(&answer));
    }
    client.wait_for_ever()?;
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_coloured = io::stdout().is_terminal() && !no_color;
    loop {
        let line = client.line()?;
        match colour(&line).filter(|_| is_coloured) {
            Some(colour) => print(&format!("\x1b[{colour}m{line}\x1b[0m"))?,
            None => print(&line)?,
        }
    }
}

/// The terminal's number for the colour of a line of `watch`.
fn colour(line: &str) -> Option<u8> {
    let (_, event) = line.split_once(" type=")?;
    match event.split(' ').next()? {
        "item_get" if event.contains(" status=found ") => Some(32),
        "item_get" => Some(33),
        "item_store" => Some(36),
        "deleted" => Some(35),
        "eviction" => Some(31),
        "conn_new" | "conn_close" => Some(34),
        _ => None,
    }
}
