//! How many requests a second: rustmemc and two other servers, on the same machine, under the same load.
//!
//!     cargo bench --bench throughput
//!     cargo bench --bench throughput -- --only get,mix --rows 1x1,50x16 --rounds 9 --seconds 0.5
//!
//! Requests a second depend more on the machine than on the server, so only *ratios* count. The servers are measured in
//! turn, round after round. Each round has one ratio, and the table shows the median, the smallest and the largest. The
//! servers:
//!
//! - `rustmemc`, without flags: with its append-only file.
//! - `fixed`: a server in this file. It has a blocking thread for each connection, and answers every line with a fixed
//!   reply. So it shows what our way of serving costs without a store. It runs in a process of its own (this program
//!   starts itself again with `--fixed-reply-server`).
//! - `memcached`: the real one, if it exists.
//!
//! Beside our own load, memtier_benchmark drives the servers if it is installed (`memtier.rs`). For each server there is
//! a line: requests a second; rustmemc's ratio to this server; how many microseconds the processors worked for a
//! request in the server's process; and the time that 99 of 100 pipelines took at most.

// Only tables and buffers whose size this file has chosen are indexed here.
#![allow(clippy::indexing_slicing)]

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

mod common;
mod load;
mod memtier;
use common::{Program, Server, number, ourselves, print, ratio, run, spread, wrong};
use load::{BYTES, Exchange, Figures, Row, SET, Workload, fill, list, rates, workload};

// ---- The fixed reply: `--fixed-reply-server WORKLOAD BYTES` ----

/// What the fixed server knows about a request: its first word, the length of its data block, and its answer.
struct Rule {
    word: Vec<u8>,
    block: usize,
    reply: Vec<u8>,
}

impl Rule {
    fn new(exchange: &Exchange, bytes: usize) -> Rule {
        let request = fill(exchange.request, 0, bytes);
        let line = request
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(request.len(), |end| end + 1);
        let reply = fill(exchange.answer, 0, bytes);
        Rule {
            word: first_word(&request).to_vec(),
            block: request.len() - line,
            reply,
        }
    }
}

fn first_word(line: &[u8]) -> &[u8] {
    line.split(u8::is_ascii_whitespace)
        .next()
        .unwrap_or_default()
}

fn serve_fixed_replies(workload: &'static Workload, bytes: usize) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    print(format_args!("listening on {}", listener.local_addr()?))?;
    for stream in listener.incoming().flatten() {
        // An error ends only this client's connection, and the load prints it.
        let serve = move || _ = answer_lines(&stream, workload, bytes);
        thread::Builder::new().stack_size(128 * 1024).spawn(serve)?;
    }
    Ok(())
}

/// The loop of a connection in rustmemc, with the same system calls, but without a store.
fn answer_lines(stream: &TcpStream, workload: &Workload, bytes: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let rules: Vec<Rule> = workload
        .exchanges
        .iter()
        .chain([&SET])
        .map(|exchange| Rule::new(exchange, bytes))
        .collect();
    let (mut reader, mut writer) = (BufReader::new(stream), BufWriter::new(stream));
    let (mut line, mut block) = (Vec::new(), Vec::new());
    while reader.read_until(b'\n', &mut line)? > 0 {
        match rules.iter().find(|rule| rule.word == first_word(&line)) {
            Some(rule) => {
                block.resize(rule.block, 0);
                reader.read_exact(&mut block)?;
                writer.write_all(&rule.reply)?;
            }
            None => writer.write_all(b"ERROR\r\n")?,
        }
        if reader.buffer().is_empty() {
            writer.flush()?;
        }
        line.clear();
    }
    Ok(())
}

// ---- The table ----

