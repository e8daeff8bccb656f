//! `watch`: each stream shows its events, and a watcher delays no other client.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::folder::Folder;
use common::memcached::Memcached;
use common::process::{self, eventually};
use common::{Client, STOP_TIMEOUT, TIMEOUT, VERSION, server};

/// A client that watches.
struct Watcher {
    reader: BufReader<TcpStream>,
}

impl Watcher {
    #[track_caller]
    fn start(address: SocketAddr, streams: &str) -> Self {
        let mut client = Client::connect(address);
        client.check(format!("watch {streams}\r\n"), "OK\r\n");
        Watcher {
            reader: BufReader::new(client.stream),
        }
    }

    /// The next line, without its end, which is `\n` alone.
    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line comes");
        let text = line.strip_suffix('\n').expect("the line is complete");
        assert!(!text.ends_with('\r'), "{text:?}");
        text.to_owned()
    }

    /// The next line, without its time and its id.
    #[track_caller]
    fn event(&mut self) -> String {
        let line = self.line();
        let (_, event) = line.split_once(" type=").expect("it is an event");
        event.to_owned()
    }
}

/// The value of a word `name=value` of a line.
#[track_caller]
fn value<'l>(line: &'l str, name: &str) -> &'l str {
    let mut words = line.split(' ').filter_map(|word| word.split_once('='));
    let found = words.find(|(word, _)| *word == name);
    found.unwrap_or_else(|| panic!("no {name} in {line}")).1
}

