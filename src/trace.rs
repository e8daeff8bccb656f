//! `-v` and `-vv`: what happens, told on standard error.
//!
//! `-v` tells connections, and the errors that clients get, with the reason. `-vv` tells the conversation (all but the data
//! that clients send) in memcached's way (`<28 get a`, `>28 END`; 28 is the connection's file descriptor), and why an answer
//! is what it is where that does not go without saying. This is what a learner keeps open beside the
//! client.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::log;
use crate::serialization::Response;

/// The most that is shown of a line or a data block, in bytes.
const SHOWN: usize = 200;

/// Tells one connection's story.
#[derive(Debug, Clone, Copy)]
pub struct Trace<'a> {
    verbosity: &'a AtomicU32,
    connection: i32,
}

impl<'a> Trace<'a> {
    /// For the connection with this file descriptor.
    pub fn new(verbosity: &'a AtomicU32, connection: i32) -> Self {
        Trace {
            verbosity,
            connection,
        }
    }

    /// Something about the connection itself.
    pub fn event(&self, event: impl Display) {
        if self.verbosity.load(Relaxed) >= 1 {
            log::line(format_args!("<{} {event}", self.connection));
        }
    }

    /// A command line, as it came.
    pub fn received(&self, line: &[u8]) {
        if self.verbosity.load(Relaxed) >= 2 {
            log::line(format_args!(
                "<{} {}",
                self.connection,
                shown(line.trim_ascii_end())
            ));
        }
    }

    /// An answer, and the reason for it.
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

    /// An answer that `noreply` keeps from being sent.
    pub fn silenced(&self, response: &Response<'_>) {
        self.answer(response, "not sent, because of noreply: ");
    }

    fn answer(&self, response: &Response<'_>, remark: &str) {
        let is_error = matches!(response, Response::Error(_));
        if self.verbosity.load(Relaxed) < if is_error { 1 } else { 2 } {
            return;
        }
        let mut line = Vec::new();
        // Writing to a Vec does not fail.
        let _ = response.write_line(&mut line);
        let reason = response
            .reason()
            .map(|reason| format!("   ({reason})"))
            .unwrap_or_default();
        log::line(format_args!(
            ">{} {remark}{}{reason}",
            self.connection,
            shown(line.trim_ascii_end())
        ));
        if let Some(item) = response.item() {
            log::line(format_args!(
                ">{} {}",
                self.connection,
                shown(&item.value())
            ));
        }
    }
}

/// Bytes as text: what is not printable is escaped, what is long is cut.
fn shown(bytes: &[u8]) -> String {
    match bytes.split_at_checked(SHOWN) {
        Some((start, rest)) if !rest.is_empty() => {
            format!("{}... and {} bytes more", start.escape_ascii(), rest.len())
        }
        _ => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_printable_and_short() {
        assert_eq!(shown(b"set k\x00\xff"), r"set k\x00\xff");
        assert_eq!(shown(&[b'a'; SHOWN]).len(), SHOWN);
        assert!(shown(&[b'a'; SHOWN + 7]).ends_with("a... and 7 bytes more"));
    }
}
