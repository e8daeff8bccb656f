//! exptime: the five things that one number can mean (`doc/protocol.txt`, "Expiration times").

/// When an item expires, as a client says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exptime {
    /// `0`: never (it may still be evicted).
    Never,
    /// `1` to `2592000`: so many seconds from now.
    After(u32),
    /// Above 30 days: a date, in seconds of unix time. One that has passed means: at once.
    At(u64),
    /// Negative: at once.
    AtOnce,
}

/// 30 days in seconds: the last exptime that is relative.
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
    fn thirty_days_are_the_border_between_seconds_from_now_and_a_date() {
        assert_eq!(Exptime::from(0), Exptime::Never);
        assert_eq!(Exptime::from(1), Exptime::After(1));
        assert_eq!(Exptime::from(2_592_000), Exptime::After(2_592_000));
        assert_eq!(Exptime::from(2_592_001), Exptime::At(2_592_001));
        assert_eq!(Exptime::from(-1), Exptime::AtOnce);
        assert_eq!(Exptime::from(i64::MIN), Exptime::AtOnce);
        assert_eq!(Exptime::from(i64::MAX), Exptime::At(i64::MAX as u64));
    }
}
