//! The programs that are measured, and the processes in which they run.
//!
//! - `rustmemc`: the binary that cargo built, or the one that the variable RUSTMEMC names, with the options in
//!   RUSTMEMC_OPTIONS.
//! - `memcached` (with four threads) and `redis-server`: from the variables MEMCACHED and REDIS or from PATH; left
//!   out where there is none.
//!
//! Each server listens on 127.0.0.1 and runs in a folder of its own under TMPDIR that is removed afterwards.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::{TIMEOUT, print};

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
pub fn rustmemc(options: &str) -> io::Result<Program> {
    let options = env::var("RUSTMEMC_OPTIONS").unwrap_or(options.into());
    let arguments = format!("-l 127.0.0.1 -p 0 {options}");
    let path = named("RUSTMEMC").unwrap_or(env!("CARGO_BIN_EXE_rustmemc").into());
    program("rustmemc", path, &arguments, Port::Said)
}

pub fn memcached() -> io::Result<Option<Program>> {
    // It refuses to run as root unless told so.
    let user = if we_are_root()? { "-u root" } else { "" };
    let arguments = format!("-l 127.0.0.1 -t 4 -U 0 {user}");
    let port = Port::Given("-p");
    installed("memcached", "memcached", "MEMCACHED", &arguments, port)
}

pub fn redis() -> io::Result<Option<Program>> {
    let (arguments, port) = ("--bind 127.0.0.1", Port::Given("--port"));
    installed("redis", "redis-server", "REDIS", arguments, port)
}

/// rustmemc first, and memcached if it is there.
pub fn programs() -> io::Result<Vec<Program>> {
    let mut programs = vec![rustmemc("--no-aof")?];
    programs.extend(memcached()?);
    Ok(programs)
}

/// A program of somebody else: from the variable, or else from PATH.
fn installed(
    name: &'static str,
    file: &str,
    variable: &str,
    arguments: &str,
    port: Port,
) -> io::Result<Option<Program>> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut files = env::split_paths(&folders).map(|folder| folder.join(file));
    let Some(path) = named(variable).or_else(|| files.find(|file| file.is_file())) else {
        print(format_args!(
            "{name}: left out, there is none (the variable {variable} can name one)"
        ))?;
        return Ok(None);
    };
    program(name, path, arguments, port).map(Some)
}

/// The file that a variable names.
fn named(variable: &str) -> Option<PathBuf> {
    let value = env::var_os(variable).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

/// Prints which program it is.
fn program(name: &'static str, path: PathBuf, arguments: &str, port: Port) -> io::Result<Program> {
    print(format_args!("{name}: {} {arguments}", path.display()))?;
    Ok(Program {
        name,
        // Absolute, because the servers do not run in our folder.
        path: std::path::absolute(path)?,
        arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        port,
    })
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
        while start.elapsed() < TIMEOUT {
            let line = match lines.recv_timeout(Duration::from_micros(200)) {
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
