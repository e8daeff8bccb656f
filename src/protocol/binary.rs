//! The binary protocol: a header of 24 bytes, then extras, key and value -> [`Request`].
//!
//! It is deprecated: the meta commands can do the same. But many clients speak it, some of them by default. A
//! connection speaks binary if its first byte is [`MAGIC`], and stays with it.
//!
//! ```text
//!  byte     0          1          2          3
//!    0 | magic    | opcode   | length of the key   |
//!    4 | length of| 0        | 0 (in an answer:    |
//!      | extras   |          |    the status)      |
//!    8 | length of all that follows the header     |
//!   12 | opaque: the answer has the same           |
//!   16 | cas unique, 0 for none                    |
//!      |                                           |
//!   24 | extras (flags, exptime ...), key, value   |
//! ```
//!
//! All numbers are big-endian. A quiet request (`GetQ`, `SetQ`) has no answer in the common case, which is a miss of a
//! get, and the success of the others.
//!
//! Source: memcached's wiki, "BinaryProtocolRevamped", and `proto_bin.c` of memcached 1.6.45 where that is silent.
//!
//! Lesson: [34](crate::conversations::lesson_34_binary).

use super::request::{
    Arithmetic, Detail, Direction, End, Flush, Key, Keys, MetaDelete, OnFailure, Request,
    Retrieval, ReturnFlags, StatsTopic, Storage, StoreMode, Vivify, WithCas,
};
use super::{Answer, Exptime, Parsed, ProtocolError, classic};
use crate::item::MAX_KEY;

/// The first byte of every request.
pub const MAGIC: u8 = 0x80;

/// The largest body: 1 GB, as in memcached.
const MAX_BODY: usize = 1 << 30;

/// The exptime of an increment that must not create the item.
const DO_NOT_CREATE: u32 = u32::MAX;

/// The header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What to do. It may be unknown: see [`Command::of`].
    pub opcode: u8,
    /// The length of the key in bytes.
    pub key_length: usize,
    /// The length of the extras in bytes.
    pub extras_length: usize,
    /// The length of extras, key and value together, in bytes.
    pub body_length: usize,
    /// What the answer must repeat.
    pub opaque: [u8; 4],
    /// The cas unique to compare with. 0: none.
    pub cas: u64,
}

/// Why a request is malformed. It is answered with a status, and then the connection is closed, because it is not known
/// where the next request begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Extras and key are longer than the body.
    Lengths,
    /// The body is longer than 1 GB, the key is longer than 250 bytes, or the command does not have these parts.
    Arguments,
}

impl Header {
    /// Its length in bytes.
    pub const LENGTH: usize = 24;

    /// Parses a header. `None`: it does not begin with [`MAGIC`].
    pub fn parse(bytes: &[u8; Self::LENGTH]) -> Option<Self> {
        let [
            MAGIC,
            opcode,
            k0,
            k1,
            extras,
            _,
            _,
            _,
            b0,
            b1,
            b2,
            b3,
            o0,
            o1,
            o2,
            o3,
            cas @ ..,
        ] = *bytes
        else {
            return None;
        };
        Some(Header {
            opcode,
            key_length: u16::from_be_bytes([k0, k1]).into(),
            extras_length: extras.into(),
            body_length: u32::from_be_bytes([b0, b1, b2, b3]) as usize,
            opaque: [o0, o1, o2, o3],
            cas: u64::from_be_bytes(cas),
        })
    }

    /// Checks the lengths. No part of the body may be read into memory before this.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn check(&self) -> Result<(), Malformed> {
        if self.extras_length + self.key_length > self.body_length {
            Err(Malformed::Lengths)
        } else if self.body_length > MAX_BODY || self.key_length > MAX_KEY {
            Err(Malformed::Arguments)
        } else {
            Ok(())
        }
    }

    /// The length of the value in bytes. Call this after [`Header::check`].
    pub fn value_length(&self) -> usize {
        self.body_length
            .saturating_sub(self.extras_length + self.key_length)
    }

    /// The cas unique to compare with, if there is one.
    fn compare(&self) -> Option<u64> {
        Some(self.cas).filter(|&cas| cas != 0)
    }
}

macro_rules! commands {
    ($($(#[$doc:meta])* $command:ident $name:literal = $opcode:literal $(, quiet $quiet:literal)?;)*) => {
        /// What a request asks for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Command { $($(#[$doc])* $command,)* }

        impl Command {
            /// The command with this opcode, and whether it is the quiet one.
            pub fn of(opcode: u8) -> Option<(Command, Quiet)> {
                match opcode {
                    $($opcode => Some((Command::$command, Quiet::No)),
                    $($quiet => Some((Command::$command, Quiet::Yes)),)?)*
                    _ => None,
                }
            }

            /// Its name, for `-vv`.
            pub fn name(self) -> &'static str {
                match self { $(Command::$command => $name,)* }
            }
        }
    };
}

/// Whether the common answer is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// A miss of a get, or the success of another command, has no answer.
    Yes,
    /// Every request has an answer.
    No,
}

