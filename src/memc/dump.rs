//! The commands for all keys. `keys` lists them. `dump` prints all items as the records of an append-only file, and
//! `load` sends the records of such a file to a server.
//!
//! `dump` and `load` work in batches. The answers to a batch of records, and the commands of a batch of keys, fit into
//! the buffers of a socket. So memory is bounded, and both sides never wait for each other.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, Server};
use crate::{Failure, print};
use rustmemc::internals::record::{self, Parsed, Record};
use rustmemc::internals::{Expiry, Item, MAX_KEY, base64, crc32};

/// How many keys are asked for, or records are sent, before the answers are read.
const BATCH: usize = 100;

/// A batch of records is sent as soon as it has this many bytes.
const BATCH_BYTES: usize = 64 << 10;

/// The longest value of an item, in bytes: memcached allows no larger one.
const MAX_VALUE: usize = 1 << 30;

/// No record's line is longer than this, in bytes.
const MAX_RECORD_LINE: u64 = 1024;

/// How long to wait before a busy server is asked again.
const BUSY_INTERVAL: Duration = Duration::from_millis(50);

/// `keys`.
pub fn keys(server: &Server, prefix: &str) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    each_item(server, |encoded, key, _| {
        if key.starts_with(prefix.as_bytes()) {
            let shown = if is_plain(key) {
                key
            } else {
                encoded.as_bytes()
            };
            out.write_all(&[shown, b"\n"].concat())?;
        }
        Ok(())
    })?;
    Ok(out.flush()?)
}

/// Whether a classic command can contain the key, and a terminal can show it.
fn is_plain(key: &[u8]) -> bool {
    !key.iter().any(|&byte| byte <= b' ' || byte == 0x7f)
}

/// Calls `each` with the key of every item, url-encoded and decoded, and with the item's expiry.
fn each_item(
    server: &Server,
    mut each: impl FnMut(&str, &[u8], Expiry) -> Result<(), Failure>,
) -> Result<(), Failure> {
    const LIST: &str = "lru_crawler metadump all\r\n";
    let mut client = server.connect()?;
    let start = Instant::now();
    let mut line = client.ask(LIST)?;
    // memcached lists its keys for one client at a time.
    while line.starts_with("BUSY ") && start.elapsed() < server.timeout {
        thread::sleep(BUSY_INTERVAL);
        line = client.ask(LIST)?;
    }
    if line == "OK" {
        line = client.line()?;
    }
    while line != "END" {
        let Some((encoded, key, expiry)) = listed(&line) else {
            let why = match line.split(' ').next() {
                _ if line == "ERROR metadump not allowed" => "its flag -X forbids to list keys",
                Some("BUSY") => "it lists its keys for another client",
                _ => return Err(client.unexpected(&line)),
            };
            let message = format!("the server refuses: {line} ({why})");
            return Err(Failure::NotDone(message));
        };
        each(encoded, &key, expiry)?;
        line = client.line()?;
    }
    Ok(())
}

/// Parses a line `key=<url-encoded key> exp=<unix time, or -1 for never> …`.
fn listed(line: &str) -> Option<(&str, Vec<u8>, Expiry)> {
    let mut words = line.strip_prefix("key=")?.split(' ');
    let encoded = words.next()?;
    let time: i64 = words.next()?.strip_prefix("exp=")?.parse().ok()?;
    let key = url_decoded(encoded)?;
    let is_key = (1..=MAX_KEY).contains(&key.len());
    is_key.then_some((encoded, key, Expiry::at(time.try_into().unwrap_or(0))))
}

/// Replaces each `%41` by the byte that it stands for.
fn url_decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
}

/// `dump`.
pub fn dump(server: &Server) -> Result<(), Failure> {
    // One connection lists the keys, and the other one gets the values.
    let mut client = server.connect()?;
    let mut out = BufWriter::new(io::stdout().lock());
    write_record(&Record::Heading { cas: 0 }, &mut out)?;
    let mut batch = Vec::new();
    each_item(server, |_, key, expiry| {
        batch.push((key.to_vec(), expiry));
        match batch.len() {
            BATCH => write_items(&mut client, std::mem::take(&mut batch), &mut out),
            _ => Ok(()),
        }
    })?;
    write_items(&mut client, batch, &mut out)?;
    Ok(out.flush()?)
}

fn write_record(record: &Record<'_>, out: &mut impl Write) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    record.write(&mut bytes);
    Ok(out.write_all(&bytes)?)
}

/// Gets the items of these keys, and writes a record for each that the server still has.
fn write_items(
    client: &mut Client<'_>,
    batch: Vec<(Vec<u8>, Expiry)>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut commands = Vec::new();
    for (key, _) in &batch {
        // A stale item has one winner, who brings a new value. `mg` could make memc that winner, and `gets` cannot.
        commands.extend(match is_plain(key) {
            true => [b"gets ", key.as_slice(), b"\r\n"].concat(),
            false => [b"mg ", &*base64::encode(key), b" b f c v\r\n"].concat(),
        });
    }
    client.send(&commands)?;
    for (key, expiry) in batch {
        let answer = client.line()?;
        if matches!(answer.as_str(), "END" | "EN") {
            continue;
        }
        let Some((flags, length, cas)) = item_line(&answer) else {
            return Err(client.unexpected(&answer));
        };
        let mut item = Item::blank(&key, flags, expiry, length);
        item.cas = cas;
        item.marks.binary_key = !is_plain(&key);
        client.value(length, &mut item.value_mut())?;
        if is_plain(&key) {
            client.expect("END")?;
        }
        write_record(&Record::Put(item), out)?;
    }
    Ok(())
}

