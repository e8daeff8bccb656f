//! The pool of workers. It grows with the number of clients: when a client comes and no worker is idle, a worker is
//! started. It stays until the server stops.

use std::cell::{Cell, RefCell};
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use threadpool::ThreadPool;

use super::start_error::StartError;
use crate::log;

/// A worker's stack, in bytes. It is small, because every client needs one. A small stack is enough, because a worker's
/// buffers are on the heap, and nothing recurses.
const STACK_SIZE: usize = 128 << 10;

/// How long the pool waits before it tries to grow again, after the system has refused a thread. A client that comes
/// meanwhile is refused without another attempt.
const GROW_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How often a stopping server checks whether its threads have ended.
pub const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How many memory mappings one worker needs at most: its stack, its signal stack, and a guard page for each of
/// the two.
const MAPPINGS_PER_WORKER: usize = 4;

/// How many memory mappings are kept for everything else, such as the items.
const SPARE_MAPPINGS: usize = 1000;

/// The workers. Each serves one client at a time.
#[derive(Debug)]
pub struct Workers {
    pool: ThreadPool,
    /// The pool never has more workers than this.
    limit: usize,
    /// How many workers the system's limit on memory mappings allowed when it was last read.
    limit_by_mappings: usize,
    /// The thread of each worker has a copy, and drops it when it ends: `threadpool` has no way to join its threads.
    alive: Arc<()>,
    /// When the system last refused a worker; `None` if it has allowed one since.
    last_refusal: Option<Instant>,
}

impl Workers {
    /// Starts the first worker. There will be at most `limit`.
    ///
    /// # Errors
    /// [`StartError::NoWorker`]: the system allows no thread at all.
    pub fn start(limit: usize) -> Result<Self, StartError> {
        let build = || {
            threadpool::Builder::new()
                .num_threads(1)
                .thread_name("worker".into())
                .thread_stack_size(STACK_SIZE)
                .build()
        };
        let pool = catch_refusal(build).ok_or(StartError::NoWorker)?;
        let workers = Workers {
            pool,
            limit,
            limit_by_mappings: limit_by_mappings(),
            alive: Arc::default(),
            last_refusal: None,
        };
        // The first worker gets its copy even if no client ever comes.
        workers.execute(|| ());
        Ok(workers)
    }

    /// How many workers there are, busy or idle.
    pub fn count(&self) -> usize {
        self.pool.max_count()
    }

    /// Starts one more worker, unless the limit is reached or the system has just refused one.
    pub fn grow(&mut self) {
        let is_recent = |refusal: Instant| refusal.elapsed() < GROW_RETRY_INTERVAL;
        if self.count() >= self.limit || self.last_refusal.is_some_and(is_recent) {
            return;
        }
        let Err(reason) = self.start_one() else {
            self.last_refusal = None;
            return;
        };
        if self.last_refusal.replace(Instant::now()).is_none() {
            log::line(format_args!(
                "rustmemc: {reason}: {} clients can be served at once, and others are refused",
                self.count()
            ));
        }
    }

    /// Starts one more worker.
    ///
    /// # Errors
    /// Why the system does not allow it.
    fn start_one(&mut self) -> Result<(), &'static str> {
        let count = self.count();
        // A process that has no mappings left cannot even allocate memory for a panic, and is aborted. So the
        // limit is checked before a thread is started.
        if count >= self.limit_by_mappings {
            self.limit_by_mappings = limit_by_mappings();
            if count >= self.limit_by_mappings {
                return Err("the system allows no more memory mappings (raise vm.max_map_count)");
            }
        }
        // Workers are started one at a time, so that their number is known after a panic.
        if catch_refusal(|| self.pool.set_num_threads(count + 1)).is_none() {
            // The pool stored the larger number before the thread failed to start. So the old number is set again,
            // which starts no thread.
            self.pool.set_num_threads(count);
            return Err("the system allows no more threads");
        }
        Ok(())
    }

    /// Gives a job to a worker. The job must not panic: the pool would replace the lost worker by a new one, and if the
    /// system refused the new one, there would be a panic during a panic, which aborts the process.
    pub fn execute(&self, job: impl FnOnce() + Send + 'static) {
        let alive = Arc::clone(&self.alive);
        self.pool.execute(move || {
            ALIVE.set(Some(alive));
            job();
        });
    }

    /// Waits until all workers have ended, or until `deadline`. A worker that is busy ends when its job is done.
    pub fn finish(self, deadline: Instant) {
        let Workers { pool, alive, .. } = self;
        // Without the pool, a worker ends as soon as it has nothing to do.
        drop(pool);
        while Arc::strong_count(&alive) > 1 && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// How many workers the system's limit on memory mappings allows.
fn limit_by_mappings() -> usize {
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count");
    match limit.ok().and_then(|text| text.trim().parse().ok()) {
        Some(mappings) => usize::saturating_sub(mappings, SPARE_MAPPINGS) / MAPPINGS_PER_WORKER,
        None => usize::MAX,
    }
}

thread_local! {
    /// A worker's copy of [`Workers::alive`].
    static ALIVE: RefCell<Option<Arc<()>>> = const { RefCell::new(None) };

    /// Whether a panic of this thread is expected, and must not be printed.
    static PANIC_IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `start`, which starts threads with `threadpool`. Returns `None` if the system refused a thread: `threadpool`
/// panics then. This panic is not printed; all others are, also a panic of another thread at the same time.
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
