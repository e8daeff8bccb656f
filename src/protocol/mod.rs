//! The protocol: bytes of one command line -> [`Request`]. (The Go program's `protocol_handler`.)
//!
//! A request borrows everything from the line, except a key in base64. A parser knows nothing about sockets, threads
//! or the store. In [`classic`], [`tuning`] and [`meta`], the grammar of each command is above the function that parses
//! it. This file has what they share: the type of the result, the verbs, and how a line is split into words. The binary
//! protocol has no lines: [`binary`] parses its requests.
//!
//! Source: memcached's `doc/protocol.txt`, and the behaviour of memcached 1.6.45 where that text says nothing.
//!
//! Lesson: [05](crate::conversations::lesson_05_keys).

pub mod base64;
pub mod binary;
pub(crate) mod classic;
pub mod error;
pub mod expiry;
pub mod grammar;
mod login;
pub(crate) mod meta;
mod number;
pub mod request;
pub(crate) mod tuning;

use crate::item::MAX_KEY;
pub use error::{LineError, ProtocolError};
pub use expiry::Exptime;
pub use login::{MAX_CREDENTIALS, parse_credentials, parse_login};
pub use number::{number_in_value, write_decimal};
pub use request::{
    Arithmetic, Classes, Crawler, DebugTime, Detail, Direction, End, Flush, Internals, Key,
    MetaDelete, MetaGet, OnFailure, Request, Retrieval, ReturnFlag, ReturnFlags, ShutdownMode,
    StatsTopic, Storage, StoreMode, Streams, WithCas,
};

/// The result of parsing one command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// What to do, or why the line is refused.
    pub request: Result<Request<'a>, ProtocolError>,
    /// Whether the client wants an answer.
    pub answer: Answer,
    /// The length of the data block after the line, in bytes, without its closing `\r\n`; of a binary request, the
    /// length of its value. A refused line has a data block too, if its length could be read: then the data must be
    /// swallowed. (Not after [`LineError::FlagLetter`], as in memcached.)
    pub data_length: Option<usize>,
}

/// Whether the client wants an answer. It does not if the last word of the line is `noreply` and the command allows
/// that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The ordinary case.
    Wanted,
    /// `noreply`: nothing is sent, errors included.
    Noreply,
}

impl<'a> Parsed<'a> {
    /// A request that is always answered and brings no data.
    fn always_answered(request: Result<Request<'a>, ProtocolError>) -> Self {
        Parsed {
            request,
            answer: Answer::Wanted,
            data_length: None,
        }
    }

    /// A request whose last word may be `noreply`.
    fn maybe_noreply(request: Result<Request<'a>, ProtocolError>, args: &[u8]) -> Self {
        Parsed {
            request,
            answer: answer_of(args),
            data_length: None,
        }
    }

    /// A line with too few words, or without a readable length. It is always answered: `noreply` is ignored.
    fn bad_line(error: LineError) -> Self {
        Parsed::always_answered(Err(ProtocolError::BadLine(error)))
    }
}

/// Parses one command line.
///
/// `line` is the line as it was received, with its end (`\n` or `\r\n`). Parsing never fails: the result for an invalid
/// line is the error that answers it.
pub fn parse(line: &[u8]) -> Parsed<'_> {
    // The shortest command is two letters and `\r\n`. A shorter line is refused, even `mn\n`.
    if line.len() < 4 {
        return Parsed::bad_line(LineError::LineTooShort);
    }
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // `words` is not used here: most verbs must start the line.
    let (verb, args) = match line.iter().position(|&byte| byte == b' ') {
        Some(space) => line.split_at(space),
        None => (line, &b""[..]),
    };
    if let Some(parsed) = parse_verb(verb, args) {
        return parsed;
    }
    // memcached has two parsers. The older one, for these commands, skips spaces before the verb.
    if verb.is_empty() {
        let (verb, args) = first_word(args);
        let parsed = Some(verb).filter(|verb| AFTER_SPACES.contains(verb));
        if let Some(parsed) = parsed.and_then(|verb| parse_verb(verb, args)) {
            return parsed;
        }
    }
    if is_http(args) {
        return Parsed::always_answered(Ok(Request::Http));
    }
    // Ours alone: the Go program accepted a verb in upper and lower case. Only a verb that is unknown as written is
    // looked up again in lower case, so ordinary commands do not pay for it.
    if let Some(parsed) =
        lower_case(verb, &mut [0; LONGEST_VERB]).and_then(|verb| parse_verb(verb, args))
    {
        return parsed;
    }
    let error = match verb.eq_ignore_ascii_case(b"help") {
        true => ProtocolError::Help,
        false => ProtocolError::UnknownCommand,
    };
    Parsed::maybe_noreply(Err(error), line)
}

