//! A client of the memcached protocol.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use super::{Key, TIMEOUT};

/// The requests of a pipeline are written in pieces of about this size.
pub const PIECE: usize = 64 * 1024;

/// The text of a key: always 13 bytes.
pub fn key_name(key: Key) -> String {
    format!("key:{key:09}")
}

/// Connects to a server.
pub fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// One connection, and the commands that will be sent next.
pub struct Client {
    stream: BufReader<TcpStream>,
    pub request: Vec<u8>,
}

impl Client {
    pub fn connect(address: &str) -> io::Result<Client> {
        Ok(Client {
            stream: BufReader::with_capacity(PIECE, connect(address)?),
            request: Vec::new(),
        })
    }

    /// Adds a `set` with noreply to the request, and sends the request if it is long.
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

    /// Sends the request.
    pub fn send(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(&self.request)?;
        self.request.clear();
        Ok(())
    }

    /// Reads the next line of the answer, without its line end.
    pub fn line(&mut self, line: &mut String) -> io::Result<()> {
        line.clear();
        if self.stream.read_line(line)? == 0 {
            return Err(io::Error::other("the server closed the connection"));
        }
        line.truncate(line.trim_end().len());
        Ok(())
    }

    /// Sends one `get` for all of these keys, and returns those that have an item, in the same order.
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

    /// Adds a command to the request, sends it, and returns the command's answer, which must be one line. Then
    /// everything before it has been executed too.
    pub fn ask(&mut self, command: &str) -> io::Result<String> {
        write!(self.request, "{command}\r\n")?;
        self.send()?;
        let mut answer = String::new();
        self.line(&mut answer)?;
        Ok(answer)
    }

    /// One number of `stats`.
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
