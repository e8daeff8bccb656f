//! The share of requests that are hits: rustmemc and memcached, under the same `-m`.
//!
//!     cargo bench --bench hits                          the two servers
//!     cargo bench --bench hits -- --simulate [items]    algorithms, in this program, with this capacity
//!
//! In the simulation, the numbers after a name are the parameters of the algorithm, in the order of `algorithms.rs`.
//! "probation" is what the server does. With "own capacity" and "in turn" there are 256 shards, each with a queue of
//! its own. Each shard has its share of the capacity, or the shards share all of it and evict in turn.
//!
//! Every request is a `get`, and every miss is followed by a `set`. The first request for a key is a miss, and counts.
//! There are three traces, each of 3 million requests for 1 million keys, with values of 100 bytes. The random numbers
//! are seeded, so the traces are always the same:
//! - `stable`: popularity follows Zipf's law with exponent 0.99, and does not change;
//! - `scans`: the same, but each 40,000 requests are followed by 10,000 requests for keys that never return, so that at
//!   most 80 % can be hits;
//! - `shifts`: as `stable`, but every 500,000 requests the ranks are rotated by a sixth of the keys, so that no key
//!   that was popular stays popular.

// Only tables whose size this file has chosen are indexed here.
#![allow(clippy::indexing_slicing)]

use std::io;
use std::process::ExitCode;
use std::time::Instant;

mod algorithms;
mod common;
use algorithms::{Algorithm, Car, Clock, Lru, Probation, S3Fifo, Sieve};
use common::{
    Bound, Cell, Client, Key, Program, Random, Report, mix, number, print, programs, run, wrong,
};

const KEYS: usize = 1_000_000;
const REQUESTS: usize = 3_000_000;
const EXPONENT: f64 = 0.99;
const SCAN: usize = 10_000;
const SCAN_EVERY: usize = 50_000;
const SHIFT_EVERY: usize = 500_000;
const VALUE: [u8; 100] = [b'v'; 100];

/// The `-m` of the servers, and about how many items of this size fit.
const MEGABYTES: usize = 24;
const ITEMS: usize = 131_000;

// ---- The traces ----

struct Trace {
    name: &'static str,
    /// How many of the requests must be hits at least, in per cent.
    least: f64,
    requests: Vec<Key>,
}

fn traces() -> Vec<Trace> {
    // Rank r has a weight of 1 / (r + 1)^0.99. A random place in the sum of all weights chooses a rank.
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=KEYS)
        .map(|rank| {
            sum += (rank as f64).powf(-EXPONENT);
            sum
        })
        .collect();
    let generate = |name, least, seed, key: &dyn Fn(usize, usize) -> usize| {
        let mut random = Random(seed);
        let mut rank = || {
            let place = random.fraction() * sum;
            sums.partition_point(|&sum| sum <= place).min(KEYS - 1)
        };
        let requests = (0..REQUESTS).map(|number| key(number, rank()) as Key);
        Trace {
            name,
            least,
            requests: requests.collect(),
        }
    };
    vec![
        generate("stable", 79.5, 1, &|_, rank| rank),
        generate("scans", 61.0, 2, &|number, rank| {
            // A number above those of the other keys, which is not used twice.
            if number % SCAN_EVERY >= SCAN_EVERY - SCAN {
                KEYS + number
            } else {
                rank
            }
        }),
        generate("shifts", 73.8, 3, &|number, rank| {
            (rank + number / SHIFT_EVERY * (KEYS / 6)) % KEYS
        }),
    ]
}

// ---- The servers ----

/// How many keys one `get` requests. The `set`s of those that are missing are sent with the next batch.
const BATCH: usize = 50;

/// The hits in per cent of all requests, the number of items at the end, and the seconds it took.
fn measure(program: &Program, trace: &Trace) -> io::Result<Cell> {
    let server = program.start(&["-m", &MEGABYTES.to_string()])?;
    let mut client = Client::connect(&server.address)?;
    let (start, mut hits) = (Instant::now(), 0);
    let (mut keys, mut again) = (Vec::new(), Vec::new());
    for batch in trace.requests.chunks(BATCH) {
        // A key that occurs again in the batch is read again after the `set`s. Then it has an item, as it would have if
        // each request had waited for the one before.
        keys.clear();
        for &key in batch {
            if keys.contains(&key) {
                again.push(key);
            } else {
                keys.push(key);
            }
        }
        let found = client.get(&keys)?;
        hits += found.len();
        for key in missing(&keys, &found) {
            client.set(key, 0, &VALUE)?;
        }
        if !again.is_empty() {
            hits += client.get(&again)?.len();
            again.clear();
        }
    }
    let hits = 100.0 * hits as f64 / trace.requests.len() as f64;
    let (items, seconds) = (client.stat("curr_items")?, start.elapsed().as_secs_f64());
    let text = format!("{hits:.2} {items:>6} {seconds:>4.1}");
    Ok(Cell::new(text, hits))
}

