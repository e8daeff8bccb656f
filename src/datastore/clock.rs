//! Time, in whole seconds of unix time as the protocol counts it.
//!
//! Expiry follows the wall clock, as memcached's does, because an exptime can be a date. If the wall clock jumps, items
//! live longer or shorter, and nothing else happens. Tests move this clock (`debugtime`), so no test has to sleep.
//!
//! # Who asks the clock
//!
//! | thread     | in                                        | for what                                                |
//! |------------|-------------------------------------------|---------------------------------------------------------|
//! | worker     | `reserve.rs`, `src/command/`              | to turn a relative exptime into an expiry               |
//! | worker     | `mod.rs`, `guard.rs`                      | whether an item has expired, and when it was last read  |
//! | worker     | `mod.rs`                                  | whether a delayed flush is due                          |
//! | worker     | `reserve.rs`                              | whether items have expired, before it evicts others     |
//! | worker     | `src/command/`, `src/connection/wire.rs`  | the times in `stats` and `me`; a client's last command  |
//! | sweeper    | `eviction.rs`                             | which items have expired, every second                  |
//! | log keeper | `persistence.rs`                          | which items have expired: a rewrite leaves them out     |
//! | dispatcher | `src/connection/server.rs`                | when a client connected                                 |
//!
//! (The thread that starts the server asks it too, during the replay.)
//!
//! # Who reads the system's clock
//!
//! While a server runs, its thread `clock` reads it at the beginning of each second ([`Clock::keep`]), and all others
//! read what that thread has stored. A replay reads it once for each megabyte of the file ([`Clock::keep_now`]). Before
//! and after that, and in a store without a server, each thread reads the system's clock. So no thread reads an earlier
//! time than another thread before it, unless the system's clock itself went back.
//!
//! # When is an expired item's memory freed, and by which thread?
//!
//! From the second of its expiry on, an item is no longer found. A read frees nothing, because it does not change the
//! shard, and neither does `delete`, which does not find the item. The item is removed from the
//! index, and its bytes become dead, by the first of these:
//!
//! - the sweeper thread, every second (`Datastore::sweep`);
//! - an eviction: the thread that needs memory removes the expired items of a shard before it evicts others there;
//! - a command that stores an item under the same key, or whose item is refused (a new item that is as long overwrites
//!   the old one), or a flush.
//!
//! Dead bytes are freed with their segment: at once if all its items are dead, or else when it is compacted. The thread
//! that made the bytes dead compacts, as soon as a shard has too many of them (`shard/reclaim.rs`). Compaction itself
//! does not look at the clock: it copies an item that has expired but was not removed yet. The value of a large item is
//! freed when the last reader has sent it.
//!
//! Lesson: [08](crate::conversations::lesson_08_expiry).

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::item::UnixTime;

/// The wall clock, with the changes that tests made to it.
#[derive(Debug, Default)]
pub struct Clock {
    /// How many seconds tests have moved the clock.
    offset: AtomicI64,
    /// The time at which the clock was paused; 0 while it runs.
    paused_at: AtomicU32,
    /// The second that [`Clock::keep_now`] has read last; 0 after [`Clock::release`].
    kept: AtomicU64,
}

impl Clock {
    /// The time now.
    pub fn now(&self) -> UnixTime {
        match self.paused_at.load(Relaxed) {
            0 => self.unpaused_time(),
            time => time,
        }
    }

    /// Pauses the clock (`debugtime p`).
    pub fn pause(&self) {
        self.paused_at.store(self.unpaused_time(), Relaxed);
    }

    /// Lets the clock run again (`debugtime r`).
    pub fn resume(&self) {
        self.paused_at.store(0, Relaxed);
    }

    /// Moves the clock by this many seconds (`debugtime <seconds>`).
    pub fn jump(&self, seconds: i64) {
        self.offset.fetch_add(seconds, Relaxed);
        if self.paused_at.load(Relaxed) != 0 {
            self.pause();
        }
    }

    /// Reads the system's clock at the beginning of each second, until `wait` returns true, which may wait that long.
    ///
    /// With this a command does not ask the system, which was measured at 36 ns: as long as the look-up of a key.
    pub fn keep(&self, wait: impl Fn(Duration) -> bool) {
        loop {
            let real = self.keep_now();
            let passed = Duration::from_nanos(real.subsec_nanos().into());
            if wait(Duration::from_secs(1) - passed) {
                break;
            }
        }
        self.release();
    }

    /// Reads the system's clock, and keeps its second until the next call. Returns the time since 1970.
    pub fn keep_now(&self) -> Duration {
        let real = system_time();
        self.kept.store(real.as_secs(), Relaxed);
        real
    }

    /// Forgets the kept second: from now on each thread reads the system's clock.
    pub fn release(&self) {
        self.kept.store(0, Relaxed);
    }

    fn unpaused_time(&self) -> UnixTime {
        // A time before 1970 becomes 1970, and one after 2106 becomes 2106: a wrong clock must not stop the server.
        let real = match self.kept.load(Relaxed) {
            0 => system_time().as_secs(),
            second => second,
        };
        clamp(
            i64::try_from(real)
                .unwrap_or(i64::MAX)
                .saturating_add(self.offset.load(Relaxed)),
        )
    }
}

/// Since 1970.
fn system_time() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

/// The earliest time: 31 January 1970. The protocol takes smaller numbers for seconds from now on, so the log could not
/// name an earlier date.
const EARLIEST: i64 = 60 * 60 * 24 * 30 + 2;

fn clamp(time: i64) -> UnixTime {
    UnixTime::try_from(time.max(EARLIEST)).unwrap_or(UnixTime::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Exptime;

    #[test]
    fn a_clock_can_jump_be_paused_and_be_resumed() {
        let clock = Clock::default();
        clock.pause();
        let start = clock.now();
        clock.jump(100);
        assert!((start + 100..start + 110).contains(&clock.now()));
        clock.jump(i64::MAX);
        clock.resume();
        assert_ne!(clock.now(), 0);
    }

    #[test]
    fn a_kept_clock_follows_the_system_clock_and_does_not_stand_still_afterwards() {
        let clock = Clock::default();
        let waits = std::cell::Cell::new(0);
        clock.keep(|second| {
            assert!(second <= Duration::from_secs(1));
            assert!(clock.now().abs_diff(Clock::default().now()) <= 1);
            clock.kept.store(1_800_000_000, Relaxed);
            assert_eq!(clock.now(), 1_800_000_000, "the kept second is used");
            waits.set(waits.get() + 1);
            waits.get() == 3
        });
        assert!(clock.now().abs_diff(Clock::default().now()) <= 1);
    }

    #[test]
    fn a_clock_that_was_never_set_shows_a_date_that_the_log_can_name() {
        let clock = Clock::default();
        clock.pause();
        clock.jump(-i64::from(clock.now()));
        let now = clock.now();
        assert!(
            (EARLIEST..EARLIEST + 100).contains(&i64::from(now)),
            "{now}"
        );
        // `Record::FlushAt` names the time itself, and no earlier one.
        assert!(matches!(Exptime::from(i64::from(now)), Exptime::At(_)));
    }
}
