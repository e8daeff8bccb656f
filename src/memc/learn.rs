//! `memc learn`: the conversations as lessons. It prints the prose, lets the learner type the client's lines, and holds
//! the server's answers against the expected ones.

use std::io::BufReader;
use std::path::PathBuf;
use std::time::Duration;

use rustmemc::config::{self, Invocation};
use rustmemc::conversations::answer::{self, Ending};
use rustmemc::conversations::format::{Action, Conversation, Section, Step};
use rustmemc::conversations::player::{Difference, Kind, Player, Server as Target};
use rustmemc::conversations::{ALL, USERS, is_named, number_of};
use rustmemc::{Address, Running};

use crate::check;
use crate::client::Server;
use crate::screen::{Screen, Style, visible};
use crate::{Failure, print};

/// How long the lesson waits for an answer. A line of the learner's own may have none.
const PATIENCE: Duration = Duration::from_secs(2);

/// Teaches the lesson with this number, or with this text in its name. `server` is the one that `-s` names.
pub fn learn(wanted: &str, server: Option<&Server>, may_empty: bool) -> Result<(), Failure> {
    let mut lessons = ALL.iter().skip_while(|(name, _)| !is_named(name, wanted));
    let Some((name, text)) = lessons.next() else {
        let none = format!("there is no lesson {wanted}; `memc learn` lists them");
        return Err(Failure::Failed(none));
    };
    let conversation = Conversation::parse(text).map_err(Failure::Failed)?;
    let (target, _own) = match server {
        Some(server) => (check::target(server, may_empty)?.0, None),
        None => own_server(conversation.flags)?,
    };
    let mut teacher = Teacher {
        screen: Screen::new(),
        target: &target,
        differences: 0,
    };
    if teacher.teach(name, &conversation)?.is_none() {
        return Ok(());
    }
    let result = match teacher.differences {
        0 => "Every answer was as the lesson shows it.".into(),
        1 => "One answer was not as the lesson shows it.".into(),
        more => format!("{more} answers were not as the lesson shows them."),
    };
    teacher.title(&result)?;
    let next = match lessons.next() {
        Some((next, _)) => format!("The next lesson: memc learn {}\n", number_of(next)),
        None => "That was the last lesson.\n".into(),
    };
    Ok(teacher.screen.print(Style::Dim, &next)?)
}

/// Lists the lessons.
pub fn list() -> Result<(), Failure> {
    let screen = Screen::new();
    screen.print(
        Style::Dim,
        "The lessons, in their order. The first one: memc learn 01\n\n",
    )?;
    for (name, text) in ALL {
        let conversation = Conversation::parse(text).map_err(Failure::Failed)?;
        screen.print(Style::Bold, &format!("  {}  ", number_of(name)))?;
        print(conversation.title)?;
    }
    Ok(())
}

/// A server in this process, with these flags. It has no file, and its clock can be moved.
fn own_server(flags: &str) -> Result<(Target, Option<(Running, TemporaryFile)>), Failure> {
    let failed =
        |why: String| Failure::Failed(format!("cannot start a server for the lesson: {why}."));
    let users = format!("memc-users-{}", std::process::id());
    let users = TemporaryFile(std::env::temp_dir().join(users));
    if flags.contains("-Y") {
        std::fs::write(&users.0, USERS).map_err(|error| failed(error.to_string()))?;
    }
    let words = flags.split_whitespace().map(|word| match word {
        "tests/conversations/users" => users.0.clone().into(),
        _ => word.into(),
    });
    let own = ["--no-aof", "--debug", "-p", "0", "-c", "64"].map(Into::into);
    let words = own.into_iter().chain(words);
    let config = match config::from_command_line("rustmemc".as_ref(), words).map_err(failed)? {
        Invocation::Serve { config, .. } => *config,
        Invocation::Text(text) => return Err(failed(text)),
    };
    let running = rustmemc::Server::start(config).map_err(|error| failed(error.to_string()))?;
    let target = Target {
        address: Address::Tcp(running.address()),
        kind: Kind::Rustmemc,
        patience: PATIENCE,
    };
    Ok((target, Some((running, users))))
}

/// A file that is removed at the end, if it is there.
struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Teaches one lesson. The functions that read what the learner types return `None` when the input has ended.
struct Teacher<'t> {
    screen: Screen,
    target: &'t Target,
    /// How many answers were not as expected.
    differences: usize,
}

