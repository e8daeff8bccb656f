//! What the benchmarks share: the servers, a client, a generator of numbers.
//!
//! - `rustmemc`: the binary that cargo built, or the one that the variable RUSTMEMC names, with the options in
//!   RUSTMEMC_OPTIONS.
//! - `memcached` (with four threads) and `redis-server`: from the variables MEMCACHED and REDIS or from PATH; left
//!   out where there is none.
//!
//! Each server runs in a folder of its own under TMPDIR that is removed afterwards.

// Each benchmark uses its part of this.
#![allow(dead_code)]
// What is indexed here are lists that were just made.
#![allow(clippy::indexing_slicing)]

use std::env;
use std::fmt::Display;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than any server needs for an answer, so that one that hangs ends in a sentence.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The requests of a pipeline are written in pieces of about this size.
pub const PIECE: usize = 64 * 1024;

// ---- The servers ----

/// A program to be measured.
pub struct Program {
    pub name: &'static str,
    path: PathBuf,
    /// What it is always started with.
    arguments: Vec<String>,
    port: Port,
}

/// How it is known where a program listens.
enum Port {
    /// It takes any port, and says which.
    Said,
    /// It is given one that was free a moment ago, behind this flag.
    Given(&'static str),
}

/// Ours, with these options unless RUSTMEMC_OPTIONS says otherwise.
pub fn rustmemc(options: &str) -> io::Result<Option<Program>> {
    let options = env::var("RUSTMEMC_OPTIONS").unwrap_or(options.into());
    let arguments = format!("-l 127.0.0.1 -p 0 {options}");
    let built = option_env!("CARGO_BIN_EXE_rustmemc").map(PathBuf::from);
    found("rustmemc", "RUSTMEMC", built, &arguments, Port::Said)
}

pub fn memcached() -> io::Result<Option<Program>> {
    // It refuses to run as root unless told so.
    let user = if we_are_root()? { "-u root" } else { "" };
    let arguments = format!("-l 127.0.0.1 -t 4 -U 0 {user}");
    let installed = installed("memcached");
    let port = Port::Given("-p");
    found("memcached", "MEMCACHED", installed, &arguments, port)
}

pub fn redis() -> io::Result<Option<Program>> {
    let installed = installed("redis-server");
    let port = Port::Given("--port");
    found("redis", "REDIS", installed, "--bind 127.0.0.1", port)
}

/// Both memcacheds, or those that are there.
pub fn programs() -> io::Result<Vec<Program>> {
    let both = [rustmemc("--no-aof")?, memcached()?];
    Ok(both.into_iter().flatten().collect())
}

fn installed(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    let mut files = env::split_paths(&folders).map(|folder| folder.join(name));
    files.find(|file| file.is_file())
}

/// Says which program it will be.
fn found(
    name: &'static str,
    variable: &str,
    otherwise: Option<PathBuf>,
    arguments: &str,
    port: Port,
) -> io::Result<Option<Program>> {
    let named = env::var_os(variable).filter(|value| !value.is_empty());
    let Some(path) = named.map(PathBuf::from).or(otherwise) else {
        say(format_args!(
            "{name}: left out, there is none (a variable can name one: {variable})"
        ))?;
        return Ok(None);
    };
    say(format_args!("{name}: {} {arguments}", path.display()))?;
    Ok(Some(Program {
        name,
        // Absolute, because the servers do not run in our folder.
        path: std::path::absolute(path)?,
        arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        port,
    }))
}

/// This very program, started with such arguments, under this name.
pub fn ourselves(name: &'static str, arguments: &[&str]) -> io::Result<Program> {
    Ok(Program {
        name,
        path: env::current_exe()?,
        arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
        port: Port::Said,
    })
}

impl Program {
    /// Starts it with these arguments too, in a new folder, and waits until it takes clients.
    pub fn start(&self, arguments: &[&str]) -> io::Result<Server> {
        self.start_in(Arc::new(Folder::new()?), arguments)
    }

