//! The report of `memc check`. It is printed while the conversations are played.

use std::collections::{BTreeMap, BTreeSet};

use rustmemc::conversations::format::{Action, Conversation, Level, Section, Step};
use rustmemc::conversations::number_of;
use rustmemc::conversations::player::{Difference, Server, quoted, release};

use crate::screen::{Style, styled};
use crate::{Failure, failed};

/// If the server has answered nothing after as many sections in a row, no more are played.
const MAX_SILENT_SECTIONS: usize = 3;

/// How many letters of a line are printed.
const MAX_LETTERS: usize = 90;

/// Plays conversations, and prints what differs.
pub struct Report<'n> {
    /// The name of the server, as the user wrote it.
    name: &'n str,
    server: Server,
    /// Whether the difference of every section is shown, and not only the first one of each conversation.
    shows_all: bool,
    /// Whether the server has a working `flush_all`.
    flushes: bool,
    /// The levels of the sections that hold, and of those that do not.
    held: Vec<Level>,
    failed: Vec<Level>,
    /// For each reason, the number of the conversation of each section that was passed over.
    passed_over: BTreeMap<String, Vec<String>>,
    /// Where the last sections ended that did not hold and were followed by silence.
    silent: Vec<String>,
}

impl<'n> Report<'n> {
    /// An empty report. The items of the server are deleted; if it cannot do that, a note is printed.
    pub fn new(name: &'n str, server: Server, shows_all: bool) -> Result<Self, Failure> {
        let (command, answer) = server.first_answer().unwrap_or_default();
        if release(&answer).is_none() {
            print(&format!(
                "Note: it answers {} to `{command}`. A memcached answers VERSION 1.6.45, or another release, to \
                 `version`. Begin with this.",
                quoted(&answer)
            ))?;
        }
        let flushes = server.flush();
        if !flushes {
            print(
                "Note: it does not answer OK to `flush_all`, which each section sends first. So the items of earlier \
                 sections stay,\nand may be the reason for a difference. Begin with this.",
            )?;
        }
        Ok(Report {
            name,
            server,
            shows_all,
            flushes,
            held: Vec::new(),
            failed: Vec::new(),
            passed_over: BTreeMap::new(),
            silent: Vec::new(),
        })
    }

    /// Whether the server has answered nothing for some time.
    pub fn is_server_lost(&self) -> bool {
        self.silent.len() >= MAX_SILENT_SECTIONS
    }

    /// Plays the sections of a conversation up to this level, and prints what differs. `flags` are those of the server.
    pub fn play(
        &mut self,
        name: &str,
        conversation: &Conversation<'_>,
        level: Level,
        flags: &str,
    ) -> Result<(), Failure> {
        let number = number_of(name);
        let needs = conversation.flags;
        let has_flags = flags.split_whitespace().eq(needs.split_whitespace());
        let (mut held, mut failed) = (0, Vec::new());
        for section in &conversation.sections {
            let why_not = match has_flags {
                false if needs.is_empty() => Some("for a server with no --flags".into()),
                false => Some(format!("for a server with --flags {needs:?}")),
                true if section.level() > level => Some("above the --level".into()),
                true => self.server.passes_over(section),
            };
            if let Some(why) = why_not {
                self.passed_over.entry(why).or_default().push(number.into());
                continue;
            }
            let played = match self.flushes {
                true => self.server.play(section),
                false => self.server.play_unflushed(section),
            };
            let Err((line, difference)) = played else {
                held += 1;
                self.held.push(section.level());
                self.silent.clear();
                continue;
            };
            self.failed.push(section.level());
            failed.push((section, line, difference));
            match self.server.first_answer() {
                Ok(_) => self.silent.clear(),
                Err(_) => self
                    .silent
                    .push(format!("line {line} of conversation {number}")),
            }
            if self.is_server_lost() {
                break;
            }
        }
        let all = held + failed.len();
        if all == 0 {
            return Ok(());
        }
        let title = conversation.title.split(": ").next().unwrap_or_default();
        let count = format!("{number} {title}: {held} of {all}");
        print(&styled(style(failed.is_empty()), &count))?;
        let shown = if self.shows_all { failed.len() } else { 1 };
        for (section, line, difference) in failed.iter().take(shown) {
            print_difference(section, *line, difference)?;
        }
        if !failed.is_empty() {
            print(&format!(
                "   Read: memc learn {number}, or tests/conversations/{name}.txt"
            ))?;
        }
        if failed.len() > shown {
            let (all, server) = (failed.len(), self.name);
            print(&format!(
                "   All {all} differences: memc check {server} --only {number}"
            ))?;
        }
        Ok(())
    }

