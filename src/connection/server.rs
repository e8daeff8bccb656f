//! Listens, accepts clients, hands each to a worker, refuses clients when there are too many, and stops.

use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::start_error::StartError;
use super::workers::{POLL_INTERVAL, Workers};
use super::{conversation, wire};
use crate::clients::{Clients, Permit};
use crate::command::Service;
use crate::config::Config;
use crate::datastore::{Datastore, Limits, WhenFull};
use crate::log;
use crate::stats::{Counter, Stats};
use crate::stopper::Stopper;

/// How often expired items are swept.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a stopping server waits for commands that are being executed and for their answers to be sent.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(1500);

/// How long a stopping server waits for its threads to end, after it has closed all connections.
const THREADS_GRACE: Duration = Duration::from_millis(300);

/// How long an acceptor waits when the system lacks what it needs to accept a client (file descriptors, memory). This
/// is long enough not to spin, and short enough that a client does not notice it.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

/// How many accepted clients may wait for the dispatcher. The system's own queue has room for 128, and a client that
/// does not fit waits a second.
const DISPATCH_QUEUE: usize = 1024;

/// An accepted client.
type Accepted = (TcpStream, SocketAddr);

/// A server. [`Server::start`] starts one, and returns a [`Running`].
///
/// Dropping this value stops the server (`Drop for Server`). Only the sweeper has it: see [`Server::run`]. Callers have
/// a [`Running`].
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    addresses: Vec<SocketAddr>,
    keeper: Option<JoinHandle<()>>,
    dispatcher: Option<JoinHandle<Workers>>,
    acceptors: Vec<JoinHandle<()>>,
    /// Dropped last, because the end of the server prints lines too.
    _writer: log::Writer,
}

/// A running server. It serves in its own threads, and stops when this value is dropped.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    address: SocketAddr,
    stopper: Stopper,
    /// The thread that sweeps expired items, and finally ends the server.
    sweeper: Option<JoinHandle<()>>,
}

impl Running {
    /// The first of [`Running::addresses`].
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The addresses on which it listens, in the order of [`Config::listen`]. For port 0 they have the port that the
    /// system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A value that can stop the server from another thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits until the server has stopped. Its [`Stopper`] and the command `shutdown` stop it.
    ///
    /// A stopping server finishes the commands that are being executed, closes all connections, and ends its threads,
    /// within two seconds and the time that the disk takes for the last write and sync. A client that does not read its
    /// answers is cut off. A thread that still waits for the disk after that time is not waited for: it ends when the
    /// disk has answered.
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
        let stats = Arc::new(Stats::default());
        // The file is replayed before the server listens: a client that connected during the replay would only wait.
        let store = open_store(&config, &stats, &stopper)?;
        let listeners = listen(&config)?;
        let addresses: Vec<_> = listeners.iter().map(|(_, address)| *address).collect();
        let Some(&address) = addresses.first() else {
            return Err(StartError::NoAddress);
        };
        let workers = Workers::start(config.conn_limit)?;
        let mut server = Server {
            service: Arc::new(Service {
                started: store.clock().now(),
                store,
                stats,
                clients: Arc::new(Clients::new(config.conn_limit, stopper.clone())),
                verbosity: AtomicU32::new(config.verbosity),
                config,
            }),
            addresses: addresses.clone(),
            keeper: None,
            dispatcher: None,
            acceptors: Vec::new(),
            _writer: writer,
        };
        server.start_threads(listeners, workers, &stopper)?;
        let sweeper = {
            let stopper = stopper.clone();
            spawn("sweeper", move || server.run(&stopper))?
        };
        Ok(Running {
            addresses,
            address,
            stopper,
            sweeper: Some(sweeper),
        })
    }

    /// Starts the server's own threads, except the sweeper. They are started at once and not when they are first
    /// needed, because a client may take the last thread that the system allows.
    fn start_threads(
        &mut self,
        listeners: Vec<(TcpListener, SocketAddr)>,
        workers: Workers,
        stopper: &Stopper,
    ) -> Result<(), StartError> {
        let (service, stopper) = (Arc::clone(&self.service), stopper.clone());
        // The log has its own thread, because a sync or a rewrite may take long and would delay the sweeper.
        self.keeper = Some(spawn("log keeper", move || {
            service.store.keep_log(|| stopper.is_stopping());
        })?);
        // The dispatcher ends when every copy of `queue` is dropped: when the last acceptor has ended.
        let (queue, accepted) = mpsc::sync_channel(DISPATCH_QUEUE);
        let service = Arc::clone(&self.service);
        self.dispatcher = Some(spawn("dispatcher", move || {
            dispatch(&accepted, &service, workers)
        })?);
        for (listener, _) in listeners {
            let (service, queue) = (Arc::clone(&self.service), queue.clone());
            let accept = move || accept(&listener, &service, &queue);
            self.acceptors.push(spawn("acceptor", accept)?);
        }
        Ok(())
    }

    /// Sweeps until the server is asked to stop. Then `self` is dropped, which ends the server.
    fn run(self, stopper: &Stopper) {
        while !stopper.wait(SWEEP_INTERVAL) {
            self.service.store.sweep();
        }
    }

    /// Connects to the server's own addresses. This wakes the acceptors, which then see that the server is stopping.
    fn wake_acceptors(&self) {
        for address in &self.addresses {
            let _ = TcpStream::connect_timeout(&reachable(*address), Duration::from_millis(100));
        }
    }
}

