//! `memc learn`: the conversations as lessons. It prints the prose, lets the learner type the client's lines, and holds
//! the server's answers against the expected ones.

use std::fs;
use std::io::BufReader;
use std::time::Duration;

use rustmemc::config::{self, Invocation};
use rustmemc::conversations::answer::{self, Ending};
use rustmemc::conversations::format::{Action, Conversation, Section, Step};
use rustmemc::conversations::player::{Difference, Kind, Player, Server as Target};
use rustmemc::conversations::{ALL, USERS, is_named, number_of};
use rustmemc::{Address, Running};

use crate::check;
use crate::client::Server;
use crate::screen::{Style, ask, remark, retype, show, show_part, styled, title, visible, wrapped};
use crate::talk::{unread, with_data};
use crate::{Failure, failed, print};

/// How long the lesson waits for an answer. A line of the learner's own may have none.
const PATIENCE: Duration = Duration::from_secs(2);

/// A longer line is shown as the conversation has it, such as `{2000*x}`, in bytes.
const MAX_SHOWN: usize = 200;

/// Lists the lessons.
pub fn list() -> Result<(), Failure> {
    remark("The lessons, in their order. The first one: memc learn 01\n")?;
    for (name, text) in ALL {
        let title = Conversation::parse(text).map_err(failed)?.title;
        let number = styled(Style::Bold, number_of(name));
        print(&format!("  {number}  {title}"))?;
    }
    Ok(())
}

/// Teaches the lesson with this number, or with this text in its name. `server` is the one that `-s` names.
pub fn learn(wanted: &str, server: Option<&Server>, may_empty: bool) -> Result<(), Failure> {
    let mut lessons = ALL.iter().skip_while(|(name, _)| !is_named(name, wanted));
    let Some((name, text)) = lessons.next() else {
        return Err(failed(format!(
            "there is no lesson {wanted}; `memc learn` lists them"
        )));
    };
    let conversation = Conversation::parse(text).map_err(failed)?;
    let (target, _running) = match server {
        Some(server) => (check::target(server, may_empty)?, None),
        None => own_server(conversation.flags)
            .map_err(|why| failed(format!("cannot start a server for the lesson: {why}.")))?,
    };
    let mut teacher = Teacher {
        target: &target,
        differences: 0,
    };
    teacher.teach(name, &conversation)?;
    title(&match teacher.differences {
        0 => "Every answer was as the lesson shows it.".into(),
        1 => "One answer was not as the lesson shows it.".into(),
        more => format!("{more} answers were not as the lesson shows them."),
    })?;
    remark(&match lessons.next() {
        Some((next, _)) => format!("The next lesson: memc learn {}", number_of(next)),
        None => "That was the last lesson.".into(),
    })
}

/// A server in this process, with these flags. It has no file, and its clock can be moved.
fn own_server(flags: &str) -> Result<(Target, Option<Running>), String> {
    let users = std::env::temp_dir().join(format!("memc-users-{}", std::process::id()));
    if flags.contains("-Y") {
        fs::write(&users, USERS).map_err(|error| error.to_string())?;
    }
    let words = flags.split_whitespace().map(|word| match word {
        "tests/conversations/users" => users.clone().into(),
        _ => word.into(),
    });
    let own = ["--no-aof", "--debug", "-p", "0", "-c", "64"].map(Into::into);
    let words = own.into_iter().chain(words);
    let config = match config::from_command_line("rustmemc".as_ref(), words)? {
        Invocation::Serve { config, .. } => *config,
        Invocation::Text(text) => return Err(text),
    };
    let running = rustmemc::Server::start(config);
    // The server has read the file, if there is one.
    let _ = fs::remove_file(&users);
    let running = running.map_err(|error| error.to_string())?;
    let target = Target {
        address: Address::Tcp(running.address()),
        kind: Kind::Rustmemc,
        patience: PATIENCE,
    };
    Ok((target, Some(running)))
}

