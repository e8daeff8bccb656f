//! Lines for the operator of the server.
//!
//! A closed or full standard output or standard error is not an error. If standard error is a pipe that no program
//! reads, a write to it blocks for ever. So a thread of its own writes the lines, from a queue. It starts when there
//! are lines, and ends when there are none.
//!
//! Invariant: [`line()`] never waits for standard error (unless the system has no thread for the writer), and the queue
//! has at most [`MAX_QUEUED`] bytes. Lines that do not fit are dropped and counted.

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
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    lines: VecDeque::new(),
    bytes: 0,
    dropped: 0,
    has_writer: false,
});

/// Is notified when the writer ends.
static WRITER_ENDED: Condvar = Condvar::new();

/// Writes one line to standard error. `trace` calls it for `-v` and `-vv`; other callers print what the operator must
/// know even without `-v`.
pub fn line(line: impl Display) {
    // `eprintln!` lets the test harness capture the line, and show it only if the test fails.
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
    if queue.has_writer {
        return;
    }
    queue.has_writer = true;
    drop(queue);
    let writer = thread::Builder::new().name("log".into());
    if writer.spawn(write_queued).is_err() {
        // The system has no thread left, so this thread writes. (The line may be about this.)
        write_queued();
    }
}

/// Writes lines until there are none.
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
            None => break,
        };
        drop(queue);
        // One write, so that no other line gets into this one.
        let _ = io::stderr().write_all(line.as_bytes());
        queue = lock();
    }
    queue.has_writer = false;
    WRITER_ENDED.notify_all();
}

/// Waits until all lines are written, but not longer than `at_most`. Call this before the process ends.
pub fn flush(at_most: Duration) {
    let wait = WRITER_ENDED.wait_timeout_while(lock(), at_most, |queue| queue.has_writer);
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
