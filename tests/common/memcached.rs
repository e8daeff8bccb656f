//! The real memcached: the program that the variable MEMCACHED names, or `memcached` on the PATH.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::TIMEOUT;
use super::process::{eventually, passed_over};
use super::system::{free_port, is_root};

/// A real memcached in a process of its own. It is killed when it goes out of scope.
pub struct Memcached {
    pub address: SocketAddr,
    process: Child,
}

/// The numbers of a release: 1.6.45.
pub type Release = (u32, u32, u32);

impl Memcached {
    /// The program, if it is this release or a later one. Otherwise the test that asks is passed over.
    pub fn find(release: Release) -> Option<PathBuf> {
        let (program, found) = Memcached::find_any()?;
        if found < release {
            let (major, minor, patch) = release;
            passed_over(&format!(
                "memcached {major}.{minor}.{patch} is needed, and {} is {}.{}.{}",
                program.display(),
                found.0,
                found.1,
                found.2
            ));
            return None;
        }
        Some(program)
    }

    /// The program of any release, and the release. If there is no program, the test that asks is passed over.
    pub fn find_any() -> Option<(PathBuf, Release)> {
        let named = std::env::var_os("MEMCACHED").filter(|name| !name.is_empty());
        let program = PathBuf::from(named.unwrap_or_else(|| "memcached".into()));
        let version = match Command::new(&program).arg("-V").output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            Err(error) => {
                let name = program.display();
                passed_over(&format!("there is no memcached: {name} ({error})"));
                return None;
            }
        };
        let mut numbers = version
            .trim_start_matches("memcached ")
            .split('.')
            .map(|part| part.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Some((program, (next(), next(), next())))
    }

    /// Starts it with these flags and those that every test needs: it listens on 127.0.0.1 only, without UDP.
    pub fn start(program: &PathBuf, flags: &str) -> Self {
        // It does not print which port it got, so it gets one that was free a moment ago. If another process was
        // faster and has the port now, memcached ends, and another port is tried.
        for _ in 0..5 {
            let port = free_port().expect("a port is free");
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut command = Command::new(program);
            command.args(["-l", "127.0.0.1", "-U", "0", "-p", &port.to_string()]);
            command.args(flags.split_whitespace());
            if is_root() {
                command.args(["-u", "root"]);
            }
            let command = command.stdin(Stdio::null()).stdout(Stdio::null());
            let process = command.stderr(Stdio::null()).spawn();
            let mut process = process.expect("memcached starts");
            let mut has_ended = false;
            eventually("memcached listens, or ends", || {
                has_ended = process.try_wait().expect("it is our child").is_some();
                has_ended || is_server(address, process.id())
            });
            if !has_ended {
                return Memcached { address, process };
            }
        }
        panic!("memcached ends as soon as it has started");
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether this process listens at this address. Another server may have taken the port first.
fn is_server(address: SocketAddr, pid: u32) -> bool {
    // While it starts, memcached may accept a connection and reset it.
    let answer = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(b"stats\r\n")?;
        for line in BufReader::new(stream).lines() {
            // With `-Y` it does not say which process it is.
            match line?.as_str() {
                "CLIENT_ERROR unauthenticated" => return Ok(true),
                "END" => break,
                line if line == format!("STAT pid {pid}") => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
    };
    answer().is_ok_and(|is_this| is_this)
}
