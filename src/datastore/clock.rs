//! Time, in whole seconds of unix time as the protocol counts it, and when an item ends.
//!
//! Expiry follows the wall clock, as memcached's does: an exptime can be a date. The wall clock may
//! jump; then items live longer or shorter, and nothing else happens. Tests move it themselves
//! (`debugtime`), so that none of them sleeps.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::protocol::{DebugTime, Exptime};

/// Seconds of unix time. 32 bits are enough until 2106, and an item carries one.
pub type UnixTime = u32;

/// The wall clock, and what tests did to it.
#[derive(Debug, Default)]
pub struct Clock {
    /// Seconds that were jumped over.
    offset: AtomicI64,
    /// Where the clock stands still; 0 while it goes.
    stopped_at: AtomicU32,
}

impl Clock {
    /// The time now.
    pub fn now(&self) -> UnixTime {
        match self.stopped_at.load(Relaxed) {
            0 => self.going(),
            time => time,
        }
    }

    /// `debugtime`: moves, stops or starts the clock.
    pub fn debug(&self, what: DebugTime) {
        match what {
            DebugTime::Pause => self.stopped_at.store(self.going(), Relaxed),
            DebugTime::Resume => self.stopped_at.store(0, Relaxed),
            DebugTime::Jump(seconds) => {
                self.offset.fetch_add(seconds, Relaxed);
                if self.stopped_at.load(Relaxed) != 0 {
                    self.stopped_at.store(self.going(), Relaxed);
                }
            }
        }
    }

    fn going(&self) -> UnixTime {
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

/// The last date that the protocol can say (19 January 2038): its exptime has 31 bits, and so has the time
/// in a log.
const LAST: UnixTime = i32::MAX as UnixTime;

/// The moment from which an item is no longer there. It is never 0, so that an `Option` of what has an expiry
/// is no larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry(NonZeroU32);

impl Expiry {
    /// It stays until it is deleted or evicted.
    pub const NEVER: Expiry = Expiry(NonZeroU32::MAX);

    /// What a client's exptime means at the time `now`.
    pub fn new(exptime: Exptime, now: UnixTime) -> Self {
        match exptime {
            Exptime::Never => Expiry::NEVER,
            Exptime::After(seconds) => Expiry::at(u64::from(now) + u64::from(seconds)),
            Exptime::At(date) => Expiry::at(date),
            Exptime::AtOnce => Expiry(NonZeroU32::MIN),
        }
    }

    fn at(date: u64) -> Self {
        let date = date.min(LAST.into()) as UnixTime;
        NonZeroU32::new(date).map_or(Expiry::NEVER, Expiry)
    }

    /// Whether the moment has come.
    pub fn is_over(self, now: UnixTime) -> bool {
        self.0.get() <= now && self != Expiry::NEVER
    }

    /// The moment itself; `None` for never.
    pub fn time(self) -> Option<UnixTime> {
        (self != Expiry::NEVER).then_some(self.0.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_there_until_the_second_of_its_expiry_begins() {
        let expiry = Expiry::new(Exptime::After(10), 1000);
        assert!(!expiry.is_over(1009));
        assert!(expiry.is_over(1010));
        assert!(!Expiry::new(Exptime::Never, 1000).is_over(UnixTime::MAX));
        assert!(Expiry::new(Exptime::AtOnce, 1000).is_over(1000));
        assert!(Expiry::new(Exptime::At(999), 1000).is_over(1000));
    }

    #[test]
    fn dates_beyond_what_the_protocol_can_say_are_the_last_one_that_it_can() {
        assert_eq!(Expiry::new(Exptime::At(u64::MAX), 1000).time(), Some(LAST));
        assert_eq!(
            Expiry::new(Exptime::After(10), UnixTime::MAX).time(),
            Some(LAST)
        );
    }

    #[test]
    fn a_clock_can_jump_stop_and_go_on() {
        let clock = Clock::default();
        clock.debug(DebugTime::Pause);
        let start = clock.now();
        clock.debug(DebugTime::Jump(100));
        assert!((start + 100..start + 110).contains(&clock.now()));
        clock.debug(DebugTime::Jump(i64::MAX));
        clock.debug(DebugTime::Resume);
        assert_ne!(clock.now(), 0);
    }
}
