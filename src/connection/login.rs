//! The login of a client, if the server asks for one (`-Y`).
//!
//! Lesson: [32](crate::conversations::lesson_32_login).

use std::io;

use super::line::{Line, Longest};
use super::wire::{CLOSED, Outcome, Wire};
use crate::command::{AfterCommand, Service};
use crate::protocol::{self, ProtocolError};
use crate::serialization::Response;
use crate::stats::{Counter, Stats};
use crate::trace::Trace;
use crate::users::Users;

/// The shortest line that is answered before the login, in bytes, with its `\n`. At a shorter one memcached closes the
/// connection.
const MIN_LINE: usize = 7;

/// Answers every line with an error until the client has logged in. Then the conversation continues.
///
/// # Errors
/// Those of the socket.
#[cold]
pub fn log_in(
    wire: &mut Wire<'_>,
    users: &Users,
    service: &Service,
    trace: Trace<'_>,
) -> io::Result<AfterCommand> {
    let mut line = Line::new(&service.clients.line_memory, Longest::Login);
    loop {
        line.clear();
        match wire.read_line(&mut line)? {
            Outcome::Complete => {}
            Outcome::Closed => return Ok(AfterCommand::Close(CLOSED)),
            Outcome::Piece | Outcome::TooLong => {
                return Ok(AfterCommand::Close("a line was too long"));
            }
        }
        if line.bytes().len() < MIN_LINE {
            return Ok(AfterCommand::Close("a line before the login was too short"));
        }
        // The line is not printed, because it may be a password that came too early.
        trace.received(b"(a line before the login: it is not shown)");
        let outcome = match protocol::parse_login(line.bytes()) {
            Err(error) => Err(error),
            Ok(bytes) => {
                let mut block = vec![0; bytes + b"\r\n".len()];
                wire.read_block(&mut block)?;
                protocol::parse_credentials(&block)
                    .and_then(|(user, password)| check(user, password, users, &service.stats))
            }
        };
        let is_done = outcome.is_ok();
        let response = outcome.map_or_else(Response::Error, |()| Response::Stored);
        trace.sent(&response);
        response.write(wire)?;
        if is_done {
            return Ok(AfterCommand::Continue);
        }
    }
}

/// Checks a user's password, and counts.
pub fn check(
    user: &[u8],
    password: &[u8],
    users: &Users,
    stats: &Stats,
) -> Result<(), ProtocolError> {
    stats.add(Counter::AuthCmds, 1);
    if users.may_log_in(user, password) {
        Ok(())
    } else {
        stats.add(Counter::AuthErrors, 1);
        Err(ProtocolError::WrongPassword)
    }
}
