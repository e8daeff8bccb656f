//! The watchers: clients that have sent `watch`, and read a live log of what the server does.
//!
//! ```text
//! ts=1795665252.227995 gid=10 type=item_store key=a status=stored cmd=set ttl=0 clsid=1 cfd=29 size=5
//! ```
//!
//! Each line is an [`Event`], and belongs to one [stream](Streams). The thread that causes the event formats the line,
//! and appends it to the queue of each watcher of that stream. The watcher's own worker takes the lines out of its
//! queue and sends them (`connection/watching.rs`).
//!
//! Invariants:
//! - An event of a stream that has no watcher costs one relaxed load: no clock is read, and nothing is formatted.
//! - No thread waits for a watcher. A queue has at most [`MAX_QUEUED`] bytes. What does not fit is skipped, counted and
//!   reported to the watcher (`skipped=7`).
//! - Lock order: the lock of this file is the last one. It may be taken while a shard is locked, nothing else is locked
//!   while it is held, and it is not held while lines are sent.
//!
//! Lesson: [37](crate::conversations::lesson_37_watch).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::item::{Item, UnixTime};
use crate::protocol::Streams;
use crate::serialization::write_url_encoded;
use crate::stats::{Counter, Stats};
use crate::stream::Address;

/// How many bytes of lines wait for one watcher at most, as in memcached. While its worker sends the lines of a full
/// queue, the queue can fill again. So a watcher that reads nothing costs twice this.
const MAX_QUEUED: usize = 256 << 10;

/// How many watchers there are at most, as in memcached: every event is appended to the queue of each.
const MAX_WATCHERS: usize = 20;

/// All watchers. A server has one of these.
#[derive(Debug)]
pub struct Watchers {
    /// The [`Streams`] that have a watcher. It is changed while `log` is locked.
    watched: AtomicU8,
    log: Mutex<Log>,
    stats: Arc<Stats>,
}

/// What the lock protects.
#[derive(Debug, Default)]
struct Log {
    /// The queue of each watcher, by the watcher's id.
    queues: BTreeMap<u64, Queue>,
    /// The last "global id". Each line has one, and so has each watcher.
    last_gid: u64,
}

/// The lines that wait for one watcher.
#[derive(Debug)]
struct Queue {
    streams: Streams,
    lines: Vec<u8>,
    /// How many lines were skipped after these.
    skipped: u64,
    /// It is notified when a line is appended to an empty queue.
    has_lines: Arc<Condvar>,
}

impl Watchers {
    /// No watchers. `stats` counts the lines.
    pub fn new(stats: Arc<Stats>) -> Self {
        Watchers {
            watched: AtomicU8::new(Streams::NONE.bits()),
            log: Mutex::default(),
            stats,
        }
    }

    /// Whether this stream has a watcher.
    pub fn is_watched(&self, stream: Streams) -> bool {
        self.watched.load(Relaxed) & stream.bits() != 0
    }

    /// How many watchers there are.
    pub fn count(&self) -> usize {
        self.lock().queues.len()
    }

