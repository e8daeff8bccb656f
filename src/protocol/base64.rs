//! Base64 (RFC 4648, section 4, with padding). Meta commands use it for a key that is not plain text. The standard
//! library has no base64.
//!
//! The decoder is as lenient as memcached's: characters that are not base64 are skipped, and nothing after the first
//! padded group is read.
//!
//! Lesson: [29](crate::conversations::lesson_29_binary_keys).

use crate::item::MAX_KEY;

/// The length of the longest key in base64.
pub const MAX_KEY_IN_BASE64: usize = MAX_KEY.div_ceil(3) * 4;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The digit that stands for the padding `=`. Its value is 0, as memcached reads it: it is a multiple of 64.
const PADDING: u8 = 64;

/// The bytes that the text encodes; `None` if it has no digits, if their number is no multiple of 4, or if a group has
/// more than two `=`.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .iter()
        .filter_map(|&letter| digit_or_padding(letter))
        .collect();
    let (groups, rest) = digits.as_chunks::<4>();
    if groups.is_empty() || !rest.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(groups.len() * 3);
    for group in groups {
        let value = |sum, digit: &u8| sum << 6 | u32::from(digit % PADDING);
        let [_, a, b, c] = group.iter().fold(0u32, value).to_be_bytes();
        match group.iter().filter(|&&digit| digit == PADDING).count() {
            0 => bytes.extend([a, b, c]),
            1 => {
                bytes.extend([a, b]);
                break;
            }
            2 => {
                bytes.push(a);
                break;
            }
            _ => return None,
        }
    }
    Some(bytes)
}

/// What `VALUES` has for a letter that is not base64.
const NO_DIGIT: u8 = u8::MAX;

/// The digit of each letter, or [`PADDING`], or [`NO_DIGIT`].
static VALUES: [u8; 256] = values();

#[allow(clippy::indexing_slicing)] // The compiler evaluates this: an index out of bounds would not compile.
const fn values() -> [u8; 256] {
    let mut values = [NO_DIGIT; 256];
    values[b'=' as usize] = PADDING;
    let mut digit = 0;
    while digit < ALPHABET.len() {
        values[ALPHABET[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
}

/// The digit of a letter, 0 to 63, or [`PADDING`]; `None` if the letter is not base64.
#[allow(clippy::indexing_slicing)] // A byte is always below 256.
fn digit_or_padding(letter: u8) -> Option<u8> {
    Some(VALUES[usize::from(letter)]).filter(|&value| value != NO_DIGIT)
}

/// The digit of a letter, 0 to 63; `None` if the letter is none of the 64.
#[allow(clippy::indexing_slicing)] // A byte is always below 256.
pub fn digit(letter: u8) -> Option<u8> {
    Some(VALUES[usize::from(letter)]).filter(|&value| value < PADDING)
}

/// The letter of a digit: of the lowest 6 bits of this number.
#[allow(clippy::indexing_slicing)] // There are 64 letters.
pub fn letter(digit: u8) -> u8 {
    ALPHABET[usize::from(digit % 64)]
}

/// The text that encodes these bytes.
pub fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let number = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            // A group of one byte has two letters, and a group of two bytes has three. The others are padding.
            text.push(match index <= group.len() {
                true => letter((number >> (18 - 6 * index)) as u8),
                false => b'=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_are_encoded_and_decoded() {
        for (bytes, text) in [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text.as_bytes());
            assert_eq!(decode(text.as_bytes()), Some(bytes.into()));
        }
    }

    #[test]
    fn characters_that_are_not_base64_are_skipped() {
        for (text, bytes) in [
            ("Zm9v!", &b"foo"[..]),
            ("!Z m-9\tv", b"foo"),
            ("Zg!=!=", b"f"),
            ("=m9v", b"\x02o"),
            ("Z=m9", b"d\t"),
        ] {
            assert_eq!(decode(text.as_bytes()), Some(bytes.into()), "{text:?}");
        }
    }

    #[test]
    fn nothing_after_the_first_padded_group_is_read() {
        for text in ["Zg==", "Zg==Zg==", "Zg==Zm9v", "Zg======"] {
            assert_eq!(decode(text.as_bytes()), Some(b"f".into()), "{text:?}");
        }
    }

    #[test]
    fn a_wrong_number_of_digits_is_not_decoded() {
        for text in [
            "", "!", "!!!!", "Z", "Zm9", "Zm9vYg", "Zm9!", "Zg==Zg", "====", "Zm9v====",
        ] {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn decoding_reverses_encoding(bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..200)) {
            proptest::prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
    }
}
