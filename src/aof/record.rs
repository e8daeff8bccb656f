//! A record: one change to the store, written as a command that memcached itself would take.
//!
//! ```text
//! mn rustmemc 2 O..                              the heading: the highest cas unique so far
//! mn rustmemc at <time> <offset> O..             a time mark: expired items are removed
//! ms <key> <bytes> [b] [F<flags>] [T<time>] [I] O..
//! <data>                                         what a key now holds (I: it is stale)
//! mg <key> [b] T<time> O..                       an item expires at another time
//! md <key> [b] I T<time> O..                     an item is stale
//! md <key> [b] O..                               a key holds no item any more
//! flush_all <time> O..                           all items are flushed: now (0), or at a time
//!                                                (2592001, which is long past: never)
//! ```
//!
//! `O..` is the opaque. It has the checksums, and in a heading, a time mark, `ms` and `md` a cas unique:
//! [`opaque`] describes it. memcached ignores it, so a memcached that the file is sent to chooses cas
//! uniques of its own.
//!
//! A `<time>` after January 2038 is one that no client can name. Then `T` and `flush_all` have the last time that a
//! client can name, and ` L<time>` follows it, which memcached ignores.
//!
//! Every line ends in `\r\n`, and so does the data. `<time>` is unix time in seconds; in `T`, 0 means never. (A flush
//! happens one second before the time of its record.) With `b` the key is in base64, because meta commands show it in
//! base64, or because it contains a space or a line feed.
//!
//! A record holds the result of a change and not the command (the sum and not the `incr`), so replaying a record twice
//! changes nothing.
//!
//! A time mark says that at this point every item that had expired by `<time>` was removed from memory. It also says at
//! which offset of the file it was written, so a block of the file that was lost, doubled or moved is noticed at the
//! next mark; and the highest cas unique that was given out so far. (A cas unique in an item's record may be one that a
//! client chose with `E`.)
//!
//! This is format 2. Format 1 had the flag `E<cas unique>` before the opaque, also in the heading and the time marks. A
//! heading decides the format of the records after it. So a file of format 1 is replayed, and what is appended to it
//! begins with a heading of format 2.

use std::borrow::Cow;

use super::opaque::{self, DataChecksum, Format, Opaque};
use crate::item::{Expiry, Item, Marks, UnixTime};
use crate::protocol::base64::{self, MAX_KEY_IN_BASE64};
use crate::protocol::{self, Exptime, Flush, Request, write_decimal};

/// The earliest date that a command can name. A flush at this time flushes nothing, and replaces a pending flush.
const LONG_PAST: u64 = 2_592_001;

/// The last time that a client can name, 19 January 2038: its numbers have 31 bits.
const LAST_PLAIN_TIME: UnixTime = i32::MAX as UnixTime;

/// The heading without its opaque.
const HEADING: &[u8] = b"mn rustmemc 2";

/// How a file begins, in each format.
const BEGINNINGS: [(Format, &[u8]); 2] = [
    (Format::Two, b"mn rustmemc 2 O"),
    (Format::One, b"mn rustmemc 1 E"),
];

/// The beginning of a time mark.
const MARK: &[u8] = b"mn rustmemc at ";

/// One change to the store.
#[derive(Debug, Clone)]
pub enum Record<'a> {
    /// The highest cas unique that was given out before this point.
    Heading {
        /// The cas unique.
        cas: u64,
    },
    /// The items that have expired by `time` are removed.
    Mark {
        /// The time.
        time: UnixTime,
        /// The offset of this record in its file, in bytes.
        offset: u64,
        /// The highest cas unique that was given out before this point.
        cas: u64,
    },
    /// What a key now holds.
    Put(Item<'a>),
    /// An item expires at another time.
    Touch {
        /// Its key.
        key: Cow<'a, [u8]>,
        /// When it expires.
        expiry: Expiry,
    },
    /// An item is stale, and no client has won it.
    Stale {
        /// Its key.
        key: Cow<'a, [u8]>,
        /// When it expires.
        expiry: Expiry,
        /// Its cas unique.
        cas: u64,
    },
    /// A key holds no item any more.
    Remove {
        /// The key.
        key: Cow<'a, [u8]>,
        /// The cas unique of an item that expired as soon as it was stored: it must not be used again.
        cas: Option<u64>,
    },
    /// All items are flushed. A pending flush is cancelled.
    Flush,
    /// All items are flushed at this time. This replaces a pending flush.
    FlushAt(UnixTime),
    /// A pending flush is cancelled.
    FlushNever,
}

