//! `memc check`: plays the conversations against a server that somebody writes, and reports what differs.
//!
//! Such a server is often half finished. So nothing is required of it except that it answers.

use std::sync::Arc;

use rustmemc::conversations::format::{Conversation, Level, Release};
use rustmemc::conversations::player::{Kind, Server as Target, quoted};
use rustmemc::conversations::{ALL, is_named};

use crate::client::Server;
use crate::report::Report;
use crate::{CommandLine, Failure, failed, print};

/// `check`.
pub fn check(server: &Server, line: &CommandLine) -> Result<(), Failure> {
    let is_chosen =
        |name| line.only.is_empty() || line.only.iter().any(|only| is_named(name, only));
    let mut chosen = ALL.to_vec();
    chosen.retain(|(name, _)| is_chosen(name));
    if chosen.is_empty() {
        let only = line.only.join(", ");
        return Err(failed(format!("no conversation has {only} in its name.")));
    }
    let (target, probe) = target(server, line.empty)?;
    let level = line.level.unwrap_or(Level::Binary);
    let flags = line.flags.as_deref().unwrap_or("");
    let mut report = Report::new(&server.name, target, probe)?;
    report.shows_all = !line.only.is_empty();
    for (name, text) in chosen {
        let conversation = Conversation::parse(text).map_err(failed)?;
        report.play(name, &conversation, level, flags)?;
        if report.is_server_lost() {
            break;
        }
    }
    report.finish()
}

/// Finds out what a server is, and whether its items may be deleted: it must have none, or `may_empty`. Returns it with
/// a command that it answers.
pub fn target(server: &Server, may_empty: bool) -> Result<(Target, &'static str), Failure> {
    let name = &server.name;
    let mut target = Target {
        address: server.connect()?.address,
        kind: Kind::Rustmemc,
        patience: server.timeout,
    };
    let (probe, answer) = first_answer(&target, name)?;
    let stats = target.list(b"stats\r\n").unwrap_or_default();
    let stat = |name: &str| {
        let name = format!("STAT {name} ");
        let value = (stats.iter()).find_map(|line| line.strip_prefix(name.as_bytes()))?;
        Some(String::from_utf8_lossy(value.trim_ascii()))
    };
    if let Some(items) = stat("curr_items").filter(|items| items != "0" && !may_empty) {
        // memcached counts flushed and expired items for some time. This list has only those that a client can read.
        let listed = target.ask(b"lru_crawler metadump all\r\n");
        if !listed.is_ok_and(|line| line == b"END\r\n") {
            return Err(failed(format!(
                "the server at {name} holds items ({items}), and all of them would be deleted. Add --empty (with make: \
                 EMPTY=yes) to permit that."
            )));
        }
    }
    let release = release(&answer);
    if release.is_none() {
        print(&format!(
            "Note: it answers {} to `{probe}`. A memcached answers VERSION 1.6.45, or another release, to `version`.",
            quoted(&answer)
        ))?;
    }
    if stat("rustmemc_version").is_none() {
        target.kind = Kind::Memcached {
            release: release.unwrap_or((u32::MAX, 0, 0)),
            moved: Arc::default(),
        };
    }
    Ok((target, probe))
}

/// Asks until a server answers at all. Returns the command, and its answer.
fn first_answer(target: &Target, name: &str) -> Result<(&'static str, Vec<u8>), Failure> {
    let mut why = String::new();
    for command in ["version", "get memc-check"] {
        match target.ask(format!("{command}\r\n").as_bytes()) {
            Err(error) => why = error.to_string(),
            Ok(answer) => {
                let others = [&b"HTTP/"[..], b"-ERR", b"SSH-"];
                if others.iter().any(|other| answer.starts_with(other)) {
                    let answer = quoted(&answer);
                    return Err(failed(format!(
                        "the server at {name} is not a memcached: it answers {answer} to `{command}`."
                    )));
                }
                return Ok((command, answer));
            }
        }
    }
    let problem = format!("does not answer: to `version` and to `get` it answers with {why}");
    Err(failed(format!("the server at {name} {problem}.")))
}

/// The numbers in the answer to `version`, unless it is a program with other numbers.
fn release(answer: &[u8]) -> Option<Release> {
    let answer = str::from_utf8(answer).ok()?;
    let version = answer.strip_prefix("VERSION ")?.trim_end();
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let release = (numbers.next()?, numbers.next()?, numbers.next()?);
    (release >= (1, 4, 0)).then_some(release)
}
