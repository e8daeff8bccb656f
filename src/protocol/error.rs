//! What a client is told when its command is refused: a variant is one exact line on the wire.

use std::fmt;

/// An error answer. `Display` gives the line without its `\r\n`; [`ProtocolError::reason`] says more
/// than the wire may, for the conversation that `-vv` shows.
///
/// The three families are memcached's (`doc/protocol.txt`, "Error strings"): `ERROR` for a command
/// that does not exist, `CLIENT_ERROR` for input that breaks the protocol, `SERVER_ERROR` for what the
/// server cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolError {
    /// No such command.
    UnknownCommand,
    /// The line does not have the form that its command needs.
    BadLine(LineError),
    /// The data block does not end in `\r\n` where its length says.
    BadDataChunk,
    /// The number that `incr` or `decr` is to add is not an unsigned number of 64 bits.
    InvalidDelta,
    /// The value that `incr` or `decr` found is not a number.
    NotNumeric,
    /// The exptime of `touch`, `gat` or `flush_all` is not a number of 32 bits.
    InvalidExptime,
    /// The server was started with `-F`.
    FlushNotAllowed,
    /// The item would be larger than `-I` allows.
    TooLarge,
    /// There is no room, and `-M` forbids making some; or nothing is left to evict.
    OutOfMemory,
    /// A meta command with a flag that does not exist.
    InvalidFlag,
    /// A meta command with the same flag twice.
    DuplicateFlag,
    /// Anything wrong with the flags of `ma`.
    InvalidOrDuplicateFlag,
    /// More words than a meta command may have.
    TooManyFlags,
    /// The value of a flag is no number, or too large a one.
    BadToken,
    /// The number that `ma` is to add (`D`) is none.
    BadDelta,
    /// The number that `ma` is to begin with (`J`) is none.
    BadInitial,
    /// The opaque is too long.
    OpaqueTooLong,
    /// The key is said to be base64, and is not.
    BadBase64,
    /// There is no such mode (`M`) of this command.
    InvalidMode(&'static str),
    /// `lru_crawler metadump` of a class that does not exist.
    BadClass,
    /// The append-only file cannot be written. The change was refused before it was made: see [`crate::aof`].
    LogFailed,
    /// `shutdown` without `-A`.
    ShutdownNotEnabled,
    /// `shutdown` with a word other than `graceful`.
    InvalidShutdownMode,
    /// `stats detail` is not offered; this is how memcached says it (its flag `-o no_dump` and others).
    StatsDetailNotAllowed,
    /// `stats` about something that is not kept.
    UnknownStats,
    /// `stats cachedump` needs two words more.
    CachedumpTooFewWords,
    /// `stats cachedump` with a class that memcached cannot have.
    IllegalSlabId,
    /// `cache_memlimit` without a number.
    MemlimitNotANumber,
    /// `cache_memlimit` below 8 megabytes.
    MemlimitTooSmall,
    /// `cache_memlimit` with what can only be a number of bytes.
    MemlimitNotMegabytes,
    /// `cache_memlimit` below what one item may take.
    MemlimitOutOfBounds,
}

/// Why a line is a `bad command line format`: the wire does not tell, `-vv` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineError {
    /// Fewer than four bytes, the line's end included.
    LineTooShort,
    /// The command needs more words; what it needs.
    TooFewWords(&'static str),
    /// The key's length in bytes.
    KeyTooLong(usize),
    /// `<bytes>` is not a number from 0 to 2^31 - 3.
    Bytes,
    /// `<flags>` is not an unsigned number of 32 bits.
    Flags,
    /// `<exptime>` is not a number.
    Exptime,
    /// `<cas unique>` is missing or not an unsigned number of 64 bits.
    CasUnique,
    /// The key of `me … b` is not base64.
    Base64,
    /// A meta flag begins with what is neither a letter nor a digit.
    FlagLetter,
    /// The level is not an unsigned number of 32 bits.
    Level,
    /// `<class>` and `<limit>` of `stats cachedump` are not unsigned numbers of 32 bits.
    Cachedump,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProtocolError::InvalidFlag => "CLIENT_ERROR invalid flag",
            ProtocolError::DuplicateFlag => "CLIENT_ERROR duplicate flag",
            ProtocolError::InvalidOrDuplicateFlag => "CLIENT_ERROR invalid or duplicate flag",
            ProtocolError::TooManyFlags => "CLIENT_ERROR options flags are too long",
            ProtocolError::BadToken => "CLIENT_ERROR bad token in command line format",
            ProtocolError::BadDelta => "CLIENT_ERROR invalid numeric delta value",
            ProtocolError::BadInitial => "CLIENT_ERROR invalid numeric initial value",
            ProtocolError::OpaqueTooLong => "CLIENT_ERROR opaque token too long",
            ProtocolError::BadBase64 => "CLIENT_ERROR error decoding key",
            ProtocolError::InvalidMode(verb) => {
                return write!(f, "CLIENT_ERROR invalid mode for {verb} M token");
            }
            ProtocolError::LogFailed => "SERVER_ERROR cannot write to the append-only file",
            ProtocolError::BadClass => "BADCLASS invalid class id",
            ProtocolError::UnknownCommand
            | ProtocolError::UnknownStats
            | ProtocolError::MemlimitNotANumber => "ERROR",
            ProtocolError::BadLine(_) => "CLIENT_ERROR bad command line format",
            ProtocolError::BadDataChunk => "CLIENT_ERROR bad data chunk",
            ProtocolError::InvalidDelta => "CLIENT_ERROR invalid numeric delta argument",
            ProtocolError::NotNumeric => {
                "CLIENT_ERROR cannot increment or decrement non-numeric value"
            }
            ProtocolError::InvalidExptime => "CLIENT_ERROR invalid exptime argument",
            ProtocolError::FlushNotAllowed => "CLIENT_ERROR flush_all not allowed",
            ProtocolError::TooLarge => "SERVER_ERROR object too large for cache",
            ProtocolError::OutOfMemory => "SERVER_ERROR out of memory storing object",
            // The colon is memcached's own.
            ProtocolError::ShutdownNotEnabled => "SERVER_ERROR: shutdown not enabled",
            ProtocolError::InvalidShutdownMode => "CLIENT_ERROR invalid shutdown mode",
            ProtocolError::StatsDetailNotAllowed => "CLIENT_ERROR stats detail not allowed",
            ProtocolError::CachedumpTooFewWords => "CLIENT_ERROR bad command line",
            ProtocolError::IllegalSlabId => "CLIENT_ERROR Illegal slab id",
            ProtocolError::MemlimitTooSmall => {
                "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m"
            }
            ProtocolError::MemlimitNotMegabytes => {
                "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes"
            }
            ProtocolError::MemlimitOutOfBounds => {
                "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust"
            }
        })
    }
}

