//! The append-only file: every change to the store, in order, so that it can be made again.
//!
//! A [`record`] is a command of memcached's own protocol: the file can be read with `less`, and sent to
//! any memcached with `nc`. At boot the file is [replayed](replay); when it has grown well past what it
//! says, it is [rewritten](rewrite). A record goes there in two steps:
//!
//! 1. It is **appended** to those that are pending, in memory, while the changed key's shard is locked.
//!    So the order of the file is the order of the store, key by key.
//! 2. All that is pending is **handed over** to the operating system: written to the file's `BufWriter`,
//!    which a mutex guards, and flushed. That happens before any byte of an answer to the change leaves
//!    ([`Aof::before_answers`]), so nothing is acknowledged that a crash of this process could take back.
//!    (Who only reads does not wait for that, and may see what is not acknowledged yet.)
//!
//! Between the two no lock of the store is held. Whoever comes to hand over takes everybody's records along,
//! and who had to wait mostly finds that theirs are written: with 50 clients that send 16 commands at a time
//! it was measured at more than twice the speed of writing each record while its shard is locked.
//!
//! Lock order: a shard of the store, then the file, then the pending records.
//!
//! # When it cannot be written
//!
//! The file is cut back to its last whole record. What could not be written stays pending, because memory has
//! these changes already. Nobody can know whether a crash will take them back, so a connection whose unsent
//! answers may tell of such a change ends, and nothing false is sent to it (`connection/wire.rs`). From then on
//! each command that may change something first tries again to write what is pending, and is refused with
//! `SERVER_ERROR` before it changes anything as long as that fails. Reads go on.
//!
//! So nothing that was acknowledged is lost, and as soon as there is room the file says what memory holds. Only
//! a crash before that takes back the changes of that first moment; until then they can be read.
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
mod disk;
mod log;
pub mod record;
pub mod replay;
mod rewrite;
mod sync;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use disk::Disk;
use log::{Log, MOST_PENDING, Pending, lock};
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
    disk: Arc<dyn Disk>,
    log: Mutex<Log>,
    pending: Mutex<Pending>,
    /// Bytes ever appended, through all rewrites: a point in the log's history.
    appended: AtomicU64,
    /// The point up to which the history is with the operating system.
    written: AtomicU64,
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

/// Who waits for another's write or sync lets so many others go first before it sleeps. Those make answers
/// and append, and mostly it need not sleep at all: its record was taken along. To sleep and be woken costs
/// more than a write; with 50 clients this was measured at a third to a half more commands a second.
const TURNS: u32 = 30;

/// After a rewrite has failed, the next one waits so long: most likely the disk is full.
const RETRY: Duration = Duration::from_secs(60);

impl Aof {
    /// Call this before a command that may change something is executed. If the file could not be written the last time,
    /// this tries again.
    ///
    /// # Errors
    /// The file still cannot be written, and the command must not be executed.
    pub fn before_change(&self) -> io::Result<()> {
        if lock(&self.pending).stuck {
            self.hand_over_all(&mut self.lock())?;
        }
        Ok(())
    }

