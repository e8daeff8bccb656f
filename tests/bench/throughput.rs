//! How many requests a second: rustmemc beside two others, on the same machine, under the same load.
//!
//!     cargo bench --bench throughput
//!     cargo bench --bench throughput -- --only get,mix --rows 1x1,50x16 --rounds 9 --seconds 0.5
//!
//! Requests a second say more about the machine (and its neighbours) than about the server, so what counts
//! are *ratios*: the servers are measured in turn, round after round, each round gives one ratio, and the
//! table shows the median of them with the smallest and the largest. The servers:
//!
//! - `rustmemc`: the binary that cargo built, or the one that the variable RUSTMEMC names, with
//!   RUSTMEMC_OPTIONS added to its command line. It runs in a folder of its own under TMPDIR that is removed
//!   afterwards.
//! - `fixed`: a server in this file that answers every line with a fixed reply from a blocking thread a
//!   connection: what our way of serving costs before anything of memcached is done.
//! - `memcached`: the real one, from the variable MEMCACHED or from PATH, and left out where there is none.
//!
//! The load and the fixed reply run as processes of their own (this program starts itself again with
//! `--load` and `--fixed-reply-server`), so that their cost is the same whoever is being measured.

// What is indexed here are tables and buffers that this file has sized itself.
#![allow(clippy::indexing_slicing)]

use std::env;
use std::fmt::Display;
use std::fs;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::str::FromStr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

// ---- What is asked: the workloads ----

/// A request and the only answer that is right. `{key}` and `{data}` are filled in.
#[derive(Clone, Copy)]
struct Exchange {
    request: &'static str,
    answer: &'static str,
}

const GET: Exchange = Exchange {
    request: "get {key}\r\n",
    answer: "VALUE {key} 0 32\r\n{data}\r\nEND\r\n",
};
const SET: Exchange = Exchange {
    request: "set {key} 0 0 32\r\n{data}\r\n",
    answer: "STORED\r\n",
};
const MG: Exchange = Exchange {
    request: "mg {key} v\r\n",
    answer: "VA 32\r\n{data}\r\n",
};

/// What the clients ask, over and over. All keys are stored before it begins, so every `get` is a hit. The
/// fixed reply goes by a request's first word: within one workload, a word has one answer.
struct Workload {
    name: &'static str,
    by_default: bool,
    exchanges: &'static [Exchange],
}

const MIX: [Exchange; 10] = [GET, GET, GET, GET, GET, GET, GET, GET, GET, SET];

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "get",
        by_default: true,
        exchanges: &[GET],
    },
    Workload {
        name: "set",
        by_default: true,
        exchanges: &[SET],
    },
    Workload {
        name: "mix",
        by_default: false,
        exchanges: &MIX,
    },
    Workload {
        name: "mg",
        by_default: false,
        exchanges: &[MG],
    },
];

/// Few enough to stay in the processor's cache: this measures the serving, not the memory.
const KEYS: usize = 1000;
const DATA: &str = "0123456789abcdef0123456789abcdef";

fn workload_named(name: &str) -> Result<&'static Workload, String> {
    WORKLOADS
        .iter()
        .find(|known| known.name == name)
        .ok_or_else(|| format!("no workload is called {name:?}"))
}

/// Fills in a template. All keys are of equal length, and so are all answers to one kind of request.
fn fill(template: &str, key: usize) -> Vec<u8> {
    template
        .replace("{key}", &format!("key:{key:04}"))
        .replace("{data}", DATA)
        .into_bytes()
}

fn first_word(line: &[u8]) -> &[u8] {
    line.split(u8::is_ascii_whitespace)
        .next()
        .unwrap_or_default()
}

// ---- The load: `--load ADDRESS WORKLOAD ROW SECONDS KEYS-ANSWERED` ----

/// Longer than any server needs for an answer, so that one that hangs ends in a sentence.
const PATIENCE: Duration = Duration::from_secs(10);
const SMALL_STACK: usize = 128 * 1024;

