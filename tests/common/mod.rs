//! What the tests share: a server for each test, and a client that checks the answers.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod folder;
pub mod memcached;
pub mod memory;
pub mod process;
pub mod random;
pub mod system;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustmemc::config::{self, Invocation};
use rustmemc::{Config, Running, Server};

/// How long a test waits for something that should happen at once. A test that passes never waits so long. A test
/// that fails prints a message and does not hang.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// A server stops within two seconds. On a busy machine it may take longer.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to `version`.
pub const VERSION: &str = "VERSION 1.6.45\r\n";

/// A server in this process, on a port of its own. It stops when it goes out of scope.
pub struct TestServer {
    pub address: SocketAddr,
    pub running: Running,
}

/// Starts a server with these command-line flags, without an append-only file.
pub fn server(flags: &str) -> TestServer {
    server_with_log(&format!("--no-aof {flags}"))
}

/// Starts a server with an append-only file: the flags must contain its path.
pub fn server_with_log(flags: &str) -> TestServer {
    let running = Server::start(config(&format!("-p 0 -c 64 {flags}")));
    let running = running.unwrap_or_else(|error| panic!("{flags:?}: {error}"));
    TestServer {
        address: running.address(),
        running,
    }
}

/// The configuration that these command-line flags describe.
pub fn config(flags: &str) -> Config {
    match config::from_command_line(
        "rustmemc".as_ref(),
        flags.split_whitespace().map(Into::into),
    ) {
        Ok(Invocation::Serve { config, .. }) => *config,
        other => panic!("{flags:?} gives {other:?}"),
    }
}

impl TestServer {
    /// A new connection.
    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One value of `stats`.
    pub fn stat(&self, name: &str) -> String {
        self.client().stat(name)
    }
}

/// A connection to a server.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        let timeout = Some(TIMEOUT);
        stream
            .set_read_timeout(timeout)
            .and_then(|()| stream.set_write_timeout(timeout))
            .expect("a timeout can be set");
        stream.set_nodelay(true).expect("no delay can be set");
        Client { stream }
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream
            .write_all(bytes.as_ref())
            .expect("the server reads");
        self
    }

    /// Reads as many bytes as `expected` has, and fails if they differ.
    #[track_caller]
    pub fn expect(&mut self, expected: impl AsRef<[u8]>) -> &mut Self {
        let expected = expected.as_ref();
        let mut got = Vec::new();
        let read = (&self.stream)
            .take(expected.len() as u64)
            .read_to_end(&mut got);
        assert!(
            got == expected,
            "expected \"{}\"\n  but got  \"{}\" ({read:?})",
            shortened(expected),
            shortened(&got)
        );
        self
    }

    /// Sends a command and checks its answer.
    #[track_caller]
    pub fn check(&mut self, command: impl AsRef<[u8]>, answer: impl AsRef<[u8]>) -> &mut Self {
        self.send(command).expect(answer)
    }

    /// Checks that the server closes the connection and sends nothing before that.
    #[track_caller]
    pub fn expect_end(&mut self) {
        assert_eq!(
            shortened(&self.rest()),
            "",
            "the server closes without another byte"
        );
    }

    /// Closes the connection for sending, and reads until the server closes it.
    pub fn finish(mut self) -> Vec<u8> {
        self.stream
            .shutdown(Shutdown::Write)
            .expect("half a connection can be closed");
        self.rest()
    }

    /// Reads until the server closes the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset closes a connection too.
        if let Err(error) = self.stream.read_to_end(&mut rest) {
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionReset,
                "the server closes"
            );
        }
        rest
    }

    /// Reads one line, without its end.
    pub fn line(&mut self) -> String {
        let line = self.line_that_ends_in(b"\r\n");
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    /// Reads up to this end, which is included.
    pub fn line_that_ends_in(&mut self, end: &[u8]) -> Vec<u8> {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(end) {
            let read = self.stream.read_exact(&mut byte);
            assert!(read.is_ok(), "a line ends: {line:?}, {read:?}");
            line.push(byte[0]);
        }
        line
    }

    /// One value of `stats`.
    pub fn stat(&mut self, name: &str) -> String {
        self.value("stats\r\n", name)
    }

    /// One value of `stats settings`.
    pub fn setting(&mut self, name: &str) -> String {
        self.value("stats settings\r\n", name)
    }

    /// One value of the answer to a command.
    fn value(&mut self, command: &str, name: &str) -> String {
        self.send(command);
        let mut value = None;
        loop {
            let line = self.line();
            if line == "END" {
                return value.unwrap_or_else(|| panic!("{command:?} has no {name}"));
            }
            if let Some(found) = line.strip_prefix(&format!("STAT {name} ")) {
                value = Some(found.to_owned());
            }
        }
    }
}

/// Bytes for an error message: escaped, and at most 300 of them.
pub fn shortened(bytes: &[u8]) -> String {
    match bytes.split_at_checked(300) {
        Some((start, rest)) => format!("{}... ({} bytes more)", start.escape_ascii(), rest.len()),
        None => bytes.escape_ascii().to_string(),
    }
}
