//! The command line: memcached's one-letter flags and long names, and a few of our own.
//!
//! `argh` does the parsing, after [`normalised`] has rewritten the forms of getopt that argh does not know. A flag that
//! is given several times has its last value, as in memcached.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::value::{Extended, extended, factor, mode, number, size};
use super::words::{Words, normalised};
use super::{
    Config, Invocation, MEGABYTE, ProcessOptions, Protocol, Reported, TcpAddress, UnixSocket,
};
use crate::aof::{self, Fsync};

/// A memcached server in plain, synchronous Rust.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(help_triggers("-h", "--help"))]
struct Flags {
    /// TCP port to listen on; with 0 the system chooses one (default: 11211)
    #[argh(option, short = 'p', from_str_fn(number), arg_name = "port")]
    port: Vec<i64>,

    /// address or name to listen on, with its own port if it has one (a:11212); for several, separate them with commas or repeat the flag (default: 127.0.0.1)
    #[argh(option, short = 'l', arg_name = "address")]
    listen: Vec<String>,

    /// unix socket to listen on; then TCP only if -p is given and not 0
    #[argh(option, short = 's', arg_name = "path")]
    unix_socket: Vec<PathBuf>,

    /// permissions of the unix socket, in octal (default: 700)
    #[argh(option, short = 'a', from_str_fn(mode), arg_name = "mode")]
    unix_mask: Vec<u32>,

    /// how many clients may be connected at once; each has a thread (default: 1024)
    #[argh(option, short = 'c', from_str_fn(number), arg_name = "number")]
    conn_limit: Vec<i64>,

    /// memory for items, in megabytes (default: 64)
    #[argh(option, short = 'm', from_str_fn(number), arg_name = "megabytes")]
    memory_limit: Vec<i64>,

    /// size of the largest item, in bytes, or with k or m (default: 1m)
    #[argh(option, short = 'I', from_str_fn(size), arg_name = "size")]
    max_item_size: Vec<i64>,

    /// when memory is full, answer with an error instead of evicting items
    #[argh(switch, short = 'M')]
    disable_evictions: bool,

    /// let clients stop the server with the command `shutdown`
    #[argh(switch, short = 'A')]
    enable_shutdown: bool,

    /// refuse the command `flush_all`
    #[argh(switch, short = 'F')]
    disable_flush_all: bool,

    /// refuse the commands that list keys or their prefixes: `lru_crawler metadump` and `mgdump`, `stats cachedump`, `stats detail`
    #[argh(switch, short = 'X')]
    disable_dumping: bool,

    /// refuse the command `watch`
    #[argh(switch, short = 'W')]
    disable_watch: bool,

    /// a file of lines `user:password`; clients must log in with one of them
    #[argh(option, short = 'Y', arg_name = "path")]
    auth_file: Vec<PathBuf>,

    /// close connections whose client sends nothing, or reads no answers, for this many seconds (default: 0, never)
    #[argh(option, from_str_fn(number), arg_name = "seconds")]
    idle_timeout: Vec<i64>,

    /// print connections and errors on standard error; twice (-vv): also all commands and answers, with reasons
    #[argh(switch, short = 'v')]
    verbose: u32,

    /// run in the background: return as soon as the server listens, or print why it does not
    #[argh(switch, short = 'd')]
    daemon: bool,

    /// write the process id to this file, and remove it at the end
    #[argh(option, short = 'P', arg_name = "path")]
    pidfile: Vec<PathBuf>,

    /// the user to run as, if root starts the server
    #[argh(option, short = 'u', arg_name = "name")]
    user: Vec<String>,

    /// the append-only file (default: rustmemc.aof in the current directory; with another port than 11211, `rustmemc-<port>.aof`; with port 0, none)
    #[argh(option, arg_name = "path")]
    aof: Vec<PathBuf>,

    /// record nothing: all items are lost when the server stops
    #[argh(switch)]
    no_aof: bool,

    /// begin with an empty file, and keep the old one under another name
    #[argh(switch)]
    fresh: bool,

    /// when the file is synced to disk: always (before each answer to a change), everysec or never (default: everysec)
    #[argh(option, arg_name = "when")]
    fsync: Vec<Fsync>,

