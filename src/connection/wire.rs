//! A client's socket: bounded lines and data blocks in, answers out.
//!
//! Invariants:
//! - No client waits for an answer that is still in a buffer: the buffer is sent before a read that may block.
//! - No answer before its record: before a byte of an answer to a change is sent, the operating system has the change's
//!   record, and with `--fsync always` it is on disk. If that fails, the connection is closed, and nothing more is
//!   sent. Answers to commands that only read do not wait for records.
//! - A length that a client sends is checked before memory is allocated: a line is bounded, a long `get` line is read
//!   in pieces (`line.rs`), a block is read into memory that the caller has reserved, and a refused block or line is
//!   swallowed in pieces.
//!
//! # When answers are sent
//!
//! Answers are collected in a buffer of up to 64 KB ([`LARGE_WRITE_BUFFER`]). The buffer is sent:
//!
//! 1. before a read that may block: when the next line, piece or block is not completely in the read buffer. While the
//!    client's next bytes are here already, its answers stay in the buffer, and are sent together.
//! 2. when the next piece of an answer does not fit into the buffer. (A piece that is as long as a large buffer is not
//!    copied into one, but sent from where it is, together with what is in the buffer.)
//! 3. at the end of the conversation: at `quit` or `shutdown`, when the client has closed its connection, after a line
//!    that is too long, and when the server stops. (If a worker panics, the buffer is sent when it is dropped.) After
//!    an error of the socket or of the append-only file, the buffer is discarded.
//! 4. between two commands of a pipeline, if no other client is active ([`Wire::send_early`]).
//!
//! What happens before that:
//!
//! - Records: in all these cases they are flushed first, if an answer may need it ([`Outgoing::flush_log`]).
//! - Counts: the worker's counts are added to the server's. So a client that has read an answer finds its command
//!   counted, even if it asks on another connection.
//!
//! # How large the buffers are
//!
//! Thousands of clients may be idle, so both buffers are small, and only a client that needs large ones has them:
//!
//! - The read buffer becomes large after a read that has filled it, and small again after [`READS_BEFORE_SHRINK`] reads
//!   that did not need a large one.
//! - The write buffer becomes large when an answer does not fit into it, and small again when it is sent.
//!
//! 10,000 clients that were idle after a set and a get took 34 KB of memory each with large buffers, and now take 12
//! KB. 8 KB of them are the two pages of a worker's stack that are in use. Commands that use much stack have functions
//! that are `#[cold]`, so that the compiler does not add their variables to those of each command.
//!
//! Lessons: [04](crate::conversations::lesson_04_bad_data),
//! [12](crate::conversations::lesson_12_many_keys_and_pipelines).

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, IoSlice, Read, Write};
use std::mem;
use std::net::Shutdown;
use std::sync::atomic::Ordering::Relaxed;

use super::line::{Line, MAX_LINE};
use crate::clients::{Activity, Client};
use crate::command::Service;
use crate::memory::PIECE_SIZE;
use crate::protocol::ProtocolError;
use crate::protocol::binary::{self, Header};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};
use crate::stream::Stream;

/// The size of a large read buffer: 16 KB, as in memcached.
const LARGE_READ_BUFFER: usize = 16 << 10;

/// The size of a large write buffer: 64 KB, as a [piece](crate::memory::PIECE_SIZE) of a large value. So an answer of
/// up to 64 KB is sent in one write. Each write may wake the client, and the client then reads what has arrived so far.
/// (With 16 KB, a client that reads values of 20 KB got a quarter fewer of them per second, and each took a third more
/// of the server's time.)
const LARGE_WRITE_BUFFER: usize = PIECE_SIZE;

/// The size of a small read buffer.
const SMALL_READ_BUFFER: usize = 768;

/// A client that is alone gets this number of bytes of answers while its other commands are executed. With 400 bytes it
/// was slower, and with 1,000 too.
const EARLY: usize = 700;

/// The size of a small write buffer.
const SMALL_WRITE_BUFFER: usize = 512;

/// A client that is idle keeps no larger buffer for values than this.
const MAX_KEPT_VALUE: usize = 2 << 10;

/// After this number of reads that would have fitted into a small buffer, a large read buffer becomes small. A client
/// may send small and large commands in turn, and each change costs one more read.
const READS_BEFORE_SHRINK: u8 = 16;

/// The reason of an end if the client has closed the connection.
pub const CLOSED: &str = "the client closed it";

/// A connection's two directions.
#[derive(Debug)]
pub struct Wire<'c> {
    reader: BufReader<Incoming<'c>>,
    /// How many reads in succession have needed no large buffer: [`READS_BEFORE_SHRINK`] at most.
    small_reads: u8,
    writer: BufWriter<Outgoing<'c>>,
    /// Whether what the server received before the last read came from this client too.
    is_alone: bool,
    client: &'c Client,
    service: &'c Service,
}

