//! `memc check`: plays the conversations against a server that somebody writes, and reports what differs.
//!
//! Such a server is often half finished. So nothing is required of it except that it answers.

use std::sync::Arc;
use std::time::Duration;

use argh::FromArgs;
use rustmemc::conversations::format::{Conversation, Level, Release};
use rustmemc::conversations::player::{Kind, Server, quoted};
use rustmemc::conversations::{ALL, is_named};

use crate::client::Server as Client;
use crate::commands::duration;
use crate::report::Report;
use crate::{Failure, print};

/// How long a server may take for each answer. One that never answers a command should not delay the report.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Plays the conversations against a server, and reports what it answers differently. All its items are deleted. The
/// exit code is 0 if nothing differs, 1 if something does, and 2 if the server cannot be checked.
#[derive(FromArgs)]
#[argh(
    help_triggers("-h", "--help"),
    example = "memc check 127.0.0.1:11211 --level classic --only 03"
)]
struct Check {
    /// host:port, host, or the path of a Unix socket
    #[argh(positional)]
    server: String,
    /// play only the classic commands (classic), or also the meta commands (meta), or also the binary protocol (binary,
    /// the default)
    #[argh(option, default = "Level::Binary")]
    level: Level,
    /// play only the conversation with this number, or those with this text in the name; repeat it for several
    #[argh(option, arg_name = "conversation")]
    only: Vec<String>,
    /// play even if the server holds items: they are deleted
    #[argh(switch)]
    empty: bool,
    /// the flags that the server runs with, such as "-M -m 8": some conversations need flags
    #[argh(option, default = "String::new()")]
    flags: String,
    /// how long to wait for each answer, such as 100ms (default: 1s)
    #[argh(option, arg_name = "time", from_str_fn(duration), default = "TIMEOUT")]
    timeout: Duration,
}

/// Runs the command with the words that follow it on the command line.
pub fn run(words: &[&str]) -> Result<(), Failure> {
    match Check::from_args(&["memc", "check"], words) {
        Ok(check) => check.run(),
        Err(exit) if exit.status.is_ok() => print(exit.output.trim_end()),
        Err(exit) => {
            let problem = Vec::from_iter(exit.output.split_whitespace()).join(" ");
            let message = format!("{problem} (see memc check --help)");
            Err(Failure::Failed(message))
        }
    }
}

impl Check {
    fn run(&self) -> Result<(), Failure> {
        let is_chosen = |name| self.only.iter().any(|only| is_named(name, only));
        let mut chosen = ALL.to_vec();
        chosen.retain(|(name, _)| self.only.is_empty() || is_chosen(name));
        if chosen.is_empty() {
            let only = self.only.join(", ");
            let message = format!("no conversation has {only} in its name.");
            return Err(Failure::Failed(message));
        }
        let name = &self.server;
        let server = Client {
            name: name.clone(),
            timeout: self.timeout,
        };
        let (server, asked) = target(&server, self.empty)?;
        let mut report = Report::new(name, server, asked.command);
        report.shows_all = !self.only.is_empty();
        if release(&asked.answer).is_none() {
            print(&format!(
                "Note: it answers {} to `{}`. A memcached answers VERSION 1.6.45, or another release, to `version`.",
                quoted(&asked.answer),
                asked.command
            ))?;
        }
        report.find_out_whether_it_flushes()?;
        for (name, text) in chosen {
            let conversation = Conversation::parse(text).map_err(Failure::Failed)?;
            report.play(name, &conversation, self.level, &self.flags)?;
            if report.is_server_lost() {
                break;
            }
        }
        report.finish()
    }
}

/// The first question that the server has answered, and its answer.
pub struct Asked {
    command: &'static str,
    answer: Vec<u8>,
}

/// Finds out what a server is, and whether its items may be deleted: it must have none, or `may_empty`.
pub fn target(named: &Client, may_empty: bool) -> Result<(Server, Asked), Failure> {
    let mut server = Server {
        address: named.address()?,
        kind: Kind::Rustmemc,
        patience: named.timeout,
    };
    let asked = first_answer(&server, &named.name)?;
    let stats = server.list(b"stats\r\n").unwrap_or_default();
    let stat = |name: &str| {
        let name = format!("STAT {name} ");
        let mut lines = stats.iter();
        let value = lines.find_map(|line| line.strip_prefix(name.as_bytes()));
        value.map(|value| String::from_utf8_lossy(value.trim_ascii()).into_owned())
    };
    let items = stat("curr_items").filter(|items| items != "0" && !may_empty);
    if let Some(items) = items {
        // memcached counts flushed and expired items for some time. This list has only those that a client can read.
        let listed = server.ask(b"lru_crawler metadump all\r\n");
        if !listed.is_ok_and(|line| line == b"END\r\n") {
            let name = &named.name;
            return Err(Failure::Failed(format!(
                "the server at {name} holds items ({items}), and all of them would be deleted. Add --empty (with make: \
                 EMPTY=yes) to permit that."
            )));
        }
    }
    if stat("rustmemc_version").is_none() {
        server.kind = Kind::Memcached {
            release: release(&asked.answer).unwrap_or((u32::MAX, 0, 0)),
            moved: Arc::default(),
        };
    }
    Ok((server, asked))
}

/// Asks until a server answers at all.
fn first_answer(server: &Server, name: &str) -> Result<Asked, Failure> {
    let mut why = String::new();
    for command in ["version", "get memc-check"] {
        match server.ask(format!("{command}\r\n").as_bytes()) {
            Ok(answer) => {
                let others = [&b"HTTP/"[..], b"-ERR", b"SSH-"];
                if others.iter().any(|other| answer.starts_with(other)) {
                    let answer = quoted(&answer);
                    return Err(Failure::Failed(format!(
                        "the server at {name} is not a memcached: it answers {answer} to `{command}`."
                    )));
                }
                return Ok(Asked { command, answer });
            }
            Err(error) => why = error.to_string(),
        }
    }
    let problem = format!("does not answer: to `version` and to `get` it answers with {why}");
    Err(Failure::Failed(format!("the server at {name} {problem}.")))
}

/// The numbers in the answer to `version`, unless it is a program with other numbers.
fn release(answer: &[u8]) -> Option<Release> {
    let answer = str::from_utf8(answer).ok()?;
    let version = answer.strip_prefix("VERSION ")?.trim_end();
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let release = (numbers.next()?, numbers.next()?, numbers.next()?);
    (release >= (1, 4, 0)).then_some(release)
}
