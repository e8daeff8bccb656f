//! The file under its lock, and the records that are on their way to it.
//!
//! Invariant: up to `length` the file has whole records and nothing else. What a write that failed has left
//! behind them is cut off before the next.

use std::io::{self, BufWriter, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::disk::LogFile;

/// So many bytes of records may wait to be written; whoever adds to more writes them first. It is also what
/// the buffers keep of the memory that larger records needed.
pub const MOST_PENDING: usize = 256 << 10;

/// Records that the file has not been given yet. This lock is held for no longer than it takes to copy
/// them, and never across a system call.
#[derive(Debug, Default)]
pub struct Pending {
    pub bytes: Vec<u8>,
    /// The file did not take what it was given last. Nothing is added until it does.
    pub stuck: bool,
}

/// What the file's lock guards.
#[derive(Debug)]
pub struct Log {
    pub writer: BufWriter<LogFile>,
    /// The records that are written next, and after a failure those that could not be: they tell of
    /// changes that memory has, so they stay until the file has them too.
    pub unwritten: Vec<u8>,
    /// The length of the file, in bytes, up to its last whole record.
    pub length: u64,
    /// What is behind `length` (part of what could not be written) must be cut off first.
    pub torn: bool,
    /// A sync has failed, and what it was to save may be lost though a later sync succeeds. Only a new file
    /// has it for sure: nothing is written until there is one.
    pub unsure: bool,
    /// The server has stopped; the file may be another's now.
    pub closed: bool,
    /// The length after the last rewrite.
    pub base: u64,
    /// The new file, while the old one is being rewritten.
    pub copy: Option<RewriteFile>,
    /// When a rewrite that failed may be tried again.
    pub not_before: Instant,
}

/// The file that a rewrite makes.
#[derive(Debug)]
pub struct RewriteFile {
    pub writer: BufWriter<LogFile>,
    pub length: u64,
    /// Why the rewrite is given up.
    pub failure: Option<io::Error>,
}

impl RewriteFile {
    /// Appends records.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.failure.is_none() {
            match write_and_flush(&mut self.writer, bytes) {
                Ok(()) => self.length += bytes.len() as u64,
                Err(error) => self.failure = Some(error),
            }
        }
    }

    /// The error that stopped the rewrite, if there was one.
    pub fn check(&mut self) -> io::Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }
}

impl Log {
    /// Takes over what is pending, to be written next; while there is a rewrite, its new file gets it at once.
    /// Gives whether the file was stuck.
    pub fn take(&mut self, pending: &Mutex<Pending>) -> bool {
        let before = self.unwritten.len();
        let mut pending = lock(pending);
        if before == 0 {
            // The two buffers change places: nothing is copied, and neither has to grow again.
            std::mem::swap(&mut self.unwritten, &mut pending.bytes);
        } else {
            self.unwritten.append(&mut pending.bytes);
        }
        let stuck = pending.stuck;
        drop(pending);
        // The copy gets every record once, whatever becomes of it in the old file. If it cannot take one, it
        // is given up, and the file goes on.
        if let Some(copy) = &mut self.copy {
            let (_, taken) = self.unwritten.split_at(before);
            copy.append(taken);
        }
        stuck
    }

    /// Hands all that was taken over to the operating system, and gives its length; or leaves the file as it
    /// was.
    pub fn write_taken(&mut self) -> io::Result<u64> {
        if self.closed {
            return Err(io::Error::other("the server has stopped"));
        }
        if self.unsure {
            return Err(io::Error::other("a sync has failed"));
        }
        self.mend()?;
        if let Err(error) = write_and_flush(&mut self.writer, &self.unwritten) {
            self.torn = true;
            // What is left in the buffer must not be written later, by the buffer itself.
            let file = self.writer.get_ref().clone();
            let _ = std::mem::replace(&mut self.writer, BufWriter::new(file)).into_parts();
            // If not now, then before the next record.
            let _ = self.mend();
            return Err(error);
        }
        let written = self.unwritten.len() as u64;
        self.length += written;
        self.unwritten.clear();
        self.unwritten.shrink_to(MOST_PENDING);
        Ok(written)
    }

    /// Cuts part of a record off that a write which failed has left.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.writer.get_ref().truncate(self.length)?;
            self.torn = false;
        }
        Ok(())
    }
}

/// Writes bytes and hands them to the operating system.
pub fn write_and_flush(writer: &mut BufWriter<LogFile>, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes)?;
    writer.flush()
}

/// Locks. What a panic has left is whole: each change to what is locked here is complete in itself.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
