//! What a server is asked to do: [`Config`]. [`from_command_line`] makes one from the program's flags.
//!
//! - `flags.rs`: all flags, and what their values mean.
//! - `words.rs`: the forms of a command line that getopt accepts and `argh` does not.
//! - `value.rs`: numbers as C reads them, sizes, and the words of `-o`.
//! - `address.rs`: the addresses of `-l`.

mod address;
mod flags;
mod value;
mod words;

use std::path::PathBuf;
use std::time::Duration;

pub use address::{TcpAddress, UnixSocket};
pub use flags::from_command_line;

use crate::aof;

const MEGABYTE: usize = 1 << 20;

/// How a server runs.
///
/// The default is for a server inside another program, such as a test: it listens on a free port of 127.0.0.1, serves
/// a few clients, records nothing, and is quiet. The program itself has other defaults: see `--help`.
///
/// ```
/// let config = rustmemc::Config {
///     memory_limit: 8 << 20,
///     ..Default::default()
/// };
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// The TCP port of the addresses that name none. With 0 the system chooses one.
    pub port: u16,
    /// The TCP addresses to listen on.
    pub listen: Vec<TcpAddress>,
    /// The Unix socket to listen on. `None`: there is none.
    pub unix_socket: Option<UnixSocket>,
    /// How many clients may be connected at once. Each has a worker, which is started when it is first needed.
    pub conn_limit: usize,
    /// How much memory all items may use together, in bytes.
    pub memory_limit: usize,
    /// How large one item may be, in bytes.
    pub max_item_size: usize,
    /// Whether the server refuses items when memory is full, instead of evicting others.
    pub disable_evictions: bool,
    /// Whether clients may stop the server with `shutdown`.
    pub enable_shutdown: bool,
    /// Whether `flush_all` is refused.
    pub disable_flush_all: bool,
    /// Whether the commands that list keys (`lru_crawler metadump`, `stats cachedump`) and `stats detail` are refused.
    pub disable_dumping: bool,
    /// Whether `watch` is refused.
    pub disable_watch: bool,
    /// Whether requests are counted by the prefix of the key from the start on, without `stats detail on`.
    pub detail: bool,
    /// What ends the prefix of a key: an ASCII character.
    pub prefix_delimiter: u8,
    /// Whether `stats sizes` shows how many items of each size there are.
    pub track_sizes: bool,
    /// A file of lines `user:password`. Clients must log in with one of them. `None`: there is no login.
    pub auth_file: Option<PathBuf>,
    /// The protocol that clients may speak.
    pub protocol: Protocol,
    /// The connection of a client that sends nothing, or reads no answers, for this long is closed. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// How much of the conversations is printed on standard error: 0 nothing, 1 connections and errors, 2 also all
    /// commands and answers.
    pub verbosity: u32,
    /// Whether the command `debugtime` exists.
    pub debug: bool,
    /// How changes are recorded. `None`: they are not recorded.
    pub aof: Option<aof::Options>,
    /// The values of memcached's flags that have no effect here.
    pub reported: Reported,
    /// Notes for the user, which the server prints when it starts, for example that a flag has no effect here.
    pub notes: Vec<String>,
}

/// The protocol that clients may speak (`-B`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The first byte of a connection decides.
    Auto,
    /// Only the text protocol, classic and meta.
    Ascii,
    /// Only the binary protocol.
    Binary,
}

impl Protocol {
    /// Its name in `stats settings`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Auto => "auto-negotiate",
            Protocol::Ascii => "ascii",
            Protocol::Binary => "binary",
        }
    }
}

/// The values of memcached's flags that have no effect here. `stats settings` shows them, because tools look for them.
/// The defaults are memcached's.
#[derive(Debug, Clone)]
pub struct Reported {
    /// `-t`: its worker threads. (Here each client has one.)
    pub num_threads: i64,
    /// `-b`: the length of the listening socket's queue. (Here it is 128: std has no way to choose it.)
    pub tcp_backlog: i64,
    /// `-C`: whether items have a cas unique. (Here they always have.)
    pub cas_enabled: bool,
    /// `-R`: how many requests of one client it serves before it serves the next client.
    pub reqs_per_event: i64,
    /// `-n`: the smallest space for key, value and flags, in bytes.
    pub chunk_size: i64,
    /// `-f`: the growth factor of its slab sizes.
    pub growth_factor: f64,
}

impl Default for Reported {
    fn default() -> Self {
        Reported {
            num_threads: 4,
            tcp_backlog: 1024,
            cas_enabled: true,
            reqs_per_event: 20,
            chunk_size: 48,
            growth_factor: 1.25,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            port: 0,
            listen: vec![TcpAddress::localhost()],
            unix_socket: None,
            conn_limit: 16,
            memory_limit: 64 * MEGABYTE,
            max_item_size: MEGABYTE,
            disable_evictions: false,
            enable_shutdown: false,
            disable_flush_all: false,
            disable_dumping: false,
            detail: false,
            prefix_delimiter: b':',
            track_sizes: false,
            disable_watch: false,
            auth_file: None,
            protocol: Protocol::Auto,
            idle_timeout: None,
            verbosity: 0,
            debug: false,
            aof: None,
            reported: Reported::default(),
            notes: Vec::new(),
        }
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Start a server.
    Serve {
        /// What the server does.
        config: Box<Config>,
        /// What the program does besides serving.
        process: ProcessOptions,
    },
    /// Only print this text on standard output: `-h`, `-V`, `-i`.
    Text(String),
}

/// What the program does besides serving.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessOptions {
    /// `-d`: run in the background.
    pub daemon: bool,
    /// `-u`: the user that the program runs as if root starts it.
    pub user: Option<String>,
    /// `-P`: the file for the process id. It exists while the server listens.
    pub pid_file: Option<PathBuf>,
}