    /// Adds a watcher of these streams. `None`: there are [`MAX_WATCHERS`] already.
    pub fn add(&self, streams: Streams) -> Option<Watcher<'_>> {
        let mut log = self.lock();
        if log.queues.len() >= MAX_WATCHERS {
            return None;
        }
        log.last_gid += 1;
        let id = log.last_gid;
        let has_lines = Arc::<Condvar>::default();
        let queue = Queue {
            streams,
            lines: Vec::new(),
            skipped: 0,
            has_lines: Arc::clone(&has_lines),
        };
        log.queues.insert(id, queue);
        self.update_watched(&log);
        Some(Watcher {
            watchers: self,
            id,
            has_lines,
        })
    }

    /// Logs the eviction of an item at this time. The caller checks first whether evictions are watched.
    pub fn evicted(&self, item: &Item<'_>, now: UnixTime) {
        self.log(Streams::EVICTIONS, || Event::Evicted { item, now });
    }

    /// Logs an event of this stream, if the stream has a watcher.
    #[inline]
    fn log<'e>(&self, stream: Streams, event: impl FnOnce() -> Event<'e>) {
        if self.is_watched(stream) {
            self.append(stream, &event());
        }
    }

    /// Appends the line of an event to the queues of the stream's watchers.
    #[cold]
    fn append(&self, stream: Streams, event: &Event<'_>) {
        let mut text = Vec::new();
        // Writing to a Vec does not fail.
        let _ = event.write(&mut text);
        let mut log = self.lock();
        log.last_gid += 1;
        // The clock is read under the lock, so the lines are in the order of their ids and of their times.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let start = format!(
            "ts={}.{:06} gid={} ",
            now.as_secs(),
            now.subsec_micros(),
            log.last_gid
        );
        self.stats.add(Counter::LogWorkerWritten, 1);
        for queue in log.queues.values_mut() {
            if queue.streams.overlaps(stream) {
                let counter = match queue.append(start.as_bytes(), &text) {
                    true => Counter::LogWatcherSent,
                    false => Counter::LogWatcherSkipped,
                };
                self.stats.add(counter, 1);
            }
        }
    }

    fn update_watched(&self, log: &Log) {
        let streams = log.queues.values().map(|queue| queue.streams);
        let watched = streams.fold(Streams::NONE, Streams::union);
        self.watched.store(watched.bits(), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Appends a line of two parts. Returns whether it did. After a skipped line all lines are skipped until the
    /// watcher takes the queue, so that the report of skipped lines is at the place where they are missing.
    fn append(&mut self, start: &[u8], text: &[u8]) -> bool {
        let length = self.lines.len() + start.len() + text.len();
        if self.skipped > 0 || length > MAX_QUEUED {
            self.skipped += 1;
            return false;
        }
        if self.lines.is_empty() {
            self.has_lines.notify_one();
        }
        self.lines.extend_from_slice(start);
        self.lines.extend_from_slice(text);
        true
    }
}

/// One watcher. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watcher<'w> {
    watchers: &'w Watchers,
    id: u64,
    has_lines: Arc<Condvar>,
}

impl Watcher<'_> {
    /// Replaces the content of `lines` by the lines of the queue. If the queue is empty, this waits for a line, but not
    /// longer than `at_most`.
    pub fn take(&self, lines: &mut Vec<u8>, at_most: Duration) {
        lines.clear();
        let is_empty = |log: &mut Log| {
            let queue = log.queues.get(&self.id);
            queue.is_none_or(|queue| queue.lines.is_empty())
        };
        let (mut log, _) = self
            .has_lines
            .wait_timeout_while(self.watchers.lock(), at_most, is_empty)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = log.queues.get_mut(&self.id) {
            std::mem::swap(&mut queue.lines, lines);
            let skipped = std::mem::take(&mut queue.skipped);
            if skipped > 0 {
                lines.extend_from_slice(format!("skipped={skipped}\n").as_bytes());
            }
        }
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        let mut log = self.watchers.lock();
        log.queues.remove(&self.id);
        self.watchers.update_watched(&log);
    }
}

/// Logs what one connection does.
#[derive(Debug)]
pub struct Events<'w> {
    watchers: &'w Watchers,
    connection: RawFd,
}

impl<'w> Events<'w> {
    /// The events of the connection with this file descriptor.
    pub fn new(watchers: &'w Watchers, connection: RawFd) -> Self {
        Events {
            watchers,
            connection,
        }
    }

    /// Whether this stream has a watcher.
    pub fn is_watched(&self, stream: Streams) -> bool {
        self.watchers.is_watched(stream)
    }

    /// A command has looked for the item of a key. `has_expired` returns whether the key's item has expired; it is
    /// called only if no item was found and the stream has a watcher.
    pub fn fetched(
        &self,
        key: &[u8],
        found: Option<&Item<'_>>,
        has_expired: impl FnOnce() -> bool,
    ) {
        self.watchers.log(Streams::FETCHERS, || Event::Fetched {
            key,
            outcome: match found {
                Some(item) => Fetch::Found(item.value_length()),
                None if has_expired() => Fetch::Expired,
                None => Fetch::NotFound,
            },
            cfd: self.connection,
        });
    }

    /// A command has stored a value, or has failed to. `status` is memcached's word for the outcome, and `command` its
    /// name for the command. `ttl` returns the seconds until the value expires, or 0 if it never does.
    pub fn stored(
        &self,
        key: &[u8],
        status: &'static str,
        command: &'static str,
        ttl: impl FnOnce() -> u32,
        size: usize,
    ) {
        self.watchers.log(Streams::MUTATIONS, || Event::Stored {
            key,
            status,
            command,
            ttl: ttl(),
            cfd: self.connection,
            size,
        });
    }

    /// A command has deleted an item whose value had this size.
    pub fn deleted(&self, key: &[u8], command: &'static str, size: usize) {
        self.watchers
            .log(Streams::DELETIONS, || Event::Deleted { key, command, size });
    }

