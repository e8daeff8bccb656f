//! How good a cache it is: the share of requests that are hits, beside memcached, under the same `-m`.
//!
//!     cargo bench --bench hits                          the two servers
//!     cargo bench --bench hits -- --simulate [items]    algorithms, in this program, with room for so many
//!
//! In the simulation S3-FIFO stands with the share of its small queue, how far it counts, when it promotes, and
//! its ghosts; CAR with its step and its ghosts; what the server does as "probation" (see `algorithms.rs`). "own room" and "in turn" are 256 shards
//! with a queue each, which have each their share of the room, or share all of it and evict in turn.
//!
//! A read-through cache: every request is a `get`, and every miss is followed by a `set`. Cold misses count.
//! Three kinds of traces, each of 3 million requests over 1 million keys, 100-byte values, always the same
//! ones because the generator is seeded:
//! - `stable`: popularity is Zipf's with exponent 0.99 and stays as it is;
//! - `scans`: the same, but each 40,000 requests are followed by 10,000 to keys that never return, so that at
//!   most 80 % can be hits;
//! - `shifts`: as `stable`, but every 500,000 requests the ranks are rotated by a sixth of the keys, so that
//!   all that was popular no longer is.

// What is indexed here are tables that this file has sized itself.
#![allow(clippy::indexing_slicing)]

use std::io;
use std::process::ExitCode;
use std::time::Instant;

mod algorithms;
mod common;
use algorithms::{Algorithm, Car, Clock, Key, Lru, Probation, S3Fifo, Sieve};
use common::{Client, Program, Random, mix, programs, run, say};

const KEYS: usize = 1_000_000;
const REQUESTS: usize = 3_000_000;
const EXPONENT: f64 = 0.99;
const SCAN: usize = 10_000;
const SCAN_EVERY: usize = 50_000;
const SHIFT_EVERY: usize = 500_000;
const VALUE: [u8; 100] = [b'v'; 100];

/// The `-m` of the servers, and about how many items of this kind it holds.
const MEGABYTES: usize = 24;
const ITEMS: usize = 131_000;

// ---- The traces ----

struct Trace {
    name: &'static str,
    requests: Vec<Key>,
}

fn traces() -> Vec<Trace> {
    // Rank r is asked for with a weight of 1 / (r + 1)^0.99; a place in the sum of all weights tells a rank.
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=KEYS)
        .map(|rank| {
            sum += (rank as f64).powf(-EXPONENT);
            sum
        })
        .collect();
    let generate = |name, seed, key: &dyn Fn(usize, usize) -> usize| {
        let mut random = Random(seed);
        let mut rank = || {
            let place = random.fraction() * sum;
            sums.partition_point(|&sum| sum <= place).min(KEYS - 1)
        };
        let requests = (0..REQUESTS).map(|number| key(number, rank()) as Key);
        Trace {
            name,
            requests: requests.collect(),
        }
    };
    vec![
        generate("stable", 1, &|_, rank| rank),
        generate("scans", 2, &|number, rank| {
            // Numbers above those of the keys, and none twice.
            if number % SCAN_EVERY >= SCAN_EVERY - SCAN {
                KEYS + number
            } else {
                rank
            }
        }),
        generate("shifts", 3, &|number, rank| {
            (rank + number / SHIFT_EVERY * (KEYS / 6)) % KEYS
        }),
    ]
}

// ---- The servers ----

/// So many keys are asked for at once; the `set`s for those that are missing go with the next batch.
const BATCH: usize = 50;

/// What one run shows.
struct Outcome {
    /// Of all requests, in per cent.
    hits: f64,
    /// How many items there are at the end.
    items: u64,
    seconds: f64,
}

