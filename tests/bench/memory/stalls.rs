//! `stalls`: how long one client waits for the answer to a small `get`, while 3 million keys are stored, expire, are
//! flushed, are evicted, and are rewritten in the log (which only rustmemc has).
//!
//! On a busy machine the scheduler causes most of the longest waits. So there are two controls: an idle server, and the
//! same keys stored once more, so that nothing grows. And there are several rounds in which the servers take turns: a
//! wait that a server itself causes occurs in each round.
//!
//! The bounds are memcached's longest waits of the same run, as medians of the rounds. One bound is for `flush_all`,
//! where memcached makes others wait for hundreds of milliseconds. The other is the longest wait of all other phases:
//! no `get` may wait longer in any of these phases, and no `set` after `cache_memlimit`. A single phase has no bound,
//! because too often the scheduler causes the longest wait of one phase.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::common::{Bound, Cell, Client, Key, Program, Report, Server, rustmemc, spread};
use super::{connect, join, start, store};

const COUNT: usize = 3_000_000;
const LOADERS: usize = 4;
/// A key that the other clients do not use.
const BYSTANDER: Key = 999_999_999;

/// A phase with a bound of its own, because memcached is slow here.
const FLUSH: &str = "flush_all of 3 million keys, 2 s";
/// A phase that memcached does not have.
const REWRITE: &str = "stored twice, the log is rewritten";

/// How long one client waited while others worked.
#[derive(Clone, Copy)]
struct Waited {
    longest: Duration,
    /// 99.9 % of the answers took no longer than this.
    percentile: Duration,
    /// How long the work of the others took.
    work: Duration,
}

/// Does the work. Meanwhile a client sends a command about every 200 µs.
fn watch(
    address: &str,
    ask: fn(&mut Client) -> io::Result<()>,
    work: impl FnOnce() -> io::Result<()>,
) -> io::Result<Waited> {
    let mut client = Client::connect(address)?;
    let is_over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            let mut waits = Vec::new();
            while !is_over.load(Relaxed) {
                let start = Instant::now();
                ask(&mut client)?;
                waits.push(start.elapsed());
                thread::sleep(Duration::from_micros(200));
            }
            Ok(waits)
        });
        let start = Instant::now();
        let outcome = work();
        let work = start.elapsed();
        // What the server still does after the work (move a table, free memory) is watched too.
        thread::sleep(Duration::from_millis(300));
        is_over.store(true, Relaxed);
        let mut waits = join(watcher)?;
        outcome?;
        waits.sort();
        let at = |index: usize| waits.get(index).copied().unwrap_or_default();
        Ok(Waited {
            longest: at(waits.len().saturating_sub(1)),
            percentile: at(waits.len() * 999 / 1000),
            work,
        })
    })
}

fn get(client: &mut Client) -> io::Result<()> {
    client.get(&[BYSTANDER]).map(drop)
}

fn set(client: &mut Client) -> io::Result<()> {
    client.set(BYSTANDER, 0, &[b'v'; 32])?;
    client.ask("version").map(drop)
}

/// The result of one server: the waits of a `get` in each phase, and of a `set` after `cache_memlimit`.
struct Round {
    gets: Vec<(&'static str, Waited)>,
    set: Waited,
}

impl Round {
    fn get(&self, phase: &str) -> Option<Waited> {
        let known = self.gets.iter().find(|(name, _)| *name == phase);
        known.map(|(_, waited)| *waited)
    }

    /// The longest of all waits, except those of the two phases that cannot be compared.
    fn longest(&self) -> Option<Duration> {
        let phases = self.gets.iter();
        let compared = phases.filter(|(name, _)| ![FLUSH, REWRITE].contains(name));
        compared.map(|(_, waited)| waited.longest).max()
    }
}

/// A server, and the clients that load it.
struct Loaded {
    server: Server,
    clients: Vec<Client>,
    other: Client,
}

impl Loaded {
    fn new(server: Server) -> io::Result<Self> {
        let clients = connect(&server, LOADERS)?;
        let mut other = Client::connect(&server.address)?;
        set(&mut other)?;
        Ok(Loaded {
            server,
            clients,
            other,
        })
    }

    fn load(&mut self, exptime: u32) -> io::Result<()> {
        store(&mut self.clients, COUNT, exptime, 32)
    }

