//! `memc`: a client for the command line, for any memcached.
//!
//! - `main.rs`: the command line, and the exit codes.
//! - `client.rs`: a connection to a server.
//! - `commands.rs`: the commands for one key, and those about the server.
//! - `dump.rs`: the commands for all keys.
//! - `check.rs`: the command `check`, which plays the conversations; `report.rs`: what it prints.
//! - `learn.rs`: the command `learn`, which teaches with the conversations.
//! - `talk.rs`: the program without a command; `screen.rs`: what it shares with `learn`.

mod check;
mod client;
mod commands;
mod dump;
mod learn;
mod report;
mod screen;
mod talk;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;

use client::Server;

/// The help: each command with its words and its options, a sentence, and examples.
const COMMANDS: &str = "\
get KEY: print the value, byte by byte as it is
    memc get photo > photo.jpg
set KEY [VALUE] [--file PATH] [--ttl TIME] [--flags NUMBER]: store a value; without one it is read from standard input
    memc set greeting hello --ttl 10m
    memc set photo --file photo.jpg
    date | memc set now
    memc set number -- -5               (what follows -- is no option)
add KEY [VALUE] [--file PATH] [--ttl TIME] [--flags NUMBER]: store a value, but only if the key holds no item
    memc add lock mine --ttl 30s && echo 'I have the lock'
delete KEY: delete an item
    memc delete greeting
incr KEY [NUMBER]: add 1 or another number to the number that a key holds, and print the sum
    memc set visits 0
    memc incr visits 10
decr KEY [NUMBER]: subtract 1 or another number, down to 0, and print the difference
    memc decr tickets
touch KEY TIME: let an item expire at another time
    memc touch greeting 2h
flush: delete all items
    memc flush
keys [PREFIX]: print all keys, or those with a prefix; one with a space or a control byte is printed with %20 for a space
    memc keys session: | wc -l
dump: print all items as an append-only file of rustmemc (stale ones as fresh ones)
    memc dump > rustmemc.aof && rustmemc
    memc dump -s old:11211 | memc load -s new:11211
load [FILE]: send the records of an append-only file, in their order, to a memcached that knows the meta commands
    memc load rustmemc.aof
stats [TOPIC...]: print the statistics: all, or settings, items, slabs, sizes, conns and others
    memc stats
    memc stats detail dump
watch [STREAM...]: print what happens until Ctrl-C: fetchers, mutations, evictions (the default), deletions, connevents
    memc watch fetchers | grep status=not_found
ping [--wait TIME]: print whether the server answers, and how fast; the exit code is 0 or 2
    memc ping --wait 5s && run-my-tests
check SERVER [OPTIONS]: play the conversations against your own server, and report what differs (memc check --help)
    memc check 127.0.0.1:11211 --level classic
learn [LESSON] [--empty]: list the lessons, or teach one: with a server of its own, or with that of -s, which it empties
    memc learn 01
version: print the server's version
    memc version";

/// A client for memcached servers. Without a command it is a conversation: type commands of the protocol. If a command succeeds, it prints the server's own word. The exit code is 0 if the
/// command was done, 1 if there was no such item or nothing was stored, and 2 if no server answered or the command line
/// is wrong.
#[derive(FromArgs)]
#[argh(help_triggers("-h", "--help"))]
pub struct CommandLine {
    /// the server: host:port, host, or the path of a Unix socket (default: 127.0.0.1:11211)
    #[argh(option, short = 's', arg_name = "address")]
    server: Option<String>,

    /// how long to wait for each answer, such as 100ms (default: 5s)
    #[argh(option, arg_name = "time", from_str_fn(commands::duration))]
    timeout: Option<Duration>,

    /// the file that contains the value
    #[argh(option, arg_name = "path")]
    pub file: Option<PathBuf>,

    /// when the item expires: in 60 (seconds), 90s, 5m, 2h or 30d (default: 0, never)
    #[argh(option, arg_name = "time", from_str_fn(commands::exptime))]
    pub ttl: Option<u64>,

    /// a number of 32 bits that is stored with the value (default: 0)
    #[argh(option, arg_name = "number")]
    pub flags: Option<u32>,

    /// how long to try again, until the server answers (default: 0)
    #[argh(option, arg_name = "time", from_str_fn(commands::duration))]
    pub wait: Option<Duration>,

    /// the file that the conversation is written to (only without a command)
    #[argh(option, arg_name = "path")]
    record: Option<PathBuf>,

    /// delete the items of the server
    #[argh(switch)]
    empty: bool,

    /// print the version and exit
    #[argh(switch, short = 'V')]
    version: bool,

    #[argh(positional, arg_name = "command")]
    words: Vec<String>,
}

/// The exit codes of the program.
enum Exit {
    Done = 0,
    NotDone = 1,
    Failed = 2,
}

/// Why a command was not done, in a sentence for the user.
#[derive(Debug)]
pub enum Failure {
    /// The server has no such item, or refuses the command.
    NotDone(String),
    /// The server cannot be used, or the input is wrong.
    Failed(String),
    /// A report that was printed says what is wrong.
    Reported,
    /// Nobody reads the output any more, as in `memc keys | head -1`. This is not an error.
    OutputClosed,
}

