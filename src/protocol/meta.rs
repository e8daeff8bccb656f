//! The meta commands. Each command has one parsing function, with its grammar above it.
//!
//! All have the form `<verb> <key> [<bytes>] <flags>*`. A flag is one word. Its first letter is its name, and some
//! flags have a value after the letter (`T30`). Most commands accept all flags, and ignore those that they do not use,
//! as memcached does.
//!
//! Lessons: [21](crate::conversations::lesson_21_meta_first_steps), [22](crate::conversations::lesson_22_meta_set),
//! [23](crate::conversations::lesson_23_meta_delete), [24](crate::conversations::lesson_24_meta_arithmetic),
//! [25](crate::conversations::lesson_25_one_brings_the_value),
//! [26](crate::conversations::lesson_26_stale_while_revalidate), [28](crate::conversations::lesson_28_meta_cas),
//! [30](crate::conversations::lesson_30_meta_errors), [31](crate::conversations::lesson_31_what_is_there).

use super::base64::{self, MAX_KEY_IN_BASE64};
use super::request::{
    Arithmetic, Direction, Key, MetaDelete, MetaGet, OnFailure, Request, ReturnFlag, ReturnFlags,
    Storage, StoreMode, Vivify,
};
use super::{
    Answer, Exptime, LineError, Parsed, ProtocolError, checked_key, first_word, number, words,
};
use crate::item::MAX_KEY;

/// The most words that a line may have, the verb and the key included.
const MAX_WORDS: usize = 20;

/// The longest opaque, its letter included.
const MAX_OPAQUE: usize = 32;

/// `mg <key> <flags>*`
pub(super) fn mg(args: &[u8]) -> Parsed<'_> {
    key_and_flags(args, |key, mut flags| {
        flags.end_at_long_opaque();
        Ok(Request::MetaGet(MetaGet {
            key,
            touch: flags.touch,
            vivify: flags.vivify_exptimes(),
            recache: flags.recache,
            compare: flags.compare,
            cas: flags.cas,
            no_bump: flags.no_bump,
            return_flags: flags.return_flags,
        }))
    })
}

/// `ms <key> <bytes> <flags>*`, then the data block. `M` is the mode: `S` set (the default), `E` add, `A` append, `P`
/// prepend, `R` replace.
pub(super) fn ms(args: &[u8]) -> Parsed<'_> {
    let (key_word, rest) = first_word(args);
    let (bytes, flag_words) = first_word(rest);
    if bytes.is_empty() {
        return Parsed::bad_line(LineError::TooFewWords("ms <key> <bytes> <flags>*"));
    }
    if has_bad_first_letter(flag_words) {
        return Parsed::bad_line(LineError::FlagLetter);
    }
    let Some(bytes) = number::data_length(bytes) else {
        return Parsed::bad_line(LineError::Bytes);
    };
    // The length is known, so the data is swallowed, whatever else is wrong with the line.
    let request = || {
        let (key, flags) = parse(key_word, flag_words, 3)?;
        let mode = match flags.mode {
            None | Some(b'S') => StoreMode::Set,
            Some(b'E') => StoreMode::Add,
            Some(b'A') => StoreMode::Append,
            Some(b'P') => StoreMode::Prepend,
            Some(b'R') => StoreMode::Replace,
            Some(_) => return Err(ProtocolError::InvalidMode("ms")),
        };
        let storage = Storage {
            mode,
            key,
            flags: flags.client_flags,
            exptime: flags.touch.unwrap_or(Exptime::Never),
            bytes,
            compare: flags.compare,
            // 0 means that the client does not choose a cas unique.
            cas: flags.cas.filter(|&unique| unique != 0),
            stale: flags.invalidate,
            vivify: flags.vivify,
            on_failure: OnFailure::RemoveOld,
        };
        Ok(Request::MetaSet(storage, flags.return_flags))
    };
    Parsed {
        request: request(),
        answer: Answer::Wanted,
        data_length: Some(bytes),
    }
}

/// `md <key> <flags>*`
pub(super) fn md(args: &[u8]) -> Parsed<'_> {
    key_and_flags(args, |key, flags| {
        if flags.return_flags.opaque_too_long {
            return Err(ProtocolError::OpaqueTooLong);
        }
        Ok(Request::MetaDelete(MetaDelete {
            key,
            compare: flags.compare,
            cas: flags.cas,
            invalidate: flags.invalidate,
            remove_value: flags.remove_value,
            flags: flags.client_flags,
            touch: flags.touch,
            return_flags: flags.return_flags,
        }))
    })
}