    /// The same in a folder that has been used before.
    pub fn start_in(&self, folder: Arc<Folder>, arguments: &[&str]) -> io::Result<Server> {
        let mut command = Command::new(&self.path);
        command
            .current_dir(&folder.0)
            .args(&self.arguments)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let port = match self.port {
            Port::Said => None,
            Port::Given(flag) => {
                let port = free_port()?;
                command.args([flag, &port.to_string()]);
                Some(port)
            }
        };
        let child = command
            .spawn()
            .map_err(|error| io::Error::other(format!("{}: {error}", self.path.display())))?;
        let mut server = Server {
            name: self.name,
            address: String::new(),
            child,
            folder,
        };
        let lines = server.lines();
        let mut said = String::new();
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let line = match lines.recv_timeout(Duration::from_millis(5)) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => match port {
                    Some(port) if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() => {
                        server.address = format!("127.0.0.1:{port}");
                        return Ok(server);
                    }
                    _ => continue,
                },
            };
            let address = line.rsplit_once("listening on ");
            let address = address.map_or("", |(_, address)| address.trim());
            if address.parse::<SocketAddr>().is_ok() {
                server.address = address.into();
                return Ok(server);
            }
            said = said + &line + "\n";
        }
        Err(io::Error::other(format!(
            "{} did not come to listen; it said: {:?}",
            self.name,
            said.trim()
        )))
    }
}

