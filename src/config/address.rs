//! Where a server listens: TCP addresses, as `-l` names them, and a Unix socket.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A TCP address to listen on.
///
/// Its text is a name or an IP address, perhaps with a port: `localhost`, `127.0.0.1:11212`, `::1`, `[::1]:11212`. `*`
/// means every address of the machine. memcached's `proto[…]:` and `tag[…]:` may come first, and have no effect: every
/// address serves the protocols of [`Config::protocol`](super::Config::protocol).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpAddress {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// Its port. `None`: [`Config::port`](super::Config::port).
    pub port: Option<u16>,
}

/// A Unix socket to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    /// The socket's file.
    pub path: PathBuf,
    /// The permission bits of the file. A client needs permission to write.
    pub mode: u32,
}

impl TcpAddress {
    /// The default. Other machines cannot reach it.
    pub fn localhost() -> Self {
        TcpAddress {
            host: "127.0.0.1".into(),
            port: None,
        }
    }

    /// Every address of this machine.
    pub fn everywhere() -> Self {
        TcpAddress {
            host: "*".into(),
            port: None,
        }
    }
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => f.write_str(&self.host),
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
        }
    }
}

impl FromStr for TcpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = text.trim();
        if let Some((protocol, after)) = bracketed(rest, "proto") {
            if !["ascii", "binary", "negotiating"].contains(&protocol) {
                return Err(format!("there is no protocol {protocol}"));
            }
            rest = after;
        }
        if let Some((_, after)) = bracketed(rest, "tag") {
            rest = after;
        }
        // An IPv6 address without brackets has no port: its last part would look the same.
        let (host, port) = match rest.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(None) => return Err("the bracket is not closed".into()),
            Some(Some((host, after))) => (host, after.strip_prefix(':')),
            None => match rest.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (rest, None),
            },
        };
        let port = port.map(|port| {
            port.parse()
                .map_err(|_| format!("{port:?} is not a port from 0 to 65535"))
        });
        Ok(TcpAddress {
            host: host.into(),
            port: port.transpose()?,
        })
    }
}

/// If `text` begins with `name[`: the text in the brackets, and the rest after `]:`.
fn bracketed<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (inside, rest) = text
        .strip_prefix(name)?
        .strip_prefix('[')?
        .split_once(']')?;
    Some((inside, rest.strip_prefix(':').unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_port_and_what_memcached_allows_before_it() {
        for (text, host, port) in [
            ("localhost", "localhost", None),
            (" 127.0.0.1:24000 ", "127.0.0.1", Some(24000)),
            ("::1", "::1", None),
            ("::", "::", None),
            ("[::1]", "::1", None),
            ("[::1]:24000", "::1", Some(24000)),
            ("*", "*", None),
            ("*:0", "*", Some(0)),
            ("proto[ascii]:tag[web]:10.0.0.1:1", "10.0.0.1", Some(1)),
            ("tag[web]:localhost", "localhost", None),
        ] {
            let address: TcpAddress = text.parse().expect(text);
            assert_eq!((address.host.as_str(), address.port), (host, port));
        }
        for text in ["a:", "a:x", "a:65536", "[::1", "[::1]:x", "proto[xml]:a"] {
            assert!(text.parse::<TcpAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_printed_form_of_an_address_can_be_parsed_again() {
        for text in ["localhost", "127.0.0.1:24000", "::1", "[::1]:24000"] {
            assert_eq!(text.parse::<TcpAddress>().expect(text).to_string(), text);
        }
    }
}
