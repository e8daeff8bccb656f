//! What the benchmarks of memory share: the two servers, a client, a generator of numbers.
//!
//! - `rustmemc`: the binary that cargo built, or the one that the variable RUSTMEMC names, with the options in
//!   RUSTMEMC_OPTIONS (`--no-aof` if there is no such variable).
//! - `memcached`: from the variable MEMCACHED or from PATH, with four threads; left out where there is none.

// Each benchmark uses its part of this.
#![allow(dead_code)]

use std::env;
use std::fmt::Display;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than any server needs for an answer, so that one that hangs ends in a sentence.
const PATIENCE: Duration = Duration::from_secs(60);

/// The requests of a pipeline are written in pieces of about this size.
pub const PIECE: usize = 64 * 1024;

// ---- The servers ----

/// A program to be measured.
pub struct Program {
    pub name: &'static str,
    path: PathBuf,
}

/// Both of them, or those that are there; says which.
pub fn programs() -> io::Result<Vec<Program>> {
    let named = |variable| {
        env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let built = option_env!("CARGO_BIN_EXE_rustmemc").map(PathBuf::from);
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut installed = env::split_paths(&folders).map(|folder| folder.join("memcached"));
    let found = [
        ("rustmemc", named("RUSTMEMC").or(built)),
        (
            "memcached",
            named("MEMCACHED").or_else(|| installed.find(|file| file.is_file())),
        ),
    ];
    let mut programs = Vec::new();
    for (name, path) in found {
        match path {
            Some(path) => {
                say(format_args!("{name}: {}", path.display()))?;
                // Absolute, because the servers do not run in our folder.
                let path = std::path::absolute(path)?;
                programs.push(Program { name, path });
            }
            None => say(format_args!(
                "{name}: left out, there is none (a variable can name one: {})",
                name.to_uppercase()
            ))?,
        }
    }
    Ok(programs)
}

/// A server of our own, killed when it goes out of scope.
pub struct Server {
    pub name: &'static str,
    pub address: String,
    child: Child,
    folder: PathBuf,
}

impl Program {
    /// Starts it afresh with so much memory (`-m`), and waits until it takes clients.
    pub fn start(&self, megabytes: usize) -> io::Result<Server> {
        // A folder of its own: no file is left in the project or found there from the last time.
        let folder = env::temp_dir().join(format!(
            "rustmemc-bench-{}-{}",
            std::process::id(),
            self.name
        ));
        fs::create_dir_all(&folder)?;
        let mut command = Command::new(&self.path);
        command
            .current_dir(&folder)
            .args(["-l", "127.0.0.1", "-m", &megabytes.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let ours = self.name == "rustmemc";
        // memcached does not tell which port it got, so it is given one that was free a moment ago.
        let port = if ours { 0 } else { free_port()? };
        command.args(["-p", &port.to_string()]);
        if ours {
            let options = env::var("RUSTMEMC_OPTIONS").unwrap_or("--no-aof".into());
            command.args(options.split_whitespace());
        } else {
            command.args(["-t", "4", "-U", "0"]);
            if we_are_root()? {
                // It refuses to run as root unless told so.
                command.args(["-u", "root"]);
            }
        }
        let child = command.spawn().map_err(|error| {
            let _ = fs::remove_dir_all(&folder);
            io::Error::other(format!("{}: {error}", self.path.display()))
        })?;
        let mut server = Server {
            name: self.name,
            address: format!("127.0.0.1:{port}"),
            child,
            folder,
        };
        if ours {
            server.address = server.said_address()?;
        }
        let start = Instant::now();
        while let Err(error) = Client::connect(&server.address) {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Server {
    fn said_address(&mut self) -> io::Result<String> {
        let stdout = self.child.stdout.take();
        for line in stdout
            .into_iter()
            .flat_map(|out| BufReader::new(out).lines())
        {
            if let Some((_, address)) = line?.rsplit_once("listening on ") {
                return Ok(address.trim().into());
            }
        }
        Err(io::Error::other(format!("{} does not listen", self.name)))
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
        let _ = fs::remove_dir_all(&self.folder);
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
