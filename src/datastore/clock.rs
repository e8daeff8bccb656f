//! Time, in whole seconds of unix time as the protocol counts it.
//!
//! Expiry follows the wall clock, as memcached's does: an exptime can be a date. The wall clock may
//! jump; then items live longer or shorter, and nothing else happens. Tests move it themselves
//! (`debugtime`), so that none of them sleeps.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::item::UnixTime;

/// The wall clock, and what tests did to it.
#[derive(Debug, Default)]
pub struct Clock {
    /// Seconds that were jumped over.
    offset: AtomicI64,
    /// Where the clock stands still; 0 while it goes.
    paused_at: AtomicU32,
}

impl Clock {
    /// The time now.
    pub fn now(&self) -> UnixTime {
        match self.paused_at.load(Relaxed) {
            0 => self.unpaused_time(),
            time => time,
        }
    }

    /// Stops the clock (`debugtime p`).
    pub fn pause(&self) {
        self.paused_at.store(self.unpaused_time(), Relaxed);
    }

    /// Lets the clock go on (`debugtime r`).
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

    fn unpaused_time(&self) -> UnixTime {
        // Before 1970 it is 1970 here, and after 2106 it stays 2106: a broken clock is no reason to fail.
        let real = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        clamp(
            i64::try_from(real)
                .unwrap_or(i64::MAX)
                .saturating_add(self.offset.load(Relaxed)),
        )
    }
}

fn clamp(time: i64) -> UnixTime {
    UnixTime::try_from(time.max(1)).unwrap_or(UnixTime::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_can_jump_stop_and_go_on() {
        let clock = Clock::default();
        clock.pause();
        let start = clock.now();
        clock.jump(100);
        assert!((start + 100..start + 110).contains(&clock.now()));
        clock.jump(i64::MAX);
        clock.resume();
        assert_ne!(clock.now(), 0);
    }
}
