//! The limits of the server: connections, keys in a line, commands in a batch; and what a connection costs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use common::folder::Folder;
use common::process::{self, Process, eventually, passed_over};
use common::{Client, VERSION};

const TOO_MANY: &str = "ERROR Too many open connections\r\n";

/// Sends a batch and checks all of its answers. It reads while it still sends. A client that reads nothing until it has
/// sent everything would wait for ever with any server, once all buffers are full.
#[track_caller]
fn check(client: &mut Client, batch: &str, answers: &str) {
    let mut sender = client.stream.try_clone().expect("a socket can be cloned");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            sender
                .write_all(batch.as_bytes())
                .expect("the server reads")
        });
        client.expect(answers);
    });
}

#[test]
fn one_client_too_many_is_refused_with_an_error_and_counted() {
    let server = process::spawn("-c 3");
    let mut clients = [server.client(), server.client(), server.client()];
    for client in &mut clients {
        client.check("version\r\n", VERSION);
    }
    for refused in 1..=2 {
        server.client().expect(TOO_MANY).expect_end();
        eventually("it is counted", || {
            clients[0].stat("rejected_connections") == refused.to_string()
        });
    }
    // The refused clients are not counted as connections.
    assert_eq!(clients[0].stat("total_connections"), "3");
    assert_eq!(clients[0].stat("curr_connections"), "3");
}

/// A refused client may already have sent its first command. Then, too, it can read why it is refused.
#[test]
fn a_refused_client_that_has_sent_a_command_still_reads_the_reason() {
    let server = process::spawn("-c 1");
    let mut first = server.client();
    first.check("version\r\n", VERSION);
    for _ in 0..20 {
        let mut refused = server.client();
        // The server may have closed the connection already.
        let _ = refused.stream.write_all(b"get a\r\n");
        refused.expect(TOO_MANY).expect_end();
    }
}

#[test]
fn the_place_of_a_client_that_has_left_is_used_by_the_next() {
    let server = process::spawn("-c 2");
    let mut stays = server.client();
    stays.check("version\r\n", VERSION);
    for ending in ["quit\r\n", "GET / HTTP/1.1\r\n", "get", ""] {
        let mut leaves = server.client();
        leaves.check("version\r\n", VERSION).send(ending);
        drop(leaves);
        eventually("the server has noticed that it left", || {
            stays.stat("curr_connections") == "1"
        });
    }
    server.client().check("version\r\n", VERSION);
    assert_eq!(stays.stat("rejected_connections"), "0");
}

/// This test has to wait for one second: the shortest idle timeout.
#[test]
fn a_client_that_is_idle_for_too_long_is_disconnected_without_a_message() {
    let server = process::spawn("--idle-timeout 1");
    let mut nothing = server.client();
    let mut half_a_line = server.client();
    half_a_line.check("version\r\nget k", VERSION);
    let mut half_a_block = server.client();
    half_a_block.check("version\r\nset k 0 0 5\r\nhel", VERSION);
    for client in [&mut nothing, &mut half_a_line, &mut half_a_block] {
        client.expect_end();
    }
    let mut other = server.client();
    eventually("they are counted", || other.stat("idle_kicks") == "3");
    assert_eq!(other.stat("curr_connections"), "1");
}

#[test]
fn a_get_may_name_eighteen_thousand_keys() {
    const KEYS: usize = 18_725;
    let server = process::spawn("");
    let (mut sets, mut get, mut values) = (String::new(), "get".to_owned(), String::new());
    for n in 0..KEYS {
        sets += &format!("set k{n:08} 0 0 1 noreply\r\nx\r\n");
        get += &format!(" k{n:08}");
        values += &format!("VALUE k{n:08} 0 1\r\nx\r\n");
    }
    assert_eq!(get.len(), 187_253);
    let mut client = server.client();
    check(&mut client, &sets, "");
    check(
        &mut client,
        &format!("{get}\r\n"),
        &format!("{values}END\r\n"),
    );
}

