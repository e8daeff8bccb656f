//! The command line: memcached's one-letter flags, and a long name for each.
//!
//! `argh` does the parsing. Before that, [`normalised`] rewrites forms that getopt accepts (`-vv`, `-m64`,
//! `--port=11211`): argh does not know them, but scripts written for memcached use them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;

use crate::aof::{self, Fsync};

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
    /// The TCP port. With 0 the system chooses one.
    pub port: u16,
    /// Names or addresses to listen on.
    pub listen: Vec<String>,
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
    /// The connection of a client that sends nothing, or reads no answers, for this long is closed. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// How much of the conversations is printed on standard error: 0 nothing, 1 connections and errors, 2 also all
    /// commands and answers.
    pub verbosity: u32,
    /// Whether the command `debugtime` exists.
    pub debug: bool,
    /// How changes are recorded. `None`: they are not recorded.
    pub aof: Option<aof::Options>,
    /// Notes for the user, which the server prints when it starts, for example that a flag has no effect here.
    pub notes: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            port: 0,
            listen: vec![LOCALHOST.into()],
            conn_limit: 16,
            memory_limit: 64 * MEGABYTE,
            max_item_size: MEGABYTE,
            disable_evictions: false,
            enable_shutdown: false,
            disable_flush_all: false,
            idle_timeout: None,
            verbosity: 0,
            debug: false,
            aof: None,
            notes: Vec::new(),
        }
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Start a server.
    Serve(Config),
    /// Only print this text on standard output: `-h`, `-V`.
    Text(String),
}

/// A memcached server in plain, synchronous Rust.
#[derive(FromArgs, Debug)]
#[argh(help_triggers("-h", "--help"))]
struct Flags {
    /// TCP port to listen on; with 0 the system chooses one (default: 11211)
    #[argh(option, short = 'p', arg_name = "port")]
    port: Vec<u16>,

    /// address or name to listen on; for several, separate them with commas or repeat the flag (default: 127.0.0.1)
    #[argh(option, short = 'l', arg_name = "address")]
    listen: Vec<String>,

    /// how many clients may be connected at once; each has a thread (default: 1024)
    #[argh(option, short = 'c', arg_name = "number")]
    conn_limit: Vec<usize>,

    /// memory for items, in megabytes (default: 64)
    #[argh(option, short = 'm', arg_name = "megabytes")]
    memory_limit: Vec<usize>,

    /// size of the largest item, in bytes, or with k or m (default: 1m)
    #[argh(option, short = 'I', from_str_fn(size), arg_name = "size")]
    max_item_size: Vec<usize>,

    /// when memory is full, answer with an error instead of evicting items
    #[argh(switch, short = 'M')]
    disable_evictions: bool,

    /// let clients stop the server with the command `shutdown`
    #[argh(switch, short = 'A')]
    enable_shutdown: bool,

    /// refuse the command `flush_all`
    #[argh(switch, short = 'F')]
    disable_flush_all: bool,

    /// close connections whose client sends nothing, or reads no answers, for this many seconds (default: 0, never)
    #[argh(option, arg_name = "seconds")]
    idle_timeout: Vec<u64>,

    /// print connections and errors on standard error; twice (-vv): also all commands and answers, with reasons
    #[argh(switch, short = 'v')]
    verbose: u32,

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
    aof_rewrite_size: Vec<usize>,

    /// the file is rewritten when it is this many times as large as after the last rewrite (default: 2)
    #[argh(option, arg_name = "times")]
    aof_rewrite_growth: Vec<u64>,

    /// truncate a damaged file to its good part, and save the rest in another file beside it
    #[argh(switch)]
    aof_repair: bool,

    /// offer the command `debugtime`, for tests
    #[argh(switch)]
    debug: bool,

    /// print the version and exit
    #[argh(switch, short = 'V')]
    version: bool,

    /// no effect here (memcached: worker threads)
    #[argh(option, short = 't', arg_name = "number")]
    threads: Vec<String>,

    /// no effect here (memcached: the user to run as)
    #[argh(option, short = 'u', arg_name = "name")]
    user: Vec<String>,

