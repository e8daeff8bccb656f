//! The answers of the binary protocol: [`Response`] -> a header of 24 bytes, then extras, key and value.
//!
//! The header is that of the request ([`Header`]), with these differences: the first byte is 0x81, and a status is in
//! the bytes 6 and 7.
//!
//! Lesson: [34](crate::conversations::lesson_34_binary).

use std::io::{self, Write};

use super::{Code, FailedCondition, Flag, Meta, Response, Value};
use crate::VERSION_SPOKEN;
use crate::item::Item;
use crate::protocol::ProtocolError;
use crate::protocol::binary::{Command, Header, Malformed, Quiet};

/// The first byte of every answer.
const MAGIC: u8 = 0x81;

/// What became of a request: the number in the header, and the text that is sent with it, except on success.
///
/// Source: `protocol_binary.h` and `write_bin_error` of memcached 1.6.45; `TemporaryFailure` is from its wiki.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It was done.
    Success = 0x00,
    /// The key holds no item.
    NotFound = 0x01,
    /// The key holds an item already, or its item has another cas unique.
    Exists = 0x02,
    /// The item would be larger than `-I` allows.
    TooLarge = 0x03,
    /// The request does not have the parts that its command needs.
    InvalidArguments = 0x04,
    /// Nothing was appended or prepended.
    NotStored = 0x05,
    /// The value to increment or decrement is not a number.
    NotNumeric = 0x06,
    /// The client must log in first, the login failed, or the command is not allowed.
    AuthFailure = 0x20,
    /// There is no such command.
    UnknownCommand = 0x81,
    /// There is no memory for the item.
    OutOfMemory = 0x82,
    /// The append-only file cannot be written.
    TemporaryFailure = 0x86,
}

impl Status {
    /// The text that is sent with it.
    pub fn text(self) -> &'static str {
        match self {
            Status::Success => "",
            Status::NotFound => "Not found",
            Status::Exists => "Data exists for key.",
            Status::TooLarge => "Too large.",
            Status::InvalidArguments => "Invalid arguments",
            Status::NotStored => "Not stored.",
            Status::NotNumeric => "Non-numeric server-side value for incr or decr",
            Status::AuthFailure => "Auth failure.",
            Status::UnknownCommand => "Unknown command",
            Status::OutOfMemory => "Out of memory allocating item",
            Status::TemporaryFailure => "cannot write to the append-only file",
        }
    }
}

impl From<Malformed> for Status {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Lengths => Status::UnknownCommand,
            Malformed::Arguments => Status::InvalidArguments,
        }
    }
}

/// The status of an error of the text protocol.
impl From<ProtocolError> for Status {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::TooLarge => Status::TooLarge,
            ProtocolError::OutOfMemory => Status::OutOfMemory,
            ProtocolError::LogFailed => Status::TemporaryFailure,
            ProtocolError::NotNumeric => Status::NotNumeric,
            ProtocolError::UnknownStats
            | ProtocolError::StatsDetailNotAllowed
            | ProtocolError::StatsDetailUsage => Status::NotFound,
            ProtocolError::UnknownCommand => Status::UnknownCommand,
            ProtocolError::FlushNotAllowed
            | ProtocolError::Unauthenticated
            | ProtocolError::WrongPassword => Status::AuthFailure,
            _ => Status::InvalidArguments,
        }
    }
}

/// What [`Answers::write`] has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// A value, with the status `Success`.
    Value,
    /// An answer with this status, and no value of an item.
    Answer(Status),
    /// Nothing, because the request is quiet.
    Quiet,
    /// Nothing: the protocol has no `END` after a value.
    Nothing,
}

/// Writes the answers to one request.
#[derive(Debug)]
pub struct Answers<'h> {
    header: &'h Header,
    /// The key of the request: `GetK` repeats it, also if it is not found.
    key: &'h [u8],
    command: Option<Command>,
    quiet: Quiet,
    /// Whether a value was written. The `END` of a get is a miss if none was.
    has_value: bool,
}

impl<'h> Answers<'h> {
    /// The answers to this request, none of which has been written.
    pub fn new(header: &'h Header, key: &'h [u8]) -> Self {
        let (command, quiet) = match Command::of(header.opcode) {
            Some((command, quiet)) => (Some(command), quiet),
            None => (None, Quiet::No),
        };
        Answers {
            header,
            key,
            command,
            quiet,
            has_value: false,
        }
    }