impl Record<'_> {
    /// Appends the record to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let mut cas_unique = None;
        match self {
            Record::Heading { cas } => {
                out.extend_from_slice(HEADING);
                cas_unique = Some(*cas);
            }
            Record::Mark { time, offset, cas } => {
                add_number(out, MARK, (*time).into());
                add_number(out, b" ", *offset);
                cas_unique = Some(*cas);
            }
            Record::Put(item) => {
                let value = item.value();
                let binary = write_verb_and_key(out, "ms ", item.key(), item.marks.binary_key);
                add_number(out, b" ", item.value_length() as u64);
                out.extend_from_slice(binary.as_bytes());
                if item.flags != 0 {
                    add_number(out, b" F", item.flags.into());
                }
                if let Some(time) = item.expiry.time() {
                    add_time(out, time);
                }
                if item.marks.stale {
                    out.extend_from_slice(b" I");
                }
                opaque::add(out, start, Some(item.cas), Some(&value));
                out.extend_from_slice(&value);
                out.extend_from_slice(b"\r\n");
                // A real memcached cannot store an item as stale, so a second record makes it stale. A replay here
                // needs only the `I` of the first line.
                if item.marks.stale {
                    let (key, expiry, cas) = (item.key().into(), item.expiry, item.cas);
                    Record::Stale { key, expiry, cas }.write(out);
                }
                return;
            }
            Record::Touch { key, expiry } => {
                let binary = write_verb_and_key(out, "mg ", key, false);
                out.extend_from_slice(binary.as_bytes());
                add_time(out, expiry.time().unwrap_or(0));
            }
            Record::Stale { key, expiry, cas } => {
                let binary = write_verb_and_key(out, "md ", key, false);
                out.extend_from_slice(binary.as_bytes());
                out.extend_from_slice(b" I");
                add_time(out, expiry.time().unwrap_or(0));
                cas_unique = Some(*cas);
            }
            Record::Remove { key, cas } => {
                let binary = write_verb_and_key(out, "md ", key, false);
                out.extend_from_slice(binary.as_bytes());
                cas_unique = *cas;
            }
            Record::Flush => out.extend_from_slice(b"flush_all 0"),
            // A client would name the next second: see `Datastore::flush_later`.
            Record::FlushAt(time) => {
                let time = time.saturating_add(1);
                add_number(out, b"flush_all ", time.min(LAST_PLAIN_TIME).into());
                add_late_time(out, time);
            }
            Record::FlushNever => add_number(out, b"flush_all ", LONG_PAST),
        }
        opaque::add(out, start, cas_unique, None);
    }
}

/// Writes the verb and the key. Returns the flag `b` if the key was written in base64.
fn write_verb_and_key(out: &mut Vec<u8>, verb: &str, key: &[u8], binary: bool) -> &'static str {
    out.extend_from_slice(verb.as_bytes());
    // A key that a classic command can contain is written as it is: every memcached accepts it.
    if binary || key.iter().any(|byte| matches!(byte, b' ' | b'\n')) {
        out.extend_from_slice(&base64::encode(key));
        " b"
    } else {
        out.extend_from_slice(key);
        ""
    }
}

fn add_number(out: &mut Vec<u8>, before: &[u8], number: u64) {
    out.extend_from_slice(before);
    // Writing to a Vec cannot fail.
    let _ = write_decimal(number, out);
}

/// Adds the flag `T`, and if no client can name this time, `L` too.
fn add_time(out: &mut Vec<u8>, time: UnixTime) {
    add_number(out, b" T", time.min(LAST_PLAIN_TIME).into());
    add_late_time(out, time);
}

fn add_late_time(out: &mut Vec<u8>, time: UnixTime) {
    if time > LAST_PLAIN_TIME {
        add_number(out, b" L", time.into());
    }
}

/// The time that the flag `L` of a line has.
fn late_time(content: &[u8]) -> Option<UnixTime> {
    // Not the verb, and not the key, which may begin with any letter.
    let words = content.split(|&byte| byte == b' ').skip(2);
    let mut late = words.filter_map(|word| number(word.strip_prefix(b"L")?));
    late.next()?.try_into().ok()
}

