//! The classic text protocol. Each command has one parsing function, with its grammar above it.
//!
//! `args` is always the line after the verb. Words beyond the grammar are ignored, as in memcached (except by
//! `shutdown`, which refuses them). Too few words are mostly a [`LineError::TooFewWords`].
//!
//! Lessons: [03](crate::conversations::lesson_03_storage), [04](crate::conversations::lesson_04_bad_data),
//! [06](crate::conversations::lesson_06_cas), [07](crate::conversations::lesson_07_arithmetic),
//! [08](crate::conversations::lesson_08_expiry), [09](crate::conversations::lesson_09_delete),
//! [10](crate::conversations::lesson_10_flush_all), [12](crate::conversations::lesson_12_many_keys_and_pipelines),
//! [14](crate::conversations::lesson_14_stats), [15](crate::conversations::lesson_15_admin),
//! [16](crate::conversations::lesson_16_flush_disabled), [19](crate::conversations::lesson_19_shutdown),
//! [20](crate::conversations::lesson_20_ours_alone), [38](crate::conversations::lesson_38_no_watch).

use super::request::{
    Arithmetic, DebugTime, Detail, Direction, End, Flush, Keys, OnFailure, Request, Retrieval,
    ShutdownMode, StatsTopic, Storage, StoreMode, Streams, WithCas,
};
use super::{
    Exptime, LineError, Parsed, ProtocolError, answer_of, checked_key, first_word, number,
    without_last_word, words,
};
use crate::item::MAX_KEY;

/// `get <key>*` and `gets <key>*`
pub(super) fn get(args: &[u8], with_cas: WithCas) -> Parsed<'_> {
    if args.iter().all(|&byte| byte == b' ') {
        return Parsed::bad_line(LineError::TooFewWords("get|gets <key>*"));
    }
    Parsed::always_answered(retrieval(args, with_cas, None))
}

/// A piece of a `get` or `gets` line that goes on. Its last word may go on too, so it is checked but not asked for.
pub(super) fn get_piece(args: &[u8], with_cas: WithCas) -> Parsed<'_> {
    let request = retrieval(args, with_cas, None).map(|_| {
        Request::Get(Retrieval {
            keys: Keys::Words(without_last_word(args)),
            with_cas,
            touch: None,
            end: End::Later,
        })
    });
    Parsed::always_answered(request)
}

/// `gat <exptime> <key>*` and `gats <exptime> <key>*`
pub(super) fn gat(args: &[u8], with_cas: WithCas) -> Parsed<'_> {
    let (exptime, keys) = first_word(args);
    if words(keys).next().is_none() {
        return Parsed::bad_line(LineError::TooFewWords("gat|gats <exptime> <key>*"));
    }
    Parsed::always_answered(
        strict_exptime(exptime).and_then(|exptime| retrieval(keys, with_cas, Some(exptime))),
    )
}

/// Checks all keys before the first is looked up: if one is bad, no VALUE is sent.
fn retrieval(
    keys: &[u8],
    with_cas: WithCas,
    touch: Option<Exptime>,
) -> Result<Request<'_>, ProtocolError> {
    // Most lines are too short to have a key that is too long. They need not be split for that.
    if keys.len() > MAX_KEY
        && let Some(error) = words(keys).find_map(|word| checked_key(word).err())
    {
        return Err(ProtocolError::BadLine(error));
    }
    Ok(Request::Get(Retrieval {
        keys: Keys::Words(keys),
        with_cas,
        touch,
        end: End::Follows,
    }))
}

/// `set|add|replace|append|prepend <key> <flags> <exptime> <bytes> [noreply]`, then the data block
pub(super) fn store(args: &[u8], mode: StoreMode) -> Parsed<'_> {
    let form = match mode {
        StoreMode::Set => "set <key> <flags> <exptime> <bytes> [noreply]",
        StoreMode::Add => "add <key> <flags> <exptime> <bytes> [noreply]",
        StoreMode::Replace => "replace <key> <flags> <exptime> <bytes> [noreply]",
        StoreMode::Append => "append <key> <flags> <exptime> <bytes> [noreply]",
        StoreMode::Prepend => "prepend <key> <flags> <exptime> <bytes> [noreply]",
    };
    storage(args, mode, form, |_| Ok(None))
}

