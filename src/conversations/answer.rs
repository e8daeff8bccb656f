//! Reads the answer to a line that somebody has typed: it finds the end of the answer, which depends on the line.
//!
//! The [player](super::player) needs it for lines that are not in a conversation, and `memc` for all.

use std::io::{self, BufRead, Read};

use crate::protocol::{Answer, Crawler, Detail, ProtocolError, Request, StatsTopic, parse};
use crate::stream::is_timeout;

/// A longer line is read in pieces of this length, in bytes. The longest line of a memcached has a url-encoded key of 250
/// bytes.
const MAX_LINE: u64 = 8192;

/// Where the answer to a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// There is no answer (`noreply`).
    NoAnswer,
    /// After one part.
    OnePart,
    /// After the last line of a list, such as END, or after an error.
    List,
    /// A server with `q` may send nothing, and one that gets `quit` closes the connection.
    Unknown,
    /// Never (`watch`).
    Never,
}

/// How the reading of an answer has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With its last part.
    Complete,
    /// The server was silent until the time-out of the connection.
    Silence,
    /// The server has closed the connection.
    Closed,
}

/// A line that the server has sent, and the value that follows it. Both are without their line end.
#[derive(Debug)]
pub struct Part {
    /// The line.
    pub line: Vec<u8>,
    /// How the line ends: `\r\n`, or `\n` alone.
    pub line_end: &'static str,
    /// The value.
    pub value: Option<Vec<u8>>,
}

/// Where the answer to a line ends, and the length of the data block that the line announces. The line has no line end.
pub fn ending(line: &[u8]) -> (Ending, Option<usize>) {
    let line = [line, b"\r\n"].concat();
    let parsed = parse(&line);
    let quiet = |is_quiet| {
        if is_quiet {
            Ending::Unknown
        } else {
            Ending::OnePart
        }
    };
    let ending = match &parsed.request {
        _ if parsed.answer == Answer::Noreply => Ending::NoAnswer,
        Ok(Request::Stats(StatsTopic::Detail(Detail::On | Detail::Off))) => Ending::OnePart,
        // Another server may have more topics.
        Ok(Request::Get(_) | Request::Stats(_)) | Err(ProtocolError::UnknownStats) => Ending::List,
        Ok(Request::LruCrawler(Crawler::Metadump(_) | Crawler::Mgdump(_))) => Ending::List,
        Ok(Request::MetaGet(get)) => quiet(get.return_flags.quiet),
        Ok(Request::MetaDelete(delete)) => quiet(delete.return_flags.quiet),
        Ok(Request::MetaSet(_, flags) | Request::MetaArithmetic(_, flags)) => quiet(flags.quiet),
        Ok(Request::Quit | Request::Shutdown(_) | Request::Http) => Ending::Unknown,
        Ok(Request::Watch(_)) => Ending::Never,
        _ => Ending::OnePart,
    };
    (ending, parsed.data_length)
}

/// Reads an answer that ends so, and calls `each` with each part as it comes.
///
/// # Errors
/// Those of `each`.
pub fn read<E>(
    reader: &mut impl BufRead,
    ending: Ending,
    mut each: impl FnMut(Part) -> Result<(), E>,
) -> Result<End, E> {
    if ending == Ending::NoAnswer {
        return Ok(End::Complete);
    }
    loop {
        let part = match read_part(reader) {
            Ok(Some(part)) => part,
            Err(error) if is_timeout(&error) => return Ok(End::Silence),
            Ok(None) | Err(_) => return Ok(End::Closed),
        };
        let is_last = match ending {
            Ending::Never => false,
            Ending::List => !goes_on(&part.line),
            _ => true,
        };
        each(part)?;
        if is_last {
            return Ok(End::Complete);
        }
    }
}

/// Whether a line of a list is not its last one.
fn goes_on(line: &[u8]) -> bool {
    let first = line.split(|&byte| byte == b' ').next();
    let items = [&b"VALUE"[..], b"STAT", b"ITEM", b"PREFIX", b"mg"];
    // memcached sends OK before its list of all items, and this server does the same.
    first.is_some_and(|word| items.contains(&word)) || line.starts_with(b"key=") || line == b"OK"
}

/// Reads a part. `None`: the server has closed the connection.
fn read_part(reader: &mut impl BufRead) -> io::Result<Option<Part>> {
    let mut line = Vec::new();
    reader
        .by_ref()
        .take(MAX_LINE)
        .read_until(b'\n', &mut line)?;
    if line.pop_if(|byte| *byte == b'\n').is_none() && (line.len() as u64) < MAX_LINE {
        return Ok(None);
    }
    let line_end = match line.pop_if(|byte| *byte == b'\r') {
        Some(_) => "\r\n",
        None => "\n",
    };
    let mut part = Part {
        line,
        line_end,
        value: None,
    };
    if let Some(length) = value_length(&part.line) {
        let mut value = Vec::new();
        let length = length.saturating_add(2);
        reader.by_ref().take(length).read_to_end(&mut value)?;
        if (value.len() as u64) < length {
            return Ok(None);
        }
        value.truncate(value.len() - 2);
        part.value = Some(value);
    }
    Ok(Some(part))
}

/// The length of the value that follows a line: `VALUE <key> <flags> <bytes>` or `VA <bytes>`.
fn value_length(line: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(line);
    let mut words = text.split(' ');
    match words.next() {
        Some("VALUE") => words.nth(2)?.parse().ok(),
        Some("VA") => words.next()?.parse().ok(),
        _ => None,
    }
}
