//! The append-only file: every change to the store, in order, so that it can be made again.
//!
//! A [`record`] is a command of memcached's own protocol: the file can be read with `less`, and sent to
//! any memcached with `nc`. Records are appended while the changed key's shard is locked, so the order
//! of the file is the order of the store, key by key; and they are with the operating system before the
//! change is made, so nothing is acknowledged that a crash of this process could take back. At boot the
//! file is [replayed](replay); when it has grown well past what it says, it is [rewritten](rewrite).
//!
//! Lock order: a shard of the store, then the log.
//!
//! # What is assumed of the medium
//!
//! - What has been synced stays and does not change; if it does change, the checksums show it, and the
//!   server refuses to start rather than serve it.
//! - A write that a crash interrupts leaves the beginning of what was written, or nothing.
//! - A rename within a folder that is then synced is done whole, or not at all.
//! - Nobody else writes to the file. A lock (`flock`) keeps other servers away; an editor it does not.
//!
//! # What is left out on purpose
//!
//! - Reads: when an item was last read, and so what is evicted next, is forgotten with the process.
//! - Who has won a stale or vivified item (`W`): after a restart it can be won again if it is stale.
//! - Items that expire: that they end is in their records.
//! - What had expired when the file was replayed, or was flushed later.

mod crc;
mod log;
pub mod record;
pub mod replay;
mod rewrite;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::trace;
use log::Log;
use record::Record;

/// When the file is synced, which means: when its records are safe from a power cut, and not only from
/// a crash of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before each answer that tells of them. Clients that wait at the same time share a sync.
    Always,
    /// Once a second: a power cut takes about a second back.
    EverySecond,
    /// When the operating system likes.
    Never,
}

impl Fsync {
    /// Each with the word for it on the command line and in `stats`.
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
            .ok_or("it is always, everysec or never")
    }
}

/// How the file is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it is.
    pub path: PathBuf,
    /// When it is synced.
    pub fsync: Fsync,
    /// Below this size, in bytes, it is not rewritten.
    pub rewrite_size: u64,
    /// It is rewritten when it is so many times as large as it was after the last time.
    pub rewrite_growth: u64,
    /// Whether a damaged file is cut back to its good part, and the rest saved beside it.
    pub repair: bool,
}

/// The append-only file, open for appending.
#[derive(Debug)]
pub struct Aof {
    options: Options,
    /// The file itself, where symbolic links lead.
    path: PathBuf,
    log: Mutex<Log>,
    /// Bytes ever appended, through all rewrites: a point in the log's history.
    appended: AtomicU64,
    /// The point up to which the history has been synced.
    synced: AtomicU64,
    /// Whether somebody syncs at this moment.
    syncing: Mutex<bool>,
    /// Somebody has synced.
    has_synced: Condvar,
    last_sync: AtomicU64,
    records: AtomicU64,
    rewrites: AtomicU64,
    errors: AtomicU64,
}

/// After a rewrite has failed, the next one waits so long: most likely the disk is full.
const RETRY: Duration = Duration::from_secs(60);

impl Aof {
    /// Appends one change. When this returns, it is with the operating system.
    ///
    /// # Errors
    /// The file could not be written; it has none of the record then, and the change must not be made.
    pub fn append(&self, record: &Record<'_>) -> io::Result<()> {
        self.append_all(std::slice::from_ref(record))
    }

