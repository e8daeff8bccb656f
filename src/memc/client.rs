//! A connection to a memcached: it sends commands and reads answers. Every error is a sentence for the user.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::Failure;
use rustmemc::Address;
use rustmemc::config::TcpAddress;

/// The longest line that is read, in bytes. The longest of a memcached has a key of 250 bytes, url-encoded.
const MAX_LINE: u64 = 8192;

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
        let reader = BufReader::new(self.open()?);
        Ok(Client {
            server: self,
            reader,
        })
    }

    /// Opens a connection, as a socket alone.
    pub fn open(&self) -> Result<TcpStream, Failure> {
        let address = match self.name.parse::<TcpAddress>() {
            _ if self.name.contains('/') => None,
            Ok(address) if !address.host.is_empty() => Some(address),
            parsed => {
                let why = parsed.err().unwrap_or_else(|| "the host is missing".into());
                let problem = format!("{} is not host:port: {why}.", self.name);
                return Err(Failure::Failed(problem));
            }
        };
        self.open_socket(address).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::NotFound => "there is no such socket".into(),
                kind @ (ErrorKind::ConnectionRefused | ErrorKind::TimedOut) => kind.to_string(),
                _ => error.to_string(),
            };
            Failure::Failed(format!(
                "no server answers at {}: {why}. Start one with `make run`, or name another with -s host:port.",
                self.name
            ))
        })
    }

    /// The address at which the server answers: a name may have several.
    pub fn address(&self) -> Result<Address, Failure> {
        let stream = self.open()?;
        match stream.peer_addr() {
            Ok(address) => Ok(Address::Tcp(address)),
            Err(_) => Ok(Address::Unix(self.name.clone().into())),
        }
    }

    /// Tries all addresses of the host, one after the other.
    fn open_socket(&self, address: Option<TcpAddress>) -> io::Result<TcpStream> {
        let stream = match address {
            // A `TcpStream` reads and writes any socket, so the rest of the code needs only one type.
            None => OwnedFd::from(UnixStream::connect(&self.name)?).into(),
            Some(TcpAddress { host, port }) => {
                let mut result = Err(io::Error::other("the host has no address"));
                for address in (host, port.unwrap_or(11211)).to_socket_addrs()? {
                    result = TcpStream::connect_timeout(&address, self.timeout);
                    if result.is_ok() {
                        break;
                    }
                }
                result?
            }
        };
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        Ok(stream)
    }

    /// A read or a write has failed.
    pub fn lost(&self, error: &io::Error) -> Failure {
        let what = match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                format!("was silent for {:?} (--timeout)", self.timeout)
            }
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                "closed the connection: is it a memcached, and does it speak text (-B)?".into()
            }
            _ => format!("cannot be reached any more: {error}"),
        };
        Failure::Failed(format!("the server at {} {what}", self.name))
    }
}

/// A connection to a server.
pub struct Client<'s> {
    server: &'s Server,
    reader: BufReader<TcpStream>,
}

impl Client<'_> {
    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self.reader.get_mut().write_all(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(self.server.lost(&error)),
            // If the server has closed the connection, it may have said why. The next read finds that, or the end.
            _ => Ok(()),
        }
    }

    /// Sends a command, and returns the first line of its answer.
    pub fn ask(&mut self, command: &str) -> Result<String, Failure> {
        self.send(command.as_bytes())?;
        self.line()
    }

    /// Reads a line, and returns it without its end. Bytes that are not UTF-8 are replaced. A line that says that the
    /// server does not serve this client is an error.
    pub fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        let mut reader = self.reader.by_ref().take(MAX_LINE);
        let read = reader.read_until(b'\n', &mut line);
        read.map_err(|error| self.server.lost(&error))?;
        let is_whole = line.ends_with(b"\n");
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\r', '\n']);
        let name = &self.server.name;
        match text {
            _ if line.len() as u64 == MAX_LINE => Err(self.unexpected(text)),
            _ if !is_whole => Err(self.server.lost(&ErrorKind::UnexpectedEof.into())),
            // Before a login every `set` is taken for one.
            "CLIENT_ERROR unauthenticated"
            | "CLIENT_ERROR bad authentication token format"
            | "CLIENT_ERROR authentication failure" => Err(Failure::Failed(format!(
                "the server at {name} wants a login (its flag -Y), and memc has none: {text}"
            ))),
            "ERROR Too many open connections" => Err(Failure::Failed(format!(
                "the server at {name} has as many clients as it may have (its flag -c): {text}"
            ))),
            _ => Ok(text.to_owned()),
        }
    }

    /// Reads a value of this length and the line end behind it, and writes the value to `out`.
    pub fn value(&mut self, length: usize, out: &mut impl Write) -> Result<(), Failure> {
        let mut left = length;
        while left > 0 {
            let available = match self.reader.fill_buf() {
                Ok([]) => return Err(self.server.lost(&ErrorKind::UnexpectedEof.into())),
                read => read.map_err(|error| self.server.lost(&error))?,
            };
            let (part, _) = available.split_at(left.min(available.len()));
            let length = part.len();
            out.write_all(part)?;
            self.reader.consume(length);
            left -= length;
        }
        self.expect("")
    }

    /// Reads a line that must be this one.
    pub fn expect(&mut self, expected: &str) -> Result<(), Failure> {
        let line = self.line()?;
        let is_expected = line == expected;
        (is_expected.then_some(())).ok_or_else(|| self.unexpected(&line))
    }

    /// The server has refused a command, or its answer is not that of a memcached.
    pub fn unexpected(&self, answer: &str) -> Failure {
        let name = &self.server.name;
        match answer.split(' ').next() {
            Some("ERROR" | "CLIENT_ERROR" | "SERVER_ERROR") => {
                Failure::NotDone(format!("the server refuses: {answer}"))
            }
            _ => {
                let answer: String = answer.chars().take(80).collect();
                let problem = "is not a memcached: it answers";
                Failure::Failed(format!("the server at {name} {problem} {answer:?}"))
            }
        }
    }

    /// From now on reads wait for ever.
    pub fn wait_for_ever(&self) -> Result<(), Failure> {
        let set = self.reader.get_ref().set_read_timeout(None);
        set.map_err(|error| self.server.lost(&error))
    }
}
