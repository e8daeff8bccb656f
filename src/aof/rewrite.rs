//! Rewriting: a new file replaces the old one. The old file has every change, and the new one only the items that the
//! store holds.
//!
//! The server serves clients meanwhile. From the beginning of a rewrite every record is written to both files. Then the
//! store's shards are copied one by one. Each is locked while it is copied, and its copy is written after all records
//! that are pending at that time. So what comes before and after a shard's copy is in order, key by key. At the end the
//! new file is synced and renamed over the old one. All syncs are made while no lock is held. A crash at any moment
//! leaves one good file: the old one before the rename, the new one after it.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::disk::{LogFile, open_folder, path_beside};
use super::log::{FileState, Log, RewriteFile, lock};
use super::open::{create_exclusively, kind_of, move_aside};
use super::record::Record;
use super::{Aof, RETRY_INTERVAL, encoded};

impl Aof {
    /// Begins a rewrite: from now on, records are written to both files. `cas` returns the highest cas unique so
    /// far. It is called after the records with these uniques have been taken.
    ///
    /// # Errors
    /// The rewrite must be abandoned.
    pub fn begin_rewrite(&self, cas: impl FnOnce() -> u64) -> io::Result<()> {
        let mut log = self.lock();
        if lock(&self.pending).state == FileState::Closed {
            return Err(io::Error::other("the server has stopped"));
        }
        if log.new_file.is_some() {
            return Err(io::Error::other("another rewrite has begun"));
        }
        let path = rewrite_path(&self.path);
        let file = create_exclusively(log.writer.get_ref().file(), &path).map_err(|error| {
            let kind = fs::symlink_metadata(&path).map_or("it", |found| kind_of(found.file_type()));
            match error.kind() {
                ErrorKind::AlreadyExists => io::Error::other(format!(
                    "{} is there already: {kind} that no rewrite of this server has made",
                    path.display()
                )),
                _ => error,
            }
        })?;
        // It is locked before it gets the log's name, so that no other server can open it then.
        file.try_lock()?;
        let file = LogFile::new(file, &self.disk);
        let begin = || -> io::Result<RewriteFile> {
            let mut new_file = RewriteFile {
                writer: BufWriter::new(file.clone()),
                length: 0,
                failure: None,
                is_synced_too: false,
            };
            new_file.append(&encoded([Record::Heading { cas: cas() }]).0);
            new_file.check()?;
            Ok(new_file)
        };
        // The changes of the pending records are made before their shard is copied, because it is locked until then. So
        // the new file gets them with the copies. It gets a record of its own for each later change.
        log.take(&self.pending);
        self.rewrite_requested.store(false, Relaxed);
        let new_file = begin().inspect_err(|_| drop(fs::remove_file(&path)))?;
        log.new_file = Some(new_file);
        Ok(())
    }

