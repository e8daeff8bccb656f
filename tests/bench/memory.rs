//! What rustmemc does with memory and what that costs its clients, beside memcached, each started afresh.
//!
//!     cargo bench --bench memory
//!     cargo bench --bench memory -- items churn stalls --rounds 9
//!
//! - `items`: how much resident memory an item takes, key, value and all that is kept beside them.
//! - `churn`: how much memory stays resident when several times `-m` has gone through the store in all sizes,
//!   beside what is allowed: 1.3 times `-m` and 20 MB. If a store that was flushed or has expired is filled to
//!   a half again without evictions, all its memory can be used again.
//! - `stalls`: how long one client waits for the answer to a small `get`, while others store 3 million keys or
//!   flush them. On a busy machine the longest of these is mostly the scheduler's doing. So there are two
//!   controls, an idle server and the same keys stored once more (nothing grows), and several rounds: what the
//!   server itself causes is there in each of them, so the smallest maximum tells most.

use std::io;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

mod common;
use common::{Client, Program, Random, Server, programs, run, say};

// ---- What the parts share ----

const MB: f64 = 1024.0 * 1024.0;

/// Connects so many clients, and has each of them served once: what a connection costs is no part of what
/// items take.
fn connect(server: &Server, clients: usize) -> io::Result<Vec<Client>> {
    let connect_one = |_| {
        let mut client = Client::connect(&server.address)?;
        client.ask("version")?;
        Ok(client)
    };
    (0..clients).map(connect_one).collect()
}

/// Lets all of them work at the same time, each in a thread of its own.
fn together<C: Send>(
    clients: &mut [C],
    work: impl Fn(usize, &mut C) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let (barrier, work) = (&Barrier::new(clients.len()), &work);
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(number, client)| {
                scope.spawn(move || {
                    barrier.wait();
                    work(number, client)
                })
            })
            .collect();
        threads.into_iter().try_for_each(join)
    })
}

fn join<T>(thread: ScopedJoinHandle<io::Result<T>>) -> io::Result<T> {
    let panicked = |_| Err(io::Error::other("a thread panicked"));
    thread.join().unwrap_or_else(panicked)
}

/// Stores keys in a pipeline; when it returns they are there.
fn store(client: &mut Client, keys: Range<usize>, bytes: usize) -> io::Result<()> {
    let value = vec![b'v'; bytes];
    for key in keys {
        client.set(&format!("key:{key:09}"), 0, &value)?;
    }
    client.ask("version").map(drop)
}

/// A row of a table: a name, and a cell for each server.
fn row(name: &str, cells: &[String]) -> io::Result<()> {
    let cells: String = cells.iter().map(|cell| format!("  {cell:>24}")).collect();
    say(format_args!("{name:36}{cells}"))
}

fn head(title: &str, programs: &[Program]) -> io::Result<()> {
    let names: Vec<_> = programs.iter().map(|program| program.name.into()).collect();
    say("")?;
    row(title, &names)
}

// ---- items ----

fn items(programs: &[Program], _rounds: usize) -> io::Result<()> {
    head("resident bytes an item", programs)?;
    for (count, bytes) in [(1_000_000, 32), (1_000_000, 100), (200_000, 1000)] {
        for connections in [1, 50] {
            let mut cells = Vec::new();
            for program in programs {
                let server = program.start(&["-m", "1024"])?;
                let mut clients = connect(&server, connections)?;
                let before = server.resident()?;
                let share = count / connections;
                together(&mut clients, |number, client| {
                    store(client, share * number..share * (number + 1), bytes)
                })?;
                let after = server.resident()?;
                if Client::connect(&server.address)?.stat("curr_items")? != count as u64 {
                    return Err(io::Error::other(format!(
                        "{} does not hold all items",
                        program.name
                    )));
                }
                let each = after.saturating_sub(before) as f64 / count as f64;
                cells.push(format!("{each:.1}"));
            }
            let name = format!("{count} of {bytes}, connections: {connections}");
            row(&name, &cells)?;
        }
    }
    Ok(())
}

// ---- churn ----

const LIMIT: usize = 64;
const CHURNERS: usize = 100;

/// Draws the size of a value.
type Size = fn(&mut Random) -> usize;

const SMALL: Size = |random| 45 + random.below(11);
const LARGE: Size = |random| 19_000 + random.below(2_000);
/// 10 bytes to 100 KB, as many of one order of magnitude as of another.
const MIXED: Size = |random| (10.0 * 10f64.powf(4.0 * random.fraction())) as usize;

