//! The meta commands: one parsing function a command, its grammar above it.
//!
//! They all have one form, `<verb> <key> [<bytes>] <flags>*`. A flag is a word whose first letter says
//! what it is; some have a value behind the letter (`T30`). Most commands take all flags and ignore
//! those that mean nothing to them, as memcached does.

use super::request::{
    Arithmetic, Direction, Key, MetaDelete, MetaGet, OnFailure, Request, ReturnFlag, ReturnFlags,
    Storage, StoreMode, Vivify,
};
use super::{
    Answer, Exptime, LineError, Parsed, ProtocolError, base64, first_word, key, number, words,
};

/// The most words that a line may have, the verb and the key included.
const MAX_WORDS: usize = 20;

/// The longest opaque, its letter included.
const MAX_OPAQUE: usize = 32;

/// `mg <key> <flags>*`
pub(super) fn mg(args: &[u8]) -> Parsed<'_> {
    simple(args, |key, flags| {
        Ok(Request::MetaGet(MetaGet {
            key,
            touch: flags.touch,
            vivify: flags.created(),
            recache: flags.recache,
            compare: flags.compare,
            cas: flags.cas,
            no_bump: flags.no_bump,
            return_flags: flags.return_flags,
        }))
    })
}

/// `ms <key> <bytes> <flags>*`, then the data block. `M` is the mode: `S`et (if it is not given),
/// r`E`place nothing (add), `A`ppend, `P`repend, `R`eplace.
pub(super) fn ms(args: &[u8]) -> Parsed<'_> {
    let (name, rest) = first_word(args);
    let (bytes, flags) = first_word(rest);
    if bytes.is_empty() {
        return Parsed::bad_line(LineError::TooFewWords("ms <key> <bytes> <flags>*"));
    }
    if bad_first_letter(flags) {
        return Parsed::bad_line(LineError::FlagLetter);
    }
    let Some(bytes) = number::data_length(bytes) else {
        return Parsed::bad_line(LineError::Bytes);
    };
    // From here on the data is swallowed, whatever else is wrong with the line.
    let request = || {
        let (key, flags) = parse(name, flags, 3)?;
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
            // 0 stands for: not chosen.
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
    simple(args, |key, flags| {
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

/// `ma <key> <flags>*`. `M` is the mode: `I` or `+` (if it is not given), `D` or `-`.
pub(super) fn ma(args: &[u8]) -> Parsed<'_> {
    let mut parsed = simple(args, |key, flags| {
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
                // 0 stands for: do not compare.
                compare: flags.compare.filter(|&unique| unique != 0),
                cas: flags.cas,
                vivify: flags.created().map(|created| (created, flags.initial)),
                touch: flags.touch,
            },
            flags.return_flags,
        ))
    });
    // Whatever is wrong with the flags, `ma` has one answer for it.
    let is_about_flags = |error: &ProtocolError| {
        !matches!(
            error,
            ProtocolError::InvalidMode(_)
                | ProtocolError::OpaqueTooLong
                | ProtocolError::BadLine(LineError::TooFewWords(_) | LineError::FlagLetter)
        )
    };
    if parsed.request.as_ref().is_err_and(is_about_flags) {
        parsed.request = Err(ProtocolError::InvalidOrDuplicateFlag);
    }
    parsed
}

/// `me <key> [b]`
pub(super) fn me(args: &[u8]) -> Parsed<'_> {
    let (name, flags) = first_word(args);
    if name.is_empty() {
        return Parsed::bad_line(LineError::TooFewWords("me <key> [b]"));
    }
    let request = match (key(name), first_word(flags)) {
        (Err(flaw), _) => Err(flaw),
        (Ok(_), (b"b", _)) => base64::decode(name)
            .map(Into::into)
            .ok_or(LineError::Base64),
        (Ok(key), _) => Ok(key.into()),
    };
    Parsed::always_answered(
        request
            .map(|key| Request::MetaDebug { key })
            .map_err(ProtocolError::BadLine),
    )
}

/// What the commands without data share.
fn simple<'a>(
    args: &'a [u8],
    request: impl FnOnce(Key<'a>, Flags<'a>) -> Result<Request<'a>, ProtocolError>,
) -> Parsed<'a> {
    let (name, flags) = first_word(args);
    if name.is_empty() {
        return Parsed::bad_line(LineError::TooFewWords("<command> <key> <flags>*"));
    }
    if bad_first_letter(flags) {
        return Parsed::bad_line(LineError::FlagLetter);
    }
    Parsed::always_answered(parse(name, flags, 2).and_then(|(key, flags)| {
        let opaque_too_long = flags.return_flags.opaque_too_long;
        let request = request(key, flags)?;
        if opaque_too_long {
            Err(ProtocolError::OpaqueTooLong)
        } else {
            Ok(request)
        }
    }))
}