/// What is answered to a `get` with a bad key.
const BAD: &str = "CLIENT_ERROR bad command line format\r\n";

#[test]
fn two_hundred_thousand_missing_keys_are_answered_with_end() {
    let server = process::spawn("");
    let mut client = server.client();
    for keys in [200_000, 1_000_000] {
        let line: String = (0..keys).map(|n| format!(" k{n:07}")).collect();
        check(
            &mut client,
            &format!("get{line}\r\nversion\r\n"),
            &format!("END\r\n{VERSION}"),
        );
        client.check("set k 0 0 1\r\nx\r\n", "STORED\r\n");
        let line = format!("gets{line} k \nget k\r\n");
        let cas = server.count("total_items");
        let answers = format!("VALUE k 0 1 {cas}\r\nx\r\nEND\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
        check(&mut client, &line, &answers);
    }
    assert_eq!(client.stat("get_misses"), "2400000");
    assert_eq!(client.stat("get_hits"), "4");
}

/// Clients that together hold all memory that connections share for long lines: each has sent the first part of a
/// line. While they wait, a connection may hold 64 KB of a line, so a longer one is served in pieces.
fn use_up_line_memory(server: &Process) -> Vec<Client> {
    let lengths = [2_500_000, 2_500_000, 2_500_000, 2_500_000, 200_000, 100_000];
    let before = server.count("bytes_read");
    let holding = lengths.map(|length: usize| {
        let mut client = server.client();
        client.send("get ").send("12345678 ".repeat(length / 9));
        client
    });
    let sent: usize = lengths.iter().sum();
    eventually("the server has read everything", || {
        server.count("bytes_read") - before > sent as u64 - 100
    });
    holding.into()
}

/// The length of a piece when no shared memory is free.
const PIECE: usize = 64 << 10;

#[test]
fn a_long_get_finds_every_key_wherever_its_line_is_cut() {
    let server = process::spawn("");
    let mut client = server.client();
    // 500 keys of 1 to 250 bytes, in an order in which their lengths vary.
    let keys: Vec<String> = (0..500)
        .map(|n| format!("{n}{}", "k".repeat((n * 97) % 250)))
        .map(|key| key.chars().take(250).collect())
        .collect();
    let sets = keys.iter().enumerate();
    let sets = sets.map(|(n, key)| format!("set {key} 0 0 3 noreply\r\n{n:03}\r\n"));
    check(&mut client, &sets.collect::<String>(), "");
    let mut answers = String::new();
    for (verb, is_gets) in [("get", false), ("gets", true)] {
        let mut line = verb.to_owned();
        answers.clear();
        for n in (0..keys.len()).cycle().take(10_000) {
            line += if n % 7 == 0 { "   " } else { " " };
            line += &keys[n];
            // The cas uniques count the sets.
            let cas = if is_gets {
                format!(" {}", n + 1)
            } else {
                String::new()
            };
            answers += &format!("VALUE {} 0 3{cas}\r\n{n:03}\r\n", keys[n]);
        }
        assert!(line.len() > 15 * PIECE);
        let (line, answers) = (line + "\r\n", format!("{answers}END\r\n"));
        check(&mut client, &line, &answers);
        let _holding = use_up_line_memory(&server);
        check(&mut client, &line, &answers);
        check(&mut client, &line.repeat(3), &answers.repeat(3));
    }
}

#[test]
fn a_long_get_is_answered_wherever_its_last_key_and_its_end_are_cut() {
    let server = process::spawn("");
    let mut client = server.client();
    let key = "k".repeat(250);
    client.check(format!("set {key} 0 0 1\r\nx\r\n"), "STORED\r\n");
    let found = format!("VALUE {key} 0 1\r\nx\r\n");
    let _holding = use_up_line_memory(&server);
    for length in (PIECE - 260..PIECE + 20)
        .step_by(37)
        .chain(PIECE - 3..PIECE + 3)
    {
        let rest = length - "get ".len() - 2 * (key.len() + 1);
        // Long words, because each is looked up.
        let word = format!("{} ", "x".repeat(99));
        let misses = word.repeat(rest / 100) + &" ".repeat(rest % 100);
        for line in [
            format!("get {key} {misses} {key}"),
            format!("get {misses} {key} {key}"),
            format!("get {key} {key} {misses}"),
        ] {
            for end in ["\r\n", "\n"] {
                assert_eq!(line.len(), length);
                let answer = format!("{found}{found}END\r\n");
                check(&mut client, &format!("{line}{end}"), &answer);
            }
        }
    }
    // Spaces alone are not a key, also if there are many.
    client.check(format!("get {}\r\n", " ".repeat(3 * PIECE)), BAD);
    client.check(
        format!("get {key}{}\r\n", " ".repeat(3 * PIECE)),
        format!("{found}END\r\n"),
    );
}

#[test]
fn a_bad_key_in_a_long_get_replaces_what_would_follow() {
    let server = process::spawn("");
    let mut client = server.client();
    client.check("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    let misses = " nothing".repeat(3 * PIECE / 8);
    let bad = "b".repeat(251);
    let line = format!("get k k{misses} {bad} k{misses}\r\nversion\r\n");
    // The line is read whole, if there is memory for it.
    check(&mut client, &line, &format!("{BAD}{VERSION}"));
    let _holding = use_up_line_memory(&server);
    let found = "VALUE k 0 1\r\nx\r\n".repeat(2);
    check(&mut client, &line, &format!("{found}{BAD}{VERSION}"));
    // In the first piece no VALUE precedes the error.
    let line = format!("get k k {bad} k{misses}\r\nversion\r\n");
    check(&mut client, &line, &format!("{BAD}{VERSION}"));
    // A bad key in the last piece is answered in the same way.
    let line = format!("get k k{misses} {bad}\r\nversion\r\n");
    check(&mut client, &line, &format!("{found}{BAD}{VERSION}"));
}

#[test]
fn the_rest_of_a_refused_get_is_not_kept_in_memory() {
    let server = process::spawn("");
    let mut client = server.client();
    client.check("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    let bad = "b".repeat(251);
    let before = server.memory("VmHWM");
    client.send(format!("get k {bad} "));
    for _ in 0..50 {
        client.send(" nothing".repeat(125_000));
    }
    client.check(" k\r\nversion\r\n", format!("{BAD}{VERSION}"));
    client.send("get ");
    for _ in 0..5 {
        client.send("w".repeat(1_000_000));
    }
    client.check("\r\nget k\r\n", format!("{BAD}VALUE k 0 1\r\nx\r\nEND\r\n"));
    let grown = server.memory("VmHWM").saturating_sub(before);
    assert!(grown < 6 << 10, "it took {grown} kB");
}

#[test]
fn many_get_lines_without_an_end_take_little_memory_and_give_it_back() {
    const CLIENTS: usize = 50;
    let server = process::spawn("");
    let mut other = server.client();
    // Each client has a worker already.
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect();
    for client in &mut clients {
        client.check("version\r\n", VERSION);
    }
    let before = (server.memory("VmRSS"), server.count("bytes_read"));
    let keys = format!("{} ", "k".repeat(199)).repeat(15_000);
    for client in &mut clients {
        client.send("get ").send(&keys);
    }
    let sent = (CLIENTS * keys.len()) as u64;
    eventually("the server has read everything", || {
        server.count("bytes_read") - before.1 > sent
    });
    // 16 MB that they share, and for each 64 KB of the line, and the two buffers of the connection.
    let grown = server.memory("VmRSS") - before.0;
    assert!(
        grown < (16 << 10) + CLIENTS as u64 * 110,
        "it takes {grown} kB"
    );
    other.check("get k\r\n", "END\r\n");
    for client in &mut clients {
        client.check("\r\nversion\r\n", format!("END\r\n{VERSION}"));
    }
    let grown = server.memory("VmRSS").saturating_sub(before.0);
    assert!(grown < CLIENTS as u64 * 110, "it keeps {grown} kB");
}

/// Each answer is a different number, so a missing, doubled or misplaced one is noticed.
#[test]
fn a_batch_of_a_hundred_thousand_commands_is_answered_whole() {
    const COMMANDS: usize = 100_000;
    let server = process::spawn("");
    let mut client = server.client();
    client.check("set n 0 0 1\r\n0\r\n", "STORED\r\n");
    let answers: String = (1..=COMMANDS).map(|n| format!("{n}\r\n")).collect();
    check(&mut client, &"incr n 1\r\n".repeat(COMMANDS), &answers);
}

/// `printf '...' | nc` does this: it closes the connection for sending when it has sent everything.
#[test]
fn a_client_that_closes_its_sending_half_still_gets_every_answer() {
    const COMMANDS: usize = 2000;
    let server = process::spawn("");
    let mut client = server.client();
    client.check("set n 0 0 1\r\n0\r\n", "STORED\r\n");
    client.send("incr n 1\r\n".repeat(COMMANDS) + "incr n 1");
    let answers: String = (1..=COMMANDS).map(|n| format!("{n}\r\n")).collect();
    assert_eq!(String::from_utf8_lossy(&client.finish()), answers);
    // The last `incr` had no line end, so it was not executed.
    server
        .client()
        .check("incr n 0\r\n", format!("{COMMANDS}\r\n"));
}

/// Sends a hundred commands at once, and returns the length of what arrives first of the answers, and of all of them.
fn first_and_all(client: &mut Client) -> (usize, usize) {
    let answers = "VALUE k 0 5\r\nhello\r\nEND\r\n".repeat(100);
    client.send("get k\r\n".repeat(100));
    let mut room = [0; 1 << 16];
    let first = client.stream.read(&mut room).expect("the answers come");
    assert_eq!(&room[..first], &answers.as_bytes()[..first]);
    client.expect(&answers[first..]);
    (first, answers.len())
}

#[test]
fn the_answers_of_one_batch_arrive_in_one_piece_if_other_clients_are_active() {
    let server = process::spawn("");
    let (mut client, mut other) = (server.client(), server.client());
    client.check("set k 0 0 5\r\nhello\r\n", "STORED\r\n");
    for _ in 0..50 {
        other.check("mn\r\n", "MN\r\n");
        let (first, all) = first_and_all(&mut client);
        assert_eq!(first, all);
    }
}

#[test]
fn a_client_that_is_alone_gets_the_first_answers_of_a_batch_before_the_last() {
    let server = process::spawn("");
    let mut client = server.client();
    client.check("set k 0 0 5\r\nhello\r\n", "STORED\r\n");
    // Sometimes the client reads so late that all answers have arrived.
    eventually("the answers arrive in several pieces", || {
        let (first, all) = first_and_all(&mut client);
        first < all
    });
}

#[test]
fn an_answer_does_not_wait_for_the_rest_of_the_next_command() {
    let server = process::spawn("");
    let mut client = server.client();
    for (half, rest, answer) in [
        ("version", "\r\n", VERSION),
        ("set k 0 0 5\r", "\nhello\r\n", "STORED\r\n"),
        ("set k 0 0 5\r\n", "hello\r\n", "STORED\r\n"),
        ("set k 0 0 5\r\nhel", "lo\r\n", "STORED\r\n"),
        ("set k 0 0 5\r\nhello\r", "\n", "STORED\r\n"),
        (
            "set k bad 0 5\r\nhel",
            "lo\r\n",
            "CLIENT_ERROR bad command line format\r\n",
        ),
        ("get", " none\r\n", "END\r\n"),
    ] {
        client
            .check(format!("version\r\n{half}"), VERSION)
            .check(rest, answer);
    }
}

#[test]
fn a_connection_costs_one_file_descriptor() {
    let server = process::spawn("");
    let mut clients = vec![server.client()];
    clients[0].check("version\r\n", VERSION);
    let before = server.descriptors();
    for _ in 0..50 {
        let mut client = server.client();
        client.check(
            "set k 0 0 1\r\nx\r\nget k\r\n",
            "STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n",
        );
        clients.push(client);
    }
    assert_eq!(server.descriptors(), before + 50);
    clients.truncate(1);
    eventually("they are closed", || server.descriptors() == before);
}

/// The threads that are neither workers nor acceptors: the main thread, the sweeper, the dispatcher, the log keeper, the
/// clock, the one that waits for signals, and the one that writes to standard error.
const OWN_THREADS: usize = 7;

/// How many threads accept clients, if the system does not limit threads or open files.
const ACCEPTORS: usize = 32;

#[test]
fn a_server_for_sixty_thousand_clients_starts_small_and_with_few_threads() {
    let server = process::spawn("-c 60000");
    let mut clients = [server.client(), server.client(), server.client()];
    for client in &mut clients {
        client.check("version\r\n", VERSION);
    }
    let (threads, memory) = (server.threads(), server.memory("VmRSS"));
    assert!(
        threads <= OWN_THREADS + ACCEPTORS + 3,
        "it has {threads} threads"
    );
    assert!(memory < 6_000, "it takes {memory} kB");
}

/// Connects clients, and returns those that are served. The others must be refused, at once and with the reason.
fn connect(server: &Process, clients: usize) -> Vec<Client> {
    let connected = (0..clients).map(|_| server.client());
    connected
        .filter_map(|mut client| {
            // If it is refused, the server may have closed the connection already.
            let _ = client.stream.write_all(b"version\r\n");
            match client.line().as_str() {
                "VERSION 1.6.45" => return Some(client),
                line => assert_eq!(format!("{line}\r\n"), TOO_MANY),
            }
            client.expect_end();
            None
        })
        .collect()
}

#[test]
fn the_limit_on_open_files_bounds_the_clients_and_the_others_are_refused_at_once() {
    const CLIENTS: usize = 300;
    let server = process::spawn_after("ulimit -n 200;", "-c 1000");
    let served = connect(&server, CLIENTS);
    let allowed: usize = server_limit(&served);
    assert!((150..200).contains(&allowed), "{allowed}");
    assert_eq!(served.len(), allowed);
    assert_eq!(server.stderr().lines().count(), 1, "{}", server.stderr());
    drop(served);
    eventually("the next clients are served", || {
        connect(&server, 1).len() == 1
    });
}

/// How many clients a server allows, asked by one of them.
fn server_limit(clients: &[Client]) -> usize {
    let stream = clients[0]
        .stream
        .try_clone()
        .expect("a socket can be cloned");
    let limit = Client { stream }.stat("max_connections");
    limit.parse().expect("a number")
}

/// The limit may become lower while the server runs. Then the system has no descriptor for a client that comes.
#[test]
fn a_client_for_whom_there_is_no_file_descriptor_is_refused_at_once() {
    const CLIENTS: usize = 100;
    let server = process::spawn("-c 1000");
    let limit = server.descriptors() + 40;
    let prlimit = format!("prlimit --pid {} --nofile={limit}:", server.pid());
    if !Command::new("sh")
        .args(["-c", &prlimit])
        .status()
        .is_ok_and(|done| done.success())
    {
        return passed_over("the limit of a running process cannot be changed here");
    }
    let served = connect(&server, CLIENTS);
    assert!((30..50).contains(&served.len()), "{}", served.len());
    let printed = server.stderr();
    assert!(printed.contains("Too many open files"), "{printed}");
    assert_eq!(printed.lines().count(), 1, "it is printed once: {printed}");

    // A server that tries again and again without a pause never waits.
    let ticks = server.cpu_ticks();
    for _ in 0..20 {
        assert!(connect(&server, 1).is_empty());
        std::thread::sleep(Duration::from_millis(10));
    }
    let ticks = server.cpu_ticks() - ticks;
    assert!(ticks < 10, "it used {ticks} ticks");
    drop(served);
    eventually("the next clients are served", || {
        connect(&server, 1).len() == 1
    });
}

/// Threads that wait for a client hold a descriptor each. They must not have those that the server itself needs.
#[test]
fn with_few_file_descriptors_the_log_is_still_rewritten() {
    let folder = Folder::new();
    let flags = format!(
        "--aof-rewrite-size 64k --aof {}",
        folder.file("aof").display()
    );
    let server = process::spawn_after("ulimit -n 40;", &flags);
    let mut client = server.client();
    let value = "v".repeat(10_000);
    for _ in 0..100 {
        client.check(format!("set k 0 0 10000\r\n{value}\r\n"), "STORED\r\n");
    }
    eventually("the log is rewritten", || {
        client.stat("aof_rewrites") != "0"
    });
}

#[test]
fn a_worker_serves_one_client_after_another() {
    const AT_ONCE: usize = 3;
    let server = process::spawn("");
    let address = server.address();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                for _ in 0..1000 {
                    Client::connect(address).check("version\r\n", VERSION);
                }
            });
        }
    });
    assert_eq!(
        server.client().stat("total_connections"),
        (AT_ONCE * 1000 + 1).to_string()
    );
    // When the next client comes, the worker may not have noticed yet that its own client has left. Then another worker
    // starts, but that happens seldom.
    let workers = server.threads().saturating_sub(OWN_THREADS + ACCEPTORS);
    assert!(workers <= 10 * AT_ONCE, "there are {workers} workers");
}