/// `cas <key> <flags> <exptime> <bytes> <cas unique> [noreply]`, then the data block
pub(super) fn cas(args: &[u8]) -> Parsed<'_> {
    let form = "cas <key> <flags> <exptime> <bytes> <cas unique> [noreply]";
    storage(args, StoreMode::Set, form, |unique| {
        unique
            .and_then(number::u64)
            .map(Some)
            .ok_or(LineError::CasUnique)
    })
}

/// Parses any storage command. `form` is its form; `compare` parses the word after `<bytes>`: the cas unique of `cas`.
fn storage<'a>(
    args: &'a [u8],
    mode: StoreMode,
    form: &'static str,
    compare: impl FnOnce(Option<&'a [u8]>) -> Result<Option<u64>, LineError>,
) -> Parsed<'a> {
    let mut words = words(args);
    let (Some(key), Some(flags), Some(exptime), Some(bytes)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Parsed::bad_line(LineError::TooFewWords(form));
    };
    // Without its length it is not known where the data ends, so it is read as commands. With a length, the data is
    // swallowed, whatever else is wrong with the line.
    let Some(bytes) = number::data_length(bytes) else {
        return Parsed::bad_line(LineError::Bytes);
    };
    let request = || {
        let key = checked_key(key)?.into();
        let flags = number::like_strtoll(flags)
            .and_then(|flags| flags.try_into().ok())
            .ok_or(LineError::Flags)?;
        let exptime = number::like_strtoll(exptime).ok_or(LineError::Exptime)?;
        // memcached keeps the low 32 bits, and clients rely on it: libmemcached sends -1 as 4294967295.
        let exptime = i64::from(exptime as i32).into();
        let compare = compare(words.next())?;
        let on_failure = match (mode, compare) {
            (StoreMode::Set, None) => OnFailure::RemoveOld,
            _ => OnFailure::KeepOld,
        };
        let (cas, stale, vivify) = (None, false, None);
        Ok(Request::Store(Storage {
            mode,
            key,
            flags,
            exptime,
            bytes,
            compare,
            cas,
            stale,
            vivify,
            on_failure,
        }))
    };
    Parsed {
        request: request().map_err(ProtocolError::BadLine),
        answer: answer_of(args),
        data_length: Some(bytes),
    }
}

/// `delete|del <key> [noreply]`
pub(super) fn delete(args: &[u8]) -> Parsed<'_> {
    let (key, _) = first_word(args);
    if key.is_empty() {
        return Parsed::bad_line(LineError::TooFewWords("delete <key> [noreply]"));
    }
    let request = checked_key(key).map(|key| Request::Delete { key });
    Parsed::maybe_noreply(request.map_err(ProtocolError::BadLine), args)
}

/// `incr <key> <delta> [noreply]` and `decr <key> <delta> [noreply]`
pub(super) fn arithmetic(args: &[u8], direction: Direction) -> Parsed<'_> {
    let mut words = words(args);
    let (Some(key), Some(delta)) = (words.next(), words.next()) else {
        return Parsed::bad_line(LineError::TooFewWords("incr|decr <key> <delta> [noreply]"));
    };
    let request = || {
        let key = checked_key(key).map_err(ProtocolError::BadLine)?.into();
        let delta = number::u64(delta).ok_or(ProtocolError::InvalidDelta)?;
        let (compare, cas, vivify, touch) = (None, None, None, None);
        Ok(Request::Arithmetic(Arithmetic {
            direction,
            key,
            delta,
            compare,
            cas,
            vivify,
            touch,
        }))
    };
    Parsed::maybe_noreply(request(), args)
}