    /// a file smaller than this is not rewritten; in bytes, or with k or m (default: 64m)
    #[argh(option, from_str_fn(size), arg_name = "size")]
    aof_rewrite_size: Vec<i64>,

    /// the file is rewritten when it is this many times as large as after the last rewrite (default: 2)
    #[argh(option, from_str_fn(number), arg_name = "times")]
    aof_rewrite_growth: Vec<i64>,

    /// truncate a damaged file to its good part, and save the rest in another file beside it
    #[argh(switch)]
    aof_repair: bool,

    /// offer the command `debugtime`, for tests
    #[argh(switch)]
    debug: bool,

    /// print the version and exit
    #[argh(switch, short = 'V')]
    version: bool,

    /// print the licence and exit
    #[argh(switch, short = 'i')]
    license: bool,

    /// memcached's extended options: `idle_timeout=<seconds>` is --idle-timeout, track_sizes is for `stats sizes`, the others have no effect here
    #[argh(option, short = 'o', from_str_fn(extended), arg_name = "options")]
    extended: Vec<Extended>,

    /// the protocol that clients may speak: ascii, binary, or auto, which serves both (default: auto)
    #[argh(option, short = 'B', arg_name = "name")]
    protocol: Vec<String>,

    /// no UDP here; the TCP port if there is no -p (memcached: UDP port)
    #[argh(option, short = 'U', from_str_fn(number), arg_name = "port")]
    udp_port: Vec<i64>,

    /// no effect here (memcached: worker threads)
    #[argh(option, short = 't', from_str_fn(number), arg_name = "number")]
    threads: Vec<i64>,

    /// no effect here (memcached: length of the listening socket's queue)
    #[argh(option, short = 'b', from_str_fn(number), arg_name = "number")]
    listen_backlog: Vec<i64>,

    /// no effect here (memcached: requests served before the next client's turn)
    #[argh(option, short = 'R', from_str_fn(number), arg_name = "number")]
    max_reqs_per_event: Vec<i64>,

    /// no effect here (memcached: growth factor of slab sizes)
    #[argh(option, short = 'f', from_str_fn(factor), arg_name = "factor")]
    slab_growth_factor: Vec<f64>,

    /// no effect here (memcached: smallest slab)
    #[argh(option, short = 'n', from_str_fn(number), arg_name = "bytes")]
    slab_min_size: Vec<i64>,

    /// count requests by the prefix of the key, which this character ends, as `stats detail on` does (default: :, off)
    #[argh(option, short = 'D', arg_name = "char")]
    prefix_delimiter: Vec<String>,

    /// no effect here (memcached: NAPI ids)
    #[argh(option, short = 'N', from_str_fn(number), arg_name = "number")]
    napi_ids: Vec<i64>,

    /// no effect here, see --aof (memcached: file for item memory)
    #[argh(option, short = 'e', arg_name = "path")]
    memory_file: Vec<PathBuf>,

    /// no effect here, every item has a cas unique (memcached: no cas uniques)
    #[argh(switch, short = 'C')]
    disable_cas: bool,

    /// no effect here (memcached: keep memory from being paged out)
    #[argh(switch, short = 'k')]
    lock_memory: bool,

    /// no effect here (memcached: allow a core file)
    #[argh(switch, short = 'r')]
    enable_coredumps: bool,

    /// no effect here (memcached: large memory pages)
    #[argh(switch, short = 'L')]
    enable_largepages: bool,

    /// refused, use -Y (memcached: clients must log in with SASL)
    #[argh(switch, short = 'S')]
    enable_sasl: bool,

    /// refused, there is no TLS here (memcached: encrypt connections)
    #[argh(switch, short = 'Z')]
    enable_ssl: bool,
}

/// The largest `-I`, as in memcached: an item's length fits into 32 bits.
const LARGEST_ITEM_SIZE: i64 = 1 << 30;

/// The name under which the program was started.
///
/// Under the name `memcached` (for example of a link) the program does what scripts expect of memcached: it keeps no
/// file unless `--aof` names one, it listens on all addresses unless `-l` names some, and `-V` and `-h` begin with
/// memcached's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Rustmemc,
    Memcached,
}

