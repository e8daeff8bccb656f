//! The error answers. Each variant is one exact line on the wire.

use std::fmt;

use super::VERBS;

/// An error answer. `Display` writes the line without its `\r\n`. [`ProtocolError::reason`] explains it; `-v` and `-vv`
/// print the reason, but the client does not get it.
///
/// The three families are memcached's (`doc/protocol.txt`, "Error strings"): `ERROR` for a command that does not exist,
/// `CLIENT_ERROR` for input that breaks the protocol, `SERVER_ERROR` for something that the server cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolError {
    /// There is no such command.
    UnknownCommand,
    /// `help`: memcached has no such command, but people type it.
    Help,
    /// The server was started without `--debug`, so it does not know `debugtime`.
    DebugNotEnabled,
    /// The line does not have the form of its command.
    BadLine(LineError),
    /// No `\r\n` follows the `<bytes>` bytes of the data block.
    BadDataChunk,
    /// The delta of `incr` or `decr` is not an unsigned 64-bit number.
    InvalidDelta,
    /// The value that `incr`, `decr` or `ma` must change is not a number.
    NotNumeric,
    /// The exptime of `touch`, `gat`, `gats` or `flush_all` is not a 32-bit number.
    InvalidExptime,
    /// The server was started with `-F`.
    FlushNotAllowed,
    /// The item would be larger than `-I` allows.
    TooLarge,
    /// There is no memory for the item, and `-M` forbids evictions, or evictions cannot free enough.
    OutOfMemory,
    /// A meta command has a flag that does not exist.
    InvalidFlag,
    /// A meta command has the same flag twice.
    DuplicateFlag,
    /// The key or a flag of `ma` is wrong. Other meta commands have several errors for this.
    InvalidOrDuplicateFlag,
    /// A meta command has too many words.
    TooManyFlags,
    /// The value of a flag is not a number, or the number is too large.
    BadToken,
    /// The delta of `ma` (`D`) is not a number.
    BadDelta,
    /// The initial value of `ma` (`J`) is not a number.
    BadInitial,
    /// The opaque is too long.
    OpaqueTooLong,
    /// The flag `b` means that the key is base64, but it is not.
    BadBase64,
    /// This command has no such mode (`M`).
    InvalidMode(&'static str),
    /// Answers to earlier commands of a pipeline are not sent yet, and this command must not wait for them.
    CannotPipeline(&'static str),
    /// `lru_crawler` with a class that memcached cannot have.
    BadClass,
    /// `lru_crawler` with a list of classes that is empty.
    NothingToCrawl,
    /// `lru_crawler` after `lru_crawler disable`.
    CrawlerDisabled,
    /// `lru_crawler enable` without `lru_crawler disable` before it.
    CrawlerIsEnabled,
    /// `lru_crawler crawl hash`.
    CannotCrawlHash,
    /// `lru_crawler sleep` of more than a second.
    CrawlerSleepTooLong,
    /// `slabs reassign` from a class to itself.
    SlabsAreTheSame,
    /// `slabs reassign` with a class that memcached does not have.
    BadSlabClass,
    /// `slabs reassign`: there are no pages that could be moved.
    NoSparePage,
    /// `slabs automove window` with a number below 3 or above 1800.
    BadAutomoveWindow,
    /// `lru tune` with percents whose sum is above 80.
    LruPercentsTooLarge,
    /// `lru tune` with a factor that is not above 0.
    LruFactorsTooSmall,
    /// The append-only file cannot be written. The change was refused before it was made: see [`crate::aof`].
    LogFailed,
    /// The server was started without `-A`, so `shutdown` is not allowed.
    ShutdownNotEnabled,
    /// The word after `shutdown` is not `graceful`.
    InvalidShutdownMode,
    /// `stats detail` of a server with `-X`.
    StatsDetailNotAllowed,
    /// The word after `stats detail` is none that it knows.
    StatsDetailUsage,
    /// `stats cachedump` of a server with `-X`.
    CachedumpNotAllowed,
    /// `lru_crawler metadump` of a server with `-X`.
    MetadumpNotAllowed,
    /// `lru_crawler mgdump` of a server with `-X`.
    MgdumpNotAllowed,
    /// `watch` of a server with `-W`.
    WatchNotAllowed,
    /// A word after `watch` is not the name of a stream.
    UnknownStream,
    /// There are as many watchers as are allowed.
    TooManyWatchers,
    /// A command before the login, if the server has `-Y`.
    Unauthenticated,
    /// The data block of a login is too long.
    CredentialsTooLong,
    /// No `\r\n` follows the data block of a login.
    BadCredentialsEnd,
    /// The data block of a login has no space between user and password.
    BadCredentials,
    /// There is no such user, or the password is another.
    WrongPassword,
    /// There are no `stats` with this name.
    UnknownStats,
    /// `stats cachedump` needs two more words.
    CachedumpTooFewWords,
    /// The class of `stats cachedump` is one that memcached cannot have.
    IllegalSlabId,
    /// The limit of `cache_memlimit` is missing or not a number.
    MemlimitNotANumber,
    /// The limit of `cache_memlimit` is below 8 megabytes.
    MemlimitTooSmall,
    /// The limit of `cache_memlimit` is so large that it must be a number of bytes.
    MemlimitNotMegabytes,
    /// The limit of `cache_memlimit` is less than two items of the largest size (`-I`).
    MemlimitOutOfBounds,
}

/// Why a line is a `bad command line format`. `-v` and `-vv` print it, but the client does not get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineError {
    /// Fewer than four bytes, the line's end included.
    LineTooShort,
    /// The command needs more words. This is its form.
    TooFewWords(&'static str),
    /// The key is too long. This is its length in bytes.
    KeyTooLong(usize),
    /// `<bytes>` is not a number from 0 to 2^31 - 3.
    Bytes,
    /// `<flags>` (or the value of `F`) is not an unsigned 32-bit number.
    Flags,
    /// `<exptime>` is not a number.
    Exptime,
    /// `<cas unique>` is missing or not an unsigned 64-bit number.
    CasUnique,
    /// The key of `me … b` is not base64.
    Base64,
    /// A meta flag begins with a byte that cannot be the letter of a flag.
    FlagLetter,
    /// The level of `verbosity` is not an unsigned 32-bit number.
    Level,
    /// `<class>` or `<limit>` of `stats cachedump` is not an unsigned 32-bit number.
    Cachedump,
    /// The number of `lru_crawler` or `slabs automove` is not an unsigned 32-bit number.
    Number,
    /// A class of `slabs reassign` is not a 32-bit number.
    Class,
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
            ProtocolError::CannotPipeline(command) => {
                return write!(f, "ERROR cannot pipeline other commands before {command}");
            }
            ProtocolError::InvalidMode(verb) => {
                return write!(f, "CLIENT_ERROR invalid mode for {verb} M token");
            }
            ProtocolError::LogFailed => "SERVER_ERROR cannot write to the append-only file",
            ProtocolError::BadClass => "BADCLASS invalid class id",
            ProtocolError::NothingToCrawl => "NOTSTARTED no items to crawl",
            ProtocolError::CrawlerDisabled => "CLIENT_ERROR lru crawler disabled",
            ProtocolError::CrawlerIsEnabled => "ERROR failed to start lru crawler thread",
            ProtocolError::CannotCrawlHash => "ERROR an unknown error happened",
            ProtocolError::CrawlerSleepTooLong => "CLIENT_ERROR sleep must be one second or less",
            ProtocolError::SlabsAreTheSame => "SAME src and dst class are identical",
            ProtocolError::BadSlabClass => "BADCLASS invalid src or dst class id",
            ProtocolError::NoSparePage => "NOSPARE source class has no spare pages",
            ProtocolError::BadAutomoveWindow => "CLIENT_ERROR automove window too low or too high",
            ProtocolError::LruPercentsTooLarge => "ERROR hot and warm pcts must not exceed 80",
            ProtocolError::LruFactorsTooSmall => {
                "ERROR hot/warm age factors must be greater than 0"
            }
            ProtocolError::UnknownCommand
            | ProtocolError::Help
            | ProtocolError::DebugNotEnabled
            | ProtocolError::UnknownStats
            | ProtocolError::UnknownStream
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
            ProtocolError::StatsDetailUsage => "CLIENT_ERROR usage: stats detail on|off|dump",
            ProtocolError::CachedumpNotAllowed => "CLIENT_ERROR stats cachedump not allowed",
            ProtocolError::MetadumpNotAllowed => "ERROR metadump not allowed",
            ProtocolError::MgdumpNotAllowed => "ERROR key dump not allowed",
            ProtocolError::WatchNotAllowed => "CLIENT_ERROR watch commands not allowed",
            ProtocolError::TooManyWatchers => "WATCHER_TOO_MANY log watcher limit reached",
            ProtocolError::Unauthenticated => "CLIENT_ERROR unauthenticated",
            ProtocolError::CredentialsTooLong => "CLIENT_ERROR auth token too long",
            ProtocolError::BadCredentialsEnd => "CLIENT_ERROR bad command line termination",
            ProtocolError::BadCredentials => "CLIENT_ERROR bad authentication token format",
            ProtocolError::WrongPassword => "CLIENT_ERROR authentication failure",
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
    /// The reason for this answer, for people; `None` if the line is clear enough.
    pub fn reason(&self) -> Option<String> {
        let reason = match self {
            ProtocolError::UnknownCommand => "no command has this form".into(),
            ProtocolError::Help => format!(
                "memcached has no help; the commands are {}; `memc learn` explains them",
                VERBS.join(" ")
            ),
            ProtocolError::DebugNotEnabled => "start the server with --debug to allow it".into(),
            ProtocolError::WatchNotAllowed => "the server was started with -W".into(),
            ProtocolError::UnknownStream => {
                "watch takes fetchers, mutations, evictions, connevents and deletions".into()
            }
            ProtocolError::TooManyWatchers => "one of the other watchers must stop first".into(),
            ProtocolError::BadLine(error) => error.to_string(),
            ProtocolError::BadDataChunk => "\\r\\n must follow the <bytes> bytes of data".into(),
            ProtocolError::InvalidDelta => {
                "the delta must be a number from 0 to 18446744073709551615".into()
            }
            ProtocolError::NotNumeric => {
                "the stored value is not a number from 0 to 18446744073709551615".into()
            }
            ProtocolError::InvalidExptime => {
                "the exptime must be a number from -2147483648 to 2147483647".into()
            }
            ProtocolError::FlushNotAllowed => "the server was started with -F".into(),
            ProtocolError::TooLarge => {
                "the item is larger than -I allows; a refused set removes the old value".into()
            }
            ProtocolError::OutOfMemory => {
                "the limit of -m is reached, and -M forbids evictions, or they cannot free enough; a set removes the old value"
                    .into()
            }
            ProtocolError::InvalidFlag => {
                "there is no such flag; a flag is one letter, then its value if it has one".into()
            }
            ProtocolError::DuplicateFlag => "a line may have each flag only once".into(),
            ProtocolError::InvalidOrDuplicateFlag => {
                "the key or a flag is wrong, a flag appears twice, or there are over 20 words"
                    .into()
            }
            ProtocolError::TooManyFlags => "a line may have at most 20 words".into(),
            ProtocolError::BadToken | ProtocolError::BadDelta | ProtocolError::BadInitial => {
                "the value after the letter of a flag must be a number".into()
            }
            ProtocolError::OpaqueTooLong => "an opaque may be at most 31 bytes long".into(),
            ProtocolError::BadBase64 => {
                "with the flag b the key must be base64 with padding".into()
            }
            ProtocolError::CannotPipeline(_) => {
                "read the answers to all earlier commands first, and then send this one".into()
            }
            ProtocolError::InvalidMode("ms") => "the modes are MS, ME, MA, MP and MR".into(),
            ProtocolError::InvalidMode(_) => "the modes are MI, M+, MD and M-".into(),
            ProtocolError::LogFailed => {
                "changes are refused until the file can be written; see aof_errors in stats".into()
            }
            ProtocolError::BadClass => {
                "a class must be a number from 1 to 63; the only class here is 1; all means every class".into()
            }
            ProtocolError::NothingToCrawl => "no class is named; all means every class".into(),
            ProtocolError::CrawlerDisabled => "lru_crawler enable allows it again".into(),
            ProtocolError::CrawlerIsEnabled => "it is enabled already".into(),
            ProtocolError::CannotCrawlHash => "hash can only be dumped; all means every class".into(),
            ProtocolError::SlabsAreTheSame
            | ProtocolError::BadSlabClass
            | ProtocolError::NoSparePage => {
                "memory is not divided into slab classes, so there are no pages to move".into()
            }
            ProtocolError::BadAutomoveWindow => "the window must be from 3 to 1800 seconds".into(),
            ProtocolError::ShutdownNotEnabled => "start the server with -A to allow it".into(),
            ProtocolError::InvalidShutdownMode => "the only mode is graceful".into(),
            ProtocolError::StatsDetailNotAllowed
            | ProtocolError::CachedumpNotAllowed
            | ProtocolError::MetadumpNotAllowed
            | ProtocolError::MgdumpNotAllowed => "the server was started with -X".into(),
            ProtocolError::Unauthenticated => {
                "the server has -Y: log in with set <any key> 0 0 <bytes>, and the data <user> <password>"
                    .into()
            }
            ProtocolError::CredentialsTooLong => {
                "user and password may have 16384 bytes together".into()
            }
            ProtocolError::BadCredentialsEnd => {
                "\\r\\n must follow the <bytes> bytes of user and password".into()
            }
            ProtocolError::BadCredentials => {
                "a space must separate the user and the password".into()
            }
            ProtocolError::WrongPassword => "no user of the file of -Y has this password".into(),
            ProtocolError::UnknownStats => "there are no stats with this name".into(),
            ProtocolError::CachedumpTooFewWords => {
                "too few words for stats cachedump <class> <limit>".into()
            }
            ProtocolError::IllegalSlabId => {
                "a class must be a number below 64; the only class here is 1".into()
            }
            ProtocolError::MemlimitNotANumber => {
                "the limit must be a whole number of megabytes".into()
            }
            ProtocolError::MemlimitOutOfBounds => {
                "the limit must be at least two items as large as -I allows".into()
            }
            ProtocolError::MemlimitTooSmall
            | ProtocolError::MemlimitNotMegabytes
            | ProtocolError::CrawlerSleepTooLong
            | ProtocolError::LruPercentsTooLarge
            | ProtocolError::LruFactorsTooSmall
            | ProtocolError::StatsDetailUsage => return None,
        };
        Some(reason)
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineError::LineTooShort => {
                f.write_str("a line must have at least four bytes, its end included")
            }
            LineError::TooFewWords(form) => write!(f, "too few words for {form}"),
            LineError::KeyTooLong(bytes) => {
                write!(
                    f,
                    "the key is {bytes} bytes long; the limit is {}",
                    crate::item::MAX_KEY
                )
            }
            LineError::Bytes => f.write_str("<bytes> must be a number from 0 to 2147483645"),
            LineError::Flags => f.write_str("<flags> must be a number from 0 to 4294967295"),
            LineError::Exptime => f.write_str("<exptime> must be a whole number"),
            LineError::CasUnique => {
                f.write_str("<cas unique> must be a number from 0 to 18446744073709551615")
            }
            LineError::Base64 => f.write_str("the key is not base64 with padding"),
            LineError::FlagLetter => f.write_str("a flag must begin with a letter"),
            LineError::Level => f.write_str("the level must be a number from 0 to 4294967295"),
            LineError::Cachedump => {
                f.write_str("<class> and <limit> must be numbers from 0 to 4294967295")
            }
            LineError::Number => f.write_str("the number must be from 0 to 4294967295"),
            LineError::Class => f.write_str("the two classes must be numbers"),
        }
    }
}
