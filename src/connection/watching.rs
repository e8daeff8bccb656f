//! Serves a watcher: sends the lines of its queue until the client closes the connection or the server stops. What the
//! client still sends is discarded, `quit` too, as in memcached.
//!
//! The worker waits for two things, lines and the end of the connection, and std cannot wait for both at once. So it
//! waits for lines, and looks at the connection ten times a second. When the client does not read, the worker also
//! stops waiting ten times a second, to see whether the server stops. Meanwhile lines are skipped.
//!
//! Lesson: [37](crate::conversations::lesson_37_watch).

use std::io::{self, ErrorKind, Write};
use std::time::{Duration, Instant};

use super::request::Session;
use super::wire::{CLOSED, Wire};
use crate::clients::Activity;
use crate::protocol::{ProtocolError, Streams};
use crate::serialization::Response;
use crate::stream::is_timeout;

/// How often the worker looks whether the client has closed the connection, and whether the server stops. A server that
/// stops waits 1.5 seconds for its workers, so this is soon enough.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Makes the client a watcher. Returns the reason why its connection is closed, or `None` if there are too many
/// watchers; then the client was sent the error, and its next command is read. As in memcached, the idle time-out is
/// not for watchers.
///
/// # Errors
/// Those of the socket.
#[cold]
pub fn watch(
    streams: Streams,
    wire: &mut Wire<'_>,
    session: Session<'_>,
) -> io::Result<Option<&'static str>> {
    let Session {
        client,
        service,
        trace,
        ..
    } = session;
    let watcher = service.watchers.add(streams);
    let answer = match watcher {
        Some(_) => Response::Ok,
        None => Response::Error(ProtocolError::TooManyWatchers),
    };
    trace.sent(&answer);
    answer.write(wire)?;
    let Some(watcher) = watcher else {
        return Ok(None);
    };
    wire.flush()?;
    client.set_activity(Activity::Watches);
    client.stream.set_timeout(Some(LOOK_INTERVAL))?;
    let (mut lines, mut sent) = (Vec::new(), 0);
    let mut last_look = Instant::now();
    loop {
        if service.clients.is_stopping() {
            return Ok(Some("the server is stopping"));
        }
        if last_look.elapsed() >= LOOK_INTERVAL {
            if wire.discard_arrived()? {
                return Ok(Some(CLOSED));
            }
            last_look = Instant::now();
        }
        match lines.get(sent..) {
            None | Some([]) => {
                watcher.take(&mut lines, LOOK_INTERVAL);
                sent = 0;
            }
            Some(unsent) => match wire.send(unsent) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => sent += bytes,
                // The client has not read for a while.
                Err(error) if is_timeout(&error) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            },
        }
    }
}