/// The flags, the length and the cas unique in `VALUE <key> <flags> <bytes> <cas>` or `VA <bytes> f<flags> c<cas>`.
fn item_line(line: &str) -> Option<(u32, usize, u64)> {
    let words: Vec<&str> = line.split(' ').collect();
    let (flags, length, cas) = match words.as_slice() {
        ["VALUE", _, flags, length, cas] => (*flags, *length, *cas),
        ["VA", length, flags, cas, ..] => {
            (flags.strip_prefix('f')?, *length, cas.strip_prefix('c')?)
        }
        _ => return None,
    };
    let length = length.parse().ok().filter(|&length| length <= MAX_VALUE)?;
    Some((flags.parse().ok()?, length, cas.parse().ok()?))
}

/// `load`. A record that the server refuses does not stop the others.
pub fn load(server: &Server, file: Option<&str>) -> Result<(), Failure> {
    let name = file.unwrap_or("standard input");
    let input = file.map_or_else(
        || Ok(Box::new(io::stdin()) as Box<dyn Read>),
        |path| Ok(Box::new(File::open(path)?)),
    );
    let input = input.map_err(|error: io::Error| Failure::Failed(format!("{name}: {error}")))?;
    let (mut input, mut offset) = (BufReader::new(input), 0);
    let mut client = server.connect()?;
    // A server that does not know the meta commands would take the values for commands.
    let answer = client.ask("mn\r\n")?;
    if answer != "MN" {
        return Err(client.unexpected(&answer));
    }
    let (mut accepted, mut refused, mut first) = (0, 0, None);
    let mut next = Ok(Some(String::new()));
    while let Ok(Some(_)) = next {
        let (mut lines, mut batch) = (Vec::new(), Vec::new());
        while lines.len() < BATCH && batch.len() < BATCH_BYTES {
            next = next_record(&mut input, &mut offset, &mut batch);
            match &next {
                Ok(Some(line)) => lines.push(line.clone()),
                _ => break,
            }
        }
        client.send(&batch)?;
        for line in lines {
            let answer = client.line()?;
            match answer.split(' ').next() {
                // NF and EN: the record deletes or touches an item that is not there. That is no error.
                Some("HD" | "NF" | "EN" | "OK") => accepted += 1,
                Some("ERROR" | "CLIENT_ERROR" | "SERVER_ERROR") => {
                    refused += 1;
                    first.get_or_insert(format!("{line}: {answer}"));
                }
                _ => return Err(client.unexpected(&answer)),
            }
        }
    }
    next.map_err(|what| {
        let count = format!("{accepted} records before it were accepted");
        Failure::Failed(format!("{name}: {what}, at byte {offset}; {count}"))
    })?;
    print(&format!("{accepted} records accepted, {refused} refused"))?;
    let first = first.map(|first| Failure::NotDone(format!("the first refused: {first}")));
    first.map_or(Ok(()), Err)
}

/// Reads a record that begins at `offset`, checks it, appends it to `batch`, and returns its line without the checksums;
/// `None` at the end. A heading and a time mark change nothing, so they are skipped.
fn next_record(
    input: &mut impl BufRead,
    offset: &mut u64,
    batch: &mut Vec<u8>,
) -> Result<Option<String>, String> {
    let cut_short = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "the last record is cut short".into(),
        _ => error.to_string(),
    };
    loop {
        let (mut line, start) = (Vec::new(), batch.len());
        let mut bounded = input.by_ref().take(MAX_RECORD_LINE);
        bounded.read_until(b'\n', &mut line).map_err(cut_short)?;
        if *offset == 0 && !line.starts_with(record::HEADING) {
            return Err("this is not an append-only file of rustmemc".into());
        }
        if line.is_empty() {
            return Ok(None);
        }
        if !line.ends_with(b"\n") && (line.len() as u64) < MAX_RECORD_LINE {
            return Err(cut_short(io::ErrorKind::UnexpectedEof.into()));
        }
        match record::parse(&line, u64::MAX)? {
            Parsed::Whole(Record::Mark { offset: at, .. }) if at != *offset => {
                return Err("bytes before this time mark are lost or doubled".into());
            }
            Parsed::Whole(Record::Heading { .. } | Record::Mark { .. }) => {
                *offset += line.len() as u64;
                continue;
            }
            Parsed::Announced(mut item, checksum) => {
                let mut line_end = [0; 2];
                input.read_exact(item.value_mut()).map_err(cut_short)?;
                input.read_exact(&mut line_end).map_err(cut_short)?;
                if line_end != *b"\r\n" || crc32(&item.value()) != checksum {
                    return Err("the data's checksum is wrong".into());
                }
                batch.extend([&line, &*item.value(), &line_end].concat());
            }
            Parsed::Whole(_) | Parsed::CutShort => batch.extend_from_slice(&line),
        }
        *offset += (batch.len() - start) as u64;
        let line = String::from_utf8_lossy(&line);
        let (line, _) = line.rsplit_once(" O").unwrap_or_default();
        return Ok(Some(line.to_owned()));
    }
}
