//! rustmemc: a memcached server in plain, synchronous, readable Rust.
//!
//! It is made to be run (`make run`, then any memcached client) and to be read. Start reading on this page.
//!
//! # A server in your program
//!
//! If your program uses memcached, its tests can start a server of their own:
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
//! The library is [`Config`] (its fields also use [`AofOptions`], [`Fsync`] and types of [`config`]), [`Server`],
//! [`Running`] (with [`Address`]), [`Stopper`] and [`StartError`] (with [`OpenError`]). The other public names are for
//! the two programs and the tests. `main.rs` is the library's first user. The rest of this page is
//! for readers of the code.
//!
//! # The map
//!
//! The first five parts have almost the same names as in the small Go program that came before this one:
//!
//! | here                | there                   | what it does                                             |
//! |---------------------|-------------------------|----------------------------------------------------------|
//! | [`connection`]      | `connection_handler`    | accepts clients; reads lines and data, sends answers     |
//! | [`protocol`]        | `protocol_handler`      | a line, or a binary header -> a [`Request`](protocol::Request) |
//! | [`command`]         | `command_handler`       | a request and the store -> [`Response`](serialization::Response)s |
//! | [`datastore`]       | `datastore_handler`     | the items: table, limits, time, eviction                 |
//! | [`serialization`]   | `serialization_handler` | a response -> bytes                                      |
//! | [`aof`]             |                         | the append-only file, "the log": records, replay, rewrite |
//! | [`item`], [`memory`] |                        | what a key holds; the memory of all items, and its limit |
//!
//! The others are: [`clients`] (the connected clients), [`stream`] (a client's socket, TCP or Unix), [`users`] (the
//! passwords of `-Y`), [`stopper`] (how the server is asked to stop), [`stats`] (counters), [`prefixes`] (the counters
//! of `stats detail`), [`watch`] (the live log for clients that send `watch`), [`trace`] (`-v` and `-vv`: the
//! conversation on standard error, explained), [`log`] (writes all lines for the operator; it is not the append-only
//! file).
//!
//! [`config`] has the flags: `flags.rs` (all flags, and their defaults), `words.rs` (the forms of a command line that
//! memcached accepts), `value.rs` (numbers, sizes, the words of `-o`), `address.rs` (the addresses of `-l`).
//!
//! [`connection`] has the sockets and the threads: `server.rs` (starts, accepts, dispatches, stops), `listener.rs` (the
//! listening sockets), `workers.rs` (the pool), `descriptors.rs` (how many clients the system allows),
//! `conversation.rs` (serves one client), `binary.rs` (serves one that speaks the binary protocol), `request.rs`
//! (serves one request of either protocol), `watching.rs` (sends a watcher its log), `login.rs` (`-Y`), `line.rs` (a
//! line in bounded memory), `wire.rs` (the buffers of a client's socket), `start_error.rs` (why a server did not
//! start).
//!
//! [`protocol`] has a file for the classic commands (`classic.rs`), for those that tune the insides of memcached
//! (`tuning.rs`), for the meta commands (`meta.rs`) and for the binary protocol (`binary.rs`); `request.rs` has what
//! they all return. [`command`] has `retrieval.rs`, `storage.rs`, `arithmetic.rs`, `meta.rs`, `stats.rs` (the command
//! `stats`), and `admin.rs` (the other commands about the server).
//!
//! The program is `main.rs` (flags, signals, exit code) and `process.rs` (`-d`, `-u`, `-P`). A second program, the
//! client `memc`, is in `src/memc`. It teaches with [`conversations`], the tutorial of the protocol; the tests and
//! `memc check` hold a server to them. Each conversation has a page there, with links to its code.
//!
//! Imports have one direction: `connection` -> `command` -> `datastore` -> `aof` -> `protocol` -> `item` -> `memory`.
//! `aof` reads the file with the parser of `protocol`. Every part may use `item`; `serialization` uses only `item` and
//! `protocol`. `connection`, `command` and `datastore` log events in `watch`, which writes keys with `serialization`.
//! There is no circle of folders, and none of files, except that a file and the files below it (`memory.rs` and
//! `memory/large.rs`) may use each other.
//!
//! # The way of one `set`
//!
//! ```text
//! set greeting 0 60 5\r\n
//! hello\r\n
//! ```
//!
//! 1. `connection/server.rs` has accepted the client, taken a [permit](clients::Permit) for it, and handed it to a
//!    worker of the pool. The worker serves this client until the connection is closed.
//! 2. `connection/conversation.rs` reads one line, in bounded memory (`connection/line.rs`). [`protocol::parse`] turns
//!    it into a [`Request`](protocol::Request), which borrows the key from the line. 5 bytes of data follow.
//! 3. `connection/request.rs` serves the request: steps 3 to 6. [`command::reserve`] makes an
//!    [`Item`](item::Item) of that size, and evicts other items if memory is short. (For an item of more than 1 KB it
//!    reserves the memory first.) The data is read straight into the item.
//! 4. [`command::execute`] locks the key: a [`KeyGuard`](datastore::guard::KeyGuard) holds the write lock of the key's
//!    shard. If the command has a condition, it is checked against the old item.
//! 5. The guard first appends a [`Record`](aof::record::Record) to the pending records of the append-only file. Then it
//!    copies the item to the end of a segment, and writes its location to the index. (If the old item has the same
//!    length, the new one is copied over it.)
//! 6. The answer is a [`Response`](serialization::Response). `serialization` writes it as `STORED\r\n` to the
//!    connection's buffer.
//! 7. When the client's input is used up, the pending records are written to the file, and then the answers are
//!    sent in one write (`connection/wire.rs`).
//!
//! # The way of an expiry
//!
//! The item of that `set` expires after 60 seconds, whether or not a client asks for it.
//!
//! 1. `protocol/expiry.rs` has parsed `60` as a number of seconds from now, an [`Exptime`](protocol::Exptime).
//!    `datastore/reserve.rs` turns it into a point in time, by the store's clock (`datastore/clock.rs`). The item and
//!    its record in the log have that [`Expiry`](item::Expiry), so a restart does not begin the 60 seconds again.
//! 2. The item's head holds the expiry (`datastore/head.rs`). The segment and the shard hold the earliest expiry of
//!    their items (`datastore/segment.rs`, `datastore/shard.rs`).
//! 3. At that second the item is no longer found: [`Datastore::get`](datastore::Datastore::get) and the
//!    [`KeyGuard`](datastore::guard::KeyGuard) compare the expiry with the clock. It still takes memory.
//! 4. Every second a thread of `connection/server.rs` sweeps (`datastore/eviction.rs`). It visits the shards whose
//!    earliest expiry has passed, and locks a shard for one segment at a time.
//! 5. `datastore/shard/reclaim.rs` removes the expired items of a segment from the index. Their bytes are dead. A
//!    segment in which nothing is alive is given back at once; if a shard has too many dead bytes, its dirtiest segment
//!    is compacted.
//! 6. The removals have no records of their own, because the expiry is in the item's record. The sweep appends a time
//!    mark to the log. A replay removes expired items at each time mark, and sweeps at its end
//!    (`datastore/persistence.rs`).
//!
//! # The way of an eviction
//!
//! 1. A `set` announces a value for which too little is free within `-m` (or, if it is small, the limit is exceeded
//!    already). `datastore/reserve.rs` finds that memory is short, before it allocates anything, while it holds no
//!    lock. (With `-M` it compacts, and refuses the `set` if that is not enough.)
//! 2. `datastore/eviction.rs` lets one thread evict at a time. It looks for the shard whose probation queue has the
//!    oldest segment, and locks it. If items have expired there, it removes those, and evicts nothing.
//! 3. The victim is the segment at the front of the shard's probation queue, or at times of its main queue
//!    (`datastore/shard/reclaim.rs`). Its items that were read since they were queued stay, and so do those that are
//!    being sent; the others are evicted. (If a round over all segments frees nothing, items that were read are evicted
//!    too.)
//! 4. Each evicted key gets a record in the log, before it is evicted. Otherwise a restart would bring it back.
//! 5. The items that stay are appended to the end of the main queue. The index forgets the others, and the segment is
//!    given back whole, to the pool in `memory.rs`.
//! 6. This is repeated until the used memory is within `-m`, or until enough is freed for this `set`. Then the data
//!    block of the `set` is read. If eviction cannot free enough, because clients that read slowly or send slowly hold
//!    the memory, the answer is `SERVER_ERROR out of memory storing object`, and a `set` removes the old value of its
//!    key.
//!
//! # The way of a stop
//!
//! 1. A signal (`main.rs`), the command `shutdown` (`command/admin.rs`) or [`Running::stop`] calls [`Stopper::stop`].
//!    That sets a flag, and wakes the threads that wait for it. From now on no new command is executed
//!    (`connection/conversation.rs`, `connection/binary.rs`). A server that still replays its log stops the replay. A
//!    second signal, more than 0.1 seconds later, ends the process at once, with exit code 1: the steps that remain are
//!    not done.
//! 2. The sweeper wakes, and drops the server. Steps 2 to 6 are in `Drop for Server`, in `connection/server.rs`. Up
//!    to 32 acceptors wait at each listening socket, so the server connects as often to each of its own addresses
//!    (`connection/listener.rs`). Each connection wakes an acceptor, which sees the flag, and ends. The server waits
//!    for them, but for 0.3 seconds at most. Meanwhile it connects again, because clients may have used all file
//!    descriptors.
//! 3. It closes the listening sockets, and removes the file of the Unix socket (`connection/listener.rs`). So the next
//!    server can listen as soon as it has the file.
//! 4. It shuts every client's socket for reading ([`clients`]). A worker that waits for a command reads the end of its
//!    input. A worker that executes one finishes it, and sends its answer. If a client does not read its answers for
//!    1.5 seconds, its connection is closed.
//! 5. The log syncs (unless `--fsync never`), writes the records that were appended meanwhile, and unlocks the file
//!    (`aof/mod.rs`). This takes as long as the disk. A rewrite is abandoned, because the old file is whole; but if the
//!    file was removed or replaced, it is written anew.
//! 6. The server waits for the dispatcher, the busy workers, the log keeper and the clock, but for 0.3 seconds at most.
//! 7. [`Running::wait`] returns. The file of `-P` is removed (`process.rs`). `main` waits until the last lines are
//!    written to standard error, but for 0.2 seconds at most (`log.rs`), and returns the exit code 0.
//!
//! # Other questions
//!
//! - **Two `incr` of one key at once**: `command/arithmetic.rs` holds the key's guard from reading the number to
//!   storing the sum, so one comes after the other. The record has the sum.
//! - **A line that cannot be parsed**: the answer is an error line (`protocol/error.rs`; `-vv` prints the reason). If
//!   the line announced a data block whose length could be read, the block is swallowed. A block that does not end in
//!   `\r\n` after its length is not stored, and what follows is read as a command
//!   (`tests/conversations/04-bad-data.txt`).
//! - **One client too many**: it waits 20 ms for another client's place, but only if no other client was refused
//!   just before. Then it is sent `ERROR Too many open connections` and its connection is closed ([`clients`]). The
//!   same happens if the system has no thread for it.
//! - **No file descriptor is left**: at the start the server counts how many clients the limit on open files allows,
//!   and serves no more (`connection/descriptors.rs`). If `accept` fails nevertheless, the listener closes a descriptor
//!   that it keeps in reserve, accepts the client in its place, and sends it the same error (`connection/listener.rs`).
//!   So no client waits for an answer that never comes.
//! - **The binary protocol**: a connection whose first byte is 0x80 speaks it. `protocol/binary.rs` turns a header and
//!   its parts into the same kind of [`Request`](protocol::Request) as a line, mostly that of a meta command, and
//!   `serialization/binary.rs` writes the same responses in another form. So the commands do not know about it.
//! - **A login (`-Y`)**: before its first command a client sends a `set` whose data is a user and a password.
//!   `protocol/login.rs` parses it, `users.rs` compares it with the file's lines, and `connection/login.rs` answers
//!   `STORED`. Any other line gets `CLIENT_ERROR unauthenticated`. `-vv` prints no line before the login: it may be a
//!   password.
//! - **`-d`**: std cannot fork. So the program starts itself again, with the same command line and an environment
//!   variable, in a process group of its own. The new process prints its lines, and an empty one when it listens. The
//!   first process prints them, and returns (`process.rs`). `-u` starts the program again too, as the other user.
//! - **`mg key N30` of a missing key**: `command/meta.rs` stores an empty item that expires in 30 seconds, and the
//!   answer has `W`: this client brings the value. Until it does, others read an empty value, and their `mg` has `Z`
//!   (`tests/conversations/25-one-brings-the-value.txt`).
//! - **A record of the log**: a memcached command whose opaque has the cas unique and checksums. [`aof::record`] has
//!   the grammar, and [`aof::opaque`] the opaque. A replay checks the line before it believes its length, and then the
//!   whole record; what a crash has cut short is moved aside, and anything else that is wrong keeps the server from
//!   starting (`aof/replay.rs`).
//! - **`watch`**: the client's worker now sends its log (`connection/watching.rs`). The other workers append their
//!   events to the watcher's queue, which is bounded, and never wait. An event without a watcher costs one load
//!   ([`watch`]).
//! - **`noreply`** as the last word silences every answer of a classic command that stores or changes, its errors too.
//!   Not silenced: a line with too few words or without a readable length, and commands that only read. Meta commands
//!   have `q` instead, which leaves out the common answer.
//! - **Pipelines**: the answers of a client gather in its buffer of up to 64 KB, and are sent before a read that may
//!   block, when the buffer is full, and at the end; a client that is alone gets them earlier (`connection/wire.rs`).
//!
//! # Adding a command
//!
//! Begin with the first step. The compiler and `make test` then name the rest, except the sentences that end in *.
//!
//! 1. The verb: [`protocol::VERBS`]. From now on tests require it in the parser, in README.md and in a conversation.
//! 2. The request: a variant of [`Request`](protocol::Request), in `protocol/request.rs`. Now the compiler names each
//!    `match` of `command/mod.rs`: [`command::may_change`] (return true if it may change anything: otherwise its
//!    answers are sent before its records are written), [`command::reserve`] (if it has a data block),
//!    [`command::execute`].
//! 3. Its grammar: a function of `protocol/classic.rs`, `protocol/tuning.rs` or `protocol/meta.rs`, called by
//!    `parse_verb` in `protocol/mod.rs`. Decide what happens with too few words, with too many, with a key that is too
//!    long, and with `noreply`.*
//! 4. What it does: a function in a file of `command/`, called by [`command::execute`].
//! 5. Its answer: a variant of [`Response`](serialization::Response), if none of the others fits. The compiler asks for
//!    its line. Add a reason for `-vv` in `Response::reason`.*
//! 6. What it counts: a new [`Counter`](stats::Counter), which `stats` then shows, or an existing one.*
//! 7. A new kind of change to the store: a [`Record`](aof::record::Record), so that it can be replayed. The compiler
//!    names where it is written and where it is applied, but not where it is parsed (`aof/record.rs`).* A command that
//!    only puts, touches or removes items needs no new record.
//! 8. A conversation: a section in a new or an old file of `tests/conversations`. Show its errors too.* A
//!    command that memcached does not have is marked `(ours alone)`, and README.md mentions that.*
//! 9. The table of commands in README.md.
//! 10. The random tests: `tests/histories.rs` if it changes items, and `tests/differential.rs` if memcached has it.*
//! 11. If the binary protocol has it: an opcode in `protocol/binary.rs`.*
//!
//! # Invariants
//!
//! Each invariant is explained beside the code that keeps it:
//!
//! 1. **A change is recorded before it is answered.** Before any byte of the answer is sent, the operating system has
//!    the change's record, and with `--fsync always` it is on disk. If the record cannot be written, the answer is not
//!    sent and the connection is closed ([`aof`], `connection/wire.rs`).
//! 2. **The order of the log is the order of the store, key by key.** A record is appended while its key's shard is
//!    locked. Lock order: shard, then file, then pending records; nothing is locked while the lock of [`watch`] is
//!    held. A thread locks one shard at a time, or all of them in ascending order
//!    ([`datastore::guard::KeyGuard`], [`aof`], [`datastore`]).
//! 3. **A replay of the log restores exactly the items that memory held.** It does not restore when an item was read,
//!    or that a client has won it. A record holds the result of a change, and evictions and flushes have records too
//!    ([`aof::record`]).
//! 4. **No lock of the store is held during network input or output.** No thread reads from a socket or writes to one
//!    while it holds such a lock: a small value is copied under the lock, and a large one is shared ([`datastore`]).
//! 5. **A length that a client sends is checked before memory is allocated for it.** A refused data block is
//!    skipped in pieces, a line has a maximal length, and a longer `get` line is served in pieces
//!    (`connection/wire.rs`, `connection/line.rs`, [`command::reserve`], `protocol/binary.rs`).
//! 6. **The memory of items is counted, and stays within `-m`.** A write of more than 1 KB reserves memory before it
//!    allocates any, and a smaller one may exceed the limit a little (`datastore/reserve.rs`). Each piece is counted
//!    until its owner is dropped ([`memory`]).
//! 7. **A bad request gets an error, and the next command is read correctly** ([`protocol::Parsed::data_length`]). The
//!    exceptions: after a line that is too long, or an HTTP request, the connection is closed without an answer; after
//!    a malformed binary request it is closed, too; and if a data block is not as long as announced, or its
//!    length cannot be parsed, its bytes are read as commands.
//! 8. **A panic in one worker affects only its own client.** A lock that it poisons still works ([`datastore`],
//!    [`clients`]), and its worker survives (`connection/server.rs`). No panic is known: nothing that a client, a file
//!    or the operating system can influence is unwrapped.
//! 9. **No client waits for an answer that is still in a buffer** (`connection/wire.rs`).
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
pub mod conversations;
mod datastore;
mod item;
pub mod log;
mod memory;
mod prefixes;
mod protocol;
mod serialization;
mod stats;
mod stopper;
mod stream;
mod trace;
mod users;
mod watch;