/// A folder for servers, removed when nobody uses it any more: no file is left in the project or found there
/// from the last time.
pub struct Folder(pub PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("rustmemc-bench-{}-{number}", std::process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server of our own, killed when it goes out of scope.
pub struct Server {
    pub name: &'static str,
    pub address: String,
    child: Child,
    pub folder: Arc<Folder>,
}

impl Server {
    /// What it says on both streams.
    fn lines(&mut self) -> Receiver<String> {
        let (sender, lines) = mpsc::channel();
        let stdout = self.child.stdout.take().map(|stream| Box::new(stream) as _);
        let stderr = self.child.stderr.take().map(|stream| Box::new(stream) as _);
        let streams: [Option<Box<dyn Read + Send>>; 2] = [stdout, stderr];
        for stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            let lines = BufReader::new(stream).lines().map_while(Result::ok);
            // Goes on to the end even when nobody listens any more: a full pipe would stall the server.
            thread::spawn(move || lines.for_each(|line| _ = sender.send(line)));
        }
        lines
    }

    /// How much memory is resident, in bytes, once it has settled: memcached moves items behind the scenes.
    pub fn resident(&self) -> io::Result<u64> {
        let mut before = self.status("VmRSS:")?;
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(150));
            let now = self.status("VmRSS:")?;
            if now.abs_diff(before) < 64 * 1024 {
                return Ok(now);
            }
            before = now;
        }
        Ok(before)
    }

    /// The most memory that ever was resident, in bytes.
    pub fn peak(&self) -> io::Result<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> io::Result<u64> {
        let id = self.child.id().to_string();
        let status = Path::new("/proc").join(id).join("status");
        let text = fs::read_to_string(status)?;
        let kilobytes = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
            .and_then(|number| number.parse::<u64>().ok());
        kilobytes
            .map(|kilobytes| kilobytes * 1024)
            .ok_or_else(|| io::Error::other(format!("/proc tells no {name}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// std does not know the user; Linux tells in a file: "Uid:", the real and then the effective one.
fn we_are_root() -> io::Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    Ok(uid.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0"))
}

// ---- The client ----

/// One connection, and what is to be sent next on it.
pub struct Client {
    stream: BufReader<TcpStream>,
    pub request: Vec<u8>,
}

impl Client {
    pub fn connect(address: &str) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client {
            stream: BufReader::with_capacity(PIECE, stream),
            request: Vec::new(),
        })
    }

    /// Adds a `set` that is not answered to the request, and sends this when it has become long.
    pub fn set(&mut self, key: &str, exptime: u32, value: &[u8]) -> io::Result<()> {
        let bytes = value.len();
        write!(self.request, "set {key} 0 {exptime} {bytes} noreply\r\n")?;
        self.request.extend_from_slice(value);
        self.request.extend_from_slice(b"\r\n");
        if self.request.len() > PIECE {
            self.send()?;
        }
        Ok(())
    }

    /// Sends what has been gathered.
    pub fn send(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(&self.request)?;
        self.request.clear();
        Ok(())
    }

    /// The next line of the answer, without its end.
    pub fn line(&mut self, line: &mut String) -> io::Result<()> {
        line.clear();
        if self.stream.read_line(line)? == 0 {
            return Err(io::Error::other("the server closed the connection"));
        }
        line.truncate(line.trim_end().len());
        Ok(())
    }

    /// Reads over a data block and its line end.
    pub fn skip_block(&mut self, bytes: usize) -> io::Result<()> {
        io::copy(
            &mut (&mut self.stream).take(bytes as u64 + 2),
            &mut io::sink(),
        )?;
        Ok(())
    }

    /// Sends a command behind all that has been gathered, and returns the one line that answers it. So it
    /// is a barrier as well.
    pub fn ask(&mut self, command: &str) -> io::Result<String> {
        write!(self.request, "{command}\r\n")?;
        self.send()?;
        let mut answer = String::new();
        self.line(&mut answer)?;
        Ok(answer)
    }

    /// One number out of `stats`.
    pub fn stat(&mut self, name: &str) -> io::Result<u64> {
        let mut line = self.ask("stats")?;
        let mut number = None;
        while line != "END" {
            let mut words = line.split_whitespace().skip(1);
            if words.next() == Some(name) {
                number = words.next().and_then(|word| word.parse().ok());
            }
            self.line(&mut line)?;
        }
        number.ok_or_else(|| io::Error::other(format!("no number in stats is called {name}")))
    }
}

// ---- Numbers and words ----

/// splitmix64: the same seed gives the same numbers everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From 0 to below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    /// From 0.0 to below 1.0.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The end of splitmix64, which by itself is a good hash of a number.
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The smallest, the median and the largest, of at least one value.
pub fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let (last, middle) = (values.len() - 1, values.len() / 2);
    // Of an even number the two in the middle are averaged; of an odd number they are the same one.
    let median = (values[last - middle] + values[middle]) / 2.0;
    [values[0], median, values[last]]
}

/// How many times as much these are as those, measured pair by pair: median (smallest–largest).
pub fn ratio(these: &[f64], those: &[f64]) -> String {
    let ratios = these.iter().zip(those).map(|(this, that)| this / that);
    let [min, median, max] = spread(ratios.collect());
    format!("{median:.2} ({min:.2}–{max:.2})")
}

/// A number on the command line.
pub fn number<T: FromStr + PartialOrd + Display>(text: &str, least: T, most: T) -> io::Result<T> {
    let number = text.parse().ok();
    let number = number.filter(|number| (&least..=&most).contains(&number));
    number
        .ok_or_else(|| io::Error::other(format!("{text:?} is not a number from {least} to {most}")))
}

/// `println!` panics when nobody reads (`... | head`); this says so in words.
pub fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// What `main` does: runs the benchmark with its arguments and says what went wrong.
pub fn run(benchmark: impl FnOnce(&[String]) -> io::Result<()>) -> ExitCode {
    let arguments: Vec<String> = env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .filter(|argument| argument != "--bench") // cargo's own
        .collect();
    // `cargo test --all-targets` comes by here, and what it built says nothing.
    let outcome = if cfg!(debug_assertions) {
        say("a build for debugging is not measured: use `cargo bench`")
    } else {
        benchmark(&arguments)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
