//! The commands for all keys. `keys` lists them. `dump` prints all items as the records of an append-only file, and
//! `load` sends the records of such a file to a server.
//!
//! `dump` and `load` work in batches. The answers to a batch of records, and the commands of a batch of keys, fit into
//! the buffers of a socket. So memory is bounded, and both sides never wait for each other.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use rustmemc::conversations::answer::Ending;
use rustmemc::internals::record::{self, Parsed, Record};
use rustmemc::internals::{Expiry, Item, MAX_KEY, base64, crc32};

use crate::client::{Client, Server, is_error, with_reason};
use crate::{Failure, failed, print};

/// How many keys are asked for, or records are sent, before the answers are read.
const BATCH: usize = 100;

/// A batch of records is sent as soon as it has this many bytes.
const BATCH_BYTES: usize = 64 << 10;

/// No record's line is longer than this, in bytes.
const MAX_RECORD_LINE: u64 = 1024;

/// How long to wait before a busy server is asked again.
const BUSY_INTERVAL: Duration = Duration::from_millis(50);

/// `keys`.
pub fn keys(server: &Server, prefix: &str) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    each_item(server, |encoded, key, _| {
        if key.starts_with(prefix.as_bytes()) {
            let encoded = encoded.as_bytes();
            let is_clear = is_plain(key) && !key.contains(&b'%');
            out.write_all(if is_clear { key } else { encoded })?;
            out.write_all(b"\n")?;
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
    let mut client = server.connect()?;
    let start = Instant::now();
    loop {
        let mut is_busy = false;
        client.ask_for_list("lru_crawler metadump all", |line, _| {
            if let Some((encoded, key, expiry)) = listed(line) {
                return each(encoded, &key, expiry);
            }
            let why = match line {
                "OK" | "END" => return Ok(()),
                "ERROR metadump not allowed" => "its flag -X forbids to list keys",
                _ if line.starts_with("BUSY ") => {
                    is_busy = start.elapsed() < server.timeout;
                    if is_busy {
                        return Ok(());
                    }
                    "it lists its keys for another client"
                }
                _ => return Err(server.unexpected("lru_crawler metadump all", line)),
            };
            let message = format!("the server refuses: {line} ({why})");
            Err(Failure::NotDone(message))
        })?;
        if !is_busy {
            return Ok(());
        }
        // memcached lists its keys for one client at a time.
        thread::sleep(BUSY_INTERVAL);
    }
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

/// `dump`. The last record is a time mark, so `load` notices if the end is missing.
pub fn dump(server: &Server) -> Result<(), Failure> {
    // One connection lists the keys, and the other one gets the values.
    let mut client = server.connect()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut offset = write_record(&Record::Heading { cas: 0 }, &mut out)?;
    let mut batch = Vec::new();
    let mut write_batch = |batch: &mut Vec<(Vec<u8>, Expiry)>| -> Result<(), Failure> {
        get_items(&mut client, batch, |item| {
            offset += write_record(&Record::Put(item), &mut out)?;
            Ok(())
        })?;
        batch.clear();
        Ok(())
    };
    each_item(server, |_, key, expiry| {
        batch.push((key.to_vec(), expiry));
        match batch.len() {
            BATCH => write_batch(&mut batch),
            _ => Ok(()),
        }
    })?;
    write_batch(&mut batch)?;
    // No item had expired in 1970, so this removes nothing.
    let (time, cas) = (0, 0);
    write_record(&Record::Mark { time, offset, cas }, &mut out)?;
    Ok(out.flush()?)
}

/// Writes a record, and returns its length.
fn write_record(record: &Record<'_>, out: &mut impl Write) -> io::Result<u64> {
    let mut bytes = Vec::new();
    record.write(&mut bytes);
    out.write_all(&bytes)?;
    Ok(bytes.len() as u64)
}

/// Gets the items of these keys, and calls `each` with every one that the server still has.
fn get_items(
    client: &mut Client<'_>,
    batch: &[(Vec<u8>, Expiry)],
    mut each: impl FnMut(Item<'_>) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut commands = Vec::new();
    for (key, _) in batch {
        // A stale item has one winner, who brings a new value. `mg` could make memc that winner, and `gets` cannot.
        commands.extend(match is_plain(key) {
            true => [b"gets ", key.as_slice(), b"\r\n"].concat(),
            false => [b"mg ", &*base64::encode(key), b" b f c v\r\n"].concat(),
        });
    }
    client.send(&commands)?;
    let server = client.server;
    for (key, expiry) in batch {
        let ending = match is_plain(key) {
            true => Ending::List,
            false => Ending::OnePart,
        };
        client.read(ending, |line, value| {
            let Some((value, (flags, cas))) = value.zip(flags_and_cas(line)) else {
                let is_end = line == "END" || line == "EN";
                return (is_end.then_some(())).ok_or_else(|| server.unexpected("gets key", line));
            };
            let mut item = Item::blank(key, flags, *expiry, value.len());
            item.cas = cas;
            item.marks.binary_key = !is_plain(key);
            item.value_mut().copy_from_slice(&value);
            Ok(each(item)?)
        })?;
    }
    Ok(())
}

/// The flags and the cas unique in `VALUE <key> <flags> <bytes> <cas>` or `VA <bytes> f<flags> c<cas>`.
fn flags_and_cas(line: &str) -> Option<(u32, u64)> {
    let words: Vec<&str> = line.split(' ').collect();
    let (flags, cas) = match words.as_slice() {
        ["VALUE", _, flags, _, cas] => (*flags, *cas),
        ["VA", _, flags, cas, ..] => (flags.strip_prefix('f')?, cas.strip_prefix('c')?),
        _ => return None,
    };
    Some((flags.parse().ok()?, cas.parse().ok()?))
}

/// `load`. A record that the server refuses does not stop the others.
pub fn load(server: &Server, file: Option<&str>) -> Result<(), Failure> {
    let name = file.unwrap_or("standard input");
    let input: Box<dyn Read> = match file {
        None => Box::new(io::stdin()),
        Some(path) => {
            Box::new(File::open(path).map_err(|error| failed(format!("{name}: {error}")))?)
        }
    };
    let mut client = server.connect()?;
    // A server that does not know the meta commands would take the values for commands.
    let answer = client.ask("mn")?;
    if answer != "MN" {
        return Err(server.unexpected("mn", &answer));
    }
    let mut input = Input {
        reader: BufReader::new(input),
        offset: 0,
        ends_in_mark: false,
    };
    let (mut accepted, mut refused, mut first) = (0, 0, None);
    let (mut records, mut bytes, mut is_end) = (Vec::new(), Vec::new(), false);
    while !is_end {
        let next = input.next_record(&mut bytes);
        is_end = !matches!(next, Ok(Some(_)));
        let problem = next.map(|record| records.extend(record));
        if !is_end && records.len() < BATCH && bytes.len() < BATCH_BYTES {
            continue;
        }
        client.send(&bytes)?;
        bytes.clear();
        for record in records.drain(..) {
            client.read(Ending::OnePart, |answer, _| {
                match answer.split(' ').next() {
                    // NF and EN: the record deletes or touches an item that is not there. That is no error.
                    Some("HD" | "NF" | "EN" | "OK") => accepted += 1,
                    _ if is_error(answer) => {
                        refused += 1;
                        let answer = with_reason(&record, answer);
                        first.get_or_insert(format!("{record}: {answer}"));
                    }
                    _ => return Err(server.unexpected(&record, answer)),
                }
                Ok(())
            })?;
        }
        problem.map_err(|what| {
            let count = format!("{accepted} records before it were accepted");
            failed(format!("{name}: {what}, at byte {}; {count}", input.offset))
        })?;
    }
    print(&format!("{accepted} records accepted, {refused} refused"))?;
    // A file of a server need not end in a time mark.
    if file.is_none() && !input.ends_in_mark {
        let _ = writeln!(
            io::stderr(),
            "memc: the input does not end in a time mark. If it is from `memc dump`, its end is missing."
        );
    }
    let first = first.map(|first| Failure::NotDone(format!("the first refused: {first}")));
    first.map_or(Ok(()), Err)
}

/// An append-only file that is read record by record.
struct Input {
    reader: BufReader<Box<dyn Read>>,
    /// Where the next record begins, in bytes.
    offset: u64,
    /// Whether the last record was a time mark.
    ends_in_mark: bool,
}

impl Input {
    /// Reads a record, checks it, appends it to `batch`, and returns its line without the checksums; `None` at the end. A
    /// heading and a time mark change nothing, so they are skipped.
    fn next_record(&mut self, batch: &mut Vec<u8>) -> Result<Option<String>, String> {
        let cut_short = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => "the last record is cut short".into(),
            _ => error.to_string(),
        };
        loop {
            let (mut line, start) = (Vec::new(), batch.len());
            let mut bounded = self.reader.by_ref().take(MAX_RECORD_LINE);
            bounded.read_until(b'\n', &mut line).map_err(cut_short)?;
            if self.offset == 0 && !line.starts_with(record::HEADING) {
                return Err("this is not an append-only file of rustmemc".into());
            }
            if line.is_empty() {
                return Ok(None);
            }
            if !line.ends_with(b"\n") && (line.len() as u64) < MAX_RECORD_LINE {
                return Err(cut_short(io::ErrorKind::UnexpectedEof.into()));
            }
            let parsed = record::parse(&line, u64::MAX)?;
            self.ends_in_mark = matches!(parsed, Parsed::Whole(Record::Mark { .. }));
            match parsed {
                Parsed::Whole(Record::Mark { offset, .. }) if offset != self.offset => {
                    return Err("bytes before this time mark are lost or doubled".into());
                }
                Parsed::Whole(Record::Heading { .. } | Record::Mark { .. }) => {
                    self.offset += line.len() as u64;
                    continue;
                }
                Parsed::Announced(mut item, checksum) => {
                    let mut line_end = [0; 2];
                    let read = self.reader.read_exact(item.value_mut());
                    read.and_then(|()| self.reader.read_exact(&mut line_end))
                        .map_err(cut_short)?;
                    if line_end != *b"\r\n" || crc32(&item.value()) != checksum {
                        return Err("the data's checksum is wrong".into());
                    }
                    batch.extend([&line, &*item.value(), &line_end].concat());
                }
                Parsed::Whole(_) | Parsed::CutShort => batch.extend_from_slice(&line),
            }
            self.offset += (batch.len() - start) as u64;
            let line = String::from_utf8_lossy(&line);
            let (line, _) = line.rsplit_once(" O").unwrap_or_default();
            return Ok(Some(line.to_owned()));
        }
    }
}
