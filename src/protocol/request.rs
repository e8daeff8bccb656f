//! What a client can ask for: the outcome of parsing, and all that `command` gets to see of a line.

use super::{Exptime, words};

/// One command, understood. Everything is borrowed from the line.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `get`, `gets`, `gat`, `gats`.
    Get(Retrieval<'a>),
    /// `set`, `add`, `replace`, `append`, `prepend`, `cas`.
    Store(Storage<'a>),
    /// `delete`.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// `incr`, `decr`.
    Arithmetic(Arithmetic<'a>),
    /// `touch`.
    Touch {
        /// The key.
        key: &'a [u8],
        /// Its new exptime.
        exptime: Exptime,
    },
    /// `flush_all`.
    FlushAll(Flush),
    /// `version`.
    Version,
    /// `verbosity <level>`.
    Verbosity(u32),
    /// `stats [<topic>]`.
    Stats(StatsTopic),
    /// `cache_memlimit <megabytes>`.
    CacheMemlimit(u32),
    /// `shutdown [graceful]`.
    Shutdown(ShutdownMode),
    /// `debugtime`.
    DebugTime(DebugTime),
    /// `quit`.
    Quit,
    /// A line that ends in `HTTP/…`: not memcached's protocol, and dangerous to read on.
    Http,
}

/// `get`, `gets`, and with an exptime `gat`, `gats`.
#[derive(Debug, PartialEq, Eq)]
pub struct Retrieval<'a> {
    /// The keys, each at most 250 bytes long, in the order of the line.
    pub keys: Keys<'a>,
    /// Whether each VALUE line ends in the cas unique.
    pub with_cas: WithCas,
    /// The new exptime of what is found (`gat`, `gats`).
    pub touch: Option<Exptime>,
}

/// Whether the client wants to see cas uniques (`gets`, `gats`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithCas {
    /// `gets`, `gats`.
    Yes,
    /// `get`, `gat`.
    No,
}

/// The keys of a `get`: words that have been checked and are split again when they are needed, so that
/// a line of ten thousand keys needs no list of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Keys<'a>(pub(super) &'a [u8]);

impl<'a> Keys<'a> {
    /// Each key in turn.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        words(self.0)
    }
}

/// A command that brings a data block.
#[derive(Debug, PartialEq, Eq)]
pub struct Storage<'a> {
    /// Which one, and under which condition it stores.
    pub mode: StoreMode,
    /// The key.
    pub key: &'a [u8],
    /// 32 bits that belong to the client and come back with the value.
    pub flags: u32,
    /// When the item expires.
    pub exptime: Exptime,
    /// The length of the data block in bytes, its closing `\r\n` not counted.
    pub bytes: usize,
}

/// The storage commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMode {
    /// Whatever is there.
    Set,
    /// Only if nothing is there.
    Add,
    /// Only if something is there.
    Replace,
    /// The data goes behind the value that is there.
    Append,
    /// The data goes in front of the value that is there.
    Prepend,
    /// Only if what is there still has this cas unique.
    Cas(u64),
}

/// `incr` and `decr`.
#[derive(Debug, PartialEq, Eq)]
pub struct Arithmetic<'a> {
    /// Up or down.
    pub direction: Direction,
    /// The key.
    pub key: &'a [u8],
    /// By how much.
    pub delta: u64,
}

/// The direction of [`Arithmetic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// `incr`: adds, and wraps around at 2^64.
    Up,
    /// `decr`: subtracts, and stops at 0.
    Down,
}

/// When `flush_all` takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// At once.
    Now,
    /// After a delay, or at a date.
    Later(Exptime),
    /// At something that is no time.
    Unknown,
}

/// What `stats` is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsTopic {
    /// `stats`: the general counters.
    General,
    /// `stats settings`: how the server was started.
    Settings,
    /// `stats items`: what is held.
    Items,
    /// `stats slabs`: how memory is used.
    Slabs,
    /// `stats sizes`: the histogram of sizes.
    Sizes,
    /// `stats conns`: who is connected.
    Conns,
    /// `stats reset`: counters back to 0.
    Reset,
    /// `stats detail …`.
    Detail,
    /// `stats cachedump <class> <limit>`: keys that are held.
    Cachedump {
        /// Of which class of sizes.
        class: u32,
        /// How many; 0: all.
        limit: u32,
    },
}

/// How `shutdown` asks the server to end. Both end it in the same way here: what is being executed is
/// finished, idle clients are hung up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// `shutdown`.
    Plain,
    /// `shutdown graceful`.
    Graceful,
    /// Anything else.
    Unknown,
}

/// `debugtime`, for tests only (`--debug`): what the clock is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugTime {
    /// `debugtime p`: stand still.
    Pause,
    /// `debugtime r`: go on.
    Resume,
    /// `debugtime <seconds>`: jump.
    Jump(i64),
}
