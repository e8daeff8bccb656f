//! The command `stats`.
//!
//! Programs that monitor memcached read its statistics by name, and some fail if one is missing. So each answer has all
//! names of memcached, in its order; the value is `0` for what does not exist here. Names of ours come last.
//!
//! Lessons: [14](crate::conversations::lesson_14_stats), [36](crate::conversations::lesson_36_sizes_and_prefixes).

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::Service;
use crate::item::Item;
use crate::protocol::{Detail, ProtocolError, StatsTopic};
use crate::serialization::Response;
use crate::stats::{Counter, Counts};
use crate::{VERSION, VERSION_SPOKEN};

const MEGABYTE: usize = 1 << 20;

/// The names of `stats` in memcached 1.6.45. (tests/tools.rs compares these lists with a real one.)
const GENERAL: &str = "pid uptime time version libevent pointer_size rusage_user rusage_system max_connections \
    curr_connections total_connections rejected_connections connection_structures response_obj_oom response_obj_count \
    response_obj_bytes read_buf_count read_buf_bytes read_buf_bytes_free read_buf_oom reserved_fds cmd_get cmd_set \
    cmd_flush cmd_touch cmd_meta get_hits get_misses get_expired get_flushed delete_misses delete_hits incr_misses \
    incr_hits decr_misses decr_hits cas_misses cas_hits cas_badval touch_hits touch_misses store_too_large \
    store_no_memory auth_cmds auth_errors bytes_read bytes_written limit_maxbytes accepting_conns listen_disabled_num \
    time_in_listen_disabled_us threads conn_yields hash_power_level hash_bytes hash_is_expanding slab_reassign_rescues \
    slab_reassign_chunk_rescues slab_reassign_inline_reclaim slab_reassign_busy_items slab_reassign_busy_deletes \
    slab_reassign_busy_nomem slab_reassign_last_busy_status slab_reassign_running slabs_moved lru_crawler_running \
    lru_crawler_starts lru_maintainer_juggles malloc_fails log_worker_dropped log_worker_written log_watcher_skipped \
    log_watcher_sent log_watchers unexpected_napi_ids round_robin_fallback bytes curr_items total_items \
    slab_global_page_pool expired_unfetched evicted_unfetched evicted_active evictions reclaimed crawler_reclaimed \
    crawler_items_checked lrutail_reflocked moves_to_cold moves_to_warm moves_within_lru direct_reclaims \
    lru_bumps_dropped";

/// The names of `stats settings`.
const SETTINGS: &str = "maxbytes maxconns tcpport udpport inter verbosity oldest evictions domain_socket umask \
    shutdown_command growth_factor chunk_size num_threads num_threads_per_udp stat_key_prefix detail_enabled \
    reqs_per_event cas_enabled tcp_backlog binding_protocol auth_enabled_sasl auth_enabled_ascii item_size_max \
    maxconns_fast hashpower_init slab_reassign slab_automove slab_automove_ratio slab_automove_window slab_chunk_max \
    lru_crawler lru_crawler_sleep lru_crawler_tocrawl tail_repair_time flush_enabled dump_enabled hash_algorithm \
    lru_maintainer_thread lru_segmented hot_lru_pct warm_lru_pct hot_max_factor warm_max_factor temp_lru temporary_ttl \
    idle_timeout watcher_logbuf_size worker_logbuf_size read_buf_mem_limit track_sizes inline_ascii_response \
    ext_item_size ext_item_age ext_low_ttl ext_recache_rate ext_wbuf_size ext_compact_under ext_drop_under \
    ext_max_sleep ext_max_frag slab_automove_freeratio ext_drop_unread num_napi_ids memory_file client_flags_size";

/// The names of each class in `stats items`.
const ITEMS: &str = "number number_hot number_warm number_cold age_hot age_warm age mem_requested evicted \
    evicted_nonzero evicted_time outofmemory tailrepairs reclaimed expired_unfetched evicted_unfetched evicted_active \
    crawler_reclaimed crawler_items_checked lrutail_reflocked moves_to_cold moves_to_warm moves_within_lru \
    direct_reclaims hits_to_hot hits_to_warm hits_to_cold hits_to_temp";

/// The names of each class in `stats slabs`.
const SLABS: &str = "chunk_size chunks_per_page total_pages total_chunks used_chunks free_chunks free_chunks_end \
    get_hits cmd_set delete_hits incr_hits decr_hits cas_hits cas_badval touch_hits";

