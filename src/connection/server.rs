//! Listening, accepting, handing over to a worker, refusing when full, and stopping.

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

/// How long a stopping server waits for commands that are being executed.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(1500);

/// How long a server that has hung up on all clients waits for the end of its threads.
const THREADS_GRACE: Duration = Duration::from_millis(300);

/// How long an acceptor waits when the system has nothing to accept a client with (file descriptors, memory): long
/// enough not to spin, short enough not to be felt when it has again.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

/// How many accepted clients may wait for the dispatcher. The system itself queues 128, and makes the others wait a
/// second.
const DISPATCH_QUEUE: usize = 1024;

/// An accepted client.
type Accepted = (TcpStream, SocketAddr);

/// A server: starting one is [`Server::start`], and what is started is [`Running`].
///
/// Dropping this value is the end of the server: see [`Server::run`].
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    addresses: Vec<SocketAddr>,
    keeper: Option<JoinHandle<()>>,
    dispatcher: Option<JoinHandle<Workers>>,
    acceptors: Vec<JoinHandle<()>>,
}

/// A server that serves, in threads of its own. It stops when this value is dropped.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    address: SocketAddr,
    stopper: Stopper,
    /// The thread that sweeps, and ends the server.
    sweeper: Option<JoinHandle<()>>,
}

impl Running {
    /// Where it listens: the first of [`Running::addresses`].
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, in the order of [`Config::listen`]. For port 0 this is the port that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What stops it from another thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits until the server has stopped, because of its [`Stopper`] or of the command `shutdown`.
    ///
    /// A stopping server finishes the commands that are being executed, closes all connections, and ends its threads,
    /// within two seconds. A client that does not read its answers is cut off. If a thread waits for the disk all that
    /// time, it is left behind, and ends when the disk has answered.
    pub fn wait(&mut self) {
        if let Some(sweeper) = self.sweeper.take() {
            // It does not panic, and if it did, the server would have ended nevertheless.
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
    /// See [`StartError`]. Then nothing is left: no thread, no port, no lock on the file.
    pub fn start(config: Config) -> Result<Running, StartError> {
        Server::start_with(config, Stopper::default())
    }

    /// The same with a [`Stopper`] that exists before, so that the server can be stopped while it replays.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(config: Config, stopper: Stopper) -> Result<Running, StartError> {
        for note in &config.notes {
            log::line(format_args!("rustmemc: note: {note}"));
        }
        let stats = Arc::new(Stats::default());
        // Before listening: a client that came meanwhile would only wait.
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

    /// Starts the threads that are there from the beginning: each client may take the last thread that the system gives.
    fn start_threads(
        &mut self,
        listeners: Vec<(TcpListener, SocketAddr)>,
        workers: Workers,
        stopper: &Stopper,
    ) -> Result<(), StartError> {
        let (service, stopper) = (Arc::clone(&self.service), stopper.clone());
        // Apart from the sweeper: a sync or a rewrite may take long.
        self.keeper = Some(spawn("log keeper", move || {
            service.store.keep_log(|| stopper.is_stopping());
        })?);
        // The dispatcher ends when the last acceptor has ended, and with it the last `queue`.
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

    /// Sweeps until the server is asked to stop. Then the server is dropped, and that is its end.
    fn run(self, stopper: &Stopper) {
        while !stopper.wait(SWEEP_INTERVAL) {
            self.service.store.sweep();
        }
    }

    /// A connection from ourselves wakes an acceptor, which then sees that the server stops.
    fn wake_acceptors(&self) {
        for address in &self.addresses {
            let _ = TcpStream::connect_timeout(&reachable(*address), Duration::from_millis(100));
        }
    }
}

/// The end of a server, also of one that could not start all its threads.
impl Drop for Server {
    fn drop(&mut self) {
        let clients = &self.service.clients;
        clients.stop();
        self.wake_acceptors();
        let left = clients.close_all(SHUTDOWN_GRACE);
        // Before anything is logged: nobody may be reading. And before the log keeper is waited for: this ends a rewrite.
        self.service.store.close_log();
        if left > 0 {
            log::line(format_args!(
                "rustmemc: {left} clients did not take their answers in time"
            ));
        }
        let deadline = Instant::now() + THREADS_GRACE;
        // As long as clients had all file descriptors, there was none to wake an acceptor with.
        while !self.acceptors.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
            self.wake_acceptors();
            thread::sleep(POLL_INTERVAL);
        }
        for acceptor in self.acceptors.drain(..) {
            join(acceptor, deadline);
        }
        // The dispatcher has the workers.
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

/// Starts a thread.
fn spawn<T: Send + 'static>(
    name: &'static str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    let thread = thread::Builder::new().name(name.into()).spawn(run);
    thread.map_err(|error| StartError::NoThread { name, error })
}

/// Waits for the end of a thread, but not longer than until `deadline`.
fn join<T>(thread: JoinHandle<T>, deadline: Instant) -> Option<T> {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(POLL_INTERVAL);
    }
    thread.join().ok()
}

/// The store, with what the append-only file holds.
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

/// Listens on each address, and gives the address that it became.
fn listen(config: &Config) -> Result<Vec<(TcpListener, SocketAddr)>, StartError> {
    let port = config.port;
    let listen_on = |name: &String| {
        // A bracketed address is how IPv6 is written where a port may follow.
        let host = name.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> = (host, port)
            .to_socket_addrs()
            .map_err(|error| StartError::UnknownAddress {
                name: name.clone(),
                error,
            })?
            .collect();
        let listening = TcpListener::bind(&*addresses)
            .and_then(|listener| listener.local_addr().map(|address| (listener, address)));
        listening.map_err(|error| StartError::CannotListen {
            name: name.clone(),
            port,
            error,
        })
    };
    config.listen.iter().map(listen_on).collect()
}

/// Accepts clients until the server stops, and does nothing else: while a client is not accepted, it keeps others
/// out of the system's short queue.
fn accept(listener: &TcpListener, service: &Service, queue: &SyncSender<Accepted>) {
    let mut backing_off = false;
    while !service.clients.stopping() {
        match listener.accept() {
            Ok(accepted) => {
                backing_off = false;
                if service.clients.stopping() || queue.send(accepted).is_err() {
                    return;
                }
            }
            // The client was gone before it was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                if !backing_off {
                    log::line(format_args!(
                        "rustmemc: cannot accept clients for now: {error}"
                    ));
                }
                backing_off = true;
                thread::sleep(ACCEPT_BACKOFF);
            }
        }
    }
}

