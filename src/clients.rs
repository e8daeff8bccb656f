//! Who is connected: the permits that are given out, and how all of them come back when the server stops.
//!
//! A connection holds a [`Permit`] from before it is handed to a worker until the worker is done with it. There are
//! never more permits than workers, so every client that has a permit has a worker.

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::stopper::Stopper;

/// How long the next client waits for a permit when all are given out: one that has just closed its connection may
/// not have been noticed yet. Of a crowd that comes at the same time only the first waits, since a refusal should
/// be quick.
const PERMIT_GRACE: Duration = Duration::from_millis(20);

/// How long sockets stay open after their last answer when the server stops: closing a socket that has unread input
/// sends a reset, and a reset discards what has not arrived yet.
const LAST_ANSWER_GRACE: Duration = Duration::from_millis(100);

/// All connections.
#[derive(Debug)]
pub struct Clients {
    limit: usize,
    admitted: Mutex<BTreeMap<u64, Arc<Client>>>,
    /// When a client was last refused.
    refused: Mutex<Option<Instant>>,
    /// While the server stops: clients that have received their last answer. Their sockets stay open until the end.
    finished: Mutex<Vec<Arc<Client>>>,
    /// A permit has come back.
    changed: Condvar,
    stopper: Stopper,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// Its socket: the one file descriptor that it costs.
    pub stream: TcpStream,
    /// The other end.
    pub address: SocketAddr,
    /// When it last sent something, by the store's clock.
    pub last_command: AtomicU32,
    /// Whether the server waits for this client (and not the other way round).
    pub awaits_command: AtomicBool,
}

/// A connection's right to be served. Dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    clients: Arc<Clients>,
    number: u64,
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
        if self.clients.stopping() {
            lock(&self.clients.finished).push(Arc::clone(&self.client));
        }
        lock(&self.clients.admitted).remove(&self.number);
        self.clients.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clients {
    /// Nobody yet, and never more than `limit`. `stopper` tells when the server is to stop.
    pub fn new(limit: usize, stopper: Stopper) -> Self {
        Clients {
            limit,
            admitted: Mutex::default(),
            refused: Mutex::default(),
            finished: Mutex::default(),
            changed: Condvar::new(),
            stopper,
        }
    }

    /// Gives an accepted connection a permit, if there is a worker for it: `workers` is how many there are.
    ///
    /// # Errors
    /// The connection itself, when all permits are given out.
    pub fn admit(
        self: &Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        now: u32,
        workers: usize,
    ) -> Result<Permit, TcpStream> {
        let limit = self.limit.min(workers);
        let mut admitted = lock(&self.admitted);
        if admitted.len() >= limit {
            let in_a_crowd = lock(&self.refused).is_some_and(|last| last.elapsed() < PERMIT_GRACE);
            let grace = if in_a_crowd {
                Duration::ZERO
            } else {
                PERMIT_GRACE
            };
            (admitted, _) = self
                .changed
                .wait_timeout_while(admitted, grace, |admitted| admitted.len() >= limit)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if admitted.len() >= limit {
            *lock(&self.refused) = Some(Instant::now());
            return Err(stream);
        }
        let number = admitted.last_key_value().map_or(0, |(last, _)| last + 1);
        let client = Arc::new(Client {
            stream,
            address,
            last_command: AtomicU32::new(now),
            awaits_command: AtomicBool::new(true),
        });
        admitted.insert(number, Arc::clone(&client));
        Ok(Permit {
            clients: Arc::clone(self),
            number,
            client,
        })
    }

    /// How many are connected.
    pub fn connected(&self) -> usize {
        lock(&self.admitted).len()
    }

    /// Asks the server to stop.
    pub fn stop(&self) {
        self.stopper.stop();
    }

    /// Whether the server is to stop: no further command is begun.
    pub fn stopping(&self) -> bool {
        self.stopper.is_stopping()
    }

    /// Closes all connections: nothing more is read from them, and commands that are being executed are finished and
    /// answered. Waits for that, but not longer than `grace`: a client that does not read its answers must not hold
    /// up the end, and is cut off. Returns how many clients were cut off.
    pub fn close_all(&self, grace: Duration) -> usize {
        let admitted = lock(&self.admitted);
        for client in admitted.values() {
            // This fails if the client has just hung up, which is just as good.
            let _ = client.stream.shutdown(Shutdown::Read);
        }
        let (admitted, _) = self
            .changed
            .wait_timeout_while(admitted, grace, |admitted| !admitted.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let left = admitted.len();
        for client in admitted.values() {
            // The worker that waits for this client is woken, and finds that it cannot send.
            let _ = client.stream.shutdown(Shutdown::Both);
        }
        drop(admitted);
        if !lock(&self.finished).is_empty() {
            std::thread::sleep(LAST_ANSWER_GRACE);
            lock(&self.finished).clear();
        }
        left
    }

    /// `stats conns`: names and values, four for each client.
    pub fn describe(&self, now: u32) -> Vec<(String, String)> {
        let admitted = lock(&self.admitted);
        let describe = |client: &Arc<Client>| {
            let listener = client
                .stream
                .local_addr()
                .map_or_else(|_| "?".into(), |address| address.to_string());
            let state = if client.awaits_command.load(Relaxed) {
                "conn_read"
            } else {
                "conn_parse_cmd"
            };
            [
                ("addr", format!("tcp:{}", client.address)),
                ("listen_addr", format!("tcp:{listener}")),
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
