//! Syncing: one for all who wait for it.
//!
//! A sync takes as long for one record as for fifty, so with `--fsync always` it is shared: whoever finds
//! nobody syncing does it, for all that is appended by then; those who come meanwhile wait, and share the
//! next.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use super::log::lock;
use super::{Aof, TURNS, unix_time};

impl Aof {
    /// Syncs what has been appended up to now, unless it is. Appending goes on meanwhile.
    ///
    /// # Errors
    /// Those of the file.
    pub fn sync(&self) -> io::Result<()> {
        let wanted = self.appended.load(Relaxed);
        let is_done = || self.synced.load(Relaxed) >= wanted;
        let mut turns = 0..TURNS;
        let mut syncing = loop {
            if is_done() {
                return Ok(());
            }
            let syncing = lock(&self.syncing);
            if !*syncing {
                break syncing;
            }
            if turns.next().is_some() {
                drop(syncing);
                thread::yield_now();
            } else {
                // A slow disk. Now it is better to sleep.
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
        *lock(&self.syncing) = false;
        self.has_synced.notify_all();
        outcome
    }

    fn sync_now(&self) -> io::Result<()> {
        self.hand_over()?;
        // The file to sync, and how far its content goes, belong together.
        let log = self.lock();
        if log.unsure {
            return Err(io::Error::other("a sync has failed"));
        }
        let file = log.writer.get_ref().clone();
        let up_to = self.written.load(Relaxed);
        drop(log);
        if let Err(error) = file.sync() {
            let mut log = self.lock();
            // Unless a rewrite has put another file in its place meanwhile.
            if file.is_same_as(log.writer.get_ref()) {
                log.unsure = true;
                lock(&self.pending).stuck = true;
            }
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
}
