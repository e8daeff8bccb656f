//! The connected clients: each has a permit. When the server stops, it closes all connections, and waits until all
//! permits are returned.
//!
//! A connection gets its [`Permit`] before it is handed to a worker, and keeps it until the worker is done with it.
//! There are never more permits than workers, so every client that has a permit has a worker.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::stopper::Stopper;
use crate::stream::{Address, Stream};

/// How long a new client waits for a permit when none is free. It may get one: the server may not have noticed yet that
/// another client has just closed its connection. If many clients come at the same time, only the first waits, because
/// a refusal should be quick.
const PERMIT_GRACE: Duration = Duration::from_millis(20);

/// How long sockets stay open after their last answer when the server stops. Closing a socket that has unread input
/// sends a reset, and a reset discards answers that have not arrived yet.
const LAST_ANSWER_GRACE: Duration = Duration::from_millis(100);

/// All connections.
#[derive(Debug)]
pub struct Clients {
    /// The memory that they share for long lines.
    pub line_memory: LineMemory,
    /// The file descriptor of the client that has sent bytes last.
    last_sender: AtomicI32,
    limit: usize,
    admitted: Mutex<BTreeMap<u64, Arc<Client>>>,
    /// When a client was last refused.
    last_refusal: Mutex<Option<Instant>>,
    /// Used while the server stops: clients to which the last answer was sent. Their sockets stay open until the end.
    finished: Mutex<Vec<Arc<Client>>>,
    /// Wakes threads that wait for a permit to be returned.
    permit_returned: Condvar,
    stopper: Stopper,
}

/// The memory that all connections share for `get` lines of more than 64 KB (`connection/line.rs`).
#[derive(Debug, Default)]
pub struct LineMemory {
    /// How many bytes are taken.
    taken: AtomicUsize,
}

impl LineMemory {
    /// How many bytes there are: 16 MB.
    const SIZE: usize = 16 << 20;

    /// Takes this number of bytes. Returns whether they were free.
    pub fn take(&self, bytes: usize) -> bool {
        let take = |taken| Some(taken + bytes).filter(|&taken| taken <= Self::SIZE);
        self.taken.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Gives back bytes that were taken.
    pub fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Relaxed);
    }

    /// Whether nothing is taken.
    #[cfg(test)]
    pub fn is_unused(&self) -> bool {
        self.taken.load(Relaxed) == 0
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// Its socket, which is the only file descriptor that a client needs.
    pub stream: Stream,
    /// The client's address.
    pub address: Address,
    /// When the client last sent bytes of a command, by the store's clock. A data block does not count.
    pub last_command: AtomicU32,
    /// An [`Activity`].
    activity: AtomicU8,
}

/// What a connection does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It waits for the client's next command.
    AwaitsCommand,
    /// It waits for a data block.
    AwaitsBlock,
    /// It waits for the rest of a data block, or of a line, that was refused.
    AwaitsRefusedBlock,
    /// It executes a command.
    Executes,
    /// It sends events to a watcher.
    Watches,
}

impl Activity {
    /// memcached's names for them, in the same order.
    const STATES: [&str; 5] = [
        "conn_new_cmd",
        "conn_nread",
        "conn_swallow",
        "conn_parse_cmd",
        "conn_watch",
    ];
}

impl Client {
    /// Sets what `stats conns` shows.
    pub fn set_activity(&self, activity: Activity) {
        self.activity.store(activity as u8, Relaxed);
    }
}

/// A connection's right to be served. Dropping the permit returns it.
#[derive(Debug)]
pub struct Permit {
    clients: Arc<Clients>,
    id: u64,
    client: Arc<Client>,
}

