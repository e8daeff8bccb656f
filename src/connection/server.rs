//! Listens, accepts clients, hands each to a worker, refuses clients when there are too many, and stops.

use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::descriptors::SystemLimits;
use super::listener::{Listener, listen};
use super::start_error::StartError;
use super::workers::{POLL_INTERVAL, Workers};
use super::{conversation, wire};
use crate::clients::{Clients, Permit};
use crate::command::Service;
use crate::config::Config;
use crate::datastore::{Datastore, Limits, WhenFull};
use crate::log;
use crate::prefixes::Prefixes;
use crate::stats::{Counter, Stats};
use crate::stopper::Stopper;
use crate::stream::{Address, Stream};
use crate::users::Users;
use crate::watch::Watchers;

/// How often expired items are swept.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a stopping server waits for commands that are being executed and for their answers to be sent.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(1500);

/// How long a stopping server waits for its acceptors to end, and later for its other threads.
const THREADS_GRACE: Duration = Duration::from_millis(300);

/// How long an acceptor waits when the system lacks what it needs to accept a client (file descriptors, memory). This
/// is long enough not to spin, and short enough that a client does not notice it.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

/// The error of `accept` when the process has no file descriptor left. (std has no name for it.)
const EMFILE: i32 = 24;

/// The error of `accept` when the whole system has no file descriptor left.
const ENFILE: i32 = 23;

/// How often a stopping server tries again to wake acceptors that have not ended.
const WAKE_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// How many threads accept clients on each listening socket, at most. One is fast enough while it runs. The others
/// accept clients while it waits for a processor. The system's queue has only 128 places, and a client that finds it
/// full waits a second. When 10,000 clients came one after the other, on two processors, some waited in 14 of 15 runs
/// with 8 acceptors, in 13 of 20 with 16, and in 4 of 38 with 32. (With memcached in 7 of 15.)
const MAX_ACCEPTORS: usize = 32;

/// An accepted client, and its address.
type Newcomer = (Stream, Address);

/// A server. [`Server::start`] starts one, and returns a [`Running`].
///
/// Dropping this value stops the server (`Drop for Server`). Only the sweeper has it: see [`Server::run`]. Callers have
/// a [`Running`].
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    acceptors: Vec<Acceptors>,
    /// Hands accepted clients to the dispatcher. `None`: all acceptors are started, and have a copy.
    queue: Option<Sender<Newcomer>>,
    keeper: Option<JoinHandle<()>>,
    clock: Option<JoinHandle<()>>,
    dispatcher: Option<JoinHandle<Workers>>,
    /// Keeps the thread that prints lines. It is dropped last, because a stopping server prints lines too.
    _writer: log::Writer,
}

/// The threads that accept the clients of one listening socket.
#[derive(Debug)]
struct Acceptors {
    listener: Arc<Listener>,
    threads: Vec<JoinHandle<()>>,
}

/// A running server. It serves in its own threads, and stops when this value is dropped.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<Address>,
    stopper: Stopper,
    /// The thread that sweeps expired items, and finally ends the server.
    sweeper: Option<JoinHandle<()>>,
}

impl Running {
    /// The first TCP address of [`Running::addresses`]. If there is only a Unix socket, this is `0.0.0.0:0`.
    pub fn address(&self) -> SocketAddr {
        let nothing = (Ipv4Addr::UNSPECIFIED, 0);
        self.addresses
            .iter()
            .find_map(Address::tcp)
            .unwrap_or_else(|| nothing.into())
    }

    /// The addresses on which it listens: those of [`Config::listen`] in their order, then [`Config::unix_socket`]. For
    /// port 0 they have the port that the system chose.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// A value that can stop the server from another thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits until the server has stopped. Its [`Stopper`] and the command `shutdown` stop it.
    ///
    /// A stopping server finishes the commands that are being executed, closes all connections, and ends its threads,
    /// in about two seconds and the time that the disk takes for the last write and sync. A client that does not read
    /// its answers is cut off. A thread that still waits for the disk after that time is not waited for: it ends when
    /// the disk has answered.
    pub fn wait(&mut self) {
        if let Some(sweeper) = self.sweeper.take() {
            // The sweeper does not panic. If it did, the server would have been dropped, and so have ended.
            let _ = sweeper.join();
        }
    }

