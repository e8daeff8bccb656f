//! Listening sockets: on TCP addresses, and on a Unix socket.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::start_error::StartError;
use crate::config::{Config, TcpAddress, UnixSocket};
use crate::log;
use crate::stream::{Address, Stream};

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// Where it listens. If port 0 was asked for, this has the port that the system chose.
    pub address: Address,
    /// A descriptor that is kept in reserve. When no other is left, it is closed, so that one client can be accepted.
    spare: Mutex<Option<OwnedFd>>,
    /// Whether accepting has ever failed.
    pub has_failed: AtomicBool,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// `None`: it was removed, because the server stops.
        file: Mutex<Option<SocketFile>>,
    },
}

/// Listens on all TCP addresses of the configuration, and on its Unix socket. The listeners are in this order.
///
/// # Errors
/// [`StartError::NoAddress`], [`StartError::UnknownAddress`], [`StartError::CannotListen`], and those of
/// [`listen_on_unix_socket`].
pub fn listen(config: &Config) -> Result<Vec<Listener>, StartError> {
    let mut listeners = listen_on_tcp(&config.listen, config.port)?;
    if let Some(socket) = &config.unix_socket {
        listeners.push(listen_on_unix_socket(socket)?);
    }
    match listeners.is_empty() {
        true => Err(StartError::NoAddress),
        false => Ok(listeners),
    }
}

/// An address to listen on.
#[derive(Debug, Clone, Copy)]
struct Target<'c> {
    /// Its position in the order of the configuration.
    position: usize,
    /// The name that has this address.
    name: &'c TcpAddress,
    address: SocketAddr,
}

/// Listens on every address of every name.
///
/// If an address cannot be used, but its name has another one that can, a note is printed: `localhost` has an IPv6
/// address even on machines without IPv6.
fn listen_on_tcp(names: &[TcpAddress], port: u16) -> Result<Vec<Listener>, StartError> {
    let mut targets: Vec<Target<'_>> = Vec::new();
    for name in names {
        for address in resolve(name, port)? {
            if !targets.iter().any(|target| target.address == address) {
                targets.push(Target {
                    position: targets.len(),
                    name,
                    address,
                });
            }
        }
    }
    // On most systems the IPv6 address `::` accepts IPv4 clients too. An IPv4 address with the same port is then in
    // use, and needs no listener. So `::` must be first.
    targets.sort_by_key(|target| !is_ipv6_wildcard(&target.address));

    let mut listeners: Vec<(Target<'_>, Listener)> = Vec::new();
    let mut failed = Vec::new();
    for target in targets {
        let address = target.address;
        match bind(address) {
            Ok(listener) => listeners.push((target, listener)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let covers =
                    |other: SocketAddr| is_ipv6_wildcard(&other) && other.port() == address.port();
                let mut bound = listeners.iter().map(|(target, _)| target.address);
                if !(address.is_ipv4() && bound.any(covers)) {
                    return Err(StartError::CannotListen { address, error });
                }
            }
            Err(error) => failed.push((target, error)),
        }
    }
    for (Target { name, address, .. }, error) in failed {
        if !listeners.iter().any(|(target, _)| target.name == name) {
            return Err(StartError::CannotListen { address, error });
        }
        log::line(format_args!(
            "rustmemc: note: -l {name}: not listening on {address}: {error}"
        ));
    }
    listeners.sort_by_key(|(target, _)| target.position);
    Ok(listeners
        .into_iter()
        .map(|(_, listener)| listener)
        .collect())
}

/// All addresses of a name.
fn resolve(name: &TcpAddress, port: u16) -> Result<Vec<SocketAddr>, StartError> {
    let port = name.port.unwrap_or(port);
    if name.host == "*" {
        let all: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        return Ok(all.map(|ip| (ip, port).into()).into());
    }
    let addresses = (name.host.as_str(), port).to_socket_addrs();
    addresses
        .map(Iterator::collect)
        .map_err(|error| StartError::UnknownAddress {
            name: name.to_string(),
            error,
        })
}

fn is_ipv6_wildcard(address: &SocketAddr) -> bool {
    address.ip() == Ipv6Addr::UNSPECIFIED
}

fn bind(address: SocketAddr) -> io::Result<Listener> {
    let listener = TcpListener::bind(address)?;
    let address = Address::Tcp(listener.local_addr()?);
    Ok(Listener::new(Socket::Tcp(listener), address))
}

/// Listens on a Unix socket. A killed server leaves its socket file. If no server listens on the file, it is replaced.
///
/// # Errors
/// [`StartError::SocketInUse`], [`StartError::NotASocket`], [`StartError::CannotListenOnSocket`].
fn listen_on_unix_socket(socket: &UnixSocket) -> Result<Listener, StartError> {
    let UnixSocket { path, mode } = socket;
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(StartError::NotASocket(path.clone()));
        }
        if !is_stale(path) {
            return Err(StartError::SocketInUse(path.clone()));
        }
        // If this fails, `bind` fails too, and its error is reported.
        let _ = fs::remove_file(path);
    }
    let listen = || {
        let listener = UnixListener::bind(path)?;
        let file = Mutex::new(Some(SocketFile::new(path)?));
        // Until now the umask decided who can connect. With a usual umask, only this user can.
        fs::set_permissions(path, Permissions::from_mode(*mode))?;
        Ok(Socket::Unix { listener, file })
    };
    let socket = listen().map_err(|error| StartError::CannotListenOnSocket {
        path: path.clone(),
        error,
    })?;
    Ok(Listener::new(socket, Address::Unix(path.clone())))
}

