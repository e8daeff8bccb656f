//! Whatever one client does, the server does not end, keeps its memory within bounds, loses no worker, and serves all
//! other clients.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use common::process::{self, Process, eventually};
use common::random::Random;
use common::{Client, VERSION};

/// How many clients may be connected.
const PLACES: usize = 48;

/// The most memory that the server, its workers and everything that these tests store may take, in kilobytes. Most
/// abusers try to make it take ten times as much.
const MAX_MEMORY: u64 = 16 << 10;

const MEGABYTE: usize = 1_000_000;

const BAD: &str = "CLIENT_ERROR bad command line format\r\n";

/// Runs `abuse` on a server that two other clients use: one works without a pause, and the other is lent to `abuse`.
/// `abuse` returns the abusers' connections, and they stay open until everything is checked.
#[track_caller]
fn check<Abusers>(abuse: impl FnOnce(&Process, &mut Client) -> Abusers) {
    let server = process::spawn(&format!("-c {PLACES}"));
    let mut other = server.client();
    let bystander = Bystander::start(server.address());
    bystander.is_served();

    let abusers = abuse(&server, &mut other);
    bystander.is_served();
    let memory = server.memory("VmHWM");
    assert!(memory < MAX_MEMORY, "the server took {memory} kB");

    drop(abusers);
    all_abusers_are_gone(&mut other);
    let mut newcomers: Vec<Client> = (2..PLACES).map(|_| server.client()).collect();
    for client in &mut newcomers {
        client.check("version\r\n", VERSION);
    }
    bystander.is_served();
    // When the server goes out of scope, it is checked that it has not panicked.
}

#[track_caller]
fn all_abusers_are_gone(other: &mut Client) {
    eventually("only the two other clients are connected", || {
        other.stat("curr_connections") == "2"
    });
}

/// A client that behaves well and works without a pause. It uses a key of its own, and it writes the key `big`, which
/// abusers read.
struct Bystander {
    rounds: Arc<AtomicU64>,
    is_done: Arc<AtomicBool>,
    work: Option<JoinHandle<()>>,
}

impl Bystander {
    fn start(address: SocketAddr) -> Self {
        let rounds = Arc::new(AtomicU64::new(0));
        let is_done = Arc::new(AtomicBool::new(false));
        let (counter, end) = (Arc::clone(&rounds), Arc::clone(&is_done));
        let work = std::thread::spawn(move || {
            let mut client = Client::connect(address);
            let big = [
                b"set big 0 0 1000000\r\n",
                &vec![b'b'; MEGABYTE][..],
                b"\r\n",
            ]
            .concat();
            while !end.load(Relaxed) {
                let round = counter.fetch_add(1, Relaxed);
                client.check(format!("set mine 0 0 20\r\n{round:020}\r\n"), "STORED\r\n");
                client.check(
                    "get mine\r\n",
                    format!("VALUE mine 0 20\r\n{round:020}\r\nEND\r\n"),
                );
                if round.is_multiple_of(8) {
                    client.check(&big, "STORED\r\n");
                }
            }
        });
        Bystander {
            rounds,
            is_done,
            work: Some(work),
        }
    }

    /// Waits until some more rounds are done.
    #[track_caller]
    fn is_served(&self) {
        let before = self.rounds.load(Relaxed);
        eventually("the bystander is served", || {
            let has_failed = self.work.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(
                !has_failed,
                "the bystander got a wrong answer, or none (see above)"
            );
            self.rounds.load(Relaxed) > before + 20
        });
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.is_done.store(true, Relaxed);
        let ended = self.work.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(
                matches!(ended, Some(Ok(()))),
                "the bystander was served to the end"
            );
        }
    }
}

/// Sends bytes. It is no error if the server closes the connection before it has read all of them.
fn send(mut stream: &TcpStream, bytes: impl AsRef<[u8]>) {
    let _ = stream.write_all(bytes.as_ref());
}

/// Closes a connection with a reset: the system sends one when there is input that was not read.
fn reset(stream: TcpStream) {
    let unread = stream.peek(&mut [0]).expect("an answer comes");
    assert_eq!(unread, 1, "the server has answered");
    drop(stream);
}

#[test]
fn random_bytes_are_answered_with_errors_and_nothing_worse() {
    // Random bytes alone seldom make a valid verb, so pieces of commands are mixed in.
    const PIECES: [&[u8]; 16] = [
        b"get ",
        b"gets ",
        b"set k 0 0 10\r\n",
        b"set k 0 0 ",
        b"cas k 1 2 3 4\r\n",
        b"incr k ",
        b"append ",
        b"touch k -1",
        b" noreply",
        b"\r\n",
        b"\r\n",
        b"\n",
        b" 99999999999",
        b" -1 ",
        b"stats\r\n",
        b"\0\xff",
    ];
    let mut random = Random(1);
    check(|server, _| {
        for _ in 0..40 {
            let mut noise = Vec::new();
            while noise.len() < 4000 {
                match random.below(4) {
                    0 => noise.extend((0..random.below(40)).map(|_| random.below(256) as u8)),
                    _ => noise.extend(PIECES[random.below(PIECES.len())]),
                }
            }
            let mut client = server.client();
            send(&client.stream, noise);
            let _ = client.stream.shutdown(Shutdown::Write);
            client.rest();
        }
    });
}