#[test]
fn clients_that_come_at_once_are_served_at_once() {
    const CLIENTS: usize = 300;
    let server = process::spawn("");
    let mut other = server.client();
    other.check("version\r\n", VERSION);
    let before = server.memory("VmRSS");
    for _ in 0..3 {
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect();
        for client in &mut clients {
            client.send("version\r\n");
        }
        // None of them has to wait until another one leaves.
        for client in &mut clients {
            client.expect(VERSION);
        }
        assert_eq!(other.stat("curr_connections"), (CLIENTS + 1).to_string());
        drop(clients);
        eventually("the server has noticed that they left", || {
            other.stat("curr_connections") == "1"
        });
    }
    let workers = server.threads() - OWN_THREADS;
    assert!(workers > CLIENTS, "idle workers stay: {workers}");
    // A worker's stack and what its clients had on the heap: 42 kB after its first client, up to 57 kB after 25 of
    // them.
    let grown = server.memory("VmRSS").saturating_sub(before);
    assert!(
        grown < workers as u64 * 75,
        "{workers} workers take {grown} kB"
    );
}

/// The beginning of a command line: it runs the rest of the line as a user without other threads, whose limit on
/// threads is enforced. (The limit of root is not.) If there is no such command here, the test is passed over.
fn as_limited_user(number: u32) -> Option<String> {
    let id = 20_000 + (std::process::id() * 8 + number) % 40_000;
    let candidates = [
        format!("setpriv --reuid={id} --regid={id} --clear-groups"),
        // In a new namespace the threads of a user are counted from zero.
        "unshare --user".to_owned(),
    ];
    // Checks that the server starts, and that with a limit of one thread no second one starts.
    let probe = r#""$0" -V && ! prlimit --nproc=1: sh -c ': & wait'"#;
    let works = |candidate: &String| {
        let output = Command::new("sh")
            .args(["-c", &format!("exec {candidate} \"$@\""), "sh"])
            .args(["sh", "-c", probe, env!("CARGO_BIN_EXE_rustmemc")])
            .output();
        output.is_ok_and(|output| output.status.success())
    };
    let found = candidates.into_iter().find(works);
    if found.is_none() {
        passed_over("a limit on threads cannot be set here");
    }
    found
}