    /// Appends changes, which are made once this has returned. The shard of the changed keys is locked.
    ///
    /// # Errors
    /// The file cannot be written, and the changes must not be made.
    pub fn append<'a>(&self, records: impl Iterator<Item = Record<'a>>) -> io::Result<()> {
        // Encoded before anything is locked here: others wait for no more than the copying.
        let (bytes, count) = encoded(records);
        let mut pending = lock(&self.pending);
        while pending.stuck || pending.bytes.len() > MOST_PENDING {
            drop(pending);
            self.hand_over_all(&mut self.lock())?;
            pending = lock(&self.pending);
        }
        pending.bytes.extend_from_slice(&bytes);
        self.appended.fetch_add(bytes.len() as u64, Relaxed);
        self.records.fetch_add(count, Relaxed);
        Ok(())
    }

    /// To be called before answers leave that tell of changes. All that was appended up to now is with the
    /// operating system when it returns, and with `--fsync always` on disk.
    ///
    /// # Errors
    /// Nothing may be acknowledged.
    pub fn before_answers(&self) -> io::Result<()> {
        match self.options.fsync {
            Fsync::Always => self.sync(),
            Fsync::EverySecond | Fsync::Never => self.hand_over(),
        }
    }

    /// Hands to the operating system what has been appended up to now, unless somebody has done it.
    fn hand_over(&self) -> io::Result<()> {
        let wanted = self.appended.load(Relaxed);
        let is_done = || self.written.load(Relaxed) >= wanted;
        let mut turns = 0..TURNS;
        let mut log = loop {
            if is_done() {
                return Ok(());
            }
            match self.log.try_lock() {
                Ok(log) => break log,
                Err(_) if turns.next().is_some() => thread::yield_now(),
                Err(_) => break self.lock(),
            }
        };
        if is_done() {
            return Ok(());
        }
        self.hand_over_all(&mut log)
    }

    /// Hands over everything.
    fn hand_over_all(&self, log: &mut Log) -> io::Result<()> {
        let was_stuck = log.take(&self.pending);
        let outcome = log.write_taken();
        match &outcome {
            Ok(bytes) => {
                self.written.fetch_add(*bytes, Relaxed);
            }
            Err(error) => {
                self.errors.fetch_add(1, Relaxed);
                if !was_stuck {
                    self.tell(format_args!(
                        "cannot write ({error}); changes are refused until it can be"
                    ));
                }
            }
        }
        if was_stuck != outcome.is_err() {
            lock(&self.pending).stuck = outcome.is_err();
        }
        outcome.map(drop)
    }

    /// To be called about every second: hands over what nobody waits for, and syncs if that is how the file
    /// is kept. Tells whether it should be rewritten: it has grown so much, or it cannot be written as it is.
    pub fn tend(&self) -> bool {
        self.sync_in_passing();
        let log = self.lock();
        let enough = self
            .options
            .rewrite_size
            .max(log.base.saturating_mul(self.options.rewrite_growth));
        // What could not be written just now may fit when the file says the same in fewer bytes.
        let is_stuck = log.unsure || !log.unwritten.is_empty();
        let is_time = log.length >= enough || is_stuck;
        log.copy.is_none() && is_time && Instant::now() >= log.not_before
    }

    /// Syncs for the last time and gives the file free. Whoever appends after this is refused.
    pub fn close(&self) {
        if self.lock().copy.is_some() {
            self.abandon_rewrite();
        }
        self.sync_in_passing();
        let mut log = self.lock();
        // What has come since. It stays behind only if the file cannot be written, which has been told.
        let _ = self.hand_over_all(&mut log);
        log.closed = true;
        lock(&self.pending).stuck = true;
        // If this fails, the end of the process does it.
        let _ = log.writer.get_ref().unlock();
    }

    /// Syncs, or only hands over where syncing is left to the operating system. What goes wrong is told where
    /// it does.
    fn sync_in_passing(&self) {
        let _ = match self.options.fsync {
            Fsync::Always | Fsync::EverySecond => self.sync(),
            Fsync::Never => self.hand_over(),
        };
    }

    fn tell(&self, what: impl fmt::Display) {
        crate::log::line(format_args!("rustmemc: {}: {what}", self.path.display()));
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
        lock(&self.log)
    }
}

/// Records as they are in the file, and how many they are.
fn encoded<'a>(records: impl IntoIterator<Item = Record<'a>>) -> (Vec<u8>, u64) {
    // Room for an ordinary record: growing into it bit by bit was measured at 100 ns of the 810 of a set.
    let (mut bytes, mut count) = (Vec::with_capacity(256), 0);
    for record in records {
        record.write(&mut bytes);
        count += 1;
    }
    (bytes, count)
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

#[cfg(test)]
mod tests;
