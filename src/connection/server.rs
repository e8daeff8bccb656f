//! Listening, accepting, handing over to the pool, refusing when full, and stopping.

use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

use threadpool::ThreadPool;

use super::{conversation, wire};
use crate::clients::Clients;
use crate::command::Service;
use crate::config::Config;
use crate::datastore::{Datastore, Limits, WhenFull};
use crate::log;
use crate::stats::{Counter, Stats};

/// A worker's stack, in bytes. There is one for every connection allowed, so it is small: a worker's
/// buffers are on the heap, and nothing recurses.
const STACK: usize = 128 << 10;

/// How often expired items are swept.
const SWEEP: Duration = Duration::from_secs(1);

/// How often the append-only file is synced (`--fsync everysec`) and looked at.
const KEEP: Duration = Duration::from_secs(1);

/// How long a stopping server waits for what is being executed.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How long accepting rests when the system has nothing to accept with (file descriptors, memory): long
/// enough not to spin, short enough not to be felt when it has again.
const REST: Duration = Duration::from_millis(20);

/// A server that listens, and serves once it [runs](Server::run).
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    listeners: Vec<TcpListener>,
    pool: ThreadPool,
}

impl Server {
    /// Replays the append-only file, listens, and starts the workers. Clients may connect from now on.
    /// `clients` is how the server is told to stop, also while it replays.
    ///
    /// # Errors
    /// One line for the user that says what could not be had.
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
        let pool = workers(config.conn_limit)?;
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
            pool,
        })
    }

    /// Where it listens: with `-p 0`, the port that the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Serves until it is told to stop; then finishes the commands that are being executed, hangs up on
    /// everybody, and returns within two seconds.
    ///
    /// # Errors
    /// One line for the user: the system gives no thread to accept clients or to keep the file with.
    pub fn run(self) -> Result<(), String> {
        let addresses = self.addresses();
        let Server {
            service,
            listeners,
            pool,
        } = self;
        let acceptors: Result<Vec<_>, _> = listeners
            .into_iter()
            .map(|listener| {
                let (service, pool) = (Arc::clone(&service), pool.clone());
                thread::Builder::new()
                    .name("acceptor".into())
                    .spawn(move || accept(&listener, &service, &pool))
            })
            .collect();
        let acceptors = acceptors
            .map_err(|error| format!("cannot start a thread to accept clients: {error}"))?;

        let keeper = {
            let service = Arc::clone(&service);
            let keep = move || {
                while !service.clients.wait_for_stop(KEEP) {
                    service.store.tend_log(|| service.clients.stopping());
                }
            };
            // Apart from the sweep: a sync or a rewrite may take long. Not waited for at the end: a
            // rewrite may be left off at any moment.
            thread::Builder::new().name("log keeper".into()).spawn(keep)
        };
        keeper.map_err(|error| format!("cannot start a thread to keep the file: {error}"))?;

        while !service.clients.wait_for_stop(SWEEP) {
            service.store.sweep();
        }

        // A connection from ourselves wakes an acceptor, which then sees that it is to end.
        for address in addresses {
            let _ = TcpStream::connect_timeout(&reachable(address), Duration::from_millis(100));
        }
        let left = service.clients.hang_up(PATIENCE);
        // Before anything is told: nobody may be reading.
        service.store.close_log();
        if left > 0 {
            log::line(format_args!(
                "rustmemc: {left} clients did not take their answers in time"
            ));
        }
        // Those that could not be woken end with the process.
        acceptors
            .into_iter()
            .filter(|acceptor| acceptor.is_finished())
            .for_each(|acceptor| drop(acceptor.join()));
        Ok(())
    }
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

/// The pool: one worker for every connection allowed, so that a client that has a place is served.
fn workers(conn_limit: usize) -> Result<ThreadPool, String> {
    let build = || {
        threadpool::Builder::new()
            .num_threads(conn_limit)
            .thread_name("worker".into())
            .thread_stack_size(STACK)
            .build()
    };
    let refusal = || format!("-c {conn_limit}: the system does not give so many threads");
    // A thread takes up to four mappings of memory, and the system allows so many. Where they run out,
    // not even a panic can be made, so this is looked at first.
    let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    if let Some(most) = mappings
        .ok()
        .and_then(|text| text.trim().parse::<usize>().ok())
        && conn_limit > most.saturating_sub(1000) / 4
    {
        return Err(refusal());
    }
    // `threadpool` panics when the system has no more threads. The user gets a sentence instead.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let pool = panic::catch_unwind(build);
    panic::set_hook(hook);
    pool.map_err(|_| refusal())
}

/// Accepts clients until the server stops.
fn accept(listener: &TcpListener, service: &Arc<Service>, pool: &ThreadPool) {
    let mut resting = false;
    while !service.clients.stopping() {
        match listener.accept() {
            Ok(_) if service.clients.stopping() => return,
            Ok((stream, address)) => {
                resting = false;
                admit(stream, address, service, pool);
            }
            // The client was gone before it was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                if !resting {
                    log::line(format_args!(
                        "rustmemc: cannot accept clients for now: {error}"
                    ));
                }
                resting = true;
                thread::sleep(REST);
            }
        }
    }
}

fn admit(stream: TcpStream, address: SocketAddr, service: &Arc<Service>, pool: &ThreadPool) {
    match service
        .clients
        .admit(stream, address, service.store.clock().now())
    {
        Ok(place) => {
            service.stats.add(Counter::TotalConnections, 1);
            let service = Arc::clone(service);
            pool.execute(move || {
                // A panic is this client's problem alone, and does not cost a worker.
                let client = Arc::clone(place.client());
                let served = || conversation::serve(&client, &service);
                let _ = panic::catch_unwind(AssertUnwindSafe(served));
                // First the place is free, then the client sees the end: whoever sees the end of a
                // connection may have its place.
                drop(place);
                if !service.clients.stopping() {
                    wire::hang_up(&client.stream);
                }
            });
        }
        Err(stream) => {
            service.stats.add(Counter::RejectedConnections, 1);
            refuse(&stream);
        }
    }
}

/// Tells a client that there is no place for it, without ever waiting for it.
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
