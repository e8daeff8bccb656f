//! The numbers of the protocol. Most are strict: digits only, a minus if the type is signed, and no more bytes than
//! memcached reads. Only flags and exptime of the storage commands are read as C's `strtoll` reads them, which also
//! accepts a plus.

use std::io::{self, Write};

/// memcached reads at most this many bytes of a 32-bit number, leading zeros and the minus included.
const MAX_LENGTH_32: usize = 11;
/// memcached reads at most this many bytes of a 64-bit number.
const MAX_LENGTH_64: usize = 22;

pub(super) fn u32(word: &[u8]) -> Option<u32> {
    u64_of(word, MAX_LENGTH_32)?.try_into().ok()
}

pub(super) fn u64(word: &[u8]) -> Option<u64> {
    u64_of(word, MAX_LENGTH_64)
}

pub(super) fn i32(word: &[u8]) -> Option<i32> {
    i128_of(word, MAX_LENGTH_32)?.try_into().ok()
}

pub(super) fn i64(word: &[u8]) -> Option<i64> {
    i128_of(word, MAX_LENGTH_64)?.try_into().ok()
}

fn u64_of(word: &[u8], max_length: usize) -> Option<u64> {
    if word.is_empty() || word.len() > max_length {
        None
    } else {
        digits(word)
    }
}

/// A minus alone is 0, as in memcached.
fn i128_of(word: &[u8], max_length: usize) -> Option<i128> {
    match word.strip_prefix(b"-") {
        Some(rest) if word.len() <= max_length => digits(rest).map(|number| -i128::from(number)),
        Some(_) => None,
        None => u64_of(word, max_length).map(i128::from),
    }
}

/// A number as C's `strtod` reads it, in at most 31 bytes. (Hexadecimal numbers are refused here.)
pub(super) fn f64(word: &[u8]) -> Option<f64> {
    if word.len() > 31 {
        return None;
    }
    let start = word.iter().position(|&byte| !is_space(byte))?;
    let (_, word) = word.split_at(start);
    let word = word.split(|&byte| is_space(byte)).next()?;
    let number: f64 = str::from_utf8(word).ok()?.parse().ok()?;
    // `inf` is a number, but `1e999` is too large.
    let is_too_large = number.is_infinite() && word.iter().any(u8::is_ascii_digit);
    Some(number).filter(|_| !is_too_large)
}

/// `<bytes>`: the length of a data block. With its closing `\r\n` the block is not longer than the largest `int` of C.
pub(super) fn data_length(word: &[u8]) -> Option<usize> {
    i32(word)
        .filter(|&bytes| bytes <= i32::MAX - 2)?
        .try_into()
        .ok()
}

/// A number as C's `strtoll` reads it: an optional sign, then any number of digits.
pub(super) fn like_strtoll(word: &[u8]) -> Option<i64> {
    let (is_negative, word) = match word {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, word),
    };
    if word.is_empty() {
        return None;
    }
    let number = i64::try_from(digits(word)?).ok()?;
    Some(if is_negative { -number } else { number })
}

/// The number in a stored value, for `incr` and `decr`. Its form is: optional white space, an optional sign, digits,
/// and then the end, white space or a NUL. (A result that is shorter than the old value is padded with spaces.) A
/// negative number is refused, but `-0` is accepted, as in memcached.
pub fn number_in_value(value: &[u8]) -> Option<u64> {
    let start = value.iter().position(|&byte| !is_space(byte));
    let (_, value) = value.split_at(start.unwrap_or(value.len()));
    let (is_negative, value) = match value {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, value),
    };
    let end = value
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(value.len());
    let (number, rest) = value.split_at(end);
    let is_complete = rest.first().is_none_or(|&byte| is_space(byte) || byte == 0);
    if number.is_empty() || !is_complete {
        return None;
    }
    digits(number).filter(|&number| !is_negative || number == 0)
}

/// White space as C's `isspace` defines it. (`u8::is_ascii_whitespace` leaves out the vertical tab.)
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// The value of any number of decimal digits. An empty text is 0.
fn digits(word: &[u8]) -> Option<u64> {
    word.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Writes a number in decimal digits. (`write!` does the same. It takes five times as many instructions, and with it a
/// `get` takes a sixth more, a `set` a quarter more.)
///
/// # Errors
/// Those of `out`.
pub fn write_decimal(number: impl Into<u64>, out: &mut impl Write) -> io::Result<()> {
    // The largest number has 20 digits.
    let mut digits = [0; 20];
    let (mut rest, mut start) = (number.into(), digits.len());
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        start -= 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.write_all(digits.split_at(start).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_without_zeros_before_it() {
        for number in [0, 7, 10, 4_294_967_295, u64::MAX] {
            let mut out = Vec::new();
            write_decimal(number, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[test]
    fn a_strict_number_has_only_digits_and_a_minus_if_its_type_is_signed() {
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
    fn a_factor_is_read_as_strtod_reads_it() {
        for (word, number) in [
            ("0.5", 0.5),
            ("+.5e-3", 0.0005),
            ("5.", 5.0),
            ("-1\t2", -1.0),
        ] {
            assert_eq!(f64(word.as_bytes()), Some(number), "{word:?}");
        }
        assert_eq!(f64(b"inf"), Some(f64::INFINITY));
        for word in [
            "",
            "\t",
            ".",
            "-",
            "x",
            "5x",
            "1e",
            "1e999",
            &"0".repeat(32),
        ] {
            assert_eq!(f64(word.as_bytes()), None, "{word:?}");
        }
    }

    #[test]
    fn flags_and_exptime_of_storage_commands_may_have_a_sign() {
        assert_eq!(like_strtoll(b"+5"), Some(5));
        assert_eq!(like_strtoll(b"007"), Some(7));
        assert_eq!(like_strtoll(b"-1"), Some(-1));
        for word in ["", "+", "-", "1.5", "5x", "0x5", "99999999999999999999"] {
            assert_eq!(like_strtoll(word.as_bytes()), None, "{word:?}");
        }
    }

    #[test]
    fn a_stored_value_is_a_number_if_white_space_or_its_end_follows_the_digits() {
        for (value, number) in [
            ("10", 10),
            ("9 ", 9),
            (" 5", 5),
            ("\t5", 5),
            ("\x0b\x0c5\x0b", 5),
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