commands! {
    /// The value of a key.
    Get "get" = 0x00, quiet 0x09;
    /// Stores a value.
    Set "set" = 0x01, quiet 0x11;
    /// Stores a value if the key holds no item.
    Add "add" = 0x02, quiet 0x12;
    /// Stores a value if the key holds an item.
    Replace "replace" = 0x03, quiet 0x13;
    /// Removes an item.
    Delete "delete" = 0x04, quiet 0x14;
    /// Adds to a number.
    Increment "increment" = 0x05, quiet 0x15;
    /// Subtracts from a number.
    Decrement "decrement" = 0x06, quiet 0x16;
    /// Closes the connection.
    Quit "quit" = 0x07, quiet 0x17;
    /// `flush_all`
    Flush "flush" = 0x08, quiet 0x18;
    /// Does nothing. After quiet requests, its answer shows that all of them are done.
    Noop "noop" = 0x0a;
    /// The server's version.
    Version "version" = 0x0b;
    /// Like `Get`, but the answer has the key too.
    GetK "getk" = 0x0c, quiet 0x0d;
    /// Appends to a value.
    Append "append" = 0x0e, quiet 0x19;
    /// Puts data in front of a value.
    Prepend "prepend" = 0x0f, quiet 0x1a;
    /// `stats`. The topic is the key.
    Stat "stat" = 0x10;
    /// Sets an item's exptime.
    Touch "touch" = 0x1c;
    /// Sets an item's exptime, and returns its value.
    Gat "gat" = 0x1d, quiet 0x1e;
    /// Like `Gat`, but the answer has the key too.
    GatK "gatk" = 0x23, quiet 0x24;
    /// The ways to log in.
    SaslMechanisms "sasl mechanisms" = 0x20;
    /// Logs in.
    SaslAuth "sasl auth" = 0x21;
    /// The second step of a login that has several. No such login is known here.
    SaslStep "sasl step" = 0x22;
}

/// Parses a request whose header was checked. `extras` and `key` are those of the body. The value has not been read.
///
/// # Errors
/// [`Malformed::Arguments`]: the command does not have these parts.
pub fn parse<'a>(header: &Header, extras: &[u8], key: &'a [u8]) -> Result<Parsed<'a>, Malformed> {
    let value = header.value_length();
    let has_no_body = header.body_length == 0;
    let request = match Command::of(header.opcode).map(|(command, _)| command) {
        None => Err(ProtocolError::UnknownCommand),
        Some(Command::SaslMechanisms) => {
            require(has_no_body)?;
            Err(ProtocolError::UnknownCommand)
        }
        Some(Command::SaslAuth | Command::SaslStep) => {
            require(extras.is_empty() && !key.is_empty())?;
            Err(ProtocolError::UnknownCommand)
        }
        Some(Command::Quit) => {
            require(has_no_body)?;
            Ok(Request::Quit)
        }
        Some(Command::Noop) => {
            require(has_no_body)?;
            Ok(Request::MetaNoop)
        }
        Some(Command::Version) => {
            require(has_no_body)?;
            Ok(Request::Version)
        }
        Some(Command::Get | Command::GetK) => {
            require(!key.is_empty() && extras.is_empty() && value == 0)?;
            Ok(get(key, None))
        }
        Some(Command::Touch | Command::Gat | Command::GatK) => {
            require(!key.is_empty() && value == 0)?;
            let [exptime] = numbers(extras)?;
            Ok(get(key, Some(exptime_of(exptime))))
        }
        Some(Command::Set) => Ok(store(header, extras, key, StoreMode::Set)?),
        Some(Command::Add) => Ok(store(header, extras, key, StoreMode::Add)?),
        Some(Command::Replace) => Ok(store(header, extras, key, StoreMode::Replace)?),
        Some(Command::Append) => Ok(store(header, extras, key, StoreMode::Append)?),
        Some(Command::Prepend) => Ok(store(header, extras, key, StoreMode::Prepend)?),
        Some(Command::Delete) => {
            require(!key.is_empty() && extras.is_empty() && value == 0)?;
            Ok(delete(header, key))
        }
        Some(Command::Increment) => Ok(calculate(header, extras, key, Direction::Up)?),
        Some(Command::Decrement) => Ok(calculate(header, extras, key, Direction::Down)?),
        Some(Command::Flush) => {
            require(key.is_empty() && value == 0)?;
            let exptime = match extras {
                [] => 0,
                _ => {
                    let [exptime] = numbers(extras)?;
                    exptime
                }
            };
            Ok(Request::FlushAll(match exptime {
                0 => Flush::Now,
                _ => Flush::Later(exptime_of(exptime)),
            }))
        }
        Some(Command::Stat) => {
            require(extras.is_empty() && value == 0)?;
            stat(key)
        }
    };
    Ok(Parsed {
        request,
        answer: Answer::Wanted,
        data_length: Some(value),
    })
}