/// The requested keys that were not found.
fn missing(asked: &[Key], found: &[Key]) -> Vec<Key> {
    // Answers have the order of the keys.
    let mut next = found.iter().peekable();
    let missing = asked.iter().filter(|&key| next.next_if_eq(&key).is_none());
    missing.copied().collect()
}

fn compare(traces: &[Trace], report: &mut Report) -> io::Result<()> {
    let programs = programs()?;
    let title = format!("hits, -m {MEGABYTES}");
    let columns = "% of requests  items    s";
    report.table(&title, &programs, columns, "%")?;
    for trace in traces {
        let cells: io::Result<Vec<_>> = programs
            .iter()
            .map(|program| measure(program, trace))
            .collect();
        report.row(trace.name, &cells?, Some(Bound::AtLeast(trace.least)))?;
    }
    Ok(())
}

// ---- The simulation ----

/// Which shard evicts when the store has several shards, each with its own queue.
#[derive(Clone, Copy)]
enum Capacity {
    /// Each shard has its share of the capacity, and evicts its own items.
    Own,
    /// The shards share the capacity, and evict in turn.
    Shared,
}

/// The hits in per cent.
fn simulate<A: Algorithm>(trace: &Trace, capacity: usize, shards: usize, split: Capacity) -> f64 {
    let mut caches: Vec<A> = (0..shards).map(|_| A::default()).collect();
    let (mut hits, mut used, mut hand) = (0, 0, 0);
    for &key in &trace.requests {
        let shard = mix(u64::from(key)) as usize % shards;
        if caches[shard].hit(key) {
            hits += 1;
            continue;
        }
        match split {
            Capacity::Own if caches[shard].len() >= capacity / shards => caches[shard].evict(),
            Capacity::Shared if used >= capacity => {
                while caches[hand % shards].len() == 0 {
                    hand += 1;
                }
                caches[hand % shards].evict();
                hand += 1;
            }
            _ => used += 1,
        }
        caches[shard].insert(key);
    }
    100.0 * hits as f64 / trace.requests.len() as f64
}

/// One queue for the whole store.
fn whole<A: Algorithm>(trace: &Trace, capacity: usize) -> f64 {
    simulate::<A>(trace, capacity, 1, Capacity::Own)
}

fn own_capacity<A: Algorithm>(trace: &Trace, capacity: usize) -> f64 {
    simulate::<A>(trace, capacity, 256, Capacity::Own)
}

fn in_turn<A: Algorithm>(trace: &Trace, capacity: usize) -> f64 {
    simulate::<A>(trace, capacity, 256, Capacity::Shared)
}

/// The hits of one algorithm on one trace with this capacity, in per cent.
type Simulation = fn(&Trace, usize) -> f64;

const SIMULATIONS: &[(&str, Simulation)] = &[
    ("FIFO", whole::<Clock<0>>),
    ("LRU", whole::<Lru>),
    ("CLOCK", whole::<Clock<1>>),
    ("CLOCK, counting to 3", whole::<Clock<3>>),
    ("SIEVE", whole::<Sieve>),
    ("S3-FIFO 10 %, 3, > 1, 90 %", whole::<S3Fifo<10, 3, 1, 90>>),
    ("S3-FIFO 10 %, 1, > 0, 90 %", whole::<S3Fifo<10, 1, 0, 90>>),
    ("S3-FIFO 50 %, 1, > 0, 50 %", whole::<S3Fifo<50, 1, 0, 50>>),
    ("CAR, 4, 90 %", whole::<Car<4, 90>>),
    ("CAR, 4, 40 %", whole::<Car<4, 40>>),
    ("probation, 1 of 5, 30 %", whole::<Probation<1, 30>>),
    ("probation, 2 of 5, 10 %", whole::<Probation<2, 10>>),
    ("probation, 2 of 5, 30 %", whole::<Probation<2, 30>>),
    ("probation, 3 of 5, 30 %", whole::<Probation<3, 30>>),
    (
        "the same, 2 of 5; own capacity",
        own_capacity::<Probation<2, 30>>,
    ),
    ("the same, 2 of 5; in turn", in_turn::<Probation<2, 30>>),
];

fn simulate_all(traces: &[Trace], capacity: usize) -> io::Result<()> {
    let mut head = format!("{:38}", format!("capacity: {capacity} items"));
    for trace in traces {
        head += &format!(" {:>9}", trace.name);
    }
    print(head)?;
    for (name, simulation) in SIMULATIONS {
        let mut row = format!("{name:38}");
        for trace in traces {
            row += &format!(" {:>7.2} %", simulation(trace, capacity));
        }
        print(row)?;
    }
    Ok(())
}

const USAGE: &str = "\
options: [--simulate [ITEMS]]
Measures the share of hits of the servers, or of algorithms with this capacity.";

fn main() -> ExitCode {
    run(USAGE, |arguments, report| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match arguments[..] {
            [] => compare(&traces(), report),
            ["--simulate"] => simulate_all(&traces(), ITEMS),
            ["--simulate", items] => simulate_all(&traces(), number(items, 256, KEYS)?),
            ["--simulate", _, more, ..] | [more, ..] => Err(wrong(more, "is not an option")),
        }
    })
}
