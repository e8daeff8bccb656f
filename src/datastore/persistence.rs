//! The store and its append-only file: every change is recorded before it is made, and is made again when
//! the file is replayed.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use super::StoreError;
use super::segment::SEGMENT_SIZE;
use super::{Datastore, WhenFull, read};
use crate::aof::open::OpenError;
use crate::aof::record::Record;
use crate::aof::replay::Replayed;
use crate::aof::{Aof, Options};
use crate::item::UnixTime;
use crate::log;
use crate::stats::Counter;

/// A record does not say whether its cas unique was given out or chosen by a client (`E`). A cas unique below this
/// counts as given out. A higher one does not: otherwise a client could use up all cas uniques. If it was given out,
/// the next time mark has it.
const MIN_CHOSEN_CAS: u64 = 1 << 62;

/// How many cas uniques a start skips. A crash can take back changes whose cas uniques a client has seen. The server
/// gives out fewer than this between two time marks, and there are enough for a thousand million starts.
const CAS_SKIPPED_AT_START: u64 = 1 << 32;

/// About how many bytes a record has beside key and value: verb, numbers and checksums.
const RECORD_LINE: usize = 32;

/// How often the file is synced (`--fsync everysec`) and looked at.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// How often a stopping server looks whether the log keeper's rewrite has ended.
const REWRITE_POLL_INTERVAL: Duration = Duration::from_millis(5);