/// Changes how many threads the user of a running server may have.
fn limit_threads(server: &Process, user: &str, threads: usize) {
    // A user in a namespace of its own may not change processes outside, but the user that started it may.
    let prefix = if user.starts_with("unshare") {
        ""
    } else {
        user
    };
    let prlimit = format!("{prefix} prlimit --pid {} --nproc={threads}:", server.pid());
    let done = Command::new("sh").args(["-c", &prlimit]).status();
    assert!(done.expect("there is a shell").success(), "{prlimit}");
}

#[test]
fn a_server_out_of_threads_serves_what_it_can_and_refuses_the_other_clients() {
    const THREADS: usize = 40;
    const CLIENTS: usize = 100;
    let Some(user) = as_limited_user(0) else {
        return;
    };
    let server = process::spawn_after(
        &format!("exec {user} prlimit --nproc={THREADS}: \"$@\";"),
        "-c 900",
    );
    let connect = |clients| connect(&server, clients);
    let lines = || server.stderr().lines().count();

    let mut served = connect(CLIENTS);
    // An eighth of the threads accept clients.
    let workers = THREADS - OWN_THREADS - THREADS / 8;
    assert_eq!((served.len(), server.threads()), (workers, THREADS));
    assert_eq!(
        served[0].stat("rejected_connections"),
        (CLIENTS - workers).to_string()
    );
    // It tries again to start a worker, at most every 100 ms, and does not print that this still fails.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        assert!(connect(1).is_empty());
    }
    assert_eq!(lines(), 1, "it is printed once: {}", server.stderr());
    assert!(server.stderr().contains("threads"), "{}", server.stderr());

    // The workers that it has serve the next clients. One client stays, to see that the others have left.
    for _ in 0..3 {
        served.truncate(1);
        eventually("all others have left", || {
            served[0].stat("curr_connections") == "1"
        });
        served.extend(connect(workers - 1));
        assert_eq!(served.len(), workers);
    }

    // When the limit is raised, more workers start, without a restart.
    limit_threads(&server, &user, THREADS + 10);
    eventually("it has ten more workers", || {
        served.extend(connect(1));
        served.len() == workers + 10
    });
    assert_eq!(lines(), 1, "{}", server.stderr());
    connect(CLIENTS);
    assert_eq!(lines(), 2, "it is printed again: {}", server.stderr());
}

