//! The end of a record's line: the opaque, which has the cas unique and the checksums.
//!
//! ```text
//! O<cas unique><crc of the line><crc of the record>     the record has data
//! O[<cas unique>]<crc of the record>                    it has none
//! ```
//!
//! An opaque is a flag that any memcached accepts and ignores. (It copies the flag to its answer.) Each part is a
//! number in the digits of base64, without a separator: A is 0, B is 1, / is 63, and the digit of the highest value is
//! the first. The cas unique has as many digits as it needs, at least 1 and at most 11. So an opaque has at most 21
//! characters after its letter. memcached allows 31.
//!
//! - **The crc of the record** is the CRC-32 of all its bytes before the checksums, and of its data. It has 6 digits.
//! - **The crc of the line** is the CRC-32 of the same bytes without the data, but only the lowest 24 of its bits. It
//!   has 4 digits. It is needed because a damaged `<bytes>` can look like a record that was cut short: the file then
//!   seems to end before the data does, and everything from this record on would be moved aside. So before a length is
//!   believed, the line is checked without the data.
//!
//! 24 bits are enough, because they decide alone only about a line that is damaged and announces more data than the
//! file has: one such line in 16 million is not noticed. No change of a single byte is among those (a test tries all).
//! If the data is in the file, it is checked with the line, by all 32 bits. The other 8 bits would be 2 more digits in
//! each record: 67.7 bytes instead of 65.7 for a set of 8 and 32 bytes. A set of redis has 66.
//!
//! In format 1 the cas unique was in the flag `E`, and the opaque had two CRC-32s in hexadecimal digits, that of the
//! line before ` O` and that of the data alone: `O<crc of the line>[.<crc of the data>]`.

use super::crc::{crc32, crc32_after};
use crate::protocol::base64;

/// The digits of a whole CRC-32.
const RECORD_DIGITS: usize = 6;

/// The digits of the line's checksum, and the bits of its CRC-32 that they hold.
const LINE_DIGITS: usize = 4;
const LINE_BITS: u32 = (1 << (6 * LINE_DIGITS)) - 1;

/// The form of a record's opaque. The heading says which form the records after it have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The first versions of rustmemc wrote this form. It is only read.
    One,
    /// The form that is written.
    Two,
}

/// What the opaque of a line says. The line's checksum is right.
pub struct Opaque<'l> {
    /// The line before the opaque.
    pub content: &'l [u8],
    /// The cas unique. In format 1 it is not here.
    pub cas: Option<u64>,
    /// The checksum of the record's data.
    pub data: DataChecksum,
}

/// The checksum that the data of a record must have.
#[derive(Debug, Clone, Copy)]
pub struct DataChecksum {
    /// The CRC-32 of what is before the data.
    before: u32,
    expected: Option<u32>,
}

impl DataChecksum {
    /// Whether this is the data that was written.
    pub fn matches(self, data: &[u8]) -> bool {
        self.expected == Some(crc32_after(self.before, data))
    }
}

/// Ends the line that begins at `start` with its opaque and `\r\n`. If `data` follows, the caller appends it.
pub fn add(out: &mut Vec<u8>, start: usize, cas: Option<u64>, data: Option<&[u8]>) {
    out.extend_from_slice(b" O");
    if let Some(cas) = cas {
        let bits = u64::BITS - cas.leading_zeros();
        add_digits(out, cas, bits.div_ceil(6).max(1) as usize);
    }
    let (_, line) = out.split_at(start);
    let mut crc = crc32(line);
    if let Some(data) = data {
        add_digits(out, crc.into(), LINE_DIGITS);
        crc = crc32_after(crc, data);
    }
    add_digits(out, crc.into(), RECORD_DIGITS);
    out.extend_from_slice(b"\r\n");
}

/// Adds the lowest digits of a number.
fn add_digits(out: &mut Vec<u8>, number: u64, digits: usize) {
    let digits = (0..digits).rev();
    out.extend(digits.map(|digit| base64::letter((number >> (6 * digit)) as u8)));
}

