//! Where a server listens: addresses with their own ports, names with several addresses, and a Unix socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use common::folder::Folder;
use common::process::{self, Process, eventually, passed_over};
use common::system::free_port;
use common::{Client, VERSION};

/// Starts a server, and waits until it has printed that it listens on this number of addresses.
fn start(flags: &str, addresses: usize) -> Process {
    let server = process::launch("", flags);
    eventually("it listens", || {
        let lines = server.stdout().matches(" listening on ").count();
        assert!(server.stderr().is_empty(), "{}", server.stderr());
        lines == addresses
    });
    server
}

/// Whether this machine has IPv6. If not, notes that the calling test is passed over.
fn has_ipv6() -> bool {
    let has = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has {
        passed_over("this machine has no IPv6");
    }
    has
}

/// What a server answers on its Unix socket.
fn version_from(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).expect("it listens there");
    stream.write_all(b"version\r\nquit\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn every_address_of_a_list_may_have_its_own_port() {
    let (one, other) = (free_port().unwrap(), free_port().unwrap());
    let server = start(&format!("-l 127.0.0.1:{one},;127.0.0.1:{other}"), 2);
    for port in [one, other] {
        let mut client = Client::connect((Ipv4Addr::LOCALHOST, port).into());
        client.check("version\r\n", VERSION);
        assert_eq!(client.setting("tcpport"), one.to_string());
        let inter = format!("127.0.0.1:{one},127.0.0.1:{other}");
        assert_eq!(client.setting("inter"), inter);
    }
    server.signal("TERM");
    assert_eq!(server.outcome().status.code(), Some(0));
}

#[test]
fn ipv4_and_ipv6_are_both_served_in_any_order_of_the_addresses() {
    if !has_ipv6() {
        return;
    }
    for list in [
        "0.0.0.0,::",
        "::,0.0.0.0",
        "*",
        "[::],127.0.0.1",
        "127.0.0.1,::1",
    ] {
        let port = free_port().unwrap();
        let server = process::launch("", &format!("-p {port} -l {list}"));
        server.address();
        let addresses: [SocketAddr; 2] = [
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ];
        for address in addresses {
            eventually("it listens", || TcpStream::connect(address).is_ok());
            Client::connect(address).check("version\r\n", VERSION);
        }
        server.signal("TERM");
        assert_eq!(server.outcome().status.code(), Some(0), "{list}");
    }
}

#[test]
fn a_name_with_two_addresses_is_served_on_both() {
    // Not every machine gives this name two addresses.
    let has_both = fs::read_to_string("/etc/hosts").is_ok_and(|hosts| {
        let of_localhost = |line: &&str| line.split_whitespace().any(|word| word == "localhost");
        hosts.lines().filter(of_localhost).count() > 1
    });
    if !has_both || !has_ipv6() {
        passed_over("localhost has one address here");
        return;
    }
    let server = start("-p 0 -l localhost", 2);
    for line in server.stdout().lines() {
        let (_, address) = line.split_once(" listening on ").unwrap();
        Client::connect(address.parse().unwrap()).check("version\r\n", VERSION);
    }
}

#[test]
fn a_unix_socket_has_the_mode_of_a_and_is_removed_when_the_server_stops() {
    let folder = Folder::new();
    let socket = folder.file("m.sock");
    let server = start(&format!("-s {} -a 0766", socket.display()), 1);
    assert_eq!(version_from(&socket), VERSION);
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o766);

    // Another server does not replace it.
    let refused = process::launch("", &format!("-s {}", socket.display())).outcome();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("already in use"),
        "{}",
        refused.stderr
    );
    assert_eq!(version_from(&socket), VERSION);

    server.signal("TERM");
    assert_eq!(server.outcome().status.code(), Some(0));
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

#[test]
fn the_unix_socket_of_a_killed_server_is_replaced_and_another_file_is_not() {
    let folder = Folder::new();
    let socket = folder.file("m.sock");
    drop(UnixListener::bind(&socket).expect("a socket"));
    let server = start(&format!("-s {}", socket.display()), 1);
    assert_eq!(version_from(&socket), VERSION);
    drop(server);
    assert_eq!(
        folder.names(),
        ["m.sock"],
        "a killed server leaves its socket"
    );

    // It is not known whether somebody uses this one: it has another kind.
    let datagrams = folder.file("d.sock");
    let _socket = UnixDatagram::bind(&datagrams).expect("a socket");
    let refused = process::launch("", &format!("-s {}", datagrams.display())).outcome();
    assert_eq!(refused.status.code(), Some(1));
    assert!(datagrams.exists());

    let file = folder.file("notes");
    fs::write(&file, "mine").unwrap();
    let refused = process::launch("", &format!("-s {}", file.display())).outcome();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("not a socket"),
        "{}",
        refused.stderr
    );
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[test]
fn a_unix_socket_and_a_port_are_both_served_if_the_port_is_given() {
    let folder = Folder::new();
    let (socket, port) = (folder.file("m.sock"), free_port().unwrap());
    let server = start(&format!("-s {} -p {port}", socket.display()), 2);
    assert_eq!(version_from(&socket), VERSION);
    let mut client = server.client();
    let mut other = UnixStream::connect(&socket).expect("it listens there");
    other.write_all(b"set k 0 0 1\r\nx\r\n").unwrap();
    other.read_exact(&mut [0; 8]).unwrap();
    client.check("get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
    assert_eq!(
        client.setting("domain_socket"),
        socket.display().to_string()
    );
    client.send("stats conns\r\n");
    let lines: Vec<String> =
        std::iter::from_fn(|| Some(client.line()).filter(|line| line != "END")).collect();
    let address = format!("listen_addr unix:{}", socket.display());
    assert!(
        lines.iter().any(|line| line.ends_with(&address)),
        "{lines:?}"
    );
}
