//! Lines for the operator of the server.
//!
//! A closed or full standard output or standard error is not an error. If standard error is a pipe that no program
//! reads, a write to it blocks for ever. So a thread of its own writes the lines, from a queue. It lives as long as
//! there is a server or a line.
//!
//! Invariant: [`line()`] never waits for standard error, and the queue has at most [`MAX_QUEUED`] bytes. Lines that do
//! not fit are dropped and counted.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many bytes of lines may wait: about ten thousand lines, so that a terminal keeps up with `-vv`.
const MAX_QUEUED: usize = 1 << 20;

/// Lines that wait for standard error.
struct Queue {
    lines: VecDeque<String>,
    /// The bytes of `lines`.
    bytes: usize,
    /// How many lines were dropped since this was last printed.
    dropped: u64,
    /// Whether a thread writes the lines.
    has_writer: bool,
    /// Whether the thread has written every line.
    is_written: bool,
    /// How many servers want the writer to wait for more lines.
    servers: usize,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    lines: VecDeque::new(),
    bytes: 0,
    dropped: 0,
    has_writer: false,
    is_written: true,
    servers: 0,
});

/// Is notified when there is a line, and when the last server has ended.
static CHANGED: Condvar = Condvar::new();

/// Is notified when all lines are written.
static WRITTEN: Condvar = Condvar::new();

/// As long as this lives, there is a thread that writes lines: a server that has got its last thread can still print.
#[derive(Debug)]
pub struct Writer(());

impl Writer {
    /// Starts the thread, if there is none.
    pub fn start() -> Self {
        let mut queue = lock();
        queue.servers += 1;
        start_writer(queue);
        Writer(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock().servers -= 1;
        CHANGED.notify_all();
    }
}

/// Writes one line to standard error. `trace` calls it for `-v` and `-vv`; other callers print what the operator must
/// know even without `-v`.
pub fn line(line: impl Display) {
    // A unit test's lines belong to that test. Only this macro's are kept back until the test fails.
    #[cfg(test)]
    eprintln!("{line}");
    #[cfg(not(test))]
    enqueue(format!("{line}\n"));
}

#[cfg_attr(test, allow(dead_code))]
fn enqueue(line: String) {
    let mut queue = lock();
    if queue.bytes + line.len() > MAX_QUEUED {
        queue.dropped += 1;
        return;
    }
    queue.bytes += line.len();
    queue.lines.push_back(line);
    queue.is_written = false;
    CHANGED.notify_all();
    start_writer(queue);
}

/// Starts a thread that writes the lines, if there is none. If the system has no thread, the lines wait: the next line
/// tries again.
fn start_writer(mut queue: MutexGuard<'static, Queue>) {
    if !queue.has_writer {
        let writer = thread::Builder::new().name("log".into());
        queue.has_writer = writer.spawn(write_queued).is_ok();
    }
}

/// Writes lines until there are none, and no server.
fn write_queued() {
    let mut queue = lock();
    loop {
        let line = match queue.lines.pop_front() {
            Some(line) => {
                queue.bytes -= line.len();
                line
            }
            None if queue.dropped > 0 => {
                let dropped = std::mem::take(&mut queue.dropped);
                format!("rustmemc: {dropped} lines were dropped: standard error was not read\n")
            }
            None => {
                queue.is_written = true;
                WRITTEN.notify_all();
                if queue.servers == 0 {
                    break;
                }
                queue = CHANGED.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
        };
        drop(queue);
        // One write, so that no other line gets into this one.
        let _ = io::stderr().write_all(line.as_bytes());
        queue = lock();
    }
    queue.has_writer = false;
}

/// Waits until all lines are written, but not longer than `at_most`. Call this before the process ends.
pub fn flush(at_most: Duration) {
    let queue = lock();
    if !queue.has_writer && queue.servers == 0 {
        // The system has had no thread for them.
        drop(queue);
        return write_queued();
    }
    // The line that the thread has taken may not be written yet, so an empty queue is not enough.
    let is_busy = |queue: &mut Queue| queue.has_writer && !queue.is_written;
    let wait = WRITTEN.wait_timeout_while(queue, at_most, is_busy);
    drop(wait.unwrap_or_else(PoisonError::into_inner));
}

fn lock() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes one line, or a longer text, to standard output. It is for the addresses, and for `-h` and `-V`.
pub fn print(text: impl Display) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