#[test]
fn a_server_that_cannot_start_its_own_threads_prints_one_line_and_ends() {
    let Some(user) = as_limited_user(1) else {
        return;
    };
    // It needs one acceptor.
    const NEEDED: usize = OWN_THREADS + 1;
    for threads in 1..=NEEDED {
        let limited = format!("exec {user} prlimit --nproc={threads}: \"$@\";");
        let outcome = process::launch(&limited, "-p 0").outcome();
        let stderr = &outcome.stderr;
        assert_eq!(outcome.status.code(), Some(1), "{threads}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{threads}: {stderr}");
        assert!(
            stderr.starts_with("rustmemc: cannot "),
            "{threads}: {stderr}"
        );
    }
    let limited = format!("exec {user} prlimit --nproc={}: \"$@\";", NEEDED + 1);
    let server = process::spawn_after(&limited, "");
    server.client().check("version\r\n", VERSION);
}

/// If each client's buffers stayed as large as its largest request, they would take much memory together.
#[test]
fn an_idle_client_costs_little_memory_after_large_requests() {
    const CLIENTS: u64 = 50;
    let server = process::spawn("");
    let mut first = server.client();
    first.check(
        ["set k 0 0 200000\r\n", &"x".repeat(200_000), "\r\n"].concat(),
        "STORED\r\n",
    );
    let before = server.memory("VmRSS");
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let mut client = server.client();
            // The line has 200 KB, and so has the answer.
            client.send(format!(
                "get{} k\r\n",
                format!(" {}", "n".repeat(199)).repeat(1000)
            ));
            client.expect(["VALUE k 0 200000\r\n", &"x".repeat(200_000), "\r\nEND\r\n"].concat());
            // The next line is read into the same buffer.
            client.check("version\r\n", VERSION);
            client
        })
        .collect();
    // Each client has a worker. Its buffers are small again.
    let grown = server.memory("VmRSS").saturating_sub(before);
    assert!(grown < CLIENTS * 130, "{CLIENTS} clients cost {grown} kB");
    drop(clients);
}