enum Step {
    /// So many megabytes of keys and values, for so many seconds (0: for ever).
    Fill(usize, u32, Size),
    Flush,
    Wait(Duration),
}

const STEPS: [(&str, Step); 10] = [
    ("all are connected", Step::Wait(Duration::ZERO)),
    ("3 x 64 MB, ~50 bytes", Step::Fill(192, 0, SMALL)),
    ("3 x 64 MB, ~20 KB", Step::Fill(192, 0, LARGE)),
    ("3 x 64 MB, 10 bytes to 100 KB", Step::Fill(192, 0, MIXED)),
    ("flush_all", Step::Flush),
    ("16 MB, ~50 bytes", Step::Fill(16, 0, SMALL)),
    ("3 x 64 MB, ~50 bytes", Step::Fill(192, 0, SMALL)),
    (
        "3 x 64 MB, 10 bytes to 100 KB, 2 s",
        Step::Fill(192, 2, MIXED),
    ),
    ("5 s later", Step::Wait(Duration::from_secs(5))),
    ("32 MB, ~20 KB", Step::Fill(32, 0, LARGE)),
];

/// A client with keys of its own, of which it has used so many.
struct Churner {
    client: Client,
    random: Random,
    used: usize,
}

impl Churner {
    /// Every third `set` is of a key that it has used before, whatever its size was then.
    fn fill(&mut self, number: usize, bytes: usize, exptime: u32, size: Size) -> io::Result<()> {
        let value = [b'v'; 100_000];
        let mut sent = 0;
        while sent < bytes {
            let key = if self.used > 0 && self.random.below(3) == 0 {
                self.random.below(self.used)
            } else {
                self.used += 1;
                self.used - 1
            };
            let key = format!("key:{:09}", number * 1_000_000 + key);
            let length = size(&mut self.random).min(value.len());
            self.client.set(&key, exptime, value.split_at(length).0)?;
            sent += key.len() + length;
        }
        self.client.ask("version").map(drop)
    }
}

fn churn(programs: &[Program], _rounds: usize) -> io::Result<()> {
    let title = format!("-m {LIMIT}, connections: {CHURNERS}");
    head(&title, programs)?;
    let units = vec!["items evictions  MB RSS".into(); programs.len()];
    row("", &units)?;
    let mut runs = Vec::new();
    for program in programs {
        let server = program.start(&["-m", &LIMIT.to_string()])?;
        let clients = connect(&server, CHURNERS)?.into_iter().zip(0..);
        let churners: Vec<_> = clients
            .map(|(client, seed)| Churner {
                client,
                random: Random(seed),
                used: 0,
            })
            .collect();
        runs.push((server, churners));
    }
    for (name, step) in STEPS {
        let mut cells = Vec::new();
        for (server, churners) in &mut runs {
            let mut other = Client::connect(&server.address)?;
            let before = other.stat("evictions")?;
            match step {
                Step::Fill(megabytes, exptime, size) => together(churners, |number, churner| {
                    let bytes = (megabytes << 20) / CHURNERS;
                    churner.fill(number, bytes, exptime, size)
                })?,
                Step::Flush => {
                    other.ask("flush_all")?;
                    // Freeing may go on behind the scenes.
                    thread::sleep(Duration::from_secs(2));
                }
                Step::Wait(time) => thread::sleep(time),
            }
            let evictions = other.stat("evictions")? - before;
            let resident = server.resident()? as f64 / MB;
            let count = other.stat("curr_items")?;
            cells.push(format!("{count} {evictions:>9} {resident:>7.1}"));
        }
        row(name, &cells)?;
    }
    let peaks: io::Result<Vec<_>> = runs
        .iter()
        .map(|(server, _)| Ok(format!("{:.1}", server.peak()? as f64 / MB)))
        .collect();
    row("the most that ever was (VmHWM)", &peaks?)?;
    let bound = 1.3 * LIMIT as f64 + 20.0;
    row("allowed", &vec![format!("{bound:.1}"); programs.len()])
}

// ---- stalls ----

const COUNT: usize = 3_000_000;
const LOADERS: usize = 4;
const PHASES: [&str; 4] = [
    "nothing else happens, 2 s",
    "3 million keys go in",
    "the same keys once more",
    "flush_all of them",
];

/// What one client saw while others worked.
#[derive(Clone, Copy)]
struct Waited {
    longest: Duration,
    /// 99.9 % of the answers took no longer.
    mostly: Duration,
    /// How long the work of the others took.
    work: Duration,
}

