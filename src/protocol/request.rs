//! The requests that a client can send. A request is the result of parsing a line or a binary request, and `command`
//! sees nothing else of either.

use std::borrow::Cow;

use super::{Exptime, words};

/// One parsed command. It borrows everything from the line, except a key in base64.
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
    /// `ms`: what it stores, and what its answer must show.
    MetaSet(Storage<'a>, ReturnFlags<'a>),
    /// `md`.
    MetaDelete(MetaDelete<'a>),
    /// `ma`: how it changes the number, and what its answer must show.
    MetaArithmetic(Arithmetic<'a>, ReturnFlags<'a>),
    /// `mn`.
    MetaNoop,
    /// `me`.
    MetaDebug {
        /// The key.
        key: Cow<'a, [u8]>,
    },
    /// `lru_crawler`, except the settings of its pace, which have no effect here.
    LruCrawler(Crawler),
    /// A valid command that tunes a part of memcached that is not here.
    WithoutEffect(Internals),
    /// `watch <stream>*`. `None`: a word is no stream.
    Watch(Option<Streams>),
    /// `quit`.
    Quit,
    /// A line whose last word begins with `HTTP/`. It is not memcached's protocol, and the lines after it may be
    /// dangerous.
    Http,
}

/// A key: a word of the line, or the bytes that a word in base64 encodes.
#[derive(Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// The key itself.
    pub bytes: Cow<'a, [u8]>,
    /// Whether it was sent in base64 (`b`), or in a binary request and a line could have it only in base64. Then the
    /// lines of answers have it in base64 too.
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
    /// The new exptime of the items that are found (`gat`, `gats`).
    pub touch: Option<Exptime>,
    /// Whether `END` follows the values.
    pub end: End,
}

/// Whether `END` follows the values of a [`Retrieval`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// These keys are all keys of the line, or the last of them.
    Follows,
    /// The line is long, and has more keys than these.
    Later,
}

/// Whether the client wants to see cas uniques (`gets`, `gats`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithCas {
    /// `gets`, `gats`.
    Yes,
    /// `get`, `gat`.
    No,
}

/// The keys of a `get`. They have been checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Keys<'a> {
    /// The words of this piece of the line. It is split again when they are needed, so that ten thousand keys need no
    /// list.
    Words(&'a [u8]),
    /// One key, of a binary request. It may contain spaces.
    One(&'a [u8]),
}

impl<'a> Keys<'a> {
    /// Each key in turn.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (line, key) = match *self {
            Keys::Words(line) => (line, None),
            Keys::One(key) => (&b""[..], Some(key)),
        };
        words(line).chain(key)
    }
}

/// A command with a data block. Only `ms` can set `cas`, `stale` and `vivify`.
#[derive(Debug, PartialEq, Eq)]
pub struct Storage<'a> {
    /// The condition for storing, and whether the data replaces the old value or is joined to it.
    pub mode: StoreMode,
    /// The key.
    pub key: Key<'a>,
    /// 32 bits that belong to the client. The server returns them with the value.
    pub flags: u32,
    /// When the item expires.
    pub exptime: Exptime,
    /// The length of the data block in bytes, without its closing `\r\n`.
    pub bytes: usize,
    /// Store only if the key's item has this cas unique (`cas`, `ms … C`).
    pub compare: Option<u64>,
    /// The item's new cas unique (`E`); `None`: the store chooses it.
    pub cas: Option<u64>,
    /// If the key's item has a higher cas unique than `compare`, replace it too, but mark the new item as stale (`I`).
    pub stale: bool,
    /// Append and prepend create a missing item, with this exptime (`N`).
    pub vivify: Option<Exptime>,
    /// What happens to the old item if there is no room for the new value.
    pub on_failure: OnFailure,
}

/// What happens to the old item if the new value cannot be stored, because it is too large or memory is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It is removed: the client wanted to replace it, so the old value must not be read again (`set`; `ms` in every
    /// mode).
    RemoveOld,
    /// It is kept.
    KeepOld,
}

/// How a value is stored, and under which condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMode {
    /// Always.
    Set,
    /// Only if the key holds no item.
    Add,
    /// Only if the key holds an item.
    Replace,
    /// Only if the key holds an item. The data is appended to its value.
    Append,
    /// Only if the key holds an item. The data is put in front of its value.
    Prepend,
}

