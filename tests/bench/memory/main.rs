//! How much memory rustmemc and memcached use, and how long their clients wait. Each part starts new servers.
//!
//!     cargo bench --bench memory
//!     cargo bench --bench memory -- items stalls --rounds 9
//!
//! Each part is a file, and its first lines describe what it measures. The benchmark fails if a figure of rustmemc is
//! out of its bound. The figures of memcached are for comparison.

use std::io;
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread::{self, ScopedJoinHandle};

#[path = "../common/mod.rs"]
mod common;
use common::{Cell, Client, Key, Program, Report, Server, number, programs, run, wrong};

mod accept;
mod capacity;
mod churn;
mod growth;
mod idle;
mod items;
mod overwriting;
mod readers;
mod stalls;
mod start;

// ---- What the parts share ----

const MB: f64 = 1024.0 * 1024.0;

/// The `-m` of most parts, in megabytes.
const LIMIT: usize = 64;

/// How many megabytes of memory may be resident with this `-m`.
const RESIDENT: f64 = 1.3 * LIMIT as f64 + 20.0;

fn start(program: &Program, megabytes: usize) -> io::Result<Server> {
    program.start(&["-m", &megabytes.to_string()])
}

/// Connects this number of clients, and each is served once. So the memory of a connection is not counted as memory of
/// items.
fn connect(server: &Server, clients: usize) -> io::Result<Vec<Client>> {
    let connect_one = |_| {
        let mut client = Client::connect(&server.address)?;
        client.ask("version")?;
        Ok(client)
    };
    (0..clients).map(connect_one).collect()
}

/// Lets all clients work at the same time, each in a thread of its own.
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

/// Stores this number of keys: each client stores its share. When this returns, all are stored.
fn store(clients: &mut [Client], count: usize, exptime: u32, bytes: usize) -> io::Result<()> {
    let (share, value) = (count / clients.len(), vec![b'v'; bytes]);
    together(clients, |number, client| {
        for key in share * number..share * (number + 1) {
            client.set(key as Key, exptime, &value)?;
        }
        client.ask("version").map(drop)
    })
}

/// How much memory of a server is resident.
fn resident(server: &Server) -> io::Result<Cell> {
    Ok(Cell::number(server.resident()? as f64 / MB, 1))
}

/// The most memory of a server that was ever resident.
fn peak(server: &Server) -> io::Result<Cell> {
    Ok(Cell::number(server.peak()? as f64 / MB, 1))
}

// ---- The command line ----

/// Measures all programs and prints a table. A part for which one round is enough ignores the number of rounds.
type Part = fn(&[Program], usize, &mut Report) -> io::Result<()>;

const PARTS: [(&str, Part); 10] = [
    ("start", start::start),
    ("items", items::items),
    ("capacity", capacity::capacity),
    ("churn", churn::churn),
    ("growth", growth::growth),
    ("overwriting", overwriting::overwriting),
    ("readers", readers::readers),
    ("idle", idle::idle),
    ("accept", accept::accept),
    ("stalls", stalls::stalls),
];

const USAGE: &str = "\
options: [PART...] [--rounds N]
  start        from the start of an idle server to its first answer, and its memory
  items        memory of an item
  capacity     how many small items fit into -m 64
  churn        memory with -m 64 while values of all sizes are stored, are flushed and expire
  growth       memory with -m 64 while values grow and some of each size stay alive
  overwriting  memory while 24 MB of items are overwritten
  readers      memory while 800 clients do not read their answers
  idle         memory of 900 clients that do nothing
  accept       how long it takes to serve 900 new clients; --rounds: 3 by default
  stalls       how long a get waits while 3 million keys are stored and removed; --rounds: 3 by default
Without a part it measures all of them, which takes some minutes.";

fn main() -> ExitCode {
    run(USAGE, |arguments, report| {
        let (mut parts, mut rounds) = (Vec::new(), 3);
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument == "--rounds" {
                let value = arguments.next();
                let value = value.ok_or_else(|| wrong(argument, "needs a value"))?;
                rounds = number(value, 1, 1000)?;
            } else {
                let known = PARTS.iter().find(|(name, _)| name == argument);
                parts.push(known.ok_or_else(|| wrong(argument, "is no part or option"))?);
            }
        }
        if parts.is_empty() {
            parts.extend(&PARTS);
        }
        let programs = programs()?;
        parts
            .iter()
            .try_for_each(|(_, part)| part(&programs, rounds, report))
    })
}