/// The line without what differs between servers: `cfd` is 1, a class and a TTL are 0 or 1.
fn comparable(event: &str) -> String {
    let word = |word: &str| match word.split_once('=') {
        Some(("cfd", _)) => "cfd=1".to_owned(),
        Some((name @ ("clsid" | "ttl"), number)) => {
            format!("{name}={}", u8::from(number != "0"))
        }
        _ => word.to_owned(),
    };
    event.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Commands, and the lines that memcached logs for them.
const COMMANDS: &[(&str, &[&str])] = &[
    (
        "set a 5 0 5\r\nhello\r\n",
        &["get a not_found 0", "store a stored set 0 5"],
    ),
    (
        "set a 5 100 3\r\nbye\r\n",
        &["get a found 5", "store a stored set 1 3"],
    ),
    (
        "get a none a\r\n",
        &["get a found 3", "get none not_found 0", "get a found 3"],
    ),
    ("gets a\r\n", &["get a found 3"]),
    ("gat 100 a\r\n", &["get a found 3"]),
    ("touch none 0\r\n", &["get none not_found 0"]),
    (
        "add a 0 0 1\r\nx\r\n",
        &["get a found 3", "store a not_stored add 0 1"],
    ),
    (
        "add b 0 0 1\r\nx\r\n",
        &["get b not_found 0", "store b stored add 0 1"],
    ),
    (
        "replace b 0 0 2\r\nxx\r\n",
        &["get b found 1", "store b stored replace 0 2"],
    ),
    (
        "replace none 0 0 2\r\nxx\r\n",
        &["get none not_found 0", "store none not_stored replace 0 2"],
    ),
    (
        "append a 0 0 2\r\nxx\r\n",
        &["get a found 3", "store a stored append 1 5"],
    ),
    (
        "prepend none 0 0 2\r\nxx\r\n",
        &["get none not_found 0", "store none not_stored prepend 0 2"],
    ),
    (
        "cas none 0 0 1 5\r\nx\r\n",
        &["get none not_found 0", "store none not_found cas 0 1"],
    ),
    (
        "cas a 0 0 1 99999\r\nx\r\n",
        &["get a found 5", "store a exists cas 0 1"],
    ),
    (
        "set n 0 0 2\r\n10\r\n",
        &["get n not_found 0", "store n stored set 0 2"],
    ),
    ("incr n 990\r\n", &["get n found 2"]),
    ("incr none 1\r\n", &["get none not_found 0"]),
    ("decr a 1\r\n", &["get a found 5"]),
    (
        "ms m 2 T90\r\nxx\r\n",
        &["get m not_found 0", "store m stored set 1 2"],
    ),
    (
        "ms m 2 MR C99999\r\nxx\r\n",
        &["get m found 2", "store m exists cas 0 2"],
    ),
    (
        "ms v 2 MA N30\r\nxx\r\n",
        &["get v not_found 0", "store v stored append 1 2"],
    ),
    (
        "ms Zm9v 1 b\r\nx\r\n",
        &["get foo not_found 0", "store foo stored set 0 1"],
    ),
    ("mg Zm9v b v\r\n", &["get foo found 1"]),
    ("mg none v\r\n", &["get none not_found 0"]),
    ("mg new N30 v\r\n", &["get new not_found 0"]),
    ("mg new v\r\n", &["get new found 0"]),
    ("ma n\r\n", &["get n found 4"]),
    ("me m\r\n", &["get m found 2"]),
    ("md m C99999\r\n", &["get m found 2"]),
    ("md m I\r\n", &["get m found 2"]),
    ("mg m\r\n", &["get m found 2"]),
    ("md m q\r\n", &["get m found 2", "deleted m md 2"]),
    ("md m\r\n", &["get m not_found 0"]),
    ("delete a\r\n", &["get a found 5", "deleted a delete 5"]),
    ("delete a\r\n", &["get a not_found 0"]),
    (
        "delete b noreply\r\n",
        &["get b found 2", "deleted b delete 2"],
    ),
    (
        "set #,%/~-._ 0 0 1 noreply\r\nx\r\n",
        &[
            "get %23%2C%25%2F~-._ not_found 0",
            "store %23%2C%25%2F~-._ stored set 0 1",
        ],
    ),
    ("set bad 0 0 1\r\nxyz\r\n", &[]),
    ("verbosity 1\r\n", &[]),
    ("get end\r\n", &["get end not_found 0"]),
];

/// The whole line that a short one stands for.
fn line(short: &str) -> String {
    match short.split(' ').collect::<Vec<_>>()[..] {
        ["get", key, status, size] => {
            let class = u8::from(status == "found");
            format!("item_get key={key} status={status} clsid={class} cfd=1 size={size}")
        }
        ["store", key, status, command, ttl, size] => format!(
            "item_store key={key} status={status} cmd={command} ttl={ttl} clsid=1 cfd=1 size={size}"
        ),
        ["deleted", key, command, size] => {
            format!("deleted key={key} cmd={command} clsid=1 size={size}")
        }
        _ => panic!("{short}"),
    }
}

#[track_caller]
fn check_the_lines_of_all_commands(address: SocketAddr) {
    let mut watcher = Watcher::start(address, "fetchers mutations deletions");
    let mut client = Client::connect(address);
    for (command, _) in COMMANDS {
        client.send(command);
    }
    for (command, lines) in COMMANDS {
        for expected in *lines {
            assert_eq!(comparable(&watcher.event()), line(expected), "{command:?}");
        }
    }
}

#[test]
fn each_command_logs_the_lines_that_memcached_logs() {
    check_the_lines_of_all_commands(server("").address);
    if let Some(program) = Memcached::find((1, 6, 45)) {
        // Without the thread that moves items, which may remove them too.
        let memcached = Memcached::start(&program, "-o no_lru_maintainer");
        check_the_lines_of_all_commands(memcached.address);
    }
}

#[test]
fn a_line_has_the_time_a_growing_id_and_the_file_descriptor_that_stats_conns_shows() {
    let server = server("");
    let mut watcher = Watcher::start(server.address, "fetchers");
    let mut client = server.client();
    client.send("get a b\r\n");
    let lines = [watcher.line(), watcher.line()];
    let number = |line: &str, name| value(line, name).parse::<f64>().expect("a number");
    let [first, second] = &lines;
    assert!(number(first, "gid") < number(second, "gid"), "{lines:?}");
    assert!(number(first, "ts") <= number(second, "ts"), "{lines:?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let age = now.expect("a time").as_secs_f64() - number(second, "ts");
    assert!((0.0..TIMEOUT.as_secs_f64()).contains(&age), "{age}");
    let (_, micros) = value(first, "ts").split_once('.').expect("a fraction");
    assert_eq!(micros.len(), 6, "{first}");
    client.expect("END\r\n");
    let own = client.stream.local_addr().expect("it has an address");
    let address = format!("tcp:{own}");
    assert_eq!(
        conn(&mut client, &format!("{}:addr", value(first, "cfd"))),
        address
    );
}

/// One value of `stats conns`.
fn conn(client: &mut Client, name: &str) -> String {
    client.send("stats conns\r\n");
    let mut found = String::new();
    loop {
        let line = client.line();
        if line == "END" {
            return found;
        }
        if let Some(value) = line.strip_prefix(&format!("STAT {name} ")) {
            found = value.to_owned();
        }
    }
}

#[test]
fn an_item_that_has_expired_but_is_not_removed_yet_has_its_own_status() {
    let server = server("");
    let mut watcher = Watcher::start(server.address, "fetchers");
    let mut client = server.client();
    for command in ["get a\r\n", "touch a 0\r\n"] {
        // The sweep may remove the item at any moment.
        eventually("the command comes before the sweep", || {
            client.send("set a 0 -1 1 noreply\r\nx\r\n").send(command);
            watcher.event();
            client.line();
            watcher.event().contains(" status=expired clsid=0 ")
        });
    }
}

#[test]
fn a_refused_value_is_logged_as_too_large_or_no_memory() {
    let server = server("-M -m 8");
    let mut watcher = Watcher::start(server.address, "mutations");
    let mut client = server.client();
    let big = "x".repeat(1_100_000);
    client.send(format!("set a 0 0 {0} noreply\r\n{big}\r\n", big.len()));
    let line =
        |status| format!("item_store key=a status={status} cmd=set ttl=0 clsid=1 cfd=1 size=0");
    assert_eq!(comparable(&watcher.event()), line("too_large"));
    let half = "x".repeat(500_000);
    for n in 0..20 {
        client.send(format!("set k{n} 0 0 500000 noreply\r\n{half}\r\n"));
    }
    client.send(format!("set a 0 0 500000 noreply\r\n{half}\r\n"));
    let last = std::iter::repeat_with(|| watcher.event()).find(|event| event.contains("key=a "));
    assert_eq!(comparable(&last.expect("it is logged")), line("no_memory"));
}

#[test]
fn connections_are_logged_with_the_reason_for_their_end() {
    let server = server("--idle-timeout 1 -A");
    let mut watcher = Watcher::start(server.address, "connevents");
    let idle = server.client();
    let mut check = |client: Client, input: &str, reason: &str| {
        let own = client.stream.local_addr().expect("it has an address");
        (&client.stream)
            .write_all(input.as_bytes())
            .expect("the server reads");
        if reason == "normal" {
            client.stream.shutdown(Shutdown::Write).expect("it is open");
        }
        let mut events = Vec::new();
        while events.len() < 2 {
            let event = watcher.event();
            if value(&event, "rport") == own.port().to_string() {
                events.push(event);
            }
        }
        let cfd = value(&events[0], "cfd");
        let address = format!("rip={} rport={} transport=tcp", own.ip(), own.port());
        assert_eq!(events[0], format!("conn_new {address} cfd={cfd}"));
        assert_eq!(
            events[1],
            format!("conn_close {address} reason={reason} cfd={cfd}")
        );
    };
    for (input, reason) in [
        ("", "normal"),
        ("get a\r\nquit\r\n", "normal"),
        ("get", "normal"),
        ("GET / HTTP/1.1\r\n", "error"),
        ("x".repeat(70_000).as_str(), "error"),
        ("watch evictions\r\n", "normal"),
    ] {
        check(server.client(), input, reason);
    }
    let idle = idle
        .stream
        .local_addr()
        .expect("it has an address")
        .port()
        .to_string();
    // The idle time-out is not for watchers: this one reads the end of the idle client.
    let is_end = |event: &str| event.starts_with("conn_close") && value(event, "rport") == idle;
    let end = std::iter::repeat_with(|| watcher.event()).find(|event| is_end(event));
    assert_eq!(value(&end.expect("it ends"), "reason"), "idle_timeout");
}

#[test]
fn each_evicted_item_is_logged() {
    let server = server("-m 8");
    let mut watcher = Watcher::start(server.address, "evictions");
    let mut client = server.client();
    let data = "x".repeat(1000);
    for n in 0..20_000 {
        client.send(format!("set k{n} 0 0 1000 noreply\r\n{data}\r\n"));
        if n < 100 {
            client.check(format!("touch k{n} 1000\r\n"), "TOUCHED\r\n");
        }
    }
    let evictions: usize = client.stat("evictions").parse().expect("a number");
    assert!(evictions > 10_000, "{evictions}");
    let events: Vec<String> = (0..evictions).map(|_| watcher.event()).collect();
    for event in &events {
        let (key, size) = (value(event, "key"), value(event, "size"));
        assert_eq!((size, value(event, "clsid")), ("1000", "1"), "{event}");
        let n: usize = key[1..].parse().expect("a number");
        let is_touched = value(event, "ttl") != "-1";
        assert!(!is_touched || n < 100, "{event}");
        assert_eq!(value(event, "fetch") == "yes", is_touched, "{event}");
        let _: u32 = value(event, "la").parse().expect("seconds");
    }
    // An evicted key is not found.
    for event in events.iter().step_by(997) {
        client.check(format!("mg {}\r\n", value(event, "key")), "EN\r\n");
    }
    assert_eq!(client.stat("log_watcher_sent"), evictions.to_string());
}

#[test]
fn a_watcher_that_does_not_read_delays_no_client_and_later_reads_how_many_lines_were_skipped() {
    const GETS: usize = 60_000;
    let server = server("");
    let mut watcher = Watcher::start(server.address, "fetchers");
    let mut client = server.client();
    // All buffers together cannot hold the lines.
    let gets: String = (0..100).map(|n| format!("get {n:0>200}\r\n")).collect();
    for _ in 0..GETS / 100 {
        client.check(&gets, "END\r\n".repeat(100));
    }
    let count = |client: &mut Client, name| client.stat(name).parse::<usize>().expect("a number");
    let (sent, skipped) = (
        count(&mut client, "log_watcher_sent"),
        count(&mut client, "log_watcher_skipped"),
    );
    assert_eq!(sent + skipped, GETS);
    assert!(skipped > 0, "{sent} lines fit");
    assert_eq!(count(&mut client, "log_worker_written"), GETS);

    let (mut lines, mut reported) = (0, 0);
    while lines + reported < GETS {
        let line = watcher.line();
        match line.strip_prefix("skipped=") {
            Some(number) => reported += number.parse::<usize>().expect("a number"),
            None => lines += 1,
        }
    }
    assert_eq!((lines, reported), (sent, skipped));
    // After the report, no line is skipped.
    client.send("get end\r\n");
    assert_eq!(value(&watcher.line(), "key"), "end");
}

#[test]
fn a_watcher_is_gone_as_soon_as_its_client_closes_the_connection() {
    let server = server("");
    let mut other = server.client();
    let watchers: Vec<Watcher> = (0..3)
        .map(|_| Watcher::start(server.address, "fetchers"))
        .collect();
    assert_eq!(other.stat("log_watchers"), "3");
    assert_eq!(conn_states(&mut other, "conn_watch"), 3);
    for (left, watcher) in (0..3).rev().zip(watchers) {
        let mut stream = watcher.reader.into_inner();
        // What it sends is discarded, `quit` too.
        stream
            .write_all(b"get a\r\nquit\r\n")
            .expect("the server reads");
        match left {
            2 => drop(stream),
            _ => stream.shutdown(Shutdown::Write).expect("it is open"),
        }
        eventually("it is gone", || {
            other.stat("log_watchers") == left.to_string()
                && other.stat("curr_connections") == (left + 1).to_string()
        });
    }
    assert_eq!(other.stat("cmd_get"), "0");
    // Now nothing is logged.
    let written = other.stat("log_worker_written");
    other.check("get a\r\n", "END\r\n");
    assert_eq!(other.stat("log_worker_written"), written);
}

fn conn_states(client: &mut Client, state: &str) -> usize {
    client.send("stats conns\r\n");
    let lines = std::iter::repeat_with(|| client.line()).take_while(|line| line != "END");
    lines
        .filter(|line| line.ends_with(&format!(":state {state}")))
        .count()
}

#[test]
fn of_a_hundred_clients_that_watch_twenty_become_watchers_and_the_others_stay_ordinary_clients() {
    let server = process::spawn("-c 200");
    let mut other = server.client();
    let mut clients: Vec<Client> = (0..100).map(|_| server.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.check(
            "watch fetchers\r\n",
            match n {
                0..20 => "OK\r\n",
                _ => "WATCHER_TOO_MANY log watcher limit reached\r\n",
            },
        );
    }
    for client in &mut clients[20..] {
        client.check("version\r\n", VERSION);
    }
    assert_eq!(other.stat("log_watchers"), "20");
    other.check("get a\r\n", "END\r\n");
    let lines = clients.drain(..20).map(|client| {
        let reader = BufReader::new(client.stream);
        let mut watcher = Watcher { reader };
        watcher.line()
    });
    let mut lines: Vec<String> = lines.collect();
    lines.dedup();
    assert_eq!(lines.len(), 1, "all read the same line: {lines:?}");
    eventually("all watchers are gone", || {
        other.stat("log_watchers") == "0"
    });
    clients[0].check("watch\r\n", "OK\r\n");
}

#[test]
fn a_watcher_does_not_delay_the_stop_even_if_it_reads_nothing() {
    let server = process::spawn("");
    let address = server.address();
    let _idle = Watcher::start(address, "deletions");
    let mut reads = Watcher::start(address, "fetchers");
    let reads_nothing = Watcher::start(address, "fetchers");
    let reader = std::thread::spawn(move || {
        let mut last = String::new();
        while reads
            .reader
            .read_line(&mut last)
            .is_ok_and(|bytes| bytes > 0)
        {
            last.clear();
        }
    });
    let mut client = server.client();
    let gets: String = (0..100).map(|n| format!("get {n:0>200}\r\n")).collect();
    eventually(
        "the queue of the watcher that reads nothing is full",
        || {
            client.check(&gets, "END\r\n".repeat(100));
            client.stat("log_watcher_skipped") != "0"
        },
    );
    server.signal("TERM");
    let outcome = server.outcome();
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    assert_eq!(outcome.stderr, "", "no client was cut off");
    assert!(
        outcome.took < STOP_TIMEOUT.min(Duration::from_millis(1500)),
        "it took {:?}",
        outcome.took
    );
    reader.join().expect("the watcher reads the end");
    drop(reads_nothing);
}

#[test]
fn a_client_of_a_unix_socket_has_no_address_in_the_log() {
    let folder = Folder::new();
    let path = folder.file("socket");
    let server = server(&format!("-p 0 -s {}", path.display()));
    // A server with a Unix socket listens on no port, so the watcher uses the socket too.
    let connect = || UnixStream::connect(&path).expect("it listens there");
    let mut watcher = connect();
    watcher
        .set_read_timeout(Some(TIMEOUT))
        .expect("it can be set");
    watcher
        .write_all(b"watch connevents\r\n")
        .expect("it reads");
    let mut lines = BufReader::new(watcher)
        .lines()
        .map(|line| line.expect("a line comes"));
    assert_eq!(lines.next().as_deref(), Some("OK"));
    drop(connect());
    for expected in [
        "conn_new rip=unix rport=0 transport=local cfd=",
        "conn_close rip=unix rport=0 transport=local reason=normal cfd=",
    ] {
        let line = lines.next().expect("a line comes");
        let (_, event) = line.split_once(" type=").expect("it is an event");
        assert!(event.starts_with(expected), "{line}");
    }
    drop(server);
}