fn compare(options: &Options) -> io::Result<()> {
    let programs = [
        Some(common::rustmemc("--aof rustmemc.aof")?),
        common::memcached()?,
    ];
    let mut programs: Vec<_> = programs.into_iter().flatten().collect();
    let memtier = match options.generators.contains(&"memtier") {
        true => common::memtier()?,
        false => None,
    };
    let (rounds, seconds) = (options.rounds, options.seconds);
    print(format_args!(
        "medians of {rounds} rounds of {seconds} s, with the smallest and the largest"
    ))?;
    if options.generators.contains(&"ours") {
        for workload in &options.workloads {
            let servers = start(&mut programs, workload.name, BYTES)?;
            head("our load")?;
            let measured: Vec<_> = servers
                .iter()
                .map(|server| (server, workload.name))
                .collect();
            for &row in &options.rows {
                let figures = load::rounds(&measured, row, rounds, seconds)?;
                lines(workload.name, row, &servers, &figures)?;
            }
        }
    }
    let Some(memtier) = memtier else {
        return Ok(());
    };
    for rows in memtier::ROWS.chunk_by(|one, next| one.bytes == next.bytes) {
        let bytes = rows[0].bytes;
        let servers = start(&mut programs, memtier::ANSWERED_AS, bytes)?;
        for server in &servers {
            memtier::store_all(&memtier, server, bytes)?;
        }
        head(&format!("memtier, {bytes} bytes"))?;
        for row in rows {
            let measure = |place: usize| memtier::measure(&memtier, &servers[place], row, seconds);
            let figures = load::in_turn(servers.len(), rounds, measure)?;
            lines(row.name, row.size, &servers, &figures)?;
        }
    }
    Ok(())
}

/// Starts all servers, the one with the fixed reply among them. rustmemc stays the first, which is compared with all
/// others.
fn start(programs: &mut Vec<Program>, workload: &str, bytes: usize) -> io::Result<Vec<Server>> {
    let arguments = ["--fixed-reply-server", workload, &bytes.to_string()];
    programs.retain(|program| program.name != "fixed");
    programs.insert(1, ourselves("fixed", &arguments)?);
    let start = |program: &Program| match program.name {
        "memcached" => program.start(&["-m", "1024"]),
        _ => program.start(&[]),
    };
    programs.iter().map(start).collect()
}

fn head(load: &str) -> io::Result<()> {
    print(format_args!(
        "\n{load:<22} {:>7} {:>8}  {:<9} {:>25} {:>16} {:>19} {:>19}",
        "clients", "pipeline", "server", "requests/s", "rustmemc/it", "CPU µs/request", "p99 ms"
    ))
}

/// Prints a line for each server.
fn lines(name: &str, row: Row, servers: &[Server], figures: &[Vec<Figures>]) -> io::Result<()> {
    let Row { clients, pipeline } = row;
    let all_rates = rates(figures);
    for ((server, rounds), rates) in servers.iter().zip(figures).zip(&all_rates) {
        let text = |digits: usize, figure: fn(&Figures) -> f64| {
            let [least, median, most] = spread(rounds.iter().map(figure).collect());
            format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
        };
        let ratio = match server.name {
            "rustmemc" => String::new(),
            _ => ratio(&all_rates[0], rates),
        };
        print(format_args!(
            "{name:<22} {clients:>7} {pipeline:>8}  {:<9} {:>25} {ratio:>16} {:>19} {:>19}",
            server.name,
            text(0, |figures| figures.rate),
            text(2, |figures| figures.cpu),
            text(2, |figures| figures.p99),
        ))?;
    }
    Ok(())
}

// ---- The command line ----

const USAGE: &str = "\
options: --rounds N, --seconds S, --generators ours,memtier
of our own load: --only get,set,mix,mg, --rows CLIENTSxPIPELINE,...";
const ROWS: &str = "1x1,50x1,200x1,1x16,50x16,1x64,50x64";

const GENERATORS: [&str; 2] = ["ours", "memtier"];

fn generator(name: &str) -> io::Result<&'static str> {
    let known = GENERATORS.into_iter().find(|known| *known == name);
    known.ok_or_else(|| wrong(name, "is not a generator"))
}

struct Options {
    rounds: usize,
    seconds: f64,
    /// Which loads are used.
    generators: Vec<&'static str>,
    workloads: Vec<&'static Workload>,
    rows: Vec<Row>,
}

fn parse_options(arguments: &[String]) -> io::Result<Options> {
    let mut options = Options {
        rounds: 5,
        seconds: 1.0,
        generators: GENERATORS.to_vec(),
        workloads: list("get,set", workload)?,
        rows: list(ROWS, load::row)?,
    };
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| wrong(name, "needs a value"));
        match name.as_str() {
            "--rounds" => options.rounds = number(value()?, 1, 10_000)?,
            "--seconds" => options.seconds = number(value()?, 0.01, 3600.0)?,
            "--generators" => options.generators = list(value()?, generator)?,
            "--only" => options.workloads = list(value()?, workload)?,
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
        match arguments {
            [flag, name, bytes] if flag == "--fixed-reply-server" => {
                serve_fixed_replies(workload(name)?, number(bytes, 1, 1 << 20)?)
            }
            _ => compare(&parse_options(arguments)?),
        }
    })
}
