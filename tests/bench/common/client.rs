//! A client of the memcached protocol.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use super::{Key, TIMEOUT};

/// The requests of a pipeline are written in pieces of about this size.
pub const PIECE: usize = 64 * 1024;

/// The text of a key: 13 bytes for every number.
pub fn key_name(key: Key) -> String {
    format!("key:{key:09}")
}

/// One connection, and what is to be sent next on it.
pub struct Client {
    stream: BufReader<TcpStream>,
    pub request: Vec<u8>,
}

impl Client {
    pub fn connect(address: &str) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Client {
            stream: BufReader::with_capacity(PIECE, stream),
            request: Vec::new(),
        })
    }

    /// Adds a `set` that is not answered to the request, and sends this when it has become long.
    pub fn set(&mut self, key: Key, exptime: u32, value: &[u8]) -> io::Result<()> {
        let (key, bytes) = (key_name(key), value.len());
        write!(self.request, "set {key} 0 {exptime} {bytes} noreply\r\n")?;
        self.request.extend_from_slice(value);
        self.request.extend_from_slice(b"\r\n");
        if self.request.len() > PIECE {
            self.send()?;
        }
        Ok(())
    }

    /// Sends what has been gathered.
    pub fn send(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(&self.request)?;
        self.request.clear();
        Ok(())
    }

    /// The next line of the answer, without its end.
    pub fn line(&mut self, line: &mut String) -> io::Result<()> {
        line.clear();
        if self.stream.read_line(line)? == 0 {
            return Err(io::Error::other("the server closed the connection"));
        }
        line.truncate(line.trim_end().len());
        Ok(())
    }

    /// Asks for all of these keys at once, and returns those that are there, in the same order.
    pub fn get(&mut self, keys: &[Key]) -> io::Result<Vec<Key>> {
        self.request.extend_from_slice(b"get");
        for &key in keys {
            self.request.push(b' ');
            self.request.extend_from_slice(key_name(key).as_bytes());
        }
        let mut line = self.ask("")?;
        let mut found = Vec::with_capacity(keys.len());
        while line != "END" {
            // VALUE key:000000001 0 100
            let mut words = line.split(' ');
            let key = words.nth(1).and_then(|key| key.strip_prefix("key:"));
            let bytes = words.nth(1).and_then(|bytes| bytes.parse::<u64>().ok());
            let (Some(key), Some(bytes)) = (key.and_then(|key| key.parse().ok()), bytes) else {
                return Err(io::Error::other(format!("unexpected: {line}")));
            };
            // The data block ends with a line end.
            io::copy(&mut (&mut self.stream).take(bytes + 2), &mut io::sink())?;
            found.push(key);
            self.line(&mut line)?;
        }
        Ok(found)
    }

    /// Sends a command behind all that has been gathered, and returns the one line that answers it. So it
    /// is a barrier as well.
    pub fn ask(&mut self, command: &str) -> io::Result<String> {
        write!(self.request, "{command}\r\n")?;
        self.send()?;
        let mut answer = String::new();
        self.line(&mut answer)?;
        Ok(answer)
    }

    /// One number out of `stats`.
    pub fn stat(&mut self, name: &str) -> io::Result<u64> {
        let mut line = self.ask("stats")?;
        let mut number = None;
        while line != "END" {
            let mut words = line.split_whitespace().skip(1);
            if words.next() == Some(name) {
                number = words.next().and_then(|word| word.parse().ok());
            }
            self.line(&mut line)?;
        }
        number.ok_or_else(|| io::Error::other(format!("no number in stats is called {name}")))
    }
}