/// The outcome of reading a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is complete, with its end. (If it is served in pieces, this is the last piece.)
    Complete,
    /// It is a piece of a long `get` line, and the end of the line has not arrived.
    Piece,
    /// The client has closed the connection. Bytes after its last complete line are ignored.
    Closed,
    /// It is longer than a line may be.
    TooLong,
}

impl<'c> Wire<'c> {
    /// A wire to this client.
    pub fn new(client: &'c Client, service: &'c Service, counts: &'c Counts) -> Self {
        let stream = &client.stream;
        let outgoing = Outgoing {
            stream,
            service,
            counts,
            must_flush_log: false,
        };
        Wire {
            reader: BufReader::with_capacity(SMALL_READ_BUFFER, Incoming { stream, service }),
            small_reads: READS_BEFORE_SHRINK,
            writer: BufWriter::with_capacity(SMALL_WRITE_BUFFER, outgoing),
            is_alone: false,
            client,
            service,
        }
    }

    /// Waits for the client's first byte, and returns whether it begins the binary protocol. (All its requests begin
    /// with this byte. No text command does.)
    ///
    /// # Errors
    /// As [`Wire::read_line`].
    pub fn begins_binary(&mut self) -> io::Result<bool> {
        Ok(self.fill(Activity::AwaitsCommand)?.first() == Some(&binary::MAGIC))
    }

    /// Reads the header of a binary request. `None`: the client has closed the connection.
    ///
    /// # Errors
    /// As [`Wire::read_block`].
    pub fn read_header(&mut self) -> io::Result<Option<[u8; Header::LENGTH]>> {
        if self.fill(Activity::AwaitsCommand)?.is_empty() {
            return Ok(None);
        }
        let mut header = [0; Header::LENGTH];
        self.read_block(&mut header)?;
        Ok(Some(header))
    }

    /// Reads into `line`: appends the next bytes of the client, up to the end of the line, or as many as it may hold.
    ///
    /// # Errors
    /// Those of the socket; [`ErrorKind::WouldBlock`] when an idle time-out is set and has passed.
    pub fn read_line(&mut self, line: &mut Line<'_>) -> io::Result<Outcome> {
        loop {
            let bytes = self.fill(Activity::AwaitsCommand)?;
            if bytes.is_empty() {
                return Ok(Outcome::Closed);
            }
            let taken = line.append(bytes);
            self.reader.consume(taken);
            if line.bytes().ends_with(b"\n") {
                return Ok(Outcome::Complete);
            }
            if line.may_be_long() {
                if taken == 0 {
                    return Ok(Outcome::Piece);
                }
            } else if line.bytes().len() > MAX_LINE {
                return Ok(Outcome::TooLong);
            }
        }
    }

    /// Reads exactly `block.len()` bytes into `block`.
    ///
    /// # Errors
    /// As [`Wire::read_line`], and [`ErrorKind::UnexpectedEof`].
    pub fn read_block(&mut self, block: &mut [u8]) -> io::Result<()> {
        if self.reader.buffer().len() < block.len() {
            self.flush()?;
            self.client.set_activity(Activity::AwaitsBlock);
        }
        self.reader.read_exact(block)?;
        self.client.set_activity(Activity::Executes);
        Ok(())
    }

    /// Reads what must follow a data block: `\r\n`, or nothing. Returns whether it is that.
    ///
    /// # Errors
    /// As [`Wire::read_block`].
    pub fn read_end(&mut self, expected: &[u8]) -> io::Result<bool> {
        let mut end = [0; 2];
        let (end, _) = end.split_at_mut(expected.len().min(2));
        self.read_block(end)?;
        Ok(end == expected)
    }

    /// Reads a refused data block, and discards it.
    ///
    /// # Errors
    /// As [`Wire::read_block`].
    pub fn swallow(&mut self, mut bytes: usize) -> io::Result<()> {
        while bytes > 0 {
            let available = self.fill(Activity::AwaitsRefusedBlock)?.len().min(bytes);
            if available == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.reader.consume(available);
            bytes -= available;
        }
        Ok(())
    }