/// Parses a piece of a `get` or `gets` line. The piece begins with the verb, and the line goes on after it. All its
/// words are checked. The keys are all except the last word, which may be incomplete.
pub fn parse_piece(piece: &[u8]) -> Parsed<'_> {
    // It may be the first byte of the line's end.
    let piece = piece.strip_suffix(b"\r").unwrap_or(piece);
    match first_word(piece) {
        (b"gets", args) => classic::get_piece(args, WithCas::Yes),
        (_, args) => classic::get_piece(args, WithCas::No),
    }
}

/// All verbs. Tests compare this list with everything else that knows the verbs: [`parse_verb`], the conversations, and
/// the table in README.md. The random tests of the parser take their verbs from it.
pub const VERBS: [&str; 34] = [
    "get",
    "gets",
    "set",
    "delete",
    "del",
    "incr",
    "decr",
    "add",
    "replace",
    "append",
    "prepend",
    "cas",
    "touch",
    "gat",
    "gats",
    "mg",
    "ms",
    "md",
    "ma",
    "mn",
    "me",
    "flush_all",
    "version",
    "verbosity",
    "quit",
    "stats",
    "cache_memlimit",
    "shutdown",
    "lru_crawler",
    "slabs",
    "lru",
    "extstore",
    "watch",
    "debugtime",
];

/// The verbs that may follow spaces at the beginning of a line.
const AFTER_SPACES: [&[u8]; 9] = [
    b"flush_all",
    b"verbosity",
    b"cache_memlimit",
    b"shutdown",
    b"lru_crawler",
    b"slabs",
    b"lru",
    b"extstore",
    b"debugtime",
];

/// Parses the words after the verb; `None` if there is no such verb.
fn parse_verb<'a>(verb: &[u8], args: &'a [u8]) -> Option<Parsed<'a>> {
    Some(match verb {
        b"get" => classic::get(args, WithCas::No),
        b"gets" => classic::get(args, WithCas::Yes),
        b"set" => classic::store(args, StoreMode::Set),
        b"delete" | b"del" => classic::delete(args),
        b"incr" => classic::arithmetic(args, Direction::Up),
        b"decr" => classic::arithmetic(args, Direction::Down),
        b"add" => classic::store(args, StoreMode::Add),
        b"replace" => classic::store(args, StoreMode::Replace),
        b"append" => classic::store(args, StoreMode::Append),
        b"prepend" => classic::store(args, StoreMode::Prepend),
        b"cas" => classic::cas(args),
        b"touch" => classic::touch(args),
        b"gat" => classic::gat(args, WithCas::No),
        b"gats" => classic::gat(args, WithCas::Yes),
        b"mg" => meta::mg(args),
        b"ms" => meta::ms(args),
        b"md" => meta::md(args),
        b"ma" => meta::ma(args),
        b"mn" => Parsed::always_answered(Ok(Request::MetaNoop)),
        b"me" => meta::me(args),
        b"flush_all" => classic::flush_all(args),
        b"version" => Parsed::always_answered(Ok(Request::Version)),
        b"verbosity" => classic::verbosity(args),
        b"quit" => Parsed::always_answered(Ok(Request::Quit)),
        b"stats" => classic::stats(args),
        b"cache_memlimit" => classic::cache_memlimit(args),
        b"shutdown" => classic::shutdown(args),
        b"lru_crawler" => tuning::lru_crawler(args),
        b"slabs" => tuning::slabs(args),
        b"lru" => tuning::lru(args),
        b"extstore" => tuning::extstore(args),
        b"watch" => classic::watch(args),
        b"debugtime" => classic::debugtime(args),
        _ => return None,
    })
}