/// Parses the opaque of a line without its `\r\n`, and checks the line.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &[u8], format: Format) -> Result<Opaque<'_>, &'static str> {
    const NONE: &str = "the line has no checksum";
    const WRONG: &str = "the line's checksum is wrong";
    let last_space = line.iter().rposition(|&byte| byte == b' ');
    let (content, last_word) = line.split_at(last_space.ok_or(NONE)?);
    let opaque = last_word.strip_prefix(b" O").ok_or(NONE)?;
    if format == Format::One {
        let mut words = opaque.split(|&byte| byte == b'.');
        let mut crc = || words.next().and_then(hexadecimal);
        return match crc().ok_or(NONE)? == crc32(content) {
            false => Err(WRONG),
            true => Ok(Opaque {
                content,
                cas: None,
                data: DataChecksum {
                    before: 0,
                    expected: crc(),
                },
            }),
        };
    }
    let (mut covered, record) = line.split_last_chunk::<RECORD_DIGITS>().ok_or(NONE)?;
    let mut in_line = None;
    if content.starts_with(b"ms ") {
        let (before, digits) = covered.split_last_chunk::<LINE_DIGITS>().ok_or(NONE)?;
        (covered, in_line) = (before, Some(digits));
    }
    let cas = covered.get(content.len() + 2..).ok_or(NONE)?;
    let (crc, expected) = (crc32(covered), number(record));
    let is_right = match in_line {
        Some(digits) => number(digits) == Some(u64::from(crc & LINE_BITS)),
        None => expected == Some(crc.into()),
    };
    if !is_right {
        return Err(WRONG);
    }
    let cas = match cas {
        [] => None,
        digits => Some(number(digits).ok_or("the cas unique is not a number")?),
    };
    Ok(Opaque {
        content,
        cas,
        data: DataChecksum {
            before: crc,
            expected: expected.and_then(|number| number.try_into().ok()),
        },
    })
}

/// The number that has these digits, if it fits into 64 bits.
fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |number, &letter| {
        Some(number.checked_mul(64)? + u64::from(base64::digit(letter)?))
    })
}

/// Parses eight hexadecimal digits, in small letters as format 1 has them.
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    let digits: &[u8; 8] = digits.try_into().ok()?;
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u32::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_and_the_largest_cas_unique_are_read_as_they_were_written() {
        for cas in [None, Some(0), Some(63), Some(64), Some(u64::MAX)] {
            for data in [None, Some(&b"data"[..])] {
                let mut line = b"before\r\n".to_vec();
                let start = line.len();
                line.extend_from_slice(if data.is_some() { b"ms k 4" } else { b"md k" });
                add(&mut line, start, cas, data);
                let text = line[start..].strip_suffix(b"\r\n").expect("a line end");
                let opaque = parse(text, Format::Two).expect("it is right");
                assert_eq!(opaque.cas, cas);
                assert!(opaque.data.matches(data.unwrap_or_default()));
                assert!(!opaque.data.matches(b"Data"));
                let letters = text.len() - opaque.content.len() - 2;
                assert!(letters <= 21, "{letters} of 31 letters");
            }
        }
    }

    #[test]
    fn a_cas_unique_of_more_than_64_bits_is_no_number() {
        assert_eq!(number(b"P//////////"), Some(u64::MAX));
        assert_eq!(number(b"QAAAAAAAAAA"), None);
        assert_eq!(number(b"BAAAAAAAAAAA"), None);
    }

    #[test]
    fn the_line_checksum_notices_each_change_of_a_single_byte_in_the_longest_line() {
        // A CRC is linear: whether a change is noticed depends only on the change, and on the bytes after it.
        for change in 1..=u8::MAX {
            let mut difference = crc32(&[change]) ^ crc32(&[0]);
            for after in 0..1024 {
                assert_ne!(
                    difference & LINE_BITS,
                    0,
                    "{change}, {after} bytes after it"
                );
                // The same with one more byte after it, in both texts.
                difference = crc32_after(difference, &[0]) ^ crc32_after(0, &[0]);
            }
        }
    }
}
