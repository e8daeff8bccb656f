//! `memc`: a client for the command line, for any memcached.
//!
//! - `main.rs`: the command line, and the exit codes.
//! - `client.rs`: a connection to a server.
//! - `commands.rs`: the commands for one key, and those about the server.
//! - `dump.rs`: the commands for all keys.
//! - `check.rs`: the command `check`, which plays the conversations; `report.rs`: what it prints.
//! - `learn.rs`: the command `learn`, which teaches with the conversations.
//! - `talk.rs`: the program without a command.
//! - `screen.rs`: colours, and what a person types.

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
use rustmemc::conversations::format::Level;

use client::Server;

/// The help: each command with its words and its options, a sentence, and (with spaces before them) examples.
const COMMANDS: &str = include_str!("commands.txt");

/// A client for memcached servers. Without a command it is a conversation: type commands of the protocol. If a command
/// succeeds, it prints the server's own word. The exit code is 0 if the command was done, 1 if there was no such item or
/// nothing was stored, and 2 if no server answered or the command line is wrong.
#[derive(FromArgs)]
#[argh(help_triggers("-h", "--help"))]
pub struct CommandLine {
    /// the server: host:port, host, or the path of a Unix socket (default: 127.0.0.1:11211)
    #[argh(option, short = 's', arg_name = "address")]
    server: Option<String>,

    /// how long to wait for each answer, such as 100ms (default: 5s; for check 1s)
    #[argh(option, arg_name = "time", from_str_fn(commands::timeout))]
    timeout: Option<Duration>,

    /// the file that contains the value
    #[argh(option, arg_name = "path")]
    pub file: Option<PathBuf>,

    /// when the item expires: in 60 (seconds), 90s, 5m, 2h or 30d (default: 0, never)
    #[argh(option, arg_name = "time", from_str_fn(commands::exptime))]
    pub ttl: Option<u64>,

    /// for set and add, a number of 32 bits that is stored with the value (default: 0); for check, the flags that the
    /// server runs with, such as "-M -m 8": some conversations need flags
    #[argh(option)]
    pub flags: Option<String>,

    /// how long to try again, until the server answers (default: 0)
    #[argh(option, arg_name = "time", from_str_fn(commands::duration))]
    pub wait: Option<Duration>,

    /// the file that the conversation is written to (only without a command)
    #[argh(option, arg_name = "path")]
    record: Option<PathBuf>,

    /// play only the classic commands (classic), or also the meta commands (meta), or also the binary protocol (binary,
    /// the default)
    #[argh(option)]
    pub level: Option<Level>,

    /// play only the conversation with this number, or those with this text in the name; repeat it for several
    #[argh(option, arg_name = "conversation")]
    pub only: Vec<String>,

    /// play even if the server holds items: they are deleted
    #[argh(switch)]
    pub empty: bool,

    /// print the version and exit
    #[argh(switch, short = 'V')]
    version: bool,

    #[argh(positional, arg_name = "command")]
    words: Vec<String>,
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
    /// Nobody reads the output any more, as in `memc keys | head -1`, or the input of a conversation has ended. This is
    /// not an error.
    Ended,
}

/// The server cannot be used, or the input is wrong.
pub fn failed(message: impl Into<String>) -> Failure {
    Failure::Failed(message.into())
}

/// An error of standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Ended,
            _ => failed(format!("cannot write to standard output: {error}")),
        }
    }
}

fn main() -> ExitCode {
    let (code, message) = match run() {
        Ok(()) | Err(Failure::Ended) => (0, None),
        Err(Failure::Reported) => (1, None),
        Err(Failure::NotDone(message)) => (1, Some(message)),
        Err(Failure::Failed(message)) => (2, Some(message)),
    };
    if let Some(message) = message {
        // A closed standard error is not an error.
        let _ = writeln!(io::stderr(), "memc: {message}");
    }
    ExitCode::from(code)
}