    /// Appends a shard's items, for the new file only, to the pending records. The shard must be locked, and this does
    /// not wait for the disk.
    pub fn append_copy<'a>(&self, records: impl Iterator<Item = Record<'a>>) {
        let (copy, _) = encoded(records);
        let mut pending = lock(&self.pending);
        let offset = pending.bytes.len();
        pending.copies.push((offset, copy));
    }

    /// Writes the copies to the new file. No shard is locked.
    ///
    /// # Errors
    /// The rewrite must be abandoned.
    pub fn write_copies(&self) -> io::Result<()> {
        let mut log = self.lock();
        log.take(&self.pending);
        let none = || io::Error::other("no rewrite has begun");
        log.new_file.as_mut().ok_or_else(none)?.check()
    }

    /// Replaces the old file by the new one.
    ///
    /// # Errors The rewrite must be abandoned. Either the old file is unchanged, or the new one has replaced it, and
    /// its directory entry or its last records may not be durable.
    pub fn finish_rewrite(&self) -> io::Result<()> {
        self.sync_new_file(false)?;
        // From now on whatever is synced is synced in both files. So when this sync is done, all that is durable in the
        // old file is durable in the new one.
        // It takes its turn, because threads that sync the log now sync the new file too: of two syncs of one file at
        // the same time, only one would return an error.
        self.one_sync_at_a_time(|| self.sync_new_file(true))?;

        // The folder is opened before the rename, because a failure does no harm yet.
        let folder = open_folder(&self.path)?;
        let mut log = self.lock();
        log.take(&self.pending);
        let Some(mut new_file) = log.new_file.take() else {
            return Ok(());
        };
        let renamed = new_file.check().and_then(|()| {
            let new_path = rewrite_path(&self.path);
            if log.writer.get_ref().is_at(&self.path) {
                self.disk.rename(&new_path, &self.path)
            } else {
                self.move_other_file_aside()?;
                // Not a rename: it would replace a file that got the name just now.
                fs::hard_link(&new_path, &self.path)?;
                fs::remove_file(&new_path)
            }
        });
        if let Err(error) = renamed {
            log.new_file = Some(new_file);
            return Err(error);
        }
        log.writer = new_file.writer;
        log.length = new_file.length;
        log.base = new_file.length;
        log.unsynced_folder = Some(Arc::new(folder));
        // The new file holds the records that the old file could not take, because it holds everything.
        let written = log.unwritten.len() as u64;
        self.written.fetch_add(written, Relaxed);
        log.unwritten.clear();
        self.rewrites.fetch_add(1, Relaxed);
        self.set_state(FileState::Good);
        drop(log);
        // The new directory entry must be durable before a record counts as synced that only the new file holds. If
        // this fails, the next rewrite tries again.
        self.one_sync_at_a_time(|| self.sync_now())
    }

    /// Gives another file that has the log's name a new name.
    ///
    /// # Errors
    /// It is another server's, or not a regular file.
    fn move_other_file_aside(&self) -> io::Result<()> {
        let there = match fs::symlink_metadata(&self.path) {
            Ok(found) if found.is_file() => File::open(&self.path)?,
            Ok(found) => {
                return Err(io::Error::other(format!(
                    "{} is now {} and not a regular file",
                    self.path.display(),
                    kind_of(found.file_type())
                )));
            }
            Err(_) => return Ok(()),
        };
        if there.try_lock().is_err() {
            return Err(io::Error::other(
                "another server uses the file of this name now",
            ));
        }
        let aside = move_aside(&self.path, "replaced")?;
        self.print(format_args!(
            "another file has this name; it is kept as {}",
            aside.display()
        ));
        Ok(())
    }

    /// Whether a rewrite has begun and not ended.
    pub fn is_rewriting(&self) -> bool {
        self.lock().new_file.is_some()
    }

    /// Syncs the new file while other threads go on appending. `is_synced_too`: see [`RewriteFile`].
    pub(super) fn sync_new_file(&self, is_synced_too: bool) -> io::Result<()> {
        let file = {
            let mut log = self.lock();
            let none = || io::Error::other("no rewrite has begun");
            let new_file = log.new_file.as_mut().ok_or_else(none)?;
            new_file.is_synced_too = is_synced_too;
            new_file.writer.get_ref().clone()
        };
        file.sync()
    }

    /// Abandons a rewrite. The next one begins after `RETRY_INTERVAL` at the earliest.
    pub fn abandon_rewrite(&self) {
        self.remove_new_file(&mut self.lock());
    }

    pub(super) fn remove_new_file(&self, log: &mut Log) {
        log.retry_at = Instant::now() + RETRY_INTERVAL;
        self.errors.fetch_add(1, Relaxed);
        // If this server has no new file, a file of this name may be another server's. The new file is removed while
        // it is still locked.
        if let Some(new_file) = log.new_file.take() {
            let _ = fs::remove_file(rewrite_path(&self.path));
            drop(new_file);
        }
    }
}

/// The path of the new file. It is beside the old one, because a file can be renamed only within a file system.
pub fn rewrite_path(path: &Path) -> PathBuf {
    path_beside(path, ".rewrite")
}