    /// Reads the rest of a refused line, and discards it. Also returns when the client has closed the connection, or
    /// when the server stops: a client may send such a line without an end.
    ///
    /// # Errors
    /// As [`Wire::read_line`].
    pub fn swallow_line(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.fill(Activity::AwaitsRefusedBlock)?;
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let swallowed = end.map_or(bytes.len(), |end| end + 1);
            self.reader.consume(swallowed);
            if end.is_some() || swallowed == 0 || self.service.clients.is_stopping() {
                return Ok(());
            }
        }
    }

    /// Discards what has arrived from the client, without waiting for more. Returns whether the client has closed the
    /// connection.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn discard_arrived(&mut self) -> io::Result<bool> {
        // A client that sends without end must not keep its worker here.
        const MAX_READS: usize = 64;
        let stream = self.reader.get_ref().stream;
        stream.set_nonblocking(true)?;
        let mut is_closed = Ok(false);
        for _ in 0..MAX_READS {
            let arrived = self.reader.fill_buf().map(<[u8]>::len);
            match arrived {
                Ok(0) => is_closed = Ok(true),
                Ok(bytes) => {
                    self.reader.consume(bytes);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => is_closed = Err(error),
            }
            break;
        }
        stream.set_nonblocking(false)?;
        is_closed
    }

    /// Sends the lines of a watcher, or a part of them, and returns how many bytes were sent. All answers must have
    /// been sent before.
    ///
    /// # Errors
    /// Those of the socket; [`ErrorKind::WouldBlock`] when its time-out has passed.
    pub fn send(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.writer.get_mut().write(lines)
    }

    /// Whether answers of this client are still in the buffer.
    pub fn has_unsent_answers(&self) -> bool {
        !self.writer.buffer().is_empty()
    }

    /// Call this before writing the answer to a command that may change something, also if `noreply` silences the
    /// answer. After this call the log is flushed before the next byte is sent, and before the next read that may
    /// block.
    ///
    /// The answer may depend on another client's change: a `delete` that finds nothing may depend on the `delete`
    /// before it. Only the error `LogFailed` depends on no change.
    pub fn require_log_flush(&mut self, response: &Response<'_>) {
        let is_refusal = matches!(response, Response::Error(ProtocolError::LogFailed));
        self.writer.get_mut().must_flush_log |= !is_refusal;
    }

    /// Discards the answers in the buffer. There are some if they could not be sent. Dropping the buffer would try to
    /// send them again, and might block.
    pub fn discard_answers(&mut self) {
        let nothing = BufWriter::with_capacity(0, *self.writer.get_ref());
        let _ = mem::replace(&mut self.writer, nothing).into_parts();
    }

    /// Returns the bytes that have arrived. If there are none, sends the answers and waits for the client. `awaited` is
    /// what it waits for.
    fn fill(&mut self, awaited: Activity) -> io::Result<&[u8]> {
        if self.reader.buffer().is_empty() {
            self.flush()?;
            self.resize_reader();
            self.client.set_activity(awaited);
            while let Err(error) = self.reader.fill_buf() {
                if error.kind() != ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            self.is_alone = self.service.clients.note_sender(self.client);
            self.small_reads = match self.reader.buffer().len() < SMALL_READ_BUFFER {
                true => READS_BEFORE_SHRINK.min(self.small_reads + 1),
                false => 0,
            };
            self.client.set_activity(Activity::Executes);
            if awaited == Activity::AwaitsCommand {
                let now = self.service.store.clock().now();
                self.client.last_command.store(now, Relaxed);
            }
        }
        Ok(self.reader.buffer())
    }

    /// Frees a buffer of values if it is large and all that has arrived was read: the next read may take long.
    pub fn free_if_idle(&self, value_buffer: &mut Vec<u8>) {
        if value_buffer.capacity() > MAX_KEPT_VALUE && self.reader.buffer().is_empty() {
            *value_buffer = Vec::new();
        }
    }

    /// Sends the answers so far, if more commands have arrived, the client is alone and no answer waits for a record:
    /// the client can read the answers, and send more, while this worker executes the rest.
    ///
    /// Measured with one client that keeps 64 commands under way: twice as many requests per second (from 0.54 to 1.16
    /// of memcached's). With many clients it would only cost time, because other workers have something to do
    /// meanwhile.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send_early(&mut self) -> io::Result<()> {
        // To write a record sooner costs more than it saves, and with `--fsync always` there would be more syncs.
        let is_safe = !self.writer.get_ref().must_flush_log;
        let are_enough = self.writer.buffer().len() >= EARLY;
        if self.is_alone && is_safe && are_enough && !self.reader.buffer().is_empty() {
            self.writer.flush()?;
        }
        Ok(())
    }

    /// Replaces the read buffer, which is empty, if the next read needs another size.
    fn resize_reader(&mut self) {
        let size = match self.small_reads {
            READS_BEFORE_SHRINK => SMALL_READ_BUFFER,
            _ => LARGE_READ_BUFFER,
        };
        if self.reader.capacity() != size {
            let incoming = *self.reader.get_ref();
            self.reader = BufReader::with_capacity(size, incoming);
        }
    }

    /// Makes the write buffer large, if only a large one has room for these bytes.
    fn make_room(&mut self, bytes: &[u8]) -> io::Result<()> {
        let needed = self.writer.buffer().len() + bytes.len();
        if needed > SMALL_WRITE_BUFFER
            && needed <= LARGE_WRITE_BUFFER
            && self.writer.capacity() < LARGE_WRITE_BUFFER
        {
            self.resize_writer(LARGE_WRITE_BUFFER)?;
        }
        Ok(())
    }

    /// Replaces the write buffer. The answers in it are kept: `size` must have room for them.
    #[cold]
    fn resize_writer(&mut self, size: usize) -> io::Result<()> {
        let answers = self.replace_writer(size);
        self.writer.write_all(&answers)
    }

    /// Replaces the write buffer by an empty one, and returns the answers in it. (Dropping it would send them.)
    fn replace_writer(&mut self, size: usize) -> Vec<u8> {
        let outgoing = *self.writer.get_ref();
        let writer = BufWriter::with_capacity(size, outgoing);
        let (_, answers) = mem::replace(&mut self.writer, writer).into_parts();
        answers.unwrap_or_default()
    }

    /// Sends bytes for which no buffer is large enough, together with the answers before them. The bytes are not
    /// copied.
    #[cold]
    fn send_long(&mut self, bytes: &[u8]) -> io::Result<()> {
        let answers = self.replace_writer(SMALL_WRITE_BUFFER);
        let mut slices = &mut [IoSlice::new(&answers), IoSlice::new(bytes)][..];
        // Without this, an empty first slice would look as if nothing could be sent.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match self.writer.get_mut().write_vectored(slices) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(sent) => IoSlice::advance_slices(&mut slices, sent),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Answers are written to the wire.
impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.make_room(bytes)?;
        self.writer.write(bytes)
    }

    /// Does the same as the trait's own method, which is a loop of calls that cost more than the copy.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() >= LARGE_WRITE_BUFFER {
            return self.send_long(bytes);
        }
        self.make_room(bytes)?;
        self.writer.write_all(bytes)
    }

    /// Sends the buffered answers.
    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        if self.writer.capacity() > SMALL_WRITE_BUFFER {
            self.resize_writer(SMALL_WRITE_BUFFER)?;
        }
        Ok(())
    }
}

