//! Why a server did not start.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::aof::open::OpenError;

/// Why a server did not start. `Display` is one line for the user, which names the flag if one is the cause.
#[derive(Debug)]
pub enum StartError {
    /// The append-only file cannot be opened or replayed.
    AppendOnlyFile(OpenError),
    /// [`Config::listen`](crate::Config::listen) is empty, and there is no Unix socket.
    NoAddress,
    /// A name in [`Config::listen`](crate::Config::listen) has no address.
    UnknownAddress {
        /// The name.
        name: String,
        /// The system's error.
        error: io::Error,
    },
    /// The system does not let the server listen.
    CannotListen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The system does not let the server listen on the Unix socket.
    CannotListenOnSocket {
        /// The socket's file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Another server listens on the Unix socket.
    SocketInUse(PathBuf),
    /// The file at the path of the Unix socket is not a socket.
    NotASocket(PathBuf),
    /// The file of users ([`Config::auth_file`](crate::Config::auth_file)) cannot be read, or has a wrong line.
    AuthFile {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The system allows no thread to serve clients.
    NoWorker,
    /// The system allows no thread for a task of the server itself.
    NoThread {
        /// The task.
        name: &'static str,
        /// The system's error.
        error: io::Error,
    },
    /// The server was asked to stop while it started.
    Stopped,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::AppendOnlyFile(error) => error.fmt(f),
            StartError::NoAddress => f.write_str("-l: no address to listen on is given"),
            StartError::UnknownAddress { name, error } => {
                write!(f, "-l {name}: this is not an address to listen on: {error}")
            }
            StartError::CannotListen { address, error } => {
                let (host, port) = (address.ip(), address.port());
                match error.kind() {
                    // Scripts look for the system's words.
                    ErrorKind::AddrInUse => write!(
                        f,
                        "-p {port}: Address already in use on {host}; is another server running?"
                    ),
                    ErrorKind::PermissionDenied => write!(
                        f,
                        "-p {port}: there is no permission to listen on this port; choose another"
                    ),
                    _ => write!(f, "-l {host} -p {port}: cannot listen: {error}"),
                }
            }
            StartError::CannotListenOnSocket { path, error } => {
                write!(f, "-s {}: cannot listen: {error}", path.display())
            }
            StartError::SocketInUse(path) => write!(
                f,
                "-s {}: Address already in use: another server listens on this socket",
                path.display()
            ),
            StartError::NotASocket(path) => write!(
                f,
                "-s {}: this file is not a socket, so it is not replaced",
                path.display()
            ),
            StartError::AuthFile { path, error } => write!(f, "-Y {}: {error}", path.display()),
            StartError::NoWorker => f.write_str(
                "cannot start a thread to serve clients: the system allows no more threads",
            ),
            StartError::NoThread { name, error } => {
                write!(f, "cannot start a thread ({name}): {error}")
            }
            StartError::Stopped => f.write_str("the server was stopped while it was starting"),
        }
    }
}

impl std::error::Error for StartError {}