/// `stats`
#[cold]
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
        StatsTopic::Sizes => sizes(service),
        StatsTopic::Conns => conns(service),
        StatsTopic::Extstore => Listing::new(),
        StatsTopic::Reset => {
            service.stats.reset();
            service.prefixes.clear();
            return answer(Response::Reset);
        }
        StatsTopic::Cachedump { class, limit } => return cachedump(class, limit, service, answer),
        StatsTopic::Detail(detail) => return prefixes(detail, service, answer),
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

/// Sorts `values` in the order of `names`, and adds a 0 for each name without value. Other names come last.
fn complete(names: &str, mut values: Listing) -> Listing {
    let mut listing = Listing::new();
    for name in names.split(' ') {
        let index = values.iter().position(|(other, _)| other == name);
        listing.push(index.map_or_else(|| stat(name, 0), |index| values.remove(index)));
    }
    listing.append(&mut values);
    listing
}

fn general(service: &Service) -> Listing {
    let now = service.store.clock().now();
    let (items, bytes) = service.store.size();
    let (user, system) = cpu_seconds();
    let clients = service.clients.connected();
    let mut values = vec![
        stat("pid", std::process::id()),
        stat("uptime", now.saturating_sub(service.started)),
        stat("time", now),
        stat("version", VERSION_SPOKEN),
        stat("libevent", "none"),
        stat("pointer_size", usize::BITS),
        stat("rusage_user", format!("{user:.6}")),
        stat("rusage_system", format!("{system:.6}")),
        stat("max_connections", service.clients.limit()),
        stat("curr_connections", clients),
        stat("connection_structures", clients),
        stat("limit_maxbytes", service.store.memory_limit()),
        stat("accepting_conns", 1),
        stat("threads", service.clients.limit()),
        stat("slab_reassign_last_busy_status", "none"),
        stat("log_watchers", service.watchers.count()),
        stat("bytes", bytes),
        stat("curr_items", items),
        stat("rustmemc_version", VERSION),
    ];
    let counter = |&counter: &Counter| stat(counter.name(), service.stats.get(counter));
    values.extend(Counter::ALL.iter().map(counter));
    values.extend(service.store.describe_log());
    complete(GENERAL, values)
}

/// `stats conns`: the listening sockets, then the clients.
fn conns(service: &Service) -> Listing {
    let now = service.store.clock().now();
    let listening = service.listening.iter().flat_map(|(number, address)| {
        [
            ("addr", address.with_kind()),
            ("state", "conn_listening".into()),
            (
                "secs_since_last_cmd",
                now.saturating_sub(service.started).to_string(),
            ),
        ]
        .map(|(name, value)| (format!("{number}:{name}"), value))
    });
    listening.chain(service.clients.describe(now)).collect()
}

/// The first TCP port on which the server listens; 0 if there is none.
fn tcp_port(service: &Service) -> u16 {
    let first = service
        .listening
        .iter()
        .find_map(|(_, address)| address.tcp());
    first.map_or(0, |address| address.port())
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
    let evictions = match config.disable_evictions {
        true => "off",
        false => "on",
    };
    let is_crawler_enabled = !service.is_crawler_disabled.load(Relaxed);
    let values = vec![
        stat("maxbytes", service.store.memory_limit()),
        stat("maxconns", config.conn_limit),
        stat("tcpport", tcp_port(service)),
        stat("inter", inter),
        stat("verbosity", service.verbosity.load(Relaxed)),
        stat("evictions", evictions),
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
        stat("stat_key_prefix", char::from(config.prefix_delimiter)),
        stat("detail_enabled", yes_or_no(service.prefixes.is_on())),
        stat("reqs_per_event", reported.reqs_per_event),
        stat("cas_enabled", yes_or_no(reported.cas_enabled)),
        stat("tcp_backlog", reported.tcp_backlog),
        stat("binding_protocol", config.protocol.name()),
        stat("auth_enabled_sasl", "no"),
        stat(
            "auth_enabled_ascii",
            auth_file.map_or_else(|| "no".to_owned(), |path| path.display().to_string()),
        ),
        stat("item_size_max", config.max_item_size),
        stat("maxconns_fast", "yes"),
        stat("slab_reassign", "no"),
        stat("lru_crawler", yes_or_no(is_crawler_enabled)),
        stat("flush_enabled", yes_or_no(!config.disable_flush_all)),
        stat("dump_enabled", yes_or_no(!config.disable_dumping)),
        // That of `std::hash::RandomState`.
        stat("hash_algorithm", "siphash"),
        stat("lru_maintainer_thread", "no"),
        stat("lru_segmented", "no"),
        stat("temp_lru", "no"),
        stat(
            "idle_timeout",
            config.idle_timeout.map_or(0, |timeout| timeout.as_secs()),
        ),
        stat("track_sizes", yes_or_no(config.track_sizes)),
        stat("inline_ascii_response", "no"),
        stat("ext_drop_unread", "no"),
        stat("memory_file", "(null)"),
        stat("client_flags_size", size_of::<u32>()),
    ];
    complete(SETTINGS, values)
}