/// The length of the longest verb, which is `cache_memlimit`.
const LONGEST_VERB: usize = 14;

/// The verb in lower case, in the caller's buffer; `None` if it is longer than any verb.
fn lower_case<'b>(verb: &[u8], buffer: &'b mut [u8; LONGEST_VERB]) -> Option<&'b [u8]> {
    let lower = buffer.get_mut(..verb.len())?;
    lower.copy_from_slice(verb);
    lower.make_ascii_lowercase();
    Some(lower)
}

/// The words of a line. Only spaces separate them, and several spaces count as one. A tab or any other control byte is
/// part of a word.
fn words(args: &[u8]) -> impl Iterator<Item = &[u8]> {
    args.split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty())
}

/// The first word (empty if there is none), and the rest of the line after it.
fn first_word(args: &[u8]) -> (&[u8], &[u8]) {
    let start = args
        .iter()
        .position(|&byte| byte != b' ')
        .unwrap_or(args.len());
    let (_, args) = args.split_at(start);
    let end = args
        .iter()
        .position(|&byte| byte == b' ')
        .unwrap_or(args.len());
    args.split_at(end)
}

fn last_word(args: &[u8]) -> &[u8] {
    args.rsplit(|&byte| byte == b' ')
        .find(|word| !word.is_empty())
        .unwrap_or_default()
}

/// What is before the last word.
pub fn without_last_word(args: &[u8]) -> &[u8] {
    let is_space = |&byte: &u8| byte == b' ';
    let end = args.iter().rposition(|byte| !is_space(byte));
    let (args, _) = args.split_at(end.map_or(0, |last| last + 1));
    let space = args.iter().rposition(is_space);
    args.split_at(space.map_or(0, |space| space + 1)).0
}

fn answer_of(args: &[u8]) -> Answer {
    if last_word(args) == b"noreply" {
        Answer::Noreply
    } else {
        Answer::Wanted
    }
}

/// Whether this is a line such as `GET / HTTP/1.1`. A browser sent it, perhaps because a web page made it do so. The
/// line is not a command, but the lines after it could be commands, so the connection is closed.
fn is_http(args: &[u8]) -> bool {
    last_word(args).starts_with(b"HTTP/")
}