    /// Stops the server, and [waits](Running::wait) until it has stopped. A second call does nothing.
    pub fn stop(&mut self) {
        self.stopper.stop();
        self.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Server {
    /// Replays the append-only file, listens, and serves. Clients may connect as soon as this returns.
    ///
    /// # Errors
    /// See [`StartError`]. After an error no thread runs, no port is in use, and the file is not locked.
    pub fn start(config: Config) -> Result<Running, StartError> {
        Server::start_with(config, Stopper::default())
    }

    /// Like [`Server::start`], with a [`Stopper`] of the caller: it can stop the server while the file is replayed.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(config: Config, stopper: Stopper) -> Result<Running, StartError> {
        let writer = log::Writer::start();
        for note in &config.notes {
            log::line(format_args!("rustmemc: note: {note}"));
        }
        let read = |path: &PathBuf| {
            Users::read(path).map_err(|error| StartError::AuthFile {
                path: path.clone(),
                error,
            })
        };
        let users = config.auth_file.as_ref().map(read).transpose()?;
        let stats = Arc::new(Stats::default());
        // The file is replayed before the server listens: a client that connected during the replay would only wait.
        let watchers = Arc::new(Watchers::new(Arc::clone(&stats)));
        let store = open_store(&config, &stats, &watchers, &stopper)?;
        let listeners = listen(&config)?;
        let addresses: Vec<_> = listeners
            .iter()
            .map(|listener| listener.address.clone())
            .collect();
        let listening = listeners
            .iter()
            .map(|listener| (listener.as_fd().as_raw_fd(), listener.address.clone()))
            .collect();
        let limits = SystemLimits::read();
        let acceptors = limits.acceptors(MAX_ACCEPTORS, listeners.len());
        let conn_limit = limits.clients(config.conn_limit, listeners.len() * acceptors);
        let workers = Workers::start(conn_limit)?;
        let mut server = Server {
            service: Arc::new(Service {
                started: store.clock().now(),
                store,
                stats,
                watchers,
                users,
                prefixes: Prefixes::new(config.detail, config.prefix_delimiter),
                is_crawler_disabled: AtomicBool::new(false),
                clients: Arc::new(Clients::new(conn_limit, stopper.clone())),
                listening,
                verbosity: AtomicU32::new(config.verbosity),
                config,
            }),
            acceptors: listeners.into_iter().map(Acceptors::new).collect(),
            queue: None,
            keeper: None,
            clock: None,
            dispatcher: None,
            _writer: writer,
        };
        server.start_threads(workers, &stopper)?;
        let sweeper = {
            let stopper = stopper.clone();
            spawn("sweeper", move || server.run(acceptors, &stopper))?
        };
        Ok(Running {
            addresses,
            stopper,
            sweeper: Some(sweeper),
        })
    }

    /// Starts the server's own threads, except the sweeper, and one acceptor for each listening socket. They are
    /// started at once and not when they are first needed, because a client may take the last thread that the system
    /// allows.
    fn start_threads(&mut self, workers: Workers, stopper: &Stopper) -> Result<(), StartError> {
        let (service, stopping) = (Arc::clone(&self.service), stopper.clone());
        self.clock = Some(spawn("clock", move || {
            service.store.clock().keep(|time| stopping.wait(time));
        })?);
        let (service, stopper) = (Arc::clone(&self.service), stopper.clone());
        // The log has its own thread, because a sync or a rewrite may take long and would delay the sweeper.
        self.keeper = Some(spawn("log keeper", move || {
            service.store.keep_log(|| stopper.is_stopping());
        })?);
        // The dispatcher ends when every copy of `queue` is dropped: when the last acceptor has ended. The queue has no
        // bound, because acceptors must not wait for the dispatcher. Each client in it has a descriptor, and these are
        // limited.
        let (queue, accepted) = mpsc::channel();
        let service = Arc::clone(&self.service);
        self.dispatcher = Some(spawn("dispatcher", move || {
            dispatch(&accepted, &service, workers)
        })?);
        for acceptors in &mut self.acceptors {
            let number = acceptors.listener.as_fd().as_raw_fd();
            let service = &self.service;
            if service.config.verbosity >= 2 {
                // memcached prints this line, and scripts wait for it.
                let protocol = service.config.protocol.name();
                log::line(format_args!("<{number} server listening ({protocol})"));
            }
            acceptors.start_one(service, &queue)?;
        }
        self.queue = Some(queue);
        Ok(())
    }

    /// Starts the other acceptors: this number for each listening socket, or as many as the system allows.
    fn start_more_acceptors(&mut self, number: usize) {
        let Some(queue) = self.queue.take() else {
            return;
        };
        for acceptors in &mut self.acceptors {
            while acceptors.threads.len() < number {
                if acceptors.start_one(&self.service, &queue).is_err() {
                    return;
                }
            }
        }
    }

    /// Starts the acceptors that are missing, and sweeps until the server is asked to stop. Then `self` is dropped,
    /// which ends the server.
    fn run(mut self, acceptors: usize, stopper: &Stopper) {
        self.start_more_acceptors(acceptors);
        while !stopper.wait(SWEEP_INTERVAL) {
            self.service.store.sweep();
        }
    }

    /// Wakes the acceptors by connections to the server's own addresses: each takes one, sees that the server is
    /// stopping, and ends. Returns when all have ended, or at `deadline`.
    fn wake_acceptors(&self, deadline: Instant) {
        let is_late = || Instant::now() >= deadline;
        for acceptors in &self.acceptors {
            for _ in 0..acceptors.unfinished() {
                if is_late() {
                    return;
                }
                acceptors.listener.wake();
            }
        }
        // A connection may have failed, because clients used all file descriptors. Only one more is made at a time:
        // when an acceptor is slow, nobody takes them, and when the system's queue is full, a connection waits.
        let mut next_try = Instant::now() + WAKE_RETRY_INTERVAL;
        let have_ended = |acceptors: &Acceptors| acceptors.unfinished() == 0;
        while !self.acceptors.iter().all(have_ended) && !is_late() {
            thread::sleep(POLL_INTERVAL);
            if Instant::now() < next_try {
                continue;
            }
            next_try += WAKE_RETRY_INTERVAL;
            for acceptors in &self.acceptors {
                if !have_ended(acceptors) && !is_late() {
                    acceptors.listener.wake();
                }
            }
        }
    }
}

impl Acceptors {
    /// No thread yet.
    fn new(listener: Listener) -> Self {
        Acceptors {
            listener: Arc::new(listener),
            threads: Vec::new(),
        }
    }

