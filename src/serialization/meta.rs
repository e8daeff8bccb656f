//! The answers to meta commands.

use std::borrow::Cow;
use std::io::{self, Write};

use super::FailedCondition;
use crate::item::Item;
use crate::protocol::base64;

/// `<code> [<bytes>] <flags>*`, and the data block where the code is `VA`.
#[derive(Debug, Clone)]
pub struct Meta<'a> {
    /// What came of the command.
    pub code: Code<'a>,
    /// What it has to show.
    pub flags: Vec<Flag<'a>>,
    /// `q` has asked not to hear of it.
    pub hidden: bool,
}

/// What came of a meta command.
#[derive(Debug, Clone)]
pub enum Code<'a> {
    /// `HD`: done.
    Done,
    /// `VA`: done, and here is the value.
    Value(Value<'a>),
    /// `EN`: there is no such item to get.
    Miss,
    /// `NF`: there is no such item to change.
    NotFound,
    /// `NS`: a condition was not met.
    NotStored(FailedCondition),
    /// `EX`: the item has another cas unique, namely this one.
    Exists(u64),
}

/// A value in the answer to a meta command.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// An item's.
    Of(Item<'a>),
    /// The number that `ma` arrived at.
    Number(u64),
}

/// A flag in the answer to a meta command.
#[derive(Debug, Clone)]
pub enum Flag<'a> {
    /// As it came, with its letter.
    Opaque(&'a [u8]),
    /// The key, and whether it goes in base64.
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
    /// Seconds to live; `None`: for ever.
    Ttl(Option<u32>),
    /// `W`: it is up to this client to bring a new value.
    Won,
    /// `Z`: somebody else has won already.
    Lost,
    /// `X`: the value is out of date.
    Stale,
}

impl Meta<'_> {
    /// Writes the line without the data block that may follow it.
    pub(super) fn write_line(&self, out: &mut impl Write) -> io::Result<()> {
        match &self.code {
            Code::Done => out.write_all(b"HD")?,
            Code::Value(Value::Of(item)) => write!(out, "VA {}", item.value_length())?,
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
                Flag::Key(key, binary) => {
                    out.write_all(b"k")?;
                    out.write_all(&spelled(key, *binary))?;
                    if *binary {
                        out.write_all(b" b")?;
                    }
                }
                Flag::Cas(cas) => write!(out, "c{cas}")?,
                Flag::ClientFlags(flags) => write!(out, "f{flags}")?,
                Flag::Hit(hit) => write!(out, "h{}", u8::from(*hit))?,
                Flag::LastAccess(seconds) => write!(out, "l{seconds}")?,
                Flag::Size(bytes) => write!(out, "s{bytes}")?,
                Flag::Ttl(Some(seconds)) => write!(out, "t{seconds}")?,
                Flag::Ttl(None) => out.write_all(b"t-1")?,
                Flag::Won => out.write_all(b"W")?,
                Flag::Lost => out.write_all(b"Z")?,
                Flag::Stale => out.write_all(b"X")?,
            }
        }
        out.write_all(b"\r\n")
    }
}

/// A key as a meta command spells it.
pub(super) fn spelled(key: &[u8], binary: bool) -> Cow<'_, [u8]> {
    if binary {
        base64::encode(key).into()
    } else {
        key.into()
    }
}