/// A record's line, parsed.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// The line is the whole record.
    Whole(Record<'a>),
    /// The line announces more data than the file has.
    CutShort,
    /// The item's data follows: as many bytes as its value has, and `\r\n`. The data has this checksum.
    Announced(Item<'static>, DataChecksum),
}

/// Parses the records of one file, in their order.
#[derive(Debug, Clone)]
pub struct Parser {
    /// The format of the next record, if it is no heading.
    pub format: Format,
    /// For the bytes of the next item.
    room: Vec<u8>,
}

/// An item with more bytes than this gets room of its own.
const ROOM: usize = 4096;

impl Default for Parser {
    /// A parser for a new file.
    fn default() -> Self {
        Parser {
            format: Format::Two,
            room: Vec::new(),
        }
    }
}

/// Whether bytes are the beginning of a file, or a part of the beginning.
pub fn is_beginning_of_file(bytes: &[u8]) -> bool {
    let mut beginnings = BEGINNINGS.iter();
    beginnings.any(|(_, begin)| bytes.starts_with(begin) || begin.starts_with(bytes))
}

impl Parser {
    /// Parses a record's line, including its end, with the parser of clients' lines. The file has `rest` bytes behind
    /// it. A heading changes the format.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse<'l>(&mut self, line: &'l [u8], rest: u64) -> Result<Parsed<'l>, &'static str> {
        let text = line
            .strip_suffix(b"\r\n")
            .ok_or("the line does not end in \\r\\n")?;
        let mut beginnings = BEGINNINGS.iter();
        let heading = match text.starts_with(b"mn") {
            true => beginnings.find(|(_, begin)| text.starts_with(begin)),
            false => None,
        };
        let format = heading.map_or(self.format, |(format, _)| *format);
        let opaque = opaque::parse(text, format)?;
        self.format = format;
        parse(line, opaque, rest, &mut self.room)
    }

    /// Takes back an announced item, to use its memory for the next one.
    pub fn reuse(&mut self, item: Item<'static>) {
        self.room = item.into_room();
        if self.room.capacity() != ROOM {
            self.room = Vec::with_capacity(ROOM);
        }
    }
}

/// Parses a record's line. Its opaque has been parsed, and the line's checksum is right.
fn parse<'l>(
    line: &'l [u8],
    opaque: Opaque<'l>,
    rest: u64,
    room: &mut Vec<u8>,
) -> Result<Parsed<'l>, &'static str> {
    const NO_CAS: &str = "the line has no cas unique";
    let content = opaque.content;
    let time = |exptime: Exptime| match exptime {
        Exptime::At(date) => Expiry::at(late_time(content).map_or(date, u64::from)),
        // Times in a log are dates, so the value of `now` makes no difference.
        exptime => exptime.expiry(0),
    };
    let request = protocol::parse(line)
        .request
        .map_err(|_| "the line is not a record")?;
    Ok(Parsed::Whole(match request {
        Request::MetaSet(storage, _) if storage.bytes as u64 + 2 > rest => {
            return Ok(Parsed::CutShort);
        }
        Request::MetaSet(storage, _) => {
            let mut item = Item::blank_in(
                std::mem::take(room),
                &storage.key.bytes,
                storage.flags,
                time(storage.exptime),
                storage.bytes,
            );
            // In format 1 it is the flag `E`, and the parser reads `E0` as no cas unique.
            item.cas = opaque.cas.or(storage.cas).unwrap_or(0);
            item.marks = Marks {
                stale: storage.stale,
                binary_key: storage.key.binary,
                ..Marks::default()
            };
            return Ok(Parsed::Announced(item, opaque.data));
        }
        Request::MetaGet(request) => {
            let expiry = time(request.touch.ok_or("the line has no time")?);
            Record::Touch {
                key: request.key.bytes,
                expiry,
            }
        }
        Request::MetaDelete(request) if request.invalidate => Record::Stale {
            expiry: time(request.touch.ok_or("the line has no time")?),
            cas: opaque.cas.or(request.cas).ok_or(NO_CAS)?,
            key: request.key.bytes,
        },
        Request::MetaDelete(request) => Record::Remove {
            key: request.key.bytes,
            cas: opaque.cas.or(request.cas),
        },
        Request::FlushAll(Flush::Now) => Record::Flush,
        Request::FlushAll(Flush::Later(Exptime::At(LONG_PAST))) => Record::FlushNever,
        Request::FlushAll(Flush::Later(Exptime::At(date))) => {
            let date = late_time(content).map_or(date, u64::from);
            Record::FlushAt((date - 1).try_into().map_err(|_| "the line has no time")?)
        }
        Request::MetaNoop => {
            let words: Vec<&[u8]> = content.split(|&byte| byte == b' ').collect();
            // In format 1 the cas unique is the last word.
            let (words, cas) = match (words.as_slice(), opaque.cas) {
                (words, Some(cas)) => (words, cas),
                ([words @ .., last], None) => {
                    let cas = last.strip_prefix(b"E").and_then(number);
                    (words, cas.ok_or(NO_CAS)?)
                }
                ([], None) => return Err(NO_CAS),
            };
            match words {
                [b"mn", b"rustmemc", b"at", time, offset] => {
                    const NO_NUMBER: &str = "the time mark is not of this format";
                    let time = number(time).and_then(|time| time.try_into().ok());
                    Record::Mark {
                        time: time.ok_or(NO_NUMBER)?,
                        offset: number(offset).ok_or(NO_NUMBER)?,
                        cas,
                    }
                }
                [b"mn", b"rustmemc", b"1" | b"2"] => Record::Heading { cas },
                _ => return Err("the heading is not of this format"),
            }
        }
        _ => return Err("the line is not a record"),
    }))
}