/// A pipeline's worth of requests, sent in one write, and all the bytes that must come back.
struct Batch {
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// Everything a client will say, prepared beforehand, so that the load costs little more than its system
/// calls. `one_key`: every answer names the first key, whatever was asked for, as the fixed reply does.
fn batches(exchanges: &[Exchange], pipeline: usize, one_key: bool) -> Vec<Batch> {
    let prepare = |number: usize| {
        let mut batch = Batch {
            request: Vec::new(),
            answer: Vec::new(),
        };
        for turn in number * pipeline..(number + 1) * pipeline {
            let (exchange, key) = (exchanges[turn % exchanges.len()], turn % KEYS);
            batch.request.extend(fill(exchange.request, key));
            batch
                .answer
                .extend(fill(exchange.answer, if one_key { 0 } else { key }));
        }
        batch
    };
    (0..KEYS.div_ceil(pipeline)).map(prepare).collect()
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(address: &str) -> Result<Client, String> {
        let stream = explain("could not connect", TcpStream::connect(address))?;
        explain("could not set TCP_NODELAY", stream.set_nodelay(true))?;
        explain(
            "could not set a timeout",
            stream.set_read_timeout(Some(PATIENCE)),
        )?;
        explain(
            "could not set a timeout",
            stream.set_write_timeout(Some(PATIENCE)),
        )?;
        Ok(Client {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Sends a batch and reads until all of it is answered. Every byte is compared as it comes: that costs
    /// next to nothing, and an error line, shorter than the answer, would otherwise be waited upon in vain.
    fn exchange(&mut self, batch: &Batch) -> Result<(), String> {
        explain(
            "could not send a request",
            self.stream.write_all(&batch.request),
        )?;
        self.buffer.resize(batch.answer.len(), 0);
        let mut have = 0;
        while have < batch.answer.len() {
            let count = explain("no answer came", self.stream.read(&mut self.buffer[have..]))?;
            let (got, right) = (
                &self.buffer[have..have + count],
                &batch.answer[have..have + count],
            );
            if count == 0 {
                return Err("the server closed the connection".into());
            }
            if got != right {
                return Err(format!(
                    "expected {:?} but got {:?}",
                    excerpt(right),
                    excerpt(got)
                ));
            }
            have += count;
        }
        Ok(())
    }
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned()
}

/// Returns the requests a second that the clients got answered.
fn load(
    address: &str,
    workload: &Workload,
    row: Row,
    seconds: f64,
    one_key: bool,
) -> Result<f64, String> {
    let mut first = Client::connect(address)?;
    for batch in batches(&[SET], 50, one_key) {
        first
            .exchange(&batch)
            .map_err(|error| format!("storing the keys: {error}"))?;
    }
    drop(first);

    // Connected one after another, and each served once, before any thread is started: accepting costs no
    // part of the measured time, and a server that cannot hold so many clients is found out here.
    let batches = &batches(workload.exchanges, row.pipeline, one_key);
    let warm_up = |number: usize| {
        let mut client = Client::connect(address)?;
        client
            .exchange(&batches[number % batches.len()])
            .map(|()| client)
    };
    let connected =
        |number| warm_up(number).map_err(|error| format!("client {}: {error}", number + 1));
    let clients: Vec<Client> = (0..row.clients).map(connected).collect::<Result<_, _>>()?;

    let (barrier, over) = (&Barrier::new(row.clients + 1), &AtomicBool::new(false));
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, mut client) in clients.into_iter().enumerate() {
            let run = move || {
                // Clients begin at different keys, or all would walk from lock to lock in step.
                let own_order = batches
                    .iter()
                    .cycle()
                    .skip(number * batches.len() / row.clients);
                let mut answered = 0;
                barrier.wait();
                for batch in own_order {
                    client.exchange(batch)?;
                    // What was still under way when time was up does not count.
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    answered += row.pipeline;
                }
                Ok::<usize, String>(answered)
            };
            match thread::Builder::new()
                .stack_size(SMALL_STACK)
                .spawn_scoped(scope, run)
            {
                Ok(thread) => threads.push(thread),
                // Not a `return`: the scope would wait for those that already wait at the barrier.
                Err(error) => {
                    complain(&format!(
                        "could not start thread {} of {}: {error}",
                        number + 1,
                        row.clients
                    ));
                    std::process::exit(1);
                }
            }
        }
        barrier.wait();
        let start = Instant::now();
        thread::sleep(Duration::from_secs_f64(seconds));
        over.store(true, Ordering::Relaxed);
        let elapsed = start.elapsed();

        let mut answered = 0;
        for thread in threads {
            answered += thread.join().map_err(|_| "a client thread panicked")??;
        }
        if answered == 0 {
            return Err("nothing was answered in time".into());
        }
        Ok(answered as f64 / elapsed.as_secs_f64())
    })
}

// ---- The fixed reply: `--fixed-reply-server WORKLOAD` ----

/// What the fixed server knows of a request: how it begins, how much follows its line, what is answered.
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

fn serve_fixed_replies(workload: &'static Workload) -> Result<(), String> {
    let listener = explain(
        "could not listen",
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)),
    )?;
    let address = explain("could not tell its port", listener.local_addr())?;
    say(&format!("listening on {address}"))?;
    for stream in listener.incoming().flatten() {
        // A client that goes away or sends nonsense ends its own connection only; the load will tell of it.
        let serve = move || _ = answer_lines(&stream, workload);
        explain(
            "no thread",
            thread::Builder::new().stack_size(SMALL_STACK).spawn(serve),
        )?;
    }
    Ok(())
}