    /// The client has connected.
    pub fn connected(&self, address: &Address) {
        self.watchers.log(Streams::CONNEVENTS, || Event::Connected {
            address,
            cfd: self.connection,
        });
    }

    /// The connection is closed. `reason` is memcached's word.
    pub fn closed(&self, address: &Address, reason: &'static str) {
        self.watchers.log(Streams::CONNEVENTS, || Event::Closed {
            address,
            reason,
            cfd: self.connection,
        });
    }
}

/// One line of the log, without the time and the id at its start. `cfd` is the connection's file descriptor.
#[derive(Debug)]
enum Event<'e> {
    Fetched {
        key: &'e [u8],
        outcome: Fetch,
        cfd: RawFd,
    },
    Stored {
        key: &'e [u8],
        status: &'static str,
        command: &'static str,
        /// Seconds; 0 if the item does not expire.
        ttl: u32,
        cfd: RawFd,
        size: usize,
    },
    Evicted {
        item: &'e Item<'e>,
        now: UnixTime,
    },
    Deleted {
        key: &'e [u8],
        command: &'static str,
        size: usize,
    },
    Connected {
        address: &'e Address,
        cfd: RawFd,
    },
    Closed {
        address: &'e Address,
        reason: &'static str,
        cfd: RawFd,
    },
}

/// What a command found when it looked for the item of a key.
#[derive(Debug, Clone, Copy)]
enum Fetch {
    /// An item whose value has this size.
    Found(usize),
    /// An item that has expired, but is not removed yet.
    Expired,
    NotFound,
}

impl Event<'_> {
    /// Writes the line. memcached ends it with `\n`, without `\r`. All items are in size class 1 (`clsid`).
    fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        match *self {
            Event::Fetched { key, outcome, cfd } => {
                let (status, class, size) = match outcome {
                    Fetch::Found(size) => ("found", 1, size),
                    Fetch::Expired => ("expired", 0, 0),
                    Fetch::NotFound => ("not_found", 0, 0),
                };
                write_type("item_get", key, out)?;
                writeln!(out, " status={status} clsid={class} cfd={cfd} size={size}")
            }
            Event::Stored {
                key,
                status,
                command,
                ttl,
                cfd,
                size,
            } => {
                write_type("item_store", key, out)?;
                write!(out, " status={status} cmd={command} ttl={ttl} ")?;
                writeln!(out, "clsid=1 cfd={cfd} size={size}")
            }
            Event::Evicted { item, now } => {
                write_type("eviction", item.key(), out)?;
                out.write_all(match item.fetched {
                    true => b" fetch=yes",
                    false => b" fetch=no",
                })?;
                match item.expiry.time() {
                    Some(end) => write!(out, " ttl={}", end.saturating_sub(now))?,
                    None => out.write_all(b" ttl=-1")?,
                }
                let la = now.saturating_sub(item.last_access);
                writeln!(out, " la={la} clsid=1 size={}", item.value_length())
            }
            Event::Deleted { key, command, size } => {
                write_type("deleted", key, out)?;
                writeln!(out, " cmd={command} clsid=1 size={size}")
            }
            Event::Connected { address, cfd } => {
                out.write_all(b"type=conn_new")?;
                write_address(address, out)?;
                writeln!(out, " cfd={cfd}")
            }
            Event::Closed {
                address,
                reason,
                cfd,
            } => {
                out.write_all(b"type=conn_close")?;
                write_address(address, out)?;
                writeln!(out, " reason={reason} cfd={cfd}")
            }
        }
    }
}

fn write_type(name: &str, key: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    write!(out, "type={name} key=")?;
    write_url_encoded(key, out)
}

