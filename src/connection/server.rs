//! Listening, accepting, handing over to a worker, refusing when full, and stopping.

use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::workers::Workers;
use super::{conversation, wire};
use crate::clients::{Clients, Permit};
use crate::command::Service;
use crate::config::Config;
use crate::datastore::{Datastore, Limits, WhenFull};
use crate::log;
use crate::stats::{Counter, Stats};

/// How often expired items are swept.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often the append-only file is synced (`--fsync everysec`) and looked at.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// How long a stopping server waits for commands that are being executed.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(1500);

/// How long an acceptor waits when the system has nothing to accept a client with (file descriptors, memory): long
/// enough not to spin, short enough not to be felt when it has again.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

/// How many accepted clients may wait for the dispatcher. The system itself queues 128, and makes the others wait a
/// second.
const DISPATCH_QUEUE: usize = 1024;

/// An accepted client.
type Accepted = (TcpStream, SocketAddr);

/// A server that listens, and serves once it [runs](Server::run).
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    listeners: Vec<TcpListener>,
    workers: Workers,
}

impl Server {
    /// Replays the append-only file, listens, and starts the first worker. Clients may connect from now on.
    /// `clients` is how the server is told to stop, also while it replays.
    ///
    /// # Errors
    /// One line for the user that says what has failed.
    pub fn start(config: Config, clients: Arc<Clients>) -> Result<Self, String> {
        let stats = Arc::new(Stats::default());
        let limits = Limits {
            memory: config.memory_limit,
            item: config.max_item_size,
            when_full: if config.disable_evictions {
                WhenFull::Refuse
            } else {
                WhenFull::Evict
            },
        };
        let mut store = Datastore::new(limits, Arc::clone(&stats));
        // Before listening: a client that came meanwhile would only wait.
        if let Some(aof) = &config.aof {
            let replayed = store
                .open_log(aof.clone(), || clients.stopping())
                .map_err(|error| error.to_string())?;
            let (items, _) = store.size();
            log::line(format_args!(
                "rustmemc: {}: {replayed}, {items} items",
                aof.path.display()
            ));
        }
        let listeners = listen(&config)?;
        let workers = Workers::start(config.conn_limit)?;
        let service = Arc::new(Service {
            started: store.clock().now(),
            store,
            stats,
            clients,
            verbosity: AtomicU32::new(config.verbosity),
            config,
        });
        Ok(Server {
            service,
            listeners,
            workers,
        })
    }

    /// Where it listens: with `-p 0`, the port that the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Serves until it is told to stop. Then it finishes the commands that are being executed, closes all
    /// connections, and returns within two seconds.
    ///
    /// # Errors
    /// One line for the user: the system refuses a thread that the server cannot do without.
    pub fn run(self) -> Result<(), String> {
        let addresses = self.addresses();
        let Server {
            service,
            listeners,
            workers,
        } = self;

        // Before any client is accepted: each of them may take the last thread that the system gives.
        let keeper = {
            let service = Arc::clone(&service);
            move || {
                while !service.clients.wait_for_stop(LOG_INTERVAL) {
                    service.store.tend_log(|| service.clients.stopping());
                }
            }
        };
        // Apart from the sweep: a sync or a rewrite may take long. Not joined at the end: a rewrite may be left
        // off at any moment.
        let _keeper = spawn("log keeper", keeper)?;
        let (queue, accepted) = mpsc::sync_channel(DISPATCH_QUEUE);
        let dispatcher = {
            let service = Arc::clone(&service);
            spawn("dispatcher", move || dispatch(&accepted, &service, workers))?
        };
        let acceptors = listeners.into_iter().map(|listener| {
            let (service, queue) = (Arc::clone(&service), queue.clone());
            spawn("acceptor", move || accept(&listener, &service, &queue))
        });
        let acceptors: Vec<_> = acceptors.collect::<Result<_, String>>()?;
        // The dispatcher ends when the last acceptor has ended.
        drop(queue);

        while !service.clients.wait_for_stop(SWEEP_INTERVAL) {
            service.store.sweep();
        }

        // A connection from ourselves wakes an acceptor, which then sees that it is to end.
        for address in addresses {
            let _ = TcpStream::connect_timeout(&reachable(address), Duration::from_millis(100));
        }
        let left = service.clients.hang_up(SHUTDOWN_GRACE);
        // Before anything is logged: nobody may be reading.
        service.store.close_log();
        if left > 0 {
            log::line(format_args!(
                "rustmemc: {left} clients did not take their answers in time"
            ));
        }
        // Those that could not be woken end with the process.
        acceptors
            .into_iter()
            .chain([dispatcher])
            .filter(JoinHandle::is_finished)
            .for_each(|thread| drop(thread.join()));
        Ok(())
    }
}

/// Starts a thread, or says in one line for the user that the system refuses it.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|error| format!("cannot start a thread ({name}): {error}"))
}

fn listen(config: &Config) -> Result<Vec<TcpListener>, String> {
    let port = config.port;
    let listen_on = |name: &String| {
        // A bracketed address is how IPv6 is written where a port may follow.
        let host = name.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> = (host, port)
            .to_socket_addrs()
            .map_err(|error| format!("-l {name}: not an address to listen on: {error}"))?
            .collect();
        TcpListener::bind(&*addresses).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => {
                format!("-p {port}: the port is in use on {name}; is another server running?")
            }
            ErrorKind::PermissionDenied => {
                format!("-p {port}: no permission to listen on this port")
            }
            _ => format!("-l {name} -p {port}: cannot listen: {error}"),
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
fn dispatch(accepted: &Receiver<Accepted>, service: &Arc<Service>, mut workers: Workers) {
    for (stream, address) in accepted {
        if service.clients.stopping() {
            return;
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
        wire::hang_up(&client.stream);
    }
}

/// Tells a client that it cannot be served, without ever waiting for it.
fn refuse(mut stream: &TcpStream) {
    let refused: io::Result<()> = (|| {
        stream.set_nonblocking(true)?;
        stream.write_all(b"ERROR Too many open connections\r\n")
    })();
    if refused.is_ok() {
        wire::hang_up(stream);
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
