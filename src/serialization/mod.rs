//! Answers: [`Response`] -> bytes. (The Go program's `serialization_handler`.)
//!
//! This is the counterpart of `protocol`, which turns a line into a `Request`. It can write to any `Write`, in small
//! pieces: the caller must buffer them.

pub mod binary;
pub mod explain;
mod meta;

use std::fmt;
use std::io::{self, Write};

use crate::VERSION_SPOKEN;
use crate::item::{Item, UnixTime};
use crate::protocol::{Internals, ProtocolError, WithCas, write_decimal};
use meta::encoded_key;
pub use meta::{Code, Flag, Meta, Value};

/// One answer, or one part of an answer that has several parts: `get` answers with a [`Response::Value`] for each hit,
/// and then with [`Response::End`].
#[derive(Debug, Clone)]
pub enum Response<'a> {
    /// `VALUE <key> <flags> <bytes> [<cas unique>]` and the data block.
    Value(Item<'a>, WithCas),
    /// `END`: no more values, or no more stats.
    End,
    /// `STORED`
    Stored,
    /// `NOT_STORED`: the command's condition was not met.
    NotStored(FailedCondition),
    /// `EXISTS`: the item has been changed. This is its cas unique now.
    Exists(u64),
    /// `NOT_FOUND`
    NotFound,
    /// `DELETED`
    Deleted,
    /// `TOUCHED`
    Touched,
    /// The new number after `incr` or `decr`.
    Number(u64),
    /// `OK`
    Ok,
    /// `OK` to a command that has no effect here.
    OkWithoutEffect(Internals),
    /// `RESET`
    Reset,
    /// `VERSION <version>`
    Version,
    /// `STAT <name> <value>`
    Stat(String, String),
    /// `ITEM <key> [<bytes> b; <unix time> s]`: an item in a list of keys.
    Listed(Item<'a>),
    /// The answer to a meta command.
    Meta(Meta<'a>),
    /// `MN`
    MetaNoop,
    /// `ME <key> …`: the metadata of an item (`me`). Its times are relative to this time.
    Described(Item<'a>, UnixTime),
    /// `key=<key> …`: the metadata of an item in the list of all items (`lru_crawler metadump`).
    Dumped(Item<'a>),
    /// `mg <key>`: an item in the list of all keys (`lru_crawler mgdump`).
    DumpedKey(Item<'a>),
    /// `EN`: the end of that list.
    DumpEnd,
    /// `PREFIX <prefix> …`: the counters of a prefix (`stats detail dump`).
    Prefix {
        /// The prefix.
        prefix: &'a [u8],
        /// Its counters: `get`, `hit`, `set`, `del`.
        counts: [u64; 4],
    },
    /// An error line.
    Error(ProtocolError),
}

/// The condition that was not met, so that a value was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedCondition {
    /// `add` needs a key that holds no item.
    KeyIsTaken,
    /// `replace`, `append` and `prepend` need a key that holds an item.
    KeyIsFree,
    /// `append` or `prepend` would make the item larger than `-I` allows.
    TooLarge,
}

impl<'a> Response<'a> {
    /// Whether the answer is not sent, because the client asked for that (`q`).
    pub fn is_hidden(&self) -> bool {
        matches!(self, Response::Meta(Meta { hidden: true, .. }))
    }

    /// The item whose data block follows the line.
    pub fn item(&self) -> Option<&Item<'a>> {
        match self {
            Response::Value(item, _)
            | Response::Meta(Meta {
                code: Code::Value(Value::Item(item)),
                ..
            }) => Some(item),
            _ => None,
        }
    }

    /// Writes the answer as it is sent.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        if self.is_hidden() {
            return Ok(());
        }
        self.write_line(out)?;
        match (self.item(), self) {
            (Some(item), _) => {
                item.write_value(out)?;
                out.write_all(b"\r\n")
            }
            (
                None,
                Response::Meta(Meta {
                    code: Code::Value(Value::Number(number)),
                    ..
                }),
            ) => {
                write_decimal(*number, out)?;
                out.write_all(b"\r\n")
            }
            _ => Ok(()),
        }
    }

    /// Writes the answer's line without the data block that may follow it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_line(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Response::Value(item, with_cas) => {
                out.write_all(b"VALUE ")?;
                out.write_all(item.key())?;
                out.write_all(b" ")?;
                write_decimal(item.flags, out)?;
                out.write_all(b" ")?;
                write_decimal(item.value_length() as u64, out)?;
                if *with_cas == WithCas::Yes {
                    out.write_all(b" ")?;
                    write_decimal(item.cas, out)?;
                }
                out.write_all(b"\r\n")
            }
            Response::End => out.write_all(b"END\r\n"),
            Response::Stored => out.write_all(b"STORED\r\n"),
            Response::NotStored(_) => out.write_all(b"NOT_STORED\r\n"),
            Response::Exists(_) => out.write_all(b"EXISTS\r\n"),
            Response::NotFound => out.write_all(b"NOT_FOUND\r\n"),
            Response::Deleted => out.write_all(b"DELETED\r\n"),
            Response::Touched => out.write_all(b"TOUCHED\r\n"),
            Response::Number(number) => {
                write_decimal(*number, out)?;
                out.write_all(b"\r\n")
            }
            Response::Ok | Response::OkWithoutEffect(_) => out.write_all(b"OK\r\n"),
            Response::Reset => out.write_all(b"RESET\r\n"),
            Response::Version => write!(out, "VERSION {VERSION_SPOKEN}\r\n"),
            Response::Stat(name, value) => write!(out, "STAT {name} {value}\r\n"),
            Response::Listed(item) => {
                out.write_all(b"ITEM ")?;
                out.write_all(item.key())?;
                let expiry = item.expiry.time().unwrap_or(0);
                write!(out, " [{} b; {expiry} s]\r\n", item.value_length())
            }
            Response::Meta(meta) => meta.write_line(out),
            Response::MetaNoop => out.write_all(b"MN\r\n"),
            Response::Described(item, now) => {
                out.write_all(b"ME ")?;
                out.write_all(&encoded_key(item.key(), item.marks.binary_key))?;
                write_exp(
                    item.expiry.time().map(|time| time.saturating_sub(*now)),
                    out,
                )?;
                let la = now.saturating_sub(item.last_access);
                write!(
                    out,
                    " la={la} cas={} fetch={} ",
                    item.cas,
                    yes_or_no(item.fetched)
                )?;
                write!(out, "cls=1 size={}\r\n", size(item))
            }
            Response::Dumped(item) => {
                out.write_all(b"key=")?;
                write_url_encoded(item.key(), out)?;
                write_exp(item.expiry.time(), out)?;
                write!(
                    out,
                    " la={} cas={} fetch={} ",
                    item.last_access,
                    item.cas,
                    yes_or_no(item.fetched)
                )?;
                // memcached ends this line with a space and `\n`, without `\r`.
                writeln!(out, "cls=1 size={} flags={} ", size(item), item.flags)
            }
            Response::DumpedKey(item) => {
                out.write_all(b"mg ")?;
                out.write_all(&encoded_key(item.key(), item.marks.binary_key))?;
                let flag = if item.marks.binary_key { " b" } else { "" };
                write!(out, "{flag}\r\n")
            }
            Response::DumpEnd => out.write_all(b"EN\r\n"),
            Response::Prefix { prefix, counts } => {
                out.write_all(b"PREFIX ")?;
                out.write_all(prefix)?;
                let [gets, hits, sets, deletes] = counts;
                write!(out, " get {gets} hit {hits} set {sets} del {deletes}\r\n")
            }
            Response::Error(error) => write!(out, "{error}\r\n"),
        }
    }

    /// The reason for this answer, for people; `None` if the answer is clear enough.
    pub fn reason(&self) -> Option<String> {
        match self {
            Response::NotStored(condition) => Some(condition.to_string()),
            Response::Exists(cas) => Some(item_has_changed(*cas)),
            Response::NotFound => Some(FailedCondition::KeyIsFree.to_string()),
            Response::Meta(meta) => match &meta.code {
                Code::NotStored(condition) => Some(condition.to_string()),
                Code::Exists(cas) => Some(item_has_changed(*cas)),
                Code::NotFound | Code::Miss => Some(FailedCondition::KeyIsFree.to_string()),
                Code::Done | Code::Value(_) => None,
            },
            Response::OkWithoutEffect(internals) => Some(internals.reason().to_owned()),
            Response::Error(error) => error.reason(),
            _ => None,
        }
    }
}

