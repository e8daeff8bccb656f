//! Executes commands: `Request` + store -> `Response`. (The Go program's `command_handler`.)
//!
//! [`execute`] is the only dispatch. The code here does not know how a line is written or how an answer is sent.
//!
//! A `match` over [`Request`] names every request, and has no arm `_`. So when a command is added, the compiler names
//! each place that must handle it.

#![deny(clippy::wildcard_enum_match_arm)]

pub(crate) mod admin;
pub(crate) mod arithmetic;
pub(crate) mod meta;
pub(crate) mod retrieval;
pub(crate) mod stats;
pub(crate) mod storage;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use crate::clients::Clients;
use crate::config::Config;
use crate::datastore::guard::KeyGuard;
use crate::datastore::{Datastore, PendingItem, StoreError};
use crate::prefixes::Prefixes;
use crate::protocol::{Crawler, ProtocolError, Request, Streams};
use crate::serialization::Response;
use crate::stats::{Counts, Stats};
use crate::stream::Address;
use crate::users::Users;
use crate::watch::{Events, Watchers};

/// Everything that commands use. The whole server has one.
#[derive(Debug)]
pub struct Service {
    /// The server's configuration.
    pub config: Config,
    /// The items.
    pub store: Datastore,
    /// The counters.
    pub stats: Arc<Stats>,
    /// The clients that watch what happens.
    pub watchers: Arc<Watchers>,
    /// Who may log in. `None`: nobody must.
    pub users: Option<Users>,
    /// The connected clients.
    pub clients: Arc<Clients>,
    /// The counters of `stats detail`.
    pub prefixes: Prefixes,
    /// Whether `lru_crawler disable` was the last of its kind.
    pub is_crawler_disabled: AtomicBool,
    /// How much is printed on standard error: set by `-v`, changed by the command `verbosity`.
    pub verbosity: AtomicU32,
    /// The listening sockets: their file descriptors and their addresses.
    pub listening: Vec<(RawFd, Address)>,
    /// When the server was started, by the store's clock.
    pub started: u32,
}

/// The error line for what the store refused.
impl From<StoreError> for ProtocolError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooLarge => ProtocolError::TooLarge,
            StoreError::OutOfMemory => ProtocolError::OutOfMemory,
            StoreError::LogFailed => ProtocolError::LogFailed,
        }
    }
}

/// Logs for the watchers that a command has looked for the item of a locked key.
#[inline(always)] // It is in each command, and does almost always nothing.
fn log_fetch(guard: &KeyGuard<'_>, key: &[u8], events: &Events<'_>) {
    if events.is_watched(Streams::FETCHERS) {
        log_watched_fetch(guard, key, events);
    }
}

#[cold]
fn log_watched_fetch(guard: &KeyGuard<'_>, key: &[u8], events: &Events<'_>) {
    events.fetched(key, guard.item().as_ref(), || guard.has_expired());
}

/// What happens to the connection after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterCommand {
    /// The next command is read.
    Continue,
    /// The connection is closed for this reason, after the answers so far are sent.
    Close(&'static str),
    /// The client becomes a watcher of these streams, and gets its answer then.
    Watch(Streams),
}

/// A client closes its connection with `quit`.
pub const QUIT: &str = "the client asked for it";

/// The client has stopped the server with `shutdown`.
pub const SHUTDOWN: &str = "the client stopped the server";

/// Whether a request may change the stored items. A `delete` that finds nothing counts too: its answer may depend on
/// another client's `delete`, whose record is not written yet. A request that only reads is answered even if the
/// append-only file cannot be written.
pub fn may_change(request: &Request<'_>) -> bool {
    match request {
        Request::Get(request) => request.touch.is_some(),
        // `R` decides which client wins, and this is not recorded.
        Request::MetaGet(request) => request.touch.is_some() || request.vivify.is_some(),
        Request::Version
        | Request::Verbosity(_)
        | Request::Stats(_)
        | Request::CacheMemlimit(_)
        | Request::Shutdown(_)
        | Request::DebugTime(_)
        | Request::MetaNoop
        | Request::MetaDebug { .. }
        | Request::LruCrawler(_)
        | Request::WithoutEffect(_)
        | Request::Watch(_)
        | Request::Quit
        | Request::Http => false,
        Request::Store(_)
        | Request::Delete { .. }
        | Request::Arithmetic(_)
        | Request::Touch { .. }
        | Request::FlushAll(_)
        | Request::MetaSet(..)
        | Request::MetaDelete(_)
        | Request::MetaArithmetic(..) => true,
    }
}

/// Checks whether a request may follow others whose answers are not sent yet.
///
/// # Errors
/// [`ProtocolError::CannotPipeline`]: its answer is so long, or so late, that memcached sends it in another way.
pub fn check_pipelined(request: &Request<'_>, service: &Service) -> Result<(), ProtocolError> {
    let config = &service.config;
    let command = if let Request::Watch(_) = request
        && !config.disable_watch
    {
        "watch"
    } else if let Request::LruCrawler(crawler) = request
        && !config.disable_dumping
    {
        match crawler {
            Crawler::Metadump(_) => "metadump",
            Crawler::Mgdump(_) => "mgdump",
            Crawler::Enable | Crawler::Disable | Crawler::Crawl(_) => return Ok(()),
        }
    } else {
        return Ok(());
    };
    Err(ProtocolError::CannotPipeline(command))
}

