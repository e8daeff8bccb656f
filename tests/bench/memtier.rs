//! The load of memtier_benchmark, a program of its own that also measures other servers.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use super::common::Server;
use super::load::{Figures, Row, cpu_per_request};

/// One row of the table: what memtier_benchmark sends.
pub struct Load {
    pub name: &'static str,
    /// How many `set` for how many `get`.
    ratio: &'static str,
    /// How long the values are, in bytes.
    pub bytes: usize,
    pub size: Row,
}

const fn row(
    (name, ratio): (&'static str, &'static str),
    bytes: usize,
    clients: usize,
    pipeline: usize,
) -> Load {
    Load {
        name,
        ratio,
        bytes,
        size: Row { clients, pipeline },
    }
}

const GET: (&str, &str) = ("get", "0:1");
const SET: (&str, &str) = ("set", "1:0");
const MIX: (&str, &str) = ("set:get 1:10", "1:10");

pub const ROWS: [Load; 11] = [
    row(GET, 32, 1, 1),
    row(GET, 32, 50, 1),
    row(GET, 32, 200, 1),
    row(MIX, 32, 50, 1),
    row(SET, 32, 50, 1),
    row(GET, 32, 50, 16),
    row(MIX, 32, 50, 16),
    row(GET, 32, 1, 64),
    row(GET, 10_000, 50, 1),
    row(GET, 100_000, 50, 1),
    row(GET, 500_000, 50, 1),
];

/// The workload of our own load that has the same requests.
pub const ANSWERED_AS: &str = "mix";

/// Small values have this number of keys, so few that they stay in the processor's cache.
const KEYS: usize = 1000;

/// All values together have at most this many bytes.
const ALL_BYTES: usize = 10_000_000;

/// memtier_benchmark with the arguments that are always the same.
fn command(memtier: &Path, server: &Server, bytes: usize) -> Command {
    let (host, port) = server.address.split_once(':').unwrap_or_default();
    let mut command = Command::new(memtier);
    command
        .args([
            "--protocol",
            "memcache_text",
            "--server",
            host,
            "--port",
            port,
        ])
        .args(["--key-minimum", "1", "--key-maximum"])
        .arg(KEYS.min(ALL_BYTES / bytes).to_string())
        .args(["--data-size", &bytes.to_string()])
        .args(["--hide-histogram", "--print-percentiles", "99"]);
    command
}

/// Stores all keys that the loads read.
pub fn store_all(memtier: &Path, server: &Server, bytes: usize) -> io::Result<()> {
    let mut command = command(memtier, server, bytes);
    command
        .args(["--threads", "1", "--clients", "1", "--ratio", "1:0"])
        .args(["--key-pattern", "P:P", "--requests", "allkeys"]);
    totals(&mut command).map(|_| ())
}

/// Runs one load for whole seconds.
pub fn measure(memtier: &Path, server: &Server, load: &Load, seconds: f64) -> io::Result<Figures> {
    let Row { clients, pipeline } = load.size;
    let threads = clients.min(2);
    let seconds = seconds.ceil();
    let mut command = command(memtier, server, load.bytes);
    command
        .args(["--threads", &threads.to_string()])
        .args(["--clients", &(clients / threads).to_string()])
        .args(["--pipeline", &pipeline.to_string()])
        .args(["--ratio", load.ratio])
        .args(["--test-time", &seconds.to_string()]);
    let json = server.folder.path().join("memtier.json");
    command.arg("--json-out-file").arg(&json);
    let before = server.cpu_seconds();
    let [_, _, misses, _, p99, _] = totals(&mut command)?;
    let after = server.cpu_seconds();
    // It divides by a time of its own, which is sometimes wrong by far. So its rate is not used.
    let answered = count(&fs::read_to_string(json)?)
        .ok_or_else(|| io::Error::other("memtier_benchmark printed no count"))?;
    let rate = answered / seconds;
    let cpu = cpu_per_request(before, after, answered);
    match misses {
        0.0 => Ok(Figures { rate, p99, cpu }),
        _ => Err(io::Error::other(format!(
            "{}: a key is missing",
            server.name
        ))),
    }
}

/// The number of all requests, in memtier_benchmark's JSON.
fn count(json: &str) -> Option<f64> {
    let (_, totals) = json.split_once("\"Totals\":")?;
    let (_, number) = totals.split_once("\"Count\":")?;
    number.split(',').next()?.trim().parse().ok()
}

/// Runs memtier_benchmark, and returns the last line of its table: requests, hits and misses a second, the average time
/// and that of the percentile, and kilobytes a second.
fn totals(command: &mut Command) -> io::Result<[f64; 6]> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("Totals"));
    let numbers = line.unwrap_or_default().split_whitespace();
    let numbers: Vec<f64> = numbers.flat_map(|number| number.parse().ok()).collect();
    numbers.try_into().map_err(|_| {
        let error = String::from_utf8_lossy(&output.stderr);
        io::Error::other(format!("memtier_benchmark: {text}{error}"))
    })
}
