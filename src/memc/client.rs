//! A connection to a memcached: it sends commands and reads answers. Every error is a sentence for the user.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustmemc::config::TcpAddress;
use rustmemc::conversations::answer::{self, End, Ending, Part};
use rustmemc::internals::explain;
use rustmemc::{Address, Stream};

use crate::{Failure, failed};

/// The server that the command line names, and how long to wait for it.
pub struct Server {
    /// `host`, `host:port`, `[::1]:port`, or the path of a Unix socket, which contains a `/`.
    pub name: String,
    /// How long it may take to accept a connection, and for each read and write.
    pub timeout: Duration,
}

impl Server {
    /// Opens a connection.
    pub fn connect(&self) -> Result<Client<'_>, Failure> {
        let host_and_port = match self.name.parse::<TcpAddress>() {
            _ if self.name.contains('/') => None,
            Ok(tcp) if !tcp.host.is_empty() => Some((tcp.host, tcp.port.unwrap_or(11211))),
            parsed => {
                let why = parsed.err().unwrap_or("the host is missing".into());
                return Err(failed(format!("{} is not host:port: {why}.", self.name)));
            }
        };
        let (address, stream) = self.connect_to(host_and_port).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::NotFound => "there is no such socket".into(),
                kind @ (ErrorKind::ConnectionRefused | ErrorKind::TimedOut) => kind.to_string(),
                _ => error.to_string(),
            };
            failed(format!(
                "no server answers at {}: {why}. Start one with `make run`, or name another with -s host:port.",
                self.name
            ))
        })?;
        // A `TcpStream` reads and writes any socket.
        let stream: TcpStream = match stream {
            Stream::Tcp(stream) => stream,
            Stream::Unix(stream) => OwnedFd::from(stream).into(),
        };
        Ok(Client {
            server: self,
            address,
            reader: BufReader::new(stream),
        })
    }

    /// Tries all addresses of the host, one after the other. Without a host the name is the path of a Unix socket.
    fn connect_to(&self, host_and_port: Option<(String, u16)>) -> io::Result<(Address, Stream)> {
        let addresses = match host_and_port {
            None => vec![Address::Unix(self.name.clone().into())],
            Some(tcp) => tcp.to_socket_addrs()?.map(Address::Tcp).collect(),
        };
        let mut result = Err(io::Error::other("the host has no address"));
        for address in addresses {
            let stream = address.connect(self.timeout);
            result = stream.map(|stream| (address, stream));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// The end of an answer that is not complete, as an error.
    pub fn lost(&self, end: End) -> Failure {
        let what = match end {
            End::Silence => format!("was silent for {:?} (--timeout)", self.timeout),
            _ => "closed the connection: is it a memcached, and does it speak text (-B)?".into(),
        };
        failed(format!("the server at {} {what}", self.name))
    }

    /// The server has refused the command, or its answer is not that of a memcached.
    pub fn unexpected(&self, command: &str, answer: &str) -> Failure {
        if is_error(answer) {
            let answer = with_reason(command, answer);
            return Failure::NotDone(format!("the server refuses: {answer}"));
        }
        let (name, answer) = (&self.name, answer.chars().take(80).collect::<String>());
        failed(format!(
            "the server at {name} is not a memcached: it answers {answer:?}"
        ))
    }

    /// A line that says that the server does not serve this client is an error.
    fn check_served(&self, line: &str) -> Result<(), Failure> {
        let why = match line {
            "CLIENT_ERROR unauthenticated" => "wants a login (its flag -Y), and memc has none",
            "ERROR Too many open connections" => "has as many clients as it may have (its flag -c)",
            _ => return Ok(()),
        };
        Err(failed(format!("the server at {} {why}: {line}", self.name)))
    }
}

/// Whether the line of an answer says that the server refuses a command.
pub fn is_error(line: &str) -> bool {
    let first = line.split(' ').next();
    matches!(first, Some("ERROR" | "CLIENT_ERROR" | "SERVER_ERROR"))
}

/// The answer to a command, and its reason if the answer is not clear enough.
pub fn with_reason(command: &str, answer: &str) -> String {
    match explain::reason(command.as_bytes(), answer.as_bytes()) {
        Some(reason) => format!("{answer} ({reason})"),
        None => answer.to_owned(),
    }
}

/// A connection to a server.
pub struct Client<'s> {
    /// The server.
    pub server: &'s Server,
    /// The one of the server's addresses at which it has answered.
    pub address: Address,
    reader: BufReader<TcpStream>,
}

impl Client<'_> {
    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self.reader.get_mut().write_all(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(self.server.lost(End::Silence))
            }
            // If the server has closed the connection, it may have said why. The next read finds that, or the end.
            _ => Ok(()),
        }
    }

    /// Sends a command, and returns the line of its answer. The command has no line end; a data block may follow it.
    pub fn ask(&mut self, command: impl AsRef<[u8]>) -> Result<String, Failure> {
        self.send(&[command.as_ref(), b"\r\n"].concat())?;
        let mut answer = String::new();
        self.read(Ending::OnePart, |line, _| {
            answer = line.to_owned();
            Ok(())
        })?;
        Ok(answer)
    }

    /// Sends a command, and calls `each` with each line of its answer and the value that follows the line.
    pub fn ask_for_list(
        &mut self,
        command: &str,
        each: impl FnMut(&str, Option<Vec<u8>>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.send(format!("{command}\r\n").as_bytes())?;
        self.read(answer::ending(command.as_bytes()).0, each)
    }

    /// Reads an answer that ends so, to its end. Bytes of a line that are not UTF-8 are replaced.
    pub fn read(
        &mut self,
        ending: Ending,
        mut each: impl FnMut(&str, Option<Vec<u8>>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let server = self.server;
        let end = self.read_parts(ending, |part| {
            let line = String::from_utf8_lossy(&part.line);
            server.check_served(&line)?;
            each(&line, part.value)
        })?;
        match end {
            End::Complete => Ok(()),
            end => Err(server.lost(end)),
        }
    }

    /// Reads an answer that ends so. Silence and a closed connection are no errors.
    pub fn read_parts<E>(
        &mut self,
        ending: Ending,
        each: impl FnMut(Part) -> Result<(), E>,
    ) -> Result<End, E> {
        answer::read(&mut self.reader, ending, each)
    }

    /// Whether the server has sent more, or sends something within this time. Nothing of it is read.
    pub fn has_more(&mut self, within: Duration) -> bool {
        self.set_timeout(Some(within));
        let more = self.reader.fill_buf();
        more.is_ok_and(|bytes| !bytes.is_empty())
    }

    /// From now on a read waits no longer than this. `None`: for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) {
        // This fails only if the connection is broken or the time is zero. The next read notices the one, and nobody
        // asks for the other.
        let _ = self.reader.get_ref().set_read_timeout(timeout);
    }
}