/// Requires something of the parts of a command.
fn require(is_so: bool) -> Result<(), Malformed> {
    is_so.then_some(()).ok_or(Malformed::Arguments)
}

/// The 32-bit numbers of the extras. There must be exactly `N`.
fn numbers<const N: usize>(extras: &[u8]) -> Result<[u32; N], Malformed> {
    let (numbers, rest) = extras.as_chunks();
    require(rest.is_empty())?;
    let numbers: Result<&[[u8; 4]; N], _> = numbers.try_into();
    let numbers = numbers.map_err(|_| Malformed::Arguments)?;
    Ok(numbers.map(u32::from_be_bytes))
}

/// An exptime is unsigned here, so it cannot be in the past, except as a date.
fn exptime_of(number: u32) -> Exptime {
    i64::from(number).into()
}

/// The key. A text command cannot name a key with a space or a line feed, except in base64.
fn key_of(bytes: &[u8]) -> Key<'_> {
    Key {
        binary: bytes.iter().any(|byte| matches!(byte, b' ' | b'\n')),
        bytes: bytes.into(),
    }
}

fn get(key: &[u8], touch: Option<Exptime>) -> Request<'_> {
    Request::Get(Retrieval {
        keys: Keys::One(key),
        with_cas: WithCas::Yes,
        touch,
        end: End::Follows,
    })
}

/// The extras are the flags and the exptime, except of `Append` and `Prepend`: they have none.
fn store<'a>(
    header: &Header,
    extras: &[u8],
    key: &'a [u8],
    mode: StoreMode,
) -> Result<Request<'a>, Malformed> {
    require(!key.is_empty())?;
    let compare = header.compare();
    let [flags, exptime] = match mode {
        StoreMode::Append | StoreMode::Prepend => {
            require(extras.is_empty())?;
            [0, 0]
        }
        StoreMode::Set | StoreMode::Add | StoreMode::Replace => numbers(extras)?,
    };
    let storage = Storage {
        mode: match mode {
            // With a cas unique, they are a `cas`.
            StoreMode::Add | StoreMode::Replace if compare.is_some() => StoreMode::Set,
            _ => mode,
        },
        key: key_of(key),
        flags,
        exptime: exptime_of(exptime),
        bytes: header.value_length(),
        compare,
        cas: None,
        stale: false,
        vivify: None,
        on_failure: match mode {
            StoreMode::Set => OnFailure::RemoveOld,
            _ => OnFailure::KeepOld,
        },
    };
    Ok(Request::MetaSet(storage, with_cas()))
}

fn delete<'a>(header: &Header, key: &'a [u8]) -> Request<'a> {
    Request::MetaDelete(MetaDelete {
        key: key_of(key),
        compare: header.compare(),
        cas: None,
        invalidate: false,
        remove_value: false,
        flags: 0,
        touch: None,
        return_flags: with_cas(),
    })
}

/// The extras are the delta and the initial number, in two halves each, and the exptime of an item that is created.
fn calculate<'a>(
    header: &Header,
    extras: &[u8],
    key: &'a [u8],
    direction: Direction,
) -> Result<Request<'a>, Malformed> {
    require(!key.is_empty() && header.value_length() == 0)?;
    let [delta, delta_low, initial, initial_low, exptime] = numbers(extras)?;
    let joined = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let vivify = (exptime != DO_NOT_CREATE).then(|| {
        let exptime = exptime_of(exptime);
        let created = Vivify {
            exptime,
            final_exptime: exptime,
        };
        (created, joined(initial, initial_low))
    });
    let arithmetic = Arithmetic {
        direction,
        key: key_of(key),
        delta: joined(delta, delta_low),
        compare: header.compare(),
        cas: None,
        vivify,
        touch: None,
    };
    Ok(Request::MetaArithmetic(
        arithmetic,
        ReturnFlags {
            value: true,
            ..with_cas()
        },
    ))
}

