//! The server as its user has it: the binary, in a process of its own, with its output and its exit code.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Client, TIMEOUT};

/// Looks until `condition` holds; fails when it does not become true in time.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < TIMEOUT, "this did not happen: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Says that a test, or a part of it, cannot be done here. `make test` prints these lines at the end: it names a file for
/// them in `PASSED_OVER`.
pub fn passed_over(why: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {why}\n", thread.name().unwrap_or("a test"));
    // Standard error itself, because the test harness hides what the macros print.
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

/// A running (or ended) rustmemc. Whatever happened to it, it must not have panicked: that is looked for
/// when it goes out of scope, and then it is killed.
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

/// Starts the binary on a port that the system chooses, with these flags too, and waits until it listens.
pub fn spawn(flags: &str) -> Process {
    spawn_after("", flags)
}

/// The same, from a shell that does something first: `ulimit -n 20;`
pub fn spawn_after(prepare: &str, flags: &str) -> Process {
    let process = launch(prepare, &format!("-p 0 {flags}"));
    process.address();
    process
}

/// Starts the binary with just these flags, and waits for nothing. `prepare` is what the shell does first.
/// There is an append-only file only if the flags say where: tests must not share one.
pub fn launch(prepare: &str, flags: &str) -> Process {
    let log = if flags.contains("--aof ") {
        ""
    } else {
        "--no-aof"
    };
    // With `exec` the process that we know the id of is the server itself.
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

    /// Where it listens, as it says itself.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let mut address = None;
        eventually("the server says where it listens", || {
            let said = self.stdout.text();
            assert!(
                !said.is_empty() || !self.stdout.ended() || !self.stderr.ended(),
                "it ended at once: {}",
                self.stderr.text()
            );
            address = said
                .lines()
                .next()
                .filter(|_| said.contains('\n'))
                .map(|line| {
                    let (_, address) = line
                        .split_once(" listening on ")
                        .expect("its first line says it");
                    address.parse().expect("it is an address")
                });
            address.is_some()
        });
        address.expect("it was found")
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// One value out of `stats`, a number.
    pub fn count(&self, name: &str) -> u64 {
        let value = self.client().stat(name);
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number: {value}"))
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Its memory in kilobytes: `VmRSS` is what it has now, `VmHWM` the most that it ever had.
    pub fn memory(&self, which: &str) -> u64 {
        let status = self.proc("status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
            .unwrap_or_else(|| panic!("the system tells {which}"))
    }

    /// How much processor time it has used, in ticks: a hundred a second on any usual system.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = self.proc("stat");
        let (_, fields) = stat
            .rsplit_once(") ")
            .expect("the name stands in parentheses");
        let ticks = fields.split(' ').skip(11).take(2);
        ticks
            .map(|field| field.parse::<u64>().expect("ticks are a number"))
            .sum()
    }

    /// How often the thread of this name has gone to sleep to wait for something.
    #[track_caller]
    pub fn waits(&self, name: &str) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        let mut tasks = tasks.expect("it still runs").flatten();
        let read = |task: &std::fs::DirEntry, file| {
            // A thread may have ended meanwhile.
            std::fs::read_to_string(task.path().join(file)).unwrap_or_default()
        };
        let task = tasks.find(|task| read(task, "comm").trim() == name);
        let status = read(&task.expect("it has such a thread"), "status");
        let waits = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let waits = waits.and_then(|waits| waits.trim().parse().ok());
        waits.expect("the system counts them")
    }

    /// How many file descriptors it has open.
    pub fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(folder)
            .expect("the system tells them")
            .count()
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid())).expect("it still runs")
    }

    /// Sends a signal: `TERM`, `INT`.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.expect("there is a shell").success(), "{kill}");
    }

    /// Waits until it has ended.
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
        // It may have ended already, and that is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.stderr.finish();
        let said = self.stderr.text();
        if !std::thread::panicking() {
            assert!(!said.contains("panicked"), "the server said:\n{said}");
        }
    }
}

/// What a pipe gives, read as it comes, so that the process at its other end never has to wait.
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

/// A bare connection: for clients that do not behave, and may find that the server has hung up.
pub fn stream(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream
        .set_read_timeout(Some(TIMEOUT))
        .expect("a timeout can be set");
    stream
        .set_write_timeout(Some(TIMEOUT))
        .expect("a timeout can be set");
    stream
}
