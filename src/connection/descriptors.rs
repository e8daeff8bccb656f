//! File descriptors: how many clients the system's limit allows.
//!
//! std can read the limit (from a file of Linux) but not raise it. memcached raises it.

use std::fs;

use crate::log;

/// How many descriptors are kept for other things than clients that are served: for the rewrite of the append-only
/// file, and for clients that are being refused.
const SPARE: usize = 16;

/// How many of `wanted` clients the limit on open files allows. Call this when everything is open except what
/// `acceptors` threads need. If it allows fewer, a note is printed. At least one client is always allowed.
pub fn clients_allowed(wanted: usize, acceptors: usize) -> usize {
    let (Some(limit), Some(open)) = (limit(), open()) else {
        return wanted;
    };
    // A thread that waits in `accept` has the descriptor of its next client already.
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

/// The soft limit on open files. `None`: there is none, or the system has no such file.
fn limit() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How many descriptors are open now. The one that reads the folder is not counted.
fn open() -> Option<usize> {
    let entries = fs::read_dir("/proc/self/fd").ok()?;
    Some(entries.count().saturating_sub(1))
}

/// Makes the process's table of descriptors large enough for `clients`.
///
/// The kernel doubles the table when it is full. In a process with several threads each doubling takes some ten
/// milliseconds, in which no client is accepted: of 1,000 clients at once hundreds waited a second. So the program calls
/// this before it starts its first thread. Only the size of the table remains of it.
pub fn reserve(clients: usize) {
    /// The table has doubled often enough then.
    const ENOUGH: usize = 4096;
    let Ok(file) = fs::File::open("/dev/null") else {
        return;
    };
    let copies = (0..clients.min(ENOUGH)).map_while(|_| file.try_clone().ok());
    drop(Vec::from_iter(copies));
}
