//! Syncing: threads that wait for a sync share it.
//!
//! A sync takes as long for one record as for fifty. So with `--fsync always` threads share it. A thread that
//! finds no sync running syncs everything that has been appended. Threads that come meanwhile wait, and share
//! the next sync.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use super::disk::LogFile;
use super::log::{FileState, lock};
use super::{Aof, unix_time};

/// How often a thread that waits for another thread's sync yields before it sleeps. Meanwhile other threads execute
/// commands and append. Usually one of them syncs this thread's record too, and this thread need not sleep at all.
const YIELDS: u32 = 30;

impl Aof {
    /// Syncs everything that was appended before this call, unless it is synced already. Other threads may append
    /// meanwhile.
    ///
    /// # Errors
    /// The file cannot be written or synced.
    pub fn sync(&self) -> io::Result<()> {
        let wanted = self.appended.load(Relaxed);
        let is_done = || self.synced.load(Relaxed) >= wanted;
        let mut yields = 0..YIELDS;
        let mut syncing = loop {
            if is_done() {
                return Ok(());
            }
            let syncing = lock(&self.syncing);
            if !*syncing {
                break syncing;
            }
            if yields.next().is_some() {
                drop(syncing);
                thread::yield_now();
            } else {
                // The disk is slow, so sleeping is cheaper than yielding on.
                let woken = self.has_synced.wait(syncing);
                drop(woken.unwrap_or_else(PoisonError::into_inner));
            }
        };
        if is_done() {
            return Ok(());
        }
        *syncing = true;
        drop(syncing);
        let outcome = self.sync_now();
        self.end_sync();
        outcome
    }

    /// Waits until no thread syncs, and then does this sync.
    pub(super) fn one_sync_at_a_time(
        &self,
        sync: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let syncing = self
            .has_synced
            .wait_while(lock(&self.syncing), |syncing| *syncing);
        *syncing.unwrap_or_else(PoisonError::into_inner) = true;
        let outcome = sync();
        self.end_sync();
        outcome
    }

    /// Lets the next thread sync. A failure of this sync is noted already.
    fn end_sync(&self) {
        *lock(&self.syncing) = false;
        self.has_synced.notify_all();
    }

    pub(super) fn sync_now(&self) -> io::Result<()> {
        self.flush_to_os()?;
        // The files and the point up to which they hold the history are read together, under the file's lock.
        let log = self.lock();
        if lock(&self.pending).state == FileState::SyncFailed {
            return Err(io::Error::other("a sync has failed"));
        }
        let file = log.writer.get_ref().clone();
        let new_file = log
            .new_file
            .as_ref()
            .filter(|new_file| new_file.is_synced_too);
        let new_file = new_file.map(|new_file| new_file.writer.get_ref().clone());
        let folder = log.unsynced_folder.clone();
        let up_to = self.written.load(Relaxed);
        drop(log);
        // No lock is held during the syncs.
        self.sync_or_fail(&file, || file.sync())?;
        if let Some(new_file) = new_file {
            self.sync_or_fail(&new_file, || new_file.sync())?;
        }
        if let Some(folder) = folder {
            self.sync_or_fail(&file, || self.disk.sync_folder(&folder))?;
            let mut log = self.lock();
            // Another rewrite may have made the next directory entry meanwhile.
            let is_last = |last: &Arc<File>| Arc::ptr_eq(last, &folder);
            if log.unsynced_folder.as_ref().is_some_and(is_last) {
                log.unsynced_folder = None;
            }
        }
        self.synced.fetch_max(up_to, Relaxed);
        self.last_sync.store(unix_time(), Relaxed);
        Ok(())
    }

    /// Syncs `file` or its folder. If that fails, and it is the log's file or the one that takes its place, changes are
    /// refused from now on.
    fn sync_or_fail(
        &self,
        file: &LogFile,
        sync: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let outcome = sync();
        if let Err(error) = &outcome {
            let mut log = self.lock();
            let new_file = log.new_file.as_mut();
            let new_file = new_file.filter(|new_file| file.is_same_as(new_file.writer.get_ref()));
            let is_new_file = new_file.is_some();
            if let Some(new_file) = new_file {
                new_file.failure = Some(io::Error::other("a sync has failed"));
            }
            // If a rewrite has replaced the file meanwhile, the new file is good.
            if is_new_file || file.is_same_as(log.writer.get_ref()) {
                self.set_state(FileState::SyncFailed);
            }
            drop(log);
            self.errors.fetch_add(1, Relaxed);
            self.print(format_args!(
                "cannot sync ({error}); changes are refused until the file is rewritten"
            ));
        }
        outcome
    }
}