/// The word itself, if it is a valid key: at most 250 bytes. (It is not empty and has no space, because a line is split
/// into words at its spaces.)
fn checked_key(word: &[u8]) -> Result<&[u8], LineError> {
    if word.len() > MAX_KEY {
        Err(LineError::KeyTooLong(word.len()))
    } else {
        Ok(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shorter_than_four_bytes_is_never_a_command() {
        for line in ["\n", "\r\n", "a\r\n", "ab\n"] {
            let parsed = parse(line.as_bytes());
            assert_eq!(
                parsed.request,
                Err(ProtocolError::BadLine(LineError::LineTooShort)),
                "{line:?}"
            );
        }
        assert_eq!(parse(b"abc\n").request, Err(ProtocolError::UnknownCommand));
    }

    #[test]
    fn a_verb_is_looked_up_as_written_then_in_lower_case() {
        assert_eq!(parse(b"version\r\n").request, Ok(Request::Version));
        assert_eq!(parse(b"VERSION\r\n").request, Ok(Request::Version));
        assert_eq!(parse(b"Quit\n").request, Ok(Request::Quit));
        assert_eq!(
            parse(b"CACHE_MEMLIMIT 64\n").request,
            parse(b"cache_memlimit 64\n").request
        );
        assert_eq!(
            parse(b" version\r\n").request,
            Err(ProtocolError::UnknownCommand)
        );
        assert_eq!(
            parse(b"  verbosity 1\r\n").request,
            Ok(Request::Verbosity(1))
        );
        assert_eq!(
            parse(b" VERBOSITY 1\r\n").request,
            Err(ProtocolError::UnknownCommand)
        );
        assert_eq!(
            parse(b"versionversionversion\r\n").request,
            Err(ProtocolError::UnknownCommand)
        );
    }

    #[test]
    fn a_line_of_a_browser_is_recognized_before_its_verb_is_tried_in_lower_case() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n").request, Ok(Request::Http));
        assert_eq!(parse(b"POST /x HTTP/1.0\r\n").request, Ok(Request::Http));
        // `HTTP/1.1` alone is only an unknown command, and after a known verb it is an ordinary key.
        assert_eq!(
            parse(b"HTTP/1.1\r\n").request,
            Err(ProtocolError::UnknownCommand)
        );
        assert!(matches!(
            parse(b"get / HTTP/1.1\r\n").request,
            Ok(Request::Get(_))
        ));
    }

    #[test]
    fn noreply_counts_only_as_the_last_word() {
        assert_eq!(parse(b"delete k noreply\r\n").answer, Answer::Noreply);
        assert_eq!(parse(b"delete k noreply  \r\n").answer, Answer::Noreply);
        assert_eq!(parse(b"delete k noreply x\r\n").answer, Answer::Wanted);
        assert_eq!(parse(b"nonsense noreply\r\n").answer, Answer::Noreply);
        assert_eq!(parse(b"noreply\r\n").answer, Answer::Noreply);
        assert_eq!(parse(b"version noreply\r\n").answer, Answer::Wanted);
    }

    #[test]
    fn exactly_the_verbs_of_the_list_are_known_in_any_case() {
        for verb in VERBS {
            assert!(parse_verb(verb.as_bytes(), b"").is_some(), "{verb}");
            let upper = verb.to_ascii_uppercase();
            let lower = lower_case(upper.as_bytes(), &mut [0; LONGEST_VERB]).map(<[u8]>::to_vec);
            assert_eq!(lower, Some(verb.into()), "{verb}: see LONGEST_VERB");
        }
        // A program cannot list the arms of a `match`, so the source text is searched for them.
        let (_, arms) = include_str!("mod.rs").split_once("match verb {").unwrap();
        let (arms, _) = arms.split_once("_ => return None").unwrap();
        let known = arms.split("b\"").skip(1);
        let known: Vec<&str> = known.map(|rest| rest.split_once('"').unwrap().0).collect();
        assert_eq!(sorted(known), sorted(VERBS));
    }

    #[test]
    fn the_table_of_commands_in_the_readme_has_every_verb() {
        let readme = include_str!("../../README.md");
        let (_, table) = readme.split_once("## Commands").unwrap();
        let (table, _) = table.split_once("\nThe binary protocol").unwrap();
        let commands = table.split('`').skip(1).step_by(2);
        let verbs = commands.map(|command| command.split(' ').next().unwrap());
        let mut verbs = sorted(verbs.filter(|verb| !verb.starts_with('-')));
        verbs.dedup();
        assert_eq!(verbs, sorted(VERBS));
    }

    fn sorted<'a>(verbs: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let mut verbs: Vec<&str> = verbs.into_iter().collect();
        verbs.sort_unstable();
        verbs
    }

    proptest::proptest! {
        #[test]
        fn parsing_any_bytes_does_not_panic(line: Vec<u8>) {
            parse(&line);
        }

        #[test]
        fn parsing_any_words_after_any_verb_does_not_panic(
            verb in proptest::sample::select(&VERBS),
            words in "([ \t]*[0-9a-zA-Z+=-]{0,12}){0,8}",
            end in "(\r?\n)?",
        ) {
            parse(format!("{verb} {words}{end}").as_bytes());
        }
    }
}
