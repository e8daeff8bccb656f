//! The report of `memc check`. It is printed while the conversations are played.

use std::collections::{BTreeMap, BTreeSet};

use rustmemc::conversations::format::{Action, Conversation, Level, Section};
use rustmemc::conversations::number_of;
use rustmemc::conversations::player::{Difference, Server};

use crate::screen::{Screen, Style};
use crate::{Failure, print};

/// If the server has answered nothing after as many sections in a row, no more are played.
const MAX_SILENT_SECTIONS: usize = 3;

/// How many letters of a line are printed.
const MAX_LETTERS: usize = 90;

/// Plays conversations, and prints what differs.
pub struct Report {
    /// The name of the server, as the user wrote it.
    name: String,
    server: Server,
    /// A command that the server has answered. It tells whether the server still answers.
    probe: &'static str,
    /// Whether the difference of every section is shown, and not only the first one of each conversation.
    pub shows_all: bool,
    screen: Screen,
    flushes: bool,
    /// For each level, how many sections hold, and how many were played.
    counts: BTreeMap<Level, (usize, usize)>,
    /// For each reason, how many sections were passed over, and the numbers of their conversations.
    passed_over: BTreeMap<String, (usize, BTreeSet<String>)>,
    /// How many of the last sections in a row were followed by silence, and where they begin.
    silent: usize,
    silent_since: String,
}

/// How a section ended that did not hold: the number of the line, and what differs.
type Failed<'c, 't> = (&'c Section<'t>, usize, Difference);

impl Report {
    /// An empty report.
    pub fn new(name: &str, server: Server, probe: &'static str) -> Self {
        Report {
            name: name.to_owned(),
            server,
            probe,
            shows_all: false,
            screen: Screen::new(),
            flushes: true,
            counts: BTreeMap::new(),
            passed_over: BTreeMap::new(),
            silent: 0,
            silent_since: String::new(),
        }
    }

    /// Removes the items, and prints a note if the server cannot do that.
    pub fn find_out_whether_it_flushes(&mut self) -> Result<(), Failure> {
        self.flushes = self.server.flush();
        if self.flushes {
            return Ok(());
        }
        print(
            "Note: it does not answer OK to `flush_all`, which each section sends first. So the items of earlier \
             sections stay,\nand may be the reason for a difference.",
        )
    }

    /// Whether the server has answered nothing for some time.
    pub fn is_server_lost(&self) -> bool {
        self.silent >= MAX_SILENT_SECTIONS
    }

    /// Plays the sections of a conversation up to this level, and prints what differs.
    pub fn play(
        &mut self,
        name: &str,
        conversation: &Conversation<'_>,
        level: Level,
        flags: &str,
    ) -> Result<(), Failure> {
        let number = number_of(name);
        let (mut held, mut failed) = (0, Vec::new());
        let needs = conversation.flags;
        let has_flags = flags.split_whitespace().eq(needs.split_whitespace());
        for section in &conversation.sections {
            let why_not = if !has_flags {
                let flags = if needs.is_empty() {
                    "no --flags".into()
                } else {
                    format!("--flags {needs:?}")
                };
                Some(format!("for a server with {flags}"))
            } else if section.level() > level {
                Some("above the --level".into())
            } else {
                self.server.passes_over(section)
            };
            if let Some(why) = why_not {
                let (sections, numbers) = self.passed_over.entry(why).or_default();
                *sections += 1;
                numbers.insert(number.to_owned());
                continue;
            }
            let played = if self.flushes {
                self.server.play(section)
            } else {
                self.server.play_unflushed(section)
            };
            let (holding, all) = self.counts.entry(section.level()).or_default();
            *all += 1;
            match played {
                Ok(()) => {
                    *holding += 1;
                    held += 1;
                    self.silent = 0;
                }
                Err((line, difference)) => {
                    failed.push((section, line, difference));
                    self.probe(&format!("line {line} of conversation {number}"));
                    if self.is_server_lost() {
                        break;
                    }
                }
            }
        }
        let played = held + failed.len();
        if played == 0 {
            return Ok(());
        }
        let (title, _) = conversation
            .title
            .split_once(": ")
            .unwrap_or((conversation.title, ""));
        let style = if failed.is_empty() {
            Style::Green
        } else {
            Style::Red
        };
        print(
            &self
                .screen
                .styled(style, &format!("{number} {title}: {held} of {played}")),
        )?;
        self.print_failed(name, &failed)
    }

