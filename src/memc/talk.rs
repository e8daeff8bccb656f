//! `memc` alone: a conversation. What a person types is sent as a line, and the answers are shown as they come, each
//! with its reason if it does not explain itself.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use rustmemc::conversations::answer::{self, End, Ending};
use rustmemc::conversations::recorder::Recorder;
use rustmemc::internals::parse;

use crate::client::{Client, Server};
use crate::screen::{
    Style, ask, ask_for_data, ask_for_data_line, is_terminal, remark, show, show_part,
};
use crate::{Failure, failed};

/// How long to wait for an answer that may not come.
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// How long to wait for what the server sends after an answer. Usually it sends nothing.
const MOMENT: Duration = Duration::from_millis(20);

/// Talks until the input ends or the server closes the connection. `record` is the file to write.
pub fn talk(server: &Server, record: Option<&Path>) -> Result<(), Failure> {
    let mut client = server.connect()?;
    let mut recorder = recorder(record)?;
    if is_terminal() {
        let name = &server.name;
        remark(&format!(
            "Connected to {name}. Type a command; ? explains, Ctrl-D ends."
        ))?;
    }
    // The line that the server answers if it sends more than one answer.
    let mut last = String::new();
    loop {
        show_more(&mut client, &last, MOMENT, &mut recorder)?;
        let (line, data) = with_data(ask("", "> ")?)?;
        // An answer that has come late must not be taken for the answer to this line.
        show_more(&mut client, &last, Duration::from_millis(1), &mut recorder)?;
        let (ending, length) = answer::ending(line.as_bytes());
        recorder.sent(&line, &data)?;
        client.set_timeout(match ending {
            Ending::Unknown => Some(SHORT_WAIT),
            Ending::Never => None,
            _ => Some(server.timeout),
        });
        client.send(format!("{line}\r\n{data}").as_bytes())?;
        let end = client.read_parts(ending, |part| {
            show_part("", line.as_bytes(), &part)?;
            if ending == Ending::Never && part.line == b"OK" && is_terminal() {
                show(
                    Style::Dim,
                    "(from now on only the server sends; Ctrl-C ends)\n",
                )?;
            }
            recorder.received(&line, &part)
        })?;
        match end {
            End::Closed => {
                recorder.closed()?;
                return match ending {
                    Ending::Unknown => Ok(()),
                    _ => Err(server.lost(end)),
                };
            }
            End::Silence if ending != Ending::Unknown => {
                remark("(no answer; what comes later is shown after the next line)")?;
            }
            _ => {}
        }
        last = unread(&line, &data, length).to_owned();
    }
}

/// Shows what the server sends within this time although no line waits for an answer.
fn show_more(
    client: &mut Client<'_>,
    line: &str,
    within: Duration,
    recorder: &mut Recorder,
) -> Result<(), Failure> {
    while client.has_more(within) {
        client.set_timeout(Some(client.server.timeout));
        client.read_parts(Ending::OnePart, |part| {
            show_part("", line.as_bytes(), &part)?;
            recorder.received(line, &part)
        })?;
    }
    Ok(())
}

/// The line to which another answer belongs: the server takes the rest of a data block that is too long for a command.
pub fn unread<'l>(line: &'l str, data: &'l str, length: Option<usize>) -> &'l str {
    let rest = length.and_then(|length| data.get(length + 2..));
    let rest = rest.and_then(|rest| rest.lines().next());
    rest.unwrap_or(line)
}

/// Reads the data block of a typed line, if it has one. Returns the line, with its `<bytes>`, and the data.
pub fn with_data(line: String) -> Result<(String, String), Failure> {
    if let Some((before, after)) = without_bytes(&line) {
        let data = ask_for_data_line("data> ")?;
        let line = format!("{before} {}{after}", data.len());
        if is_terminal() {
            remark(&format!("(sent as: {line})"))?;
        }
        return Ok((line, data + "\r\n"));
    }
    let (_, length) = answer::ending(line.as_bytes());
    if length.is_some() && is_terminal() && parse(format!("{line}\r\n").as_bytes()).request.is_err()
    {
        remark("(this line is wrong, but the server reads its data too)")?;
    }
    let data = length.map_or(Ok(String::new()), ask_for_data)?;
    Ok((line, data))
}

/// A recorder that writes this file, or nothing.
fn recorder(record: Option<&Path>) -> Result<Recorder, Failure> {
    let path = record.unwrap_or(Path::new(""));
    let out: io::Result<Box<dyn Write>> = match record {
        None => Ok(Box::new(io::sink())),
        Some(path) => File::create_new(path).map(|file| Box::new(file) as _),
    };
    let title = path.file_stem().unwrap_or_default().to_string_lossy();
    out.and_then(|out| Recorder::new(out, &title))
        .map_err(|error| {
            let path = path.display();
            failed(format!(
                "cannot create the file {path} for the record: {error}."
            ))
        })
}

/// Splits a storage line that lacks its `<bytes>` there. `None`: the line is another one, or has them.
fn without_bytes(line: &str) -> Option<(String, String)> {
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let is_number = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
    let arguments = words.iter().skip(1).filter(|word| **word != "noreply");
    let before = match (*words.first()?, arguments.count()) {
        ("set" | "add" | "replace" | "append" | "prepend", 3) | ("cas", 4) => 4,
        ("ms", 1..) if !words.get(2).is_some_and(is_number) => 2,
        _ => return None,
    };
    let (before, after) = words.split_at_checked(before)?;
    let after: String = after.iter().map(|word| format!(" {word}")).collect();
    let before = before.join(" ");
    // A line that is wrong with a byte count too is sent as it is.
    let is_right = parse(format!("{before} 0{after}\r\n").as_bytes())
        .request
        .is_ok();
    is_right.then_some((before, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_storage_line_without_its_byte_count_is_completed() {
        let check = |line: &str, expected: &str| {
            let completed = without_bytes(line).map(|(before, after)| format!("{before} 5{after}"));
            assert_eq!(completed.as_deref().unwrap_or(line), expected, "{line}");
        };
        check("set k 0 60", "set k 0 60 5");
        check("set k 0 60 noreply", "set k 0 60 5 noreply");
        check("set k 0 60 3", "set k 0 60 3");
        check("add k 0", "add k 0");
        check("cas k 0 60 77", "cas k 0 60 5 77");
        check("cas k 0 60 3 77", "cas k 0 60 3 77");
        check("ms k", "ms k 5");
        check("ms k T60 c", "ms k 5 T60 c");
        check("ms k 3 c", "ms k 3 c");
        check("ms", "ms");
        check("set k 0 soon", "set k 0 soon");
        check("set k b 0", "set k b 0");
        check("ms k bogus", "ms k bogus");
        check("get k 0 60", "get k 0 60");
        check("", "");
    }
}
