//! A client's socket: bounded lines and data blocks in, answers out.
//!
//! Invariants:
//! - What is answered leaves before the next read can block: nobody waits for an answer that lies in a
//!   buffer. As long as a client's next bytes are here already, its answers gather, and leave together.
//! - No answer before its record: before a byte of an answer to a change leaves, the change's record is
//!   with the operating system, and with `--fsync always` on disk. If that fails, the connection ends, and
//!   nothing more is sent. Answers to commands that only read wait for nothing.
//! - What a client sends never sizes an allocation by itself: a line is bounded, a block is read into
//!   room that somebody else has made, and what is refused is swallowed in pieces.

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering::Relaxed;

use crate::clients::Client;
use crate::command::Service;
use crate::protocol::ProtocolError;
use crate::serialization::Response;
use crate::stats::{Counter, Counts};

/// Bytes that are read and written at a time: 16 KB, as in memcached. They are in memory only as far as
/// they were ever used.
const BUFFER: usize = 16 << 10;

/// A line may be this long, in bytes, before its end has come, …
const MAX_LINE: usize = 2048;

/// … but one that begins with `get` or `gets` has as many keys as it likes, up to here.
const MAX_GET_LINE: usize = 1 << 20;

/// A connection's two directions.
#[derive(Debug)]
pub struct Wire<'c> {
    reader: BufReader<Incoming<'c>>,
    writer: BufWriter<Outgoing<'c>>,
    client: &'c Client,
    service: &'c Service,
    /// What this connection's commands have counted since answers last left.
    counts: &'c Counts,
}

/// How reading a line went.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// It is complete, with its end.
    Complete,
    /// The client has hung up. What it had begun to say was no command yet.
    Closed,
    /// It goes on and on.
    TooLong,
}

impl<'c> Wire<'c> {
    /// A wire to this client.
    pub fn new(client: &'c Client, service: &'c Service, counts: &'c Counts) -> Self {
        let stream = &client.stream;
        let outgoing = Outgoing {
            stream,
            service,
            unrecorded: false,
        };
        Wire {
            reader: BufReader::with_capacity(BUFFER, Incoming { stream, service }),
            writer: BufWriter::with_capacity(BUFFER, outgoing),
            client,
            service,
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
                return Ok(Line::Closed);
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

    /// Call this before writing the answer to a command that may change something, and also if the answer is silenced:
    /// from now on no byte leaves, and the client is not waited for, before the records are safe.
    ///
    /// The answer may tell of another client's change: a `delete` that finds nothing tells of the `delete` before it. Only
    /// a refusal tells of none.
    pub fn note_answer(&mut self, response: &Response<'_>) {
        let is_refusal = matches!(response, Response::Error(ProtocolError::LogFailed));
        self.writer.get_mut().unrecorded |= !is_refusal;
    }

    /// Gives up what could not be sent. Dropping the buffer would try again, and wait again.
    pub fn abandon(self) {
        let _ = self.writer.into_parts();
    }

    /// The bytes that have come; if there are none, the answers leave, and the client is waited for.
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.reader.buffer().is_empty() {
            self.flush()?;
            self.client.awaits_command.store(true, Relaxed);
            while let Err(error) = self.reader.fill_buf() {
                if error.kind() != ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            self.client.awaits_command.store(false, Relaxed);
            self.client
                .last_command
                .store(self.service.store.clock().now(), Relaxed);
        }
        Ok(self.reader.buffer())
    }
}

/// Answers are written here.
impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    /// Sends what is answered, after it has been counted and recorded.
    fn flush(&mut self) -> io::Result<()> {
        self.service.stats.take(self.counts);
        self.writer.flush()
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

/// The direction to the client. Every byte that leaves comes through here.
#[derive(Debug)]
struct Outgoing<'c> {
    stream: &'c TcpStream,
    service: &'c Service,
    /// An answer that has not left, or was silenced, may tell of a change whose record is not safe: with the operating
    /// system, and with `--fsync always` on disk.
    unrecorded: bool,
}

impl Outgoing<'_> {
    /// Makes the records safe that answers wait for.
    fn record(&mut self) -> io::Result<()> {
        if self.unrecorded {
            // An error of the file must not look like one of the socket: BufWriter tries again after `Interrupted`,
            // and `TimedOut` is an idle client.
            self.service.store.before_answers().map_err(|error| {
                io::Error::other(format!("the append-only file cannot be written: {error}"))
            })?;
            self.unrecorded = false;
        }
        Ok(())
    }
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.record()?;
        let bytes = self.stream.write(bytes)?;
        self.service.stats.add(Counter::BytesWritten, bytes as u64);
        Ok(bytes)
    }

    /// Records even if no byte leaves: a `noreply` change is recorded before the client is waited for.
    fn flush(&mut self) -> io::Result<()> {
        self.record()?;
        self.stream.flush()
    }
}

/// Ends a connection from our side so that the client can still read what was sent to it: closing a
/// socket that has unread input would send a reset, and a reset throws answers away that are under way.
pub fn close(stream: &TcpStream) {
    // More than this a client may have sent in vain; then the reset is its own affair.
    const AT_MOST: u64 = 1 << 20;
    let _ = stream.shutdown(Shutdown::Write);
    if stream.set_nonblocking(true).is_ok() {
        let _ = io::copy(&mut stream.take(AT_MOST), &mut io::sink());
    }
}
