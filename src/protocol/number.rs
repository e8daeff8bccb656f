//! The numbers of the protocol. Most are strict (digits only, a minus where the type has one, no more
//! digits than memcached reads); only flags and exptime of the storage commands go back to C's
//! `strtoll`, which also takes a sign.

/// memcached reads at most so many bytes of a number of 32 bits, leading zeros included.
const MAX_DIGITS_32: usize = 11;
/// … and so many of one of 64 bits.
const MAX_DIGITS_64: usize = 22;

pub(super) fn u32(word: &[u8]) -> Option<u32> {
    u64_of(word, MAX_DIGITS_32)?.try_into().ok()
}

pub(super) fn u64(word: &[u8]) -> Option<u64> {
    u64_of(word, MAX_DIGITS_64)
}

pub(super) fn i32(word: &[u8]) -> Option<i32> {
    i128_of(word, MAX_DIGITS_32)?.try_into().ok()
}

pub(super) fn i64(word: &[u8]) -> Option<i64> {
    i128_of(word, MAX_DIGITS_64)?.try_into().ok()
}

fn u64_of(word: &[u8], at_most: usize) -> Option<u64> {
    if word.is_empty() || word.len() > at_most {
        None
    } else {
        digits(word)
    }
}

/// A minus alone is 0, as it is for memcached.
fn i128_of(word: &[u8], at_most: usize) -> Option<i128> {
    match word.strip_prefix(b"-") {
        Some(rest) if word.len() <= at_most => digits(rest).map(|number| -i128::from(number)),
        Some(_) => None,
        None => u64_of(word, at_most).map(i128::from),
    }
}

/// `<bytes>`: the length of a data block. With the closing `\r\n` it still fits an `int` of C.
pub(super) fn data_length(word: &[u8]) -> Option<usize> {
    i32(word)
        .filter(|&bytes| bytes <= i32::MAX - 2)?
        .try_into()
        .ok()
}

/// A number as C's `strtoll` reads it: an optional sign, then digits, as many as there are.
pub(super) fn like_strtoll(word: &[u8]) -> Option<i64> {
    let (negative, word) = match word {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, word),
    };
    if word.is_empty() {
        return None;
    }
    let number = i64::try_from(digits(word)?).ok()?;
    Some(if negative { -number } else { number })
}

/// The number that a stored value spells, for `incr` and `decr`: leading white space, a sign, digits,
/// and then the end or white space (a result that became shorter was padded with spaces). A negative
/// one is no number here; `-0` is, as it is for memcached.
pub fn number_in_value(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii_start();
    let (negative, value) = match value {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, value),
    };
    let end = value
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(value.len());
    let (spelled, rest) = value.split_at(end);
    let ends_well = rest
        .first()
        .is_none_or(|&byte| byte.is_ascii_whitespace() || byte == 0);
    if spelled.is_empty() || !ends_well {
        return None;
    }
    digits(spelled).filter(|&number| !negative || number == 0)
}

/// The value of digits, as many as there are; of none at all it is 0.
fn digits(word: &[u8]) -> Option<u64> {
    word.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_numbers_take_digits_and_nothing_else() {
        assert_eq!(u32(b"4294967295"), Some(u32::MAX));
        assert_eq!(u32(b"4294967296"), None);
        assert_eq!(u32(b"00000000007"), Some(7));
        assert_eq!(u32(b"000000000007"), None);
        assert_eq!(u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(u64(b"18446744073709551616"), None);
        assert_eq!(u64(b"+1"), None);
        assert_eq!(u64(b"1x"), None);
        assert_eq!(i32(b"-2147483648"), Some(i32::MIN));
        assert_eq!(i32(b"2147483648"), None);
        assert_eq!(i32(b"+5"), None);
        assert_eq!(i32(b"-"), Some(0));
        assert_eq!(i64(b"-86400"), Some(-86400));
        assert_eq!((u32(b""), u64(b""), i32(b"")), (None, None, None));
    }

    #[test]
    fn flags_and_exptime_of_storage_commands_may_carry_a_sign() {
        assert_eq!(like_strtoll(b"+5"), Some(5));
        assert_eq!(like_strtoll(b"007"), Some(7));
        assert_eq!(like_strtoll(b"-1"), Some(-1));
        for word in ["", "+", "-", "1.5", "5x", "0x5", "99999999999999999999"] {
            assert_eq!(like_strtoll(word.as_bytes()), None, "{word:?}");
        }
    }

    #[test]
    fn a_value_is_a_counter_when_it_starts_with_a_number_and_white_space_follows() {
        for (value, number) in [
            ("10", 10),
            ("9 ", 9),
            (" 5", 5),
            ("\t5", 5),
            ("5 6", 5),
            ("+5", 5),
            ("-0", 0),
            ("007", 7),
        ] {
            assert_eq!(number_in_value(value.as_bytes()), Some(number), "{value:?}");
        }
        assert_eq!(number_in_value(b"18446744073709551615"), Some(u64::MAX));
        for value in ["", " ", "x", "5x", "-5", "1.5", "18446744073709551616"] {
            assert_eq!(number_in_value(value.as_bytes()), None, "{value:?}");
        }
    }
}
