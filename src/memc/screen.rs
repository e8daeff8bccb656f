//! How `memc` prints on a terminal, and how `memc` alone and `memc learn` read what a person types.

use std::io::{self, BufRead, IsTerminal, Write};

use rustmemc::conversations::answer::Part;
use rustmemc::internals::{VERBS, explain, grammar};

use crate::{Failure, failed};

/// How a text looks: the number of its style in the escape sequences of terminals.
#[derive(Debug, Clone, Copy)]
pub enum Style {
    /// As it is.
    Plain = 0,
    /// Titles and prompts.
    Bold = 1,
    /// Remarks.
    Dim = 2,
    /// What is not as expected; an eviction.
    Red = 31,
    /// What is as expected.
    Green = 32,
    /// A miss.
    Yellow = 33,
    /// A connection.
    Blue = 34,
    /// A deletion.
    Magenta = 35,
    /// What the server sends; what is stored.
    Cyan = 36,
}

/// Whether standard output is a terminal. Only people want reasons and colours.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

fn has_colours() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The text in this style, if standard output is a terminal. The variable `NO_COLOR` turns colours off.
pub fn styled(style: Style, text: &str) -> String {
    match style {
        Style::Plain => text.to_owned(),
        style if has_colours() => format!("\x1b[{}m{text}\x1b[0m", style as u8),
        _ => text.to_owned(),
    }
}

/// Prints a text in this style, without a line end.
pub fn show(style: Style, text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(styled(style, text).as_bytes())?;
    out.flush()
}

/// Prints a title, with an empty line before it.
pub fn title(title: &str) -> Result<(), Failure> {
    Ok(show(Style::Bold, &format!("\n{title}\n"))?)
}

/// Prints a remark.
pub fn remark(remark: &str) -> Result<(), Failure> {
    Ok(show(Style::Dim, &format!("{remark}\n"))?)
}

/// The paragraphs in these lines, wrapped at words. A line that begins with a space stays as it is.
pub fn wrapped(lines: &[&str]) -> String {
    let columns = std::env::var("COLUMNS").ok();
    let width = columns.and_then(|columns| columns.parse().ok());
    let width = width.unwrap_or(80);
    let (mut wrapped, mut is_open) = (Vec::new(), false);
    for line in lines {
        let is_prose = !line.is_empty() && !line.starts_with(' ');
        if !is_prose {
            wrapped.push((*line).to_owned());
        }
        for word in line.split(' ').filter(|_| is_prose) {
            match wrapped.last_mut() {
                Some(last) if is_open && last.len() + 1 + word.len() <= width => {
                    *last = format!("{last} {word}");
                }
                _ => wrapped.push(word.to_owned()),
            }
            is_open = true;
        }
        is_open = is_prose;
    }
    wrapped.join("\n")
}

/// Prints a part of the answer to a line of this client. On a terminal the reason follows.
pub fn show_part(client: &str, line: &[u8], part: &Part) -> io::Result<()> {
    if !is_terminal() {
        for bytes in [Some(&part.line), part.value.as_ref()]
            .into_iter()
            .flatten()
        {
            io::stdout().write_all(&[bytes, &b"\n"[..]].concat())?;
        }
        return Ok(());
    }
    show(Style::Cyan, &format!("{client}< {}", visible(&part.line)))?;
    if let Some(reason) = explain::reason(line, &part.line) {
        show(Style::Dim, &format!("   ({reason})"))?;
    }
    if let Some(value) = &part.value {
        show(Style::Cyan, &format!("\n{client}< {}", visible(value)))?;
    }
    show(Style::Plain, "\n")
}

/// Reads a line that a person types after the hint, if there is one, and the prompt. The line has no line end. One that
/// begins with a question mark is answered here.
pub fn ask(hint: &str, prompt: &str) -> Result<String, Failure> {
    loop {
        if !hint.is_empty() {
            remark(hint)?;
        }
        let Some(line) = typed(prompt)? else {
            if io::stdin().is_terminal() {
                // The prompt of the shell should begin a line.
                show(Style::Plain, "\n")?;
            }
            return Err(Failure::Ended);
        };
        match line.strip_prefix('?').map(str::trim) {
            None => return Ok(line),
            Some(verb) => show(Style::Dim, &help(verb))?,
        }
    }
}

/// Reads a line of a data block, whatever it begins with. Without it the command cannot be sent.
pub fn ask_for_data_line(prompt: &str) -> Result<String, Failure> {
    match typed(prompt)? {
        Some(line) => Ok(line),
        None if io::stdin().is_terminal() => {
            show(Style::Plain, "(not sent)\n")?;
            Err(Failure::Ended)
        }
        None => Err(failed(
            "the input ends in a data block, so its command was not sent",
        )),
    }
}

/// Reads a line after the prompt; `None` at the end of the input.
fn typed(prompt: &str) -> Result<Option<String>, Failure> {
    if io::stdin().is_terminal() {
        show(Style::Bold, prompt)?;
    }
    let mut line = Vec::new();
    let read = io::stdin().lock().read_until(b'\n', &mut line);
    read.map_err(|error| failed(format!("cannot read the input: {error}.")))?;
    if line.is_empty() {
        return Ok(None);
    }
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // To send other bytes than those that were typed would be worse than to refuse them.
    let text = String::from_utf8(line.to_vec());
    let refused = "is not UTF-8, and is not sent; `memc set` takes such a value from a file";
    text.map(Some)
        .map_err(|_| failed(format!("the line \"{}\" {refused}", line.escape_ascii())))
}

/// Reads a data block of this length, which may have several lines. Returns it with its line end.
pub fn ask_for_data(length: usize) -> Result<String, Failure> {
    let mut data = String::new();
    loop {
        let missing = match length.saturating_sub(data.len()) {
            0 => "only Enter is missing".into(),
            left => bytes(left),
        };
        let is_second = data.lines().count() == 1;
        if is_second && is_terminal() {
            remark("(the line end counts as two bytes of the data, and more is missing)")?;
        }
        data += &ask_for_data_line(&format!("data ({missing})> "))?;
        data += "\r\n";
        if data.len() >= length.saturating_add(2) {
            return Ok(data);
        }
    }
}

/// A number of bytes.
fn bytes(number: usize) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} byte{plural}")
}

/// Replaces the hint and the prompt by the line that was sent, as if it had been typed.
pub fn retype(prompt: &str, line: &str) -> io::Result<()> {
    if !has_colours() || !io::stdin().is_terminal() {
        return Ok(());
    }
    let line = visible(line.as_bytes());
    // Two lines up, where the line that was to be typed begins, and erase from there on.
    show(Style::Bold, &format!("\x1b[2A\x1b[J{prompt}{line}\n"))
}

/// The answer to `?`, `? <command>` or `?<command>`.
fn help(verb: &str) -> String {
    match grammar::of(verb) {
        Some(grammar) => format!("{grammar}\n"),
        None if !verb.is_empty() => format!("There is no command {verb}. ") + &help(""),
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