#[test]
fn a_length_that_no_block_can_have_is_refused_at_once() {
    check(|_, client| {
        for length in [
            "99999999999",
            "2147483646",
            "-1",
            "18446744073709551616",
            "1e9",
            "0x10",
        ] {
            client.check(
                format!("set k 0 0 {length}\r\nversion\r\n"),
                format!("{BAD}{VERSION}"),
            );
        }
    });
}

#[test]
fn a_huge_refused_block_is_skipped_without_taking_memory() {
    check(|server, _| {
        // The longest length that may be announced, and the first 50 MB of the block.
        let client = server.client().stream;
        send(&client, "set k 0 0 2147483645\r\n");
        for _ in 0..50 {
            send(&client, [b'x'; MEGABYTE]);
        }
        client
    });
}

#[test]
fn ten_megabytes_without_a_line_end_are_not_kept_in_memory() {
    check(|server, _| {
        let begin = |start: &str| {
            let client = server.client();
            send(&client.stream, start);
            for _ in 0..10 {
                send(&client.stream, [b'x'; MEGABYTE]);
            }
            client
        };
        for start in ["", "set "] {
            begin(start).expect_end();
        }
        // A `get` line may have any length, so this is only a key that is too long.
        for start in ["get ", "gets "] {
            begin(start).check("\r\nversion\r\n", [BAD, VERSION].concat());
        }
    });
}

#[test]
fn a_client_that_never_reads_200_megabytes_of_answers_waits_alone() {
    check(|server, _| {
        // The bystander has stored a megabyte in `big`, and replaces it again and again. Its writes must not wait for
        // these readers.
        let abusers: Vec<_> = (0..6).map(|_| server.client().stream).collect();
        for abuser in &abusers {
            send(abuser, "get big\r\n".repeat(200));
            abuser
                .peek(&mut [0])
                .expect("the first bytes of the answers arrive");
        }
        abusers
    });
}

#[test]
fn a_client_that_sends_a_byte_at_a_time_is_understood() {
    check(|_, client| {
        for byte in b"set k 0 0 7\r\nhe\r\nllo\r\nbogus\r\nget k\r\n" {
            client.send([*byte]);
        }
        client.expect("STORED\r\nERROR\r\nVALUE k 0 7\r\nhe\r\nllo\r\nEND\r\n");
    });
}

#[test]
fn a_connection_reset_at_any_point_frees_the_clients_place() {
    check(|server, other| {
        for half in [
            "get k",
            "set k 0 0 100000\r\nabc",
            "set k 0 0 99999999\r\nabc",
            "get k\r\nget big\r\nget big\r\n",
        ] {
            // Half the places for each of the four commands: if each client cost a worker, there would soon be none.
            for _ in 0..PLACES / 2 {
                let client = server.client().stream;
                send(&client, format!("version\r\n{half}"));
                reset(client);
            }
            all_abusers_are_gone(other);
        }
        // A data block that has arrived only in part is not stored.
        other.check("get k\r\n", "END\r\n");
    });
}

/// A web page can make a browser send such requests to a local server, with memcached commands in the body.
#[test]
fn a_request_from_a_browser_is_not_executed() {
    check(|server, other| {
        for head in ["GET / HTTP/1.1", "POST /x HTTP/1.1"] {
            let mut client = server.client();
            send(
                &client.stream,
                format!("{head}\r\nHost: here\r\n\r\nset evil 0 0 1\r\nx\r\n"),
            );
            client.expect_end();
        }
        other.check("get evil\r\n", "END\r\n");
    });
}

/// Memory for a data block is reserved when it is announced, so `-m` limits also what is never sent.
#[test]
fn blocks_that_are_announced_and_never_sent_stay_within_the_memory_limit() {
    let server = process::spawn(&format!("-c {PLACES} -m 8"));
    let announce = |client: &mut Client, n: usize| {
        // When `version` is answered, the `set` behind it has been read too: both were in one packet.
        client.check(format!("version\r\nset k{n} 0 0 1000000\r\n"), VERSION);
    };
    let mut greedy: Vec<Client> = (0..PLACES - 1).map(|_| server.client()).collect();
    for (n, client) in greedy.iter_mut().enumerate() {
        announce(client, n);
    }
    // The next client cannot store a value of that size, but it can store a small one.
    let mut late = server.client();
    late.send("set late 0 0 1000000\r\n").send([b'x'; MEGABYTE]);
    late.check("\r\n", "SERVER_ERROR out of memory storing object\r\n");
    late.check(
        "set small 0 0 1\r\nx\r\nget small\r\n",
        "STORED\r\nVALUE small 0 1\r\nx\r\nEND\r\n",
    );
    let memory = server.memory("VmHWM");
    assert!(memory < 20 << 10, "the server took {memory} kB");

    drop(greedy);
    eventually("the reserved memory is free again", || {
        late.send("set late 0 0 1000000\r\n")
            .send([b'x'; MEGABYTE])
            .send("\r\n")
            .line()
            == "STORED"
    });
}