fn run() -> Result<(), Failure> {
    let words = std::env::args_os().skip(1).map(OsString::into_string);
    let words = words.collect::<Result<Vec<_>, _>>().map_err(|word| {
        let problem = "is not UTF-8; such a value can come from a file";
        failed(format!("{} {problem}", word.display()))
    })?;
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Some(first @ &mut "help") = words.first_mut() {
        *first = "--help";
    }
    let line = match CommandLine::from_args(&["memc"], &words) {
        Ok(line) => line,
        Err(exit) if exit.status.is_ok() => {
            let of_command = words.iter().find_map(|word| help(word));
            return print(&of_command.unwrap_or_else(|| overview(&exit.output)));
        }
        Err(exit) => {
            let problem = Vec::from_iter(exit.output.split_whitespace()).join(" ");
            let is_number = |word: &&str| {
                problem == format!("Unrecognized argument: {word}") && word.parse::<i64>().is_ok()
            };
            let Some(number) = words.iter().copied().find(is_number) else {
                return Err(failed(format!("{problem} (see memc --help)")));
            };
            words.retain(|word| *word != number && *word != "--");
            let words = words.join(" ");
            return Err(failed(format!(
                "{number} looks like an option: write memc {words} -- {number}"
            )));
        }
    };
    if line.version {
        return print(&format!("memc {}", rustmemc::VERSION));
    }
    let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
    // A server that is half finished may not answer some commands at all. That should not delay the report of `check`.
    let seconds = if words.first() == Some(&"check") {
        1
    } else {
        5
    };
    let server = Server {
        name: (line.server.clone()).unwrap_or_else(|| "127.0.0.1:11211".into()),
        timeout: line.timeout.unwrap_or(Duration::from_secs(seconds)),
    };
    let is_named = line.server.is_some();
    let Some((&command, words)) = words.split_first() else {
        return talk::talk(&server, line.record.as_deref());
    };
    let Some(help) = help(command) else {
        return Err(failed(format!(
            "there is no command {command:?}; see memc --help"
        )));
    };
    for (option, is_given) in [
        ("--file", line.file.is_some()),
        ("--ttl", line.ttl.is_some()),
        ("--flags", line.flags.is_some()),
        ("--wait", line.wait.is_some()),
        ("--record", line.record.is_some()),
        ("--level", line.level.is_some()),
        ("--only", !line.only.is_empty()),
        ("--empty", line.empty),
    ] {
        if is_given && !help.contains(option) {
            return Err(failed(format!("{command} has no option {option}. {help}")));
        }
    }
    match (command, words) {
        ("get", [key]) => commands::get(&server, key),
        ("set" | "add", [key]) => commands::store(&server, command, key, None, &line),
        ("set" | "add", [key, value]) => commands::store(&server, command, key, Some(value), &line),
        ("set" | "add", [key, value @ ..]) if value.len() > 1 => Err(failed(format!(
            "a value of several words needs quotes: memc {command} {key} {:?}. {help}",
            value.join(" ")
        ))),
        ("delete", [key]) => commands::change(&server, &["delete", key], None),
        ("incr" | "decr", [key]) => commands::change(&server, &[command, key, "1"], None),
        // As the last word `noreply` would ask for no answer.
        ("incr" | "decr", [key, number]) if *number != "noreply" => {
            commands::change(&server, &[command, key, number], None)
        }
        ("touch", [key, time]) => commands::touch(&server, key, time),
        ("flush", []) => commands::change(&server, &["flush_all"], None),
        ("version", []) => commands::change(&server, &["version"], None),
        ("stats", topic) => commands::stats(&server, topic),
        ("watch", streams) => commands::watch(&server, streams),
        ("ping", []) => commands::ping(&server, line.wait.unwrap_or_default()),
        ("check", []) if is_named => check::check(&server, &line),
        ("check", [name]) if !is_named => {
            let name = (*name).to_owned();
            check::check(&Server { name, ..server }, &line)
        }
        ("learn", []) => learn::list(),
        ("learn", [lesson]) => learn::learn(lesson, is_named.then_some(&server), line.empty),
        ("keys", []) => dump::keys(&server, ""),
        ("keys", [prefix]) => dump::keys(&server, prefix),
        ("dump", []) => dump::dump(&server),
        ("load", []) => dump::load(&server, None),
        ("load", [file]) => dump::load(&server, Some(file)),
        _ => Err(failed(help)),
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
