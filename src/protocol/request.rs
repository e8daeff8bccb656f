//! What a client can ask for: the outcome of parsing, and all that `command` gets to see of a line.

use std::borrow::Cow;

use super::{Exptime, words};

/// One command, understood. All but a key in base64 is borrowed from the line.
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
    /// `mg`.
    MetaGet(MetaGet<'a>),
    /// `ms`: what it stores, and what its answer is to show.
    MetaSet(Storage<'a>, ReturnFlags<'a>),
    /// `md`.
    MetaDelete(MetaDelete<'a>),
    /// `ma`: what it counts, and what its answer is to show.
    MetaArithmetic(Arithmetic<'a>, ReturnFlags<'a>),
    /// `mn`.
    MetaNoop,
    /// `me`.
    MetaDebug {
        /// The key.
        key: Cow<'a, [u8]>,
    },
    /// `lru_crawler metadump …`: every key with what is known of its item.
    Metadump,
    /// `quit`.
    Quit,
    /// A line that ends in `HTTP/…`: not memcached's protocol, and dangerous to read on.
    Http,
}

/// A key: a word of the line, or what a word in base64 stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// The key itself.
    pub bytes: Cow<'a, [u8]>,
    /// Whether it came in base64 (`b`), and so is answered in base64.
    pub binary: bool,
}

impl<'a> From<&'a [u8]> for Key<'a> {
    fn from(word: &'a [u8]) -> Self {
        Key {
            bytes: Cow::Borrowed(word),
            binary: false,
        }
    }
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

/// A command that brings a data block. What follows `bytes` only `ms` can say.
#[derive(Debug, PartialEq, Eq)]
pub struct Storage<'a> {
    /// Under which condition it stores.
    pub mode: StoreMode,
    /// The key.
    pub key: Key<'a>,
    /// 32 bits that belong to the client and come back with the value.
    pub flags: u32,
    /// When the item expires.
    pub exptime: Exptime,
    /// The length of the data block in bytes, its closing `\r\n` not counted.
    pub bytes: usize,
    /// Only if what is there still has this cas unique (`cas`, `ms … C`).
    pub compare: Option<u64>,
    /// The item's new cas unique (`E`); `None`: a new one.
    pub cas: Option<u64>,
    /// An item with a higher cas unique than `compare` is replaced too, by a stale one (`I`).
    pub stale: bool,
    /// Append and prepend create what is missing, with this exptime (`N`).
    pub vivify: Option<Exptime>,
    /// What must not survive if there is no room for the new value.
    pub on_failure: OnFailure,
}

/// What becomes of an old value whose successor cannot be stored, because it is too large or memory is
/// full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It goes: who wanted to replace it must not go on reading it (`set`; `ms` in every mode).
    RemoveOld,
    /// It stays.
    KeepOld,
}

/// The conditions under which a value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMode {
    /// Whatever is there.
    Set,
    /// Only if nothing is there.
    Add,
    /// Only if something is there.
    Replace,
    /// Something must be there, and the data goes behind it.
    Append,
    /// Something must be there, and the data goes in front of it.
    Prepend,
}

/// `incr`, `decr` and `ma`. What follows `delta` only `ma` can say.
#[derive(Debug, PartialEq, Eq)]
pub struct Arithmetic<'a> {
    /// Up or down.
    pub direction: Direction,
    /// The key.
    pub key: Key<'a>,
    /// By how much.
    pub delta: u64,
    /// Only if what is there still has this cas unique (`C`).
    pub compare: Option<u64>,
    /// The item's new cas unique (`E`); `None`: a new one.
    pub cas: Option<u64>,
    /// A missing item is created (`N`), with this number (`J`).
    pub vivify: Option<(Vivify, u64)>,
    /// The item's new exptime (`T`).
    pub touch: Option<Exptime>,
}

