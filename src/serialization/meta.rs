//! The answers to meta commands.

use std::borrow::Cow;
use std::io::{self, Write};

use super::FailedCondition;
use crate::item::Item;
use crate::protocol::{base64, write_decimal};

/// `<code> [<bytes>] <flags>*`, and the data block if the code is `VA`.
#[derive(Debug, Clone)]
pub struct Meta<'a> {
    /// The result of the command.
    pub code: Code<'a>,
    /// The flags that the answer shows.
    pub flags: Vec<Flag<'a>>,
    /// Whether the answer is not sent, because of `q`.
    pub hidden: bool,
}

/// The result of a meta command.
#[derive(Debug, Clone)]
pub enum Code<'a> {
    /// `HD`: done.
    Done,
    /// `VA`: done, and the value follows.
    Value(Value<'a>),
    /// `EN`: the item to read does not exist.
    Miss,
    /// `NF`: the item to change does not exist.
    NotFound,
    /// `NS`: this condition was not met.
    NotStored(FailedCondition),
    /// `EX`: the item's cas unique is not that of the request. This is the item's.
    Exists(u64),
}

/// A value in the answer to a meta command.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// The value of an item.
    Item(Item<'a>),
    /// The new number after `ma`.
    Number(u64),
}

/// A flag in the answer to a meta command.
#[derive(Debug, Clone)]
pub enum Flag<'a> {
    /// The opaque as the client sent it, with its letter.
    Opaque(&'a [u8]),
    /// The key, and whether it is written in base64.
    Key(Cow<'a, [u8]>, bool),
    /// The cas unique.
    Cas(u64),
    /// The client flags.
    ClientFlags(u32),
    /// Whether the item had been read before.
    Hit(bool),
    /// Seconds since the item was last read.
    LastAccess(u32),
    /// The size of the value in bytes.
    Size(usize),
    /// The TTL in seconds; `None`: the item never expires.
    Ttl(Option<u32>),
    /// `W`: this client won. It should send a new value.
    Won,
    /// `Z`: another client has won already.
    Lost,
    /// `X`: the value is out of date.
    Stale,
}

impl Meta<'_> {
    /// Writes the line without the data block that may follow it.
    pub(super) fn write_line(&self, out: &mut impl Write) -> io::Result<()> {
        match &self.code {
            Code::Done => out.write_all(b"HD")?,
            Code::Value(Value::Item(item)) => {
                out.write_all(b"VA ")?;
                write_decimal(item.value_length() as u64, out)?;
            }
            Code::Value(Value::Number(number)) => write!(out, "VA {}", number.to_string().len())?,
            Code::Miss => out.write_all(b"EN")?,
            Code::NotFound => out.write_all(b"NF")?,
            Code::NotStored(_) => out.write_all(b"NS")?,
            Code::Exists(_) => out.write_all(b"EX")?,
        }
        for flag in &self.flags {
            out.write_all(b" ")?;
            match flag {
                Flag::Opaque(opaque) => out.write_all(opaque)?,
                Flag::Key(key, is_binary) => {
                    out.write_all(b"k")?;
                    out.write_all(&encoded_key(key, *is_binary))?;
                    if *is_binary {
                        out.write_all(b" b")?;
                    }
                }
                Flag::Cas(cas) => write_number(b"c", *cas, out)?,
                Flag::ClientFlags(flags) => write_number(b"f", *flags, out)?,
                Flag::Hit(true) => out.write_all(b"h1")?,
                Flag::Hit(false) => out.write_all(b"h0")?,
                Flag::LastAccess(seconds) => write_number(b"l", *seconds, out)?,
                Flag::Size(bytes) => write_number(b"s", *bytes as u64, out)?,
                Flag::Ttl(Some(seconds)) => write_number(b"t", *seconds, out)?,
                Flag::Ttl(None) => out.write_all(b"t-1")?,
                Flag::Won => out.write_all(b"W")?,
                Flag::Lost => out.write_all(b"Z")?,
                Flag::Stale => out.write_all(b"X")?,
            }
        }
        out.write_all(b"\r\n")
    }
}

/// Writes the letter of a flag and its number.
fn write_number(letter: &[u8], number: impl Into<u64>, out: &mut impl Write) -> io::Result<()> {
    out.write_all(letter)?;
    write_decimal(number, out)
}

/// A key as meta commands write it: a binary key in base64, any other key as it is.
pub(super) fn encoded_key(key: &[u8], is_binary: bool) -> Cow<'_, [u8]> {
    if is_binary {
        base64::encode(key).into()
    } else {
        key.into()
    }
}
