//! The real memcached: the program that MEMCACHED names, or else `memcached` on the PATH.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::Client;
use super::process::{eventually, passed_over};

/// A real memcached in a process of its own, as long as it is in scope.
pub struct Memcached {
    pub address: SocketAddr,
    process: Child,
}

/// The numbers of a release: 1.6.45.
pub type Release = (u32, u32, u32);

impl Memcached {
    /// The program, if it is of this release or a later one. Otherwise the test that asks is passed over.
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

    /// The program of any release, and the release. If there is none, the test that asks is passed over.
    pub fn find_any() -> Option<(PathBuf, Release)> {
        let named = std::env::var_os("MEMCACHED").filter(|name| !name.is_empty());
        let program = PathBuf::from(named.unwrap_or_else(|| "memcached".into()));
        let said = match Command::new(&program).arg("-V").output() {
            Ok(said) => String::from_utf8_lossy(&said.stdout).trim().to_owned(),
            Err(error) => {
                let name = program.display();
                passed_over(&format!("there is no memcached: {name} ({error})"));
                return None;
            }
        };
        let mut numbers = said
            .trim_start_matches("memcached ")
            .split('.')
            .map(|part| part.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Some((program, (next(), next(), next())))
    }

    /// Starts it with these flags, beside those that it needs to be found and to harm nobody.
    pub fn start(program: &PathBuf, flags: &str) -> Self {
        // It does not tell which port it got, so it is given one that was free a moment ago. When somebody
        // else was faster, it ends, and another port is tried.
        for _ in 0..5 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
            let address = free.local_addr().expect("it has an address");
            drop(free);
            let mut command = Command::new(program);
            command.args(["-l", "127.0.0.1", "-U", "0", "-p"]);
            command.arg(address.port().to_string());
            command.args(flags.split_whitespace());
            if is_root() {
                command.args(["-u", "root"]);
            }
            let command = command.stdin(Stdio::null()).stdout(Stdio::null());
            let process = command.stderr(Stdio::null()).spawn();
            let mut process = process.expect("memcached starts");
            let mut ended = false;
            eventually("memcached listens, or ends", || {
                ended = process.try_wait().expect("it is our child").is_some();
                ended || is_server(address, process.id())
            });
            if !ended {
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
    TcpStream::connect(address).is_ok() && Client::connect(address).stat("pid") == pid.to_string()
}

/// memcached does not run as root unless it is told to.
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
}