/// Hands accepted clients to workers. This one thread gives out all permits and starts all workers, so between its
/// looking at how many there are and its giving one out, permits can only come back.
///
/// Returns the workers when the server stops.
fn dispatch(
    accepted: &Receiver<Accepted>,
    service: &Arc<Service>,
    mut workers: Workers,
) -> Workers {
    for (stream, address) in accepted {
        if service.clients.stopping() {
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

/// What a worker does with a client.
fn serve(permit: Permit, service: &Service) {
    // A panic is this client's problem alone, and does not cost a worker.
    let client = Arc::clone(permit.client());
    let conversation = || conversation::serve(&client, service);
    let _ = panic::catch_unwind(AssertUnwindSafe(conversation));
    // First the permit comes back, then the client sees the end: a client that sees the end of a connection may have
    // its permit. It need not wait long for this worker, because nothing below waits for the network.
    drop(permit);
    if !service.clients.stopping() {
        wire::close(&client.stream);
    }
}

/// Tells a client that it cannot be served, without ever waiting for it.
fn refuse(mut stream: &TcpStream) {
    let refused: io::Result<()> = (|| {
        stream.set_nonblocking(true)?;
        stream.write_all(b"ERROR Too many open connections\r\n")
    })();
    if refused.is_ok() {
        wire::close(stream);
    }
}

/// The address under which a server that listens on every address can be reached.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