/// A socket's direction from the client; counts the bytes. `&Stream` can both read and write, so both directions
/// share one file descriptor.
#[derive(Debug, Clone, Copy)]
struct Incoming<'c> {
    stream: &'c Stream,
    service: &'c Service,
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.stream.read(buffer)?;
        self.service.stats.add(Counter::BytesRead, bytes as u64);
        Ok(bytes)
    }
}

/// The direction to the client. Every byte of an answer passes through here.
#[derive(Debug, Clone, Copy)]
struct Outgoing<'c> {
    stream: &'c Stream,
    service: &'c Service,
    counts: &'c Counts,
    /// Whether an answer that has not been sent, or that was silenced, may depend on a change whose record is not safe
    /// yet. A record is safe when the operating system has it, and with `--fsync always` when it is on disk.
    must_flush_log: bool,
}

impl Outgoing<'_> {
    /// What happens before a byte is sent: see [When answers are sent](self#when-answers-are-sent).
    fn before_sending(&mut self) -> io::Result<()> {
        self.service.stats.add_all(self.counts);
        self.flush_log()
    }

    /// Flushes the log if an unsent answer may depend on its records.
    fn flush_log(&mut self) -> io::Result<()> {
        if self.must_flush_log {
            // An error of the file must not look like an error of the socket: BufWriter tries again after
            // `Interrupted`, and `TimedOut` means an idle client.
            self.service.store.before_answers().map_err(|error| {
                io::Error::other(format!("the append-only file cannot be written: {error}"))
            })?;
            self.must_flush_log = false;
        }
        Ok(())
    }
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.before_sending()?;
        let sent = self.stream.write(bytes)?;
        self.service.stats.add(Counter::BytesWritten, sent as u64);
        Ok(sent)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.before_sending()?;
        let sent = self.stream.write_vectored(slices)?;
        self.service.stats.add(Counter::BytesWritten, sent as u64);
        Ok(sent)
    }

    /// Flushes the log even if there is no byte to send: the record of a `noreply` change must be safe before the
    /// worker waits for the client.
    fn flush(&mut self) -> io::Result<()> {
        self.before_sending()?;
        self.stream.flush()
    }
}

/// Shuts a connection down so that the client can still read what was sent to it. Closing a socket that has unread
/// input would send a reset, and a reset discards answers that are under way. So unread input is read first.
pub fn close(stream: &Stream) {
    // How many bytes are read. A client that has sent more may get a reset.
    const MAX_DISCARDED: u64 = 1 << 20;
    let _ = stream.shutdown(Shutdown::Write);
    if stream.set_nonblocking(true).is_ok() {
        let _ = io::copy(&mut stream.take(MAX_DISCARDED), &mut io::sink());
    }
}