/// An error of standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Failed(format!("cannot write to standard output: {error}")),
        }
    }
}

fn main() -> ExitCode {
    let (exit, message) = match run() {
        Ok(()) | Err(Failure::OutputClosed) => (Exit::Done, None),
        Err(Failure::Reported) => (Exit::NotDone, None),
        Err(Failure::NotDone(message)) => (Exit::NotDone, Some(message)),
        Err(Failure::Failed(message)) => (Exit::Failed, Some(message)),
    };
    if let Some(message) = message {
        // A closed standard error is not an error.
        let _ = writeln!(io::stderr(), "memc: {message}");
    }
    ExitCode::from(exit as u8)
}

fn run() -> Result<(), Failure> {
    let words = std::env::args_os().skip(1).map(OsString::into_string);
    let words = words.collect::<Result<Vec<_>, _>>().map_err(|word| {
        let problem = "is not UTF-8; such a value can come from a file";
        Failure::Failed(format!("{} {problem}", word.display()))
    })?;
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Some(first @ &mut "help") = words.first_mut() {
        *first = "--help";
    }
    if let Some((&"check", words)) = words.split_first() {
        return check::run(words);
    }
    let line = match CommandLine::from_args(&["memc"], &words) {
        Ok(line) => line,
        Err(exit) if exit.status.is_ok() => {
            let of_command = words.iter().find_map(|word| help(word));
            return print(&of_command.unwrap_or_else(|| overview(&exit.output)));
        }
        Err(exit) => {
            let problem: Vec<&str> = exit.output.split_whitespace().collect();
            let problem = problem.join(" ");
            return Err(Failure::Failed(format!("{problem} (see memc --help)")));
        }
    };
    if line.version {
        return print(&format!("memc {}", rustmemc::VERSION));
    }
    let server = Server {
        name: (line.server.clone()).unwrap_or_else(|| "127.0.0.1:11211".into()),
        timeout: line.timeout.unwrap_or(Duration::from_secs(5)),
    };
    let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
    let Some((&command, words)) = words.split_first() else {
        return talk::talk(&server, line.record.as_deref());
    };
    let Some(help) = help(command) else {
        let problem = format!("there is no command {command:?}; see memc --help");
        return Err(Failure::Failed(problem));
    };
    for (option, is_given) in [
        ("--file", line.file.is_some()),
        ("--ttl", line.ttl.is_some()),
        ("--flags", line.flags.is_some()),
        ("--wait", line.wait.is_some()),
        ("--record", line.record.is_some()),
        ("--empty", line.empty),
    ] {
        if is_given && !help.contains(option) {
            let problem = format!("{command} has no option {option}. {help}");
            return Err(Failure::Failed(problem));
        }
    }
    match (command, words) {
        ("get", [key]) => commands::get(&server, key),
        ("set" | "add", [key]) => commands::store(&server, command, key, None, &line),
        ("set" | "add", [key, value]) => commands::store(&server, command, key, Some(value), &line),
        ("delete", [key]) => commands::change(&server, &["delete", key], b""),
        ("incr" | "decr", [key]) => commands::change(&server, &[command, key, "1"], b""),
        ("incr" | "decr", [key, number]) => commands::change(&server, &[command, key, number], b""),
        ("touch", [key, time]) => commands::touch(&server, key, time),
        ("flush", []) => commands::change(&server, &["flush_all"], b""),
        ("version", []) => commands::change(&server, &["version"], b""),
        ("stats", topic) => commands::stats(&server, topic),
        ("watch", streams) => commands::watch(&server, streams),
        ("ping", []) => commands::ping(&server, line.wait.unwrap_or_default()),
        ("learn", []) => learn::list(),
        ("learn", [lesson]) => {
            let server = line.server.is_some().then_some(&server);
            learn::learn(lesson, server, line.empty)
        }
        ("keys", []) => dump::keys(&server, ""),
        ("keys", [prefix]) => dump::keys(&server, prefix),
        ("dump", []) => dump::dump(&server),
        ("load", []) => dump::load(&server, None),
        ("load", [file]) => dump::load(&server, Some(file)),
        _ => Err(Failure::Failed(help)),
    }
}

/// Prints a line on standard output.
pub fn print(line: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// The help for a command, which is a part of [`COMMANDS`].
fn help(command: &str) -> Option<String> {
    let is_of_it = |line: &&str| line.split([' ', ':']).next() == Some(command);
    let mut lines = COMMANDS.lines().skip_while(|line| !is_of_it(line));
    let first = format!("Usage: memc {}", lines.next()?);
    let examples = lines.take_while(|line| line.starts_with(' '));
    Some(examples.fold(first, |help, line| help + "\n" + line))
}

/// The help for the program: that of `argh`, and the commands without their examples.
fn overview(options: &str) -> String {
    let commands = COMMANDS.lines().filter(|line| !line.starts_with(' '));
    let commands = commands.fold(String::new(), |all, line| all + "\n  " + line);
    let more = "Examples and more: memc COMMAND --help, such as memc set --help";
    format!("{options}\nCommands:{commands}\n\n{more}")
}