/// The shape of a conversation in rustmemc, and its system calls, with nothing done in between.
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

// ---- The servers under measurement ----

/// A running server. Dropping it ends the process and removes its folder, however the measuring ended.
struct Server {
    name: &'static str,
    child: Child,
    folder: PathBuf,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Errors mean that it is already gone.
        _ = self.child.kill();
        _ = self.child.wait();
        _ = fs::remove_dir_all(&self.folder);
    }
}

impl Server {
    /// Starts a server and waits until it says where it listens, or until it accepts clients at a known
    /// `port`.
    fn start(
        name: &'static str,
        mut command: Command,
        port: Option<u16>,
    ) -> Result<Server, String> {
        // A folder of its own: no append-only file is left in the project or found there from the last time.
        let folder = env::temp_dir().join(format!("rustmemc-bench-{}-{name}", std::process::id()));
        explain(
            "could not create a folder for the server",
            fs::create_dir_all(&folder),
        )?;
        command
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| {
            _ = fs::remove_dir_all(&folder);
            format!(
                "could not start {}: {error}",
                command.get_program().display()
            )
        })?;
        let mut server = Server {
            name,
            child,
            folder,
            address: String::new(),
        };
        server.address = server.wait_until_it_listens(port)?;
        Ok(server)
    }

    fn wait_until_it_listens(&mut self, port: Option<u16>) -> Result<String, String> {
        let (sender, lines) = mpsc::channel();
        let stdout = self
            .child
            .stdout
            .take()
            .map(|stream| Box::new(stream) as Box<dyn Read + Send>);
        let stderr = self
            .child
            .stderr
            .take()
            .map(|stream| Box::new(stream) as Box<dyn Read + Send>);
        for stream in [stdout, stderr].into_iter().flatten() {
            let (sender, lines) = (
                sender.clone(),
                BufReader::new(stream).lines().map_while(Result::ok),
            );
            // Goes on to the end even when nobody listens any more: a full pipe would stall the server.
            thread::spawn(move || lines.for_each(|line| _ = sender.send(line)));
        }
        drop(sender);

        let (mut said, deadline) = (String::new(), Instant::now() + PATIENCE);
        let known = port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        while Instant::now() < deadline {
            let line = match lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => match known {
                    Some(address) if TcpStream::connect(address).is_ok() => {
                        return Ok(address.to_string());
                    }
                    _ => continue,
                },
            };
            let address = line
                .rsplit_once("listening on ")
                .map_or("", |(_, address)| address.trim());
            if address.parse::<SocketAddr>().is_ok() {
                return Ok(address.into());
            }
            said = said + &line + "\n";
        }
        Err(format!(
            "{} did not come to listen; it said: {:?}",
            self.name,
            said.trim()
        ))
    }
}

/// The programs to be measured besides the fixed reply. A further one (redis, say) gets a field here and a
/// paragraph in `start_all`; one of another protocol also needs a workload in its own words.
struct Programs {
    rustmemc: Option<PathBuf>,
    rustmemc_options: String,
    memcached: Option<PathBuf>,
}