/// Whether bytes without a line end can be the beginning of one record's line: what a crash in the middle of a write
/// leaves. (Blocks of zeros or of another file cannot.)
pub fn is_beginning(bytes: &[u8]) -> bool {
    let is_text = |bytes: &[u8]| {
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let may_be =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'.' | b'+' | b'/');
        bytes.iter().all(may_be)
    };
    let is_key_and_text = |rest: &[u8]| {
        let end = rest.iter().position(|&byte| byte == b' ');
        let (key, rest) = rest.split_at(end.unwrap_or(rest.len()));
        // A block of the disk that was never written has only zeros; a key may end with a few.
        let is_zeros = bytes.ends_with(&[0; 8]);
        key.len() <= MAX_KEY_IN_BASE64 && !is_zeros && is_text(rest)
    };
    [&b"ms "[..], b"mg ", b"md ", b"mn rustmemc ", b"flush_all "]
        .iter()
        .any(|verb| match bytes.strip_prefix(*verb) {
            None => verb.starts_with(bytes),
            Some(rest) if verb.starts_with(b"mn") || verb.starts_with(b"flush") => is_text(rest),
            Some(rest) => is_key_and_text(rest),
        })
}

/// Parses decimal digits.
fn number(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(record: &Record<'_>) -> String {
        let mut out = Vec::new();
        record.write(&mut out);
        String::from_utf8(out).expect("the record is plain text")
    }

    fn item(key: &[u8], value: &[u8]) -> Item<'static> {
        let mut item = Item::new(key, 0, Expiry::NEVER, &[value]);
        item.cas = 7;
        item
    }

    #[test]
    fn a_record_is_written_as_a_memcached_command() {
        assert_eq!(
            written(&Record::Put(item(b"k", b"value"))),
            "ms k 5 OH69k0De9prY\r\nvalue\r\n"
        );
        assert!(
            written(&Record::Remove {
                key: b"k"[..].into(),
                cas: None
            })
            .starts_with("md k O")
        );
        assert!(written(&Record::Flush).starts_with("flush_all 0 O"));
        assert!(written(&Record::FlushAt(1_799_999_999)).starts_with("flush_all 1800000000 O"));
    }

    #[test]
    fn a_key_with_a_space_is_written_in_base64() {
        let line = written(&Record::Remove {
            key: b"a b"[..].into(),
            cas: None,
        });
        assert!(line.starts_with("md YSBi b O"), "{line}");
        match Parser::default().parse(line.as_bytes(), 0) {
            Ok(Parsed::Whole(Record::Remove { key, .. })) => assert_eq!(*key, b"a b"[..]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stale_item_is_written_as_two_records() {
        let mut stale = item(b"k", b"v");
        stale.marks.stale = true;
        let text = written(&Record::Put(stale));
        assert_eq!(text.lines().count(), 3);
        assert!(
            text.lines()
                .last()
                .expect("there are lines")
                .starts_with("md k I T0 OH")
        );
    }
}