    /// Writes one answer, unless the request is quiet and this is its common answer.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&mut self, response: &Response<'_>, out: &mut impl Write) -> io::Result<Written> {
        match response {
            Response::Value(item, _) => {
                self.has_value = true;
                self.value(item, out)?;
                return Ok(match self.command {
                    Some(Command::Touch) => Written::Answer(Status::Success),
                    _ => Written::Value,
                });
            }
            Response::End if self.has_value => return Ok(Written::Nothing),
            _ => {}
        }
        let status = self.status(response);
        let common = match self.is_get() {
            true => Status::NotFound,
            false => Status::Success,
        };
        if status == common && self.quiet == Quiet::Yes {
            return Ok(Written::Quiet);
        }
        let number;
        let (key, value) = match response {
            _ if status == Status::NotFound && self.repeats_key() => (self.key, &b""[..]),
            Response::Stat(name, value) => (name.as_bytes(), value.as_bytes()),
            Response::Version => (&b""[..], VERSION_SPOKEN.as_bytes()),
            Response::Meta(Meta {
                code: Code::Value(Value::Number(result)),
                ..
            }) => {
                number = result.to_be_bytes();
                (&b""[..], &number[..])
            }
            _ => (&b""[..], status.text().as_bytes()),
        };
        self.frame(status, cas(response), key, value, out)?;
        Ok(Written::Answer(status))
    }

    /// Writes an error status, whatever the request is.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn fail(&self, status: Status, out: &mut impl Write) -> io::Result<()> {
        self.frame(status, 0, &[], status.text().as_bytes(), out)
    }

    /// Writes a success with this value.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn succeed(&self, value: &[u8], out: &mut impl Write) -> io::Result<()> {
        match self.quiet {
            Quiet::Yes => Ok(()),
            Quiet::No => self.frame(Status::Success, 0, &[], value, out),
        }
    }

    fn is_get(&self) -> bool {
        matches!(
            self.command,
            Some(Command::Get | Command::GetK | Command::Gat | Command::GatK | Command::Touch)
        )
    }

    fn repeats_key(&self) -> bool {
        matches!(self.command, Some(Command::GetK | Command::GatK))
    }

    /// The status of an answer. Requests that store, change or delete are those of meta commands
    /// (`protocol/binary.rs`), so they are answered with a [`Meta`].
    fn status(&self, response: &Response<'_>) -> Status {
        match response {
            // No value was found, or these are the last stats.
            Response::End if self.is_get() => Status::NotFound,
            Response::Error(error) => (*error).into(),
            Response::Meta(meta) => match meta.code {
                Code::Done | Code::Value(_) => Status::Success,
                Code::Miss | Code::NotFound => Status::NotFound,
                Code::Exists(_) => Status::Exists,
                Code::NotStored(FailedCondition::KeyIsTaken) => Status::Exists,
                Code::NotStored(FailedCondition::KeyIsFree)
                    if self.command == Some(Command::Replace) =>
                {
                    Status::NotFound
                }
                Code::NotStored(_) => Status::NotStored,
            },
            _ => Status::Success,
        }
    }

    /// Writes an item that was found.
    fn value(&self, item: &Item<'_>, out: &mut impl Write) -> io::Result<()> {
        let flags = item.flags.to_be_bytes();
        let key = match self.repeats_key() {
            true => item.key(),
            false => b"",
        };
        let length = match self.command {
            Some(Command::Touch) => 0,
            _ => item.value_length(),
        };
        self.header(
            Status::Success,
            item.cas,
            flags.len(),
            key.len(),
            length,
            out,
        )?;
        out.write_all(&flags)?;
        out.write_all(key)?;
        match length {
            0 => Ok(()),
            _ => item.write_value(out),
        }
    }

    /// Writes an answer without extras.
    fn frame(
        &self,
        status: Status,
        cas: u64,
        key: &[u8],
        value: &[u8],
        out: &mut impl Write,
    ) -> io::Result<()> {
        self.header(status, cas, 0, key.len(), value.len(), out)?;
        out.write_all(key)?;
        out.write_all(value)
    }

    /// Writes the header of an answer, whose parts have these lengths in bytes.
    fn header(
        &self,
        status: Status,
        cas: u64,
        extras: usize,
        key: usize,
        value: usize,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let [k0, k1] = (key as u16).to_be_bytes();
        let [s0, s1] = (status as u16).to_be_bytes();
        out.write_all(&[MAGIC, self.header.opcode, k0, k1, extras as u8, 0, s0, s1])?;
        // A value has at most 1 GB.
        out.write_all(&((extras + key + value) as u32).to_be_bytes())?;
        out.write_all(&self.header.opaque)?;
        out.write_all(&cas.to_be_bytes())
    }
}

/// The cas unique that the answer shows.
fn cas(response: &Response<'_>) -> u64 {
    let Response::Meta(meta) = response else {
        return 0;
    };
    let shown = meta.flags.iter().find_map(|flag| match flag {
        Flag::Cas(cas) => Some(*cas),
        _ => None,
    });
    shown
        .filter(|_| matches!(meta.code, Code::Done | Code::Value(_)))
        .unwrap_or(0)
}
