//! Rewriting: a new file that says what the store holds, in place of one that says how it came to that.
//!
//! The store goes on working. From the beginning of a rewrite every record is written to both files;
//! then the store's shards are copied one by one, each while it is locked and behind all that is pending by
//! then, so that what comes before and after a shard's copy is in order, key by key. At the end the new file
//! is synced and renamed over the old one. A crash at any moment leaves one good file: the old one up to the
//! rename, the new one after it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::disk::{Disk, LogFile};
use super::log::{RewriteFile, lock};
use super::record::Record;
use super::{Aof, RETRY, encoded, unix_time};

impl Aof {
    /// Begins a rewrite: from now on, changes go to both files. `cas` gives the highest cas unique so far;
    /// it is asked when all that have a record are in it.
    ///
    /// # Errors
    /// The rewrite is to be given up.
    pub fn begin_rewrite(&self, cas: impl FnOnce() -> u64) -> io::Result<()> {
        let mut log = self.lock();
        if log.closed {
            return Err(io::Error::other("the server has stopped"));
        }
        let path = rewrite_path(&self.path);
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        // Only then may it be emptied, or removed: it could be another server's.
        file.try_lock()?;
        let file = LogFile::new(file, &self.disk);
        let begin = || -> io::Result<RewriteFile> {
            file.truncate(0)?;
            file.set_permissions(fs::metadata(&self.path)?.permissions())?;
            let mut copy = RewriteFile {
                writer: BufWriter::new(file.clone()),
                length: 0,
                failure: None,
            };
            copy.append(&encoded([Record::Heading { cas: cas() }]).0);
            copy.check()?;
            Ok(copy)
        };
        // What memory has already will be copied: the new file gets the records that come from now on.
        log.take(&self.pending);
        let copy = begin().inspect_err(|_| drop(fs::remove_file(&path)))?;
        log.copy = Some(copy);
        Ok(())
    }

    /// Copies part of the store, which must be locked, into the new file.
    ///
    /// # Errors
    /// The rewrite is to be given up.
    pub fn copy<'a>(&self, records: impl Iterator<Item = Record<'a>>) -> io::Result<()> {
        let (bytes, _) = encoded(records);
        let mut log = self.lock();
        log.take(&self.pending);
        let Some(copy) = &mut log.copy else {
            return Err(io::Error::other("no rewrite has begun"));
        };
        copy.append(&bytes);
        copy.check()
    }

    /// Puts the new file in the place of the old one.
    ///
    /// # Errors
    /// The rewrite is to be given up; the old file is as good as before.
    pub fn finish_rewrite(&self) -> io::Result<()> {
        // The most of it is synced while appending goes on.
        let file = self
            .lock()
            .copy
            .as_ref()
            .map(|copy| copy.writer.get_ref().clone());
        file.ok_or_else(|| io::Error::other("no rewrite has begun"))?
            .sync()?;

        // Opened while that can still fail without harm.
        let folder = open_folder(&self.path)?;
        let mut log = self.lock();
        log.take(&self.pending);
        let Some(mut copy) = log.copy.take() else {
            return Ok(());
        };
        let replaced = copy
            .check()
            .and_then(|()| copy.writer.get_ref().sync())
            .and_then(|()| self.disk.rename(&rewrite_path(&self.path), &self.path));
        if let Err(error) = replaced {
            log.copy = Some(copy);
            return Err(error);
        }
        log.writer = copy.writer;
        log.length = copy.length;
        log.base = copy.length;
        (log.torn, log.unsure) = (false, false);
        // What the old file could not take is in the new one, with everything else.
        let written = log.unwritten.len() as u64;
        self.written.fetch_add(written, Relaxed);
        log.unwritten.clear();
        self.rewrites.fetch_add(1, Relaxed);
        // The new name is on disk before anything is that only the new file has.
        let outcome = self.disk.sync_folder(&folder);
        // If it is not, the next rewrite tries again.
        log.unsure = outcome.is_err();
        lock(&self.pending).stuck = log.unsure;
        if outcome.is_ok() {
            self.synced.fetch_max(self.written.load(Relaxed), Relaxed);
            self.last_sync.store(unix_time(), Relaxed);
        }
        outcome
    }

    /// Gives a rewrite up. The next is not tried at once.
    pub fn abandon_rewrite(&self) {
        let mut log = self.lock();
        log.not_before = Instant::now() + RETRY;
        self.errors.fetch_add(1, Relaxed);
        // If none has begun, the file may be another server's. It is removed while its lock is held.
        if let Some(copy) = log.copy.take() {
            let _ = fs::remove_file(rewrite_path(&self.path));
            drop(copy);
        }
    }
}

/// Where the new file is made: beside the old one, since only within a file system can it be renamed.
pub fn rewrite_path(path: &Path) -> PathBuf {
    beside(path, ".rewrite")
}

/// The path of a file that belongs to another: its name and more.
pub fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    name.into()
}

/// Makes a file's directory entry durable.
pub fn sync_folder_of(path: &Path, disk: &dyn Disk) -> io::Result<()> {
    disk.sync_folder(&open_folder(path)?)
}

fn open_folder(path: &Path) -> io::Result<File> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))
}
