//! Who is connected: the places that are taken, and how they are all vacated when the server stops.
//!
//! A connection holds a [`Place`] from before it is handed to the pool until its worker is done with
//! it. There are as many workers as places, so nobody who has a place waits for a worker.

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A client that has just hung up may not have been noticed yet. So long its place is waited for before
/// the next one is refused; once for a crowd that comes at the same time, since a refusal should be quick.
const GRACE: Duration = Duration::from_millis(20);

/// What was sent last needs a moment to arrive: closing a socket that has unread input sends a reset, and
/// that throws away what is still under way.
const PARTING: Duration = Duration::from_millis(100);

/// All connections.
#[derive(Debug)]
pub struct Clients {
    limit: usize,
    taken: Mutex<BTreeMap<u64, Arc<Client>>>,
    /// When somebody was refused last.
    refused: Mutex<Option<Instant>>,
    /// While the server stops: those who have got their last answer. Their sockets stay open until the end.
    parting: Mutex<Vec<Arc<Client>>>,
    /// A place has become free, or the server is to stop.
    changed: Condvar,
    stopping: AtomicBool,
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
    pub waited_for: AtomicBool,
}

/// A connection's right to be served; dropping it frees the place.
#[derive(Debug)]
pub struct Place {
    clients: Arc<Clients>,
    number: u64,
    client: Arc<Client>,
}

impl Place {
    /// Who has the place.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.clients.stopping() {
            lock(&self.clients.parting).push(Arc::clone(&self.client));
        }
        lock(&self.clients.taken).remove(&self.number);
        self.clients.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clients {
    /// Nobody yet, and at most `limit`.
    pub fn new(limit: usize) -> Self {
        Clients {
            limit,
            taken: Mutex::default(),
            refused: Mutex::default(),
            parting: Mutex::default(),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Gives an accepted connection a place.
    ///
    /// # Errors
    /// The connection itself, when all places are taken.
    pub fn admit(
        self: &Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        now: u32,
    ) -> Result<Place, TcpStream> {
        let mut taken = lock(&self.taken);
        if taken.len() >= self.limit {
            let in_a_crowd = lock(&self.refused).is_some_and(|last| last.elapsed() < GRACE);
            let grace = if in_a_crowd { Duration::ZERO } else { GRACE };
            (taken, _) = self
                .changed
                .wait_timeout_while(taken, grace, |taken| taken.len() >= self.limit)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if taken.len() >= self.limit {
            *lock(&self.refused) = Some(Instant::now());
            return Err(stream);
        }
        let number = taken.last_key_value().map_or(0, |(last, _)| last + 1);
        let client = Arc::new(Client {
            stream,
            address,
            last_command: AtomicU32::new(now),
            waited_for: AtomicBool::new(true),
        });
        taken.insert(number, Arc::clone(&client));
        Ok(Place {
            clients: Arc::clone(self),
            number,
            client,
        })
    }

    /// How many are connected.
    pub fn connected(&self) -> usize {
        lock(&self.taken).len()
    }

    /// Asks the server to stop: from a signal, a command, or a test.
    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
        // With the lock held, so that nobody is between looking at the flag and going to sleep.
        let _taken = lock(&self.taken);
        self.changed.notify_all();
    }

    /// Whether the server is to stop: no further command is begun.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Waits until the server is to stop, or for this long; whether it is to stop.
    pub fn wait_for_stop(&self, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        let mut taken = lock(&self.taken);
        while !self.stopping() {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                break;
            };
            (taken, _) = self
                .changed
                .wait_timeout(taken, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.stopping()
    }

    /// Hangs up on everybody: nothing more is read from them, what is being executed is finished and
    /// answered. Waits for that, but no longer than `patience`: a client that does not read its answers
    /// must not hold up the end. Gives how many were left.
    pub fn hang_up(&self, patience: Duration) -> usize {
        let taken = lock(&self.taken);
        for client in taken.values() {
            // One that has hung up itself in this moment is an error, and as well.
            let _ = client.stream.shutdown(Shutdown::Read);
        }
        let (taken, _) = self
            .changed
            .wait_timeout_while(taken, patience, |taken| !taken.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let left = taken.len();
        drop(taken);
        if !lock(&self.parting).is_empty() {
            std::thread::sleep(PARTING);
            lock(&self.parting).clear();
        }
        left
    }

    /// `stats conns`: names and values, four a client.
    pub fn describe(&self, now: u32) -> Vec<(String, String)> {
        let taken = lock(&self.taken);
        let describe = |client: &Arc<Client>| {
            let listener = client
                .stream
                .local_addr()
                .map_or_else(|_| "?".into(), |address| address.to_string());
            let state = if client.waited_for.load(Relaxed) {
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
        taken.values().flat_map(describe).collect()
    }
}