/// The topic is the key, in the words of the text protocol.
fn stat(topic: &[u8]) -> Result<Request<'_>, ProtocolError> {
    match classic::stats(topic).request {
        Ok(Request::Stats(
            topic @ (StatsTopic::General
            | StatsTopic::Settings
            | StatsTopic::Items
            | StatsTopic::Slabs
            | StatsTopic::Sizes
            | StatsTopic::Reset
            | StatsTopic::Detail(Detail::On | Detail::Off)),
        )) => Ok(Request::Stats(topic)),
        // Only the text protocol has the others.
        _ => Err(ProtocolError::UnknownStats),
    }
}

/// What the answer must show: the cas unique, as the flag `c` of the meta commands does.
fn with_cas() -> ReturnFlags<'static> {
    ReturnFlags {
        value: false,
        quiet: false,
        opaque_too_long: false,
        flags: b"c",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(opcode: u8, key: usize, extras: usize, body: usize) -> Header {
        Header {
            opcode,
            key_length: key,
            extras_length: extras,
            body_length: body,
            opaque: [0; 4],
            cas: 0,
        }
    }

    #[test]
    fn a_header_is_big_endian() {
        let mut bytes = [0; Header::LENGTH];
        assert_eq!(Header::parse(&bytes), None);
        bytes[..12].copy_from_slice(&[MAGIC, 1, 0, 3, 8, 0, 0, 0, 0, 0, 1, 0]);
        bytes[12..16].copy_from_slice(b"abcd");
        bytes[23] = 7;
        let parsed = Header::parse(&bytes).unwrap();
        assert_eq!(
            (parsed.opcode, parsed.key_length, parsed.extras_length),
            (1, 3, 8)
        );
        assert_eq!((parsed.body_length, parsed.value_length()), (256, 245));
        assert_eq!((&parsed.opaque, parsed.cas), (b"abcd", 7));
    }

    #[test]
    fn impossible_lengths_are_found_before_the_body_is_read() {
        assert_eq!(header(0, 3, 0, 3).check(), Ok(()));
        assert_eq!(header(1, 3, 8, 10).check(), Err(Malformed::Lengths));
        assert_eq!(header(1, 3, 0, 2).check(), Err(Malformed::Lengths));
        assert_eq!(header(0, 250, 0, 250).check(), Ok(()));
        assert_eq!(header(0, 251, 0, 251).check(), Err(Malformed::Arguments));
        assert_eq!(header(1, 1, 8, MAX_BODY).check(), Ok(()));
        assert_eq!(
            header(1, 1, 8, MAX_BODY + 1).check(),
            Err(Malformed::Arguments)
        );
    }

    #[test]
    fn every_quiet_command_is_the_command_of_the_same_name() {
        let quiet = [
            9, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x0d, 0x19, 0x1a, 0x1e, 0x24,
        ];
        for opcode in 0..=u8::MAX {
            let is_quiet = Command::of(opcode).map(|(_, quiet)| quiet == Quiet::Yes);
            assert_eq!(
                is_quiet == Some(true),
                quiet.contains(&opcode),
                "{opcode:#x}"
            );
        }
        assert_eq!(Command::of(0x0d), Some((Command::GetK, Quiet::Yes)));
        assert_eq!(Command::of(0x1b), None);
    }

    #[test]
    fn a_command_without_the_parts_that_it_needs_is_malformed() {
        for (opcode, extras, key, value) in [
            (0x00, 0, 0, 0),
            (0x00, 4, 1, 0),
            (0x00, 0, 1, 1),
            (0x01, 0, 1, 5),
            (0x01, 8, 0, 5),
            (0x04, 0, 0, 0),
            (0x05, 8, 1, 0),
            (0x07, 0, 1, 0),
            (0x08, 8, 0, 0),
            (0x0a, 0, 0, 1),
            (0x0e, 8, 1, 5),
            (0x10, 4, 0, 0),
            (0x1c, 0, 1, 0),
        ] {
            let header = header(opcode, key, extras, extras + key + value);
            let (extras, key) = (vec![0; extras], vec![b'k'; key]);
            let parsed = parse(&header, &extras, &key);
            assert_eq!(parsed, Err(Malformed::Arguments), "{opcode:#x}");
        }
    }

    #[test]
    fn a_key_may_have_any_bytes() {
        let parsed = parse(&header(0, 3, 0, 3), b"", b"a b").unwrap();
        let Ok(Request::Get(request)) = parsed.request else {
            panic!("{parsed:?}")
        };
        assert_eq!(request.keys.iter().collect::<Vec<_>>(), [b"a b"]);
    }
}
