//! `memc check`: plays the conversations against a server that somebody writes, and reports what differs.
//!
//! Such a server is often half finished. So nothing is required of it except that it answers.

use rustmemc::conversations::format::{Conversation, Level};
use rustmemc::conversations::player::Server as Target;
use rustmemc::conversations::{ALL, is_named};

use crate::client::Server;
use crate::report::Report;
use crate::{CommandLine, Failure, failed};

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
    let target = target(server, line.empty)?;
    let level = line.level.unwrap_or(Level::Binary);
    let flags = line.flags.as_deref().unwrap_or("");
    let mut report = Report::new(&server.name, target, !line.only.is_empty())?;
    for (name, text) in chosen {
        let conversation = Conversation::parse(text).map_err(failed)?;
        report.play(name, &conversation, level, flags)?;
        if report.is_server_lost() {
            break;
        }
    }
    report.finish()
}

/// The server as the conversations need it. Its items may be deleted: it has none, or `may_empty`.
pub fn target(server: &Server, may_empty: bool) -> Result<Target, Failure> {
    let (name, address) = (&server.name, server.connect()?.address);
    let target = Target::identify(address, server.timeout)
        .map_err(|why| failed(format!("the server at {name} {why}.")))?;
    let items = target.stat("curr_items");
    if !may_empty && items.as_deref() != Some("0") {
        // memcached counts flushed and expired items for some time. This list has only those that a client can read.
        let listed = target.list(b"lru_crawler metadump all\r\n");
        let is_end = |line: &Vec<u8>| [&b"OK\r\n"[..], b"END\r\n"].contains(&&line[..]);
        if !listed.is_ok_and(|lines| lines.iter().all(is_end)) {
            let holds = match items {
                Some(items) => format!("holds items ({items})"),
                None => "does not tell by `stats` whether it holds items".into(),
            };
            return Err(failed(format!(
                "the server at {name} {holds}, and all of them would be deleted. Add --empty (with make: EMPTY=yes) to \
                 permit that."
            )));
        }
    }
    Ok(target)
}
