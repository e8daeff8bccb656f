//! Counters: what `stats` tells, under the names that memcached gives them.
//!
//! A worker counts in its own [`Counts`], plain numbers that cost next to nothing. They are added to the server's
//! [`Stats`] before answers leave, so a client that has read an answer finds its command counted.

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
    /// Connections accepted since the start.
    TotalConnections => "total_connections",
    /// Connections refused because `-c` was reached.
    RejectedConnections => "rejected_connections",
    /// Keys asked for with `get` or `gets`.
    CmdGet => "cmd_get",
    /// Data blocks that reached the store: whatever came of them.
    CmdSet => "cmd_set",
    /// `flush_all`, also when it is not allowed.
    CmdFlush => "cmd_flush",
    /// Keys asked for with `touch`, `gat` or `gats`.
    CmdTouch => "cmd_touch",
    /// `me`, which is counted nowhere else.
    CmdMeta => "cmd_meta",
    /// Keys that were found.
    GetHits => "get_hits",
    /// Keys that were not.
    GetMisses => "get_misses",
    /// … because the item had expired.
    GetExpired => "get_expired",
    /// … because it had been flushed: always 0, a flush here removes at once.
    GetFlushed => "get_flushed",
    /// `delete` of nothing.
    DeleteMisses => "delete_misses",
    /// `delete` of something.
    DeleteHits => "delete_hits",
    /// `incr` of nothing.
    IncrMisses => "incr_misses",
    /// `incr` of something.
    IncrHits => "incr_hits",
    /// `decr` of nothing.
    DecrMisses => "decr_misses",
    /// `decr` of something.
    DecrHits => "decr_hits",
    /// `cas` of nothing.
    CasMisses => "cas_misses",
    /// `cas` whose unique was right.
    CasHits => "cas_hits",
    /// `cas` whose unique was not.
    CasBadval => "cas_badval",
    /// `touch` and `gat` of something.
    TouchHits => "touch_hits",
    /// `touch` and `gat` of nothing.
    TouchMisses => "touch_misses",
    /// Items refused because of `-I`.
    StoreTooLarge => "store_too_large",
    /// Items refused because of `-m`.
    StoreNoMemory => "store_no_memory",
    /// Connections closed because of `--idle-timeout`.
    IdleKicks => "idle_kicks",
    /// Bytes read from clients.
    BytesRead => "bytes_read",
    /// Bytes written to clients.
    BytesWritten => "bytes_written",
    /// Items stored since the start.
    TotalItems => "total_items",
    /// Items thrown out to make room.
    Evictions => "evictions",
    /// Items whose memory came back because they had expired.
    Reclaimed => "reclaimed",
    /// … that nobody had ever read.
    ExpiredUnfetched => "expired_unfetched",
    /// Evicted items that nobody had ever read.
    EvictedUnfetched => "evicted_unfetched",
}

const COUNTERS: usize = Counter::ALL.len();

/// One worker's counts that the server does not know yet.
#[derive(Debug)]
pub struct Counts([Cell<u64>; COUNTERS]);

impl Default for Counts {
    fn default() -> Self {
        Counts([const { Cell::new(0) }; COUNTERS])
    }
}

impl Counts {
    /// Counts one.
    // The discriminants of `Counter` run from 0 to COUNTERS - 1: no index is ever out of bounds.
    #[allow(clippy::indexing_slicing)]
    pub fn add(&self, counter: Counter) {
        let count = &self.0[counter as usize];
        count.set(count.get() + 1);
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
    /// Takes over what a worker has counted, and leaves it zeros.
    pub fn add_all(&self, counts: &Counts) {
        for (total, count) in self.0.iter().zip(&counts.0) {
            let count = count.take();
            if count != 0 {
                total.fetch_add(count, Relaxed);
            }
        }
    }

    /// Counts something that happens seldom, or only once for many commands.
    #[allow(clippy::indexing_slicing)] // As above.
    pub fn add(&self, counter: Counter, n: u64) {
        self.0[counter as usize].fetch_add(n, Relaxed);
    }

    /// What has been counted.
    #[allow(clippy::indexing_slicing)] // As above.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Relaxed)
    }

    /// `stats reset`.
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
    fn what_a_worker_counts_arrives_once() {
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
    fn every_counter_has_a_place_of_its_own() {
        for (place, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, place, "{}", counter.name());
        }
    }
}
