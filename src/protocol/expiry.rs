//! exptime: one number that can mean four things (`doc/protocol.txt`, "Expiration times").
//!
//! Lesson: [08](crate::conversations::lesson_08_expiry).

use crate::item::{Expiry, UnixTime};

/// When an item expires, as the client wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exptime {
    /// `0`: never (it may still be evicted).
    Never,
    /// `1` to `2592000`: this number of seconds from now.
    After(u32),
    /// Above 30 days: a date, in seconds of unix time. A date in the past means: at once.
    At(u64),
    /// Negative: at once.
    AtOnce,
}

impl Exptime {
    /// When an item with this exptime expires if the time is `now`.
    pub fn expiry(self, now: UnixTime) -> Expiry {
        match self {
            Exptime::Never => Expiry::NEVER,
            Exptime::After(seconds) => Expiry::at(u64::from(now) + u64::from(seconds)),
            Exptime::At(date) => Expiry::at(date),
            Exptime::AtOnce => Expiry::AT_ONCE,
        }
    }
}

/// 30 days in seconds: the largest exptime that is relative.
const MAX_RELATIVE: u32 = 60 * 60 * 24 * 30;

impl From<i64> for Exptime {
    fn from(number: i64) -> Self {
        match (u64::try_from(number), u32::try_from(number)) {
            (Err(_), _) => Exptime::AtOnce,
            (_, Ok(0)) => Exptime::Never,
            (_, Ok(seconds @ ..=MAX_RELATIVE)) => Exptime::After(seconds),
            (Ok(date), _) => Exptime::At(date),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_has_passed_as_soon_as_its_second_begins() {
        let expiry = Exptime::After(10).expiry(1000);
        assert!(!expiry.has_passed(1009));
        assert!(expiry.has_passed(1010));
        assert!(!Exptime::Never.expiry(1000).has_passed(UnixTime::MAX));
        assert!(Exptime::AtOnce.expiry(1000).has_passed(1000));
        assert!(Exptime::At(999).expiry(1000).has_passed(1000));
    }

    #[test]
    fn an_item_can_expire_after_2038_but_not_later_than_32_bits_can_express() {
        let in_2040 = 2_208_988_800;
        let expiry = Exptime::After(60).expiry(in_2040);
        assert!(!expiry.has_passed(in_2040 + 59) && expiry.has_passed(in_2040 + 60));
        let last = Some(UnixTime::MAX - 1);
        assert_eq!(Exptime::At(u64::MAX).expiry(1000).time(), last);
        assert_eq!(Exptime::After(10).expiry(UnixTime::MAX).time(), last);
    }

    #[test]
    fn an_exptime_above_thirty_days_is_a_date() {
        assert_eq!(Exptime::from(0), Exptime::Never);
        assert_eq!(Exptime::from(1), Exptime::After(1));
        assert_eq!(Exptime::from(2_592_000), Exptime::After(2_592_000));
        assert_eq!(Exptime::from(2_592_001), Exptime::At(2_592_001));
        assert_eq!(Exptime::from(-1), Exptime::AtOnce);
        assert_eq!(Exptime::from(i64::MIN), Exptime::AtOnce);
        assert_eq!(Exptime::from(i64::MAX), Exptime::At(i64::MAX as u64));
    }
}
