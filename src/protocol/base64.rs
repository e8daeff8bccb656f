//! Base64 (RFC 4648, section 4, with padding). Meta commands use it for a key that is not plain text. The standard
//! library has no base64.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The bytes that the text encodes; `None` if it is empty or not base64.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let (groups, rest) = text.as_chunks::<4>();
    let (last, groups) = groups.split_last()?;
    if !rest.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in groups {
        bytes.extend_from_slice(&three_bytes(*group)?);
    }
    // Only the last group may be padded: `xx==` encodes one byte, `xxx=` two.
    let (padded, length) = match *last {
        [a, b, b'=', b'='] => ([a, b, b'A', b'A'], 1),
        [a, b, c, b'='] => ([a, b, c, b'A'], 2),
        unpadded => (unpadded, 3),
    };
    bytes.extend(three_bytes(padded)?.into_iter().take(length));
    Some(bytes)
}

fn three_bytes(group: [u8; 4]) -> Option<[u8; 3]> {
    let number = group.into_iter().try_fold(0u32, |sum, letter| {
        let digit = ALPHABET.iter().position(|&other| other == letter)?;
        Some(sum << 6 | digit as u32)
    })?;
    let [_, a, b, c] = number.to_be_bytes();
    Some([a, b, c])
}

/// The text that encodes these bytes.
pub fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let number = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            // A group of one byte has two letters, and a group of two bytes has three. The others are padding.
            let digit = (number >> (18 - 6 * index)) as usize % ALPHABET.len();
            let letter = ALPHABET
                .get(digit)
                .copied()
                .filter(|_| index <= group.len());
            text.push(letter.unwrap_or(b'='));
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
    fn text_that_is_not_base64_is_not_decoded() {
        for text in [
            "", "Z", "Zm9", "Zm9vYg", "Zm9v!m9v", "Zg==Zg==", "====", "=m9v", "Z m9",
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