impl Name {
    fn of(program: &OsStr) -> Self {
        match Path::new(program).file_name().and_then(OsStr::to_str) {
            Some("memcached") => Name::Memcached,
            _ => Name::Rustmemc,
        }
    }

    /// The first line of `-V` and `-h`.
    fn version(self) -> String {
        let (own, spoken) = (crate::VERSION, crate::VERSION_SPOKEN);
        match self {
            Name::Rustmemc => format!("rustmemc {own} (speaks the protocol of memcached {spoken})"),
            Name::Memcached => format!("memcached {spoken}"),
        }
    }
}

/// Reads the command line. `program` is the name under which the program was started, and `args` are the words after
/// it.
///
/// # Errors
/// One line for the user that names the flag, its value, and what is wrong with it.
pub fn from_command_line(
    program: &OsStr,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Invocation, String> {
    let name = Name::of(program);
    let Words {
        flags,
        aof,
        ignored,
    } = normalised(args, Flags::get_args_info().flags)?;
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let flags = match Flags::from_args(&["rustmemc"], &flags) {
        Ok(flags) => flags,
        Err(exit) if exit.status.is_ok() => {
            let help = format!("{}\n{}", name.version(), exit.output);
            return Ok(Invocation::Text(help));
        }
        Err(exit) => return Err(exit.output.split_whitespace().collect::<Vec<_>>().join(" ")),
    };
    if flags.version {
        return Ok(Invocation::Text(name.version()));
    }
    if flags.license {
        let license = include_str!("../../LICENSE");
        return Ok(Invocation::Text(format!("{}\n\n{license}", name.version())));
    }
    let process = ProcessOptions {
        daemon: flags.daemon,
        user: flags.user.last().cloned(),
        pid_file: flags.pidfile.last().cloned(),
    };
    let config = configuration(flags, name, aof, &ignored)?;
    Ok(Invocation::Serve {
        config: Box::new(config),
        process,
    })
}

/// Checks the flags, and returns the configuration. `aof` is the value of `--aof` if it is not UTF-8, and `ignored` are
/// the words that are no flags.
fn configuration(
    flags: Flags,
    name: Name,
    aof: Option<PathBuf>,
    ignored: &[String],
) -> Result<Config, String> {
    if flags.enable_sasl {
        return Err("-S: there is no user database of SASL here; use -Y".into());
    }
    if flags.enable_ssl {
        return Err("-Z: there is no TLS here, so connections would not be encrypted".into());
    }
    let protocol = match flags.protocol.last().map(|name| name.trim()) {
        None | Some("auto") => Protocol::Auto,
        Some("ascii") => Protocol::Ascii,
        Some("binary") => Protocol::Binary,
        Some(other) => {
            return Err(format!(
                "-B {other}: the protocol must be ascii, binary or auto"
            ));
        }
    };
    let mut notes = Vec::from_iter(without_effect(&flags, ignored));
    let reported = reported(&flags)?;
    let conn_limit = in_range("-c", &flags.conn_limit, 1024, 1, 1_000_000)?;
    let megabytes = in_range("-m", &flags.memory_limit, 64, 1, i64::MAX / MEGABYTE as i64)?;
    let memory_limit = megabytes * MEGABYTE as i64;
    let max_item_size = in_range(
        "-I",
        &flags.max_item_size,
        MEGABYTE as i64,
        1024,
        LARGEST_ITEM_SIZE,
    )?;
    if max_item_size > memory_limit / 2 {
        return Err(format!(
            "-I {max_item_size}: the item size limit must be at most half of the memory limit (-m {megabytes})"
        ));
    }

    let unix_socket = flags.unix_socket.last().map(|path| UnixSocket {
        path: path.clone(),
        mode: flags.unix_mask.last().copied().unwrap_or(0o700),
    });
    // memcached's own tests use -1 for a port that the system chooses.
    let port = in_range("-p", &flags.port, 11211, -1, 65535)?.max(0);
    let udp_port = in_range("-U", &flags.udp_port, 0, -1, 65535)?;
    // As in memcached, a UDP port is the TCP port too if there is no `-p`.
    let port = if flags.port.is_empty() && udp_port > 0 {
        udp_port
    } else {
        port
    };
    let port = u16::try_from(port).unwrap_or_default();
    let is_tcp = unix_socket.is_none() || (!flags.port.is_empty() && port != 0);
    let listen = match is_tcp {
        true => addresses(&flags.listen, name)?,
        false => Vec::new(),
    };

    let default = match name {
        Name::Rustmemc => default_aof(&listen, port, unix_socket.as_ref()),
        Name::Memcached => None,
    };
    let named = aof.or_else(|| flags.aof.last().cloned());
    let path = named.or(default).filter(|_| !flags.no_aof);
    if path.is_none() && !flags.no_aof && name == Name::Rustmemc {
        notes.push("with port 0 there is no append-only file, unless --aof names one".to_owned());
    }
    let aof = path.map(|path| aof_options(&flags, path)).transpose()?;

    // The last value counts, so `-o idle_timeout` has precedence over `--idle-timeout`.
    let by_o = flags.extended.iter().filter_map(|words| words.idle_timeout);
    let timeouts = Vec::from_iter(flags.idle_timeout.iter().copied().chain(by_o));
    let idle_timeout = in_range("--idle-timeout", &timeouts, 0, 0, i64::MAX)?;
    let idle_timeout = Duration::from_secs(u64::try_from(idle_timeout).unwrap_or(0));
    Ok(Config {
        port,
        listen,
        unix_socket,
        conn_limit: conn_limit as usize,
        memory_limit: memory_limit as usize,
        max_item_size: max_item_size as usize,
        disable_evictions: flags.disable_evictions,
        enable_shutdown: flags.enable_shutdown,
        disable_flush_all: flags.disable_flush_all,
        disable_dumping: flags.disable_dumping,
        detail: !flags.prefix_delimiter.is_empty(),
        prefix_delimiter: delimiter(&flags)?,
        track_sizes: flags.extended.iter().any(|words| words.track_sizes),
        disable_watch: flags.disable_watch,
        auth_file: flags.auth_file.last().cloned(),
        protocol,
        idle_timeout: Some(idle_timeout).filter(|timeout| !timeout.is_zero()),
        verbosity: flags.verbose,
        debug: flags.debug,
        aof,
        reported,
        notes,
    })
}

/// The last of the given numbers, or `default`; an error if it is below `least` or above `most`.
fn in_range(flag: &str, given: &[i64], default: i64, least: i64, most: i64) -> Result<i64, String> {
    let value = given.last().copied().unwrap_or(default);
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(format!(
            "{flag} {value}: the value must be from {least} to {most}"
        ))
    }
}

