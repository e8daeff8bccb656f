//! Serves one request of either protocol, from its data block to its answers.

use std::io;

use super::wire::Wire;
use crate::clients::Client;
use crate::command::{self, AfterCommand, Service};
use crate::protocol::{Parsed, ProtocolError};
use crate::serialization::Response;
use crate::stats::Counts;
use crate::trace::Trace;
use crate::watch::Events;

/// What all requests of one connection use.
#[derive(Debug, Clone, Copy)]
pub struct Session<'c> {
    /// The client.
    pub client: &'c Client,
    /// The server.
    pub service: &'c Service,
    /// What this connection counts.
    pub counts: &'c Counts,
    /// Logs for watchers what this connection does.
    pub events: &'c Events<'c>,
    /// Prints what this connection does (`-v`).
    pub trace: Trace<'c>,
}

/// Serves one request: reads its data block, which ends in `block_end`, and executes it. `send` writes an answer.
///
/// # Errors
/// Those of the socket.
pub fn serve(
    parsed: &Parsed<'_>,
    block_end: &[u8],
    value_buffer: &mut Vec<u8>,
    wire: &mut Wire<'_>,
    session: Session<'_>,
    send: &mut impl FnMut(&Response<'_>, &mut Wire<'_>) -> io::Result<()>,
) -> io::Result<AfterCommand> {
    let Session {
        service,
        counts,
        events,
        ..
    } = session;
    let may_change = parsed.request.as_ref().is_ok_and(command::may_change);
    // Reserving memory may evict, and that is a change too. But no answer depends on it, so answers that are sent while
    // the block is read need not wait for its record.
    let request = parsed.request.as_ref().map_err(|error| *error);
    let outcome = match request.and_then(|request| {
        if may_change {
            service.store.before_change()?;
        }
        if wire.has_unsent_answers() {
            command::check_pipelined(request, service)?;
        }
        Ok((command::reserve(request, service, events)?, request))
    }) {
        Err(error) => {
            if let Some(bytes) = parsed.data_length {
                wire.swallow(bytes + block_end.len())?;
            }
            Err(error)
        }
        Ok((None, request)) => Ok((None, request)),
        Ok((Some(mut pending), request)) => {
            wire.read_block(pending.item.value_mut())?;
            if wire.read_end(block_end)? {
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
        send(&response, wire)
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
