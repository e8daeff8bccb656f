//! The pool of workers. It grows as clients come: a worker starts when a client finds none free, and stays.

use std::cell::Cell;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use threadpool::ThreadPool;

use super::start_error::StartError;
use crate::log;

/// A worker's stack, in bytes. It is small, because every client costs one: a worker's buffers are on the heap,
/// and nothing recurses.
const STACK: usize = 128 << 10;

/// How long the pool does not try to grow after the system has refused a thread. A client that is refused
/// meanwhile costs no attempt.
const GROW_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How often a stopping server looks whether its threads have ended.
pub const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How many memory mappings one worker takes at most: its stack, the stack for its signals, and a guard page
/// for each of them.
const MAPPINGS_PER_WORKER: usize = 4;

/// How many memory mappings are left for everything else, such as the items.
const SPARE_MAPPINGS: usize = 1000;

/// The workers. Each serves one client at a time.
#[derive(Debug)]
pub struct Workers {
    pool: ThreadPool,
    /// The pool never has more workers than this.
    limit: usize,
    /// How many workers the system's limit on memory mappings allows, when it was last read.
    mappings_allow: usize,
    /// When the system last refused a worker; `None` if it has given one since.
    refused: Option<Instant>,
}

impl Workers {
    /// Starts the first worker. There will be at most `limit`.
    ///
    /// # Errors
    /// [`StartError::NoWorker`]: the system does not give a single thread.
    pub fn start(limit: usize) -> Result<Self, StartError> {
        let build = || {
            threadpool::Builder::new()
                .num_threads(1)
                .thread_name("worker".into())
                .thread_stack_size(STACK)
                .build()
        };
        let pool = catch_refusal(build).ok_or(StartError::NoWorker)?;
        Ok(Workers {
            pool,
            limit,
            mappings_allow: mappings_allow(),
            refused: None,
        })
    }

    /// How many workers there are, busy or idle.
    pub fn count(&self) -> usize {
        self.pool.max_count()
    }

    /// Starts one more worker, unless there are enough or the system has just refused one.
    pub fn grow(&mut self) {
        let recently = |refused: Instant| refused.elapsed() < GROW_RETRY_INTERVAL;
        if self.count() >= self.limit || self.refused.is_some_and(recently) {
            return;
        }
        let Err(reason) = self.start_one() else {
            self.refused = None;
            return;
        };
        if self.refused.replace(Instant::now()).is_none() {
            log::line(format_args!(
                "rustmemc: {reason}: {} clients are served at once, and others are refused",
                self.count()
            ));
        }
    }

    /// Starts one more worker, or says why the system does not allow it.
    fn start_one(&mut self) -> Result<(), &'static str> {
        let count = self.count();
        // A process that has no mappings left cannot even allocate memory for a panic: it is aborted. So this
        // limit is not tried out.
        if count >= self.mappings_allow {
            self.mappings_allow = mappings_allow();
            if count >= self.mappings_allow {
                return Err("the system gives no more memory mappings (vm.max_map_count)");
            }
        }
        // One at a time, so that after a panic it is known how many there are.
        if catch_refusal(|| self.pool.set_num_threads(count + 1)).is_none() {
            // The pool stores the number before it starts the thread. A smaller number starts nothing.
            self.pool.set_num_threads(count);
            return Err("the system gives no more threads");
        }
        Ok(())
    }

    /// Gives a worker something to do. It must not panic: the pool would start another worker in place of the one
    /// that is lost, and that the system refuses it would be a panic during a panic, which aborts the process.
    pub fn execute(&self, job: impl FnOnce() + Send + 'static) {
        self.pool.execute(job);
    }

    /// Waits until no worker is busy, but not longer than until `deadline`. Then idle workers end, and a busy one ends
    /// when it is done.
    pub fn finish(self, deadline: Instant) {
        let is_busy = || self.pool.queued_count() + self.pool.active_count() > 0;
        while is_busy() && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// How many workers the system's limit on memory mappings allows.
fn mappings_allow() -> usize {
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count");
    match limit.ok().and_then(|text| text.trim().parse().ok()) {
        Some(mappings) => usize::saturating_sub(mappings, SPARE_MAPPINGS) / MAPPINGS_PER_WORKER,
        None => usize::MAX,
    }
}

thread_local! {
    /// Whether a panic of this thread is expected, and is not printed.
    static PANIC_IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs something that starts threads with `threadpool`, which panics when the system refuses one; `None` if so.
/// This panic is not printed; all others are, also those that other threads have meanwhile.
fn catch_refusal<T>(start: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !PANIC_IS_EXPECTED.get() {
                print(info);
            }
        }));
    });
    PANIC_IS_EXPECTED.set(true);
    let started = panic::catch_unwind(AssertUnwindSafe(start));
    PANIC_IS_EXPECTED.set(false);
    started.ok()
}