/// The addresses of all `-l`, or the default. They are separated by commas or semicolons, and empty ones are ignored, as in memcached.
fn addresses(given: &[String], name: Name) -> Result<Vec<TcpAddress>, String> {
    let words = given.iter().flat_map(|list| list.split([',', ';']));
    let words = words.filter(|word| !word.trim().is_empty());
    let mut addresses = Vec::new();
    for word in words {
        let address: TcpAddress = word
            .parse()
            .map_err(|error| format!("-l {word}: {error}"))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        addresses.push(match name {
            Name::Rustmemc => TcpAddress::localhost(),
            Name::Memcached => TcpAddress::everywhere(),
        });
    }
    Ok(addresses)
}

/// The append-only file if `--aof` does not name one. Its name contains the first port (or the name of the Unix socket
/// if there is no port), so several servers can run in one folder. A server on port 0 has no file, because the next
/// start would have another port.
fn default_aof(listen: &[TcpAddress], port: u16, socket: Option<&UnixSocket>) -> Option<PathBuf> {
    let Some(first) = listen.first() else {
        let name = socket?.path.file_name()?.to_string_lossy();
        return Some(format!("rustmemc-{name}.aof").into());
    };
    match first.port.unwrap_or(port) {
        0 => None,
        11211 => Some("rustmemc.aof".into()),
        port => Some(format!("rustmemc-{port}.aof").into()),
    }
}