    /// Starts one more thread.
    fn start_one(
        &mut self,
        service: &Arc<Service>,
        queue: &Sender<Newcomer>,
    ) -> Result<(), StartError> {
        let (listener, service) = (Arc::clone(&self.listener), Arc::clone(service));
        let queue = queue.clone();
        let accept = move || accept(&listener, &service, &queue);
        self.threads.push(spawn("acceptor", accept)?);
        Ok(())
    }

    /// How many of the threads have not ended.
    fn unfinished(&self) -> usize {
        let unfinished = self.threads.iter().filter(|thread| !thread.is_finished());
        unfinished.count()
    }
}

/// Ends the server, also if it could not start all its threads.
impl Drop for Server {
    fn drop(&mut self) {
        let clients = &self.service.clients;
        clients.stop();
        // The sockets are closed first, so that the next server can listen as soon as it has the file.
        let deadline = Instant::now() + THREADS_GRACE;
        self.wake_acceptors(deadline);
        for Acceptors { listener, threads } in self.acceptors.drain(..) {
            for thread in threads {
                join(thread, deadline);
            }
            listener.remove_file();
        }
        self.queue = None;
        let cut_off = clients.close_all(SHUTDOWN_GRACE);
        // The file is closed before the log keeper is waited for, because this ends a rewrite.
        self.service.store.close_log();
        if cut_off > 0 {
            log::line(format_args!(
                "rustmemc: clients that did not take their answers in time: {cut_off}"
            ));
        }
        let deadline = Instant::now() + THREADS_GRACE;
        // The dispatcher thread owns the workers, and returns them when it ends.
        let dispatcher = self.dispatcher.take();
        if let Some(workers) = dispatcher.and_then(|thread| join(thread, deadline)) {
            workers.finish(deadline);
        }
        if let Some(keeper) = self.keeper.take() {
            keeper.thread().unpark();
            join(keeper, deadline);
        }
        if let Some(clock) = self.clock.take() {
            join(clock, deadline);
        }
    }
}

/// Starts a named thread.
fn spawn<T: Send + 'static>(
    name: &'static str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    let thread = thread::Builder::new().name(name.into()).spawn(run);
    thread.map_err(|error| StartError::NoThread { name, error })
}

