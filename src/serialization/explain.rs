//! Why a server has given an answer, for a program that has only the bytes: the line that it sent, and the first line of
//! the answer. `memc` shows the reasons to people. They are those of `-vv`, but the server knows more: it has the
//! [`Response`](super::Response), and an error of its own for each case.

use super::{FailedCondition, ITEM_HAS_CHANGED};
use crate::protocol::{ProtocolError, Request, StoreMode, parse};

/// The errors that do not depend on the line alone, and that only one line of an answer means.
const ERRORS_OF_THE_SERVER: [ProtocolError; 26] = [
    ProtocolError::BadDataChunk,
    ProtocolError::NotNumeric,
    ProtocolError::FlushNotAllowed,
    ProtocolError::TooLarge,
    ProtocolError::OutOfMemory,
    ProtocolError::LogFailed,
    ProtocolError::BadClass,
    ProtocolError::CrawlerDisabled,
    ProtocolError::CrawlerIsEnabled,
    ProtocolError::CannotCrawlHash,
    ProtocolError::SlabsAreTheSame,
    ProtocolError::BadSlabClass,
    ProtocolError::NoSparePage,
    ProtocolError::ShutdownNotEnabled,
    ProtocolError::StatsDetailNotAllowed,
    ProtocolError::CachedumpNotAllowed,
    ProtocolError::MetadumpNotAllowed,
    ProtocolError::MgdumpNotAllowed,
    ProtocolError::WatchNotAllowed,
    ProtocolError::TooManyWatchers,
    ProtocolError::Unauthenticated,
    ProtocolError::CredentialsTooLong,
    ProtocolError::BadCredentialsEnd,
    ProtocolError::BadCredentials,
    ProtocolError::WrongPassword,
    ProtocolError::MemlimitOutOfBounds,
];

/// The reason why a server gives this answer to a line; `None` if the answer is clear enough. Neither has its line end.
pub fn reason(line: &[u8], answer: &[u8]) -> Option<String> {
    let line = [line, b"\r\n"].concat();
    let text = str::from_utf8(answer).ok()?;
    let code = text.split(' ').next()?;
    let is_error = code.ends_with("ERROR") || code.ends_with("ERROR:");
    let request = match parse(&line).request {
        // An older memcached has another error line for the same mistake.
        Err(error) if is_error => return error.reason(),
        Err(_) => return None,
        Ok(request) => request,
    };
    let condition = match (code, &request) {
        ("NOT_STORED", Request::Store(storage)) | ("NS", Request::MetaSet(storage, _)) => {
            match storage.mode {
                StoreMode::Add => FailedCondition::KeyIsTaken,
                _ => FailedCondition::KeyIsFree,
            }
        }
        ("NOT_FOUND", _) => FailedCondition::KeyIsFree,
        ("EN", Request::MetaGet(_) | Request::MetaDebug { .. })
        | ("NF", Request::MetaSet(..) | Request::MetaDelete(_) | Request::MetaArithmetic(..)) => {
            FailedCondition::KeyIsFree
        }
        ("EXISTS", Request::Store(_))
        | ("EX", Request::MetaSet(..) | Request::MetaDelete(_) | Request::MetaArithmetic(..)) => {
            return Some(ITEM_HAS_CHANGED.into());
        }
        _ => {
            let known = ERRORS_OF_THE_SERVER.iter();
            let error = known.copied().find(|error| error.to_string() == text);
            return match (text, error) {
                ("ERROR", _) => error_of(&request),
                ("CLIENT_ERROR invalid flag", _) => {
                    return Some("the server does not know one of the flags".into());
                }
                (_, error) => error?,
            }
            .reason();
        }
    };
    Some(condition.to_string())
}

/// Why a server answers only `ERROR` to a line that is well formed.
fn error_of(request: &Request<'_>) -> ProtocolError {
    match request {
        Request::DebugTime(_) => ProtocolError::DebugNotEnabled,
        Request::Watch(_) => ProtocolError::UnknownStream,
        Request::Stats(_) => ProtocolError::UnknownStats,
        _ => ProtocolError::UnknownCommand,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, answer: &str, expected: &str) {
        let found = reason(line.as_bytes(), answer.as_bytes());
        assert_eq!(found.unwrap_or_default(), expected, "{line:?} {answer:?}");
    }

    #[test]
    fn the_reason_of_a_failed_condition_depends_on_the_command() {
        check("add k 0 0 1", "NOT_STORED", "the key already holds an item");
        check("ms k 1 ME", "NS", "the key already holds an item");
        check("append k 0 0 1", "NOT_STORED", "the key holds no item");
        check("ms k 1 MR", "NS", "the key holds no item");
        check("cas k 0 0 1 5", "EXISTS", "the item has changed");
        check("ma k C5", "EX", "the item has changed");
        check("delete k", "NOT_FOUND", "the key holds no item");
        check("mg k v", "EN", "the key holds no item");
        check("lru_crawler mgdump all", "EN", "");
    }

    #[test]
    fn the_reason_of_an_error_is_that_of_the_server() {
        let bad = "CLIENT_ERROR bad command line format";
        check("set k 0 soon 5", bad, "<exptime> must be a whole number");
        check(
            "set k hello",
            "ERROR",
            "too few words for set <key> <flags> <exptime> <bytes> [noreply]",
        );
        check("delete", bad, "too few words for delete <key> [noreply]");
        check(
            "delete",
            "ERROR",
            "too few words for delete <key> [noreply]",
        );
        let large = "SERVER_ERROR object too large for cache";
        let reason = ProtocolError::TooLarge.reason().unwrap();
        check("set k 0 0 9000000", large, &reason);
        check(
            "debugtime 5",
            "ERROR",
            "start the server with --debug to allow it",
        );
        let shutdown = "SERVER_ERROR: shutdown not enabled";
        let flag = "CLIENT_ERROR invalid flag";
        check(
            "ms k 1 E5",
            flag,
            "the server does not know one of the flags",
        );
        check("shutdown", shutdown, "start the server with -A to allow it");
    }

    #[test]
    fn an_answer_that_is_clear_has_no_reason() {
        check("set k 0 0 1", "STORED", "");
        check("get k", "END", "");
        check("mg k v", "VA 5", "");
        check("nonsense", "STORED", "");
    }

    #[test]
    fn each_error_of_the_server_has_a_line_of_its_own_and_a_reason() {
        let lines: std::collections::BTreeSet<String> = ERRORS_OF_THE_SERVER
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(lines.len(), ERRORS_OF_THE_SERVER.len());
        for error in ERRORS_OF_THE_SERVER {
            assert!(error.reason().is_some(), "{error}");
        }
    }
}
