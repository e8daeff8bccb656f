//! The store and its append-only file: every change is recorded before it is made, and made again when
//! the file is replayed.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::StoreError;
use super::{Datastore, WhenFull, read};
use crate::aof::record::Record;
use crate::aof::replay::{OpenError, Replayed};
use crate::aof::{Aof, Options};
use crate::log;
use crate::stats::Counter;

/// A cas unique that a client chose itself (`E`) may be anything; one from here on is not taken for one
/// that was given out, so that there is always a next one.
const CHOSEN: u64 = 1 << 62;

/// What a shard may take, in bytes, for chunks of which little is used.
const BEGUN: usize = 16 << 10;

impl Datastore {
    /// Replays an append-only file into this store, which must be empty, and records every change in it
    /// from now on. `stopping` is asked now and then whether to leave off.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_log(
        &mut self,
        options: Options,
        stopping: impl Fn() -> bool,
    ) -> Result<Replayed, OpenError> {
        let mut flush_at = None;
        let path = options.path.clone();
        let (log, replayed) = Aof::open(
            options,
            |record| self.apply(record, &mut flush_at),
            &stopping,
        )?;
        // Items lie otherwise in memory than they did, and what they take differs by a little. What was there is to
        // be there again; the next writes evict what is too much.
        let a_sixteenth = self.memory_limit() / 16;
        self.fit(self.memory_limit().saturating_add(a_sixteenth + BEGUN));
        let forgotten = self.stats.get(Counter::Evictions);
        self.stats.reset();
        log.set_base(
            self.bays
                .iter()
                .map(|bay| read(&bay.shard).size_of_records())
                .sum(),
        );
        self.log = Some(log);
        self.flush_at.store(flush_at.unwrap_or(0), Relaxed);
        if forgotten > 0 {
            // The file knows keys that memory had no room for, and so would not know to remove.
            log::line(format_args!(
                "rustmemc: -m holds less than the file: {forgotten} items were evicted"
            ));
            self.rewrite_log(&stopping)
                .map_err(|error| OpenError::Io(path, error))?;
        }
        // A flush that came due while nobody was there takes everything, and is recorded.
        self.flush_if_due();
        Ok(replayed)
    }

    /// Makes a recorded change again. That cannot fail: nothing is recorded meanwhile.
    ///
    /// Time stands still: an item that has expired by now may be touched by a later record, which then was
    /// in time. Expired items go at the end, or when they take as much room again as `-m` allows.
    fn apply(&self, record: Record<'_>, flush_at: &mut Option<u32>) {
        let given_out = |cas: u64| {
            if cas < CHOSEN {
                self.last_cas.fetch_max(cas, Relaxed);
            }
        };
        let _: Result<_, StoreError> = match record {
            Record::Heading { cas } => {
                self.last_cas.fetch_max(cas, Relaxed);
                Ok(())
            }
            Record::Put(item) => {
                given_out(item.cas);
                let (key, cas) = (item.key().to_vec(), Some(item.cas));
                let stored = self.slot_in_replay(&key).put(item, cas).map(drop);
                let evicts = self.limits.when_full == WhenFull::Evict;
                if evicts && self.used.load(Relaxed) / 2 > self.memory_limit() + BEGUN {
                    self.fit(self.memory_limit());
                }
                stored
            }
            Record::Touch { key, expiry } => self.slot_in_replay(&key).touch(expiry),
            Record::Stale { key, expiry, cas } => {
                given_out(cas);
                self.slot_in_replay(&key).invalidate(expiry, Some(cas))
            }
            Record::Remove { key, cas } => {
                given_out(cas.unwrap_or(0));
                self.slot_in_replay(&key).remove()
            }
            Record::Flush => {
                *flush_at = None;
                self.flush()
            }
            // Looked at when everything is there that it may have to take.
            Record::FlushAt(time) => {
                *flush_at = Some(time);
                Ok(())
            }
            Record::FlushNever => {
                *flush_at = None;
                Ok(())
            }
        };
    }

    /// Removes what has expired, and evicts until all items together take at most so many bytes; with
    /// `-M`, what was stored stays.
    fn fit(&self, bytes: usize) {
        self.sweep();
        if self.limits.when_full == WhenFull::Evict {
            // Nothing is recorded yet, so nothing can fail.
            let _ = self.make_room(|| self.used.load(Relaxed) <= bytes);
        }
    }

    /// Records a change. To be called with the changed key's shard locked, before the change is made.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then it must not be made.
    pub(super) fn record<'a>(&self, record: impl FnOnce() -> Record<'a>) -> Result<(), StoreError> {
        match &self.log {
            Some(log) => log.append(&record()).map_err(|_| StoreError::LogFailed),
            None => Ok(()),
        }
    }

    /// To be called before answers to changes leave: see [`Aof::before_answers`].
    ///
    /// # Errors
    /// Nothing may be acknowledged.
    pub fn before_answers(&self) -> io::Result<()> {
        self.log.as_ref().map_or(Ok(()), Aof::before_answers)
    }

    /// To be called about every second, by one thread: syncs the file, and rewrites it when it is time.
    pub fn tend_log(&self, stopping: impl Fn() -> bool) {
        let Some(log) = &self.log else { return };
        if log.tend()
            && !stopping()
            && let Err(error) = self.rewrite_log(&stopping)
            && !stopping()
        {
            log::line(format_args!(
                "rustmemc: cannot rewrite the append-only file ({error}); it goes on growing"
            ));
        }
    }

    /// Syncs the file for the last time, and lets another server have it.
    pub fn close_log(&self) {
        if let Some(log) = &self.log {
            log.close();
        }
    }

    /// What `stats` tells about the file.
    pub fn describe_log(&self) -> Vec<(String, String)> {
        self.log.as_ref().map_or_else(Vec::new, Aof::describe)
    }

    fn rewrite_log(&self, stopping: impl Fn() -> bool) -> io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let rewrite = || {
            log.begin_rewrite(|| self.last_cas.load(Relaxed))?;
            for (number, bay) in self.bays.iter().enumerate() {
                if stopping() {
                    return Err(io::Error::other("the server stops"));
                }
                // Locked until its records are in the new file: its next change comes behind them.
                let shard = read(&bay.shard);
                let mut records: Vec<_> = shard
                    .live(self.clock.now())
                    .into_iter()
                    .map(Record::Put)
                    .collect();
                // A pending flush goes with the first shard, whose lock it is changed under.
                let flush_at = self.flush_at.load(Relaxed);
                if number == 0 && flush_at != 0 {
                    records.push(Record::FlushAt(flush_at));
                }
                log.copy(&records)?;
            }
            log.finish_rewrite()
        };
        rewrite().inspect_err(|_| log.abandon_rewrite())
    }
}
