//! A client's socket, which is a TCP connection or a connection to a Unix socket, and its address. The rest of the code
//! need not know which of the two a client uses.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Where a server listens, or where a client comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The file of a Unix socket. Its clients have no address of their own, so they have this one too.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    /// The TCP address, if it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// Connects to a server there, as a client. Each read and write of the connection waits no longer than this, and
    /// neither does this call.
    ///
    /// # Errors
    /// No server listens there, or the server does not accept in time.
    pub fn connect(&self, timeout: Duration) -> io::Result<Stream> {
        let stream = match self {
            Address::Tcp(address) => TcpStream::connect_timeout(address, timeout).map(Stream::Tcp),
            Address::Unix(path) => connect_to_unix_socket(path, timeout).map(Stream::Unix),
        }?;
        stream.set_timeout(Some(timeout))?;
        stream.set_nodelay()?;
        Ok(stream)
    }

    /// What `stats conns` shows: `tcp:127.0.0.1:11211`, `unix:/tmp/memcached.sock`.
    pub(crate) fn with_kind(&self) -> String {
        let kind = match self {
            Address::Tcp(_) => "tcp",
            Address::Unix(_) => "unix",
        };
        format!("{kind}:{self}")
    }
}

/// Connects to a Unix socket, but waits no longer than `timeout`. std cannot do that, and a socket whose queue is full
/// lets clients wait for ever. So a thread of its own waits.
fn connect_to_unix_socket(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let (sender, connected) = mpsc::channel();
    let path = path.to_owned();
    thread::Builder::new().spawn(move || sender.send(UnixStream::connect(path)))?;
    let connected = connected.recv_timeout(timeout);
    connected.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Whether a socket's time-out has passed. Systems have two kinds of errors for that.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The socket of a connection.
#[derive(Debug)]
pub enum Stream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A connection to a Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Makes the system send small answers at once, instead of waiting for more to send with them.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nodelay(true),
            // A Unix socket never waits.
            Stream::Unix(_) => Ok(()),
        }
    }

    /// Sets how long a read or a write may wait. `None`: for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream
                .set_read_timeout(timeout)
                .and_then(|()| stream.set_write_timeout(timeout)),
            Stream::Unix(stream) => stream
                .set_read_timeout(timeout)
                .and_then(|()| stream.set_write_timeout(timeout)),
        }
    }

    /// Sets whether reads and writes return at once instead of waiting.
    pub fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nonblocking(is_nonblocking),
            Stream::Unix(stream) => stream.set_nonblocking(is_nonblocking),
        }
    }

    /// Closes one direction, or both.
    pub fn shutdown(&self, direction: Shutdown) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(direction),
            Stream::Unix(stream) => stream.shutdown(direction),
        }
    }

    /// The address on which the server accepted it. `None`: the system does not know it.
    pub fn local_address(&self) -> Option<Address> {
        match self {
            Stream::Tcp(stream) => stream.local_addr().ok().map(Address::Tcp),
            Stream::Unix(stream) => {
                let address = stream.local_addr().ok()?;
                Some(Address::Unix(address.as_pathname()?.into()))
            }
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

/// `&Stream` can be read and written, so both directions need only one file descriptor.
impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&*stream).read(buffer),
            Stream::Unix(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&*stream).write(bytes),
            Stream::Unix(stream) => (&*stream).write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&*stream).write_vectored(slices),
            Stream::Unix(stream) => (&*stream).write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
