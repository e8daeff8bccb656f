//! The commands about the server itself: `flush_all`, `verbosity`, `cache_memlimit`, `shutdown`, `watch`, `debugtime`,
//! `lru_crawler`. (`stats` has a file of its own.)
//!
//! Lesson: [15](crate::conversations::lesson_15_admin).

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::Service;
use crate::protocol::{Classes, Crawler, DebugTime, Flush, ProtocolError, ShutdownMode, Streams};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};

const MEGABYTE: usize = 1 << 20;

/// `flush_all`
pub fn flush_all(
    flush: Flush,
    service: &Service,
    counts: &Counts,
) -> Result<Response<'static>, ProtocolError> {
    counts.add(Counter::CmdFlush);
    if service.config.disable_flush_all {
        return Err(ProtocolError::FlushNotAllowed);
    }
    match flush {
        Flush::Now => service.store.flush()?,
        Flush::Later(when) => service.store.flush_later(when)?,
        Flush::Unknown => return Err(ProtocolError::InvalidExptime),
    }
    Ok(Response::Ok)
}

/// `verbosity`
pub fn verbosity(level: u32, service: &Service) -> Response<'static> {
    // memcached has no higher level, and shows this one in `stats settings`.
    service.verbosity.store(level.min(2), Relaxed);
    Response::Ok
}

/// `cache_memlimit`
pub fn cache_memlimit(
    megabytes: u32,
    service: &Service,
) -> Result<Response<'static>, ProtocolError> {
    let bytes = megabytes as usize * MEGABYTE;
    if megabytes < 8 {
        Err(ProtocolError::MemlimitTooSmall)
    } else if megabytes > 1_000_000_000 {
        Err(ProtocolError::MemlimitNotMegabytes)
    } else if bytes / 2 < service.config.max_item_size {
        Err(ProtocolError::MemlimitOutOfBounds)
    } else {
        service.store.set_memory_limit(bytes);
        Ok(Response::Ok)
    }
}

/// `shutdown`: the server stops as it does on SIGTERM. Both modes do the same here.
pub fn shutdown(mode: ShutdownMode, service: &Service) -> Result<(), ProtocolError> {
    if !service.config.enable_shutdown {
        return Err(ProtocolError::ShutdownNotEnabled);
    }
    match mode {
        ShutdownMode::Plain | ShutdownMode::Graceful => {
            service.clients.stop();
            Ok(())
        }
        ShutdownMode::Unknown => Err(ProtocolError::InvalidShutdownMode),
    }
}

/// `watch`: returns the streams, if the client may watch them.
pub fn watch(streams: Option<Streams>, service: &Service) -> Result<Streams, ProtocolError> {
    if service.config.disable_watch {
        return Err(ProtocolError::WatchNotAllowed);
    }
    streams.ok_or(ProtocolError::UnknownStream)
}

/// `debugtime`, which is allowed only with `--debug`. Items that expire because of a jump are swept at once.
pub fn debugtime(change: DebugTime, service: &Service) -> Result<Response<'static>, ProtocolError> {
    if !service.config.debug {
        return Err(ProtocolError::DebugNotEnabled);
    }
    let clock = service.store.clock();
    match change {
        DebugTime::Pause => clock.pause(),
        DebugTime::Resume => clock.resume(),
        DebugTime::Jump(seconds) => clock.jump(seconds),
    }
    service.store.sweep();
    Ok(Response::Ok)
}

/// `lru_crawler`. The items of a list are in no particular order.
#[cold]
pub fn lru_crawler(
    command: Crawler,
    service: &Service,
    answer: &mut impl FnMut(Response<'_>) -> io::Result<()>,
) -> io::Result<()> {
    if let Err(error) = start_crawler(command, service) {
        return answer(Response::Error(error));
    }
    answer(Response::Ok)?;
    // Here all items are in class 1.
    let items = |classes| {
        let segments = (classes != Classes::Empty).then(|| service.store.snapshot());
        segments.into_iter().flatten().flatten()
    };
    match command {
        Crawler::Enable | Crawler::Disable | Crawler::Crawl(_) => Ok(()),
        Crawler::Metadump(classes) => {
            for item in items(classes) {
                answer(Response::Dumped(item))?;
            }
            answer(Response::End)
        }
        Crawler::Mgdump(classes) => {
            for item in items(classes) {
                answer(Response::DumpedKey(item))?;
            }
            answer(Response::DumpEnd)
        }
    }
}

/// Does what `lru_crawler` asks for, except the answer.
fn start_crawler(command: Crawler, service: &Service) -> Result<(), ProtocolError> {
    let is_disabled = &service.is_crawler_disabled;
    let classes = match command {
        Crawler::Enable if is_disabled.swap(false, Relaxed) => return Ok(()),
        Crawler::Enable => return Err(ProtocolError::CrawlerIsEnabled),
        // Expired items are removed as before: only the commands are refused.
        Crawler::Disable => {
            is_disabled.store(true, Relaxed);
            return Ok(());
        }
        _ if is_disabled.load(Relaxed) => return Err(ProtocolError::CrawlerDisabled),
        Crawler::Metadump(_) if service.config.disable_dumping => {
            return Err(ProtocolError::MetadumpNotAllowed);
        }
        Crawler::Mgdump(_) if service.config.disable_dumping => {
            return Err(ProtocolError::MgdumpNotAllowed);
        }
        Crawler::Crawl(Classes::Hash) => return Err(ProtocolError::CannotCrawlHash),
        Crawler::Crawl(classes) | Crawler::Metadump(classes) | Crawler::Mgdump(classes) => classes,
    };
    match classes {
        Classes::Invalid => return Err(ProtocolError::BadClass),
        Classes::None => return Err(ProtocolError::NothingToCrawl),
        Classes::All | Classes::Hash | Classes::Empty => {}
    }
    if matches!(command, Crawler::Crawl(_)) {
        service.store.sweep();
    }
    Ok(())
}