    /// no effect here (memcached: UDP port)
    #[argh(option, short = 'U', arg_name = "port")]
    udp_port: Vec<String>,

    /// no effect here, the protocol is always ascii (memcached: ascii, binary, auto)
    #[argh(option, short = 'B', arg_name = "name")]
    protocol: Vec<String>,

    /// no effect here (memcached: extended options)
    #[argh(option, short = 'o', arg_name = "options")]
    extended: Vec<String>,

    /// no effect here (memcached: length of the listening socket's queue)
    #[argh(option, short = 'b', arg_name = "number")]
    listen_backlog: Vec<String>,

    /// no effect here (memcached: requests served before the next client's turn)
    #[argh(option, short = 'R', arg_name = "number")]
    max_reqs_per_event: Vec<String>,

    /// no effect here (memcached: growth factor of slab sizes)
    #[argh(option, short = 'f', arg_name = "factor")]
    slab_growth_factor: Vec<String>,

    /// no effect here (memcached: smallest slab)
    #[argh(option, short = 'n', arg_name = "bytes")]
    slab_min_size: Vec<String>,

    /// no effect here (memcached: file for the process id)
    #[argh(option, short = 'P', arg_name = "path")]
    pidfile: Vec<String>,

    /// no effect here, the server stays in the foreground (memcached: run as a daemon)
    #[argh(switch, short = 'd')]
    daemon: bool,

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
}

/// The letters whose flags take a value: `-m64` is `-m 64`, but `-vv` is `-v -v`.
const LETTERS_WITH_VALUE: &str = "plcmItuUBobRfnP";

const MEGABYTE: usize = 1 << 20;

/// The largest `-I`, as in memcached: an item's length fits into 32 bits.
const LARGEST_ITEM_SIZE: usize = 1 << 30;

/// Where the server listens by default. Other machines cannot reach it there.
const LOCALHOST: &str = "127.0.0.1";