/// `stats items`. All items are in one class, number 1: this server does not divide memory into size classes.
fn items(service: &Service) -> Listing {
    let (items, bytes) = service.store.size();
    if items == 0 {
        return Listing::new();
    }
    let stats = &service.stats;
    let values = vec![
        stat("number", items),
        stat("age", service.store.age()),
        stat("mem_requested", bytes),
        stat("evicted", stats.get(Counter::Evictions)),
        stat("outofmemory", stats.get(Counter::StoreNoMemory)),
        stat("reclaimed", stats.get(Counter::Reclaimed)),
        stat("expired_unfetched", stats.get(Counter::ExpiredUnfetched)),
        stat("evicted_unfetched", stats.get(Counter::EvictedUnfetched)),
    ];
    let listing = complete(ITEMS, values).into_iter();
    listing
        .map(|(name, value)| (format!("items:1:{name}"), value))
        .collect()
}

/// `stats slabs`: the pages and chunks of the one class, for tools that draw them. A page is a megabyte of used memory,
/// and a chunk is as large as the average item.
fn slabs(service: &Service) -> Listing {
    let (items, bytes) = service.store.size();
    let mut listing = Listing::new();
    if items > 0 {
        let chunk = bytes.div_ceil(items);
        let counters = [
            Counter::GetHits,
            Counter::CmdSet,
            Counter::DeleteHits,
            Counter::IncrHits,
            Counter::DecrHits,
            Counter::CasHits,
            Counter::CasBadval,
            Counter::TouchHits,
        ];
        let mut values = vec![
            stat("chunk_size", chunk),
            stat("chunks_per_page", (MEGABYTE / chunk).max(1)),
            stat("total_pages", bytes.div_ceil(MEGABYTE)),
            stat("total_chunks", items),
            stat("used_chunks", items),
        ];
        values.extend(counters.map(|counter| stat(counter.name(), service.stats.get(counter))));
        let class = complete(SLABS, values).into_iter();
        listing.extend(class.map(|(name, value)| (format!("1:{name}"), value)));
    }
    listing.extend([
        stat("active_slabs", u8::from(items > 0)),
        stat("total_malloced", bytes),
    ]);
    listing
}

/// `stats sizes`: how many items there are of each size, in steps of 32 bytes. The sizes are those that the items would
/// have in memcached. As in memcached, this needs `-o track_sizes`. (Here the answer does not: all items are visited
/// for it.)
fn sizes(service: &Service) -> Listing {
    const STEP: usize = 32;
    if !service.config.track_sizes {
        return vec![stat("sizes_status", "disabled")];
    }
    let mut histogram = BTreeMap::new();
    for item in service.store.snapshot().flatten() {
        let size = Item::size_in_memcached(item.key(), item.flags, item.value_length());
        *histogram.entry(size.next_multiple_of(STEP)).or_insert(0) += 1;
    }
    let line = |(size, items): (usize, u64)| (size.to_string(), items.to_string());
    histogram.into_iter().map(line).collect()
}

/// `stats detail`
fn prefixes(
    detail: Detail,
    service: &Service,
    answer: &mut impl FnMut(Response<'_>) -> io::Result<()>,
) -> io::Result<()> {
    if service.config.disable_dumping {
        return answer(Response::Error(ProtocolError::StatsDetailNotAllowed));
    }
    match detail {
        Detail::On | Detail::Off => {
            service.prefixes.set_on(detail == Detail::On);
            answer(Response::Ok)
        }
        Detail::Dump => {
            for (prefix, counts) in service.prefixes.list() {
                let counts = [counts.gets, counts.hits, counts.sets, counts.deletes];
                let prefix = &prefix;
                answer(Response::Prefix { prefix, counts })?;
            }
            answer(Response::End)
        }
        Detail::Unknown => answer(Response::Error(ProtocolError::StatsDetailUsage)),
    }
}

/// `stats cachedump`: the stored keys, in no particular order. All items are in class 1.
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
