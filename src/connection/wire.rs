//! A client's socket: bounded lines and data blocks in, answers out.
//!
//! Invariants:
//! - What is answered leaves before the next read can block: nobody waits for an answer that lies in a
//!   buffer. As long as a client's next bytes are here already, its answers gather, and leave together.
//! - No answer before its record: before a byte of an answer to a change leaves, the change's record is
//!   with the operating system, and with `--fsync always` on disk. If that fails, the client is told so in
//!   place of the answer, and its stream of answers stays in step. Answers to who only reads wait for
//!   nothing.
//! - What a client sends never sizes an allocation by itself: a line is bounded, a block is read into
//!   room that somebody else has made, and what is refused is swallowed in pieces.

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use crate::clients::Client;
use crate::command::Service;
use crate::protocol::{Answer, ProtocolError};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};
use crate::trace::Trace;

/// Bytes that are read and written at a time: 16 KB, as in memcached. They are in memory only as far as
/// they were ever used.
const BUFFER: usize = 16 << 10;

/// Room in bytes for the answer to a change, which is short unless it tells a value, or for the error in
/// its place.
const SHORT_ANSWER: usize = 2048;

/// A line may be this long, in bytes, before its end has come, …
const MAX_LINE: usize = 2048;

/// … but one that begins with `get` or `gets` has as many keys as it likes, up to here.
const MAX_GET_LINE: usize = 1 << 20;

/// A connection's two directions.
#[derive(Debug)]
pub struct Wire<'c> {
    reader: BufReader<Incoming<'c>>,
    writer: BufWriter<Outgoing<'c>>,
    /// Which of the answers that have not left are answers to changes: bytes of all that was ever answered.
    changes: Vec<Range<u64>>,
    /// Where the answer begins to the command that is executed, if that may change something.
    change: Option<u64>,
    client: &'c Client,
    service: &'c Service,
    trace: Trace<'c>,
    /// What this connection's commands have counted since answers last left.
    counts: &'c Counts,
}

/// How reading a line went.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// It is complete, with its end.
    Complete,
    /// The client has hung up. What it had begun to say was no command yet.
    HungUp,
    /// It goes on and on.
    TooLong,
}

impl<'c> Wire<'c> {
    /// A wire to this client.
    pub fn new(
        client: &'c Client,
        service: &'c Service,
        counts: &'c Counts,
        trace: Trace<'c>,
    ) -> Self {
        let stream = &client.stream;
        let outgoing = Outgoing {
            stream,
            service,
            sent: 0,
            unrecorded: false,
        };
        Wire {
            reader: BufReader::with_capacity(BUFFER, Incoming { stream, service }),
            writer: BufWriter::with_capacity(BUFFER, outgoing),
            changes: Vec::new(),
            change: None,
            client,
            service,
            trace,
            counts,
        }
    }

    /// Reads one line into `line`, in place of what is there.
    ///
    /// # Errors
    /// Those of the socket; [`ErrorKind::WouldBlock`] when an idle time-out is set and has passed.
    pub fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<Line> {
        line.clear();
        // A client that once asked for ten thousand keys does not keep the memory for them.
        line.shrink_to(MAX_LINE);
        loop {
            let bytes = self.fill()?;
            if bytes.is_empty() {
                return Ok(Line::HungUp);
            }
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let (taken, _) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
            line.extend_from_slice(taken);
            let taken = taken.len();
            self.reader.consume(taken);
            if end.is_some() {
                return Ok(Line::Complete);
            }
            let is_get = line.starts_with(b"get ") || line.starts_with(b"gets ");
            if line.len() > if is_get { MAX_GET_LINE } else { MAX_LINE } {
                return Ok(Line::TooLong);
            }
        }
    }

    /// Fills a data block's room with exactly as many bytes as it has.
    ///
    /// # Errors
    /// As [`Wire::read_line`], and [`ErrorKind::UnexpectedEof`].
    pub fn read_block(&mut self, room: &mut [u8]) -> io::Result<()> {
        if self.reader.buffer().len() < room.len() {
            self.flush()?;
        }
        self.reader.read_exact(room)
    }

    /// Reads a data block that nobody wants.
    ///
    /// # Errors
    /// As [`Wire::read_block`].
    pub fn swallow(&mut self, mut bytes: usize) -> io::Result<()> {
        while bytes > 0 {
            let here = self.fill()?.len().min(bytes);
            if here == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.reader.consume(here);
            bytes -= here;
        }
        Ok(())
    }

    /// Where an answer, or a piece of one, is written. What it tells of has been recorded.
    pub fn answers(&mut self) -> Answers<'_, 'c> {
        self.writer.get_mut().unrecorded |= self.change.is_some();
        Answers(self)
    }

