//! The append-only file (AOF): every change to the store, in order, so that the changes can be replayed.
//!
//! A [`record`] is a command of memcached's own protocol: the file can be read with `less`, and sent to a memcached with
//! `nc`. At boot the file is [replayed](replay). When it has become much larger than the items that it describes, it is
//! [rewritten](rewrite). A record is written in two steps:
//!
//! 1. It is **appended** to the pending records, in memory, while the changed key's shard is locked.
//!    So the order of the file is the order of the store, key by key.
//! 2. All pending records are **flushed** to the operating system: they are written to the file's `BufWriter`,
//!    which a mutex guards, and the writer is flushed. This happens before any byte of an answer to the change is
//!    sent ([`Aof::before_answers`]), so a crash of this process loses nothing that was acknowledged.
//!    (A client that only reads does not wait for the flush. It may see a change that is not acknowledged yet.)
//!
//! In the second step no lock of the store is held. A thread that flushes writes the records of all threads, and a
//! thread that had to wait usually finds that its records are written already. With 50 clients that send 16 commands at
//! a time, this was measured at more than twice the speed of writing each record while its shard is locked.
//!
//! Lock order: a shard of the store, then the file, then the pending records.
//!
//! # When the file cannot be written
//!
//! The file is truncated to its last whole record. The records that could not be written stay pending, because memory
//! has their changes already. It is unknown whether these changes will survive a crash. So a connection whose
//! unsent answers may acknowledge one of them is closed, and no false answer is sent (`connection/wire.rs`). From then
//! on each command that may change something first tries again to write the pending records. As long as that fails, the
//! command is refused with `SERVER_ERROR` before it changes anything. Reads go on.
//!
//! So nothing that was acknowledged is lost. As soon as there is room, the pending records are written, and the file
//! holds all changes again. A crash before that loses only the changes that were made at the moment of the failure.
//! Until such a crash, clients can read these changes.
//! The states of the file are listed at `FileState` in `log.rs`.
//!
//! # What is assumed of the storage medium
//!
//! - Synced data stays and does not change. If it changes, the checksums show it, and the server refuses to start:
//!   it does not serve damaged data.
//! - A write that a crash interrupts leaves a beginning of what was written, or nothing.
//! - A rename within a folder that is then synced is either complete or has not happened.
//! - No other program writes to the file. A lock (`flock`) keeps other servers away, but not an editor.
//!
//! # What is not recorded, on purpose
//!
//! - Reads: after a restart it is unknown when an item was last read, so other items may be evicted first.
//! - Which client has won a stale or vivified item (`W`). After a restart a stale item can be won again. A vivified
//!   item stays empty until a client stores a value or it expires.
//! - Each removal of an expired item: its record says when it expires, and a time mark says that it was removed.
//! - The removal of items that had expired when the file was replayed, and of each item that is flushed: the flush has
//!   one record.

pub mod crc;
mod disk;
mod log;
pub mod opaque;
pub mod open;
pub mod record;
pub mod replay;
mod rewrite;
mod sync;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::item::UnixTime;
use disk::Disk;
use log::{FileState, Log, MAX_PENDING, Pending, lock};
use record::Record;

/// When the file is synced. A sync makes its records safe from a power cut, and not only from a crash of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before each answer to a change. Clients that wait at the same time share a sync.
    Always,
    /// Once a second: a power cut loses the changes of about a second.
    EverySecond,
    /// When the operating system decides to.
    Never,
}

impl Fsync {
    /// Each variant with its word on the command line and in `stats`.
    const WORDS: [(Fsync, &'static str); 3] = [
        (Fsync::Always, "always"),
        (Fsync::EverySecond, "everysec"),
        (Fsync::Never, "never"),
    ];
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Fsync::WORDS.iter().find(|(fsync, _)| fsync == self);
        f.write_str(word.map_or("", |(_, word)| word))
    }
}

impl FromStr for Fsync {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Fsync::WORDS.iter().find(|(_, word)| *word == text);
        known
            .map(|(fsync, _)| *fsync)
            .ok_or("it must be always, everysec or never")
    }
}