    fn watch(&mut self, work: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<Waited> {
        let address = self.server.address.clone();
        watch(&address, get, || work(self))
    }
}

fn pause(seconds: u64) -> io::Result<()> {
    thread::sleep(Duration::from_secs(seconds));
    Ok(())
}

fn one_round(program: &Program, with_log: Option<&Program>) -> io::Result<Round> {
    let mut loaded = Loaded::new(start(program, 1024)?)?;
    let idle = loaded.watch(|_| pause(2))?;
    let growing = loaded.watch(|loaded| loaded.load(0))?;
    let again = loaded.watch(|loaded| loaded.load(0))?;
    let flushed = loaded.watch(|loaded| {
        loaded.other.ask("flush_all")?;
        pause(2)
    })?;
    let expired = loaded.watch(|loaded| {
        // All expire in the same second, after all are stored.
        let seconds = growing.work.as_secs() + 3;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_err(io::Error::other)?.as_secs();
        let start = Instant::now();
        loaded.load((now + seconds) as u32)?;
        pause((seconds + 3).saturating_sub(start.elapsed().as_secs()))
    })?;
    loaded.load(0)?;
    let mut set_waited = None;
    let limited = loaded.watch(|loaded| {
        loaded.other.ask("cache_memlimit 64")?;
        let address = loaded.server.address.clone();
        let work = || store(&mut loaded.clients, COUNT / 10, 0, 32);
        set_waited = Some(watch(&address, set, work)?);
        Ok(())
    })?;
    drop(loaded);
    let mut small = Loaded::new(start(program, 128)?)?;
    let evicted = small.watch(|small| small.load(0))?;
    drop(small);
    let mut gets = vec![
        ("nothing else happens, 2 s", idle),
        ("3 million keys go in", growing),
        ("the same keys once more", again),
        ("they go in again, and expire", expired),
        ("cache_memlimit 64, and 300,000 sets", limited),
        ("3 million keys go in, -m 128", evicted),
        (FLUSH, flushed),
    ];
    if let Some(program) = with_log {
        let arguments = ["-m", "1024", "--aof-rewrite-size", "1m"];
        let mut logged = Loaded::new(program.start(&arguments)?)?;
        let rewritten = logged.watch(|logged| {
            logged.load(0)?;
            logged.load(0)
        })?;
        gets.push((REWRITE, rewritten));
        if logged.other.stat("aof_rewrites")? == 0 {
            return Err(io::Error::other("the log was not rewritten"));
        }
    }
    let set = set_waited.ok_or_else(|| io::Error::other("no set was watched"))?;
    Ok(Round { gets, set })
}

pub fn stalls(programs: &[Program], rounds: usize, report: &mut Report) -> io::Result<()> {
    let logging = rustmemc("--aof rustmemc.aof")?;
    let mut seen: Vec<Vec<Round>> = programs.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        let mut turns: Vec<_> = programs.iter().zip(&mut seen).collect();
        // Every second round is in reverse order, so that no server is always measured first.
        if round % 2 == 1 {
            turns.reverse();
        }
        for (program, seen) in turns {
            let with_log = (program.name == logging.name).then_some(&logging);
            seen.push(one_round(program, with_log)?);
        }
    }
    let title = format!("stalls, rounds: {rounds}");
    let columns = "ms: least median 99.9% work";
    report.table(&title, programs, columns, "ms")?;
    let row = |phase: &dyn Fn(&Round) -> Option<Waited>| {
        let cell = |rounds: &Vec<Round>| cell(&rounds.iter().filter_map(phase).collect::<Vec<_>>());
        seen.iter().map(cell).collect::<Vec<_>>()
    };
    // rustmemc has all phases.
    let phases = seen.iter().flatten().next().map(|round| &round.gets);
    for &(name, _) in phases.into_iter().flatten() {
        let cells = row(&|round| round.get(name));
        let bound = as_memcached(&cells).filter(|_| name == FLUSH);
        report.row(name, &cells, bound)?;
    }
    let longest: Vec<_> = seen.iter().map(|rounds| longest(rounds)).collect();
    let bound = as_memcached(&longest);
    report.row("the longest get of the first six", &longest, bound)?;
    let sets = row(&|round| Some(round.set));
    report.row("a set after cache_memlimit 64", &sets, bound)
}

/// memcached's figure in a row, if it was measured.
fn as_memcached(cells: &[Cell]) -> Option<Bound> {
    cells.get(1).map(|cell| Bound::AtMost(cell.figure))
}

/// One phase: the longest waits, how long 99.9 % of the waits took at most, and how long the work took.
fn cell(rounds: &[Waited]) -> Cell {
    if rounds.is_empty() {
        return Cell::new("-".into(), f64::NAN);
    }
    let of = |what: fn(&Waited) -> Duration| spread(rounds.iter().map(what).map(ms).collect());
    let [least, longest, _] = of(|waited| waited.longest);
    let [_, percentile, _] = of(|waited| waited.percentile);
    let [_, work, _] = of(|waited| waited.work);
    let text = format!("{least:.1} {longest:>6.1} {percentile:>6.2} {work:>5.0}");
    Cell::new(text, longest)
}

fn longest(rounds: &[Round]) -> Cell {
    let times = rounds.iter().filter_map(Round::longest);
    let [least, median, _] = spread(times.map(ms).collect());
    Cell::new(format!("{least:.1} {median:>6.1} {:13}", ""), median)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