/// Whether it is sure that no server listens on this socket. It is not sure if, for example, the socket belongs to
/// another user, and this user may not connect to it.
fn is_stale(path: &Path) -> bool {
    /// If a server listens and its queue is full, it does not accept in time.
    const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
    let connected = Address::Unix(path.into()).connect(CONNECT_TIMEOUT);
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

impl Listener {
    fn new(socket: Socket, address: Address) -> Self {
        let listener = Listener {
            socket,
            address,
            spare: Mutex::default(),
            has_failed: AtomicBool::new(false),
        };
        *lock(&listener.spare) = listener.descriptor();
        listener
    }

    /// A new descriptor. `None`: none is left.
    fn descriptor(&self) -> Option<OwnedFd> {
        self.as_fd().try_clone_to_owned().ok()
    }

    /// Waits for the next client.
    ///
    /// # Errors
    /// Those of `accept`, for example because no file descriptor is left.
    pub fn accept(&self) -> io::Result<(Stream, Address)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                Ok((Stream::Tcp(stream), Address::Tcp(address)))
            }
            Socket::Unix { listener, .. } => {
                let (stream, _) = listener.accept()?;
                Ok((Stream::Unix(stream), self.address.clone()))
            }
        }
    }

    /// Call this when [`Listener::accept`] has failed because no descriptor is left. It closes the spare descriptor,
    /// accepts the next client, and opens a new spare one. If that works, other descriptors were closed meanwhile, and
    /// it returns the client. Otherwise it refuses the client, and returns `None`.
    ///
    /// # Errors
    /// As [`Listener::accept`].
    pub fn accept_without_descriptor(
        &self,
        refuse: impl FnOnce(Stream),
    ) -> io::Result<Option<(Stream, Address)>> {
        // The lock is held until the spare descriptor is open again.
        let mut spare = lock(&self.spare);
        drop(spare.take());
        let accepted = self.accept();
        *spare = self.descriptor();
        let (stream, address) = accepted?;
        if spare.is_some() {
            return Ok(Some((stream, address)));
        }
        refuse(stream);
        *spare = self.descriptor();
        Ok(None)
    }

    /// Connects to the listener. This wakes one thread that waits in [`Listener::accept`]. The spare descriptor is closed
    /// first, because clients may have all others.
    pub fn wake(&self) {
        if let Ok(mut spare) = self.spare.try_lock() {
            drop(spare.take());
        }
        match &self.address {
            Address::Tcp(address) => {
                let _ =
                    TcpStream::connect_timeout(&reachable(*address), Duration::from_millis(100));
            }
            // Another server may have replaced the socket's file by its own.
            Address::Unix(path) => {
                if let Socket::Unix { file, .. } = &self.socket
                    && lock(file).as_ref().is_some_and(SocketFile::is_there)
                {
                    let _ = UnixStream::connect(path);
                }
            }
        }
    }

    /// Removes the file of a Unix socket. A thread that still waits in [`Listener::accept`] would keep it.
    pub fn remove_file(&self) {
        if let Socket::Unix { file, .. } = &self.socket {
            drop(lock(file).take());
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix { listener, .. } => listener.as_fd(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address to connect to. If a server listens on every address (0.0.0.0 or ::), this is localhost.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The file of a Unix socket. It is removed when this is dropped, unless another file has its name now.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// The file's device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(SocketFile {
            path: path.into(),
            identity: identity(path)?,
        })
    }

    /// Whether the name is still that of this file.
    fn is_there(&self) -> bool {
        identity(&self.path).is_ok_and(|identity| identity == self.identity)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}
