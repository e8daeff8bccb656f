//! The programs that are measured, and the processes in which they run.
//!
//! - `rustmemc`: the binary that cargo built, or the one that the variable RUSTMEMC names, with the options in
//!   RUSTMEMC_OPTIONS.
//! - `memcached` (with four threads) and `redis-server`: the programs that the variables MEMCACHED and REDIS name, or
//!   those on the PATH. A program that does not exist is left out.
//!
//! Each server listens on 127.0.0.1 and runs in a folder of its own under TMPDIR, which is removed at the end.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::system::{cpu_seconds, free_port, is_root, memory};
use super::{Folder, TIMEOUT, print};

/// A program that is measured.
pub struct Program {
    pub name: &'static str,
    path: PathBuf,
    /// The arguments that it always gets.
    arguments: Vec<String>,
    port: Port,
}

/// How we know where a program listens.
enum Port {
    /// It chooses a port, and prints it.
    Printed,
    /// It gets a free port, behind this flag.
    Flag(&'static str),
}

/// Our server, with the options in RUSTMEMC_OPTIONS, or with these if that variable is not set.
pub fn rustmemc(options: &str) -> io::Result<Program> {
    let options = env::var("RUSTMEMC_OPTIONS").unwrap_or(options.into());
    let arguments = format!("-l 127.0.0.1 -p 0 {options}");
    let path = named("RUSTMEMC").unwrap_or(env!("CARGO_BIN_EXE_rustmemc").into());
    program("rustmemc", path, &arguments, Port::Printed)
}

pub fn memcached() -> io::Result<Option<Program>> {
    // It runs as root only with this flag.
    let user = if is_root() { "-u root" } else { "" };
    let arguments = format!("-l 127.0.0.1 -t 4 -U 0 {user}");
    let port = Port::Flag("-p");
    installed("memcached", "memcached", "MEMCACHED", &arguments, port)
}

pub fn redis() -> io::Result<Option<Program>> {
    let (arguments, port) = ("--bind 127.0.0.1", Port::Flag("--port"));
    installed("redis", "redis-server", "REDIS", arguments, port)
}

/// rustmemc, and memcached if it exists.
pub fn programs() -> io::Result<Vec<Program>> {
    let mut programs = vec![rustmemc("--no-aof")?];
    programs.extend(memcached()?);
    Ok(programs)
}

/// Another program: the one that the variable names, or the one on the PATH.
fn installed(
    name: &'static str,
    file: &str,
    variable: &str,
    arguments: &str,
    port: Port,
) -> io::Result<Option<Program>> {
    let path = find(file, variable)?;
    path.map(|path| program(name, path, arguments, port))
        .transpose()
}

/// The program that the variable names, or the one on the PATH. If there is none, this is printed.
fn find(file: &str, variable: &str) -> io::Result<Option<PathBuf>> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut files = env::split_paths(&folders).map(|folder| folder.join(file));
    let found = named(variable).or_else(|| files.find(|file| file.is_file()));
    if found.is_none() {
        print(format_args!(
            "{file}: left out, because it was not found (the variable {variable} can name it)"
        ))?;
    }
    Ok(found)
}

/// The path of memtier_benchmark, if it exists.
pub fn memtier() -> io::Result<Option<PathBuf>> {
    find("memtier_benchmark", "MEMTIER")
}

/// The file that a variable names.
fn named(variable: &str) -> Option<PathBuf> {
    let value = env::var_os(variable).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

/// Describes a program, and prints its path and arguments.
fn program(name: &'static str, path: PathBuf, arguments: &str, port: Port) -> io::Result<Program> {
    print(format_args!("{name}: {} {arguments}", path.display()))?;
    Ok(Program {
        name,
        // It must be absolute, because the servers run in other folders.
        path: std::path::absolute(path)?,
        arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        port,
    })
}

/// This benchmark itself, as a program with these arguments.
pub fn ourselves(name: &'static str, arguments: &[&str]) -> io::Result<Program> {
    Ok(Program {
        name,
        path: env::current_exe()?,
        arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
        port: Port::Printed,
    })
}

impl Program {
    /// Starts it with these additional arguments, in a new folder, and waits until it accepts clients.
    pub fn start(&self, arguments: &[&str]) -> io::Result<Server> {
        self.start_in(Arc::new(Folder::new()), arguments)
    }

    /// The same in a given folder.
    pub fn start_in(&self, folder: Arc<Folder>, arguments: &[&str]) -> io::Result<Server> {
        let mut command = Command::new(&self.path);
        command
            .current_dir(folder.path())
            .args(&self.arguments)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let port = match self.port {
            Port::Printed => None,
            Port::Flag(flag) => {
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
        let mut output = String::new();
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
            output = output + &line + "\n";
        }
        Err(io::Error::other(format!(
            "{} does not listen; it printed: {:?}",
            self.name,
            output.trim()
        )))
    }
}

/// A server in a process of its own. It is killed when it goes out of scope.
pub struct Server {
    pub name: &'static str,
    pub address: String,
    child: Child,
    pub folder: Arc<Folder>,
}

impl Server {
    /// The lines that it prints on standard output and standard error.
    fn lines(&mut self) -> Receiver<String> {
        let (sender, lines) = mpsc::channel();
        let stdout = self.child.stdout.take().map(|stream| Box::new(stream) as _);
        let stderr = self.child.stderr.take().map(|stream| Box::new(stream) as _);
        let streams: [Option<Box<dyn Read + Send>>; 2] = [stdout, stderr];
        for stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            let lines = BufReader::new(stream).lines().map_while(Result::ok);
            // It reads to the end even if the receiver is gone: a server that prints into a full pipe would wait.
            thread::spawn(move || lines.for_each(|line| _ = sender.send(line)));
        }
        lines
    }

    /// How much memory is resident, in bytes. Waits until that hardly changes, because memcached moves items in a
    /// thread.
    pub fn resident(&self) -> io::Result<u64> {
        let mut before = self.memory("VmRSS")?;
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(150));
            let now = self.memory("VmRSS")?;
            if now.abs_diff(before) < 64 * 1024 {
                return Ok(now);
            }
            before = now;
        }
        Ok(before)
    }

    /// The most memory that was ever resident, in bytes.
    pub fn peak(&self) -> io::Result<u64> {
        self.memory("VmHWM")
    }

    /// How many seconds the processors have worked for it. `None` if the system does not say.
    pub fn cpu_seconds(&self) -> Option<f64> {
        cpu_seconds(self.child.id())
    }

    fn memory(&self, name: &str) -> io::Result<u64> {
        let kilobytes = memory(self.child.id(), name);
        kilobytes
            .map(|kilobytes| kilobytes * 1024)
            .ok_or_else(|| io::Error::other(format!("{} has ended", self.name)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
