//! The load that the benchmarks of speed share: for a given time, clients send prepared requests and compare every byte
//! of the answers.
//!
//! It runs in a process of its own (a benchmark starts itself again with `--load`), so that its cost is the same for
//! every server. Servers are measured in turn, round after round, and only the ratios of each round count: on a busy
//! machine the rates alone mean nothing.

// Only tables and buffers whose size this file has chosen are indexed here.
#![allow(clippy::indexing_slicing)]

use std::env;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::common::{self, Server, number, print};

// ---- What is sent: the workloads ----

/// A request and its only right answer. `{key}`, `{data}` and `{bytes}` are placeholders.
#[derive(Clone, Copy)]
pub struct Exchange {
    pub request: &'static str,
    pub answer: &'static str,
}

const GET: Exchange = Exchange {
    request: "get {key}\r\n",
    answer: "VALUE {key} 0 {bytes}\r\n{data}\r\nEND\r\n",
};
pub const SET: Exchange = Exchange {
    request: "set {key} 0 0 {bytes}\r\n{data}\r\n",
    answer: "STORED\r\n",
};
const MG: Exchange = Exchange {
    request: "mg {key} v\r\n",
    answer: "VA {bytes}\r\n{data}\r\n",
};
/// The same as `SET`, in the protocol of redis.
pub const REDIS_SET: Exchange = Exchange {
    request: "*3\r\n$3\r\nSET\r\n$8\r\n{key}\r\n$32\r\n{data}\r\n",
    answer: "+OK\r\n",
};

/// The requests that the clients repeat. All keys are stored before, so every `get` is a hit. Within one workload,
/// requests with the same first word have the same answer, because the server with the fixed reply looks only at that
/// word.
pub struct Workload {
    pub name: &'static str,
    /// The request that stores a key.
    store: Exchange,
    pub exchanges: &'static [Exchange],
}

const MIX: [Exchange; 10] = [GET, GET, GET, GET, GET, GET, GET, GET, GET, SET];

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "get",
        store: SET,
        exchanges: &[GET],
    },
    Workload {
        name: "set",
        store: SET,
        exchanges: &[SET],
    },
    Workload {
        name: "mix",
        store: SET,
        exchanges: &MIX,
    },
    Workload {
        name: "mg",
        store: SET,
        exchanges: &[MG],
    },
    Workload {
        name: "redis-set",
        store: REDIS_SET,
        exchanges: &[REDIS_SET],
    },
];

/// So few keys stay in the processor's cache: this measures how requests are served, not the memory.
const KEYS: usize = 1000;

/// How long the values are, in bytes.
pub const BYTES: usize = 32;

pub fn workload(name: &str) -> io::Result<&'static Workload> {
    let known = WORKLOADS.iter().find(|known| known.name == name);
    known.ok_or_else(|| io::Error::other(format!("no workload is called {name:?}")))
}

/// Replaces the placeholders. All keys have the same length, and so have all answers to one kind of request.
pub fn fill(template: &str, key: usize, bytes: usize) -> Vec<u8> {
    let data = "0123456789abcdef".repeat(bytes.div_ceil(16));
    template
        .replace("{key}", &format!("k{key:07}"))
        .replace("{bytes}", &bytes.to_string())
        .replace("{data}", data.split_at(bytes).0)
        .into_bytes()
}

// ---- How many at a time: the rows ----

/// The number of clients, and the number of requests that each of them sends at a time.
#[derive(Clone, Copy)]
pub struct Row {
    pub clients: usize,
    pub pipeline: usize,
}

/// A row, as in `50x16`. A pipeline of more than 1000 requests might not fit into the sockets' buffers: then client and
/// server could each wait for the other to read.
pub fn row(text: &str) -> io::Result<Row> {
    let (clients, pipeline) = text
        .split_once('x')
        .ok_or_else(|| io::Error::other(format!("{text:?} is not a row as in 50x16")))?;
    Ok(Row {
        clients: number(clients, 1, 1000)?,
        pipeline: number(pipeline, 1, 1000)?,
    })
}

/// Parses a list with commas.
pub fn list<T>(text: &str, parse_one: fn(&str) -> io::Result<T>) -> io::Result<Vec<T>> {
    text.split(',').map(parse_one).collect()
}

// ---- The clients ----

const SMALL_STACK: usize = 128 * 1024;

