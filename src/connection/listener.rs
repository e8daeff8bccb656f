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
    /// Where it listens. If it was given port 0, this has the port that the system chose.
    pub address: Address,
    /// A descriptor of no use, except that a client can have its place when no other is left.
    spare: Mutex<Option<OwnedFd>>,
    /// Whether accepting has ever failed.
    pub has_failed: AtomicBool,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// The file is removed when the listener is dropped.
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
}

/// Listens on everything that the configuration names, in its order: the TCP addresses, then the Unix socket.
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

/// Listens on every address of every name.
///
/// An address that this machine does not have is passed over if its name has another one that works: `localhost` has an
/// IPv6 address on machines without IPv6.
fn listen_on_tcp(names: &[TcpAddress], port: u16) -> Result<Vec<Listener>, StartError> {
    let mut targets: Vec<(&TcpAddress, SocketAddr)> = Vec::new();
    for name in names {
        for address in resolve(name, port)? {
            if !targets.iter().any(|(_, other)| *other == address) {
                targets.push((name, address));
            }
        }
    }
    // On most systems the IPv6 address `::` takes IPv4 clients too. An IPv4 address of the same port is in use then, and
    // needs no listener. So `::` must be first.
    let mut order: Vec<usize> = (0..targets.len()).collect();
    let is_first = |place: &usize| {
        targets
            .get(*place)
            .is_some_and(|(_, address)| is_all_ipv6(address))
    };
    order.sort_by_key(|place| !is_first(place));

    let mut listeners: Vec<(usize, Listener)> = Vec::new();
    let mut failed = Vec::new();
    for place in order {
        let Some(&(name, address)) = targets.get(place) else {
            continue;
        };
        match bind(address) {
            Ok(listener) => listeners.push((place, listener)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let covers =
                    |other: &SocketAddr| is_all_ipv6(other) && other.port() == address.port();
                let mut bound = listeners
                    .iter()
                    .filter_map(|(place, _)| targets.get(*place));
                if !(address.is_ipv4() && bound.any(|(_, other)| covers(other))) {
                    return Err(StartError::CannotListen { address, error });
                }
            }
            Err(error) => failed.push((name, address, error)),
        }
    }
    for (name, address, error) in failed {
        let mut bound = listeners
            .iter()
            .filter_map(|(place, _)| targets.get(*place));
        if !bound.any(|(other, _)| *other == name) {
            return Err(StartError::CannotListen { address, error });
        }
        log::line(format_args!(
            "rustmemc: note: -l {name}: not listening on {address}: {error}"
        ));
    }
    listeners.sort_by_key(|(place, _)| *place);
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

fn is_all_ipv6(address: &SocketAddr) -> bool {
    address.ip() == Ipv6Addr::UNSPECIFIED
}

fn bind(address: SocketAddr) -> io::Result<Listener> {
    let listener = TcpListener::bind(address)?;
    let address = Address::Tcp(listener.local_addr()?);
    Ok(Listener::new(Socket::Tcp(listener), address))
}

/// Listens on a Unix socket. A socket file that no server listens on, as a killed server leaves it, is replaced.
///
/// # Errors
/// [`StartError::SocketInUse`], [`StartError::NotASocket`], [`StartError::CannotListenOnSocket`].
fn listen_on_unix_socket(socket: &UnixSocket) -> Result<Listener, StartError> {
    let UnixSocket { path, mode } = socket;
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(StartError::NotASocket(path.clone()));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(StartError::SocketInUse(path.clone()));
        }
        // If this fails, `bind` fails too, and its error is reported.
        let _ = fs::remove_file(path);
    }
    let listen = || {
        let listener = UnixListener::bind(path)?;
        let file = SocketFile::new(path)?;
        // Until now the file had the permissions that the umask leaves. Only a umask that lets others write lets them
        // connect for that moment.
        fs::set_permissions(path, Permissions::from_mode(*mode))?;
        Ok(Socket::Unix {
            listener,
            _file: file,
        })
    };
    let socket = listen().map_err(|error| StartError::CannotListenOnSocket {
        path: path.clone(),
        error,
    })?;
    Ok(Listener::new(socket, Address::Unix(path.clone())))
}

impl Listener {
    fn new(socket: Socket, address: Address) -> Self {
        let listener = Listener {
            socket,
            address,
            spare: Mutex::default(),
            has_failed: AtomicBool::new(false),
        };
        *listener.spare() = listener.descriptor();
        listener
    }

    /// A new descriptor. `None`: none is left.
    fn descriptor(&self) -> Option<OwnedFd> {
        self.as_fd().try_clone_to_owned().ok()
    }

    fn spare(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// As [`Listener::accept`], after that has failed because no descriptor was left: the next client gets the place of
    /// the spare one. It is refused, unless other descriptors were closed meanwhile; then it is returned.
    ///
    /// # Errors
    /// As [`Listener::accept`].
    pub fn accept_without_descriptor(
        &self,
        refuse: impl FnOnce(Stream),
    ) -> io::Result<Option<(Stream, Address)>> {
        // The lock is held until there is a spare descriptor again.
        let mut spare = self.spare();
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

    /// Connects to it, which wakes one thread that waits in [`Listener::accept`].
    pub fn wake(&self) {
        match &self.address {
            Address::Tcp(address) => {
                let _ =
                    TcpStream::connect_timeout(&reachable(*address), Duration::from_millis(100));
            }
            Address::Unix(path) => {
                let _ = UnixStream::connect(path);
            }
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

/// The address to connect to: a server that listens on every address (0.0.0.0 or ::) is reached on localhost.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The file of a Unix socket. It is removed when this is dropped, unless another file has its name by then.
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
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}