    /// After a section that did not hold: finds out whether the server still answers.
    fn probe(&mut self, place: &str) {
        let answer = self.server.ask(format!("{}\r\n", self.probe).as_bytes());
        if answer.is_ok() {
            self.silent = 0;
            return;
        }
        if self.silent == 0 {
            self.silent_since = place.to_owned();
        }
        self.silent += 1;
    }

    fn print_failed(&self, name: &str, failed: &[Failed<'_, '_>]) -> Result<(), Failure> {
        let shown = if self.shows_all { failed.len() } else { 1 };
        for (section, line, difference) in failed.iter().take(shown) {
            let exchanges = section
                .steps
                .iter()
                .filter(|step| !matches!(step.action, Action::Prose));
            let is_sent =
                |action: &Action| matches!(action, Action::Send(_) | Action::TimePasses(_));
            let before = exchanges.rev().filter(|step| step.line <= *line);
            let before = before.skip_while(|step| !is_sent(&step.action));
            let mut sent: Vec<_> = before
                .take_while(|step| is_sent(&step.action))
                .take(3)
                .collect();
            sent.reverse();
            print(&format!(
                "   {} (line {line})",
                self.screen.styled(Style::Bold, section.title)
            ))?;
            for step in sent {
                print(&format!("      {}", shortened(step.source)))?;
            }
            print(&format!(
                "      expected {}",
                shortened(&difference.expected)
            ))?;
            print(&format!("      but got  {}", shortened(&difference.got)))?;
            let clients = section.steps.iter().map(|step| step.client);
            let mut clients = BTreeSet::from_iter(clients);
            clients.remove("");
            if clients.len() > 1 && difference.got == "no answer" {
                let clients = Vec::from_iter(clients).join(" and ");
                print(&format!(
                    "      ({clients} are connected at the same time. Does the server serve one while the other waits?)"
                ))?;
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        let number = number_of(name);
        print(&format!(
            "   Read: memc learn {number}, or tests/conversations/{name}.txt"
        ))?;
        if failed.len() > shown {
            let (all, server) = (failed.len(), &self.name);
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
    pub fn finish(self) -> Result<(), Failure> {
        self.server.flush();
        let (mut held, mut played) = (0, 0);
        for (holding, all) in self.counts.values() {
            held += holding;
            played += all;
        }
        print("")?;
        for (why, (sections, numbers)) in &self.passed_over {
            let numbers = match numbers.len() {
                many @ 11.. => format!("{many} conversations"),
                _ => Vec::from_iter(numbers.iter().map(String::as_str)).join(", "),
            };
            print(&format!("Passed over, {why}: {sections} in {numbers}"))?;
        }
        if played == 0 {
            return Err(Failure::Failed("no section was played.".into()));
        }
        let style = if held == played {
            Style::Green
        } else {
            Style::Red
        };
        print(
            &self
                .screen
                .styled(style, &format!("{held} of {played} sections hold.")),
        )?;
        if held == played {
            return Ok(());
        }
        if self.is_server_lost() {
            print(&format!(
                "The rest was not played: after {} the server at {} does not answer any more.",
                self.silent_since, self.name
            ))?;
        }
        let fails = |level| matches!(self.counts.get(&level), Some((0, _)));
        if fails(Level::Meta) && fails(Level::Binary) {
            print(
                "Neither the meta commands nor the binary protocol work: --level classic passes over both.",
            )?;
        } else if fails(Level::Binary) {
            print("The binary protocol does not work: --level meta passes over it.")?;
        }
        print(
            "In a text, {=a} and {#} are numbers, and {*} is anything.\n\
             Begin with the first difference. A later one is often its consequence. The whole protocol is in\n\
             protocol.txt: https://github.com/memcached/memcached/blob/master/doc/protocol.txt",
        )?;
        Err(Failure::Reported)
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_LETTERS) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}