/// The options of the file.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it is.
    pub path: PathBuf,
    /// When it is synced.
    pub fsync: Fsync,
    /// A file that is smaller than this, in bytes, is not rewritten for its growth.
    pub rewrite_size: u64,
    /// The file is rewritten when it has grown by this factor since the last rewrite.
    pub rewrite_growth: u64,
    /// Whether the log begins empty. A file that is there is kept under another name.
    pub fresh: bool,
    /// How long a start waits for the lock of another server.
    pub lock_wait: Duration,
    /// Whether a damaged file is truncated to its good part, and the rest saved beside it.
    pub repair: bool,
}

impl Options {
    /// The options of a file at this path, as they are without a flag.
    pub fn new(path: PathBuf) -> Self {
        Options {
            path,
            fsync: Fsync::EverySecond,
            rewrite_size: 64 << 20,
            rewrite_growth: 2,
            repair: false,
            fresh: false,
            lock_wait: LOCK_WAIT,
        }
    }
}

/// How long a start waits until another server has unlocked the file.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The append-only file, open for appending.
#[derive(Debug)]
pub struct Aof {
    options: Options,
    /// The path of the file. Symbolic links in it are resolved.
    path: PathBuf,
    disk: Arc<dyn Disk>,
    log: Mutex<Log>,
    pending: Mutex<Pending>,
    /// How many bytes have been appended since the server started, also before a rewrite: the log's history.
    appended: AtomicU64,
    /// How much of the history the operating system has.
    written: AtomicU64,
    /// How much of the history has been synced.
    synced: AtomicU64,
    /// Whether a thread is syncing.
    syncing: Mutex<bool>,
    /// Is notified when a sync has ended.
    has_synced: Condvar,
    /// Whether the file must be rewritten although it has not grown.
    rewrite_requested: AtomicBool,
    /// The thread that syncs and rewrites the file in the background.
    keeper: OnceLock<Thread>,
    last_sync: AtomicU64,
    records: AtomicU64,
    rewrites: AtomicU64,
    errors: AtomicU64,
    /// How long the replay took.
    replay_took: Duration,
    /// Whether another file, or none, has the log's name.
    is_misplaced: AtomicBool,
    /// Whether the log's folder is gone.
    has_no_folder: AtomicBool,
}

/// How long the next rewrite waits after a failed one: the disk is probably full.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

impl Aof {
    /// Call this before executing a command that may change something, while no lock of the store is held. If the last
    /// write to the file failed, this tries again. If too much is pending, because the disk is slow, this writes it.
    ///
    /// # Errors
    /// The file still cannot be written, and the command must not be executed.
    pub fn before_change(&self) -> io::Result<()> {
        let pending = lock(&self.pending);
        let can_append = pending.state == FileState::Good && pending.bytes.len() <= MAX_PENDING;
        drop(pending);
        if !can_append {
            self.flush_all(&mut self.lock())?;
        }
        Ok(())
    }