/// `touch <key> <exptime> [noreply]`
pub(super) fn touch(args: &[u8]) -> Parsed<'_> {
    let mut words = words(args);
    let (Some(key), Some(exptime)) = (words.next(), words.next()) else {
        return Parsed::bad_line(LineError::TooFewWords("touch <key> <exptime> [noreply]"));
    };
    let request = || {
        let key = checked_key(key).map_err(ProtocolError::BadLine)?;
        Ok(Request::Touch {
            key,
            exptime: strict_exptime(exptime)?,
        })
    };
    Parsed::maybe_noreply(request(), args)
}

/// `flush_all [<delay or date>] [noreply]`
pub(super) fn flush_all(args: &[u8]) -> Parsed<'_> {
    let (word, rest) = first_word(args);
    let is_only_word = words(rest).next().is_none();
    let flush = if word.is_empty() || (is_only_word && word == b"noreply") {
        Flush::Now
    } else {
        match strict_exptime(word) {
            // Here 0 and a negative number mean: do not wait.
            Ok(Exptime::Never | Exptime::AtOnce) => Flush::Now,
            Ok(when) => Flush::Later(when),
            // This becomes an error only when the command is executed: with `-F`, another error comes first.
            Err(_) => Flush::Unknown,
        }
    };
    Parsed::maybe_noreply(Ok(Request::FlushAll(flush)), args)
}

/// `verbosity <level> [noreply]`
pub(super) fn verbosity(args: &[u8]) -> Parsed<'_> {
    let (level, _) = first_word(args);
    let request = number::u32(level)
        .map(Request::Verbosity)
        .ok_or(ProtocolError::BadLine(LineError::Level));
    Parsed::maybe_noreply(request, args)
}

/// `stats [settings|items|slabs|sizes|conns|extstore|reset]`, `stats detail on|off|dump` and
/// `stats cachedump <class> <limit>`
pub(super) fn stats(args: &[u8]) -> Parsed<'_> {
    let (topic, rest) = first_word(args);
    // memcached compares only the letters that the client sends, so `stats s` is `stats settings`. The last three
    // topics must be complete.
    let is_start_of = |name: &[u8]| name.starts_with(topic);
    Parsed::always_answered(Ok(Request::Stats(match topic {
        b"" => StatsTopic::General,
        _ if is_start_of(b"reset") => StatsTopic::Reset,
        _ if is_start_of(b"detail") => StatsTopic::Detail(detail(rest)),
        _ if is_start_of(b"settings") => StatsTopic::Settings,
        _ if is_start_of(b"cachedump") => match cachedump(rest) {
            Ok(topic) => topic,
            Err(error) => return Parsed::always_answered(Err(error)),
        },
        _ if is_start_of(b"conns") => StatsTopic::Conns,
        _ if is_start_of(b"extstore") => StatsTopic::Extstore,
        b"items" => StatsTopic::Items,
        b"slabs" => StatsTopic::Slabs,
        b"sizes" => StatsTopic::Sizes,
        _ => return Parsed::always_answered(Err(ProtocolError::UnknownStats)),
    })))
}

fn detail(args: &[u8]) -> Detail {
    match first_word(args).0 {
        b"" => Detail::Unknown,
        word if b"on".starts_with(word) => Detail::On,
        word if b"off".starts_with(word) => Detail::Off,
        word if b"dump".starts_with(word) => Detail::Dump,
        _ => Detail::Unknown,
    }
}

fn cachedump(args: &[u8]) -> Result<StatsTopic, ProtocolError> {
    let mut words = words(args);
    let (Some(class), Some(limit)) = (words.next(), words.next()) else {
        return Err(ProtocolError::CachedumpTooFewWords);
    };
    match (number::u32(class), number::u32(limit)) {
        (Some(class @ 0..64), Some(limit)) => Ok(StatsTopic::Cachedump { class, limit }),
        (Some(_), Some(_)) => Err(ProtocolError::IllegalSlabId),
        _ => Err(ProtocolError::BadLine(LineError::Cachedump)),
    }
}