/// Reads until the server closes the connection, which must not be by a reset.
#[track_caller]
fn expect_clean_end(client: &mut Client) {
    let end = client.stream.read_to_end(&mut Vec::new());
    assert_eq!(end.map_err(|error| error.kind()), Ok(0));
}

/// Closing a socket that has unread input sends a reset, and a reset can discard answers that are still on their way.
#[test]
fn a_connection_is_closed_without_a_reset_although_its_input_was_not_read() {
    let server = process::spawn("-c 1");
    let mut served = server.client();
    served.check("version\r\n", VERSION);
    // While the server is stopped, everything arrives.
    server.signal("STOP");
    let mut refused = server.client();
    refused.send("version\r\n".repeat(1000));
    server.signal("CONT");
    expect_clean_end(refused.expect(TOO_MANY));
    // Clients are refused one after the other: the first one's socket is closed now.
    server.client().expect(TOO_MANY).expect_end();
    let reset = refused.stream.take_error().expect("it can be asked");
    assert!(reset.is_none(), "{reset:?}");

    server.signal("STOP");
    served.send(format!("version\r\n{}", "x".repeat(60_000)));
    server.signal("CONT");
    expect_clean_end(served.expect(VERSION));
    eventually("the next client gets the place", || {
        server.client().send("version\r\n").line() == VERSION.trim_end()
    });
    let reset = served.stream.take_error().expect("it can be asked");
    assert!(reset.is_none(), "{reset:?}");
}

