//! The login of a client, if the server asks for one (`-Y`).

use std::io;

use super::line::Line;
use super::wire::{CLOSED, Outcome, Wire};
use crate::command::Service;
use crate::protocol::{self, ProtocolError};
use crate::serialization::Response;
use crate::stats::{Counter, Stats};
use crate::trace::Trace;
use crate::users::Users;

/// memcached closes the connection if a line before the login has fewer bytes, without its `\n`.
const SHORTEST_LINE: usize = 6;

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Login {
    /// The client is logged in.
    Done,
    /// The connection is closed for this reason.
    Close(&'static str),
}

/// Answers every line with an error until the client has logged in.
///
/// # Errors
/// Those of the socket.
pub fn log_in(
    wire: &mut Wire<'_>,
    users: &Users,
    service: &Service,
    trace: Trace<'_>,
) -> io::Result<Login> {
    let mut line = Line::new(&service.clients.line_memory);
    loop {
        line.clear();
        match wire.read_line(&mut line)? {
            Outcome::Complete => {}
            Outcome::Closed => return Ok(Login::Close(CLOSED)),
            Outcome::Piece | Outcome::TooLong => return Ok(Login::Close("a line was too long")),
        }
        if line.bytes().len() <= SHORTEST_LINE {
            return Ok(Login::Close("a line before the login was too short"));
        }
        // The line may be a password that came too early.
        trace.received(b"(a line before the login: it is not shown)");
        let outcome = match protocol::login(line.bytes()) {
            Err(error) => Err(error),
            Ok(bytes) => {
                let mut block = vec![0; bytes + b"\r\n".len()];
                wire.read_block(&mut block)?;
                check(&block, users, &service.stats)
            }
        };
        let is_done = outcome.is_ok();
        let response = outcome.map_or_else(Response::Error, |()| Response::Stored);
        trace.sent(&response);
        response.write(wire)?;
        if is_done {
            return Ok(Login::Done);
        }
    }
}

/// Checks a data block, which includes its `\r\n`.
fn check(block: &[u8], users: &Users, stats: &Stats) -> Result<(), ProtocolError> {
    let (user, password) = protocol::credentials(block)?;
    stats.add(Counter::AuthCmds, 1);
    if users.may_log_in(user, password) {
        Ok(())
    } else {
        stats.add(Counter::AuthErrors, 1);
        Err(ProtocolError::WrongPassword)
    }
}
