//! Serves a client that speaks the binary protocol. The requests are executed by the same code as those of the text
//! protocol: only how they are read, and how the answers are written, is different.
//!
//! Lesson: [34](crate::conversations::lesson_34_binary).

use std::io;

use super::request::Session;
use super::wire::{CLOSED, Wire};
use super::{login, request};
use crate::command::{AfterCommand, Service};
use crate::item::MAX_KEY;
use crate::prefixes::Prefixes;
use crate::protocol::binary::{self, Command, Header, Quiet};
use crate::protocol::{MAX_CREDENTIALS, ProtocolError};
use crate::serialization::Response;
use crate::serialization::binary::{Answers, Status};
use crate::trace::Trace;
use crate::users::Users;

/// A header counts the bytes of the extras in one byte.
const MAX_EXTRAS: usize = u8::MAX as usize;

/// The only way to log in. The value is any text, the user, and the password, with a zero byte between them (RFC 4616).
const MECHANISM: &[u8] = b"PLAIN";

/// Serves requests until the conversation ends, and returns the reason. Answers may still be in the buffer.
///
/// # Errors
/// Those of the socket.
#[inline(never)] // A client of the text protocol does not need its part of the stack.
pub fn serve(wire: &mut Wire<'_>, session: Session<'_>) -> io::Result<&'static str> {
    let Session { service, trace, .. } = session;
    let mut value_buffer = Vec::new();
    let mut body = [0; MAX_EXTRAS + MAX_KEY];
    let mut is_logged_in = service.users.is_none();
    loop {
        wire.send_early()?;
        wire.free_if_idle(&mut value_buffer);
        let Some(header) = wire.read_header()? else {
            return Ok(CLOSED);
        };
        if service.clients.is_stopping() {
            return Ok("the server is stopping");
        }
        let Some(header) = Header::parse(&header) else {
            return Ok("a binary request did not begin with 0x80");
        };
        if let Err(malformed) = header.check() {
            return fail(&Answers::new(&header, b""), malformed.into(), wire, trace);
        }
        // The lengths were checked, so `body` is long enough.
        let (extras, rest) = body.split_at_mut(header.extras_length);
        let (key, _) = rest.split_at_mut(header.key_length);
        wire.read_block(extras)?;
        wire.read_block(key)?;
        let mut answers = Answers::new(&header, key);
        trace.received_binary(&header, key);

        let command = Command::of(header.opcode);
        if let Some(users) = &service.users {
            match command {
                Some((Command::SaslMechanisms, _)) if header.body_length == 0 => {
                    answers.succeed(MECHANISM, wire)?;
                    trace.sent_status(Status::Success);
                    continue;
                }
                Some((Command::SaslAuth, _)) if extras.is_empty() => {
                    let outcome = log_in(&header, key, users, wire, service)?;
                    is_logged_in = outcome.is_ok();
                    let status = outcome.map_or_else(Status::from, |()| Status::Success);
                    match status {
                        Status::Success => answers.succeed(b"Authenticated", wire)?,
                        _ => answers.fail(status, wire)?,
                    }
                    trace.sent_status(status);
                    continue;
                }
                Some((Command::Version, _)) => {}
                _ if is_logged_in => {}
                _ => return fail(&answers, Status::AuthFailure, wire, trace),
            }
        }
        let parsed = match binary::parse(&header, extras, key) {
            Ok(parsed) => parsed,
            Err(malformed) => return fail(&answers, malformed.into(), wire, trace),
        };
        if let Some(prefixes) = service.prefixes.if_on() {
            count_prefix(command, key, prefixes);
        }
        let mut send = |response: &Response<'_>, wire: &mut Wire<'_>| {
            let written = answers.write(response, wire)?;
            trace.sent_binary(written, response);
            Ok(())
        };
        match request::serve(&parsed, b"", &mut value_buffer, wire, session, &mut send)? {
            AfterCommand::Continue => {}
            // The binary protocol has no `watch`.
            AfterCommand::Watch(_) => {}
            AfterCommand::Close(reason) => {
                if command == Some((Command::Quit, Quiet::No)) {
                    answers.succeed(b"", wire)?;
                }
                return Ok(reason);
            }
        }
    }
}

/// Counts the key of a request that stores or deletes. As in memcached, these requests are counted, and the meta
/// commands that do the same are not. (A get is counted where it looks for the key.)
fn count_prefix(command: Option<(Command, Quiet)>, key: &[u8], prefixes: &Prefixes) {
    use Command::{Add, Append, Delete, Prepend, Replace, Set};
    match command {
        Some((Set | Add | Replace | Append | Prepend, _)) => prefixes.count_set(key),
        Some((Delete, _)) => prefixes.count_delete(key),
        _ => {}
    }
}

/// Answers a request after which the connection is closed.
fn fail(
    answers: &Answers<'_>,
    status: Status,
    wire: &mut Wire<'_>,
    trace: Trace<'_>,
) -> io::Result<&'static str> {
    trace.sent_status(status);
    answers.fail(status, wire)?;
    Ok(match status {
        Status::AuthFailure => "it is not logged in",
        _ => "a binary request was malformed",
    })
}

/// Reads the value of a login, and checks it. `mechanism` is the key of the request.
fn log_in(
    header: &Header,
    mechanism: &[u8],
    users: &Users,
    wire: &mut Wire<'_>,
    service: &Service,
) -> io::Result<Result<(), ProtocolError>> {
    let length = header.value_length();
    let mut value = Vec::new();
    if mechanism == MECHANISM && length <= MAX_CREDENTIALS {
        value.resize(length, 0);
        wire.read_block(&mut value)?;
    } else {
        wire.swallow(length)?;
    }
    let mut parts = value.splitn(3, |&byte| byte == 0).skip(1);
    let (user, password) = (parts.next().unwrap_or(b""), parts.next().unwrap_or(b""));
    Ok(login::check(user, password, users, &service.stats))
}