/// Waits until a thread has ended, or until `deadline`. Returns the thread's result, or `None` after the deadline.
fn join<T>(thread: JoinHandle<T>, deadline: Instant) -> Option<T> {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(POLL_INTERVAL);
    }
    thread.join().ok()
}

/// Makes the store, and replays the append-only file into it.
fn open_store(
    config: &Config,
    stats: &Arc<Stats>,
    watchers: &Arc<Watchers>,
    stopper: &Stopper,
) -> Result<Datastore, StartError> {
    let limits = Limits {
        memory: config.memory_limit,
        item: config.max_item_size,
        when_full: if config.disable_evictions {
            WhenFull::Refuse
        } else {
            WhenFull::Evict
        },
    };
    let mut store = Datastore::new(limits, Arc::clone(stats), Arc::clone(watchers));
    if let Some(aof) = &config.aof {
        let replayed = store.open_log(aof.clone(), || stopper.is_stopping());
        let replayed = replayed.map_err(|error| match stopper.is_stopping() {
            true => StartError::Stopped,
            false => StartError::AppendOnlyFile(error),
        })?;
        let (items, _) = store.size();
        log::line(format_args!(
            "rustmemc: {}: {replayed}, {items} items",
            aof.path.display()
        ));
    }
    Ok(store)
}

/// Accepts clients until the server stops. This thread does nothing else, because a client that is not accepted takes a
/// place in the system's short queue.
fn accept(listener: &Listener, service: &Service, queue: &Sender<Newcomer>) {
    let report = |error: &io::Error, consequence: &str| {
        // Only the first error is printed. `rejected_connections` counts the refused clients.
        if !listener.has_failed.swap(true, Relaxed) {
            log::line(format_args!("rustmemc: {consequence}: {error}"));
        }
    };
    while !service.clients.is_stopping() {
        let accepted = match listener.accept() {
            Err(error) if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
                report(&error, "clients are refused");
                listener.accept_without_descriptor(|stream| refuse(stream, service))
            }
            accepted => accepted.map(Some),
        };
        match accepted {
            Ok(_) if service.clients.is_stopping() => return,
            Ok(None) => {}
            Ok(Some(newcomer)) => {
                if queue.send(newcomer).is_err() {
                    return;
                }
            }
            // The client closed the connection before it was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                report(&error, "clients cannot be accepted");
                thread::sleep(ACCEPT_BACKOFF);
            }
        }
    }
}

/// Hands accepted clients to workers. Only this thread hands out permits and starts workers. So after it has counted
/// the permits and until it hands out the next one, their number can only become smaller.
///
/// Returns the workers when the server stops.
fn dispatch(
    accepted: &Receiver<Newcomer>,
    service: &Arc<Service>,
    mut workers: Workers,
) -> Workers {
    for (stream, address) in accepted {
        if service.clients.is_stopping() {
            break;
        }
        if service.clients.connected() >= workers.count() {
            workers.grow();
        }
        let now = service.store.clock().now();
        let admitted = (service.clients).admit(stream, address, now, workers.count());
        match admitted {
            Ok(permit) => {
                service.stats.add(Counter::TotalConnections, 1);
                let service = Arc::clone(service);
                workers.execute(move || serve(permit, &service));
            }
            Err(stream) => refuse(stream, service),
        }
    }
    workers
}

/// Serves one client, in a worker.
fn serve(permit: Permit, service: &Service) {
    // A panic ends only this client's connection. The worker survives.
    let client = Arc::clone(permit.client());
    let conversation = || conversation::serve(&client, service);
    let _ = panic::catch_unwind(AssertUnwindSafe(conversation));
    // The permit is returned before the connection is closed. So a client that sees its connection closed can connect
    // again and get the permit. It soon gets this worker too, because nothing below waits for the network.
    drop(permit);
    if !service.clients.is_stopping() {
        wire::close(&client.stream);
    }
}

/// Sends a client the error that it cannot be served, and closes its connection. This never waits for the client.
fn refuse(stream: Stream, service: &Service) {
    service.stats.add(Counter::RejectedConnections, 1);
    let send = || -> io::Result<()> {
        stream.set_nonblocking(true)?;
        (&stream).write_all(b"ERROR Too many open connections\r\n")
    };
    if send().is_ok() {
        wire::close(&stream);
    }
}
