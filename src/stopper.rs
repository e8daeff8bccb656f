//! Asks a server to stop, from any thread and at any time, also while the server starts.
//!
//! Lesson: [19](crate::conversations::lesson_19_shutdown).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Asks one server to stop. All clones belong to the same server.
#[derive(Debug, Clone, Default)]
pub struct Stopper(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_stopping: AtomicBool,
    /// `stop` holds this lock when it sets the flag. Otherwise a thread that has read the flag, and does not wait yet,
    /// would miss the wake.
    lock: Mutex<()>,
    /// Wakes the threads that wait in [`Stopper::wait`].
    stopped: Condvar,
}

impl Stopper {
    /// Asks the server to stop, and does not wait until it has stopped. A second call changes nothing.
    pub fn stop(&self) {
        let _lock = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.is_stopping.store(true, Relaxed);
        self.0.stopped.notify_all();
    }

    /// Whether the server was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.0.is_stopping.load(Relaxed)
    }

    /// Waits until the server is asked to stop, or until `at_most` has passed. Returns whether it was asked.
    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        let mut lock = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_stopping() {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                break;
            };
            (lock, _) = self
                .0
                .stopped
                .wait_timeout(lock, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.is_stopping()
    }
}