impl Programs {
    fn find() -> Programs {
        // Absolute, because the servers do not run in our folder.
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let named = |variable| {
            env::var_os(variable)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let built = option_env!("CARGO_BIN_EXE_rustmemc").map(PathBuf::from);
        let folders = env::var_os("PATH").unwrap_or_default();
        let mut installed = env::split_paths(&folders).map(|folder| folder.join("memcached"));
        Programs {
            rustmemc: named("RUSTMEMC").or(built).map(absolute),
            rustmemc_options: env::var("RUSTMEMC_OPTIONS").unwrap_or_default(),
            memcached: named("MEMCACHED")
                .or_else(|| installed.find(|file| file.is_file()))
                .map(absolute),
        }
    }

    /// The first of the servers is the one that is compared with all others.
    fn start_all(&self, workload: &Workload) -> Result<Vec<Server>, String> {
        let mut servers = Vec::new();
        if let Some(program) = &self.rustmemc {
            let mut command = Command::new(program);
            command
                .args(["-p", "0", "-l", "127.0.0.1"])
                .args(self.rustmemc_options.split_whitespace());
            servers.push(Server::start("rustmemc", command, None)?);
        }

        let mut command = Command::new(this_program()?);
        command.args(["--fixed-reply-server", workload.name]);
        servers.push(Server::start("fixed", command, None)?);

        if let Some(program) = &self.memcached {
            let port = explain("found no free port for memcached", free_port())?;
            let mut command = Command::new(program);
            command.args([
                "-t",
                "4",
                "-l",
                "127.0.0.1",
                "-U",
                "0",
                "-m",
                "1024",
                "-p",
                &port.to_string(),
            ]);
            if we_are_root() {
                // It refuses to run as root unless told so.
                command.args(["-u", "root"]);
            }
            servers.push(Server::start("memcached", command, Some(port))?);
        }
        Ok(servers)
    }
}

fn this_program() -> Result<PathBuf, String> {
    explain("could not find this program's own file", env::current_exe())
}

/// memcached does not tell which port it got, so it is given one that was free a moment ago.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// std does not know the user; Linux tells in a file: "Uid:", the real and then the effective one.
fn we_are_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uid.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

// ---- The table ----

fn compare(options: &Options) -> Result<(), String> {
    let programs = Programs::find();
    let found = |name: &str, path: &Option<PathBuf>, options: &str| match path {
        Some(path) => say(&format!("{name}: {} {options}", path.display())),
        None => say(&format!(
            "{name}: skipped, there is none (a variable can name one: {})",
            name.to_uppercase()
        )),
    };
    found("rustmemc", &programs.rustmemc, &programs.rustmemc_options)?;
    found("memcached", &programs.memcached, "-t 4")?;
    let (rounds, seconds) = (options.rounds, options.seconds);
    say(&format!(
        "medians of {rounds} rounds of {seconds} s; ratios: median (min–max)"
    ))?;

    for workload in &options.workloads {
        let servers = programs.start_all(workload)?;
        let (subject, others) = servers.split_first().ok_or("there is nothing to measure")?;
        let mut head = format!("\n{:<8} {:>7} {:>8}", "workload", "clients", "pipeline");
        for server in &servers {
            head += &format!(" {:>15}", format!("{} req/s", server.name));
        }
        for other in others {
            head += &format!(" {:>19}", format!("{}/{}", subject.name, other.name));
        }
        say(&head)?;

        for &row in &options.rows {
            let mut rates = vec![Vec::new(); servers.len()];
            for round in 0..rounds {
                for turn in 0..servers.len() {
                    // Every other round goes backwards, so that nobody is always measured first.
                    let place = if round % 2 == 0 {
                        turn
                    } else {
                        servers.len() - 1 - turn
                    };
                    rates[place].push(measure(&servers[place], workload, row, seconds)?);
                }
            }
            let mut text = format!(
                "{:<8} {:>7} {:>8}",
                workload.name, row.clients, row.pipeline
            );
            for rates in &rates {
                let [_, median, _] = spread(rates.clone());
                text += &format!(" {median:>15.0}");
            }
            for other in &rates[1..] {
                let ratios = rates[0]
                    .iter()
                    .zip(other)
                    .map(|(subject, other)| subject / other);
                let [min, median, max] = spread(ratios.collect());
                text += &format!(" {:>19}", format!("{median:.2} ({min:.2}–{max:.2})"));
            }
            say(&text)?;
        }
    }
    Ok(())
}

/// One measurement, by a process of its own.
fn measure(server: &Server, workload: &Workload, row: Row, seconds: f64) -> Result<f64, String> {
    let row = format!("{}x{}", row.clients, row.pipeline);
    let keys = if server.name == "fixed" {
        "one-key"
    } else {
        "own-keys"
    };
    let mut load = Command::new(this_program()?);
    load.args([
        "--load",
        &server.address,
        workload.name,
        &row,
        &seconds.to_string(),
        keys,
    ]);
    let output = explain("could not start the load", load.output())?;
    let rate = String::from_utf8_lossy(&output.stdout).trim().parse();
    let complaint = String::from_utf8_lossy(&output.stderr);
    rate.map_err(|_| {
        format!(
            "{}, {} {row}: {}",
            server.name,
            workload.name,
            complaint.trim()
        )
    })
}

/// The smallest, the median and the largest. There is at least one value, because there is at least one
/// round.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let (last, middle) = (values.len() - 1, values.len() / 2);
    // Of an even number the two in the middle are averaged; of an odd number they are the same one.
    [
        values[0],
        (values[last - middle] + values[middle]) / 2.0,
        values[last],
    ]
}