impl ProtocolError {
    /// Why this is the answer, for a person who reads along; `None` where the line says it itself.
    pub fn reason(&self) -> Option<String> {
        let reason = match self {
            ProtocolError::UnknownCommand => "no command starts like this".into(),
            ProtocolError::BadLine(flaw) => flaw.to_string(),
            ProtocolError::BadDataChunk => "no \\r\\n where <bytes> says that the data ends".into(),
            ProtocolError::InvalidDelta => {
                "the delta is a number from 0 to 18446744073709551615".into()
            }
            ProtocolError::NotNumeric => {
                "the value is not decimal digits, or more than 64 bits hold".into()
            }
            ProtocolError::InvalidExptime => "exptime is a whole number of 32 bits".into(),
            ProtocolError::FlushNotAllowed => "the server was started with -F".into(),
            ProtocolError::TooLarge => {
                "-I sets the limit; a set removes the old value all the same".into()
            }
            ProtocolError::OutOfMemory => "-m is reached, and nothing may or can be evicted".into(),
            ProtocolError::InvalidFlag => {
                "a flag is one letter, and its value if it has one".into()
            }
            ProtocolError::DuplicateFlag => "each flag may be there once".into(),
            ProtocolError::InvalidOrDuplicateFlag => {
                "a flag is unknown, there twice, or has a value that is no number".into()
            }
            ProtocolError::TooManyFlags => "a line has at most 20 words".into(),
            ProtocolError::BadToken | ProtocolError::BadDelta | ProtocolError::BadInitial => {
                "the value behind a flag's letter is a number".into()
            }
            ProtocolError::OpaqueTooLong => "an opaque is at most 31 bytes long".into(),
            ProtocolError::BadBase64 => {
                "the flag b says that the key is base64 with padding".into()
            }
            ProtocolError::InvalidMode("ms") => "ms knows MS, ME, MA, MP and MR".into(),
            ProtocolError::InvalidMode(_) => "ma knows MI, M+, MD and M-".into(),
            ProtocolError::LogFailed => {
                "changes are refused until it can; stats has aof_errors".into()
            }
            ProtocolError::BadClass => {
                "here there is one class, number 1; all is everything".into()
            }
            ProtocolError::ShutdownNotEnabled => "-A allows it".into(),
            ProtocolError::InvalidShutdownMode => "only graceful is known".into(),
            ProtocolError::StatsDetailNotAllowed => {
                "rustmemc keeps no counters by key prefix".into()
            }
            ProtocolError::UnknownStats => "there are no such stats".into(),
            ProtocolError::CachedumpTooFewWords => "stats cachedump <class> <limit>".into(),
            ProtocolError::IllegalSlabId => {
                "a class is a number below 64; here there is only 1".into()
            }
            ProtocolError::MemlimitNotANumber => "the limit is a whole number of megabytes".into(),
            ProtocolError::MemlimitOutOfBounds => {
                "it has to hold two items as large as -I allows".into()
            }
            ProtocolError::MemlimitTooSmall | ProtocolError::MemlimitNotMegabytes => return None,
        };
        Some(reason)
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineError::LineTooShort => {
                f.write_str("a line has at least four bytes, its end included")
            }
            LineError::TooFewWords(form) => write!(f, "too few words for {form}"),
            LineError::KeyTooLong(bytes) => {
                write!(
                    f,
                    "key is {bytes} bytes long, at most {}",
                    crate::item::MAX_KEY
                )
            }
            LineError::Bytes => f.write_str("<bytes> is a number from 0 to 2147483645"),
            LineError::Flags => f.write_str("<flags> is a number from 0 to 4294967295"),
            LineError::Exptime => f.write_str("<exptime> is a whole number"),
            LineError::CasUnique => {
                f.write_str("<cas unique> is a number from 0 to 18446744073709551615")
            }
            LineError::Base64 => f.write_str("the key is not base64 with padding"),
            LineError::FlagLetter => f.write_str("a flag begins with a letter"),
            LineError::Level => f.write_str("the level is a number"),
            LineError::Cachedump => f.write_str("class and limit are numbers"),
        }
    }
}