/// Reads the command line (without the program's name).
///
/// # Errors
/// One line for the user that names the flag, its value, and what is wrong with it.
pub fn from_command_line(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, String> {
    let Words { words, aof } = normalised(args)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let flags = match Flags::from_args(&["rustmemc"], &words) {
        Ok(flags) => flags,
        Err(exit) if exit.status.is_ok() => return Ok(Invocation::Text(exit.output)),
        Err(exit) => return Err(exit.output.split_whitespace().collect::<Vec<_>>().join(" ")),
    };
    if flags.version {
        let (own, spoken) = (crate::VERSION, crate::VERSION_SPOKEN);
        return Ok(Invocation::Text(format!(
            "rustmemc {own} (speaks the protocol of memcached {spoken})\n"
        )));
    }
    checked(flags, aof).map(Invocation::Serve)
}

/// Checks the flags, and makes the configuration. `aof` is the value of `--aof` if it is not UTF-8.
fn checked(flags: Flags, aof: Option<PathBuf>) -> Result<Config, String> {
    let mut notes = notes(&flags);
    let port = last(flags.port, 11211);
    let conn_limit = last(flags.conn_limit, 1024);
    if conn_limit == 0 || conn_limit > 1_000_000 {
        return Err(format!(
            "-c {conn_limit}: the connection limit must be from 1 to 1000000"
        ));
    }
    let megabytes = last(flags.memory_limit, 64);
    let memory_limit = match megabytes.checked_mul(MEGABYTE) {
        Some(bytes) if bytes > 0 => bytes,
        _ => {
            return Err(format!(
                "-m {megabytes}: the memory limit must be from 1 to {} megabytes",
                usize::MAX / MEGABYTE
            ));
        }
    };
    let max_item_size = last(flags.max_item_size, MEGABYTE);
    if max_item_size < 1024 {
        return Err(format!(
            "-I {max_item_size}: the item size limit must be at least 1024 bytes"
        ));
    }
    if max_item_size > LARGEST_ITEM_SIZE {
        return Err(format!(
            "-I {max_item_size}: the item size limit is at most 1024m"
        ));
    }
    if max_item_size > memory_limit / 2 {
        return Err(format!(
            "-I {max_item_size}: the item size limit must be at most half of the memory limit (-m {megabytes})"
        ));
    }
    let path = aof.or_else(|| flags.aof.into_iter().next_back());
    let path = path.or_else(|| default_aof(port));
    if path.is_none() && !flags.no_aof {
        notes.push("with port 0 there is no append-only file, unless --aof names one".to_owned());
    }
    let defaults = aof::Options::new(path.clone().unwrap_or_default());
    let aof = aof::Options {
        fsync: last(flags.fsync, defaults.fsync),
        rewrite_size: last(flags.aof_rewrite_size, defaults.rewrite_size as usize) as u64,
        rewrite_growth: last(flags.aof_rewrite_growth, defaults.rewrite_growth),
        repair: flags.aof_repair,
        fresh: flags.fresh,
        ..defaults
    };
    if aof.rewrite_growth < 2 {
        return Err(format!(
            "--aof-rewrite-growth {}: the growth must be at least 2",
            aof.rewrite_growth
        ));
    }
    let listen = flags
        .listen
        .iter()
        .flat_map(|list| list.split(','))
        .map(|name| name.trim().to_owned());
    let mut listen: Vec<String> = listen.collect();
    if listen.is_empty() {
        listen.push(LOCALHOST.into());
    }
    let idle_timeout = Duration::from_secs(last(flags.idle_timeout, 0));
    Ok(Config {
        port,
        listen,
        conn_limit,
        memory_limit,
        max_item_size,
        disable_evictions: flags.disable_evictions,
        enable_shutdown: flags.enable_shutdown,
        disable_flush_all: flags.disable_flush_all,
        idle_timeout: Some(idle_timeout).filter(|timeout| !timeout.is_zero()),
        verbosity: flags.verbose,
        debug: flags.debug,
        aof: (!flags.no_aof && path.is_some()).then_some(aof),
        notes,
    })
}

/// The append-only file if `--aof` does not name one. It depends on the port, so servers on different ports can run in
/// one folder. A server on port 0 has none, because the next start could not find it.
fn default_aof(port: u16) -> Option<PathBuf> {
    match port {
        0 => None,
        11211 => Some("rustmemc.aof".into()),
        _ => Some(format!("rustmemc-{port}.aof").into()),
    }
}

/// If a flag is given several times, its last value counts, as with getopt.
fn last<T>(given: Vec<T>, default: T) -> T {
    given.into_iter().next_back().unwrap_or(default)
}

/// A note for each given flag that has no effect here.
fn notes(flags: &Flags) -> Vec<String> {
    let with_value = [
        ("-t", &flags.threads),
        ("-u", &flags.user),
        ("-U", &flags.udp_port),
        ("-B", &flags.protocol),
        ("-o", &flags.extended),
        ("-b", &flags.listen_backlog),
        ("-R", &flags.max_reqs_per_event),
        ("-f", &flags.slab_growth_factor),
        ("-n", &flags.slab_min_size),
        ("-P", &flags.pidfile),
    ];
    let with_value = with_value
        .into_iter()
        .flat_map(|(letter, values)| values.iter().map(move |value| format!("{letter} {value}")));
    let switches = [
        ("-d", flags.daemon),
        ("-C", flags.disable_cas),
        ("-k", flags.lock_memory),
        ("-r", flags.enable_coredumps),
        ("-L", flags.enable_largepages),
    ];
    let switches = switches
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(letter, _)| letter.to_owned());
    with_value
        .chain(switches)
        .map(|flag| format!("{flag} has no effect here"))
        .collect()
}

/// Parses a size, such as `512`, `16k` or `2m`, into bytes.
fn size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix(['m', 'M']) {
            Some(digits) => (digits, MEGABYTE),
            None => (text, 1),
        },
    };
    let number: Option<usize> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "a size must be a number of bytes, or a number with k or m".into())
}