/// Whether a word starts with what cannot even be a flag that nobody knows.
fn bad_first_letter(flags: &[u8]) -> bool {
    let may_be = |byte: &u8| matches!(byte, b'A'..=b'z' | b'0'..=b'9');
    !words(flags).all(|word| word.first().is_some_and(may_be))
}

/// Every flag, as far as the line has it.
#[derive(Debug)]
struct Flags<'a> {
    return_flags: ReturnFlags<'a>,
    touch: Option<Exptime>,
    vivify: Option<Exptime>,
    recache: Option<Exptime>,
    compare: Option<u64>,
    cas: Option<u64>,
    client_flags: u32,
    /// The first letter behind `M`; a space where there is none.
    mode: Option<u8>,
    delta: u64,
    initial: u64,
    invalidate: bool,
    remove_value: bool,
    no_bump: bool,
}

impl Flags<'_> {
    /// How a missing item is created. Flags act in the order of the line.
    fn created(&self) -> Option<Vivify> {
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

/// Parses key and flags. `before` is how many words stand before the flags.
///
/// As in memcached, a flag that is not known, or is there twice, ends the parsing with its error; of the
/// values that cannot be read, the last one gives the error.
fn parse<'a>(
    name: &'a [u8],
    flags: &'a [u8],
    before: usize,
) -> Result<(Key<'a>, Flags<'a>), ProtocolError> {
    let mut key: Key<'_> = key(name).map_err(ProtocolError::BadLine)?.into();
    if words(flags).count() + before > MAX_WORDS {
        return Err(ProtocolError::TooManyFlags);
    }
    let mut found = Flags {
        return_flags: ReturnFlags {
            value: false,
            quiet: false,
            opaque_too_long: false,
            flags,
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
    let mut seen = 0u128;
    for (&letter, value) in words(flags).filter_map(<[u8]>::split_first) {
        if seen & 1 << letter != 0 {
            return Err(ProtocolError::DuplicateFlag);
        }
        seen |= 1 << letter;
        let mut bad = |what| error = Some(what);
        let mut exptime = || {
            let exptime = number::i32(value).map(|number| i64::from(number).into());
            exptime.or_else(|| {
                bad(ProtocolError::BadToken);
                None
            })
        };
        match letter {
            b'N' => found.vivify = exptime(),
            b'T' => found.touch = exptime(),
            b'R' => found.recache = exptime(),
            b'C' | b'E' => match number::u64(value) {
                Some(unique) if letter == b'C' => found.compare = Some(unique),
                Some(unique) => found.cas = Some(unique),
                None => bad(ProtocolError::BadToken),
            },
            b'F' => match number::u32(value) {
                Some(flags) => found.client_flags = flags,
                // The one that keeps the error of another flag, if there is one.
                None => error = error.or(Some(ProtocolError::BadLine(LineError::Flags))),
            },
            b'D' => match number::u64(value) {
                Some(delta) => found.delta = delta,
                None => bad(ProtocolError::BadDelta),
            },
            b'J' => match number::u64(value) {
                Some(initial) => found.initial = initial,
                None => bad(ProtocolError::BadInitial),
            },
            b'M' => found.mode = Some(value.first().copied().unwrap_or(b' ')),
            b'b' => match base64::decode(name) {
                Some(bytes) => {
                    key = Key {
                        bytes: bytes.into(),
                        binary: true,
                    }
                }
                None => bad(ProtocolError::BadBase64),
            },
            b'O' => found.return_flags.opaque_too_long = value.len() + 1 > MAX_OPAQUE,
            b'I' => found.invalidate = true,
            b'x' => found.remove_value = true,
            b'u' => found.no_bump = true,
            b'v' => found.return_flags.value = true,
            b'q' => found.return_flags.quiet = true,
            // Known, and told apart by `ReturnFlags`; P and L are for proxies.
            b'k' | b's' | b't' | b'c' | b'f' | b'h' | b'l' | b'P' | b'L' => {}
            _ => return Err(ProtocolError::InvalidFlag),
        }
    }
    match error {
        Some(error) => Err(error),
        None => Ok((key, found)),
    }
}