#[test]
fn stats_conns_shows_what_the_server_waits_for() {
    let server = process::spawn("");
    let mut asking = server.client();
    let mut others = [server.client(), server.client(), server.client()];
    others[0].check("version\r\n", VERSION);
    others[1].send("set k 0 0 10\r\nabc");
    others[2].send("set k 0 0 100000000\r\nabc");
    let expected = [
        "conn_listening",
        "conn_new_cmd",
        "conn_nread",
        "conn_parse_cmd",
        "conn_swallow",
    ];
    eventually("each connection is in its state", || {
        asking.send("stats conns\r\n");
        let lines = std::iter::from_fn(|| Some(asking.line()).filter(|line| line != "END"));
        let states = lines.filter(|line| line.contains(":state "));
        let state = |line: String| line.rsplit(' ').next().map(str::to_owned);
        let mut states: Vec<_> = states.filter_map(state).collect();
        states.sort();
        states == expected
    });
}

#[test]
fn commands_are_counted_although_the_client_does_not_read_their_answers() {
    let server = process::spawn("");
    let mut other = server.client();
    other.check(
        format!("set k 0 0 500000\r\n{}\r\n", "v".repeat(500_000)),
        "STORED\r\n",
    );
    let mut client = server.client();
    client.send("get k\r\n".repeat(100));
    eventually("hits are counted while the client is blocked", || {
        other.stat("get_hits").parse::<u32>().expect("a number") > 0
    });
    let blocked: u32 = other.stat("get_hits").parse().expect("a number");
    drop(client);
    eventually("the connection ends", || {
        other.stat("curr_connections") == "1"
    });
    let ended: u32 = other.stat("get_hits").parse().expect("a number");
    assert!((blocked..100).contains(&ended), "{ended} after {blocked}");
}