/// A command line in the form that argh understands.
#[derive(Debug, Default, PartialEq, Eq)]
struct Words {
    words: Vec<String>,
    /// The value of the last `--aof`, if it is not UTF-8. A file may have any name, but argh accepts only text.
    aof: Option<PathBuf>,
}

impl Words {
    /// Adds `--aof` and its value.
    fn add_aof(&mut self, value: Option<&OsStr>) {
        let is_text = value.is_none_or(|value| value.to_str().is_some());
        self.aof = value.filter(|_| !is_text).map(PathBuf::from);
        let value = value.map(|value| value.to_string_lossy().into_owned());
        self.words.extend(["--aof".into()].into_iter().chain(value));
    }
}

/// Rewrites forms that getopt accepts and argh does not: `-vv` as `-v -v`, `-m64` as `-m 64`, `--port=11211` as `--port
/// 11211`.
///
/// # Errors
/// One line for the user, if a word is not UTF-8 and is not the value of `--aof`.
fn normalised(args: impl IntoIterator<Item = OsString>) -> Result<Words, String> {
    let mut out = Words::default();
    let mut args = args.into_iter().peekable();
    while let Some(arg) = args.next() {
        if arg == "--aof" {
            out.add_aof(args.next().as_deref());
            continue;
        }
        if let Some(path) = arg.as_bytes().strip_prefix(b"--aof=") {
            out.add_aof(Some(OsStr::from_bytes(path)));
            continue;
        }
        let arg = text(arg, out.words.last())?;
        if let Some(long) = arg.strip_prefix("--") {
            match long.split_once('=') {
                Some((name, value)) => out.words.extend([format!("--{name}"), value.to_owned()]),
                None => out.words.push(arg),
            }
        } else if let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            for (place, letter) in letters.char_indices() {
                let flag = format!("-{letter}");
                if !LETTERS_WITH_VALUE.contains(letter) {
                    out.words.push(flag);
                    continue;
                }
                // The value is the rest of this word. If that is empty, it is the next word, even if it begins with
                // `-`.
                let (_, rest) = letters.split_at(place + letter.len_utf8());
                let value = match args.next_if(|_| rest.is_empty()) {
                    Some(next) => Some(text(next, Some(&flag))?),
                    None => Some(rest.to_owned()).filter(|rest| !rest.is_empty()),
                };
                out.words.push(flag);
                out.words.extend(value);
                break;
            }
        } else {
            out.words.push(arg);
        }
    }
    Ok(out)
}

