//! What the tests share: a server of one's own, and a client that says what it expects.
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

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustmemc::config::{self, Invocation};
use rustmemc::{Config, Running, Server};

/// So long a client waits for what should have come at once. A test that holds never waits so long; one
/// that fails does so with a message and not by hanging.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// A server in this process, on a port of its own; it stops when it goes out of scope.
pub struct TestServer {
    pub address: SocketAddr,
    pub running: Running,
}

/// Starts a server with these flags, as on the command line, and without an append-only file.
pub fn server(flags: &str) -> TestServer {
    server_with_log(&format!("--no-aof {flags}"))
}

/// Starts a server that keeps an append-only file: the flags must say where.
pub fn server_with_log(flags: &str) -> TestServer {
    let running = Server::start(config(&format!("-p 0 -c 64 {flags}")));
    let running = running.unwrap_or_else(|error| panic!("{flags:?}: {error}"));
    TestServer {
        address: running.address(),
        running,
    }
}

/// What these flags mean.
pub fn config(flags: &str) -> Config {
    match config::from_command_line(flags.split_whitespace().map(Into::into)) {
        Ok(Invocation::Serve(config)) => config,
        other => panic!("{flags:?} gives {other:?}"),
    }
}

impl TestServer {
    /// A new connection.
    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One value out of `stats`.
    pub fn stat(&self, name: &str) -> String {
        self.client().stat(name)
    }
}

/// A client: bytes out, bytes in.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream
            .set_read_timeout(Some(TIMEOUT))
            .expect("a timeout can be set");
        stream.set_nodelay(true).expect("no delay can be set");
        Client { stream }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream
            .write_all(bytes.as_ref())
            .expect("the server reads");
        self
    }

    /// Reads as many bytes as `expected` has; they must be those.
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

    /// Sends a command and expects its answer.
    #[track_caller]
    pub fn check(&mut self, command: impl AsRef<[u8]>, answer: impl AsRef<[u8]>) -> &mut Self {
        self.send(command).expect(answer)
    }

    /// Reads until the server closes: nothing may come before that.
    #[track_caller]
    pub fn expect_end(&mut self) {
        assert_eq!(
            shortened(&self.rest()),
            "",
            "the server closes without another byte"
        );
    }

    /// Says that nothing more will be sent, and reads until the server closes.
    pub fn finish(mut self) -> Vec<u8> {
        self.stream
            .shutdown(Shutdown::Write)
            .expect("half a connection can be closed");
        self.rest()
    }

    /// Reads until the server closes.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset ends a connection too.
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
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            assert_eq!(
                self.stream.read(&mut byte).expect("a line comes"),
                1,
                "the line ends: {line:?}"
            );
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    /// One value out of `stats`.
    pub fn stat(&mut self, name: &str) -> String {
        self.send("stats\r\n");
        let mut value = None;
        loop {
            let line = self.line();
            if line == "END" {
                return value.unwrap_or_else(|| panic!("stats tell {name}"));
            }
            if let Some(found) = line.strip_prefix(&format!("STAT {name} ")) {
                value = Some(found.to_owned());
            }
        }
    }
}

/// Bytes for a message: escaped, and not too many.
pub fn shortened(bytes: &[u8]) -> String {
    match bytes.split_at_checked(300) {
        Some((start, rest)) => format!("{}... ({} bytes more)", start.escape_ascii(), rest.len()),
        None => bytes.escape_ascii().to_string(),
    }
}
