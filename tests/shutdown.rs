//! The server stops soon, whatever its clients do, with exit code 0, and it cuts no answer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use common::folder::Folder;
use common::process::{self, Process, eventually};
use common::system::free_port;
use common::{Client, STOP_TIMEOUT, VERSION, shortened};

/// Asks the server to stop. It must end in time, with exit code 0. Returns what it has printed on standard error.
#[track_caller]
fn check(server: Process, ask: impl FnOnce(&Process)) -> String {
    ask(&server);
    let outcome = server.outcome();
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    assert!(outcome.took < STOP_TIMEOUT, "it took {:?}", outcome.took);
    outcome.stderr
}

/// A client that sends many commands at a time, again and again, until the server closes the connection.
struct Busy {
    received: Arc<AtomicU64>,
    work: JoinHandle<()>,
}

impl Busy {
    fn start(address: SocketAddr, number: usize) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        let work = std::thread::spawn(move || work(Client::connect(address), number, &counter));
        Busy { received, work }
    }
}

fn work(mut client: Client, number: usize, received: &AtomicU64) {
    // The answers to one batch are megabytes, more than the system buffers. So there is always an answer under way that
    // a careless stop would cut.
    const AT_A_TIME: usize = 60;
    let value = format!("{number:02}").repeat(50_000);
    let stored = "STORED\r\n";
    let answers = format!("{stored}VALUE k{number} 0 100000\r\n{value}\r\nEND\r\n").into_bytes();
    client.check(format!("set k{number} 0 0 100000\r\n{value}\r\n"), stored);
    let commands = format!("set s{number} 0 0 1\r\nx\r\nget k{number}\r\n");
    let batch = commands.repeat(AT_A_TIME);
    loop {
        // If the server has closed the connection, this fails or a read below does.
        let _ = client.stream.write_all(batch.as_bytes());
        for _ in 0..AT_A_TIME {
            let mut got = Vec::new();
            let _ = (&client.stream)
                .take(answers.len() as u64)
                .read_to_end(&mut got);
            assert!(
                answers.starts_with(&got),
                "a wrong answer: {}",
                shortened(&got)
            );
            if got.len() < answers.len() {
                assert!(
                    got.is_empty() || got == stored.as_bytes(),
                    "{} bytes of an answer",
                    got.len()
                );
                return;
            }
            received.fetch_add(1, Relaxed);
        }
    }
}

#[test]
fn a_signal_stops_the_server_at_once_and_cuts_no_answer() {
    for (signal, idle) in [("INT", 50), ("TERM", 500)] {
        let server = process::spawn("");
        let mut idle: Vec<Client> = (0..idle).map(|_| server.client()).collect();
        for client in &mut idle {
            client.check("version\r\n", VERSION);
        }
        let busy: Vec<Busy> = (0..20).map(|n| Busy::start(server.address(), n)).collect();
        eventually("all clients are busy", || {
            busy.iter().all(|busy| busy.received.load(Relaxed) > 5)
        });
        let stderr = check(server, |server| server.signal(signal));
        assert_eq!(stderr, "", "no client delayed it");
        for client in &mut idle {
            client.expect_end();
        }
        for busy in busy {
            busy.work.join().expect("every answer was whole");
        }
    }
}

#[test]
fn a_get_line_that_never_ends_does_not_delay_the_stop() {
    let server = process::spawn("");
    let mut waits = server.client();
    waits.send("get ").send("key ".repeat(250_000));
    // One has a key that is too long, so the rest of its line is swallowed.
    let starts = ["get k ".to_owned(), format!("get {} ", "k".repeat(251))];
    let before = server.count("bytes_read");
    let endless = starts.map(|start| {
        let mut client = server.client().stream;
        std::thread::spawn(move || {
            let _ = client.write_all(start.as_bytes());
            while client.write_all("key ".repeat(10_000).as_bytes()).is_ok() {}
        })
    });
    eventually("they have sent much", || {
        server.count("bytes_read") - before > 30_000_000
    });
    let stderr = check(server, |server| server.signal("TERM"));
    assert_eq!(stderr, "", "no client delayed it");
    for client in endless {
        client.join().expect("its connection is closed");
    }
}

#[test]
fn a_client_that_reads_no_answers_does_not_delay_the_stop() {
    // More than the system buffers: a worker that sends this has to wait for the client.
    let bytes = 32 << 20;
    let server = process::spawn("-m 128 -I 64m");
    let mut client = server.client();
    client.send(format!("set k 0 0 {bytes}\r\n"));
    client.send(vec![b'x'; bytes]).check("\r\n", "STORED\r\n");
    client.send("get k\r\n");
    let begun = client.stream.peek(&mut [0]);
    begun.expect("the first bytes of the answer arrive");
    let stderr = check(server, |server| server.signal("TERM"));
    assert!(stderr.contains("answers in time: 1"), "{stderr}");
}

