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

// Only tables and buffers whose size this file has chosen are indexed here.
#![allow(clippy::indexing_slicing)]

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

mod common;
mod load;
use common::{Program, number, ourselves, print, ratio, run, spread, wrong};
use load::{Exchange, Row, SET, Workload, fill, list, workload};

// ---- The fixed reply: `--fixed-reply-server WORKLOAD` ----

/// What the fixed server knows about a request: its first word, the length of its data block, and its answer.
struct Rule {
    word: Vec<u8>,
    block: usize,
    reply: Vec<u8>,
}

impl Rule {
    fn new(exchange: &Exchange) -> Rule {
        let request = fill(exchange.request, 0);
        let line = request
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(request.len(), |end| end + 1);
        let reply = fill(exchange.answer, 0);
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

fn serve_fixed_replies(workload: &'static Workload) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    print(format_args!("listening on {}", listener.local_addr()?))?;
    for stream in listener.incoming().flatten() {
        // An error ends only this client's connection, and the load prints it.
        let serve = move || _ = answer_lines(&stream, workload);
        thread::Builder::new().stack_size(128 * 1024).spawn(serve)?;
    }
    Ok(())
}

/// The loop of a connection in rustmemc, with the same system calls, but without a store.
fn answer_lines(stream: &TcpStream, workload: &Workload) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let rules: Vec<Rule> = workload
        .exchanges
        .iter()
        .chain([&SET])
        .map(Rule::new)
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
    let (rounds, seconds) = (options.rounds, options.seconds);
    print(format_args!(
        "medians of {rounds} rounds of {seconds} s; ratios: median (min–max)"
    ))?;
    let mut programs: Vec<_> = programs.into_iter().flatten().collect();
    for workload in &options.workloads {
        let name = workload.name;
        let fixed = ourselves("fixed", &["--fixed-reply-server", name])?;
        // rustmemc stays the first, which is compared with all others.
        programs.insert(programs.len().min(1), fixed);
        table(&programs, name, options)?;
        programs.retain(|program| program.name != "fixed");
    }
    Ok(())
}

fn table(programs: &[Program], workload: &str, options: &Options) -> io::Result<()> {
    let servers: Vec<_> = programs
        .iter()
        .map(|program| match program.name {
            "memcached" => program.start(&["-m", "1024"]),
            _ => program.start(&[]),
        })
        .collect::<Result<_, _>>()?;
    let mut head = format!("\n{:<8} {:>7} {:>8}", "workload", "clients", "pipeline");
    for server in &servers {
        head += &format!(" {:>15}", format!("{} req/s", server.name));
    }
    for other in &servers[1..] {
        head += &format!(" {:>19}", format!("{}/{}", servers[0].name, other.name));
    }
    print(head)?;
    let servers: Vec<_> = servers.iter().map(|server| (server, workload)).collect();
    for &row in &options.rows {
        let rates = load::rounds(&servers, row, options.rounds, options.seconds)?;
        let Row { clients, pipeline } = row;
        let mut text = format!("{workload:<8} {clients:>7} {pipeline:>8}");
        for rates in &rates {
            let [_, median, _] = spread(rates.clone());
            text += &format!(" {median:>15.0}");
        }
        for other in &rates[1..] {
            text += &format!(" {:>19}", ratio(&rates[0], other));
        }
        print(text)?;
    }
    Ok(())
}

// ---- The command line ----

const USAGE: &str =
    "options: --rounds N, --seconds S, --only get,set,mix,mg, --rows CLIENTSxPIPELINE,...";
const ROWS: &str = "1x1,50x1,200x1,1x16,50x16,1x64,50x64";

struct Options {
    rounds: usize,
    seconds: f64,
    workloads: Vec<&'static Workload>,
    rows: Vec<Row>,
}

fn parse_options(arguments: &[String]) -> io::Result<Options> {
    let mut options = Options {
        rounds: 5,
        seconds: 1.0,
        workloads: list("get,set", workload)?,
        rows: list(ROWS, load::row)?,
    };
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| wrong(name, "needs a value"));
        match name.as_str() {
            "--rounds" => options.rounds = number(value()?, 1, 10_000)?,
            "--seconds" => options.seconds = number(value()?, 0.01, 3600.0)?,
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
            [flag, name] if flag == "--fixed-reply-server" => serve_fixed_replies(workload(name)?),
            _ => compare(&parse_options(arguments)?),
        }
    })
}