// ---- The command line ----

const USAGE: &str =
    "options: --rounds N, --seconds S, --only get,set,mix,mg, --rows CLIENTSxPIPELINE,...";
const ROWS: &str = "1x1,50x1,200x1,1x16,50x16,1x64,50x64";

#[derive(Clone, Copy)]
struct Row {
    clients: usize,
    pipeline: usize,
}

struct Options {
    rounds: usize,
    seconds: f64,
    workloads: Vec<&'static Workload>,
    rows: Vec<Row>,
}

fn parse_options(arguments: &[&str]) -> Result<Options, String> {
    let mut options = Options {
        rounds: 5,
        seconds: 1.0,
        workloads: WORKLOADS
            .iter()
            .filter(|workload| workload.by_default)
            .collect(),
        rows: parse_list(ROWS, parse_row)?,
    };
    let mut arguments = arguments.iter();
    while let Some(&name) = arguments.next() {
        if name == "--bench" {
            continue; // cargo's own
        }
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| format!("{name} needs a value; {USAGE}"))
        };
        match name {
            "--rounds" => options.rounds = parse_number(value()?, 1, 10_000)?,
            "--seconds" => options.seconds = parse_number(value()?, 0.01, 3600.0)?,
            "--only" => options.workloads = parse_list(value()?, workload_named)?,
            "--rows" => options.rows = parse_list(value()?, parse_row)?,
            _ => return Err(format!("{name} is not known; {USAGE}")),
        }
    }
    Ok(options)
}

fn parse_list<T>(text: &str, parse_one: fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(parse_one).collect()
}

fn parse_number<T: FromStr + PartialOrd + Display>(
    text: &str,
    least: T,
    most: T,
) -> Result<T, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (&least..=&most).contains(&number));
    number.ok_or_else(|| format!("{text:?} is not a number from {least} to {most}"))
}

/// The pipeline ends where a batch and its answers might no longer fit into the sockets' buffers: beyond it,
/// client and server could each wait for the other to read.
fn parse_row(text: &str) -> Result<Row, String> {
    let (clients, pipeline) = text
        .split_once('x')
        .ok_or(format!("{text:?} is not a row as in 50x16"))?;
    Ok(Row {
        clients: parse_number(clients, 1, 1000)?,
        pipeline: parse_number(pipeline, 1, 1000)?,
    })
}

fn explain<T>(what_failed: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what_failed}: {error}"))
}

/// `println!` panics when nobody reads (`... | head`); this says so in words.
fn say(line: &str) -> Result<(), String> {
    explain(
        "could not write to standard output",
        writeln!(io::stdout(), "{line}"),
    )
}

fn complain(sentence: &str) {
    _ = writeln!(io::stderr(), "{sentence}");
}

fn run(arguments: &[&str]) -> Result<(), String> {
    match arguments {
        ["--load", address, workload, row, seconds, keys] => {
            let (workload, row) = (workload_named(workload)?, parse_row(row)?);
            let seconds = parse_number(seconds, 0.01, 3600.0)?;
            say(&load(address, workload, row, seconds, *keys == "one-key")?.to_string())
        }
        ["--fixed-reply-server", workload] => serve_fixed_replies(workload_named(workload)?),
        ["--help" | "-h", ..] => say(USAGE),
        // `cargo test --all-targets` comes by here, and what it built says nothing about speed.
        _ if cfg!(debug_assertions) => {
            say("a build for debugging is not measured: use `cargo bench`")
        }
        _ => compare(&parse_options(arguments)?),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    // What is not Unicode is no option of ours: it is refused like any other that is not known.
    let arguments: Vec<&str> = arguments
        .iter()
        .map(|argument| argument.to_str().unwrap_or("?"))
        .collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            complain(&sentence);
            ExitCode::FAILURE
        }
    }
}