/// The requests of one pipeline, which are sent in one write, and all the bytes of their answers.
pub struct Batch {
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Batch {
    /// `turns` chooses the exchanges and the keys: after the last one the first follows again. With `one_key` every
    /// answer contains the first key, as the fixed reply does.
    pub fn new(exchanges: &[Exchange], turns: Range<usize>, keys: usize, one_key: bool) -> Batch {
        let (mut request, mut answer) = (Vec::new(), Vec::new());
        for turn in turns {
            let (exchange, key) = (exchanges[turn % exchanges.len()], turn % keys);
            request.extend(fill(exchange.request, key, BYTES));
            let key = if one_key { 0 } else { key };
            answer.extend(fill(exchange.answer, key, BYTES));
        }
        Batch { request, answer }
    }
}

/// All requests that a client will send. They are prepared, so that the load costs little more than its system calls.
fn batches(exchanges: &[Exchange], pipeline: usize, one_key: bool) -> Vec<Batch> {
    let prepare = |number: usize| {
        let turns = number * pipeline..(number + 1) * pipeline;
        Batch::new(exchanges, turns, KEYS, one_key)
    };
    (0..KEYS.div_ceil(pipeline)).map(prepare).collect()
}

/// A client that knows which answers it must get.
pub struct Caller {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Caller {
    pub fn connect(address: &str) -> io::Result<Caller> {
        Ok(Caller {
            stream: common::connect(address)?,
            buffer: Vec::new(),
        })
    }

    /// Sends a batch and reads until all of it is answered. Bytes are compared as soon as they arrive. That costs
    /// little, and otherwise it would wait in vain after an error line, which is shorter than the answer.
    pub fn exchange(&mut self, batch: &Batch) -> io::Result<()> {
        self.stream.write_all(&batch.request)?;
        self.buffer.resize(batch.answer.len(), 0);
        let mut have = 0;
        while have < batch.answer.len() {
            let count = self.stream.read(&mut self.buffer[have..])?;
            let (got, right) = (
                &self.buffer[have..have + count],
                &batch.answer[have..have + count],
            );
            if count == 0 {
                return Err(io::Error::other("the server closed the connection"));
            }
            if got != right {
                let (right, got) = (excerpt(right), excerpt(got));
                return Err(io::Error::other(format!(
                    "expected {right:?} but got {got:?}"
                )));
            }
            have += count;
        }
        Ok(())
    }
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned()
}

/// What a load has measured.
struct Measured {
    /// Requests a second.
    rate: f64,
    /// The time that 99 of 100 pipelines took at most, in milliseconds.
    p99: f64,
    /// How many requests the server has answered, those before the measurement included.
    answered: usize,
}

fn load(
    address: &str,
    workload: &Workload,
    row: Row,
    seconds: f64,
    one_key: bool,
) -> io::Result<Measured> {
    let mut first = Caller::connect(address)?;
    for batch in batches(&[workload.store], 50, one_key) {
        first.exchange(&batch)?;
    }
    drop(first);

    // Before any thread starts, all clients connect, and each is served once. So accepting is not measured, and a
    // server that cannot serve this number of clients fails here.
    let batches = &batches(workload.exchanges, row.pipeline, one_key);
    let warm_up = |number: usize| {
        let mut client = Caller::connect(address)?;
        client
            .exchange(&batches[number % batches.len()])
            .map(|()| client)
    };
    let clients: Vec<Caller> = (0..row.clients).map(warm_up).collect::<Result<_, _>>()?;

    let (barrier, is_over) = (&Barrier::new(row.clients + 1), &AtomicBool::new(false));
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, mut client) in clients.into_iter().enumerate() {
            let run = move || {
                // Clients begin at different keys. Otherwise all would wait for the same locks.
                let own_order = batches
                    .iter()
                    .cycle()
                    .skip(number * batches.len() / row.clients);
                let mut times = Vec::new();
                barrier.wait();
                for batch in own_order {
                    let start = Instant::now();
                    client.exchange(batch)?;
                    // A batch that was not answered in time does not count.
                    if is_over.load(Relaxed) {
                        break;
                    }
                    times.push(start.elapsed().as_secs_f32());
                }
                Ok::<Vec<f32>, io::Error>(times)
            };
            let thread = thread::Builder::new().stack_size(SMALL_STACK);
            match thread.spawn_scoped(scope, run) {
                Ok(thread) => threads.push(thread),
                // This does not return: the scope would wait for the threads that already wait at the barrier.
                Err(error) => {
                    _ = writeln!(io::stderr(), "could not start thread {number}: {error}");
                    std::process::exit(1);
                }
            }
        }
        barrier.wait();
        let start = Instant::now();
        thread::sleep(Duration::from_secs_f64(seconds));
        is_over.store(true, Relaxed);
        let elapsed = start.elapsed();