    /// Appends the records of changes. The caller makes the changes after this has returned. It holds the lock of the
    /// changed keys' shard, so this never waits for the disk.
    ///
    /// # Errors
    /// The file cannot be written, and the changes must not be made.
    pub fn append<'a>(&self, records: impl Iterator<Item = Record<'a>>) -> io::Result<()> {
        // The records are encoded before `pending` is locked, so other threads wait only while the bytes are copied.
        let (bytes, count) = encoded(records);
        let mut pending = lock(&self.pending);
        if pending.state != FileState::Good {
            return Err(io::Error::other("the file cannot be written"));
        }
        pending.bytes.extend_from_slice(&bytes);
        self.appended.fetch_add(bytes.len() as u64, Relaxed);
        self.records.fetch_add(count, Relaxed);
        Ok(())
    }

    /// Call this before sending answers to changes. When it returns, the operating system has all records that had been
    /// appended before; with `--fsync always` they are on disk.
    ///
    /// # Errors The records are not safe, so no answer to a change may be sent.
    pub fn before_answers(&self) -> io::Result<()> {
        match self.options.fsync {
            Fsync::Always => self.sync(),
            Fsync::EverySecond | Fsync::Never => self.flush_to_os(),
        }
    }

    /// Flushes to the operating system what has been appended before this call, unless another thread has done it.
    fn flush_to_os(&self) -> io::Result<()> {
        let wanted = self.appended.load(Relaxed);
        let is_done = || self.written.load(Relaxed) >= wanted;
        if is_done() {
            return Ok(());
        }
        // A yield before the lock saved a sleep, but with 50 clients p99 was twice as long (2.6 ms instead of 1.3).
        let mut log = self.lock();
        if is_done() {
            return Ok(());
        }
        self.flush_all(&mut log)
    }

    /// Flushes all pending records.
    fn flush_all(&self, log: &mut Log) -> io::Result<()> {
        let before = log.take(&self.pending);
        let mut state = before;
        let outcome = log.write_taken(&mut state);
        match &outcome {
            Ok(bytes) => {
                self.written.fetch_add(*bytes, Relaxed);
                // The write that makes the file large enough wakes the thread that rewrites it: at the speed of a disk,
                // much can be written in a second.
                if self.has_grown(log)
                    && let Some(keeper) = self.keeper.get()
                {
                    keeper.unpark();
                }
            }
            Err(error) => {
                self.errors.fetch_add(1, Relaxed);
                if before == FileState::Good {
                    self.print(format_args!(
                        "cannot write ({error}); changes are refused until a write succeeds"
                    ));
                }
            }
        }
        if state != before {
            self.set_state(state);
        }
        outcome.map(drop)
    }

    /// Sets the state of the file, whose lock the caller holds. A closed file stays closed.
    fn set_state(&self, state: FileState) {
        let mut pending = lock(&self.pending);
        if pending.state != FileState::Closed {
            pending.state = state;
        }
    }

    /// Appends a time mark: every item that has expired by `time` is removed from memory. Without a new record since
    /// the last mark there is nothing to mark, unless items were `removed`. `cas` returns the highest cas unique so
    /// far.
    ///
    /// Other records may be appended between the removal and the mark. The mark is still true if the clock did not go
    /// back: what is stored after the removal expires later than `time`.
    pub fn mark(&self, time: UnixTime, removed: bool, cas: impl FnOnce() -> u64) {
        let mut log = self.lock();
        let is_marked = self.appended.load(Relaxed) == log.marked && !removed;
        if is_marked || log.take(&self.pending) != FileState::Good {
            return;
        }
        let cas = cas();
        let mark = |offset| encoded([Record::Mark { time, offset, cas }]).0;
        let bytes = mark(log.length + log.unwritten.len() as u64);
        log.unwritten.extend_from_slice(&bytes);
        if let Some(copy) = &mut log.new_file {
            copy.append(&mark(copy.length));
        }
        self.records.fetch_add(1, Relaxed);
        log.marked = self.appended.fetch_add(bytes.len() as u64, Relaxed) + bytes.len() as u64;
        // If this fails, the next change tries again.
        let _ = self.flush_all(&mut log);
    }

    /// Flushes records that no client waits for, and syncs the file if its options say so. Returns whether it is time
    /// to rewrite the file: it has grown enough, it cannot be written, or a rewrite was requested. Call this about
    /// every second.
    pub fn maintain(&self) -> bool {
        self.sync_as_configured();
        let mut log = self.lock();
        // Records that could not be written may fit after a rewrite has made the file smaller.
        let cannot_be_written = match lock(&self.pending).state {
            FileState::Good | FileState::Closed => false,
            FileState::WriteFailed | FileState::Torn | FileState::SyncFailed => true,
        };
        self.look_for_file(&mut log);
        let is_requested = self.rewrite_requested.load(Relaxed);
        let is_time = cannot_be_written || is_requested;
        let may_begin = log.new_file.is_none() && Instant::now() >= log.retry_at;
        self.has_grown(&log) || (is_time && may_begin)
    }

    /// Looks whether the log's name still leads to its file. If not, prints that, and asks for a rewrite: it makes a
    /// new file of that name.
    fn look_for_file(&self, log: &mut Log) {
        let is_misplaced = !log.writer.get_ref().is_at(&self.path);
        let was_misplaced = self.is_misplaced.swap(is_misplaced, Relaxed);
        if is_misplaced {
            self.request_rewrite();
        }
        let folder = self.path.parent().filter(|folder| !folder.is_dir());
        let had_folder = !self.has_no_folder.swap(folder.is_some(), Relaxed);
        if folder.is_none() && !had_folder {
            // The last attempt failed because of the folder.
            log.retry_at = Instant::now();
        }
        if is_misplaced && (!was_misplaced || (folder.is_some() && had_folder)) {
            match folder {
                Some(folder) => self.print(format_args!(
                    "its folder {} is gone; the file is written anew when the folder is there again",
                    folder.display()
                )),
                None => self.print("the file was removed or replaced; it is written anew"),
            }
        }
    }

    /// Whether the log's name leads to its file.
    pub fn is_in_place(&self) -> bool {
        self.lock().writer.get_ref().is_at(&self.path)
    }

    /// Whether the file has grown so much that it is time to rewrite it.
    fn has_grown(&self, log: &Log) -> bool {
        log.length >= self.rewrite_threshold(log)
            && log.new_file.is_none()
            && Instant::now() >= log.retry_at
    }

    /// The length at which the file is rewritten, in bytes.
    fn rewrite_threshold(&self, log: &Log) -> u64 {
        let grown = log.base.saturating_mul(self.options.rewrite_growth);
        grown.max(self.options.rewrite_size)
    }

    /// Makes this thread the one that is woken when it is time to rewrite the file. It calls [`Aof::maintain`].
    pub fn set_keeper(&self) {
        // A log has one keeper in its life.
        let _ = self.keeper.set(thread::current());
    }

    /// Asks for a rewrite at the next [`Aof::maintain`].
    pub fn request_rewrite(&self) {
        self.rewrite_requested.store(true, Relaxed);
    }

    /// Writes the pending records, syncs unless `--fsync never`, and unlocks the file, so that another server can open
    /// it. After this, appending is refused.
    pub fn close(&self) {
        self.sync_as_configured();
        let mut log = self.lock();
        if log.new_file.is_some() {
            self.remove_new_file(&mut log);
        }
        // These records have been appended since the sync. If they cannot be written, they are lost, and the error has
        // been printed.
        let _ = self.flush_all(&mut log);
        self.set_state(FileState::Closed);
        // If this fails, the end of the process unlocks it.
        let _ = log.writer.get_ref().unlock();
    }

    /// Syncs, unless that was done in this second.
    pub fn sync_if_due(&self) {
        if self.last_sync.load(Relaxed) != unix_time() {
            self.sync_as_configured();
        }
    }

    /// Syncs, or only flushes if the options leave syncing to the operating system. An error is printed where it
    /// happens.
    fn sync_as_configured(&self) {
        let _ = match self.options.fsync {
            Fsync::Always | Fsync::EverySecond => self.sync(),
            Fsync::Never => self.flush_to_os(),
        };
    }

    fn print(&self, message: impl fmt::Display) {
        crate::log::line(format_args!("rustmemc: {}: {message}", self.path.display()));
    }

    /// The names and values of the file in `stats`.
    pub fn describe(&self) -> Vec<(String, String)> {
        let log = self.lock();
        [
            ("aof_file", self.path.display().to_string()),
            ("aof_fsync", self.options.fsync.to_string()),
            ("aof_size", log.length.to_string()),
            ("aof_base_size", log.base.to_string()),
            (
                "aof_rewrite_threshold",
                self.rewrite_threshold(&log).to_string(),
            ),
            ("aof_records", self.records.load(Relaxed).to_string()),
            ("aof_last_sync", self.last_sync.load(Relaxed).to_string()),
            ("aof_rewrites", self.rewrites.load(Relaxed).to_string()),
            (
                "aof_rewrite_in_progress",
                u8::from(log.new_file.is_some()).to_string(),
            ),
            (
                "aof_replay_seconds",
                format!("{:.3}", self.replay_took.as_secs_f64()),
            ),
            ("aof_errors", self.errors.load(Relaxed).to_string()),
        ]
        .map(|(name, value)| (name.into(), value))
        .into()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }
}

/// Encodes records as they are in the file, and counts them.
fn encoded<'a>(records: impl IntoIterator<Item = Record<'a>>) -> (Vec<u8>, u64) {
    // This is enough for most records. Growing the buffer step by step was measured at 100 ns of the 810 ns of a set.
    let (mut bytes, mut count) = (Vec::with_capacity(256), 0);
    for record in records {
        record.write(&mut bytes);
        count += 1;
    }
    (bytes, count)
}

fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests;
