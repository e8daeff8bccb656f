//! Answers: [`Response`] -> bytes. (The Go program's `serialization_handler`.)
//!
//! The other half of `protocol`: that turns a line into a `Request`, this turns a `Response` into
//! lines. It writes to anything; that nothing is sent a fragment at a time is the caller's care.

use std::io::{self, Write};

use crate::VERSION_SPOKEN;
use crate::datastore::Item;
use crate::protocol::{ProtocolError, WithCas};

/// One answer, or one piece of an answer that has several: a `get` answers with a [`Response::Value`]
/// for each hit and then [`Response::End`].
#[derive(Debug, Clone)]
pub enum Response {
    /// `VALUE <key> <flags> <bytes> [<cas unique>]` and the data block.
    Value(Item, WithCas),
    /// `END`: no more values, or no more stats.
    End,
    /// `STORED`
    Stored,
    /// `NOT_STORED`: the command's condition was not met.
    NotStored(Unmet),
    /// `EXISTS`: somebody else changed the item; its cas unique is this now.
    Exists(u64),
    /// `NOT_FOUND`
    NotFound,
    /// `DELETED`
    Deleted,
    /// `TOUCHED`
    Touched,
    /// The number that `incr` or `decr` arrived at.
    Number(u64),
    /// `OK`
    Ok,
    /// `RESET`
    Reset,
    /// `VERSION <version>`
    Version,
    /// `STAT <name> <value>`
    Stat(String, String),
    /// `ITEM <key> [<bytes> b; <unix time> s]`: an item in a list of keys.
    Listed(Item),
    /// An error line.
    Error(ProtocolError),
}

/// Which condition kept a value from being stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmet {
    /// `add` wants a key that holds nothing.
    KeyIsTaken,
    /// `replace`, `append` and `prepend` want a key that holds an item.
    KeyIsFree,
    /// `append` or `prepend` would make the item larger than `-I` allows.
    TooLarge,
}

impl Response {
    /// Writes the answer as it goes over the wire.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Response::Value(item, _) => {
                self.write_line(out)?;
                out.write_all(item.data_block())
            }
            _ => self.write_line(out),
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
                write!(out, " {} {}", item.flags, item.value().len())?;
                if *with_cas == WithCas::Yes {
                    write!(out, " {}", item.cas)?;
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
            Response::Number(number) => write!(out, "{number}\r\n"),
            Response::Ok => out.write_all(b"OK\r\n"),
            Response::Reset => out.write_all(b"RESET\r\n"),
            Response::Version => write!(out, "VERSION {VERSION_SPOKEN}\r\n"),
            Response::Stat(name, value) => write!(out, "STAT {name} {value}\r\n"),
            Response::Listed(item) => {
                out.write_all(b"ITEM ")?;
                out.write_all(item.key())?;
                let expiry = item.expiry.time().unwrap_or(0);
                write!(out, " [{} b; {expiry} s]\r\n", item.value().len())
            }
            Response::Error(error) => write!(out, "{error}\r\n"),
        }
    }

    /// Why this is the answer, for a person who reads along; `None` where the answer says it itself.
    pub fn reason(&self) -> Option<String> {
        match self {
            Response::NotStored(Unmet::KeyIsTaken) => Some("the key holds an item already".into()),
            Response::NotStored(Unmet::KeyIsFree) => Some("the key holds no item".into()),
            Response::NotStored(Unmet::TooLarge) => {
                Some("the item would be larger than -I allows".into())
            }
            Response::Exists(cas) => {
                Some(format!("the item has changed: its cas unique is {cas} now"))
            }
            Response::NotFound => Some("the key holds no item".into()),
            Response::Error(error) => error.reason(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::clock::Expiry;

    fn check(response: &Response, wire: &str) {
        let mut out = Vec::new();
        response.write(&mut out).expect("a Vec takes everything");
        assert_eq!(String::from_utf8_lossy(&out), wire);
    }

    #[test]
    fn a_value_travels_with_its_flags_its_length_and_if_wanted_its_cas_unique() {
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
    fn every_other_answer_is_one_line() {
        check(&Response::NotStored(Unmet::KeyIsFree), "NOT_STORED\r\n");
        check(&Response::Number(u64::MAX), "18446744073709551615\r\n");
        check(&Response::Stat("pid".into(), "1".into()), "STAT pid 1\r\n");
        check(&Response::Error(ProtocolError::UnknownCommand), "ERROR\r\n");
    }
}
