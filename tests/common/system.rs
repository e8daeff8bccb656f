//! What the tests and the benchmarks ask the operating system.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// A line of a file such as `/proc/self/status`, without its name. `None` if the process has ended.
pub fn status(file: impl AsRef<Path>, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// A process's memory in kilobytes: `VmRSS` is what it has now, `VmHWM` is the most that it ever had.
pub fn memory(pid: u32, name: &str) -> Option<u64> {
    let value = status(format!("/proc/{pid}/status"), name)?;
    value.strip_suffix(" kB")?.parse().ok()
}

/// How many seconds the processors have worked for a process: in its own code and in the system's. `None` if the process
/// has ended, or if there is no `/proc`.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, which may have spaces, ends in the last parenthesis.
    let (_, numbers) = text.rsplit_once(')')?;
    let times = numbers.split_whitespace().skip(11).take(2);
    let ticks: Option<f64> = times.map(|time| time.parse::<f64>().ok()).sum();
    // Linux counts in hundredths of a second, on every machine.
    Some(ticks? / 100.0)
}

/// Whether this process runs as root. memcached does so only with the flag `-u root`.
pub fn is_root() -> bool {
    // The first number is the real user, the second is the effective one.
    let uids = status("/proc/self/status", "Uid").unwrap_or_default();
    uids.split_whitespace().nth(1) == Some("0")
}

/// A port that is free at the moment: for a server that does not print which port it got.
pub fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