    /// Appends several changes, all of them or none.
    ///
    /// # Errors
    /// As [`Aof::append`].
    pub fn append_all(&self, records: &[Record<'_>]) -> io::Result<()> {
        // Encoded before the log is locked: others wait for no more than the writing.
        let bytes = encoded(records);
        let mut log = self.lock();
        log.append(&bytes).inspect_err(|error| {
            if self.errors.fetch_add(1, Relaxed) == 0 {
                self.tell(format_args!(
                    "cannot write ({error}); changes are refused until it can be"
                ));
            }
        })?;
        self.appended.fetch_add(bytes.len() as u64, Relaxed);
        self.records.fetch_add(records.len() as u64, Relaxed);
        Ok(())
    }

    /// What `--fsync always` promises: to be called before answers leave. All that was appended up to now
    /// is on disk when it returns.
    ///
    /// # Errors
    /// The sync has failed; nothing may be acknowledged.
    pub fn before_answers(&self) -> io::Result<()> {
        match self.options.fsync {
            Fsync::Always => self.sync(),
            Fsync::EverySecond | Fsync::Never => Ok(()),
        }
    }

    /// Syncs what has been appended up to now, unless it is. Appending goes on meanwhile, and those who
    /// want to sync in the meantime wait, to share the next sync.
    ///
    /// # Errors
    /// Those of the file.
    pub fn sync(&self) -> io::Result<()> {
        let wanted = self.appended.load(Relaxed);
        let is_done = || self.synced.load(Relaxed) >= wanted;
        if is_done() {
            return Ok(());
        }
        let syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut syncing = self
            .has_synced
            .wait_while(syncing, |syncing| *syncing && !is_done())
            .unwrap_or_else(PoisonError::into_inner);
        if is_done() {
            return Ok(());
        }
        *syncing = true;
        drop(syncing);
        // Others who are about to append get the chance to, and so share this sync: with 50 clients
        // that was measured to acknowledge a fifth to a third more.
        let mut appended = wanted;
        for _ in 0..10 {
            thread::yield_now();
            let now = self.appended.load(Relaxed);
            if now == appended {
                break;
            }
            appended = now;
        }
        let outcome = self.sync_now();
        *self.syncing.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.has_synced.notify_all();
        outcome
    }

    fn sync_now(&self) -> io::Result<()> {
        // The file to sync, and how far its content goes, belong together.
        let log = self.lock();
        if log.unsure {
            return Err(io::Error::other("a sync has failed"));
        }
        let (file, up_to) = (
            Arc::clone(log.writer.get_ref()),
            self.appended.load(Relaxed),
        );
        drop(log);
        if let Err(error) = file.sync_data() {
            let mut log = self.lock();
            // Unless a rewrite has put another file in its place meanwhile.
            log.unsure |= Arc::ptr_eq(&file, log.writer.get_ref());
            drop(log);
            self.errors.fetch_add(1, Relaxed);
            self.tell(format_args!(
                "cannot sync ({error}); changes are refused until it is rewritten"
            ));
            return Err(error);
        }
        self.synced.fetch_max(up_to, Relaxed);
        self.last_sync.store(unix_time(), Relaxed);
        Ok(())
    }

    /// To be called about every second: syncs if that is how the file is kept. Tells whether it has grown
    /// so much that it should be rewritten.
    pub fn tend(&self) -> bool {
        self.sync_in_passing();
        let log = self.lock();
        let enough = self
            .options
            .rewrite_size
            .max(log.base.saturating_mul(self.options.rewrite_growth));
        let is_time = log.length >= enough || log.unsure;
        log.copy.is_none() && is_time && Instant::now() >= log.not_before
    }

    /// Syncs for the last time and gives the file free. Whoever appends after this is refused.
    pub fn close(&self) {
        if self.lock().copy.is_some() {
            self.abandon_rewrite();
        }
        self.sync_in_passing();
        let mut log = self.lock();
        log.closed = true;
        // If this fails, the end of the process does it.
        let _ = log.writer.get_ref().unlock();
    }

    /// Syncs, unless that is left to the operating system. What goes wrong is told where it does.
    fn sync_in_passing(&self) {
        if self.options.fsync != Fsync::Never {
            let _ = self.sync();
        }
    }

    fn tell(&self, what: impl fmt::Display) {
        trace::tell(format_args!("rustmemc: {}: {what}", self.path.display()));
    }

    /// `stats`: names and values.
    pub fn describe(&self) -> Vec<(String, String)> {
        let log = self.lock();
        [
            ("aof_file", self.path.display().to_string()),
            ("aof_fsync", self.options.fsync.to_string()),
            ("aof_size", log.length.to_string()),
            ("aof_base_size", log.base.to_string()),
            ("aof_records", self.records.load(Relaxed).to_string()),
            ("aof_last_sync", self.last_sync.load(Relaxed).to_string()),
            ("aof_rewrites", self.rewrites.load(Relaxed).to_string()),
            (
                "aof_rewrite_in_progress",
                u8::from(log.copy.is_some()).to_string(),
            ),
            ("aof_errors", self.errors.load(Relaxed).to_string()),
        ]
        .map(|(name, value)| (name.into(), value))
        .into()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records as they stand in the file.
fn encoded(records: &[Record<'_>]) -> Vec<u8> {
    // Room for an ordinary record: growing into it bit by bit was measured at 100 ns of the 810 of a set.
    let mut bytes = Vec::with_capacity(256);
    for record in records {
        record.write(&mut bytes);
    }
    bytes
}

/// Opens a file for appending, and locks it as long as it is open.
fn open_and_lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        // Another server may have put a rewritten file in its place just before we had the lock.
        if std::fs::metadata(path)
            .is_ok_and(|there| there.ino() == file.metadata().map_or(0, |ours| ours.ino()))
        {
            return Ok(Some(file));
        }
    }
}

fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