fn measure(program: &Program, trace: &Trace) -> io::Result<Outcome> {
    let server = program.start(&["-m", &MEGABYTES.to_string()])?;
    let mut client = Client::connect(&server.address)?;
    let (start, mut hits) = (Instant::now(), 0);
    let (mut keys, mut again, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for batch in trace.requests.chunks(BATCH) {
        // A key that comes again within the batch is read again, but behind the `set`s: by then it is there,
        // as it would be if each request had waited for the one before.
        keys.clear();
        for &key in batch {
            if keys.contains(&key) {
                again.push(key);
            } else {
                keys.push(key);
            }
        }
        hits += get(&mut client, &keys, Some(&mut missing))?;
        for key in missing.drain(..) {
            client.set(&name(key), 0, &VALUE)?;
        }
        if !again.is_empty() {
            hits += get(&mut client, &again, None)?;
            again.clear();
        }
    }
    Ok(Outcome {
        hits: 100.0 * hits as f64 / trace.requests.len() as f64,
        items: client.stat("curr_items")?,
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn name(key: Key) -> String {
    format!("key:{key:09}")
}

/// Asks for all of them and returns how many there were. Answers come in the order of the keys.
fn get(client: &mut Client, keys: &[Key], missing: Option<&mut Vec<Key>>) -> io::Result<usize> {
    client.request.extend_from_slice(b"get");
    for &key in keys {
        client.request.push(b' ');
        client.request.extend_from_slice(name(key).as_bytes());
    }
    let mut line = client.ask("")?;
    let mut found = Vec::with_capacity(keys.len());
    while line != "END" {
        let key = line
            .strip_prefix("VALUE key:")
            .and_then(|rest| rest.get(..9)?.parse::<Key>().ok())
            .ok_or_else(|| io::Error::other(format!("unexpected: {line}")))?;
        client.skip_block(VALUE.len())?;
        found.push(key);
        client.line(&mut line)?;
    }
    if let Some(missing) = missing {
        let mut next = found.iter().peekable();
        missing.extend(keys.iter().filter(|&key| next.next_if_eq(&key).is_none()));
    }
    Ok(found.len())
}

fn compare(traces: &[Trace]) -> io::Result<()> {
    let programs = programs()?;
    let mut head = format!("\n{:8}", "trace");
    for program in &programs {
        head += &format!("  {:>11} {:>8} {:>8}", program.name, "items", "seconds");
    }
    say(head)?;
    for trace in traces {
        let mut row = format!("{:8}", trace.name);
        for program in &programs {
            let Outcome {
                hits,
                items,
                seconds,
            } = measure(program, trace)?;
            row += &format!("  {hits:>9.2} % {items:>8} {seconds:>8.1}");
        }
        say(row)?;
    }
    Ok(())
}

// ---- The simulation ----

/// Where room is made when the store is split over shards, each with its own queue.
#[derive(Clone, Copy)]
enum Room {
    /// Each shard has its share of the room, and makes it itself.
    Own,
    /// The room is everybody's, and the shards make it in turn.
    Turn,
}

/// The hits in per cent.
fn simulate<A: Algorithm>(trace: &Trace, capacity: usize, shards: usize, room: Room) -> f64 {
    let mut caches: Vec<A> = (0..shards).map(|_| A::default()).collect();
    let (mut hits, mut used, mut hand) = (0, 0, 0);
    for &key in &trace.requests {
        let shard = mix(u64::from(key)) as usize % shards;
        if caches[shard].hit(key) {
            hits += 1;
            continue;
        }
        match room {
            Room::Own if caches[shard].len() >= capacity / shards => caches[shard].evict(),
            Room::Turn if used >= capacity => {
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
    simulate::<A>(trace, capacity, 1, Room::Own)
}

fn own_room<A: Algorithm>(trace: &Trace, capacity: usize) -> f64 {
    simulate::<A>(trace, capacity, 256, Room::Own)
}

fn in_turn<A: Algorithm>(trace: &Trace, capacity: usize) -> f64 {
    simulate::<A>(trace, capacity, 256, Room::Turn)
}

/// How one algorithm does on one trace with so much room.
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
    ("the same, 2 of 5; own room", own_room::<Probation<2, 30>>),
    ("the same, 2 of 5; in turn", in_turn::<Probation<2, 30>>),
];

fn simulate_all(traces: &[Trace], capacity: usize) -> io::Result<()> {
    let mut head = format!("{:38}", format!("room for {capacity} items"));
    for trace in traces {
        head += &format!(" {:>9}", trace.name);
    }
    say(head)?;
    for (name, simulation) in SIMULATIONS {
        let mut row = format!("{name:38}");
        for trace in traces {
            row += &format!(" {:>7.2} %", simulation(trace, capacity));
        }
        say(row)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    run(|arguments| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match arguments[..] {
            [] => compare(&traces()),
            ["--simulate"] => simulate_all(&traces(), ITEMS),
            ["--simulate", items] => match items.parse() {
                Ok(items) if items >= 256 => simulate_all(&traces(), items),
                _ => Err(io::Error::other(format!("{items:?} is no number from 256"))),
            },
            _ => Err(io::Error::other("options: --simulate [items]")),
        }
    })
}