/// Asks for a key about every 200 µs while the work is done.
fn watch(address: &str, work: impl FnOnce() -> io::Result<()>) -> io::Result<Waited> {
    let mut client = Client::connect(address)?;
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            let (mut waits, mut line) = (Vec::new(), String::new());
            while !over.load(Relaxed) {
                let start = Instant::now();
                line.clone_from(&client.ask("get fixed")?);
                while line != "END" {
                    client.line(&mut line)?;
                }
                waits.push(start.elapsed());
                thread::sleep(Duration::from_micros(200));
            }
            Ok(waits)
        });
        let start = Instant::now();
        let outcome = work();
        let work = start.elapsed();
        // What the work leaves behind (a table still moving, memory still being freed) is watched as well.
        thread::sleep(Duration::from_millis(300));
        over.store(true, Relaxed);
        let mut waits = join(watcher)?;
        outcome?;
        waits.sort();
        let at = |index: usize| waits.get(index).copied().unwrap_or_default();
        Ok(Waited {
            longest: at(waits.len().saturating_sub(1)),
            mostly: at(waits.len() * 999 / 1000),
            work,
        })
    })
}

fn one_round(program: &Program) -> io::Result<[Waited; PHASES.len()]> {
    let server = program.start(&["-m", "1024"])?;
    let mut clients = connect(&server, LOADERS)?;
    let mut other = Client::connect(&server.address)?;
    other.set("fixed", 0, &[b'v'; 32])?;
    other.ask("version")?;
    let mut load = || {
        let share = COUNT / LOADERS;
        together(&mut clients, |number, client| {
            store(client, share * number..share * (number + 1), 32)
        })
    };
    Ok([
        watch(&server.address, || {
            thread::sleep(Duration::from_secs(2));
            Ok(())
        })?,
        watch(&server.address, &mut load)?,
        watch(&server.address, &mut load)?,
        watch(&server.address, || other.ask("flush_all").map(drop))?,
    ])
}

fn stalls(programs: &[Program], rounds: usize) -> io::Result<()> {
    let mut seen = vec![Vec::new(); programs.len()];
    for _ in 0..rounds {
        for (program, seen) in programs.iter().zip(&mut seen) {
            seen.push(one_round(program)?);
        }
    }
    head(&format!("ms, of {rounds} rounds"), programs)?;
    let columns = "least  median   99.9%  work".into();
    row(
        "longest answer, and most others",
        &vec![columns; programs.len()],
    )?;
    for (phase, name) in PHASES.iter().enumerate() {
        let cell = |rounds: &Vec<[Waited; PHASES.len()]>| {
            let spread = |what: fn(&Waited) -> Duration| {
                let phases = rounds.iter().filter_map(|round| round.get(phase));
                let mut times: Vec<_> = phases.map(what).collect();
                times.sort();
                let at = |index: usize| {
                    times
                        .get(index)
                        .map_or(0.0, |time| time.as_secs_f64() * 1e3)
                };
                (at(0), at(times.len() / 2))
            };
            let (least, median) = spread(|waited| waited.longest);
            let (mostly, work) = (
                spread(|waited| waited.mostly).1,
                spread(|waited| waited.work).1,
            );
            format!("{least:.1} {median:>7.1} {mostly:>7.2} {work:>5.0}")
        };
        row(name, &seen.iter().map(cell).collect::<Vec<_>>())?;
    }
    Ok(())
}

// ---- The command line ----

/// Measures some side of it, on all servers, and prints a table.
type Part = fn(&[Program], usize) -> io::Result<()>;

const PARTS: [(&str, Part); 3] = [("items", items), ("churn", churn), ("stalls", stalls)];

fn main() -> ExitCode {
    run(|arguments| {
        let usage = || io::Error::other("options: items, churn, stalls; --rounds N");
        let (mut parts, mut rounds) = (Vec::new(), 5);
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument == "--rounds" {
                let number = arguments.next().and_then(|number| number.parse().ok());
                rounds = number.filter(|&number| number > 0).ok_or_else(usage)?;
            } else {
                let known = PARTS.iter().find(|(name, _)| name == argument);
                parts.push(known.ok_or_else(usage)?);
            }
        }
        if parts.is_empty() {
            parts.extend(&PARTS);
        }
        let programs = programs()?;
        parts
            .iter()
            .try_for_each(|(_, part)| part(&programs, rounds))
    })
}