/// Teaches one lesson.
struct Teacher<'t> {
    target: &'t Target,
    /// How many answers were not as expected.
    differences: usize,
}

impl Teacher<'_> {
    fn teach(&mut self, name: &str, conversation: &Conversation<'_>) -> Result<(), Failure> {
        title(&format!(
            "Lesson {}. {}",
            number_of(name),
            conversation.title
        ))?;
        let paragraphs = conversation.introduction.split(|line| line.is_empty());
        // One says how to begin this lesson.
        let is_prose = |lines: &&[&str]| {
            lines
                .first()
                .is_some_and(|line| !line.contains("memc learn"))
        };
        for lines in paragraphs.filter(is_prose) {
            print(&(wrapped(lines) + "\n"))?;
        }
        remark(&wrapped(&[
            "Type each grey line after the prompt, or only press Enter: that sends it too. You may also send lines of your \
             own. `?set` explains `set`, and `?` lists the commands. Each section begins without items. Ctrl-D ends the \
             lesson.",
        ]))?;
        for section in &conversation.sections {
            title(section.title)?;
            if let Some(why) = self.target.passes_over(section) {
                remark(&format!(
                    "This section is passed over, because it is {why}."
                ))?;
                continue;
            }
            loop {
                let before = self.differences;
                self.section(section)?;
                if self.differences == before || !wants_again()? {
                    break;
                }
                self.differences = before;
            }
        }
        Ok(())
    }

    fn section(&mut self, section: &Section<'_>) -> Result<(), Failure> {
        self.target.flush();
        let mut player = Player::new(self.target);
        // The length of the data block that the last line has announced.
        let mut announced = None;
        // Whether an answer since the last line of the client was not as expected. Then the rest of it is not compared.
        let mut is_lost = false;
        let is_prose = |step: &Step<'_>| matches!(step.action, Action::Prose);
        for steps in (section.steps).chunk_by(|step, next| is_prose(step) && is_prose(next)) {
            let Some(step) = steps.first() else { continue };
            match &step.action {
                Action::Prose => {
                    let lines: Vec<&str> = steps.iter().map(|step| step.source).collect();
                    print(&wrapped(&lines))?;
                }
                Action::Send(_) => {
                    is_lost = false;
                    let line = self.ask_for_line(step, announced, &mut player)?;
                    announced = match announced {
                        None => answer::ending(line.as_bytes()).1,
                        Some(_) => None,
                    };
                }
                Action::TimePasses(seconds) => {
                    remark(&format!("{seconds} seconds pass."))?;
                    self.check(player.play(step))?;
                }
                _ if is_lost => remark(&format!("The lesson shows:  {}", step.source))?,
                _ => match self.check(player.play(step))? {
                    Some(received) => show(Style::Green, &shown(step, &received))?,
                    None => {
                        is_lost = true;
                        // The next answer is read from its start.
                        let more = player.skip(step.client);
                        if !more.is_empty() {
                            remark(&format!("and then {}", visible(more.trim_ascii_end())))?;
                        }
                    }
                },
            }
        }
        self.check(player.finish()).map(drop)
    }

    /// Lets the learner type a line of the client, and sends it. Returns the line. Any other line is sent as well: if a
    /// data block is due, in its place; otherwise its answer is shown, and the learner is asked again.
    fn ask_for_line(
        &mut self,
        step: &Step<'_>,
        announced: Option<usize>,
        player: &mut Player<'_>,
    ) -> Result<String, Failure> {
        let text = match &step.action {
            Action::Send(text) => player.bytes(text).unwrap_or_default(),
            _ => Vec::new(),
        };
        let text = text.strip_suffix(b"\r\n").map(str::from_utf8);
        let text = text.and_then(Result::ok);
        let text = text.filter(|_| !step.source.contains(">x "));
        // A line of bytes, or one without its line end, is shown as the conversation has it, and cannot be varied.
        let as_written = step.source.split_once(' ').unwrap_or_default().1;
        let expected = text.unwrap_or(as_written);
        let hinted = match expected.len() {
            ..=MAX_SHOWN => visible(expected.as_bytes()),
            _ => as_written.to_owned(),
        };
        let prompt = format!("{}> ", step.client);
        let indent = " ".repeat(prompt.len());
        let hint = format!("{indent}{hinted}");
        loop {
            let line = ask(&hint, &prompt)?;
            if line.is_empty() || line == expected || line == hinted {
                retype(&prompt, &hinted)?;
                self.check(player.play(step))?;
                return Ok(text.unwrap_or_default().to_owned());
            }
            if text.is_none() {
                let why = match as_written {
                    _ if step.source.contains(">x ") => "These are bytes of the binary protocol",
                    _ if as_written.ends_with("\\n") && !as_written.ends_with("\\r\\n") => {
                        "This line ends in \\n alone"
                    }
                    _ if step.source.contains(">- ") => "This is a line without its end",
                    _ => "This line has bytes that are not text",
                };
                remark(&format!(
                    "{why}, which a keyboard cannot send: press Enter."
                ))?;
                continue;
            }
            if let Some(length) = announced {
                let typed = line.len();
                if typed != length {
                    let then = match typed < length {
                        true => "The server waits for the rest, and takes the next line for it",
                        false => "The server refuses a data block that is too long",
                    };
                    remark(&format!(
                        "{length} bytes were announced, and these are {typed}. {then}."
                    ))?;
                }
                self.check(player.send(step.client, format!("{line}\r\n").as_bytes()))?;
                return Ok(line);
            }
            self.experiment(step.client, line, player)?;
            remark("That was a line of your own. Now the lesson goes on.")?;
        }
    }

    /// Sends a line of the learner's own, and shows the answer.
    fn experiment(
        &mut self,
        client: &str,
        line: String,
        player: &mut Player<'_>,
    ) -> Result<(), Failure> {
        let (line, data) = with_data(line)?;
        self.check(player.send(client, format!("{line}\r\n{data}").as_bytes()))?;
        let (mut ending, length) = answer::ending(line.as_bytes());
        if ending == Ending::Never {
            // The lesson goes on after the first line, and the player reads the rest of a `watch`.
            ending = Ending::OnePart;
        }
        if let Ok(stream) = player.stream(client) {
            // The player reads the stream too, so nothing may be read ahead.
            let mut reader = BufReader::with_capacity(1, stream);
            answer::read(&mut reader, ending, |part| {
                show_part(client, line.as_bytes(), &part)
            })?;
        }
        // What comes after the answer must not be taken for the lesson's next answer.
        let more = player.skip(client);
        let last = unread(&line, &data, length).as_bytes();
        answer::read(&mut &more[..], Ending::Never, |part| {
            show_part(client, last, &part)
        })?;
        Ok(())
    }

    /// Shows what is not as the lesson shows it.
    fn check<T>(&mut self, played: Result<T, Difference>) -> Result<Option<T>, Failure> {
        if let Err(difference) = &played {
            self.differences += 1;
            show(
                Style::Red,
                &format!("This differs from the lesson: {difference}\n"),
            )?;
        }
        Ok(played.ok())
    }
}

/// Asks whether to play the section again.
fn wants_again() -> Result<bool, Failure> {
    loop {
        match ask("", "Enter goes on; `again` plays this section again: ")?.trim() {
            "" => return Ok(false),
            "again" => return Ok(true),
            _ => {}
        }
    }
}

/// What the server has sent, as the conversation writes it.
fn shown(step: &Step<'_>, received: &[u8]) -> String {
    match step.action {
        Action::Answer(_) if received.len() <= MAX_SHOWN && !step.source.contains("<x ") => {
            let lines = received.trim_ascii_end().split(|&byte| byte == b'\n');
            lines
                .map(|line| format!("{}< {}\n", step.client, visible(line.trim_ascii_end())))
                .collect()
        }
        _ => format!("{}\n", step.source),
    }
}
