//! The protocol: bytes of one command line -> [`Request`]. (The Go program's `protocol_handler`.)
//!
//! A parser borrows everything from the line but a key in base64, and knows nothing of sockets,
//! threads or the store. [`classic`] and [`meta`] hold the grammar of each command above the function that
//! parses it; this file holds what they share: the shape of the outcome, the verbs, and the words of a line.
//!
//! Source: memcached's `doc/protocol.txt`, and the behaviour of memcached 1.6.45 where that is silent.

pub mod base64;
mod classic;
pub mod error;
pub mod expiry;
mod meta;
mod number;
pub mod request;

use crate::item::MAX_KEY;
pub use error::{LineError, ProtocolError};
pub use expiry::Exptime;
pub use number::number_in_value;
pub use request::{
    Arithmetic, DebugTime, Direction, Flush, Key, MetaDelete, MetaGet, OnFailure, Request,
    Retrieval, ReturnFlag, ReturnFlags, ShutdownMode, StatsTopic, Storage, StoreMode, WithCas,
};

/// What one command line says.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// What to do, or why the line is refused.
    pub request: Result<Request<'a>, ProtocolError>,
    /// Whether the client wants to read the answer.
    pub answer: Answer,
    /// How many bytes of data follow the line (their closing `\r\n` not counted). They follow a refused
    /// line too, as long as their number could be read: then they have to be swallowed.
    pub data_length: Option<usize>,
}

/// Whether the client wants an answer: `noreply` as the last word of the line says no.
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

    /// A line that could not be parsed: it is answered whatever it says.
    fn bad_line(flaw: LineError) -> Self {
        Parsed::always_answered(Err(ProtocolError::BadLine(flaw)))
    }
}

/// Parses one command line.
///
/// `line` is the line as it came, with its end (`\n` or `\r\n`). Never fails: a line that makes no
/// sense parses to the error that answers it.
pub fn parse(line: &[u8]) -> Parsed<'_> {
    // Two letters and `\r\n` are the least: what is shorter is not even looked up, be it `mn\n`.
    if line.len() < 4 {
        return Parsed::bad_line(LineError::LineTooShort);
    }
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Not `words`: a verb starts the line, so a space in front of it makes it unknown.
    let (verb, args) = match line.iter().position(|&byte| byte == b' ') {
        Some(space) => line.split_at(space),
        None => (line, &b""[..]),
    };
    if let Some(parsed) = parse_verb(verb, args) {
        return parsed;
    }
    if is_http(args) {
        return Parsed::always_answered(Ok(Request::Http));
    }
    // Ours alone: the Go program took its verbs in any case. Only a verb that is unknown as written
    // comes here, so the ordinary path does not pay for it.
    if let Some(parsed) =
        lower_case(verb, &mut [0; LONGEST_VERB]).and_then(|verb| parse_verb(verb, args))
    {
        return parsed;
    }
    Parsed::maybe_noreply(Err(ProtocolError::UnknownCommand), line)
}

/// All verbs. Tests hold to this list whatever else knows the verbs: [`parse_verb`], the random tests of the parser,
/// the conversations, and the table in README.md.
pub const VERBS: [&str; 30] = [
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
    "debugtime",
];

/// What the words behind a verb say; `None` when there is no such verb.
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
        b"lru_crawler" => classic::lru_crawler(args),
        b"debugtime" => classic::debugtime(args),
        _ => return None,
    })
}

/// `cache_memlimit` is the longest verb.
const LONGEST_VERB: usize = 14;

/// The verb in lower case, in the caller's buffer; `None` when it cannot be a verb in other letters.
fn lower_case<'b>(verb: &[u8], buffer: &'b mut [u8; LONGEST_VERB]) -> Option<&'b [u8]> {
    let lower = buffer.get_mut(..verb.len())?;
    lower.copy_from_slice(verb);
    lower.make_ascii_lowercase();
    Some(lower)
}

/// The words of a line. Only the space separates them, and several count as one: a tab or any other
/// control byte belongs to its word.
fn words(args: &[u8]) -> impl Iterator<Item = &[u8]> {
    args.split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty())
}

/// The first word, empty where there is none, and what stands behind it.
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

fn answer_of(args: &[u8]) -> Answer {
    if last_word(args) == b"noreply" {
        Answer::Noreply
    } else {
        Answer::Wanted
    }
}

/// `GET / HTTP/1.1`: a browser talks to us, perhaps because a web page told it to. Its line is no
/// command, but the lines after it could be, so such a connection ends here.
fn is_http(args: &[u8]) -> bool {
    last_word(args).starts_with(b"HTTP/")
}

/// A key as it may be used: at most 250 bytes. (That it has one, and no space, is the splitting's work.)
fn key(word: &[u8]) -> Result<&[u8], LineError> {
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
            parse(b"versionversionversion\r\n").request,
            Err(ProtocolError::UnknownCommand)
        );
    }

    #[test]
    fn what_a_browser_says_ends_the_connection_before_any_other_reading_of_it() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n").request, Ok(Request::Http));
        assert_eq!(parse(b"POST /x HTTP/1.0\r\n").request, Ok(Request::Http));
        // Alone on its line it is only an unknown command, and a key of a known one is just a key.
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
    fn every_verb_of_the_list_is_known_in_any_case_and_no_other() {
        for verb in VERBS {
            assert!(parse_verb(verb.as_bytes(), b"").is_some(), "{verb}");
            let upper = verb.to_ascii_uppercase();
            let lower = lower_case(upper.as_bytes(), &mut [0; LONGEST_VERB]).map(<[u8]>::to_vec);
            assert_eq!(lower, Some(verb.into()), "{verb}: see LONGEST_VERB");
        }
        // What the `match` knows cannot be asked, so it is read.
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
        let (table, _) = table.split_once("\n`stats` knows").unwrap();
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
        fn any_bytes_parse_to_something(line: Vec<u8>) {
            parse(&line);
        }

        #[test]
        fn any_words_after_any_verb_parse_to_something(
            verb in proptest::sample::select(&VERBS),
            words in "([ \t]*[0-9a-zA-Z+=-]{0,12}){0,8}",
            end in "(\r?\n)?",
        ) {
            parse(format!("{verb} {words}{end}").as_bytes());
        }
    }
}