/// `ma <key> <flags>*`. `M` is the mode: `I` or `+` increments (the default), `D` or `-` decrements.
pub(super) fn ma(args: &[u8]) -> Parsed<'_> {
    let mut parsed = key_and_flags(args, |key, mut flags| {
        flags.end_at_long_opaque();
        let direction = match flags.mode {
            None | Some(b'I' | b'+') => Direction::Up,
            Some(b'D' | b'-') => Direction::Down,
            Some(_) => return Err(ProtocolError::InvalidMode("ma")),
        };
        Ok(Request::MetaArithmetic(
            Arithmetic {
                direction,
                key,
                delta: flags.delta,
                // 0 means: do not compare.
                compare: flags.compare.filter(|&unique| unique != 0),
                cas: flags.cas,
                vivify: flags
                    .vivify_exptimes()
                    .map(|exptimes| (exptimes, flags.initial)),
                touch: flags.touch,
            },
            flags.return_flags,
        ))
    });
    // `ma` has one answer for all other errors in the key and the flags.
    let has_common_answer = |error: &ProtocolError| {
        !matches!(
            error,
            ProtocolError::InvalidMode(_)
                | ProtocolError::BadLine(LineError::TooFewWords(_) | LineError::FlagLetter)
        )
    };
    if parsed.request.as_ref().is_err_and(has_common_answer) {
        parsed.request = Err(ProtocolError::InvalidOrDuplicateFlag);
    }
    parsed
}

/// `me <key> [b]`
pub(super) fn me(args: &[u8]) -> Parsed<'_> {
    let (key_word, flag_words) = first_word(args);
    if key_word.is_empty() {
        return Parsed::bad_line(LineError::TooFewWords("me <key> [b]"));
    }
    let key = match (checked_key(key_word), first_word(flag_words)) {
        (Err(error), _) => Err(error),
        (Ok(_), (b"b", _)) => base64::decode(key_word)
            .map(Into::into)
            .ok_or(LineError::Base64),
        (Ok(key), _) => Ok(key.into()),
    };
    Parsed::always_answered(
        key.map(|key| Request::MetaDebug { key })
            .map_err(ProtocolError::BadLine),
    )
}

/// Parses `<key> <flags>*`: a command without a data block. `request` makes the request of them.
fn key_and_flags<'a>(
    args: &'a [u8],
    request: impl FnOnce(Key<'a>, Flags<'a>) -> Result<Request<'a>, ProtocolError>,
) -> Parsed<'a> {
    let (key_word, flag_words) = first_word(args);
    if key_word.is_empty() {
        return Parsed::bad_line(LineError::TooFewWords("mg|md|ma <key> <flags>*"));
    }
    if has_bad_first_letter(flag_words) {
        return Parsed::bad_line(LineError::FlagLetter);
    }
    Parsed::always_answered(
        parse(key_word, flag_words, 2).and_then(|(key, flags)| request(key, flags)),
    )
}

/// Whether a word starts with a byte that cannot be the letter of any flag, known or unknown.
fn has_bad_first_letter(flag_words: &[u8]) -> bool {
    // A space is before every flag.
    flag_words.windows(2).any(|two| match two {
        [b' ', letter] => !matches!(letter, b' ' | b'A'..=b'z' | b'0'..=b'9'),
        _ => false,
    })
}

/// The flags of a line. A flag that is not in the line has its default.
#[derive(Debug)]
struct Flags<'a> {
    return_flags: ReturnFlags<'a>,
    touch: Option<Exptime>,
    vivify: Option<Exptime>,
    recache: Option<Exptime>,
    compare: Option<u64>,
    cas: Option<u64>,
    client_flags: u32,
    /// The first letter after `M`; a space if there is none.
    mode: Option<u8>,
    delta: u64,
    initial: u64,
    invalidate: bool,
    remove_value: bool,
    no_bump: bool,
}

impl Flags<'_> {
    /// In memcached, `mg` and `ma` have changed the item already when they find that the opaque is too long. The flags
    /// after the opaque have no effect: an item that is created by such an `N` never expires.
    fn end_at_long_opaque(&mut self) {
        if !self.return_flags.opaque_too_long {
            return;
        }
        // A space is before every flag.
        let flags = self.return_flags.flags;
        let opaque = flags.windows(2).position(|bytes| bytes == b" O");
        let (before, _) = flags.split_at(opaque.unwrap_or(flags.len()));
        self.return_flags.flags = before;
        let is_before = |letter: &[u8]| words(before).any(|word| word.starts_with(letter));
        if !is_before(b"T") {
            self.touch = None;
        }
        if !is_before(b"N") {
            self.vivify = self.vivify.map(|_| Exptime::Never);
        }
    }

    /// The exptimes of a missing item that is created. `T` and `N` take effect in their order in the line.
    fn vivify_exptimes(&self) -> Option<Vivify> {
        let exptime = self.vivify?;
        let last = self
            .return_flags
            .flags()
            .filter(|flag| matches!(flag, ReturnFlag::Touch | ReturnFlag::Vivify))
            .last();
        let final_exptime = match last {
            Some(ReturnFlag::Touch) => self.touch.unwrap_or(exptime),
            _ => exptime,
        };
        Some(Vivify {
            exptime,
            final_exptime,
        })
    }
}

