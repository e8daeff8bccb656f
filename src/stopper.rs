//! How a server is told to stop, from any thread and at any time, also while it starts.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Tells one server to stop. Clones tell the same server.
#[derive(Debug, Clone, Default)]
pub struct Stopper(Arc<State>);

#[derive(Debug, Default)]
struct State {
    stopping: AtomicBool,
    /// Held while the flag is set, so that no thread is between reading the flag and waiting.
    lock: Mutex<()>,
    changed: Condvar,
}

impl Stopper {
    /// Asks the server to stop, and does not wait for it. A second call changes nothing.
    pub fn stop(&self) {
        let _lock = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.stopping.store(true, Relaxed);
        self.0.changed.notify_all();
    }

    /// Whether the server was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Relaxed)
    }

    /// Waits until the server is asked to stop, but not longer than `at_most`. Returns whether it was asked.
    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        let mut lock = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_stopping() {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                break;
            };
            (lock, _) = self
                .0
                .changed
                .wait_timeout(lock, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.is_stopping()
    }
}
