//! `-v` and `-vv`: the lines on standard error that show what clients and the server send.
//!
//! `-v` prints connections, and the errors that clients get, with the reason. `-vv` also prints the conversation,
//! except the data that clients send. Its form is memcached's: `<28 get a`, `>28 END`, where 28 is the connection's
//! file descriptor. If an answer is not clear by itself, its reason is printed. A learner can watch these lines while
//! using a client.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::log;
use crate::protocol::binary::{Command, Header, Quiet};
use crate::serialization::Response;
use crate::serialization::binary::{Status, Written};

/// The most that is printed of a line or a data block, in bytes.
const MAX_PRINTED: usize = 200;

/// Prints what happens on one connection.
#[derive(Debug, Clone, Copy)]
pub struct Trace<'a> {
    verbosity: &'a AtomicU32,
    connection: i32,
}

impl<'a> Trace<'a> {
    /// A trace for the connection with this file descriptor.
    pub fn new(verbosity: &'a AtomicU32, connection: i32) -> Self {
        Trace {
            verbosity,
            connection,
        }
    }

    /// Prints something about the connection itself.
    pub fn event(&self, event: impl Display) {
        if self.verbosity.load(Relaxed) >= 1 {
            log::line(format_args!("<{} {event}", self.connection));
        }
    }

    /// Prints a command line as it was received.
    pub fn received(&self, line: &[u8]) {
        if self.verbosity.load(Relaxed) >= 2 {
            log::line(format_args!(
                "<{} {}",
                self.connection,
                printable(line.trim_ascii_end())
            ));
        }
    }

    /// Prints a later piece of a long line.
    pub fn received_more(&self, piece: &[u8]) {
        if self.verbosity.load(Relaxed) >= 2 {
            log::line(format_args!(
                "<{} (more of this line) {}",
                self.connection,
                printable(piece.trim_ascii_end())
            ));
        }
    }

    /// Prints an answer and its reason.
    pub fn sent(&self, response: &Response<'_>) {
        self.answer(
            response,
            if response.is_hidden() {
                "not sent, because of q: "
            } else {
                ""
            },
        );
    }

    /// Prints an answer that is not sent because of `noreply`.
    pub fn silenced(&self, response: &Response<'_>) {
        self.answer(response, "not sent, because of noreply: ");
    }

    /// Prints a binary request.
    pub fn received_binary(&self, header: &Header, key: &[u8]) {
        if self.verbosity.load(Relaxed) < 2 {
            return;
        }
        let name = match Command::of(header.opcode) {
            Some((command, Quiet::No)) => command.name().to_owned(),
            Some((command, Quiet::Yes)) => format!("{} (quiet)", command.name()),
            None => format!("{:#04x}", header.opcode),
        };
        let key = match key {
            b"" => String::new(),
            _ => format!(" {}", printable(key)),
        };
        let value = match header.value_length() {
            0 => String::new(),
            bytes => format!(", value of {bytes} bytes"),
        };
        let cas = match header.cas {
            0 => String::new(),
            cas => format!(", cas unique {cas}"),
        };
        log::line(format_args!(
            "<{} binary {name}{key}{value}{cas}",
            self.connection
        ));
    }

    /// Prints an answer to a binary request, and its reason.
    pub fn sent_binary(&self, written: Written, response: &Response<'_>) {
        if !self.shows(response) {
            return;
        }
        let reason = reason(response);
        match (written, response.item()) {
            (Written::Nothing, _) | (Written::Value, None) => {}
            (Written::Quiet, _) => log::line(format_args!(
                ">{} no answer, because the request is quiet{reason}",
                self.connection
            )),
            (Written::Value, Some(item)) => log::line(format_args!(
                ">{} value: {}",
                self.connection,
                printable(&item.value())
            )),
            (Written::Answer(status), _) => self.status(status, &reason),
        }
    }

    /// Prints a status that has no [`Response`].
    pub fn sent_status(&self, status: Status) {
        if self.verbosity.load(Relaxed) >= 1 {
            self.status(status, "");
        }
    }

    fn status(&self, status: Status, reason: &str) {
        let text = match status.text() {
            "" => "success",
            text => text,
        };
        log::line(format_args!(
            ">{} {text} (status {:#04x}){reason}",
            self.connection, status as u16
        ));
    }

    #[inline]
    fn answer(&self, response: &Response<'_>, remark: &str) {
        if self.shows(response) {
            self.print_answer(response, remark);
        }
    }

    #[cold]
    fn print_answer(&self, response: &Response<'_>, remark: &str) {
        let mut line = Vec::new();
        // Writing to a Vec does not fail.
        let _ = response.write_line(&mut line);
        log::line(format_args!(
            ">{} {remark}{}{}",
            self.connection,
            printable(line.trim_ascii_end()),
            reason(response)
        ));
        if let Some(item) = response.item() {
            log::line(format_args!(
                ">{} {}",
                self.connection,
                printable(&item.value())
            ));
        }
    }

    /// Whether this answer is printed: an error with `-v`, any other with `-vv`.
    fn shows(&self, response: &Response<'_>) -> bool {
        let needed = match response {
            Response::Error(_) => 1,
            _ => 2,
        };
        self.verbosity.load(Relaxed) >= needed
    }
}

/// The reason of an answer, as it is printed after the answer. Empty if the answer is clear by itself.
fn reason(response: &Response<'_>) -> String {
    match response.reason() {
        Some(reason) => format!("   ({reason})"),
        None => String::new(),
    }
}

/// Bytes as text. Bytes that are not printable are escaped, and a long text is truncated.
fn printable(bytes: &[u8]) -> String {
    match bytes.split_at_checked(MAX_PRINTED) {
        Some((start, rest)) if !rest.is_empty() => {
            format!("{}... and {} more bytes", start.escape_ascii(), rest.len())
        }
        _ => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traced_line_is_printable_and_short() {
        assert_eq!(printable(b"set k\x00\xff"), r"set k\x00\xff");
        assert_eq!(printable(&[b'a'; MAX_PRINTED]).len(), MAX_PRINTED);
        assert!(printable(&[b'a'; MAX_PRINTED + 7]).ends_with("a... and 7 more bytes"));
    }
}