impl Permit {
    /// The client that holds it.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.clients.is_stopping() {
            lock(&self.clients.finished).push(Arc::clone(&self.client));
        }
        lock(&self.clients.admitted).remove(&self.id);
        self.clients.permit_returned.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clients {
    /// No clients yet, and never more than `limit`. `stopper` is the one that stops the server.
    pub fn new(limit: usize, stopper: Stopper) -> Self {
        Clients {
            line_memory: LineMemory::default(),
            last_sender: AtomicI32::new(-1),
            limit,
            admitted: Mutex::default(),
            last_refusal: Mutex::default(),
            finished: Mutex::default(),
            permit_returned: Condvar::new(),
            stopper,
        }
    }

    /// Gives an accepted connection a permit, if one is free. `workers` is the number of workers: there are never more
    /// permits than that. `now` is the time of the store's clock.
    ///
    /// # Errors
    /// The connection itself, if no permit is free or the server is stopping.
    pub fn admit(
        self: &Arc<Self>,
        stream: Stream,
        address: Address,
        now: u32,
        workers: usize,
    ) -> Result<Permit, Stream> {
        let limit = self.limit.min(workers);
        let mut admitted = lock(&self.admitted);
        // `close_all` closes those that are admitted, and must not miss one.
        if self.is_stopping() {
            return Err(stream);
        }
        if admitted.len() >= limit {
            let has_just_refused =
                lock(&self.last_refusal).is_some_and(|last| last.elapsed() < PERMIT_GRACE);
            let grace = if has_just_refused {
                Duration::ZERO
            } else {
                PERMIT_GRACE
            };
            (admitted, _) = self
                .permit_returned
                .wait_timeout_while(admitted, grace, |admitted| admitted.len() >= limit)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if admitted.len() >= limit {
            *lock(&self.last_refusal) = Some(Instant::now());
            return Err(stream);
        }
        let id = admitted.last_key_value().map_or(0, |(last, _)| last + 1);
        let client = Arc::new(Client {
            stream,
            address,
            last_command: AtomicU32::new(now),
            activity: AtomicU8::new(Activity::AwaitsCommand as u8),
        });
        admitted.insert(id, Arc::clone(&client));
        Ok(Permit {
            clients: Arc::clone(self),
            id,
            client,
        })
    }

    /// How many clients may be connected at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many clients are connected.
    pub fn connected(&self) -> usize {
        lock(&self.admitted).len()
    }

    /// Notes that a client has sent something. Returns whether what the server received before came from this client
    /// too: then no other client is active.
    pub fn note_sender(&self, client: &Client) -> bool {
        let descriptor = client.stream.as_raw_fd();
        self.last_sender.swap(descriptor, Relaxed) == descriptor
    }

    /// Asks the server to stop.
    pub fn stop(&self) {
        self.stopper.stop();
    }

    /// Whether the server was asked to stop. Then no further command is executed.
    pub fn is_stopping(&self) -> bool {
        self.stopper.is_stopping()
    }

    /// Closes all connections. Nothing more is read from them. Commands that are being executed are finished and
    /// answered. This waits until all permits are returned, or until `grace` has passed. Then the remaining clients are
    /// cut off, because a client that does not read its answers must not delay the stop. Returns how many were cut off.
    pub fn close_all(&self, grace: Duration) -> usize {
        let admitted = lock(&self.admitted);
        for client in admitted.values() {
            // This fails if the client has just closed its connection. Then there is nothing to do.
            let _ = client.stream.shutdown(Shutdown::Read);
        }
        let (admitted, _) = self
            .permit_returned
            .wait_timeout_while(admitted, grace, |admitted| !admitted.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let cut_off = admitted.len();
        for client in admitted.values() {
            // This wakes the worker that waits for this client: it gets an error when it sends.
            let _ = client.stream.shutdown(Shutdown::Both);
        }
        drop(admitted);
        if !lock(&self.finished).is_empty() {
            std::thread::sleep(LAST_ANSWER_GRACE);
            lock(&self.finished).clear();
        }
        cut_off
    }

    /// The answer to `stats conns`: four names and values for each client.
    pub fn describe(&self, now: u32) -> Vec<(String, String)> {
        let admitted = lock(&self.admitted);
        let describe = |client: &Arc<Client>| {
            let listener = client.stream.local_address();
            let listener = listener.map_or_else(|| "?".into(), |address| address.with_kind());
            let activity = usize::from(client.activity.load(Relaxed));
            let state = *Activity::STATES.get(activity).unwrap_or(&"");
            [
                ("addr", client.address.with_kind()),
                ("listen_addr", listener),
                ("state", state.into()),
                (
                    "secs_since_last_cmd",
                    now.saturating_sub(client.last_command.load(Relaxed))
                        .to_string(),
                ),
            ]
            .map(|(name, value)| (format!("{}:{name}", client.stream.as_raw_fd()), value))
        };
        admitted.values().flat_map(describe).collect()
    }
}
