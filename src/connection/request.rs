//! Serves one request of either protocol, from its data block to its answers.

use std::io;

use super::wire::Wire;
use crate::command::{self, AfterCommand, Service};
use crate::protocol::{Parsed, ProtocolError};
use crate::serialization::Response;
use crate::stats::Counts;

/// Serves one request: reads its data block, which `block_end` follows, and executes it. `send` writes an answer.
pub fn serve(
    parsed: Parsed<'_>,
    block_end: &[u8],
    value_buffer: &mut Vec<u8>,
    wire: &mut Wire<'_>,
    service: &Service,
    counts: &Counts,
    send: &mut impl FnMut(&Response<'_>, &mut Wire<'_>) -> io::Result<()>,
) -> io::Result<AfterCommand> {
    let may_change = parsed.request.as_ref().is_ok_and(command::may_change);
    // Reserving memory may evict, and that is a change too. But no answer depends on it, so answers that are sent while
    // the block is read need not wait for its record.
    let outcome = match parsed.request.and_then(|request| {
        if may_change {
            service.store.before_change()?;
        }
        Ok((command::reserve(&request, service)?, request))
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
        Ok((pending, request)) => {
            command::execute(request, pending, service, counts, value_buffer, &mut answer)
        }
        Err(error) => answer(Response::Error(error)).map(|()| AfterCommand::Continue),
    }
}
