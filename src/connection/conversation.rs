//! Serves one client, from its first line to its last answer. This file does not know what commands mean.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;

use super::line::{Line, Position};
use super::login::{self, Login};
use super::watching;
use super::wire::{CLOSED, Outcome, Wire};
use crate::clients::Client;
use crate::command::{self, AfterCommand, Service};
use crate::log;
use crate::protocol::{self, Answer, Parsed, ProtocolError};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};
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
    let counts = Counts::default();
    let mut wire = Wire::new(client, service, &counts);
    let ended = serve_commands(&mut wire, client, service, &counts, &events, trace);
    events.closed(&client.address, close_reason(&ended));
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
    wire.abandon();
    // After an error, commands that are not answered are counted too.
    service.stats.add_all(&counts);
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

/// Whether the socket's time-out has passed. Systems have two kinds of errors for that.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Serves commands, and returns the reason why the conversation ended.
fn serve_commands(
    wire: &mut Wire<'_>,
    client: &Client,
    service: &Service,
    counts: &Counts,
    events: &Events<'_>,
    trace: Trace<'_>,
) -> io::Result<&'static str> {
    client.stream.set_nodelay()?;
    client.stream.set_timeout(service.config.idle_timeout)?;

    // Values may contain text commands, so nothing of such a connection may be read as text.
    if wire.begins_binary()? {
        log::line(format_args!(
            "rustmemc: {} speaks the binary protocol, so its connection is closed: switch the client to the text (ascii) \
             protocol (libmemcached, PHP: BINARY_PROTOCOL off)",
            client.address
        ));
        return Ok("it spoke the binary protocol");
    }
    if let Some(users) = &service.users {
        match login::log_in(wire, users, service, trace)? {
            Login::Done => {}
            Login::Close(reason) => {
                wire.flush()?;
                return Ok(reason);
            }
        }
    }

    // A small value is copied to `value_buffer` while its shard is locked. A large one is shared, so this stays small.
    let mut value_buffer = Vec::new();
    let mut line = Line::new(&service.clients.line_memory);
    let ending = loop {
        let read = wire.read_line(&mut line)?;
        // Also if the command arrived while this worker was waiting for it, and between the pieces of a long line.
        if service.clients.is_stopping() {
            break "the server is stopping";
        }
        let parsed = match read {
            Outcome::Complete => protocol::parse(line.bytes()),
            Outcome::Piece => protocol::parse_piece(line.bytes()),
            Outcome::Closed => break CLOSED,
            Outcome::TooLong => break "a line was too long",
        };
        match line.position() {
            Position::Start => trace.received(line.bytes()),
            Position::Later => trace.received_more(line.bytes()),
        }
        // VALUEs of earlier pieces may have been sent. Then the error comes in place of `END`.
        let is_refused = parsed.request.is_err();
        if read == Outcome::Piece && is_refused {
            wire.swallow_line()?;
        }
        match serve_command(
            parsed,
            &mut value_buffer,
            wire,
            service,
            counts,
            events,
            trace,
        )? {
            AfterCommand::Continue => {}
            AfterCommand::Close(reason) => break reason,
            AfterCommand::Watch(streams) => {
                if let Some(reason) = watching::watch(streams, wire, client, service, trace)? {
                    break reason;
                }
            }
        }
        if read == Outcome::Piece && !is_refused {
            line.keep_last_word();
        } else {
            line.clear();
        }
    };
    wire.flush()?;
    Ok(ending)
}

/// Serves one command, or a piece of a long `get` line. Its line has been read, its data block has not.
fn serve_command(
    parsed: Parsed<'_>,
    value_buffer: &mut Vec<u8>,
    wire: &mut Wire<'_>,
    service: &Service,
    counts: &Counts,
    events: &Events<'_>,
    trace: Trace<'_>,
) -> io::Result<AfterCommand> {
    let may_change = parsed.request.as_ref().is_ok_and(command::may_change);
    // Reserving memory may evict, and that is a change too. But no answer depends on it, so answers that are sent while
    // the block is read need not wait for its record.
    let outcome = match parsed.request.and_then(|request| {
        if may_change {
            service.store.before_change()?;
        }
        Ok((command::reserve(&request, service, events)?, request))
    }) {
        Err(error) => {
            if let Some(bytes) = parsed.data_length {
                wire.swallow(bytes + b"\r\n".len())?;
            }
            Err(error)
        }
        Ok((None, request)) => Ok((None, request)),
        Ok((Some(mut pending), request)) => {
            let mut line_end = [0; 2];
            wire.read_block(pending.item.value_mut())?;
            wire.read_block(&mut line_end)?;
            if line_end == *b"\r\n" {
                Ok((Some(pending), request))
            } else {
                Err(ProtocolError::BadDataChunk)
            }
        }
    };

    let mut answer = |response: Response<'_>| {
        if may_change {
            wire.require_log_flush(&response);
        }
        match parsed.answer {
            Answer::Wanted => {
                trace.sent(&response);
                response.write(wire)
            }
            Answer::Noreply => {
                trace.silenced(&response);
                Ok(())
            }
        }
    };
    match outcome {
        Ok((pending, request)) => command::execute(
            request,
            pending,
            service,
            counts,
            events,
            value_buffer,
            &mut answer,
        ),
        Err(error) => answer(Response::Error(error)).map(|()| AfterCommand::Continue),
    }
}
