//! The counters that `stats` shows, with memcached's names. A meta command uses the counters of the classic command
//! that does the same.
//!
//! A worker counts in its own [`Counts`], plain numbers that cost next to nothing. They are added to the server's
//! [`Stats`] before answers are sent, so a client that has read an answer finds its command counted.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// Everything that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter { $($(#[$doc])* $variant,)* }

        impl Counter {
            /// All of them, in the order in which they are declared.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// The name in the answer to `stats`.
            pub fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)* }
            }
        }
    };
}

counters! {
    /// Clients that got a permit.
    TotalConnections => "total_connections",
    /// Clients that were refused because `-c` was reached, or because the system had no thread or file descriptor.
    RejectedConnections => "rejected_connections",
    /// Keys requested with `get`, `gets` or `mg`, except those that `mg` found and touched.
    CmdGet => "cmd_get",
    /// Items that clients tried to store, after their data block was read. Not all were stored.
    CmdSet => "cmd_set",
    /// `flush_all`, even if it was not allowed.
    CmdFlush => "cmd_flush",
    /// Keys requested with `touch`, `gat` or `gats`, and keys that `mg` found and touched.
    CmdTouch => "cmd_touch",
    /// `me`. No other counter counts it.
    CmdMeta => "cmd_meta",
    /// Keys counted in `cmd_get` that were found.
    GetHits => "get_hits",
    /// Keys counted in `cmd_get` that were not found.
    GetMisses => "get_misses",
    /// Expired items that `get`, `gets`, or `mg` without T, N and R asked for.
    GetExpired => "get_expired",
    /// Keys that were not found because the item had been flushed. Always 0: here a flush removes items at once.
    GetFlushed => "get_flushed",
    /// `delete` that found no item.
    DeleteMisses => "delete_misses",
    /// `delete` that found an item.
    DeleteHits => "delete_hits",
    /// `incr` that found no item.
    IncrMisses => "incr_misses",
    /// `incr` that found an item.
    IncrHits => "incr_hits",
    /// `decr` that found no item.
    DecrMisses => "decr_misses",
    /// `decr` that found an item.
    DecrHits => "decr_hits",
    /// `cas` that found no item.
    CasMisses => "cas_misses",
    /// `cas` with the item's cas unique.
    CasHits => "cas_hits",
    /// `cas` with another cas unique than the item's.
    CasBadval => "cas_badval",
    /// `touch`, `gat` and `mg … T` that found an item.
    TouchHits => "touch_hits",
    /// `touch` and `gat` that found no item.
    TouchMisses => "touch_misses",
    /// Items refused because of `-I`.
    StoreTooLarge => "store_too_large",
    /// Items refused because of `-m`.
    StoreNoMemory => "store_no_memory",
    /// Connections closed because of `--idle-timeout`.
    IdleKicks => "idle_kicks",
    /// Logins that were tried, if the server has `-Y`.
    AuthCmds => "auth_cmds",
    /// Logins that failed.
    AuthErrors => "auth_errors",
    /// Lines that were logged for watchers. A line counts once, also if several watchers get it.
    LogWorkerWritten => "log_worker_written",
    /// Lines that did not fit into the queue of a watcher.
    LogWatcherSkipped => "log_watcher_skipped",
    /// Lines that were appended to the queue of a watcher.
    LogWatcherSent => "log_watcher_sent",
    /// Bytes read from clients.
    BytesRead => "bytes_read",
    /// Bytes written to clients.
    BytesWritten => "bytes_written",
    /// Items stored.
    TotalItems => "total_items",
    /// Items evicted to free memory.
    Evictions => "evictions",
    /// Items removed because they had expired.
    Reclaimed => "reclaimed",
    /// Expired items that were removed and had never been read.
    ExpiredUnfetched => "expired_unfetched",
    /// Evicted items that had never been read.
    EvictedUnfetched => "evicted_unfetched",
}

const COUNTERS: usize = Counter::ALL.len();

/// One worker's counts that are not yet added to [`Stats`].
#[derive(Debug)]
pub struct Counts {
    counts: [Cell<u64>; COUNTERS],
    /// Whether all are 0. (Sending an answer adds them twice. The second time there is nothing to add.)
    are_zero: Cell<bool>,
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            counts: [const { Cell::new(0) }; COUNTERS],
            are_zero: Cell::new(true),
        }
    }
}

impl Counts {
    /// Adds 1 to the counter.
    // The discriminants of `Counter` are 0 to COUNTERS - 1, so no index is out of bounds.
    #[allow(clippy::indexing_slicing)]
    pub fn add(&self, counter: Counter) {
        let count = &self.counts[counter as usize];
        count.set(count.get() + 1);
        self.are_zero.set(false);
    }
}

/// The server's counters.
#[derive(Debug)]
pub struct Stats([AtomicU64; COUNTERS]);

impl Default for Stats {
    fn default() -> Self {
        Stats([const { AtomicU64::new(0) }; COUNTERS])
    }
}

impl Stats {
    /// Adds all counts of a worker, and sets them to 0.
    pub fn add_all(&self, counts: &Counts) {
        if counts.are_zero.replace(true) {
            return;
        }
        for (total, count) in self.0.iter().zip(&counts.counts) {
            let count = count.take();
            if count != 0 {
                total.fetch_add(count, Relaxed);
            }
        }
    }

    /// Adds `n` to the counter. This is for events that are rare, or that many commands share.
    #[allow(clippy::indexing_slicing)] // As above.
    pub fn add(&self, counter: Counter, n: u64) {
        self.0[counter as usize].fetch_add(n, Relaxed);
    }

    /// The value of the counter.
    #[allow(clippy::indexing_slicing)] // As above.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Relaxed)
    }

    /// Sets all counters to 0 (`stats reset`).
    pub fn reset(&self) {
        for total in &self.0 {
            total.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_a_worker_are_added_once() {
        let stats = Stats::default();
        let counts = Counts::default();
        counts.add(Counter::GetHits);
        counts.add(Counter::GetHits);
        stats.add_all(&counts);
        stats.add_all(&counts);
        assert_eq!(stats.get(Counter::GetHits), 2);
        stats.reset();
        assert_eq!(stats.get(Counter::GetHits), 0);
    }

    #[test]
    fn every_counter_has_an_index_of_its_own() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index, "{}", counter.name());
        }
    }
}