impl Teacher<'_> {
    fn teach(
        &mut self,
        name: &str,
        conversation: &Conversation<'_>,
    ) -> Result<Option<()>, Failure> {
        self.title(&format!(
            "Lesson {}. {}",
            number_of(name),
            conversation.title
        ))?;
        for line in &conversation.introduction {
            print(line)?;
        }
        self.remark("Type each grey line after the prompt, or only press Enter to send it. A line of your own is sent too.\nA question mark explains: ?set")?;
        for section in &conversation.sections {
            self.title(section.title)?;
            if let Some(why) = self.target.passes_over(section) {
                self.remark(&format!(
                    "This section is passed over, because it is {why}."
                ))?;
                continue;
            }
            loop {
                let before = self.differences;
                if self.section(section)?.is_none() {
                    return Ok(None);
                }
                if self.differences == before {
                    break;
                }
                match self
                    .screen
                    .ask("Enter goes on; `again` plays this section again: ")?
                {
                    None => return Ok(None),
                    Some(word) if word.trim() == "again" => self.differences = before,
                    Some(_) => break,
                }
            }
        }
        Ok(Some(()))
    }

    fn section(&mut self, section: &Section<'_>) -> Result<Option<()>, Failure> {
        self.target.flush();
        let mut player = Player::new(self.target);
        // The length of the data block that the last line has announced.
        let mut announced = None;
        // Whether an answer since the last line of the client was not as expected. Then the rest of it is not compared.
        let mut is_lost = false;
        for step in &section.steps {
            match &step.action {
                Action::Prose => print(step.source)?,
                Action::Send(_) => {
                    is_lost = false;
                    let Some(line) = self.ask_for_line(step, announced, &mut player)? else {
                        return Ok(None);
                    };
                    announced = match announced {
                        None => answer::ending(line.as_bytes()).1,
                        Some(_) => None,
                    };
                }
                Action::TimePasses(seconds) => {
                    self.remark(&format!("{seconds} seconds pass."))?;
                    let played = player.play(step);
                    self.check(played)?;
                }
                _ if is_lost => self.remark(&format!("The lesson shows:  {}", step.source))?,
                _ => {
                    let played = player.play(step);
                    match self.check(played)? {
                        Some(received) => {
                            self.screen.print(Style::Green, &shown(step, &received))?
                        }
                        None => {
                            is_lost = true;
                            self.skip(step.client, &mut player)?;
                        }
                    }
                }
            }
        }
        let finished = player.finish();
        self.check(finished)?;
        Ok(Some(()))
    }

    /// Lets the learner type a line of the client, and sends it. Returns the line. Any other line is sent as well: if a
    /// data block is due, in its place; otherwise its answer is shown, and the learner is asked again.
    fn ask_for_line(
        &mut self,
        step: &Step<'_>,
        announced: Option<usize>,
        player: &mut Player<'_>,
    ) -> Result<Option<String>, Failure> {
        let text = match &step.action {
            Action::Send(text) => player.bytes(text).unwrap_or_default(),
            _ => return Ok(None),
        };
        let text = text.strip_suffix(b"\r\n").map(str::from_utf8);
        // A line of bytes, or one without its line end, is shown as the conversation has it, and cannot be varied.
        let is_text = matches!(text, Some(Ok(_))) && !step.source.contains(">x ");
        let expected = text.and_then(Result::ok).filter(|_| is_text);
        let expected = expected.unwrap_or(step.source.split_at(step.client.len()).1);
        loop {
            let prompt = format!("{}> ", step.client);
            let indent = " ".repeat(prompt.len());
            self.remark(&format!("{indent}{}", visible(expected.as_bytes())))?;
            let Some(line) = self.screen.ask(&prompt)? else {
                return Ok(None);
            };
            if line.is_empty() || line == expected {
                self.screen.retype(&prompt, expected)?;
                let played = player.play(step);
                self.check(played)?;
                return Ok(Some(expected.to_owned()));
            }
            if !is_text {
                self.remark("This line can only be sent as it is: press Enter.")?;
            } else if let Some(length) = announced {
                if line.len() != length {
                    let typed = line.len();
                    self.remark(&format!(
                        "{length} bytes were announced, and these are {typed}."
                    ))?;
                }
                let sent = player.send(step.client, format!("{line}\r\n").as_bytes());
                self.check(sent)?;
                return Ok(Some(line));
            } else {
                self.experiment(step.client, &line, player)?;
                self.remark("That was a line of your own. Now the lesson goes on.")?;
            }
        }
    }

    /// Sends a line of the learner's own, and shows the answer.
    fn experiment(
        &mut self,
        client: &str,
        line: &str,
        player: &mut Player<'_>,
    ) -> Result<(), Failure> {
        let (ending, length) = answer::ending(line.as_bytes());
        let data = match length {
            Some(length) => self.screen.ask_for_data(length)?.unwrap_or_default(),
            None => String::new(),
        };
        let sent = player.send(client, format!("{line}\r\n{data}").as_bytes());
        self.check(sent)?;
        // The server is not waited for for ever, and the player reads the rest of a `watch`.
        let ending = if ending == Ending::Never {
            Ending::OnePart
        } else {
            ending
        };
        if let Ok(stream) = player.stream(client) {
            // The player reads the stream too, so nothing may be read ahead.
            let mut reader = BufReader::with_capacity(1, stream);
            let show = |part| self.screen.print_part(client, line.as_bytes(), &part);
            answer::read(&mut reader, ending, show)?;
        }
        Ok(())
    }

    /// Shows what is not as the lesson shows it.
    fn check<T>(&mut self, played: Result<T, Difference>) -> Result<Option<T>, Failure> {
        let difference = match played {
            Ok(played) => return Ok(Some(played)),
            Err(difference) => difference,
        };
        self.differences += 1;
        let text = format!("This differs from the lesson: {difference}\n");
        self.screen.print(Style::Red, &text)?;
        Ok(None)
    }

    /// Shows what the server has sent besides an answer that differs, so that the next answer is read from its start.
    fn skip(&mut self, client: &str, player: &mut Player<'_>) -> Result<(), Failure> {
        let more = player.skip(client);
        match more.is_empty() {
            true => Ok(()),
            false => self.remark(&format!("and then {}", visible(more.trim_ascii_end()))),
        }
    }

    fn title(&self, title: &str) -> Result<(), Failure> {
        Ok(self.screen.print(Style::Bold, &format!("\n{title}\n"))?)
    }

    fn remark(&self, remark: &str) -> Result<(), Failure> {
        Ok(self.screen.print(Style::Dim, &format!("{remark}\n"))?)
    }
}

/// What the server has sent, as the conversation writes it.
fn shown(step: &Step<'_>, received: &[u8]) -> String {
    match step.action {
        Action::Answer(_) if !step.source.contains("<x ") => {
            let lines = received.trim_ascii_end().split(|&byte| byte == b'\n');
            lines
                .map(|line| format!("{}< {}\n", step.client, visible(line.trim_ascii_end())))
                .collect()
        }
        _ => format!("{}\n", step.source),
    }
}