impl fmt::Display for FailedCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FailedCondition::KeyIsTaken => "the key already holds an item",
            FailedCondition::KeyIsFree => "the key holds no item",
            FailedCondition::TooLarge => "the item would be larger than -I allows",
        })
    }
}

/// The reason of `EXISTS`.
const ITEM_HAS_CHANGED: &str = "the item has changed";

fn item_has_changed(cas: u64) -> String {
    format!("{ITEM_HAS_CHANGED}; its cas unique is now {cas}")
}

/// Writes the expiry of an item; `None`: it never expires.
fn write_exp(exp: Option<UnixTime>, out: &mut impl Write) -> io::Result<()> {
    match exp {
        Some(exp) => write!(out, " exp={exp}"),
        None => out.write_all(b" exp=-1"),
    }
}

/// Writes a key with `%` and two digits in place of each byte that may not be in a URL.
pub(crate) fn write_url_encoded(key: &[u8], out: &mut impl Write) -> io::Result<()> {
    for &byte in key {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.write_all(&[byte])?
            }
            _ => write!(out, "%{byte:02X}")?,
        }
    }
    Ok(())
}

fn yes_or_no(is_yes: bool) -> &'static str {
    if is_yes { "yes" } else { "no" }
}

fn size(item: &Item<'_>) -> usize {
    Item::size_in_memcached(item.key(), item.flags, item.value_length())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Expiry;

    fn check(response: &Response, wire: &str) {
        let mut out = Vec::new();
        response.write(&mut out).expect("a Vec accepts every write");
        assert_eq!(String::from_utf8_lossy(&out), wire);
    }

    #[test]
    fn a_value_line_has_flags_and_length_and_the_cas_unique_if_wanted() {
        let mut item = Item::new(b"k", 7, Expiry::NEVER, &[b"a\r\nb"]);
        item.cas = 42;
        check(
            &Response::Value(item.clone(), WithCas::No),
            "VALUE k 7 4\r\na\r\nb\r\n",
        );
        check(
            &Response::Value(item, WithCas::Yes),
            "VALUE k 7 4 42\r\na\r\nb\r\n",
        );
    }

    #[test]
    fn an_answer_without_a_value_is_one_line() {
        check(
            &Response::NotStored(FailedCondition::KeyIsFree),
            "NOT_STORED\r\n",
        );
        check(&Response::Number(u64::MAX), "18446744073709551615\r\n");
        check(&Response::Stat("pid".into(), "1".into()), "STAT pid 1\r\n");
        check(&Response::Error(ProtocolError::UnknownCommand), "ERROR\r\n");
    }
}