/// The options of the append-only file.
fn aof_options(flags: &Flags, path: PathBuf) -> Result<aof::Options, String> {
    let defaults = aof::Options::new(path);
    let size = defaults.rewrite_size as i64;
    let growth = defaults.rewrite_growth as i64;
    Ok(aof::Options {
        fsync: flags.fsync.last().copied().unwrap_or(defaults.fsync),
        rewrite_size: in_range(
            "--aof-rewrite-size",
            &flags.aof_rewrite_size,
            size,
            0,
            i64::MAX,
        )? as u64,
        rewrite_growth: in_range(
            "--aof-rewrite-growth",
            &flags.aof_rewrite_growth,
            growth,
            2,
            i64::MAX,
        )? as u64,
        repair: flags.aof_repair,
        fresh: flags.fresh,
        ..defaults
    })
}

/// The delimiter of `-D`, or the default.
fn delimiter(flags: &Flags) -> Result<u8, String> {
    let Some(text) = flags.prefix_delimiter.last() else {
        return Ok(b':');
    };
    match text.trim_start().bytes().next() {
        Some(byte) if byte.is_ascii() => Ok(byte),
        Some(_) => Err(format!(
            "-D {text}: the delimiter must be an ASCII character"
        )),
        None => Err("-D: there is no delimiter".into()),
    }
}

/// The values of flags that have no effect here, for `stats settings`. Values that memcached refuses are refused.
fn reported(flags: &Flags) -> Result<Reported, String> {
    let defaults = Reported::default();
    let from_one =
        |flag, given: &[i64], default| in_range(flag, given, default, 1, i64::from(i32::MAX));
    let growth_factor = flags
        .slab_growth_factor
        .last()
        .copied()
        .unwrap_or(defaults.growth_factor);
    if growth_factor <= 1.0 {
        return Err(format!(
            "-f {growth_factor}: the factor must be greater than 1"
        ));
    }
    from_one("-N", &flags.napi_ids, 1)?;
    let backlog = flags.listen_backlog.last().copied();
    Ok(Reported {
        num_threads: from_one("-t", &flags.threads, defaults.num_threads)?,
        tcp_backlog: backlog.unwrap_or(defaults.tcp_backlog),
        cas_enabled: !flags.disable_cas,
        reqs_per_event: from_one("-R", &flags.max_reqs_per_event, defaults.reqs_per_event)?,
        chunk_size: from_one("-n", &flags.slab_min_size, defaults.chunk_size)?,
        growth_factor,
    })
}

/// One note about everything on the command line that has no effect here.
fn without_effect(flags: &Flags, ignored: &[String]) -> Option<String> {
    fn shown<T: ToString>(flag: &str, given: &[T], remark: &str) -> Option<String> {
        given
            .last()
            .map(|value| format!("{flag} {}{remark}", value.to_string()))
    }
    let path = |path: &PathBuf| path.display().to_string();
    let memory_file = Vec::from_iter(flags.memory_file.iter().map(path));
    let udp_port = Vec::from_iter(flags.udp_port.iter().filter(|&&port| port != 0));
    let extended = flags
        .extended
        .iter()
        .flat_map(|words| &words.without_effect);
    let extended = Vec::from_iter(extended.map(String::as_str)).join(",");
    let switch = |flag: &str, given: bool| given.then(|| flag.to_owned());
    let found = [
        shown("-t", &flags.threads, ""),
        shown("-U", &udp_port, " (there is no UDP)"),
        shown(
            "-b",
            &flags.listen_backlog,
            " (the queue of std's sockets has 128 places)",
        ),
        shown("-R", &flags.max_reqs_per_event, ""),
        shown("-f", &flags.slab_growth_factor, ""),
        shown("-n", &flags.slab_min_size, ""),
        shown("-N", &flags.napi_ids, ""),
        shown("-e", &memory_file, " (--aof keeps items)"),
        switch("-C", flags.disable_cas),
        switch("-k", flags.lock_memory),
        switch("-r", flags.enable_coredumps),
        switch("-L", flags.enable_largepages),
        (!extended.is_empty()).then(|| format!("-o {extended}")),
        (!ignored.is_empty()).then(|| ignored.join(" ")),
    ];
    let found = Vec::from_iter(found.into_iter().flatten());
    (!found.is_empty()).then(|| format!("no effect here: {}", found.join(", ")))
}

#[cfg(test)]
mod tests;
