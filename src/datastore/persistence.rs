//! The store and its append-only file: every change is recorded before it is made, and made again when
//! the file is replayed.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::StoreError;
use super::segment::SEGMENT_SIZE;
use super::{Datastore, WhenFull, read};
use crate::aof::record::Record;
use crate::aof::replay::{OpenError, Replayed};
use crate::aof::{Aof, Options};
use crate::log;
use crate::stats::Counter;

/// A cas unique that a client chose itself (`E`) may be anything; one from here on is not taken for one
/// that was given out, so that there is always a next one.
const MIN_CHOSEN_CAS: u64 = 1 << 62;

/// About how many bytes a record has beside key and value: verb, numbers and checksums.
const RECORD_LINE: usize = 48;

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
        self.sweep();
        // Items lie otherwise in segments than they did, and what they take differs by a little. What was there must be
        // there again; the next writes evict what is too much.
        let slack = self.memory_limit() / 16 + 2 * SEGMENT_SIZE;
        self.evict_in_replay(self.memory_limit().saturating_add(slack));
        let forgotten = self.stats.get(Counter::Evictions);
        self.stats.reset();
        log.set_base(
            self.shards
                .iter()
                .map(|shard| read(shard).bytes(RECORD_LINE) as u64)
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
            if cas < MIN_CHOSEN_CAS {
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
                let stored = self.lock_key_in_replay(&key).put(item, cas).map(drop);
                if self.memory.used() / 2 > self.memory_limit() {
                    self.evict_in_replay(self.memory_limit());
                }
                stored
            }
            Record::Touch { key, expiry } => self.lock_key_in_replay(&key).touch(expiry),
            Record::Stale { key, expiry, cas } => {
                given_out(cas);
                self.lock_key_in_replay(&key).invalidate(expiry, Some(cas))
            }
            Record::Remove { key, cas } => {
                given_out(cas.unwrap_or(0));
                self.lock_key_in_replay(&key).remove()
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

    /// Evicts until at most this many bytes are used. With `-M`, what was stored stays.
    fn evict_in_replay(&self, bytes: usize) {
        if self.limits.when_full == WhenFull::Evict {
            // Nothing is recorded yet, so nothing can fail.
            let _ = self.evict_down_to(bytes, usize::MAX);
            self.memory.trim_pool();
        }
    }

    /// Records a change. Call this with the changed key's shard locked, before the change is made.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then it must not be made.
    pub(super) fn record<'a>(&self, record: impl FnOnce() -> Record<'a>) -> Result<(), StoreError> {
        self.record_all(std::iter::once_with(record))
    }

    /// Records several changes together, to keys of one shard.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then none of them must be made.
    pub(super) fn record_all<'a>(
        &self,
        records: impl Iterator<Item = Record<'a>>,
    ) -> Result<(), StoreError> {
        match &self.log {
            Some(log) => log.append(records).map_err(|_| StoreError::LogFailed),
            None => Ok(()),
        }
    }

    /// Call this before a command that may change something is executed: see [`Aof::before_change`].
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then it must not be executed.
    pub fn before_change(&self) -> Result<(), StoreError> {
        let outcome = self.log.as_ref().map_or(Ok(()), Aof::before_change);
        outcome.map_err(|_| StoreError::LogFailed)
    }

    /// Call this before an answer to a change is sent: see [`Aof::before_answers`].
    ///
    /// # Errors
    /// Nothing may be acknowledged.
    pub fn before_answers(&self) -> io::Result<()> {
        self.log.as_ref().map_or(Ok(()), Aof::before_answers)
    }

    /// To be called about every second, by one thread: syncs the file, and rewrites it when it is time.
    pub fn maintain_log(&self, stopping: impl Fn() -> bool) {
        let Some(log) = &self.log else { return };
        if log.maintain()
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
            for (number, shard) in self.shards.iter().enumerate() {
                if stopping() {
                    return Err(io::Error::other("the server stops"));
                }
                // Locked until its records are in the new file: its next change comes behind them.
                let shard = read(shard);
                let items = shard.unexpired(self.clock.now()).map(Record::Put);
                // A pending flush goes with the first shard, whose lock it is changed under.
                let flush_at = Some(self.flush_at.load(Relaxed));
                let flush_at = flush_at.filter(|&time| number == 0 && time != 0);
                log.copy(items.chain(flush_at.map(Record::FlushAt)))?;
            }
            log.finish_rewrite()
        };
        rewrite().inspect_err(|_| log.abandon_rewrite())
    }
}
