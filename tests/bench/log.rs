//! What the append-only file costs: rustmemc and redis, both with a file that is synced in the same way.
//!
//!     cargo bench --bench log
//!     cargo bench --bench log -- --rows 50x16 --rounds 9 --seconds 0.3
//!
//! - How many sets a second are acknowledged. The file is synced every second or always, and clients send one or
//!   several sets at a time. The servers take turns, and only the ratios count, as in `throughput.rs`.
//! - How many bytes of the file a set takes (a key of 8 bytes, 32 bytes of data).
//! - How long a start takes that replays a million sets, up to the first answer.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

mod common;
mod load;
use common::{Program, Server, number, print, ratio, run, spread, wrong};
use load::{Batch, Caller, Exchange, REDIS_SET, Row, SET, list};

/// A program, and how to use it here.
struct Contender {
    program: Program,
    /// The workload, and its only exchange.
    workload: &'static str,
    set: Exchange,
    /// Its arguments.
    arguments: &'static [&'static str],
    /// The flag whose value is `everysec` or `always`.
    fsync: &'static str,
    /// The flag and value with which it does not rewrite the file.
    no_rewrite: [&'static str; 2],
}

/// rustmemc, and redis if it exists.
fn contenders() -> io::Result<Vec<Contender>> {
    let ours = Contender {
        program: common::rustmemc("--aof rustmemc.aof")?,
        workload: "set",
        set: SET,
        arguments: &["-m", "1024"],
        fsync: "--fsync",
        no_rewrite: ["--aof-rewrite-size", "100000m"],
    };
    let redis = common::redis()?.map(|program| Contender {
        program,
        workload: "redis-set",
        set: REDIS_SET,
        arguments: &["--save", "", "--appendonly", "yes"],
        fsync: "--appendfsync",
        no_rewrite: ["--auto-aof-rewrite-percentage", "0"],
    });
    Ok([Some(ours), redis].into_iter().flatten().collect())
}

impl Contender {
    fn arguments<'a>(&self, fsync: &'a str) -> Vec<&'a str> {
        [self.arguments, &[self.fsync, fsync]].concat()
    }
}

// ---- Sets a second ----

fn rates(contenders: &[Contender], fsync: &str, options: &Options) -> io::Result<()> {
    let start = |contender: &Contender| contender.program.start(&contender.arguments(fsync));
    let servers: Vec<Server> = contenders.iter().map(start).collect::<Result<_, _>>()?;
    let measured: Vec<_> = servers
        .iter()
        .zip(contenders)
        .map(|(server, contender)| (server, contender.workload))
        .collect();
    for &row in &options.rows {
        let figures = load::rounds(&measured, row, options.rounds, options.seconds)?;
        let rates = load::rates(&figures);
        let Row { clients, pipeline } = row;
        let mut text = format!("{fsync:<8} {clients:>7} {pipeline:>8}");
        for rates in &rates {
            let [_, median, _] = spread(rates.clone());
            text += &format!(" {median:>15.0}");
        }
        if let [ours, others] = &rates[..] {
            text += &format!(" {:>19}", ratio(ours, others));
        }
        print(text)?;
    }
    Ok(())
}

// ---- The file and its replay ----

const RECORDS: usize = 1_000_000;
const AT_A_TIME: usize = 1000;

/// The size of a file of this number of records, and how long each start with it takes.
struct Replayed {
    bytes: f64,
    seconds: Vec<f64>,
}

fn replay(contender: &Contender, rounds: usize) -> io::Result<Replayed> {
    let Contender { program, set, .. } = contender;
    let arguments = [
        contender.arguments("everysec"),
        contender.no_rewrite.to_vec(),
    ]
    .concat();
    let server = program.start(&arguments)?;
    let mut client = Caller::connect(&server.address)?;
    for first in (0..RECORDS).step_by(AT_A_TIME) {
        let turns = first..first + AT_A_TIME;
        client.exchange(&Batch::new(&[*set], turns, RECORDS, false))?;
    }
    let folder = Arc::clone(&server.folder);
    drop(server);
    let bytes = size(folder.path())? as f64;
    let one = Batch::new(&[*set], 0..1, RECORDS, false);
    let mut seconds = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let server = program.start_in(Arc::clone(&folder), &arguments)?;
        // Some servers accept clients before they have replayed their file, and answer with an error.
        while Caller::connect(&server.address)?.exchange(&one).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(Replayed { bytes, seconds })
}

/// The size of all files in a folder.
fn size(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += match metadata.is_dir() {
            true => size(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(sum)
}

fn files(contenders: &[Contender], rounds: usize) -> io::Result<()> {
    print(format_args!(
        "\n{RECORDS} records  bytes a set  seconds to start   records/s    MB/s"
    ))?;
    let mut all = Vec::new();
    for contender in contenders {
        let replayed = replay(contender, rounds)?;
        let [_, seconds, _] = spread(replayed.seconds.clone());
        let (records, bytes) = (RECORDS as f64, replayed.bytes);
        print(format_args!(
            "{:<15} {:>12.1} {seconds:>17.2} {:>11.0} {:>7.0}",
            contender.program.name,
            bytes / records,
            records / seconds,
            bytes / 1e6 / seconds
        ))?;
        all.push(replayed.seconds);
    }
    if let [ours, others] = &all[..] {
        // Half the time is twice the speed, so the ratio is turned round.
        print(format_args!("speed: {}", ratio(others, ours)))?;
    }
    Ok(())
}

// ---- The command line ----

const USAGE: &str = "options: --rounds N, --seconds S, --rows CLIENTSxPIPELINE,...";
const ROWS: &str = "1x1,50x1,1x16,50x16";

struct Options {
    rounds: usize,
    seconds: f64,
    rows: Vec<Row>,
}

fn parse_options(arguments: &[String]) -> io::Result<Options> {
    let mut options = Options {
        rounds: 7,
        seconds: 0.7,
        rows: list(ROWS, load::row)?,
    };
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| wrong(name, "needs a value"));
        match name.as_str() {
            "--rounds" => options.rounds = number(value()?, 1, 10_000)?,
            "--seconds" => options.seconds = number(value()?, 0.01, 3600.0)?,
            "--rows" => options.rows = list(value()?, load::row)?,
            _ => return Err(wrong(name, "is not an option")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    run(USAGE, |arguments, _report| {
        if load::is_asked_for(arguments)? {
            return Ok(());
        }
        let options = parse_options(arguments)?;
        let contenders = contenders()?;
        let (rounds, seconds) = (options.rounds, options.seconds);
        print(format_args!(
            "medians of {rounds} rounds of {seconds} s; ratios: median (min–max)\n"
        ))?;
        let mut head = format!("{:<8} {:>7} {:>8}", "fsync", "clients", "pipeline");
        for contender in &contenders {
            head += &format!(" {:>15}", format!("{} sets/s", contender.program.name));
        }
        if let [ours, other] = &contenders[..] {
            let names = format!("{}/{}", ours.program.name, other.program.name);
            head += &format!(" {names:>19}");
        }
        print(head)?;
        for fsync in ["everysec", "always"] {
            rates(&contenders, fsync, &options)?;
        }
        files(&contenders, rounds)
    })
}