/// Ends the server, also if it could not start all its threads.
impl Drop for Server {
    fn drop(&mut self) {
        let clients = &self.service.clients;
        clients.stop();
        self.wake_acceptors();
        let cut_off = clients.close_all(SHUTDOWN_GRACE);
        // The file is closed before the log keeper is waited for, because this ends a rewrite.
        self.service.store.close_log();
        if cut_off > 0 {
            log::line(format_args!(
                "rustmemc: {cut_off} clients did not take their answers in time"
            ));
        }
        let deadline = Instant::now() + THREADS_GRACE;
        // The first attempt to wake the acceptors may have failed because clients used all file descriptors.
        while !self.acceptors.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
            self.wake_acceptors();
            thread::sleep(POLL_INTERVAL);
        }
        for acceptor in self.acceptors.drain(..) {
            join(acceptor, deadline);
        }
        // The dispatcher thread owns the workers, and returns them when it ends.
        let dispatcher = self.dispatcher.take();
        if let Some(workers) = dispatcher.and_then(|thread| join(thread, deadline)) {
            workers.finish(deadline);
        }
        if let Some(keeper) = self.keeper.take() {
            keeper.thread().unpark();
            join(keeper, deadline);
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
    let mut store = Datastore::new(limits, Arc::clone(stats));
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

/// Listens on each name, at its first address that works. Returns the listeners with their real addresses: for port 0
/// the system chooses the port.
fn listen(config: &Config) -> Result<Vec<(TcpListener, SocketAddr)>, StartError> {
    let port = config.port;
    let listen_on = |name: &String| {
        // IPv6 addresses may be written in brackets, as in `[::1]`.
        let host = name.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> = (host, port)
            .to_socket_addrs()
            .map_err(|error| StartError::UnknownAddress {
                name: name.clone(),
                error,
            })?
            .collect();
        let listener = TcpListener::bind(&*addresses)
            .and_then(|listener| listener.local_addr().map(|address| (listener, address)));
        listener.map_err(|error| StartError::CannotListen {
            name: name.clone(),
            port,
            error,
        })
    };
    config.listen.iter().map(listen_on).collect()
}

/// Accepts clients until the server stops. This thread does nothing else, because a client that is not accepted takes a
/// place in the system's short queue.
fn accept(listener: &TcpListener, service: &Service, queue: &SyncSender<Accepted>) {
    let mut is_backing_off = false;
    while !service.clients.is_stopping() {
        match listener.accept() {
            Ok(accepted) => {
                is_backing_off = false;
                if service.clients.is_stopping() || queue.send(accepted).is_err() {
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
                if !is_backing_off {
                    log::line(format_args!(
                        "rustmemc: cannot accept clients for now: {error}"
                    ));
                }
                is_backing_off = true;
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
    accepted: &Receiver<Accepted>,
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
            Err(stream) => {
                service.stats.add(Counter::RejectedConnections, 1);
                refuse(&stream);
            }
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

/// Sends a client the error that it cannot be served. This never waits for the client.
fn refuse(mut stream: &TcpStream) {
    let refused: io::Result<()> = (|| {
        stream.set_nonblocking(true)?;
        stream.write_all(b"ERROR Too many open connections\r\n")
    })();
    if refused.is_ok() {
        wire::close(stream);
    }
}

/// The address to connect to: a server that listens on every address (0.0.0.0 or ::) is reached on localhost.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
