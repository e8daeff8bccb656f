//! File descriptors: how many clients the system's limit allows.
//!
//! memcached raises the limit. std cannot do that: here the limit is only read, from a file that only Linux has.

use std::fs;

use crate::log;

/// How many descriptors are kept for the rewrite of the append-only file, and for clients that are being refused.
const SPARE: usize = 16;

/// How many threads may accept clients on each of `listeners` sockets: `most`, or fewer if there are more than two
/// sockets, or if the system allows few open files or threads. Together they get an eighth of these: a thread that waits
/// in `accept` already holds a descriptor for its next client.
pub fn acceptors(most: usize, listeners: usize) -> usize {
    let open = open().unwrap_or(0) + SPARE;
    let files = limit("Max open files").map_or(usize::MAX, |limit| limit.saturating_sub(open));
    let threads = limit("Max processes").unwrap_or(usize::MAX);
    let together = (files.min(threads) / 8).min(2 * most);
    (together / listeners.max(1)).clamp(1, most)
}

/// How many of `wanted` clients the limit on open files allows, but at least one. If it allows fewer than `wanted`, a
/// note is printed. Call this when all other files and sockets are open. `acceptors` is the number of threads that will
/// accept clients.
pub fn clients_allowed(wanted: usize, acceptors: usize) -> usize {
    let (Some(limit), Some(open)) = (limit("Max open files"), open()) else {
        return wanted;
    };
    let needed = open + acceptors + SPARE;
    let allowed = limit.saturating_sub(needed).max(1);
    if allowed < wanted {
        log::line(format_args!(
            "rustmemc: note: the limit of {limit} open files allows {allowed} of {wanted} clients; `ulimit -n {}` before \
             the start allows all",
            wanted.saturating_add(needed)
        ));
    }
    allowed.min(wanted)
}

/// The soft limit of this name. `None`: there is no limit, or the system has no such file.
fn limit(name: &str) -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How many descriptors are open now. The one that reads the folder is not counted.
fn open() -> Option<usize> {
    let entries = fs::read_dir("/proc/self/fd").ok()?;
    Some(entries.count().saturating_sub(1))
}

/// Makes the process's table of descriptors large enough for `clients`, and for those that come at once and are
/// refused: opens this number of descriptors, and closes them. The table keeps its size.
///
/// The kernel doubles the table when it is full. In a process with several threads each doubling takes about ten
/// milliseconds, and meanwhile no client is accepted. When 1,000 clients came at once, hundreds of them waited a
/// second. So the program calls this before it starts its first thread.
pub fn reserve(clients: usize) {
    /// Those that come at once and are refused.
    const REFUSED: usize = 2048;
    /// To open more would delay the start by more than 10 milliseconds.
    const MAX_SIZE: usize = 1 << 14;
    let Ok(file) = fs::File::open("/dev/null") else {
        return;
    };
    let size = clients.saturating_add(REFUSED).min(MAX_SIZE);
    let copies = (0..size).map_while(|_| file.try_clone().ok());
    drop(Vec::from_iter(copies));
}
