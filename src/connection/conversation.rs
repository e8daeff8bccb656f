//! Serves one client, from its first line to its last answer. This file does not know what commands mean.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;

use super::line::{Line, Longest, Position};
use super::request::Session;
use super::wire::{CLOSED, Outcome, Wire};
use super::{binary, login, request, watching};
use crate::clients::Client;
use crate::command::{self, AfterCommand, Service};
use crate::config::Protocol;
use crate::log;
use crate::protocol::{self, Answer};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};
use crate::stream::is_timeout;
use crate::trace::Trace;
use crate::watch::Events;

/// Serves a client until it closes the connection, the server closes it, or the server stops.
pub fn serve(client: &Client, service: &Service) {
    let trace = Trace::new(&service.verbosity, client.stream.as_raw_fd());
    trace.event(format_args!(
        "new client connection from {}",
        client.address
    ));
    let events = Events::new(&service.watchers, client.stream.as_raw_fd());
    events.connected(&client.address);
    // Both are on the heap, so that a worker's stack stays small: see the memory of an idle client in `wire.rs`.
    let counts = Box::new(Counts::default());
    let mut wire = Box::new(Wire::new(client, service, &counts));
    let session = Session {
        client,
        service,
        counts: &counts,
        events: &events,
        trace,
    };
    let ended = serve_commands(&mut wire, session);
    events.closed(&client.address, close_reason(&ended));
    log_end(ended, service, trace);
    wire.discard_answers();
    // After an error, commands that are not answered are counted too.
    service.stats.add_all(&counts);
}

/// Prints why a conversation has ended (`-v`), and counts it if the client was idle.
#[cold]
fn log_end(ended: io::Result<&'static str>, service: &Service, trace: Trace<'_>) {
    match ended {
        Ok(ending) => trace.event(format_args!("connection closed ({ending})")),
        Err(error) if is_timeout(&error) => {
            service.stats.add(Counter::IdleKicks, 1);
            trace.event("connection closed (it was idle for longer than --idle-timeout)");
        }
        // This is an error of the append-only file, not of the socket (`Outgoing::flush_log`).
        Err(error) if error.kind() == ErrorKind::Other => {
            trace.event(format_args!("connection closed ({error})"));
        }
        Err(error) => trace.event(format_args!("connection lost ({error})")),
    }
}

/// The reason why a conversation has ended, in memcached's words for watchers.
fn close_reason(ended: &io::Result<&'static str>) -> &'static str {
    match ended {
        Ok(CLOSED | command::QUIT) => "normal",
        Ok(command::SHUTDOWN) => "shutdown",
        Err(error) if is_timeout(error) => "idle_timeout",
        Ok(_) | Err(_) => "error",
    }
}

/// Serves commands, and returns the reason why the conversation ended.
fn serve_commands(wire: &mut Wire<'_>, session: Session<'_>) -> io::Result<&'static str> {
    let Session {
        client, service, ..
    } = session;
    client.stream.set_nodelay()?;
    client.stream.set_timeout(service.config.idle_timeout)?;

    // The first byte decides which protocol the client speaks, for the whole connection. Bytes of one protocol are
    // never read as the other: a value may contain the text of a command.
    let is_binary = wire.begins_binary()?;
    let ending = match (is_binary, service.config.protocol) {
        (false, Protocol::Auto | Protocol::Ascii) => serve_text(wire, session)?,
        (true, Protocol::Auto | Protocol::Binary) => binary::serve(wire, session)?,
        (true, Protocol::Ascii) => log_forbidden(client, "the binary protocol", "-B ascii"),
        (false, Protocol::Binary) => log_forbidden(client, "the text protocol", "-B binary"),
    };
    wire.flush()?;
    Ok(ending)
}

/// Logs that a client speaks a protocol that this server does not serve. Returns the reason.
#[cold]
fn log_forbidden(client: &Client, spoken: &str, flag: &str) -> &'static str {
    log::line(format_args!(
        "rustmemc: {} speaks {spoken}, so its connection is closed: the server was started with {flag}",
        client.address
    ));
    "it spoke a protocol that -B forbids"
}

/// Serves a client that speaks the text protocol. Returns the reason why the conversation ended.
fn serve_text(wire: &mut Wire<'_>, session: Session<'_>) -> io::Result<&'static str> {
    let Session { service, trace, .. } = session;
    if let Some(users) = &service.users
        && let AfterCommand::Close(reason) = login::log_in(wire, users, service, trace)?
    {
        return Ok(reason);
    }
    // A small value is copied to `value_buffer` while its shard is locked. A large one is shared, so this stays small.
    let mut value_buffer = Vec::new();
    let mut line = Line::new(&service.clients.line_memory, Longest::Command);
    loop {
        wire.send_early()?;
        wire.free_if_idle(&mut value_buffer);
        let read = wire.read_line(&mut line)?;
        // A server that stops executes no further command, even if it arrived while this worker was waiting for it, and
        // no further piece of a long line.
        if service.clients.is_stopping() {
            return Ok("the server is stopping");
        }
        let parsed = match read {
            Outcome::Complete => protocol::parse(line.bytes()),
            Outcome::Piece => protocol::parse_piece(line.bytes()),
            Outcome::Closed => return Ok(CLOSED),
            Outcome::TooLong => return Ok("a line was too long"),
        };
        match line.position() {
            Position::Start => trace.received(line.bytes()),
            Position::Later => trace.received_more(line.bytes()),
        }
        // VALUEs of earlier pieces may have been sent already. Then the error replaces `END`.
        let is_refused = parsed.request.is_err();
        if read == Outcome::Piece && is_refused {
            wire.swallow_line()?;
        }
        let answer = parsed.answer;
        let mut send = |response: &Response<'_>, wire: &mut Wire<'_>| match answer {
            Answer::Wanted => {
                trace.sent(response);
                response.write(wire)
            }
            Answer::Noreply => {
                trace.silenced(response);
                Ok(())
            }
        };
        match request::serve(
            &parsed,
            b"\r\n",
            &mut value_buffer,
            wire,
            session,
            &mut send,
        )? {
            AfterCommand::Continue => {}
            AfterCommand::Close(reason) => return Ok(reason),
            AfterCommand::Watch(streams) => {
                if let Some(reason) = watching::watch(streams, wire, session)? {
                    return Ok(reason);
                }
            }
        }
        if read == Outcome::Piece && !is_refused {
            line.keep_last_word();
        } else {
            line.clear();
        }
    }
}
