//! The server as a user runs it: the binary, in a process of its own, with its output and its exit code.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Client, TIMEOUT, system};

/// Waits until `condition` is true. Fails if that takes too long.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < TIMEOUT, "this did not happen: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Prints that a test, or a part of it, cannot be done here. `make test` prints these lines at the end: it collects
/// them in the file that `PASSED_OVER` names.
pub fn passed_over(why: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {why}\n", thread.name().unwrap_or("a test"));
    // This writes to standard error itself, because the test harness hides what `eprintln!` prints.
    let written = match std::env::var_os("PASSED_OVER").filter(|path| !path.is_empty()) {
        Some(path) => OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes())),
        None => std::io::stderr().write_all(format!("passed over: {line}").as_bytes()),
    };
    written.expect("the line can be written");
}

/// A rustmemc that runs or has ended. When it goes out of scope it is killed, and the test fails if it ever panicked.
pub struct Process {
    child: Child,
    stdout: Collected,
    stderr: Collected,
}

/// How a process ended.
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// Starts the binary with these flags, on a port that the system chooses, and waits until it listens.
pub fn spawn(flags: &str) -> Process {
    spawn_after("", flags)
}

/// The same, but a shell runs `prepare` first, such as `ulimit -n 20;`
pub fn spawn_after(prepare: &str, flags: &str) -> Process {
    let process = launch(prepare, &format!("-p 0 {flags}"));
    process.address();
    process
}

/// Starts the binary with only these flags, after a shell has run `prepare`. Does not wait until it listens.
/// It has an append-only file only if the flags contain a path: tests must not share a file.
pub fn launch(prepare: &str, flags: &str) -> Process {
    let log = if flags.contains("--aof ") {
        ""
    } else {
        "--no-aof"
    };
    // With `exec` the shell becomes the server, so the process id that we know is the server's.
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{prepare} exec \"$@\""), "sh"])
        .arg(env!("CARGO_BIN_EXE_rustmemc"))
        .args(log.split_whitespace().chain(flags.split_whitespace()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the server can be started");
    let stdout = Collected::from(child.stdout.take().expect("stdout is a pipe"));
    let stderr = Collected::from(child.stderr.take().expect("stderr is a pipe"));
    Process {
        child,
        stdout,
        stderr,
    }
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address that it has printed. Waits until that is printed.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let mut address = None;
        eventually("the server prints where it listens", || {
            let said = self.stdout.text();
            assert!(
                !said.is_empty() || !self.stdout.ended() || !self.stderr.ended(),
                "it ended at once: {}",
                self.stderr.text()
            );
            let first = said.split_once('\n').map(|(line, _)| line);
            address = first.map(|line| {
                let (_, address) = line
                    .split_once(" listening on ")
                    .expect("its first line is the address");
                address.parse().expect("it is an address")
            });
            address.is_some()
        });
        address.expect("it was printed")
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// One number of `stats`.
    pub fn count(&self, name: &str) -> u64 {
        let value = self.client().stat(name);
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number: {value}"))
    }

    /// What it has printed on standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has printed on standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Its memory in kilobytes: see [`system::memory`].
    pub fn memory(&self, name: &str) -> u64 {
        system::memory(self.pid(), name).expect("it still runs")
    }

    /// How much processor time it has used, in ticks. On any usual system a second has a hundred of them.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        let stat = stat.expect("it still runs");
        let (_, fields) = stat.rsplit_once(") ").expect("the name is in parentheses");
        let ticks = fields.split(' ').skip(11).take(2);
        ticks
            .map(|field| field.parse::<u64>().expect("ticks are a number"))
            .sum()
    }

    /// How often the thread of this name has slept to wait for something.
    #[track_caller]
    pub fn waits(&self, name: &str) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        let mut tasks = tasks.expect("it still runs").flatten();
        let status =
            |task: &std::fs::DirEntry, line| system::status(task.path().join("status"), line);
        let task = tasks.find(|task| status(task, "Name").is_some_and(|found| found == name));
        let task = task.expect("it has such a thread");
        let waits = status(&task, "voluntary_ctxt_switches");
        let waits = waits.and_then(|waits| waits.parse().ok());
        waits.expect("the system counts them")
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        self.entries("task")
    }

    /// How many file descriptors it has open.
    pub fn descriptors(&self) -> usize {
        self.entries("fd")
    }

    /// How many entries a folder has that the system keeps for the process.
    fn entries(&self, folder: &str) -> usize {
        let folder = std::fs::read_dir(format!("/proc/{}/{folder}", self.pid()));
        folder.expect("it still runs").count()
    }

    /// Sends a signal, such as `TERM` or `INT`.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.expect("there is a shell").success(), "{kill}");
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub fn outcome(mut self) -> Outcome {
        let start = Instant::now();
        let mut status = None;
        eventually("the server ends", || {
            status = self
                .child
                .try_wait()
                .expect("it can be asked whether it has ended");
            status.is_some()
        });
        let took = start.elapsed();
        self.stdout.finish();
        self.stderr.finish();
        Outcome {
            status: status.expect("it has ended"),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
            took,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // This fails if it has ended already, and that is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.stderr.finish();
        let said = self.stderr.text();
        if !std::thread::panicking() {
            assert!(!said.contains("panicked"), "the server printed:\n{said}");
        }
    }
}

/// The output of a pipe. A thread reads it at once, so that the process at the other end never has to wait.
struct Collected {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut room = [0; 4096];
            while let Ok(bytes @ 1..) = pipe.read(&mut room) {
                let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
                collected.extend_from_slice(&room[..bytes]);
            }
        });
        Collected {
            text,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    fn ended(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reading a pipe does not panic");
        }
    }
}