fn write_address(address: &Address, out: &mut Vec<u8>) -> io::Result<()> {
    match address {
        Address::Tcp(address) => {
            let (ip, port) = (address.ip(), address.port());
            write!(out, " rip={ip} rport={port} transport=tcp")
        }
        Address::Unix(_) => out.write_all(b" rip=unix rport=0 transport=local"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    fn watchers() -> Watchers {
        Watchers::new(Arc::default())
    }

    /// What the watcher would send now, without the times.
    fn taken(watcher: &Watcher<'_>) -> String {
        let mut lines = Vec::new();
        watcher.take(&mut lines, NO_TIME);
        let lines = String::from_utf8(lines).unwrap();
        let without_time = lines.lines().map(|line| match line.split_once(" gid=") {
            Some((_, rest)) => format!("gid={rest}\n"),
            None => format!("{line}\n"),
        });
        without_time.collect()
    }

    #[test]
    fn a_watcher_reads_the_lines_of_its_streams_while_it_watches() {
        let watchers = watchers();
        let events = Events::new(&watchers, 7);
        let deleted = |key: &str| events.deleted(key.as_bytes(), "md", 3);
        deleted("early");
        let all = watchers
            .add(Streams::DELETIONS.union(Streams::FETCHERS))
            .unwrap();
        let fetchers = watchers.add(Streams::FETCHERS).unwrap();
        deleted("a b");
        events.fetched(b"k", None, || true);
        assert_eq!(
            taken(&all),
            "gid=3 type=deleted key=a%20b cmd=md clsid=1 size=3\n\
             gid=4 type=item_get key=k status=expired clsid=0 cfd=7 size=0\n"
        );
        assert!(taken(&fetchers).starts_with("gid=4 "));
        drop(all);
        deleted("late");
        assert_eq!((taken(&fetchers).as_str(), watchers.count()), ("", 1));
    }

    #[test]
    fn an_event_of_a_stream_without_watcher_costs_no_lookup() {
        let watchers = watchers();
        let events = Events::new(&watchers, 7);
        let must_not_be_called = || panic!("the stream has no watcher");
        let others = [Streams::MUTATIONS, Streams::EVICTIONS, Streams::CONNEVENTS];
        let watching = others.map(|stream| watchers.add(stream).unwrap());
        events.fetched(b"k", None, must_not_be_called);
        let fetchers = watchers.add(Streams::FETCHERS).unwrap();
        assert!(events.is_watched(Streams::FETCHERS));
        drop(fetchers);
        events.fetched(b"k", None, must_not_be_called);
        assert_eq!(watching.map(|watcher| taken(&watcher)), [""; 3]);
    }

    #[test]
    fn a_queue_is_bounded_and_what_does_not_fit_is_counted_and_reported() {
        let watchers = watchers();
        let events = Events::new(&watchers, 7);
        let slow = watchers.add(Streams::DELETIONS).unwrap();
        const EVENTS: usize = 10_000;
        for n in 0..EVENTS {
            events.deleted(format!("{n:0>200}").as_bytes(), "md", 3);
        }
        // A short line would fit, but it would be in front of the report.
        events.deleted(b"short", "md", 3);
        let mut lines = Vec::new();
        slow.take(&mut lines, NO_TIME);
        let text = String::from_utf8_lossy(&lines);
        let (lines, skipped) = text.trim_end().rsplit_once("\nskipped=").unwrap();
        assert!((MAX_QUEUED - 1000..MAX_QUEUED).contains(&lines.len()));
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len() + skipped.parse::<usize>().unwrap(), EVENTS + 1);
        for (n, line) in lines.iter().enumerate() {
            assert!(line.contains(&format!("gid={} ", n + 2)), "{line}");
            assert!(line.contains(&format!("{n:0>200}")), "{line}");
        }
        events.deleted(b"next", "md", 3);
        assert_eq!(
            taken(&slow),
            format!(
                "gid={} type=deleted key=next cmd=md clsid=1 size=3\n",
                EVENTS + 3
            )
        );
        let count = |counter| watchers.stats.get(counter);
        assert_eq!(count(Counter::LogWatcherSent), lines.len() as u64 + 1);
        assert_eq!(
            count(Counter::LogWatcherSent) + count(Counter::LogWatcherSkipped),
            count(Counter::LogWorkerWritten)
        );
    }

    #[test]
    fn the_first_line_wakes_the_watcher() {
        let watchers = watchers();
        let watcher = watchers.add(Streams::FETCHERS).unwrap();
        let (start, at_most) = (std::time::Instant::now(), Duration::from_secs(20));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut lines = Vec::new();
                watcher.take(&mut lines, at_most);
                lines
            });
            // By then the other thread is most probably waiting.
            std::thread::sleep(Duration::from_millis(20));
            Events::new(&watchers, 7).fetched(b"k", None, || false);
            assert!(!waiting.join().unwrap().is_empty());
        });
        assert!(start.elapsed() < at_most);
    }

    #[test]
    fn there_are_twenty_watchers_at_most() {
        let watchers = watchers();
        let mut all = Vec::from_iter(std::iter::from_fn(|| watchers.add(Streams::NONE)));
        assert_eq!((all.len(), watchers.count()), (20, 20));
        all.pop();
        assert!(watchers.add(Streams::NONE).is_some());
    }
}