/// `cache_memlimit <megabytes> [noreply]`
pub(super) fn cache_memlimit(args: &[u8]) -> Parsed<'_> {
    let (megabytes, _) = first_word(args);
    let request = number::u32(megabytes)
        .map(Request::CacheMemlimit)
        .ok_or(ProtocolError::MemlimitNotANumber);
    Parsed::maybe_noreply(request, args)
}

/// `shutdown [graceful]`
pub(super) fn shutdown(args: &[u8]) -> Parsed<'_> {
    let (mode, rest) = first_word(args);
    let is_only_word = words(rest).next().is_none();
    Parsed::maybe_noreply(
        Ok(Request::Shutdown(match mode {
            b"" => ShutdownMode::Plain,
            _ if is_only_word && b"graceful".starts_with(mode) => ShutdownMode::Graceful,
            _ => ShutdownMode::Unknown,
        })),
        args,
    )
}

/// `watch <stream>*`; without a word, `fetchers`
pub(super) fn watch(args: &[u8]) -> Parsed<'_> {
    let streams = match words(args).next() {
        None => Some(Streams::FETCHERS),
        Some(_) => words(args).try_fold(Streams::NONE, |streams, word| {
            Some(streams.union(Streams::named(word)?))
        }),
    };
    // A wrong word becomes an error only when the command is executed: with `-W`, another error comes first.
    Parsed::always_answered(Ok(Request::Watch(streams)))
}

/// `debugtime p|r|<seconds>`
pub(super) fn debugtime(args: &[u8]) -> Parsed<'_> {
    let (word, _) = first_word(args);
    let request = match word {
        b"p" => Ok(DebugTime::Pause),
        b"r" => Ok(DebugTime::Resume),
        b"" => Err(ProtocolError::UnknownCommand),
        _ => number::i64(word)
            .map(DebugTime::Jump)
            .ok_or(ProtocolError::UnknownCommand),
    };
    Parsed::maybe_noreply(request.map(Request::DebugTime), args)
}