pub use aof::open::OpenError;
pub use aof::{Fsync, Options as AofOptions};
pub use config::{Config, Protocol};
pub use connection::descriptors::reserve as reserve_descriptors;
pub use connection::{Running, Server, StartError};
pub use stopper::Stopper;
pub use stream::{Address, Stream};

/// For `tests/common/memory.rs`, which uses a store without sockets, for the tests that list all verbs, and for the
/// program `memc`, which writes and reads the records of the append-only file. It is not for users of the library.
#[doc(hidden)]
pub mod internals {
    pub use crate::aof::record;
    pub use crate::clients::Clients;
    pub use crate::command::{Service, execute, reserve};
    pub use crate::datastore::{Datastore, Limits, WhenFull};
    pub use crate::item::{Expiry, Item, MAX_KEY, UnixTime};
    pub use crate::protocol::{Answer, VERBS, base64, grammar, parse};
    pub use crate::serialization::{Response, explain};
    pub use crate::stats::{Counts, Stats};
    pub use crate::watch::{Events, Watchers};
}

/// rustmemc's own version: `-V`, and `rustmemc_version` in `stats`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The release of memcached whose protocol this server implements. It is the answer to `version`, because clients
/// decide by it which commands they use: libmemcached refuses 0.x, others require at least 1.6.
pub const VERSION_SPOKEN: &str = "1.6.45";