#[test]
fn a_client_in_the_middle_of_a_command_does_not_delay_the_stop() {
    let server = process::spawn("");
    let mut clients = Vec::new();
    for half in [
        "get k",
        "set k 0 0 100\r\nabc",
        "set k bad 0 100\r\nabc",
        "set k 0 0 99999999\r\n",
    ] {
        let mut client = server.client();
        client.check(format!("version\r\n{half}"), VERSION);
        clients.push(client);
    }
    let stderr = check(server, |server| server.signal("TERM"));
    assert_eq!(stderr, "", "no client delayed it");
    for mut client in clients {
        client.expect_end();
    }
}

/// The server wakes its acceptor with a connection to its own address. With 0.0.0.0 it has to choose another one.
#[test]
fn a_server_that_listens_on_all_addresses_stops_too() {
    check(process::spawn("-l 0.0.0.0"), |server| server.signal("TERM"));
}

#[test]
fn the_next_server_gets_the_port_at_once() {
    let server = process::spawn("");
    let address = server.address();
    let mut clients: Vec<Client> = (0..20).map(|_| server.client()).collect();
    for client in &mut clients {
        client.check("version\r\n", VERSION);
    }
    check(server, |server| server.signal("TERM"));
    let next = process::launch("", &format!("-p {}", address.port()));
    assert_eq!(next.address(), address);
    next.client().check("version\r\n", VERSION);
}

#[test]
fn the_shutdown_command_stops_the_server_where_it_is_allowed() {
    for command in ["shutdown\r\n", "shutdown graceful\r\n"] {
        let server = process::spawn("-A");
        let (mut client, mut other) = (server.client(), server.client());
        other.check("version\r\n", VERSION);
        // Commands before it are answered, and commands behind it are not.
        client.send(format!("set k 0 0 1\r\nx\r\n{command}get k\r\n"));
        client.expect("STORED\r\n").expect_end();
        other.expect_end();
        check(server, |_| ());
    }
}

/// The server must never wait for a pipe that nobody reads: neither before it answers nor before it stops.
#[test]
fn a_server_whose_standard_error_is_not_read_serves_and_stops() {
    const COMMANDS: usize = 100_000;
    let folder = Folder::new();
    let path = folder.file("stderr");
    // The shell opens the pipe for reading too, so that writing to it blocks and does not fail.
    let prepare = format!("rm -f {0}; mkfifo {0}; exec 3<>{0} 2>&3;", path.display());
    let server = || process::spawn_after(&prepare, "-vv");
    let talk = |server: &Process| {
        let mut client = server.client();
        client.send("get a\r\n".repeat(COMMANDS));
        client.expect("END\r\n".repeat(COMMANDS));
    };

    let unread = server();
    talk(&unread);
    check(unread, |server| server.signal("TERM"));

    // When the pipe is read, it has whole lines, and then the number of lines that were dropped.
    let read_late = server();
    talk(&read_late);
    let mut lines = BufReader::new(File::open(&path).expect("it is a pipe")).lines();
    let mut lines = std::iter::from_fn(|| Some(lines.next()?.expect("lines are text")));
    let dropped = lines.find(|line| !line.starts_with('<') && !line.starts_with('>'));
    assert!(
        dropped
            .as_ref()
            .is_some_and(|line| line.ends_with(" lines were dropped: standard error was not read")),
        "{dropped:?}"
    );
    check(read_late, |server| server.signal("TERM"));
}

/// A restart script does not wait until the old server has ended. The new one waits for the file, and then everything
/// else must be free.
#[test]
fn the_next_server_can_start_while_the_old_one_still_stops() {
    let folder = Folder::new();
    let port = free_port().unwrap();
    let (log, socket) = (folder.file("a"), folder.file("s"));
    let (log, socket) = (log.display(), socket.display());
    let flags = format!("-p {port} -s {socket} --aof {log}");
    let mut old = process::launch("", &flags);
    for _ in 0..10 {
        old.client().check("set k 0 0 1\r\nx\r\n", "STORED\r\n");
        old.signal("TERM");
        let new = process::launch("", &flags);
        assert_eq!(new.address().port(), port);
        new.client()
            .check("get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
        assert_eq!(old.outcome().status.code(), Some(0));
        old = new;
    }
}