    /// To be called before a command is executed that may change something: from now on no answer leaves
    /// before what was recorded is safe.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn begin_change(&mut self) -> io::Result<()> {
        // A buffer that spills in the middle of this answer would be too late for an error in its place.
        if self.spare() < SHORT_ANSWER {
            self.flush()?;
        }
        self.writer.get_mut().unrecorded = true;
        self.change = Some(self.answered());
        Ok(())
    }

    /// To be called when the command has been executed, and answered if its answer is wanted.
    pub fn end_change(&mut self, answer: Answer) {
        if let (Some(start), Answer::Wanted) = (self.change.take(), answer) {
            self.changes.push(start..self.answered());
        }
    }

    /// So many bytes more can be answered before the first of them leave.
    fn spare(&self) -> usize {
        self.writer.capacity() - self.writer.buffer().len()
    }

    /// How many bytes have been answered in all, whether they have left or not.
    fn answered(&self) -> u64 {
        self.writer.get_ref().sent + self.writer.buffer().len() as u64
    }

    /// Sends what is answered, after it has been counted and recorded.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&mut self) -> io::Result<()> {
        self.service.stats.take(self.counts);
        // Also where nothing is to be sent: `noreply` is recorded before the client is waited for.
        self.settle()?;
        self.writer.flush()
    }

    /// Sees to it that what has been answered may leave: the records are safe, or errors are in the place of
    /// the answers to changes. No change is being answered meanwhile.
    fn settle(&mut self) -> io::Result<()> {
        if self.writer.get_ref().unrecorded {
            if self.service.store.before_answers().is_err() {
                self.take_back()?;
            }
            self.writer.get_mut().unrecorded = false;
        }
        self.changes.clear();
        // A client that once sent hundreds of changes at a time does not keep the memory for them.
        self.changes.shrink_to(64);
        Ok(())
    }

    /// Puts an error in the place of each answer to a change that could not be recorded; all other answers
    /// stay. (How it stands with the changes themselves: see [`crate::aof`].)
    fn take_back(&mut self) -> io::Result<()> {
        let sent = self.writer.get_ref().sent;
        // A BufWriter gives its bytes back only when it is taken apart.
        let outgoing = Outgoing {
            unrecorded: false,
            ..*self.writer.get_ref()
        };
        let writer = BufWriter::with_capacity(BUFFER, outgoing);
        let (_, answers) = std::mem::replace(&mut self.writer, writer).into_parts();
        let answers = answers.map_err(io::Error::other)?;
        let (mut rest, mut place) = (&answers[..], sent);
        for change in self.changes.drain(..) {
            if change.start < sent {
                if change.end > sent {
                    return Err(io::Error::other("half an answer cannot be taken back"));
                }
                // It has left, after its record.
                continue;
            }
            let (kept, behind) = rest.split_at((change.start - place) as usize);
            let (_, behind) = behind.split_at((change.end - change.start) as usize);
            (rest, place) = (behind, change.end);
            self.writer.write_all(kept)?;
            let error = Response::Error(ProtocolError::LogFailed);
            self.trace.sent(&error);
            error.write(&mut self.writer)?;
        }
        self.writer.write_all(rest)
    }

    /// Gives up what could not be sent. Dropping the buffer would try again, and wait again.
    pub fn abandon(self) {
        let _ = self.writer.into_parts();
    }

    /// The bytes that have come; if there are none, the answers leave, and the client is waited for.
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.reader.buffer().is_empty() {
            self.flush()?;
            self.client.waited_for.store(true, Relaxed);
            while let Err(error) = self.reader.fill_buf() {
                if error.kind() != ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            self.client.waited_for.store(false, Relaxed);
            self.client
                .last_command
                .store(self.service.store.clock().now(), Relaxed);
        }
        Ok(self.reader.buffer())
    }
}

/// Takes answers down.
pub struct Answers<'w, 'c>(&'w mut Wire<'c>);

impl Write for Answers<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Answers(wire) = self;
        // It spills. What lies in it are whole answers, and the beginning of one that only reads: this is the
        // last moment at which errors can be put in the place of those to changes.
        if bytes.len() >= wire.spare() && wire.change.is_none() {
            wire.settle()?;
        }
        wire.writer.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A socket's direction from the client, with its bytes counted. `&TcpStream` reads and writes as it is: both
/// directions share one file descriptor.
#[derive(Debug)]
struct Incoming<'c> {
    stream: &'c TcpStream,
    service: &'c Service,
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.stream.read(buffer)?;
        self.service.stats.add(Counter::BytesRead, bytes as u64);
        Ok(bytes)
    }
}

/// The direction to the client.
#[derive(Debug)]
struct Outgoing<'c> {
    stream: &'c TcpStream,
    service: &'c Service,
    /// How many bytes have left.
    sent: u64,
    /// Some of what has not left may tell of changes whose records are not safe.
    unrecorded: bool,
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Every byte that leaves comes through here, also when a long answer to a change spills. Then it is
        // too late for another answer: if this fails, the connection ends.
        if self.unrecorded {
            self.service.store.before_answers()?;
            // The rest of a long answer does not wait for what others record meanwhile.
            self.unrecorded = false;
        }
        let bytes = self.stream.write(bytes)?;
        self.sent += bytes as u64;
        self.service.stats.add(Counter::BytesWritten, bytes as u64);
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Ends a connection from our side so that the client can still read what was sent to it: closing a
/// socket that has unread input would send a reset, and a reset throws answers away that are under way.
pub fn hang_up(stream: &TcpStream) {
    // More than this a client may have sent in vain; then the reset is its own affair.
    const AT_MOST: u64 = 1 << 20;
    let _ = stream.shutdown(Shutdown::Write);
    if stream.set_nonblocking(true).is_ok() {
        let _ = io::copy(&mut stream.take(AT_MOST), &mut io::sink());
    }
}