/// `incr`, `decr` and `ma`. Only `ma` can set the fields after `delta`.
#[derive(Debug, PartialEq, Eq)]
pub struct Arithmetic<'a> {
    /// Up or down.
    pub direction: Direction,
    /// The key.
    pub key: Key<'a>,
    /// The number to add or subtract.
    pub delta: u64,
    /// Change the number only if the item has this cas unique (`C`).
    pub compare: Option<u64>,
    /// The item's new cas unique (`E`); `None`: the store chooses it.
    pub cas: Option<u64>,
    /// Create a missing item (`N`) with this number (`J`).
    pub vivify: Option<(Vivify, u64)>,
    /// The item's new exptime (`T`).
    pub touch: Option<Exptime>,
}

/// The exptime of a missing item that is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vivify {
    /// The exptime of `N`.
    pub exptime: Exptime,
    /// The exptime that the item has after the command: that of `T`, if `T` comes after `N`.
    pub final_exptime: Exptime,
}

/// `mg`.
#[derive(Debug, PartialEq, Eq)]
pub struct MetaGet<'a> {
    /// The key.
    pub key: Key<'a>,
    /// The item's new exptime (`T`).
    pub touch: Option<Exptime>,
    /// Create a missing item, with an empty value (`N`).
    pub vivify: Option<Vivify>,
    /// If the item has less time than this to live, the first client to read it wins (`R`).
    pub recache: Option<Exptime>,
    /// If the item has this cas unique, the client has the value already, and the answer leaves it out (`C`).
    pub compare: Option<u64>,
    /// The cas unique of an item that is created (`E`).
    pub cas: Option<u64>,
    /// The item is not marked as read (`u`).
    pub no_bump: bool,
    /// What the answer must show.
    pub return_flags: ReturnFlags<'a>,
}

/// `md`.
#[derive(Debug, PartialEq, Eq)]
pub struct MetaDelete<'a> {
    /// The key.
    pub key: Key<'a>,
    /// Delete only if the item has this cas unique (`C`).
    pub compare: Option<u64>,
    /// The cas unique of an item that is not deleted but changed (`E`).
    pub cas: Option<u64>,
    /// Keep the item, but mark it as stale (`I`).
    pub invalidate: bool,
    /// Keep the item, but remove its value and its flags (`x`).
    pub remove_value: bool,
    /// The new flags of an item whose value is removed (`F`).
    pub flags: u32,
    /// The new exptime of an item that is kept (`T`).
    pub touch: Option<Exptime>,
    /// What the answer must show.
    pub return_flags: ReturnFlags<'a>,
}

/// What the answer to a meta command must show.
#[derive(Debug, PartialEq, Eq)]
pub struct ReturnFlags<'a> {
    /// Whether it shows the value (`v`).
    pub value: bool,
    /// Whether the common answer is not sent (`q`): the miss of `mg`, the success of `ms`, `md` and `ma`.
    pub quiet: bool,
    /// Whether the opaque is too long. All other errors are answered before this one. `mg` and `ma` have changed the
    /// item by then.
    pub opaque_too_long: bool,
    /// All flags of the line (of `mg` and `ma`, up to an opaque that is too long). They have been checked, and are
    /// split again when they are needed.
    pub(super) flags: &'a [u8],
}

/// A flag that adds something to the answer, or whose effect depends on its position in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnFlag<'a> {
    /// `O`: the opaque, a mark that the client puts on its request. The letter is included.
    Opaque(&'a [u8]),
    /// `k`: the key.
    Key,
    /// `c`: the cas unique.
    Cas,
    /// `f`: the client flags.
    ClientFlags,
    /// `h`: whether the item had been read before.
    Hit,
    /// `l`: the seconds since the item was last read.
    LastAccess,
    /// `s`: the size of the value.
    Size,
    /// `t`: the TTL, in seconds.
    Ttl,
    /// `T`: adds nothing to the answer, but a `t` after it shows the new TTL.
    Touch,
    /// `N`: adds nothing to the answer, but if the item is created, a `t` after it shows the new TTL.
    Vivify,
    /// `R`: adds nothing to the answer. It is compared with the expiry that the item has at this point of the line.
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
    /// The word is not a number, so there is no time.
    Unknown,
}

/// The topic of `stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsTopic {
    /// `stats`: the general counters.
    General,
    /// `stats settings`: how the server was started.
    Settings,
    /// `stats items`: counters about the items.
    Items,
    /// `stats slabs`: how memory is used.
    Slabs,
    /// `stats sizes`: the histogram of sizes.
    Sizes,
    /// `stats conns`: the listening sockets and the connected clients.
    Conns,
    /// `stats reset`: set the counters to 0.
    Reset,
    /// `stats extstore`: nothing, as from a memcached without a file for items.
    Extstore,
    /// `stats detail …`: counters by the prefix of the key.
    Detail(Detail),
    /// `stats cachedump <class> <limit>`: list keys.
    Cachedump {
        /// The class of sizes.
        class: u32,
        /// The most keys to list; 0: all.
        limit: u32,
    },
}

