//! Several servers behind twemproxy (its program is `nutcracker`), as README describes: the keys are spread, a server
//! that dies is ejected, and when it is back, it has its items.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use common::Client;
use common::folder::Folder;
use common::process::{self, Process, eventually, passed_over};
use common::system::free_port;

const KEYS: usize = 300;

/// A proxy in a process of its own. It is killed when it goes out of scope.
struct Proxy {
    address: SocketAddr,
    process: Child,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Proxy {
    /// Starts a proxy with the configuration of README, but with these ports. `None`: twemproxy is not installed.
    fn start(folder: &Folder, servers: &[u16]) -> Option<Self> {
        let port = free_port().unwrap();
        let mut config: String = include_str!("../README.md")
            .lines()
            .skip_while(|&line| line != "    cache:")
            .map_while(|line| line.strip_prefix("    "))
            .flat_map(|line| [line, "\n"])
            .collect();
        for (digit, port) in [&[port], servers].concat().into_iter().enumerate() {
            config = config.replace(&format!("1121{digit}"), &port.to_string());
        }
        let file = folder.file("proxy.yml");
        fs::write(&file, config).unwrap();
        let statistics = free_port().unwrap().to_string();
        // Debian has it where only root looks for programs.
        let started = ["nutcracker", "/usr/sbin/nutcracker"]
            .iter()
            .find_map(|program| {
                let mut command = Command::new(program);
                command
                    .arg("-c")
                    .arg(&file)
                    .args(["-a", "127.0.0.1", "-s", &statistics]);
                command
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .ok()
            });
        let Some(process) = started else {
            passed_over("nutcracker (twemproxy) is not installed");
            return None;
        };
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let mut proxy = Proxy { address, process };
        eventually("the proxy listens", || {
            let ended = proxy.process.try_wait().unwrap();
            assert!(ended.is_none(), "it ends: {ended:?}");
            TcpStream::connect(address).is_ok()
        });
        Some(proxy)
    }

    /// Asks for a key in a connection of its own.
    fn get(&self, key: usize) -> String {
        Client::connect(self.address)
            .send(format!("get {}\r\n", name(key)))
            .line()
    }

    /// The number of keys that are found.
    fn found(&self) -> usize {
        (0..KEYS)
            .filter(|&key| self.get(key).starts_with("VALUE"))
            .count()
    }
}

fn name(key: usize) -> String {
    format!("session-{:08x}", common::random::mix(key as u64) as u32)
}

fn server(folder: &Folder, port: u16) -> Process {
    let file = folder.file(&format!("{port}.aof"));
    let server = process::launch("", &format!("-p {port} --aof {}", file.display()));
    server.address();
    server
}

#[test]
fn behind_twemproxy_a_dead_server_is_ejected_and_comes_back_with_its_file() {
    let folder = Folder::new();
    let ports = [(); 3].map(|()| free_port().unwrap());
    let Some(proxy) = Proxy::start(&folder, &ports) else {
        return;
    };
    let mut servers = ports.map(|port| Some(server(&folder, port)));
    for key in 0..KEYS {
        let set = format!("set {} 0 0 1\r\nx\r\n", name(key));
        Client::connect(proxy.address).check(set, "STORED\r\n");
    }
    let items = servers
        .each_ref()
        .map(|server| server.as_ref().unwrap().count("curr_items") as usize);
    assert_eq!(items.iter().sum::<usize>(), KEYS);
    assert!(items.iter().all(|&items| items > KEYS / 10), "{items:?}");
    assert_eq!(proxy.found(), KEYS);

    // It is killed, as if its machine had failed.
    drop(servers[0].take());
    eventually("its keys are misses, and no longer errors", || {
        (0..KEYS).all(|key| {
            ["END", "VALUE"]
                .iter()
                .any(|word| proxy.get(key).starts_with(word))
        })
    });
    assert_eq!(proxy.found(), KEYS - items[0]);
    // The other servers have its keys now.
    for key in 0..KEYS {
        let set = format!("add {} 0 0 1\r\ny\r\n", name(key));
        let answer = Client::connect(proxy.address).send(set).line();
        assert!(
            ["STORED", "NOT_STORED"].contains(&answer.as_str()),
            "{answer}"
        );
    }
    assert_eq!(proxy.found(), KEYS);

    let back = server(&folder, ports[0]);
    assert_eq!(back.count("curr_items") as usize, items[0]);
    eventually("the proxy asks it again", || {
        proxy.found() == KEYS && back.count("get_hits") > 0
    });
}