/// Reserves memory for the data block that a request announces.
///
/// # Errors
/// The answer, if the block must not be stored. Then the caller swallows the block.
pub fn reserve(
    request: &Request<'_>,
    service: &Service,
    events: &Events<'_>,
) -> Result<Option<PendingItem>, ProtocolError> {
    match request {
        Request::Store(announced) => {
            if let Some(prefixes) = service.prefixes.if_on() {
                prefixes.count_set(&announced.key.bytes);
            }
            storage::reserve(announced, &service.store, events).map(Some)
        }
        Request::MetaSet(announced, return_flags) => {
            let pending = storage::reserve(announced, &service.store, events)?;
            if return_flags.opaque_too_long {
                Err(ProtocolError::OpaqueTooLong)
            } else {
                Ok(Some(pending))
            }
        }
        Request::Get(_)
        | Request::Delete { .. }
        | Request::Arithmetic(_)
        | Request::Touch { .. }
        | Request::FlushAll(_)
        | Request::Version
        | Request::Verbosity(_)
        | Request::Stats(_)
        | Request::CacheMemlimit(_)
        | Request::Shutdown(_)
        | Request::DebugTime(_)
        | Request::MetaGet(_)
        | Request::MetaDelete(_)
        | Request::MetaArithmetic(..)
        | Request::MetaNoop
        | Request::MetaDebug { .. }
        | Request::LruCrawler(_)
        | Request::WithoutEffect(_)
        | Request::Watch(_)
        | Request::Quit
        | Request::Http => Ok(None),
    }
}

/// Executes one request. `pending` is the item of a request that brings a data block; its value has been read. A small
/// value is copied to `value_buffer` while its shard is locked.
///
/// `answer` is called with each piece of the answer, while no lock is held.
///
/// # Errors
/// Only those of `answer`.
pub fn execute<'a>(
    request: &'a Request<'a>,
    pending: Option<PendingItem>,
    service: &Service,
    counts: &Counts,
    events: &Events<'_>,
    value_buffer: &'a mut Vec<u8>,
    answer: &mut impl FnMut(Response<'_>) -> io::Result<()>,
) -> io::Result<AfterCommand> {
    let store = &service.store;
    let response = match (request, pending) {
        // Requests whose answer has any number of pieces, or none.
        (Request::Get(request), _) => {
            let prefixes = service.prefixes.if_on();
            return retrieval::get(
                request,
                store,
                counts,
                events,
                prefixes,
                value_buffer,
                answer,
            )
            .map(|()| AfterCommand::Continue);
        }
        (Request::Stats(topic), _) => {
            return stats::stats(*topic, service, counts, answer).map(|()| AfterCommand::Continue);
        }
        (Request::LruCrawler(command), _) => {
            return admin::lru_crawler(*command, service, answer).map(|()| AfterCommand::Continue);
        }
        // This cannot happen: `reserve` makes a pending item for each of them.
        (Request::Store(_) | Request::MetaSet(..), None) => return Ok(AfterCommand::Continue),
        (Request::Quit, _) => return Ok(AfterCommand::Close(QUIT)),
        (Request::Http, _) => return Ok(AfterCommand::Close("it was an HTTP request")),
        (Request::Shutdown(mode), _) => match admin::shutdown(*mode, service) {
            Ok(()) => return Ok(AfterCommand::Close(SHUTDOWN)),
            Err(error) => Err(error),
        },

        (Request::Watch(streams), _) => match admin::watch(*streams, service) {
            Ok(streams) => return Ok(AfterCommand::Watch(streams)),
            Err(error) => Err(error),
        },

        (Request::Store(request), Some(pending)) => {
            storage::store(request, pending, store, counts, events).map(Into::into)
        }
        (Request::Delete { key }, _) => {
            if let Some(prefixes) = service.prefixes.if_on() {
                prefixes.count_delete(key);
            }
            storage::delete(key, store, counts, events)
        }
        (Request::Arithmetic(request), _) => {
            arithmetic::apply(request, store, counts, events).map(Into::into)
        }
        (Request::Touch { key, exptime }, _) => {
            retrieval::touch(key, *exptime, store, counts, events)
        }
        (Request::MetaGet(request), _) => meta::get(request, store, counts, events, value_buffer),
        (Request::MetaSet(request, return_flags), Some(pending)) => {
            meta::set(request, return_flags, pending, store, counts, events)
        }
        (Request::MetaDelete(request), _) => meta::delete(request, store, counts, events),
        (Request::MetaArithmetic(request, return_flags), _) => {
            meta::calculate(request, return_flags, store, counts, events)
        }
        (Request::MetaNoop, _) => Ok(Response::MetaNoop),
        (Request::MetaDebug { key }, _) => {
            Ok(meta::debug(key, store, counts, events, value_buffer))
        }
        (Request::FlushAll(flush), _) => admin::flush_all(*flush, service, counts),
        (Request::WithoutEffect(internals), _) => Ok(Response::OkWithoutEffect(*internals)),
        (Request::Version, _) => Ok(Response::Version),
        (Request::Verbosity(level), _) => Ok(admin::verbosity(*level, service)),
        (Request::CacheMemlimit(megabytes), _) => admin::cache_memlimit(*megabytes, service),
        (Request::DebugTime(change), _) => admin::debugtime(*change, service),
    };
    answer(response.unwrap_or_else(Response::Error))?;
    Ok(AfterCommand::Continue)
}