        let mut times = Vec::new();
        for thread in threads {
            let outcome = thread.join();
            times.extend(outcome.map_err(|_| io::Error::other("a client thread panicked"))??);
        }
        if times.is_empty() {
            return Err(io::Error::other("nothing was answered in time"));
        }
        times.sort_by(f32::total_cmp);
        let answered = times.len() * row.pipeline;
        Ok(Measured {
            rate: answered as f64 / elapsed.as_secs_f64(),
            p99: f64::from(times[times.len() * 99 / 100]) * 1e3,
            // Each client has warmed up with one batch, and ended with one that was late.
            answered: answered + KEYS + 2 * row.clients * row.pipeline,
        })
    })
}

// ---- The process ----

/// Runs the load if these arguments begin with `--load`. Returns whether they do.
pub fn is_asked_for(arguments: &[String]) -> io::Result<bool> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ["--load", address, name, size, seconds, keys] = arguments[..] else {
        return Ok(false);
    };
    let seconds = number(seconds, 0.01, 3600.0)?;
    let measured = load(
        address,
        workload(name)?,
        row(size)?,
        seconds,
        keys == "one-key",
    )?;
    let Measured {
        rate,
        p99,
        answered,
    } = measured;
    print(format_args!("{rate} {p99} {answered}")).map(|()| true)
}

/// What was measured at one server under one load.
#[derive(Clone, Copy)]
#[allow(dead_code)] // `log` shows only the rates.
pub struct Figures {
    /// Requests a second.
    pub rate: f64,
    /// The time that 99 of 100 pipelines took at most, in milliseconds.
    pub p99: f64,
    /// How long the processors worked for the server, in microseconds a request. Not a number if the system does not
    /// say.
    pub cpu: f64,
}

/// Microseconds a request, from seconds before and after this many requests.
pub fn cpu_per_request(before: Option<f64>, after: Option<f64>, requests: f64) -> f64 {
    let seconds = before.zip(after).map(|(before, after)| after - before);
    seconds.map_or(f64::NAN, |seconds| seconds * 1e6 / requests)
}

/// One measurement, in a process of its own.
fn measure(server: &Server, workload: &str, row: Row, seconds: f64) -> io::Result<Figures> {
    let row = format!("{}x{}", row.clients, row.pipeline);
    let keys = if server.name == "fixed" {
        "one-key"
    } else {
        "own-keys"
    };
    let before = server.cpu_seconds();
    let output = Command::new(env::current_exe()?)
        .args(["--load", &server.address, workload, &row])
        .args([&seconds.to_string(), keys])
        .output()?;
    let after = server.cpu_seconds();
    let numbers = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = numbers
        .split_whitespace()
        .flat_map(|number| number.parse().ok())
        .collect();
    let [rate, p99, answered] = numbers[..] else {
        let (name, error) = (server.name, String::from_utf8_lossy(&output.stderr));
        let error = format!("{name}, {workload} {row}: {}", error.trim());
        return Err(io::Error::other(error));
    };
    let cpu = cpu_per_request(before, after, answered);
    Ok(Figures { rate, p99, cpu })
}

/// Measures servers, each with its workload, in turn: the figures of each, round by round.
pub fn rounds(
    servers: &[(&Server, &str)],
    row: Row,
    rounds: usize,
    seconds: f64,
) -> io::Result<Vec<Vec<Figures>>> {
    in_turn(servers.len(), rounds, |place| {
        let (server, workload) = servers[place];
        measure(server, workload, row, seconds)
    })
}

/// Measures each of some servers in turn, and does so this number of rounds.
pub fn in_turn(
    servers: usize,
    rounds: usize,
    mut measure: impl FnMut(usize) -> io::Result<Figures>,
) -> io::Result<Vec<Vec<Figures>>> {
    let mut figures = vec![Vec::new(); servers];
    for round in 0..rounds {
        for turn in 0..servers {
            // Every second round is in reverse order, so that no server is always measured first.
            let place = if round % 2 == 0 {
                turn
            } else {
                servers - 1 - turn
            };
            figures[place].push(measure(place)?);
        }
    }
    Ok(figures)
}

/// The rates of the rounds of each server.
pub fn rates(figures: &[Vec<Figures>]) -> Vec<Vec<f64>> {
    let rates = |rounds: &Vec<Figures>| rounds.iter().map(|figures| figures.rate).collect();
    figures.iter().map(rates).collect()
}
