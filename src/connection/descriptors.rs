//! File descriptors and threads: how many clients and acceptors the system's limits allow.
//!
//! memcached raises the limit on open files. std cannot do that: here the limits are only read, from a file that only
//! Linux has.

use std::fs;

use crate::log;

/// How many descriptors are kept for the rewrite of the append-only file, and for clients that are being refused.
const SPARE: usize = 16;

/// What the system allows this process. Each field is `None` if there is no limit, or if the system does not tell it.
#[derive(Debug)]
pub struct SystemLimits {
    /// How many files may be open, and how many are.
    files: Option<(usize, usize)>,
    /// How many threads its user may have.
    threads: Option<usize>,
}

impl SystemLimits {
    /// Reads the limits. Call this when all files and sockets are open, except those of clients.
    pub fn read() -> Self {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let limit = |name| -> Option<usize> {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        // The descriptor that reads the folder is not counted.
        let entries = fs::read_dir("/proc/self/fd").ok();
        let open = entries.map(|entries| entries.count().saturating_sub(1));
        SystemLimits {
            files: limit("Max open files").zip(open),
            threads: limit("Max processes"),
        }
    }

    /// How many threads may accept clients on each of `listeners` sockets: `most`, or fewer if there are more than two
    /// sockets, or if the system allows few open files or threads. Together they get an eighth of these: a thread that
    /// waits in `accept` already holds a descriptor for its next client.
    pub fn acceptors(&self, most: usize, listeners: usize) -> usize {
        let files = self
            .files
            .map(|(limit, open)| limit.saturating_sub(open + SPARE));
        let allowed = [files, self.threads].into_iter().flatten().min();
        let together = (allowed.unwrap_or(usize::MAX) / 8).min(2 * most);
        (together / listeners.max(1)).clamp(1, most)
    }

    /// How many of `wanted` clients the limit on open files allows, but at least one. If it allows fewer than `wanted`,
    /// a note is printed. `acceptors` is the number of threads that will accept clients.
    pub fn clients(&self, wanted: usize, acceptors: usize) -> usize {
        let Some((limit, open)) = self.files else {
            return wanted;
        };
        let needed = open + acceptors + SPARE;
        let allowed = limit.saturating_sub(needed).max(1);
        if allowed < wanted {
            log::line(format_args!(
                "rustmemc: note: the limit of {limit} open files allows {allowed} of {wanted} clients; `ulimit -n {}` \
                 before the start allows all",
                wanted.saturating_add(needed)
            ));
        }
        allowed.min(wanted)
    }
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