/// With which exptime a missing item is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vivify {
    /// What `N` says.
    pub exptime: Exptime,
    /// What the item has in the end: what `T` says, if it stands behind `N`.
    pub final_exptime: Exptime,
}

/// `mg`.
#[derive(Debug, PartialEq, Eq)]
pub struct MetaGet<'a> {
    /// The key.
    pub key: Key<'a>,
    /// The item's new exptime (`T`).
    pub touch: Option<Exptime>,
    /// A missing item is created, empty (`N`).
    pub vivify: Option<Vivify>,
    /// Who comes first to an item with less time than this to live wins (`R`).
    pub recache: Option<Exptime>,
    /// Who has this cas unique has the value already, and is spared it (`C`).
    pub compare: Option<u64>,
    /// The cas unique of an item that is created (`E`).
    pub cas: Option<u64>,
    /// Whether the reading is not noted on the item (`u`).
    pub no_bump: bool,
    /// What the answer is to show.
    pub return_flags: ReturnFlags<'a>,
}

/// `md`.
#[derive(Debug, PartialEq, Eq)]
pub struct MetaDelete<'a> {
    /// The key.
    pub key: Key<'a>,
    /// Only if the item still has this cas unique (`C`).
    pub compare: Option<u64>,
    /// The cas unique of an item that is not deleted but changed (`E`).
    pub cas: Option<u64>,
    /// The item stays, marked as stale (`I`).
    pub invalidate: bool,
    /// The item stays, but its value and its flags go (`x`).
    pub remove_value: bool,
    /// The flags of an item whose value goes (`F`).
    pub flags: u32,
    /// The new exptime of an item that stays (`T`).
    pub touch: Option<Exptime>,
    /// What the answer is to show.
    pub return_flags: ReturnFlags<'a>,
}

/// What the answer to a meta command is to show.
#[derive(Debug, PartialEq, Eq)]
pub struct ReturnFlags<'a> {
    /// The value (`v`).
    pub value: bool,
    /// Whether the ordinary answer is left out (`q`).
    pub quiet: bool,
    /// Whether the opaque is longer than it may be. That is an error, but after all others.
    pub opaque_too_long: bool,
    /// All flags of the line, checked, and split again when they are needed.
    pub(super) flags: &'a [u8],
}

/// A flag that has a place of its own in the answer, or that acts in its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnFlag<'a> {
    /// `O`: the client's own mark on the request, the letter included.
    Opaque(&'a [u8]),
    /// `k`: the key.
    Key,
    /// `c`: the cas unique.
    Cas,
    /// `f`: the client flags.
    ClientFlags,
    /// `h`: whether it had been read before.
    Hit,
    /// `l`: the seconds since it was last read.
    LastAccess,
    /// `s`: the size of the value.
    Size,
    /// `t`: the seconds that it has to live.
    Ttl,
    /// `T`: adds nothing to the answer, but a `t` behind it shows the new time.
    Touch,
    /// `N`: likewise, for an item that has been created.
    Vivify,
    /// `R`: adds nothing to the answer, but is compared with the expiry that the item has at this point of the line.
    Recache,
}

impl<'a> ReturnFlags<'a> {
    /// The flags in the order of the line, which is the order of the answer.
    pub fn flags(&self) -> impl Iterator<Item = ReturnFlag<'a>> + use<'a> {
        words(self.flags).filter_map(|word| {
            Some(match word.first()? {
                b'O' => ReturnFlag::Opaque(word),
                b'k' => ReturnFlag::Key,
                b'c' => ReturnFlag::Cas,
                b'f' => ReturnFlag::ClientFlags,
                b'h' => ReturnFlag::Hit,
                b'l' => ReturnFlag::LastAccess,
                b's' => ReturnFlag::Size,
                b't' => ReturnFlag::Ttl,
                b'T' => ReturnFlag::Touch,
                b'N' => ReturnFlag::Vivify,
                b'R' => ReturnFlag::Recache,
                _ => return None,
            })
        })
    }
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
