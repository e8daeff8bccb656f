//! Servers inside another program, as its tests would use them: only the public types of the library.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::ffi::OsStr;
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use common::folder::Folder;
use common::process::eventually;
use common::{Client, STOP_TIMEOUT, VERSION, config};
use rustmemc::{AofOptions, Config, Fsync, OpenError, Running, Server, StartError, Stopper};

fn start() -> Running {
    Server::start(Config::default()).expect("a server starts")
}

/// Does something that stops a server, and checks how long that takes.
#[track_caller]
fn in_time(stop: impl FnOnce()) {
    let start = Instant::now();
    stop();
    assert!(
        start.elapsed() < STOP_TIMEOUT,
        "it took {:?}",
        start.elapsed()
    );
}

/// How many threads of this process have the name of a server's thread.
fn threads() -> usize {
    let ours = ["sweeper", "log keeper", "dispatcher", "acceptor", "worker"];
    let tasks = std::fs::read_dir("/proc/self/task").expect("the system lists them");
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| ours.contains(&name.trim())).count()
}

/// This is one test, because it counts all threads of this process.
#[test]
fn servers_leave_nothing_behind_in_whatever_order_they_stop() {
    ten_servers_stop_in_any_order();
    dropping_a_server_with_clients_closes_their_connections();
    a_client_that_does_not_read_its_answers_is_cut_off();
    a_second_stop_does_nothing();
    a_stopper_stops_from_another_thread();
    the_command_shutdown_stops_a_server();
    a_failed_start_leaves_nothing_behind();
    a_stopped_server_frees_its_file_for_the_next();
    eventually("all threads have ended", || threads() == 0);
}

fn ten_servers_stop_in_any_order() {
    let mut servers: Vec<(usize, Running, Client)> = (0..10)
        .map(|number| {
            let server = start();
            let mut client = Client::connect(server.address());
            client.check(format!("set k 0 0 1\r\n{number}\r\n"), "STORED\r\n");
            (number, server, client)
        })
        .collect();
    // Servers in the middle, at the end and at the beginning stop.
    for place in [5, 8, 0, 3, 3, 0, 0, 2, 1, 0] {
        let (_, mut server, mut client) = servers.remove(place);
        in_time(|| server.stop());
        client.expect_end();
        assert!(TcpStream::connect(server.address()).is_err());
        for (number, _, client) in &mut servers {
            client.check("get k\r\n", format!("VALUE k 0 1\r\n{number}\r\nEND\r\n"));
        }
    }
}

fn dropping_a_server_with_clients_closes_their_connections() {
    let server = start();
    let mut clients: Vec<Client> = (0..16).map(|_| Client::connect(server.address())).collect();
    for client in &mut clients {
        client.check("version\r\n", VERSION);
    }
    clients[0].send("set k 0 0 100\r\nhalf");
    in_time(|| drop(server));
    for client in &mut clients {
        client.expect_end();
    }
}

fn a_client_that_does_not_read_its_answers_is_cut_off() {
    // More than the system buffers: a worker that sends this has to wait for the client.
    let bytes = 32 << 20;
    let config = Config {
        memory_limit: 128 << 20,
        max_item_size: 64 << 20,
        ..Config::default()
    };
    let mut server = Server::start(config).expect("a server starts");
    let mut client = Client::connect(server.address());
    client.send(format!("set k 0 0 {bytes}\r\n"));
    client.send(vec![b'x'; bytes]).check("\r\n", "STORED\r\n");
    client.send("get k\r\n");
    let begun = client.stream.peek(&mut [0]);
    begun.expect("the first bytes of the answer arrive");
    in_time(|| server.stop());
    eventually("its worker has ended too", || threads() == 0);
}

fn a_second_stop_does_nothing() {
    let mut server = start();
    server.stop();
    in_time(|| server.stop());
    in_time(|| server.wait());
    in_time(|| drop(server));
}

fn a_stopper_stops_from_another_thread() {
    let mut server = start();
    let stopper = server.stopper();
    let stopping = std::thread::spawn(move || stopper.stop());
    in_time(|| server.wait());
    stopping.join().expect("it does not panic");
    assert!(server.stopper().is_stopping());
}

/// The server stops although no thread waits for it.
fn the_command_shutdown_stops_a_server() {
    let server = Server::start(config("-p 0 --no-aof -A")).expect("a server starts");
    let mut client = Client::connect(server.address());
    let mut other = Client::connect(server.address());
    other.check("version\r\n", VERSION);
    client.send("shutdown\r\n").expect_end();
    other.expect_end();
    eventually("it has stopped listening", || {
        TcpStream::connect(server.address()).is_err()
    });
}

fn a_failed_start_leaves_nothing_behind() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = taken.local_addr().expect("it has an address").port();
    let refused = Server::start(Config {
        port,
        ..Config::default()
    });
    let error = refused.expect_err("the port is in use");
    assert!(
        matches!(error, StartError::CannotListen { .. }),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        format!("-p {port}: Address already in use on 127.0.0.1; is another server running?")
    );
    let refused = Server::start(Config {
        listen: Vec::new(),
        ..Config::default()
    });
    assert!(matches!(refused, Err(StartError::NoAddress)), "{refused:?}");
}

fn a_stopped_server_frees_its_file_for_the_next() {
    let folder = Folder::new();
    let mut path = folder.file("a").into_os_string();
    path.push(OsStr::from_bytes(b"\xff.aof"));
    let config = Config {
        aof: Some(AofOptions {
            fsync: Fsync::Never,
            lock_wait: Duration::ZERO,
            ..AofOptions::new(path.clone().into())
        }),
        ..Config::default()
    };
    let server = Server::start(config.clone()).expect("a server starts");
    Client::connect(server.address()).check("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    let refused = Server::start(config.clone()).expect_err("the file is in use");
    assert!(
        matches!(
            refused,
            StartError::AppendOnlyFile(OpenError::InUse { path: ref file, .. }) if file.as_os_str() == path
        ),
        "{refused:?}"
    );
    drop(server);

    let stopper = Stopper::default();
    stopper.stop();
    let mut stopped = Server::start_with(Config::default(), stopper).expect("nothing was replayed");
    in_time(|| stopped.wait());

    let server = Server::start(config).expect("a server starts");
    Client::connect(server.address()).check("get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
}