/// Converts a word to text. `before` is the word before it. If that is a flag, the error names it.
fn text(word: OsString, before: Option<&String>) -> Result<String, String> {
    word.into_string().map_err(|word| {
        let shown = word.to_string_lossy();
        let flag = before.filter(|flag| flag.starts_with('-') && !shown.starts_with('-'));
        let flag = flag.map(|flag| format!("{flag} ")).unwrap_or_default();
        format!("{flag}{shown}: this is not UTF-8; only the value of --aof need not be UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn config(line: &str) -> Config {
        config_of(words(line))
    }

    fn config_of(words: Vec<OsString>) -> Config {
        match from_command_line(words.clone()) {
            Ok(Invocation::Serve(config)) => config,
            other => panic!("{words:?} became {other:?}"),
        }
    }

    fn refusal(line: &str) -> String {
        from_command_line(words(line)).expect_err(line)
    }

    /// The words of a line, with the byte 0xff in place of each `?`.
    fn bytes(line: &str) -> Vec<OsString> {
        let word = |word: &str| {
            let bytes = word
                .bytes()
                .map(|byte| if byte == b'?' { 0xff } else { byte });
            OsStr::from_bytes(&bytes.collect::<Vec<_>>()).to_owned()
        };
        line.split_whitespace().map(word).collect()
    }

    #[test]
    fn forms_that_only_getopt_accepts_are_rewritten_for_argh() {
        for (short, long) in [
            ("-vv", "-v -v"),
            ("-m64", "-m 64"),
            ("-p11211", "-p 11211"),
            ("--port=11211", "--port 11211"),
            ("-vvm64 -A", "-v -v -m 64 -A"),
            ("-c -1 -v", "-c -1 -v"),
            ("-l ::1", "-l ::1"),
        ] {
            let long = long.split_whitespace().map(str::to_owned).collect();
            let expected = Words {
                words: long,
                aof: None,
            };
            assert_eq!(normalised(words(short)), Ok(expected), "{short}");
        }
    }

    #[test]
    fn a_command_line_made_for_memcached_works() {
        let config = config(
            "-p 0 -l 127.0.0.1,::1 -u nobody -t4 -U 0 -B ascii -o modern -vv -m 128 -I 2m -c100",
        );
        assert_eq!(
            (config.port, config.conn_limit, config.verbosity),
            (0, 100, 2)
        );
        assert_eq!(config.listen, ["127.0.0.1", "::1"]);
        assert_eq!(
            (config.memory_limit, config.max_item_size),
            (128 << 20, 2 << 20)
        );
        assert_eq!(config.notes.len(), 6, "{:?}", config.notes);
        assert!(config.notes.contains(&"-t 4 has no effect here".into()));
    }

    #[test]
    fn the_last_value_counts_when_a_flag_is_given_twice() {
        let config = config("-m 64 -m128 --port=1 -p 2 -t 4 -t 5");
        assert_eq!((config.memory_limit, config.port), (128 << 20, 2));
    }

    #[test]
    fn a_wrong_value_is_refused_in_one_line_that_names_flag_and_value() {
        for (line, flag, value) in [
            ("-p x", "-p", "x"),
            ("-p 65536", "-p", "65536"),
            ("--port=-1", "--port", "-1"),
            ("-c 0", "-c", "0"),
            ("-c -1", "-c", "-1"),
            ("-m 0", "-m", "0"),
            ("-m lots", "-m", "lots"),
            ("-m 99999999999999999", "-m", "99999999999999999"),
            ("-I 1023", "-I", "1023"),
            ("-I 33m", "-I", "34603008"),
            ("-I 1g", "-I", "1g"),
            ("--idle-timeout soon", "--idle-timeout", "soon"),
            ("--nonsense", "--nonsense", ""),
        ] {
            let refusal = refusal(line);
            assert!(
                refusal.contains(flag) && refusal.contains(value),
                "{line:?} was refused with {refusal:?}"
            );
            assert!(!refusal.contains('\n'), "{refusal:?}");
        }
    }

    #[test]
    fn the_append_only_file_may_have_any_name() {
        for line in ["--aof d?r/f?le", "--aof=d?r/f?le", "--aof x --aof d?r/f?le"] {
            let aof = config_of(bytes(line)).aof.expect("a file is configured");
            assert_eq!(aof.path.as_os_str().as_bytes(), b"d\xffr/f\xffle", "{line}");
        }
        let aof = config_of(bytes("--aof f?le --aof x")).aof;
        assert_eq!(aof.expect("a file is configured").path, PathBuf::from("x"));
        let aof = config("--aof -vv").aof;
        assert_eq!(
            aof.expect("a file is configured").path,
            PathBuf::from("-vv")
        );
    }

    #[test]
    fn a_word_that_is_not_utf_8_is_refused_and_its_flag_is_named() {
        for (line, flag) in [
            ("-p ?", "-p"),
            ("-p?", "-p"),
            ("--port ?", "--port"),
            ("--port=?", "--port"),
            ("-v -l ?", "-l"),
            ("--aof ? --listen ?", "--listen"),
            ("--?", "--"),
            ("?", "UTF-8"),
        ] {
            let refusal = from_command_line(bytes(line)).expect_err(line);
            assert!(
                refusal.starts_with(flag) || flag == "UTF-8",
                "{line}: {refusal}"
            );
            assert!(refusal.contains("not UTF-8"), "{line}: {refusal}");
        }
    }

    #[test]
    fn help_and_version_print_a_text_and_start_no_server() {
        for line in ["-h", "--help", "-V", "--version"] {
            assert!(
                matches!(from_command_line(words(line)), Ok(Invocation::Text(_))),
                "{line}"
            );
        }
    }
}
