//! The commands for all keys. `keys` lists them. `dump` prints all items as the records of an append-only file, and
//! `load` sends the records of such a file to a server.
//!
//! `dump` and `load` work in batches. The answers to a batch of records, and the commands of a batch of keys, fit into
//! the buffers of a socket. So both sides never wait for each other, and memory holds one batch of values. (`dump` also
//! holds all keys. memcached leaves items out of its list that somebody reads at that moment, so `dump` must not.)

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustmemc::conversations::answer::Ending;
use rustmemc::internals::record::{self, Parsed, Parser, Record};
use rustmemc::internals::{Expiry, Item, MAX_KEY, base64};

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
    each_item(server, |encoded, key| {
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

/// Calls `each` with the key of every item, url-encoded and decoded.
fn each_item(
    server: &Server,
    mut each: impl FnMut(&str, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut client = server.connect()?;
    let start = Instant::now();
    loop {
        let mut is_busy = false;
        client.ask_for_list("lru_crawler metadump all", |line, _| {
            if let Some((encoded, key)) = listed(line) {
                return each(encoded, &key);
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

/// Parses a line `key=<url-encoded key> exp=…`.
fn listed(line: &str) -> Option<(&str, Vec<u8>)> {
    let encoded = line.strip_prefix("key=")?.split(' ').next()?;
    let key = url_decoded(encoded)?;
    let is_key = (1..=MAX_KEY).contains(&key.len());
    is_key.then_some((encoded, key))
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

/// The time of the two time marks that a dump begins and ends with. No server writes such a mark. So `load` knows a dump
/// when it sees one, and notices if its end is missing. (No item had expired in 1970, so the marks remove nothing.)
const DUMP_MARK: u32 = 0;

/// `dump`.
pub fn dump(server: &Server) -> Result<(), Failure> {
    let mut keys = Vec::new();
    each_item(server, |_, key| {
        keys.push(key.to_vec());
        Ok(())
    })?;
    let mut client = server.connect()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mark = |offset| Record::Mark {
        time: DUMP_MARK,
        offset,
        cas: 0,
    };
    let mut offset = write_record(&Record::Heading { cas: 0 }, &mut out)?;
    offset += write_record(&mark(offset), &mut out)?;
    for batch in keys.chunks(BATCH) {
        get_items(&mut client, batch, |item| {
            offset += write_record(&Record::Put(item), &mut out)?;
            Ok(())
        })?;
    }
    write_record(&mark(offset), &mut out)?;
    // A dump that nobody has read to its end is no success.
    out.flush().map_err(|_| Failure::Reported)
}

/// Writes a record, and returns its length.
fn write_record(record: &Record<'_>, out: &mut impl Write) -> io::Result<u64> {
    let mut bytes = Vec::new();
    record.write(&mut bytes);
    out.write_all(&bytes)?;
    Ok(bytes.len() as u64)
}

/// Gets the items of these keys, and calls `each` with every one that the server still has.
///
/// Each key is asked for twice: for its value, and for its expiry. If somebody has changed the item between the two,
/// which the cas unique shows, it is asked for again.
fn get_items(
    client: &mut Client<'_>,
    batch: &[Vec<u8>],
    mut each: impl FnMut(Item<'_>) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut changed = Vec::new();
    let mut commands = Vec::new();
    for key in batch {
        // A stale item has one winner, who brings a new value. `mg` could make memc that winner, and `gets` cannot.
        commands.extend(match is_plain(key) {
            true => [b"gets ", &**key, b"\r\nme ", key, b"\r\n"].concat(),
            false => {
                let key = base64::encode(key);
                // memcached reads the flag `b` of `me` only if another word follows.
                [b"mg ", &*key, b" b f c v\r\nme ", &key, b" b b\r\n"].concat()
            }
        });
    }
    client.send(&commands)?;
    let server = client.server;
    for key in batch {
        let mut found = None;
        let ending = match is_plain(key) {
            true => Ending::List,
            false => Ending::OnePart,
        };
        client.read(ending, |line, value| {
            let of_key = [b"VALUE ", &**key, b" "].concat();
            let is_end = line == "END" || line == "EN";
            match value.zip(flags_and_cas(line)) {
                Some(value) if line.starts_with("VA ") || line.as_bytes().starts_with(&of_key) => {
                    found = Some(value);
                }
                None if is_end => {}
                _ => return Err(server.unexpected("gets key", line)),
            }
            Ok(())
        })?;
        let mut described = None;
        client.read(Ending::OnePart, |line, _| match line {
            "EN" => Ok(()),
            _ => {
                described = expiry_and_cas(line);
                described
                    .map(|_| ())
                    .ok_or_else(|| server.unexpected("me key", line))
            }
        })?;
        // An item that one of the two answers does not have is gone, or new.
        if let Some(((value, (flags, cas)), (expiry, cas_now))) = found.zip(described) {
            if cas != cas_now {
                changed.push(key.clone());
                continue;
            }
            let mut item = Item::blank(key, flags, expiry, value.len());
            item.cas = cas;
            item.marks.binary_key = !is_plain(key);
            item.value_mut().copy_from_slice(&value);
            each(item).map_err(|_| Failure::Reported)?;
        }
    }
    match changed.as_slice() {
        [] => Ok(()),
        changed => get_items(client, changed, each),
    }
}

/// The expiry and the cas unique in `ME <key> exp=<seconds, or -1 for never> … cas=<cas> …`.
fn expiry_and_cas(line: &str) -> Option<(Expiry, u64)> {
    let mut words = line.strip_prefix("ME ")?.split(' ');
    let mut number = |name| words.find_map(|word| word.strip_prefix(name));
    let expiry = match number("exp=")?.parse::<i64>().ok()? {
        -1 => Expiry::NEVER,
        seconds => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            // memcached 1.6.18 has the wrong sign.
            Expiry::at(now.unwrap_or_default().as_secs() + seconds.unsigned_abs())
        }
    };
    Some((expiry, number("cas=")?.parse().ok()?))
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
    let cannot_read = |error: io::Error| failed(format!("{name}: {error}"));
    // The length of standard input is not known.
    let (input, length): (Box<dyn Read>, u64) = match file {
        None => (Box::new(io::stdin()), u64::MAX),
        Some(path) => {
            let file = File::open(path).map_err(cannot_read)?;
            let length = file.metadata().map_err(cannot_read)?.len();
            (Box::new(file), length)
        }
    };
    let mut client = server.connect()?;
    // A server with -Y closes the connection after a meta command, without a word.
    client.ask("version")?;
    // A server that does not know the meta commands would take the values for commands.
    let answer = client.ask("mn")?;
    if answer != "MN" {
        return Err(server.unexpected("mn", &answer));
    }
    let mut input = Input {
        reader: BufReader::new(input),
        length,
        parser: Parser::default(),
        offset: 0,
        begins_as_dump: false,
        ends_as_dump: false,
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
    if input.begins_as_dump && !input.ends_as_dump {
        return Err(failed(format!("{name}: the end of this dump is missing")));
    }
    let first = first.map(|first| Failure::NotDone(format!("the first refused: {first}")));
    first.map_or(Ok(()), Err)
}

/// An append-only file that is read record by record.
struct Input {
    reader: BufReader<Box<dyn Read>>,
    /// How many bytes it has.
    length: u64,
    parser: Parser,
    /// Where the next record begins, in bytes.
    offset: u64,
    /// Whether its first record is a mark of a dump.
    begins_as_dump: bool,
    /// Whether its last record is a mark of a dump, and not the first one.
    ends_as_dump: bool,
}

impl Input {
    /// Reads a record, checks it, appends it to `batch`, and returns its line without the opaque; `None` at the end. A
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
            if self.offset == 0 && (line.is_empty() || !record::is_beginning_of_file(&line)) {
                return Err("this is not an append-only file of rustmemc".into());
            }
            if line.is_empty() {
                return Ok(None);
            }
            if !line.ends_with(b"\n") && (line.len() as u64) < MAX_RECORD_LINE {
                return Err(cut_short(io::ErrorKind::UnexpectedEof.into()));
            }
            let rest = self.length.saturating_sub(self.offset + line.len() as u64);
            self.ends_as_dump = false;
            match self.parser.parse(&line, rest)? {
                Parsed::CutShort => return Err(cut_short(io::ErrorKind::UnexpectedEof.into())),
                Parsed::Whole(Record::Mark { offset, .. }) if offset != self.offset => {
                    return Err("bytes before this time mark are lost or doubled".into());
                }
                Parsed::Whole(Record::Mark {
                    time: DUMP_MARK, ..
                }) => {
                    self.ends_as_dump = self.begins_as_dump;
                    self.begins_as_dump = true;
                    self.offset += line.len() as u64;
                    continue;
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
                    if line_end != *b"\r\n" || !checksum.matches(&item.value()) {
                        return Err("the data's checksum is wrong".into());
                    }
                    batch.extend([&line, &*item.value(), &line_end].concat());
                }
                Parsed::Whole(_) => batch.extend_from_slice(&line),
            }
            self.offset += (batch.len() - start) as u64;
            let line = String::from_utf8_lossy(&line);
            let (line, _) = line.rsplit_once(" O").unwrap_or_default();
            return Ok(Some(line.to_owned()));
        }
    }
}