/// Parses key and flags. `words_before` is the number of words before the flags.
///
/// As in memcached, the first flag that is unknown or repeated ends the parsing with its error. A bad value does not
/// end the parsing; if several values are bad, the last one decides the error.
fn parse<'a>(
    key_word: &'a [u8],
    flag_words: &'a [u8],
    words_before: usize,
) -> Result<(Key<'a>, Flags<'a>), ProtocolError> {
    if key_word.len() > MAX_KEY && !is_long_base64(key_word, flag_words) {
        return Err(ProtocolError::BadLine(LineError::KeyTooLong(
            key_word.len(),
        )));
    }
    let mut key: Key<'_> = key_word.into();
    // A flag and the space before it are at least two bytes, so a short line is not split to count its words.
    if flag_words.len() / 2 + words_before > MAX_WORDS
        && words(flag_words).count() + words_before > MAX_WORDS
    {
        return Err(ProtocolError::TooManyFlags);
    }
    let mut flags = Flags {
        return_flags: ReturnFlags {
            value: false,
            quiet: false,
            opaque_too_long: false,
            flags: flag_words,
        },
        touch: None,
        vivify: None,
        recache: None,
        compare: None,
        cas: None,
        client_flags: 0,
        mode: None,
        delta: 1,
        initial: 0,
        invalidate: false,
        remove_value: false,
        no_bump: false,
    };
    let mut error = None;
    // One bit for each letter.
    let mut seen_letters = 0u128;
    for (&letter, value) in words(flag_words).filter_map(<[u8]>::split_first) {
        if seen_letters & 1 << letter != 0 {
            return Err(ProtocolError::DuplicateFlag);
        }
        seen_letters |= 1 << letter;
        let mut set_error = |new| error = Some(new);
        let mut exptime = || {
            let exptime = number::i32(value).map(|number| i64::from(number).into());
            exptime.or_else(|| {
                set_error(ProtocolError::BadToken);
                None
            })
        };
        match letter {
            b'N' => flags.vivify = exptime(),
            b'T' => flags.touch = exptime(),
            b'R' => flags.recache = exptime(),
            b'C' | b'E' => match number::u64(value) {
                Some(unique) if letter == b'C' => flags.compare = Some(unique),
                Some(unique) => flags.cas = Some(unique),
                None => set_error(ProtocolError::BadToken),
            },
            b'F' => match number::u32(value) {
                Some(client_flags) => flags.client_flags = client_flags,
                // Only this error does not replace an earlier one.
                None => error = error.or(Some(ProtocolError::BadLine(LineError::Flags))),
            },
            b'D' => match number::u64(value) {
                Some(delta) => flags.delta = delta,
                None => set_error(ProtocolError::BadDelta),
            },
            b'J' => match number::u64(value) {
                Some(initial) => flags.initial = initial,
                None => set_error(ProtocolError::BadInitial),
            },
            b'M' => flags.mode = Some(value.first().copied().unwrap_or(b' ')),
            b'b' => match base64::decode(key_word) {
                Some(bytes) => {
                    key = Key {
                        bytes: bytes.into(),
                        binary: true,
                    }
                }
                None => set_error(ProtocolError::BadBase64),
            },
            b'O' => flags.return_flags.opaque_too_long = value.len() + 1 > MAX_OPAQUE,
            b'I' => flags.invalidate = true,
            b'x' => flags.remove_value = true,
            b'u' => flags.no_bump = true,
            b'v' => flags.return_flags.value = true,
            b'q' => flags.return_flags.quiet = true,
            // `ReturnFlags` splits the line again to find these. P and L are for proxies, and ignored.
            b'k' | b's' | b't' | b'c' | b'f' | b'h' | b'l' | b'P' | b'L' => {}
            _ => return Err(ProtocolError::InvalidFlag),
        }
    }
    match error {
        Some(error) => Err(error),
        None => Ok((key, flags)),
    }
}
/// Whether this is a valid key in base64, although it has more letters than a key may have bytes. Ours alone: memcached
/// refuses it, and so cannot name the longest binary keys. The lines of the append-only file must name them.
fn is_long_base64(key_word: &[u8], flag_words: &[u8]) -> bool {
    key_word.len() <= MAX_KEY_IN_BASE64
        && words(flag_words).any(|word| word.first() == Some(&b'b'))
        && base64::decode(key_word).is_some_and(|key| key.len() <= MAX_KEY)
}