    /// Removes the items that the last section has left, and prints the summary.
    ///
    /// # Errors
    /// Something differs, or nothing was played.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.server.flush();
        print("")?;
        for (why, numbers) in &mut self.passed_over {
            let sections = numbers.len();
            numbers.dedup();
            let conversations = match numbers.len() {
                many @ 11.. => format!("{many} conversations"),
                _ => numbers.join(", "),
            };
            print(&format!(
                "Passed over, {why}: {sections} in {conversations}"
            ))?;
        }
        let (held, played) = (self.held.len(), self.held.len() + self.failed.len());
        if played == 0 {
            return Err(failed("no section was played."));
        }
        let summary = format!("{held} of {played} sections hold.");
        let summary = styled(style(self.failed.is_empty()), &summary);
        if self.failed.is_empty() {
            return print(&summary);
        }
        if let Some(since) = self.silent.first().filter(|_| self.is_server_lost()) {
            let name = self.name;
            print(&format!(
                "The rest was not played: after {since} the server at {name} does not answer any more."
            ))?;
        }
        let fails = |level| self.failed.contains(&level) && !self.held.contains(&level);
        if fails(Level::Meta) && fails(Level::Binary) {
            print(
                "Neither the meta commands nor the binary protocol work: --level classic passes over both.",
            )?;
        } else if fails(Level::Binary) {
            print("The binary protocol does not work: --level meta passes over it.")?;
        }
        print(
            "After >- no line end is sent. In a text, {=a} and {#} are numbers, {*} is anything, and {250*k} is 250\n\
             times k.\n\
             Begin with the first difference. A later one is often its consequence. The whole protocol is in\n\
             protocol.txt: https://github.com/memcached/memcached/blob/master/doc/protocol.txt\n",
        )?;
        print(&summary)?;
        Err(Failure::Reported)
    }
}

/// Prints what the clients sent last before this line of a section, and what was expected.
fn print_difference(
    section: &Section<'_>,
    line: usize,
    difference: &Difference,
) -> Result<(), Failure> {
    let title = styled(Style::Bold, section.title);
    print(&format!("   {title} (line {line})"))?;
    let is_sent = |step: &&Step<'_>| matches!(step.action, Action::Send(_) | Action::TimePasses(_));
    let steps = section.steps.iter().filter(|step| step.line <= line);
    let exchanges = steps.filter(|step| !matches!(step.action, Action::Prose));
    let exchanges: Vec<&Step<'_>> = exchanges.collect();
    let mut groups = exchanges.split(|step| !is_sent(step));
    let sent = groups.rfind(|group| !group.is_empty()).unwrap_or_default();
    for step in sent.iter().skip(sent.len().saturating_sub(3)) {
        print(&format!("      {}", shortened(step.source)))?;
    }
    print(&format!(
        "      expected {}",
        shortened(&difference.expected)
    ))?;
    print(&format!("      but got  {}", shortened(&difference.got)))?;
    let clients = section.steps.iter().map(|step| step.client);
    let clients = BTreeSet::from_iter(clients.filter(|client| !client.is_empty()));
    if clients.len() > 1 && difference.got == "no answer" {
        let clients = Vec::from_iter(clients).join(" and ");
        print(&format!(
            "      ({clients} are connected at the same time. Does the server serve one while the other waits?)"
        ))?;
    }
    Ok(())
}

fn style(is_good: bool) -> Style {
    if is_good { Style::Green } else { Style::Red }
}

/// Prints a line. If nobody reads the report any more, the exit code still has its result.
fn print(line: &str) -> Result<(), Failure> {
    match crate::print(line) {
        Err(Failure::Ended) => Ok(()),
        printed => printed,
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_LETTERS) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}
