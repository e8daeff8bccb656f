//! A client's socket: bounded lines and data blocks in, answers out.
//!
//! Invariants:
//! - What is answered leaves before the next read can block: nobody waits for an answer that lies in a
//!   buffer. As long as a client's next bytes are here already, its answers gather, and leave together.
//! - No answer before its record: a change is with the operating system before it is made, and with
//!   `--fsync always` on disk before a byte of any answer leaves.
//! - What a client sends never sizes an allocation by itself: a line is bounded, a block is read into
//!   room that somebody else has made, and what is refused is swallowed in pieces.

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering::Relaxed;

use crate::clients::Client;
use crate::command::Service;
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
    reader: BufReader<Counted<'c>>,
    writer: BufWriter<Counted<'c>>,
    client: &'c Client,
    service: &'c Service,
    /// What this connection's commands have counted since answers last left.
    pub counts: Counts,
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
    pub fn new(client: &'c Client, service: &'c Service) -> Self {
        let counted = |counter| Counted {
            stream: &client.stream,
            service,
            counter,
        };
        Wire {
            reader: BufReader::with_capacity(BUFFER, counted(Counter::BytesRead)),
            writer: BufWriter::with_capacity(BUFFER, counted(Counter::BytesWritten)),
            client,
            service,
            counts: Counts::default(),
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

    /// Where answers are written.
    pub fn answers(&mut self) -> &mut impl Write {
        &mut self.writer
    }

    /// Sends what is answered, after it has been counted.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&mut self) -> io::Result<()> {
        self.service.stats.take(&mut self.counts);
        self.writer.flush()
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

/// A socket that counts its bytes. `&TcpStream` reads and writes as it is: both directions share one
/// file descriptor.
#[derive(Debug)]
struct Counted<'c> {
    stream: &'c TcpStream,
    service: &'c Service,
    counter: Counter,
}

impl Counted<'_> {
    fn count(&self, outcome: io::Result<usize>) -> io::Result<usize> {
        if let Ok(bytes) = outcome {
            self.service.stats.add(self.counter, bytes as u64);
        }
        outcome
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = self.stream.read(buffer);
        self.count(outcome)
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Every byte that leaves comes through here, also when a full buffer spills by itself.
        self.service.store.before_answers()?;
        let outcome = self.stream.write(bytes);
        self.count(outcome)
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