impl Datastore {
    /// Replays an append-only file into this store, which must be empty. From then on every change is recorded in the
    /// file. Calls `stopping` now and then, and gives up when it returns true.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_log(
        &mut self,
        options: Options,
        stopping: impl Fn() -> bool,
    ) -> Result<Replayed, OpenError> {
        let mut flush_at = None;
        let opened = Aof::open(
            options,
            |record| self.apply(record, &mut flush_at),
            || {
                // Asking the system for each record was measured at a twentieth of the time of a replay.
                self.clock.keep_now();
                stopping()
            },
        );
        self.clock.release();
        let (log, replayed) = opened?;
        self.sweep();
        let evicted = self.stats.get(Counter::Evictions);
        // If the file had no record, not even a heading, it is new, and nothing was given out.
        if replayed.records > 0 {
            self.last_cas.fetch_add(CAS_SKIPPED_AT_START, Relaxed);
        }
        self.stats.reset();
        log.set_base(
            self.shards
                .iter()
                .map(|shard| read(shard).bytes(RECORD_LINE) as u64)
                .sum(),
        );
        self.log = Some(log);
        self.flush_at.store(flush_at.unwrap_or(0), Relaxed);
        if evicted > 0 {
            // The file still has items that were evicted here, and nothing has recorded that. A later start could bring
            // them back, so the file is rewritten.
            log::line(format_args!(
                "rustmemc: -m holds less than the file: {evicted} items were evicted"
            ));
            if let Err(error) = self.rewrite_log(&stopping) {
                // The server serves what it has, and tries again later.
                log::line(format_args!(
                    "rustmemc: cannot rewrite the append-only file ({error}): what was evicted is still in it"
                ));
                self.log.iter().for_each(Aof::request_rewrite);
            }
        }
        // If a delayed flush came due while the server was down, it happens now, and is recorded.
        self.flush_if_due();
        Ok(replayed)
    }

    /// Makes a recorded change again. That cannot fail, because nothing is recorded during a replay.
    ///
    /// An item's expiry is not compared with the clock: a later record may touch an item that has expired by now, and
    /// was in time when it was written. So expired items are removed only at the time marks, as in the running server.
    fn apply(&self, record: Record<'_>, flush_at: &mut Option<u32>) {
        let _: Result<_, StoreError> = match record {
            Record::Heading { cas } => {
                self.last_cas.fetch_max(cas, Relaxed);
                Ok(())
            }
            Record::Mark { time, cas, .. } => {
                self.last_cas.fetch_max(cas, Relaxed);
                self.remove_expired(time);
                Ok(())
            }
            Record::Put(item) => {
                self.note_cas(item.cas);
                let mut guard = self.lock_key_in_replay(item.key());
                let stored = guard.put(item.borrowed(), Some(item.cas)).map(drop);
                drop(guard);
                self.evict_in_replay();
                stored
            }
            Record::Touch { key, expiry } => self.lock_key_in_replay(&key).touch(expiry),
            Record::Stale { key, expiry, cas } => {
                self.note_cas(cas);
                self.lock_key_in_replay(&key).invalidate(expiry, Some(cas))
            }
            Record::Remove { key, cas } => {
                self.note_cas(cas.unwrap_or(0));
                self.lock_key_in_replay(&key).remove()
            }
            Record::Flush => {
                *flush_at = None;
                self.flush()
            }
            // A flush that is due happens when all records have been applied.
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

    /// Evicts if the file holds more than memory may, with `-M` too.
    ///
    /// After a replay the items are in other segments than before, so they may take a little more memory. No item may
    /// be lost for that reason, so a little more than the limit is allowed here. The next writes evict the excess.
    fn evict_in_replay(&self) {
        let slack = self.memory_limit() / 16 + 2 * SEGMENT_SIZE;
        let limit = self.memory_limit().saturating_add(slack);
        if self.memory.used() > limit {
            if self.limits.when_full == WhenFull::Refuse {
                self.compact_fully();
            }
            // Nothing is recorded during a replay, so nothing can fail.
            let _ = self.evict_down_to(limit, usize::MAX, 0);
        }
        self.memory.trim_pool();
    }

    /// Notes the cas unique of a record: it may have been given out after the last time mark.
    fn note_cas(&self, cas: u64) {
        if cas < MIN_CHOSEN_CAS {
            self.last_cas.fetch_max(cas, Relaxed);
        }
    }

    /// Records a change. Call this with the changed key's shard locked, before the change is made.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then the change must not be made.
    pub(super) fn record<'a>(&self, record: impl FnOnce() -> Record<'a>) -> Result<(), StoreError> {
        self.record_all(std::iter::once_with(record))
    }

    /// Records a flush.
    ///
    /// # Errors
    /// [`StoreError::LogFailed`].
    pub(super) fn record_flush(&self) -> Result<(), StoreError> {
        let record = std::iter::once(Record::Flush);
        let outcome = self.log.as_ref().map_or(Ok(()), |log| log.append(record));
        outcome.map_err(|_| StoreError::LogFailed)
    }

    /// Records several changes together, to keys of one shard.
    ///
    /// # Errors [`StoreError::LogFailed`]: then none of them may be made.
    pub(super) fn record_all<'a>(
        &self,
        records: impl Iterator<Item = Record<'a>>,
    ) -> Result<(), StoreError> {
        match &self.log {
            // What is stored before the flush is recorded would be flushed by a replay.
            Some(_) if self.has_unrecorded_flush.load(Relaxed) => Err(StoreError::LogFailed),
            Some(log) => log.append(records).map_err(|_| StoreError::LogFailed),
            None => Ok(()),
        }
    }

    /// Call this before a command that may change something is executed: see [`Aof::before_change`].
    ///
    /// # Errors
    /// [`StoreError::LogFailed`]: then the command must not be executed.
    pub fn before_change(&self) -> Result<(), StoreError> {
        let outcome = self.log.as_ref().map_or(Ok(()), Aof::before_change);
        outcome.map_err(|_| StoreError::LogFailed)
    }

    /// Call this before an answer to a change is sent: see [`Aof::before_answers`].
    ///
    /// # Errors The records are not safe, so no answer to a change may be sent.
    pub fn before_answers(&self) -> io::Result<()> {
        self.log.as_ref().map_or(Ok(()), Aof::before_answers)
    }

    /// Appends a time mark to the log, after the items that have expired by `now` were removed.
    ///
    /// If the clock went back, the log is rewritten: an item that has expired by the old time, and whose removal is not
    /// recorded, would be alive again by the new time.
    pub(super) fn mark_log(&self, now: UnixTime, has_removed: bool) {
        let Some(log) = &self.log else { return };
        let before = self.marked_at.swap(now, Relaxed);
        if now < before {
            log::line(format_args!(
                "rustmemc: the clock went back by {} seconds; the append-only file is rewritten",
                before - now
            ));
            log.request_rewrite();
        }
        log.mark(now, has_removed, || self.last_cas.load(Relaxed));
    }

    /// Maintains the file until the server stops: every second, and as soon as a write has made it large. A thread of
    /// its own calls this, because a sync or a rewrite may take long. To end it, let `stopping` return true, and unpark
    /// that thread.
    pub fn keep_log(&self, stopping: impl Fn() -> bool) {
        if let Some(log) = &self.log {
            log.set_keeper();
        }
        while !stopping() {
            thread::park_timeout(LOG_INTERVAL);
            self.maintain_log(&stopping);
        }
    }

    /// Call this about every second, from one thread. It syncs the file, and rewrites it when it is time.
    pub fn maintain_log(&self, stopping: impl Fn() -> bool) {
        let Some(log) = &self.log else { return };
        if log.maintain()
            && !stopping()
            && let Err(error) = self.rewrite_log(&stopping)
            && !stopping()
        {
            log::line(format_args!(
                "rustmemc: cannot rewrite the append-only file ({error})"
            ));
        }
    }

    /// Writes the pending records, syncs unless `--fsync never`, and unlocks the file, so that another server can open
    /// it. If the file has lost its name, it is rewritten first.
    pub fn close_log(&self) {
        let Some(log) = &self.log else { return };
        while !log.is_in_place() {
            match self.rewrite_log(|| false) {
                Ok(()) => break,
                // The log keeper's rewrite is about to end, in one way or the other.
                Err(_) if log.is_rewriting() => thread::sleep(REWRITE_POLL_INTERVAL),
                Err(error) => {
                    log::line(format_args!(
                        "rustmemc: cannot write the append-only file anew ({error}): the items are only in the file that was removed or replaced"
                    ));
                    break;
                }
            }
        }
        log.close();
    }

    /// The names and values of the file in `stats`.
    pub fn describe_log(&self) -> Vec<(String, String)> {
        self.log.as_ref().map_or_else(Vec::new, Aof::describe)
    }

    fn rewrite_log(&self, stopping: impl Fn() -> bool) -> io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let begun = log.begin_rewrite(|| self.last_cas.load(Relaxed));
        // If another thread's rewrite has begun, it goes on.
        begun.inspect_err(|_| {
            if !log.is_rewriting() {
                log.abandon_rewrite();
            }
        })?;
        let copy = || {
            for (number, shard) in self.shards.iter().enumerate() {
                if stopping() {
                    return Err(io::Error::other("the server is stopping"));
                }
                // The old file is synced every second as before: this may take long.
                log.sync_if_due();
                // Locked until its copy is among the pending records: its next change comes after them.
                let shard = read(shard);
                let items = shard.unexpired(self.clock.now()).map(Record::Put);
                // A pending flush is written with the first shard, because that shard's lock guards it.
                let flush_at = Some(self.flush_at.load(Relaxed));
                let flush_at = flush_at.filter(|&time| number == 0 && time != 0);
                log.append_copy(items.chain(flush_at.map(Record::FlushAt)));
                drop(shard);
                log.write_copies()?;
            }
            log.finish_rewrite()
        };
        copy().inspect_err(|_| log.abandon_rewrite())
    }
}
