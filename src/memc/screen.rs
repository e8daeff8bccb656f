//! What `memc` alone and `memc learn` share: how they print, and how they read what a person types.

use std::io::{self, BufRead, IsTerminal, Write};

use rustmemc::conversations::answer::Part;
use rustmemc::internals::{VERBS, explain, grammar};

use crate::Failure;

/// Standard output, for people: with colours and reasons if it is a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// Whether it is a terminal.
    pub is_terminal: bool,
    has_colours: bool,
}

/// How a text looks: the number of its style in the escape sequences of terminals.
#[derive(Debug, Clone, Copy)]
pub enum Style {
    /// As it is.
    Plain = 0,
    /// Titles and prompts.
    Bold = 1,
    /// Remarks.
    Dim = 2,
    /// What is not as expected.
    Red = 31,
    /// What is as expected.
    Green = 32,
    /// What the server sends.
    Cyan = 36,
}

impl Screen {
    /// Finds out what standard output is. The variable `NO_COLOR` turns colours off.
    pub fn new() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Screen {
            is_terminal,
            has_colours: is_terminal && !is_plain,
        }
    }

    /// The text in this style.
    pub fn styled(self, style: Style, text: &str) -> String {
        match self.has_colours {
            true => format!("\x1b[{}m{text}\x1b[0m", style as u8),
            false => text.to_owned(),
        }
    }

    /// Prints a text, without a line end.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn print(self, style: Style, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(self.styled(style, text).as_bytes())?;
        out.flush()
    }

    /// Prints a part of the answer to a line of this client. On a terminal the reason follows.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn print_part(self, client: &str, line: &[u8], part: &Part) -> io::Result<()> {
        let bytes = [Some(&part.line), part.value.as_ref()];
        if !self.is_terminal {
            let mut out = io::stdout().lock();
            for bytes in bytes.into_iter().flatten() {
                out.write_all(bytes)?;
                out.write_all(b"\n")?;
            }
            return out.flush();
        }
        self.print(Style::Cyan, &format!("{client}< {}", visible(&part.line)))?;
        if let Some(reason) = explain::reason(line, &part.line) {
            self.print(Style::Dim, &format!("   ({reason})"))?;
        }
        if let Some(value) = &part.value {
            self.print(Style::Cyan, &format!("\n{client}< {}", visible(value)))?;
        }
        self.print(Style::Plain, "\n")
    }

    /// Reads a line that a person types after the prompt, without its line end; `None` at the end of the input. A line
    /// that begins with a question mark is answered here.
    ///
    /// # Errors
    /// The input cannot be read, or the prompt cannot be printed.
    pub fn ask(self, prompt: &str) -> Result<Option<String>, Failure> {
        loop {
            if io::stdin().is_terminal() {
                self.print(Style::Bold, prompt)?;
            }
            let mut line = Vec::new();
            let read = io::stdin().lock().read_until(b'\n', &mut line);
            read.map_err(|error| Failure::Failed(format!("cannot read the input: {error}.")))?;
            if line.is_empty() {
                return Ok(None);
            }
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let line = String::from_utf8_lossy(line).into_owned();
            match line.strip_prefix('?').map(str::trim) {
                None => return Ok(Some(line)),
                Some(verb) => self.print(Style::Dim, &help(verb))?,
            }
        }
    }

    /// Replaces the hint and the prompt by the line that was sent, as if it had been typed.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn retype(self, prompt: &str, line: &str) -> io::Result<()> {
        if !self.has_colours || !io::stdin().is_terminal() {
            return Ok(());
        }
        // Two lines up, where the line that was to be typed begins, and erase from there on.
        self.print(
            Style::Bold,
            &format!("\x1b[2A\x1b[J{prompt}{}\n", visible(line.as_bytes())),
        )
    }

    /// Reads a data block of this length, which may have several lines. Returns it with its line end; `None` at the
    /// end of the input.
    ///
    /// # Errors
    /// Those of [`Screen::ask`].
    pub fn ask_for_data(self, length: usize) -> Result<Option<String>, Failure> {
        let mut data = String::new();
        while data.len() < length + 2 {
            let left = length.saturating_sub(data.len());
            let Some(line) = self.ask(&format!("data ({left} bytes)> "))? else {
                return Ok(None);
            };
            data += &line;
            data += "\r\n";
        }
        Ok(Some(data))
    }
}

/// The answer to `?`, `? <command>` or `?<command>`.
fn help(verb: &str) -> String {
    match grammar::of(verb) {
        Some(grammar) => format!("{grammar}\n"),
        None => format!(
            "The commands: {}.\n`? set` shows the form of a command. `memc learn` teaches the protocol.\n",
            VERBS.join(" ")
        ),
    }
}

/// Bytes as a terminal can show them.
pub fn visible(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}
