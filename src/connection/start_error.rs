//! Why a server did not start.

use std::fmt;
use std::io::{self, ErrorKind};

use crate::aof::open::OpenError;

/// Why a server did not start. `Display` is one line for the user, which names the flag if one is the cause.
#[derive(Debug)]
pub enum StartError {
    /// The append-only file cannot be opened or replayed.
    AppendOnlyFile(OpenError),
    /// [`Config::listen`](crate::Config::listen) is empty.
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
        /// The name in [`Config::listen`](crate::Config::listen).
        name: String,
        /// The port.
        port: u16,
        /// The system's error.
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
            StartError::CannotListen { name, port, error } => match error.kind() {
                ErrorKind::AddrInUse => write!(
                    f,
                    "-p {port}: the port is in use on {name}; is another server running?"
                ),
                ErrorKind::PermissionDenied => {
                    write!(
                        f,
                        "-p {port}: there is no permission to listen on this port; choose another"
                    )
                }
                _ => write!(f, "-l {name} -p {port}: cannot listen: {error}"),
            },
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
