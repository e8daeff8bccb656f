//! rustmemc: a memcached server in plain, synchronous, readable Rust.
//!
//! It exists to be run (`make run`, then any memcached client) and to be read. This page is where the
//! reading starts.
//!
//! # A server in your program
//!
//! A test of a program that uses memcached can have a server of its own:
//!
//! ```
//! use std::io::{BufRead, BufReader, Write};
//! use std::net::TcpStream;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut server = rustmemc::Server::start(rustmemc::Config::default())?;
//!
//! let mut client = TcpStream::connect(server.address())?;
//! client.write_all(b"set greeting 0 0 5\r\nhello\r\nget greeting\r\n")?;
//! let answers = BufReader::new(client).lines().take(4);
//! let answers: Vec<String> = answers.collect::<Result<_, _>>()?;
//! assert_eq!(answers, ["STORED", "VALUE greeting 0 5", "hello", "END"]);
//!
//! server.stop(); // Dropping it does the same.
//! # Ok(())
//! # }
//! ```
//!
//! This is the whole library: [`Config`], [`Server`], [`Running`], [`Stopper`], [`StartError`]. `main.rs` is its first
//! user, and the tests in `tests/` are the second. The rest of this page is for readers of the code.
//!
//! # The map
//!
//! Five parts, which keep the names that they had in the small Go program that this one succeeds:
//!
//! | here                | there                   | what it does                                             |
//! |---------------------|-------------------------|----------------------------------------------------------|
//! | [`connection`]      | `connection_handler`    | accepts clients; reads lines and data, sends answers     |
//! | [`protocol`]        | `protocol_handler`      | a line -> a [`Request`](protocol::Request)               |
//! | [`command`]         | `command_handler`       | a request and the store -> [`Response`](serialization::Response)s |
//! | [`datastore`]       | `datastore_handler`     | the items: table, limits, time, eviction                 |
//! | [`serialization`]   | `serialization_handler` | a response -> bytes                                      |
//! | [`aof`]             |                         | the append-only file: records, replay, rewrite           |
//! | [`item`], [`memory`] |                        | what a key holds; the memory that all items are made of  |
//!
//! Beside them: [`config`] (the flags), [`clients`] (who is connected), [`stopper`] (how the server is told to
//! stop), [`stats`] (counters), [`memory`] (what is allocated, and its limit), [`trace`] (`-v` and `-vv`: the
//! conversation on standard error, explained), [`log`] (other lines for the operator).
//!
//! Imports run one way: `connection` -> `command` -> `datastore` -> `aof` -> `protocol` -> `item` -> `memory`. (`aof`
//! reads the file with the parser of `protocol`.) Everybody may know `item`; `serialization` knows that and `protocol`.
//! There is no circle, neither of folders nor of files.
//!
//! # The way of one `set`
//!
//! ```text
//! set greeting 0 60 5\r\n
//! hello\r\n
//! ```
//!
//! 1. `connection/server.rs` has accepted the client, taken a [permit](clients::Permit) for it, and handed
//!    it to a worker of the pool: the worker stays with it for its life.
//! 2. `connection/conversation.rs` reads one line, which is bounded. [`protocol::parse`] turns it into a
//!    request that borrows the key from that line, and says that 5 bytes of data follow.
//! 3. [`command::reserve`] makes room for an [`Item`](item::Item) of that size, by evicting others if need be; the data is
//!    read straight into it.
//! 4. [`command::execute`] takes the [`KeyGuard`](datastore::guard::KeyGuard) of the key, which is the write lock of the
//!    shard that the key belongs to, looks at what is there if the command's condition asks for it, and
//!    stores: the guard first appends a [`Record`](aof::record::Record) to those that are on their way to
//!    the append-only file, then copies the item to the end of a segment, and notes in the index where it is. (If the old
//!    item is as long, the new one is copied over it.)
//! 5. It answers with a response. `serialization` turns that into `STORED\r\n` in the connection's
//!    buffer.
//! 6. When the client has sent nothing more, the records are written to the file, and then the answers
//!    leave in one write (`connection/wire.rs`).
//!
//! # The way of an expiry
//!
//! The item of that `set` expires after 60 seconds, whether somebody asks for it or not.
//!
//! 1. `protocol/expiry.rs` has read `60` as a span, [`Exptime`](protocol::Exptime). `datastore/reserve.rs` makes a point
//!    in time of it, by the store's clock (`datastore/clock.rs`): the item and its record in the log have that
//!    [`Expiry`](item::Expiry), so a restart does not begin the 60 seconds again.
//! 2. The item's head has the expiry (`datastore/head.rs`). The segment and the shard note the earliest one of their items
//!    (`datastore/segment.rs`, `datastore/shard.rs`).
//! 3. At that second the item is no longer found: [`Datastore::get`](datastore::Datastore::get) and the
//!    [`KeyGuard`](datastore::guard::KeyGuard) compare the expiry with the clock. It still takes memory.
//! 4. Every second a thread of `connection/server.rs` sweeps (`datastore/eviction.rs`). It visits the shards whose earliest
//!    expiry has passed, and locks a shard for one segment at a time.
//! 5. `datastore/shard/reclaim.rs` removes the expired items of a segment from the index. Their bytes are dead. A segment
//!    in which nothing is alive is given back at once; if a shard has too many dead bytes, its dirtiest segment is
//!    compacted.
//! 6. Nothing is recorded: the expiry is in the item's own record, and a replay sweeps when it has read all records
//!    (`datastore/persistence.rs`).
//!
//! # The way of an eviction
//!
//! 1. A `set` announces more than is free within `-m`: `datastore/reserve.rs` finds that memory is short, before it
//!    allocates anything, while it holds no lock. (With `-M` it compacts, and if that is not enough, refuses.)
//! 2. `datastore/eviction.rs` lets one thread evict at a time. It looks for the shard with the oldest segment, and locks it.
//!    If items have expired there, it removes those, and evicts nothing.
//! 3. The victim is the segment at the front of the shard's probation queue, or at times of its main queue
//!    (`datastore/shard/reclaim.rs`). Its items that were read since they were queued stay; the others are evicted.
//! 4. Each evicted key gets a record in the log, before it is evicted. Otherwise a restart would bring it back.
//! 5. The items that stay are appended to the end of the main queue. The index forgets the others, and the segment is given
//!    back whole, to the pool in `memory.rs`.
//! 6. This is repeated until what is used is within `-m`, or until there is enough room for this `set`. Then `set` goes on
//!    with its data block. If eviction cannot free enough, because clients that read slowly or send slowly hold the memory,
//!    the answer is `SERVER_ERROR out of memory storing object`.
//!
//! # The way of a stop
//!
//! 1. A signal (`main.rs`), the command `shutdown` (`command/admin.rs`) or [`Running::stop`] calls [`Stopper::stop`]. That
//!    sets a flag, and wakes the threads that wait for it. From now on no client's next command is begun
//!    (`connection/conversation.rs`). A server that still replays its log gives up the replay.
//! 2. The sweeper wakes, and its server is dropped: the end is `Drop for Server` in `connection/server.rs`. It connects to
//!    its own addresses, so that the acceptors wake, see the flag, and end.
//! 3. It shuts every client's socket for reading ([`clients`]). A worker that waits for a command finds the end of its input.
//!    A worker that executes one finishes it, and sends its answer. A client that does not read its answers for 1.5 seconds
//!    is cut off.
//! 4. The log writes what is pending, syncs (unless `--fsync never`), and lets go of the file's lock (`aof/mod.rs`). A
//!    rewrite is abandoned: the old file is whole.
//! 5. It waits for the acceptors, the dispatcher, the busy workers and the log keeper, but not for ever: a thread that waits
//!    for the disk must not hold up the end.
//! 6. [`Running::wait`] returns, and `main` returns the exit code 0.
//!
//! # Adding a command
//!
//! Begin with the first step, and let the compiler and `make test` name the others. Only the steps marked with * are asked
//! for by nobody.
//!
//! 1. The verb: [`protocol::VERBS`]. From now on tests ask for it in the parser, in README.md and in a conversation.
//! 2. What it asks for: a variant of [`Request`](protocol::Request), in `protocol/request.rs`. Now the compiler names each
//!    `match` of `command/mod.rs`: [`command::may_change`] (say yes if it may change anything, or its answers leave before
//!    its records), [`command::reserve`] (if it brings a data block), [`command::execute`].
//! 3. Its grammar: a function of `protocol/classic.rs` or `protocol/meta.rs`, called by `parse_verb` in `protocol/mod.rs`.
//!    Decide what becomes of too few words, of more words, of a key that is too long, and of `noreply`.*
//! 4. What it does: a function in a file of `command/`, called by [`command::execute`].
//! 5. Its answer: a variant of [`Response`](serialization::Response), if there is none like it. Its line is asked for by
//!    the compiler, and a reason for `-vv` goes into `Response::reason`.*
//! 6. What it counts: a [`Counter`](stats::Counter) of its own, which `stats` then shows, or one that is there.*
//! 7. A kind of change that is new to the store: a [`Record`](aof::record::Record), so that it can be replayed. The compiler
//!    names where it is written and where it is applied, but not where it is read (`aof/record.rs`).* A command that only
//!    puts, touches or removes items needs none.
//! 8. A conversation: a section in a file of `tests/conversations`, a new file or an old one. Show its errors too.* A
//!    command that memcached does not have is marked `(ours alone)`, and README.md says so.*
//! 9. The table of commands in README.md.
//! 10. The random tests: `tests/histories.rs` if it changes items, and `tests/differential.rs` if memcached has it.*
//!
//! # Invariants
//!
//! Each stands beside the code that keeps it:
//!
//! 1. **No answer before its record.** A change's record is with the operating system before a byte of its
//!    answer leaves, and with `--fsync always` on disk. If it cannot be written, the answer does not leave and the
//!    connection ends ([`aof`], `connection/wire.rs`).
//! 2. **The order of the log is the order of the store, key by key.** A record is appended while its
//!    key's shard is locked; lock order: shard, then file, then pending records; never two shards except all
//!    in ascending order ([`datastore::guard::KeyGuard`], [`aof`], [`datastore`]).
//! 3. **The log replays to the very state that memory held.** Records say what holds afterwards, evictions
//!    and flushes included ([`aof::record`]).
//! 4. **No lock across the network.** Nothing reads from or writes to a socket while it holds a lock of
//!    the store: a small value is copied while the lock is held, a large one is shared ([`datastore`]).
//! 5. **What a client sends never sizes an allocation by itself.** Lengths are checked first, a refused
//!    block is swallowed in pieces, a line is bounded (`connection/wire.rs`, [`command::reserve`]).
//! 6. **Memory is counted as it really is, and stays within `-m`**: memory is reserved before it is taken
//!    (`datastore/reserve.rs`), and each piece is counted by the value that holds it ([`memory`]).
//! 7. **A broken request costs its own answer and nothing else.** The next command on that connection
//!    is understood ([`protocol::Parsed::data_length`]); only a line without end and a browser's are hung up
//!    on, and data whose length cannot be read is read as commands.
//! 8. **A panic in one worker is that client's problem alone.** No lock that it poisons reaches another
//!    ([`datastore`], [`clients`]), its worker survives (`connection/server.rs`), and there is none to
//!    see: nothing that a client, a file or the system can influence is unwrapped.
//! 9. **Nobody waits for an answer that lies in a buffer** (`connection/wire.rs`).
//! 10. **Every client that has a permit has a worker** ([`clients`], `connection/workers.rs`).

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod aof;
mod clients;
mod command;
pub mod config;
mod connection;
mod datastore;
mod item;
pub mod log;
mod memory;
mod protocol;
mod serialization;
mod stats;
mod stopper;
mod trace;

pub use aof::open::OpenError;
pub use aof::{Fsync, Options as AofOptions};
pub use config::Config;
pub use connection::{Running, Server, StartError};
pub use stopper::Stopper;

/// What `tests/common/memory.rs` needs to work with a store without sockets, and the verbs that the conversations must
/// show. It is not for users of the library.
#[doc(hidden)]
pub mod internals {
    pub use crate::clients::Clients;
    pub use crate::command::{Service, execute, reserve};
    pub use crate::datastore::{Datastore, Limits, WhenFull};
    pub use crate::item::UnixTime;
    pub use crate::protocol::{Answer, VERBS, parse};
    pub use crate::serialization::Response;
    pub use crate::stats::{Counts, Stats};
}

/// rustmemc's own version: `-V`, and `rustmemc_version` in `stats`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The release of memcached whose protocol is spoken. `version` answers with it, because clients read
/// from it what they may use: libmemcached refuses 0.x, others ask for at least 1.6.
pub const VERSION_SPOKEN: &str = "1.6.45";