/// The word after `stats detail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// `on`: begin to count.
    On,
    /// `off`: stop counting.
    Off,
    /// `dump`: show the counters.
    Dump,
    /// Anything else, or nothing.
    Unknown,
}

/// `lru_crawler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crawler {
    /// `enable`: allow the others.
    Enable,
    /// `disable`: refuse the others.
    Disable,
    /// `crawl`: remove expired items.
    Crawl(Classes),
    /// `metadump`: list every key, with the metadata of its item.
    Metadump(Classes),
    /// `mgdump`: list every key, as the command `mg` that reads it.
    Mgdump(Classes),
}

/// The classes of items that the crawler visits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Classes {
    /// `all`, or numbers of which one is 1: here this is the class of all items.
    All,
    /// `hash`: all, in the order of the table.
    Hash,
    /// Numbers of classes that are empty here.
    Empty,
    /// No number.
    None,
    /// A word that is neither of these, or a class that memcached cannot have.
    Invalid,
}

/// A part of memcached that is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Internals {
    /// The pace of the thread that looks for expired items (`lru_crawler sleep`, `lru_crawler tocrawl`).
    Crawler,
    /// The thread that moves pages from one slab class to another (`slabs automove`).
    Slabs,
    /// The segments of its queues (`lru`).
    Lru,
    /// The file for items that do not fit into memory (`extstore`).
    Extstore,
}

impl Internals {
    /// Why a command that tunes it has no effect, for people.
    pub fn reason(self) -> &'static str {
        match self {
            Internals::Crawler => "no effect here: expired items are removed every second",
            Internals::Slabs => "no effect here: memory is not divided into slab classes",
            Internals::Lru => "no effect here: the queues of items have no settings",
            Internals::Extstore => {
                "no effect here: there is no file for items that do not fit into memory"
            }
        }
    }
}

/// A set of streams: the kinds of events that a watcher reads (`watch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams(u8);

impl Streams {
    /// No stream.
    pub const NONE: Streams = Streams(0);
    /// Items that commands look for. A `set` looks for the old item.
    pub const FETCHERS: Streams = Streams(1);
    /// Values that are stored, or are not.
    pub const MUTATIONS: Streams = Streams(1 << 1);
    /// Items that are evicted.
    pub const EVICTIONS: Streams = Streams(1 << 2);
    /// Connections that are opened and closed.
    pub const CONNEVENTS: Streams = Streams(1 << 3);
    /// Items that `delete` and `md` delete.
    pub const DELETIONS: Streams = Streams(1 << 4);

    /// Their names, in memcached's order. Those that are `NONE` have no events here.
    const NAMES: [(&'static str, Streams); 10] = [
        ("rawcmds", Streams::NONE),
        ("evictions", Streams::EVICTIONS),
        ("fetchers", Streams::FETCHERS),
        ("mutations", Streams::MUTATIONS),
        ("sysevents", Streams::NONE),
        ("connevents", Streams::CONNEVENTS),
        ("proxyreqs", Streams::NONE),
        ("proxyevents", Streams::NONE),
        ("proxyuser", Streams::NONE),
        ("deletions", Streams::DELETIONS),
    ];

    /// The first stream whose name begins with this word, as in memcached: `f` is `fetchers`.
    pub(super) fn named(word: &[u8]) -> Option<Self> {
        let mut names = Streams::NAMES.iter();
        let found = names.find(|(name, _)| name.as_bytes().starts_with(word));
        found.map(|&(_, stream)| stream)
    }

    /// The streams of both sets.
    #[must_use]
    pub fn union(self, other: Streams) -> Self {
        Streams(self.0 | other.0)
    }

    /// Whether a stream is in both sets.
    pub fn overlaps(self, other: Streams) -> bool {
        self.0 & other.0 != 0
    }

    /// One bit for each stream.
    pub fn bits(self) -> u8 {
        self.0
    }
}

/// The mode of `shutdown`. Both modes do the same here: commands that are being executed are finished, and the
/// connections of idle clients are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// `shutdown`.
    Plain,
    /// `shutdown graceful`.
    Graceful,
    /// Anything else.
    Unknown,
}

/// `debugtime`, for tests only (`--debug`): what the clock must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugTime {
    /// `debugtime p`: pause.
    Pause,
    /// `debugtime r`: resume.
    Resume,
    /// `debugtime <seconds>`: jump by this number of seconds.
    Jump(i64),
}