/// The exptime of all classic commands except the storage commands. The only sign that it accepts is the minus.
fn strict_exptime(word: &[u8]) -> Result<Exptime, ProtocolError> {
    match number::i32(word) {
        Some(number) => Ok(i64::from(number).into()),
        None => Err(ProtocolError::InvalidExptime),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, parse};
    use super::*;

    fn error(line: &str) -> ProtocolError {
        parse(line.as_bytes()).request.expect_err(line)
    }

    fn keys(line: &str) -> Vec<&[u8]> {
        match parse(line.as_bytes()).request {
            Ok(Request::Get(retrieval)) => retrieval.keys.iter().collect(),
            other => panic!("{line:?} is {other:?}"),
        }
    }

    #[test]
    fn a_get_may_have_any_number_of_keys_but_at_least_one() {
        assert_eq!(keys("get a\n"), [b"a"]);
        assert_eq!(keys("get  a   b \r\n"), [b"a", b"b"]);
        assert_eq!(keys("gat 10 a  b\r\n"), [b"a", b"b"]);
        assert_eq!(error("get\n"), error("get   \n"));
        assert_eq!(
            error("gat 10 \n"),
            ProtocolError::BadLine(LineError::TooFewWords("gat|gats <exptime> <key>*"))
        );
        assert_eq!(error("gat x a\n"), ProtocolError::InvalidExptime);
    }

    #[test]
    fn a_line_with_a_key_of_251_bytes_is_refused() {
        let long = "k".repeat(251);
        for line in [
            format!("get {long}\n"),
            format!("gets a {long} b\n"),
            format!("gat 1 {long}\n"),
            format!("delete {long}\n"),
            format!("incr {long} x\n"),
            format!("touch {long} x\n"),
            format!("set {long} x x 1\n"),
        ] {
            assert_eq!(
                error(&line),
                ProtocolError::BadLine(LineError::KeyTooLong(251)),
                "{line}"
            );
        }
    }

    #[test]
    fn a_storage_line_has_key_flags_exptime_length_and_perhaps_a_cas_unique() {
        let parsed = parse(b"set k 4294967295 -1 0\r\n");
        let storage = Storage {
            mode: StoreMode::Set,
            key: b"k"[..].into(),
            flags: u32::MAX,
            exptime: Exptime::AtOnce,
            bytes: 0,
            compare: None,
            cas: None,
            stale: false,
            vivify: None,
            on_failure: OnFailure::RemoveOld,
        };
        assert_eq!(parsed.request, Ok(Request::Store(storage)));
        assert_eq!(parsed.data_length, Some(0));
        let parsed = parse(b"cas k +5 007 3 18446744073709551615 noreply\n");
        let Ok(Request::Store(storage)) = parsed.request else {
            panic!("{parsed:?}")
        };
        assert_eq!((storage.flags, storage.exptime), (5, Exptime::After(7)));
        assert_eq!(
            (storage.compare, storage.on_failure),
            (Some(u64::MAX), OnFailure::KeepOld)
        );
        assert_eq!(parsed.answer, Answer::Noreply);
    }

    #[test]
    fn a_line_with_a_bad_length_has_no_known_data_and_is_always_answered() {
        for bytes in ["x", "-1", "5x", "+5", "1.0", "2147483646", "99999999999"] {
            let line = format!("set k 0 0 {bytes} noreply\n");
            let parsed = parse(line.as_bytes());
            assert_eq!(
                parsed.request,
                Err(ProtocolError::BadLine(LineError::Bytes)),
                "{line}"
            );
            assert_eq!(
                (parsed.data_length, parsed.answer),
                (None, Answer::Wanted),
                "{line}"
            );
        }
        assert_eq!(
            parse(b"set k 0 0 2147483645\n").data_length,
            Some(2_147_483_645)
        );
    }

    #[test]
    fn a_refused_line_with_a_good_length_has_data_to_swallow() {
        for (line, error) in [
            ("set k -1 0 3 noreply\n", LineError::Flags),
            ("set k 4294967296 0 3 noreply\n", LineError::Flags),
            ("set k 0 soon 3 noreply\n", LineError::Exptime),
            ("cas k 0 0 3 noreply\n", LineError::CasUnique),
            ("cas k 0 0 3 -7 noreply\n", LineError::CasUnique),
        ] {
            let parsed = parse(line.as_bytes());
            assert_eq!(parsed.request, Err(ProtocolError::BadLine(error)), "{line}");
            assert_eq!(
                (parsed.data_length, parsed.answer),
                (Some(3), Answer::Noreply),
                "{line}"
            );
        }
    }

    #[test]
    fn the_first_word_of_flush_all_is_noreply_only_if_it_is_the_only_word() {
        let flush = |line: &str| match parse(line.as_bytes()).request {
            Ok(Request::FlushAll(flush)) => flush,
            other => panic!("{line:?} is {other:?}"),
        };
        for now in [
            "flush_all\n",
            "flush_all \n",
            "flush_all 0\n",
            "flush_all -1\n",
            "flush_all noreply\n",
        ] {
            assert_eq!(flush(now), Flush::Now, "{now}");
        }
        assert_eq!(
            flush("flush_all 10 noreply\n"),
            Flush::Later(Exptime::After(10))
        );
        assert_eq!(flush("flush_all noreply 10\n"), Flush::Unknown);
    }

    #[test]
    fn stats_topics_may_be_shortened_as_memcached_allows() {
        let topic = |line: &str| match parse(line.as_bytes()).request {
            Ok(Request::Stats(topic)) => Some(topic),
            _ => None,
        };
        assert_eq!(topic("stats\n"), Some(StatsTopic::General));
        assert_eq!(topic("stats \n"), Some(StatsTopic::General));
        assert_eq!(topic("stats s\n"), Some(StatsTopic::Settings));
        assert_eq!(topic("stats slabs\n"), Some(StatsTopic::Slabs));
        assert_eq!(topic("stats slab\n"), None);
        assert_eq!(topic("stats noreply\n"), None);
    }
}
