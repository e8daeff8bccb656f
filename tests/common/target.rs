//! The server that `make conversations TARGET=host:port` names, and the questions that it must answer before the
//! conversations may empty it.
//!
//! It is another person's server, so each thing that can be wrong gets one sentence, which names the target.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a target may take to accept, and for each answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest line that is read of an answer, in bytes.
const LONGEST_LINE: u64 = 1000;

/// Checks that `target` is `host:port`, that a memcached answers there, and that it is empty or `may_empty`. Returns
/// its address, and its answer to `version`.
///
/// # Errors
/// One sentence for people.
pub fn examine(target: &str, may_empty: bool) -> Result<(SocketAddr, String), String> {
    let is_complete = target.rsplit_once(':').is_some_and(|(host, port)| {
        let is_one_host = host.starts_with('[') || !host.contains(':');
        !host.is_empty() && is_one_host && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if !is_complete {
        return Err(format!(
            "TARGET={target} is not host:port, such as 127.0.0.1:11211."
        ));
    }
    let addresses = (target.to_socket_addrs())
        .map_err(|error| format!("The host of TARGET={target} is not known: {error}."))?;
    let mut refusal = String::from("it has no address");
    let connected = addresses.into_iter().find_map(|address| {
        TcpStream::connect_timeout(&address, PATIENCE)
            .map_err(|error| refusal = error.to_string())
            .ok()
    });
    let stream =
        connected.ok_or_else(|| format!("No server answers at TARGET={target}: {refusal}."))?;
    let mut asked = Asked { target, stream };
    let address = asked.stream.peer_addr();
    let address = address.map_err(|error| asked.silent(&error))?;

    let version = asked.lines("version", |line| line.starts_with("VERSION "))?;
    let stats = asked.lines("stats", |line| line == "END")?;
    let items = stats
        .iter()
        .find_map(|line| line.strip_prefix("STAT curr_items "))
        .ok_or_else(|| format!("The stats of the server at TARGET={target} have no curr_items."))?;
    if items != "0" && !may_empty && asked.has_an_item()? {
        return Err(format!(
            "The server at TARGET={target} is not empty: the conversations would delete all its items ({items}). Add \
             EMPTY=yes to play them anyway."
        ));
    }
    let version = version.into_iter().next().unwrap_or_default();
    Ok((address, version))
}

/// Removes all items, so that the next `make conversations` need not ask about those that the last one has left. The
/// server may have ended (`shutdown`), or may refuse (`-F`).
pub fn empty(address: SocketAddr) {
    let flush = || -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"flush_all\r\n")?;
        stream.read(&mut [0; 100]).map(drop)
    };
    let _ = flush();
}

struct Asked<'t> {
    target: &'t str,
    stream: TcpStream,
}

impl Asked<'_> {
    /// Sends a command, and returns the lines of its answer up to the last one.
    fn lines(
        &mut self,
        command: &str,
        is_last: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, String> {
        let mut reader = self.send(command).map_err(|error| self.silent(&error))?;
        let mut lines = Vec::new();
        loop {
            let line = one_line(&mut reader).map_err(|error| self.silent(&error))?;
            let is_last = is_last(&line);
            if !is_last && !line.starts_with("STAT ") {
                let target = self.target;
                return Err(format!(
                    "The server at TARGET={target} is not a memcached: it answers {line:?} to {command:?}."
                ));
            }
            lines.push(line);
            if is_last {
                return Ok(lines);
            }
        }
    }

    /// Whether the server holds an item that a client can find: memcached counts flushed and expired items in
    /// `curr_items` for some time. A server that cannot list its items (an old one) counts as one that has some.
    fn has_an_item(&mut self) -> Result<bool, String> {
        // The rest of the answer is not read: it can be long. The connection is closed.
        let reader = self.send("lru_crawler metadump all");
        let line = reader.and_then(|mut reader| one_line(&mut reader));
        Ok(line.map_err(|error| self.silent(&error))? != "END")
    }

    fn send(&self, command: &str) -> io::Result<BufReader<&TcpStream>> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.stream.set_write_timeout(Some(PATIENCE))?;
        (&self.stream).write_all(format!("{command}\r\n").as_bytes())?;
        Ok(BufReader::new(&self.stream))
    }

    fn silent(&self, error: &io::Error) -> String {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("it is silent for {} seconds", PATIENCE.as_secs())
            }
            io::ErrorKind::UnexpectedEof => "it closes the connection".into(),
            _ => error.to_string(),
        };
        format!(
            "The server at TARGET={} does not answer: {why}.",
            self.target
        )
    }
}

/// Reads one line, without its end.
fn one_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    let mut reader = reader.take(LONGEST_LINE);
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned())
}
