//! What commands do: `Request` + store -> `Response`. (The Go program's `command_handler`.)
//!
//! [`execute`] is the one dispatch. Nothing here knows how a line is spelled or how an answer travels.

mod admin;
mod arithmetic;
mod meta;
mod retrieval;
mod storage;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::clients::Clients;
use crate::config::Config;
use crate::datastore::{Datastore, Draft};
use crate::protocol::{ProtocolError, Request};
use crate::serialization::Response;
use crate::stats::{Counts, Stats};

/// Everything that commands work on: one for the whole server.
#[derive(Debug)]
pub struct Service {
    /// How the server was started.
    pub config: Config,
    /// The items.
    pub store: Datastore,
    /// The counters.
    pub stats: Arc<Stats>,
    /// Who is connected.
    pub clients: Arc<Clients>,
    /// How much is told on standard error: `-v`, changed by `verbosity`.
    pub verbosity: AtomicU32,
    /// When the server was started, by the store's clock.
    pub started: u32,
}

/// What becomes of the connection after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The next command.
    GoOn,
    /// Its end, after what is already answered has left.
    HangUp,
}

/// Makes room for the data block that a request announces.
///
/// # Errors
/// The answer, when the block must not be stored but swallowed.
pub fn draft<'s>(
    request: &Request<'_>,
    service: &'s Service,
) -> Result<Option<Draft<'s>>, ProtocolError> {
    match request {
        Request::Store(announced) | Request::MetaSet(announced, _) => {
            storage::draft(announced, &service.store).map(Some)
        }
        _ => Ok(None),
    }
}

/// Executes one request. `draft` is the filled data block of a request that brings one.
///
/// `answer` is called with each piece of the answer, while no lock is held.
///
/// # Errors
/// Only those of `answer`.
pub fn execute(
    request: Request<'_>,
    draft: Option<Draft<'_>>,
    service: &Service,
    counts: &mut Counts,
    answer: &mut impl FnMut(Response<'_>) -> io::Result<()>,
) -> io::Result<Then> {
    let store = &service.store;
    match (request, draft) {
        (Request::Get(request), _) => retrieval::get(&request, store, counts, answer)?,
        (Request::Store(request), Some(draft)) => {
            answer(storage::store(&request, draft, store, counts).into())?
        }
        (Request::MetaSet(request, shown), Some(draft)) => {
            answer(meta::set(&request, &shown, draft, store, counts))?
        }
        (Request::Store(_) | Request::MetaSet(..), None) => {} // Its data never came.
        (Request::Delete { key }, _) => answer(storage::delete(key, store, counts))?,
        (Request::Arithmetic(request), _) => {
            answer(arithmetic::apply(&request, store, counts).into())?
        }
        (Request::MetaGet(request), _) => answer(meta::get(&request, store, counts))?,
        (Request::MetaDelete(request), _) => answer(meta::delete(&request, store, counts))?,
        (Request::MetaArithmetic(request, shown), _) => {
            answer(meta::count(&request, &shown, store, counts))?
        }
        (Request::MetaNoop, _) => answer(Response::MetaNoop)?,
        (Request::MetaDebug { key }, _) => answer(meta::debug(&key, store, counts))?,
        (Request::Metadump, _) => admin::metadump(service, answer)?,
        (Request::Touch { key, exptime }, _) => {
            answer(retrieval::touch(key, exptime, store, counts))?
        }
        (Request::FlushAll(flush), _) => answer(admin::flush_all(flush, service, counts))?,
        (Request::Version, _) => answer(Response::Version)?,
        (Request::Verbosity(level), _) => answer(admin::verbosity(level, service))?,
        (Request::Stats(topic), _) => admin::stats(topic, service, counts, answer)?,
        (Request::CacheMemlimit(megabytes), _) => {
            answer(admin::cache_memlimit(megabytes, service))?
        }
        (Request::DebugTime(what), _) => answer(admin::debugtime(what, service))?,
        (Request::Shutdown(mode), _) => match admin::shutdown(mode, service) {
            Err(error) => answer(Response::Error(error))?,
            Ok(()) => return Ok(Then::HangUp),
        },
        (Request::Quit | Request::Http, _) => return Ok(Then::HangUp),
    }
    Ok(Then::GoOn)
}
