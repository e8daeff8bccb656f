//! The commands about the server itself: `flush_all`, `verbosity`, `cache_memlimit`, `shutdown`,
//! `watch`, `debugtime`, `stats`, `lru_crawler metadump`.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::Service;
use crate::protocol::{DebugTime, Flush, ProtocolError, ShutdownMode, StatsTopic, Streams};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};
use crate::{VERSION, VERSION_SPOKEN};

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
    service.verbosity.store(level, Relaxed);
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

/// `debugtime`: exists only with `--debug`. Items that expire because of a jump are swept at once.
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

/// `stats`
pub fn stats(
    topic: StatsTopic,
    service: &Service,
    counts: &Counts,
    answer: &mut impl FnMut(Response<'_>) -> io::Result<()>,
) -> io::Result<()> {
    // The statistics include the commands that this client sent before `stats` in the same batch.
    service.stats.add_all(counts);
    let stats = match topic {
        StatsTopic::General => general(service),
        StatsTopic::Settings => settings(service),
        StatsTopic::Items => items(service),
        StatsTopic::Slabs => slabs(service),
        StatsTopic::Sizes => vec![("sizes_status".into(), "disabled".into())],
        StatsTopic::Conns => service.clients.describe(service.store.clock().now()),
        StatsTopic::Reset => {
            service.stats.reset();
            return answer(Response::Reset);
        }
        StatsTopic::Cachedump { class, limit } => return cachedump(class, limit, service, answer),
        StatsTopic::Detail => return answer(Response::Error(ProtocolError::StatsDetailNotAllowed)),
    };
    for (name, value) in stats {
        answer(Response::Stat(name, value))?;
    }
    answer(Response::End)
}

/// Names and values, in the order in which they are sent.
type Listing = Vec<(String, String)>;

fn stat(name: &str, value: impl ToString) -> (String, String) {
    (name.into(), value.to_string())
}

fn general(service: &Service) -> Listing {
    let now = service.store.clock().now();
    let (items, bytes) = service.store.size();
    let (user, system) = cpu_seconds();
    let mut listing = vec![
        stat("pid", std::process::id()),
        stat("uptime", now.saturating_sub(service.started)),
        stat("time", now),
        stat("version", VERSION_SPOKEN),
        stat("rustmemc_version", VERSION),
        stat("pointer_size", usize::BITS),
        stat("rusage_user", format!("{user:.6}")),
        stat("rusage_system", format!("{system:.6}")),
        stat("max_connections", service.clients.limit()),
        stat("curr_connections", service.clients.connected()),
    ];
    listing.extend(
        Counter::ALL
            .iter()
            .map(|&counter| stat(counter.name(), service.stats.get(counter))),
    );
    listing.extend(service.store.describe_log());
    listing.extend([
        stat("curr_items", items),
        stat("bytes", bytes),
        stat("limit_maxbytes", service.store.memory_limit()),
        stat("threads", service.clients.limit()),
        // This server does not need these, but exporters and dashboards ask for them.
        stat("accepting_conns", 1),
        stat("listen_disabled_num", 0),
        stat("time_in_listen_disabled_us", 0),
        stat("conn_yields", 0),
        // A worker never loses a line before it is offered to the watchers.
        stat("log_worker_dropped", 0),
        stat("log_watchers", service.watchers.count()),
    ]);
    listing
}

fn settings(service: &Service) -> Listing {
    let config = &service.config;
    let reported = &config.reported;
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" };
    let inter = Vec::from_iter(config.listen.iter().map(ToString::to_string)).join(",");
    let null = || "NULL".to_owned();
    let inter = Some(inter)
        .filter(|inter| !inter.is_empty())
        .unwrap_or_else(null);
    let socket = config.unix_socket.as_ref();
    let auth_file = config.auth_file.as_ref();
    vec![
        stat("maxbytes", service.store.memory_limit()),
        stat("maxconns", config.conn_limit),
        stat("tcpport", service.tcp_port),
        stat("udpport", 0),
        stat("inter", inter),
        stat("verbosity", service.verbosity.load(Relaxed)),
        stat(
            "evictions",
            if config.disable_evictions {
                "off"
            } else {
                "on"
            },
        ),
        stat(
            "domain_socket",
            socket.map_or_else(null, |socket| socket.path.display().to_string()),
        ),
        stat(
            "umask",
            format!("{:o}", socket.map_or(0o700, |socket| socket.mode)),
        ),
        stat("shutdown_command", yes_or_no(config.enable_shutdown)),
        stat("growth_factor", format!("{:.2}", reported.growth_factor)),
        stat("chunk_size", reported.chunk_size),
        stat("num_threads", reported.num_threads),
        stat("stat_key_prefix", reported.stat_key_prefix),
        stat("detail_enabled", "no"),
        stat("reqs_per_event", reported.reqs_per_event),
        stat("cas_enabled", yes_or_no(reported.cas_enabled)),
        stat("tcp_backlog", reported.tcp_backlog),
        stat("binding_protocol", reported.binding_protocol),
        stat("auth_enabled_sasl", "no"),
        stat(
            "auth_enabled_ascii",
            auth_file.map_or_else(|| "no".to_owned(), |path| path.display().to_string()),
        ),
        stat("item_size_max", config.max_item_size),
        stat("maxconns_fast", "yes"),
        stat("flush_enabled", yes_or_no(!config.disable_flush_all)),
        stat("dump_enabled", yes_or_no(!config.disable_dumping)),
        stat(
            "idle_timeout",
            config.idle_timeout.map_or(0, |timeout| timeout.as_secs()),
        ),
        stat("client_flags_size", size_of::<u32>()),
    ]
}

/// `stats items`. All items are in one class, number 1: this server does not divide memory into size classes.
fn items(service: &Service) -> Listing {
    let (items, bytes) = service.store.size();
    if items == 0 {
        return Listing::new();
    }
    let stats = &service.stats;
    [
        stat("number", items),
        stat("age", service.store.age()),
        stat("mem_requested", bytes),
        stat("evicted", stats.get(Counter::Evictions)),
        stat("outofmemory", stats.get(Counter::StoreNoMemory)),
        stat("reclaimed", stats.get(Counter::Reclaimed)),
        stat("expired_unfetched", stats.get(Counter::ExpiredUnfetched)),
        stat("evicted_unfetched", stats.get(Counter::EvictedUnfetched)),
    ]
    .map(|(name, value)| (format!("items:1:{name}"), value))
    .into()
}

/// `stats slabs`: the pages and chunks of the one class, for tools that draw them. A page is a megabyte of used memory,
/// and a chunk is as large as the average item.
fn slabs(service: &Service) -> Listing {
    let (items, bytes) = service.store.size();
    let mut listing = Listing::new();
    if items > 0 {
        let chunk = bytes.div_ceil(items);
        let stats = &service.stats;
        listing.extend(
            [
                stat("chunk_size", chunk),
                stat("chunks_per_page", (MEGABYTE / chunk).max(1)),
                stat("total_pages", bytes.div_ceil(MEGABYTE)),
                stat("total_chunks", items),
                stat("used_chunks", items),
                stat("free_chunks", 0),
                stat("mem_requested", bytes),
                stat("get_hits", stats.get(Counter::GetHits)),
                stat("cmd_set", stats.get(Counter::CmdSet)),
                stat("delete_hits", stats.get(Counter::DeleteHits)),
                stat("incr_hits", stats.get(Counter::IncrHits)),
                stat("decr_hits", stats.get(Counter::DecrHits)),
                stat("cas_hits", stats.get(Counter::CasHits)),
                stat("cas_badval", stats.get(Counter::CasBadval)),
                stat("touch_hits", stats.get(Counter::TouchHits)),
            ]
            .map(|(name, value)| (format!("1:{name}"), value)),
        );
    }
    listing.extend([
        stat("active_slabs", u8::from(items > 0)),
        stat("total_malloced", bytes),
    ]);
    listing
}

/// `stats cachedump`: the stored keys, in no order. There is one size class, number 1.
fn cachedump(
    class: u32,
    limit: u32,
    service: &Service,
    answer: &mut impl FnMut(Response<'_>) -> io::Result<()>,
) -> io::Result<()> {
    if service.config.disable_dumping {
        return answer(Response::Error(ProtocolError::CachedumpNotAllowed));
    }
    let limit = if limit == 0 {
        usize::MAX
    } else {
        limit as usize
    };
    if class == 1 {
        for item in service.store.snapshot().flatten().take(limit) {
            answer(Response::Listed(item))?;
        }
    }
    answer(Response::End)
}

/// `lru_crawler metadump`: all stored items, in no order.
pub fn metadump(
    service: &Service,
    answer: &mut impl FnMut(Response<'_>) -> io::Result<()>,
) -> io::Result<()> {
    if service.config.disable_dumping {
        return answer(Response::Error(ProtocolError::MetadumpNotAllowed));
    }
    answer(Response::Ok)?;
    for item in service.store.snapshot().flatten() {
        answer(Response::Dumped(item))?;
    }
    answer(Response::End)
}

/// The seconds of processor time that this process has used, in user and in system mode. They are zero if the system
/// has no such file. (std has no `getrusage`, so this reads the file that Linux has: see proc(5).)
fn cpu_seconds() -> (f64, f64) {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in parentheses, may contain spaces. utime and stime are the 12th and 13th word after it.
    let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
    let mut ticks = fields
        .split(' ')
        .skip(11)
        .map(|field| field.parse().unwrap_or(0.0));
    let mut next = || ticks.next().unwrap_or(0.0) / TICKS_PER_SECOND;
    (next(), next())
}
