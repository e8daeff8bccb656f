//! The file under its lock, its state, and the records that wait to be written.
//!
//! Invariant: up to `length` the file holds whole records and nothing else. If a failed write leaves part of a record
//! after them, the file is truncated to `length` before the next write.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::disk::LogFile;

/// How many bytes of records may wait to be written. Beyond this a command that may change something writes them first.
/// The buffers also keep no more memory than this when larger records have been written.
pub const MAX_PENDING: usize = 256 << 10;

/// Whether the file can be written.
///
/// | state         | what happened                                 | a change       | it ends with           |
/// |---------------|-----------------------------------------------|----------------|------------------------|
/// | `Good`        | the last write succeeded                      | allowed        |                        |
/// | `WriteFailed` | a write failed                                | writes first   | a write, or a rewrite  |
/// | `Torn`        | a write failed and left part of a record      | truncates too  | truncating the file    |
/// | `SyncFailed`  | a sync failed                                 | refused        | a rewrite              |
/// | `Closed`      | the server has stopped                        | refused        | nothing                |
///
/// "Writes first": [`Aof::before_change`](super::Aof::before_change) first tries again to write the records that could
/// not be written, and the change is refused if that fails. "Truncates too": before that, it truncates the file to its
/// last whole record. If two of these apply, the state is the one that is lower in the table: after a failed sync it
/// does not matter whether the file is torn. In every state, memory may hold changes that the file does not hold. Their
/// records are in [`Log::unwritten`] and [`Pending::bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileState {
    #[default]
    Good,
    WriteFailed,
    Torn,
    /// The records of the failed sync may be lost even if a later sync succeeds. Only a new file is certain to hold
    /// them, so nothing is written until a rewrite has made one.
    SyncFailed,
    /// The file is unlocked, so another server may have opened it.
    Closed,
}

/// Records that were appended, and that no thread has taken yet to write them. This lock is held for no longer than it
/// takes to copy them, and never during a system call.
#[derive(Debug, Default)]
pub struct Pending {
    pub bytes: Vec<u8>,
    /// Copies of shards for the new file of a rewrite. Each comes after the pending records up to this offset.
    pub copies: Vec<(usize, Vec<u8>)>,
    /// The state of the file. It is changed only while the file's lock is held too.
    pub state: FileState,
}

/// What the file's lock guards.
#[derive(Debug)]
pub struct Log {
    pub writer: BufWriter<LogFile>,
    /// The records that are written next. If writing them failed, they stay here until the file holds them,
    /// because memory has their changes already.
    pub unwritten: Vec<u8>,
    /// The length of the file, in bytes, up to the end of its last whole record.
    pub length: u64,
    /// How much of the history there was at the last time mark.
    pub marked: u64,
    /// The length after the last rewrite, or after a replay an estimate of it (`Aof::set_base`): growth is measured
    /// against it.
    pub base: u64,
    /// The new file, while the old one is being rewritten.
    pub new_file: Option<RewriteFile>,
    /// The folder of a file that has just got its name, until the directory entry is durable. Nothing that only the new
    /// file holds is durable before.
    pub unsynced_folder: Option<Arc<File>>,
    /// When the next rewrite may begin, after one that failed.
    pub retry_at: Instant,
}

/// The file that a rewrite makes.
#[derive(Debug)]
pub struct RewriteFile {
    pub writer: BufWriter<LogFile>,
    pub length: u64,
    /// Why the rewrite must be abandoned.
    pub failure: Option<io::Error>,
    /// Whether a sync of the log syncs this file too. From then on, what is durable in the old file is durable in this
    /// one, so it can get the old one's name at any time.
    pub is_synced_too: bool,
}

impl RewriteFile {
    /// Appends records. After a failure it appends nothing more.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.failure.is_none() {
            match write_and_flush(&mut self.writer, bytes) {
                Ok(()) => self.length += bytes.len() as u64,
                Err(error) => self.failure = Some(error),
            }
        }
    }

    /// Returns the error that stopped the rewrite, if there was one.
    pub fn check(&mut self) -> io::Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }
}

impl Log {
    /// Moves the pending records to those that are written next. During a rewrite, it also writes them to the new
    /// file. Returns the state of the file.
    pub fn take(&mut self, pending: &Mutex<Pending>) -> FileState {
        let before = self.unwritten.len();
        let mut pending = lock(pending);
        if before == 0 {
            // The two buffers are swapped: nothing is copied, and neither has to grow again.
            std::mem::swap(&mut self.unwritten, &mut pending.bytes);
        } else {
            self.unwritten.append(&mut pending.bytes);
        }
        let state = pending.state;
        let copies = std::mem::take(&mut pending.copies);
        drop(pending);
        // The new file gets each record once, even if the old file cannot be written. If the new file cannot be
        // written, the rewrite is abandoned, and the old file stays in use.
        if let Some(new_file) = &mut self.new_file {
            let (_, mut taken) = self.unwritten.split_at(before);
            let mut done = 0;
            for (offset, copy) in copies {
                let (records, rest) = taken.split_at(offset - done);
                new_file.append(records);
                new_file.append(&copy);
                (taken, done) = (rest, offset);
            }
            new_file.append(taken);
        }
        state
    }

    /// Writes all records that were taken, and returns how many bytes they were. If that fails, the file keeps its
    /// length, and the records stay in `unwritten`. Changes the file's state accordingly.
    pub fn write_taken(&mut self, state: &mut FileState) -> io::Result<u64> {
        match state {
            FileState::Closed => return Err(io::Error::other("the server has stopped")),
            FileState::SyncFailed => return Err(io::Error::other("a sync has failed")),
            FileState::Torn => self.truncate_torn(state)?,
            FileState::Good | FileState::WriteFailed => {}
        }
        if let Err(error) = write_and_flush(&mut self.writer, &self.unwritten) {
            *state = FileState::Torn;
            // The writer must not write later what is left in its buffer.
            let file = self.writer.get_ref().clone();
            let _ = std::mem::replace(&mut self.writer, BufWriter::new(file)).into_parts();
            // If this fails, it is tried again before the next write.
            let _ = self.truncate_torn(state);
            return Err(error);
        }
        *state = FileState::Good;
        let written = self.unwritten.len() as u64;
        self.length += written;
        self.unwritten.clear();
        self.unwritten.shrink_to(MAX_PENDING);
        Ok(written)
    }

    /// Truncates the part of a record that a failed write has left.
    fn truncate_torn(&mut self, state: &mut FileState) -> io::Result<()> {
        self.writer.get_ref().truncate(self.length)?;
        *state = FileState::WriteFailed;
        Ok(())
    }
}

/// Writes bytes and flushes them to the operating system.
pub fn write_and_flush(writer: &mut BufWriter<LogFile>, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes)?;
    writer.flush()
}

/// Locks a mutex, even if a thread panicked while it held the lock. Each change under these locks is complete in
/// itself, so a panic leaves nothing half changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
