//! The binary protocol: random requests get the same answers from rustmemc and from memcached, and broken requests harm
//! no other connection. (`tests/conversations/34-binary.txt` explains the protocol.)
//!
//! More requests, or a seed that failed: `SEED=42 COMMANDS=100000 cargo test --test binary`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use common::folder::Folder;
use common::memcached::Memcached;
use common::process::{self, eventually};
use common::random::Random;
use common::{Client, VERSION, shortened};

const GET: u8 = 0x00;
const SET: u8 = 0x01;
const NOOP: u8 = 0x0a;
const GETK: u8 = 0x0c;
const SASL_MECHANISMS: u8 = 0x20;
const SASL_AUTH: u8 = 0x21;

/// A request.
#[derive(Clone)]
struct Request {
    opcode: u8,
    opaque: [u8; 4],
    cas: u64,
    extras: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Request {
    fn new(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Self {
        Request {
            opcode,
            opaque: [0; 4],
            cas: 0,
            extras: extras.into(),
            key: key.into(),
            value: value.into(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let body = self.extras.len() + self.key.len() + self.value.len();
        let mut bytes = vec![0x80, self.opcode];
        bytes.extend((self.key.len() as u16).to_be_bytes());
        bytes.extend([self.extras.len() as u8, 0, 0, 0]);
        bytes.extend((body as u32).to_be_bytes());
        bytes.extend(self.opaque);
        bytes.extend(self.cas.to_be_bytes());
        bytes.extend([&self.extras[..], &self.key, &self.value].concat());
        bytes
    }
}

/// An answer: its header without the cas unique, the cas unique, and its body.
#[derive(Clone, PartialEq, Eq)]
struct Answer {
    start: [u8; 16],
    cas: u64,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> u16 {
        u16::from_be_bytes([self.start[6], self.start[7]])
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shortened(&self.bytes()))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, body) = (shortened(&self.start), shortened(&self.body));
        write!(f, "{start} cas {} {body}", self.cas)
    }
}

/// Reads one answer; `None` if the server closes the connection.
fn answer(client: &mut Client) -> Option<Answer> {
    let mut header = [0; 24];
    match client.stream.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer comes"),
        Err(_) => return None,
    }
    assert_eq!(header[0], 0x81, "{}", shortened(&header));
    let number = |range: std::ops::Range<usize>| {
        header[range]
            .iter()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    };
    let mut body = vec![0; number(8..12) as usize];
    client
        .stream
        .read_exact(&mut body)
        .expect("the body follows");
    Some(Answer {
        start: header[..16].try_into().unwrap(),
        cas: number(16..24),
        body,
    })
}

/// Sends a request, and returns its answer.
fn ask(client: &mut Client, request: &Request) -> Answer {
    client.send(request.bytes());
    answer(client).expect("an answer comes")
}

/// Flags and exptime.
fn flags(flags: u32) -> Vec<u8> {
    [flags.to_be_bytes(), [0; 4]].concat()
}

/// The mark of the `noop` after each request: a quiet request may have no answer of its own.
const END: [u8; 4] = *b"DONE";

/// A server, and the cas uniques that it has shown. The two servers choose different ones, so they are compared by the
/// order of their first appearance.
struct Side {
    client: Client,
    uniques: HashMap<u64, u64>,
    last: u64,
}

impl Side {
    fn new(address: SocketAddr) -> Self {
        Side {
            client: Client::connect(address),
            uniques: HashMap::from([(0, 0)]),
            last: 0,
        }
    }

    /// Sends a request, and returns all its answers. A request that has a cas unique gets the last one of this server.
    fn answers(&mut self, mut request: Request) -> Vec<Answer> {
        if request.cas > 1 {
            request.cas = self.last;
        }
        let mut noop = Request::new(NOOP, b"", b"", b"");
        noop.opaque = END;
        self.client.send([request.bytes(), noop.bytes()].concat());
        let mut answers = Vec::new();
        loop {
            let mut answer = answer(&mut self.client).expect("the connection stays open");
            if answer.start[12..] == END {
                return answers;
            }
            if answer.cas != 0 {
                self.last = answer.cas;
            }
            let number = self.uniques.len() as u64;
            answer.cas = *self.uniques.entry(answer.cas).or_insert(number);
            answers.push(answer);
        }
    }
}

/// A request of any command. There are few different keys, so that many requests find an item.
fn random_request(random: &mut Random) -> Request {
    let long = [b'x'; 250];
    let keys: [&[u8]; 5] = [b"a", b"b", b"n", b"with space", &long];
    let values: [&[u8]; 7] = [
        b"5",
        b"12",
        b"",
        b"hello",
        b" 7 ",
        b"99999999999999999999",
        &[b'v'; 3000],
    ];
    let exptimes = [0, 0, 100, 2_592_000, 4_102_444_800, u32::MAX];
    let opcodes = [
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
        0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x18, 0x19, 0x1a, 0x1c, 0x1d, 0x1e, 0x20, 0x23,
        0x24, 0x42, 0x01, 0x11, 0x05,
    ];
    let key = keys[random.below(keys.len())];
    let value = values[random.below(values.len())];
    let exptime = exptimes[random.below(exptimes.len())].to_be_bytes();
    let opcode = opcodes[random.below(opcodes.len())];
    let mut request = match opcode {
        0x01..=0x03 | 0x11..=0x13 => {
            let flags = (random.next() as u32).to_be_bytes();
            Request::new(opcode, &[flags, exptime].concat(), key, value)
        }
        0x00 | 0x04 | 0x09 | 0x0c | 0x0d | 0x14 => Request::new(opcode, b"", key, b""),
        0x05 | 0x06 | 0x15 | 0x16 => {
            let delta = [0, 1, 5, u64::MAX][random.below(4)].to_be_bytes();
            let initial = [0, 7, u64::MAX][random.below(3)].to_be_bytes();
            let extras = [&delta[..], &initial, &exptime].concat();
            Request::new(opcode, &extras, key, b"")
        }
        0x0e | 0x0f | 0x19 | 0x1a => Request::new(opcode, b"", key, value),
        0x1c | 0x1d | 0x1e | 0x23 | 0x24 => Request::new(opcode, &exptime, key, b""),
        0x10 => {
            let topics: [&[u8]; 2] = [b"reset", b"nonsense"];
            Request::new(opcode, b"", topics[random.below(2)], b"")
        }
        // A flush is rare, because the requests after it find no items.
        0x08 | 0x18 if random.below(10) > 0 => Request::new(NOOP, b"", b"", b""),
        0x08 if random.below(2) == 0 => Request::new(opcode, &[0; 4], b"", b""),
        _ => Request::new(opcode, b"", b"", b""),
    };
    request.opaque = (random.next() as u32).to_be_bytes();
    // 0: none; 1: surely a wrong one; 2: the last that was shown.
    request.cas = [0, 0, 0, 0, 1, 2][random.below(6)];
    request
}

#[test]
fn random_binary_requests_get_the_same_answers_from_rustmemc_and_memcached() {
    let Some(program) = Memcached::find((1, 6, 45)) else {
        return;
    };
    let number = |name| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse::<u64>().expect("a number"))
    };
    let requests = number("COMMANDS").unwrap_or(3000);
    for seed in number("SEED").map_or(vec![1, 2, 3], |seed| vec![seed]) {
        // `-o no_modern`: see `OPTIONS` in `tests/differential.rs`.
        let theirs = Memcached::start(&program, "-o no_modern");
        let ours = common::server("");
        let (mut our_side, mut their_side) = (Side::new(ours.address), Side::new(theirs.address));
        let mut random = Random(seed);
        for count in 1..=requests {
            let request = random_request(&mut random);
            let (ours, theirs) = (
                our_side.answers(request.clone()),
                their_side.answers(request.clone()),
            );
            assert_eq!(ours, theirs, "SEED={seed}, request {count}: {request:?}");
        }
    }
}

#[test]
fn an_item_too_large_is_refused_and_its_bytes_are_swallowed() {
    let check = |address, whose| {
        let mut client = Client::connect(address);
        let value = vec![b'v'; 2 << 20];
        assert_eq!(
            ask(&mut client, &Request::new(SET, &flags(1), b"k", b"old")).status(),
            0
        );
        let refused = ask(&mut client, &Request::new(SET, &flags(0), b"k", &value));
        assert_eq!(
            (refused.status(), &refused.body[..]),
            (3, &b"Too large."[..]),
            "{whose}"
        );
        // A refused set has removed the old value.
        assert_eq!(
            ask(&mut client, &Request::new(GET, b"", b"k", b"")).status(),
            1,
            "{whose}"
        );
    };
    check(common::server("").address, "rustmemc");
    if let Some((program, _)) = Memcached::find_any() {
        check(Memcached::start(&program, "").address, "memcached");
    }
}

/// The first byte of each request is right, and the others may be wrong. They are sent in pieces of any length.
#[test]
fn broken_requests_harm_no_other_connection() {
    let server = process::spawn("");
    let mut other = server.client();
    other.check("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    let before = server.memory("VmRSS");
    let mut random = Random(7);
    for round in 0..400 {
        let mut bytes = random_request(&mut random).bytes();
        // `k` is not one of the keys, but a flush would remove it too.
        if bytes[1] & 0xef == 0x08 {
            continue;
        }
        match round % 4 {
            // The lengths in the header are wrong.
            0 => bytes[2 + random.below(10)] = random.next() as u8,
            1 => bytes.truncate(random.below(bytes.len())),
            // A huge body is announced.
            2 => bytes[8] = 0x3f,
            _ => bytes.extend((0..100).map(|_| random.next() as u8)),
        }
        let mut client = server.client();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(random.below(rest.len()) + 1);
            // The server may have closed the connection already.
            if client.stream.write_all(piece).is_err() {
                break;
            }
            rest = after;
        }
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        client.rest();
    }
    other.check(
        "get k\r\nversion\r\n",
        format!("VALUE k 0 1\r\nx\r\nEND\r\n{VERSION}"),
    );
    let grown = server.memory("VmRSS").saturating_sub(before);
    assert!(grown < 20_000, "{grown} kB");
    eventually("all others are gone", || {
        other.stat("curr_connections") == "1"
    });
}

/// In base64 a long key has more letters than a key may have bytes. Every kind of record must be readable.
#[test]
fn a_binary_key_of_any_length_survives_restarts_and_rewrites() {
    let folder = Folder::new();
    for rewrite in ["", "--aof-rewrite-size 1"] {
        let flags_of_server = format!(
            "--aof {} {rewrite}",
            folder.file(&format!("a{rewrite}")).display()
        );
        let key = |length: usize, fill: u8| [&b" "[..], &vec![fill; length - 1]].concat();
        {
            let server = common::server_with_log(&flags_of_server);
            let mut client = server.client();
            for length in 1..=250 {
                for fill in [b'k', b' ', b'\n'] {
                    let set = Request::new(SET, &flags(7), &key(length, fill), b"5");
                    ask(&mut client, &set);
                }
                // An increment, a touch, and a delete.
                ask(
                    &mut client,
                    &Request::new(0x05, &[0; 20], &key(length, b'k'), b""),
                );
                let exptime = 4_102_444_800_u32.to_be_bytes();
                ask(
                    &mut client,
                    &Request::new(0x1c, &exptime, &key(length, b'k'), b""),
                );
                if length > 1 {
                    ask(
                        &mut client,
                        &Request::new(0x04, b"", &key(length, b'\n'), b""),
                    );
                }
            }
            // A stale item is marked by a meta command, which has the key in base64.
            server
                .client()
                .check(format!("md {} b I\r\n", "ICAg".repeat(83)), "HD\r\n");
        }
        let server = common::server_with_log(&flags_of_server);
        let mut client = server.client();
        for length in 2..=250 {
            let status = |client: &mut Client, fill| {
                ask(client, &Request::new(GET, b"", &key(length, fill), b"")).status()
            };
            let found = [b'k', b' ', b'\n'].map(|fill| status(&mut client, fill));
            assert_eq!(found, [0, 0, 1], "{length}");
        }
    }
}

/// A text command cannot name such a key, and a line of the log must not be cut by it.
#[test]
fn a_key_of_any_bytes_survives_a_restart() {
    let folder = Folder::new();
    let flags_of_server = format!("--aof {}", folder.file("a").display());
    let keys: [&[u8]; 5] = [b"with space", b"with\r\nline\n", b"\0\x80\xff", b" ", b"\r"];
    let before: Vec<Answer> = {
        let server = common::server_with_log(&flags_of_server);
        let mut client = server.client();
        for key in keys {
            assert_eq!(
                ask(&mut client, &Request::new(SET, &flags(9), key, key)).status(),
                0
            );
        }
        keys.map(|key| ask(&mut client, &Request::new(GETK, b"", key, b"")))
            .into()
    };
    let server = common::server_with_log(&flags_of_server);
    let mut client = server.client();
    for (key, before) in keys.into_iter().zip(before) {
        let after = ask(&mut client, &Request::new(GETK, b"", key, b""));
        assert_eq!(after, before);
        assert_eq!(after.body, [&9u32.to_be_bytes()[..], key, key].concat());
    }
    // "with space" in base64.
    server.client().check(
        "mg d2l0aCBzcGFjZQ== b v k\r\n",
        "VA 10 kd2l0aCBzcGFjZQ== b\r\nwith space\r\n",
    );
}

#[test]
fn a_value_is_never_executed_and_dash_b_chooses_the_protocol() {
    let set = Request::new(SET, &flags(0), b"k", b"x\r\nflush_all\r\n").bytes();
    let server = process::spawn("");
    let mut client = server.client();
    client.send(&set);
    assert_eq!(answer(&mut client).expect("it is stored").status(), 0);
    server
        .client()
        .check("get k\r\n", "VALUE k 0 14\r\nx\r\nflush_all\r\n\r\nEND\r\n");
    // Only the first byte decides.
    let mut later = server.client();
    later.send(b"version\r\n\x80bad\r\nversion\r\n");
    later.expect([VERSION, "ERROR\r\n", VERSION].concat());

    let ascii = process::spawn("-B ascii");
    let mut other = ascii.client();
    other.check("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    ascii.client().send(&set).expect_end();
    other.check("get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
    eventually("it is printed", || {
        ascii.stderr().contains("binary protocol")
    });

    let binary = process::spawn("-B binary");
    binary.client().send("version\r\n").expect_end();
    eventually("it is printed", || {
        binary.stderr().contains("text protocol")
    });
    let mut client = binary.client();
    assert_eq!(
        ask(&mut client, &Request::new(SASL_MECHANISMS, b"", b"", b"")).status(),
        0x81
    );
}

#[test]
fn with_dash_y_a_binary_client_logs_in_with_sasl_plain() {
    let folder = Folder::new();
    let file = folder.file("users");
    fs::write(&file, "ann:p1word\n").unwrap();
    let server = process::spawn(&format!("-vv -Y {}", file.display()));
    let get = Request::new(GET, b"", b"k", b"");
    let login = |value: &[u8]| Request::new(SASL_AUTH, b"", b"PLAIN", value);

    let mut stranger = server.client();
    assert_eq!(ask(&mut stranger, &get).status(), 0x20);
    stranger.expect_end();

    let mut client = server.client();
    let mechanisms = ask(&mut client, &Request::new(SASL_MECHANISMS, b"", b"", b""));
    assert_eq!(
        (mechanisms.status(), &mechanisms.body[..]),
        (0, &b"PLAIN"[..])
    );
    for wrong in [
        &b"\0ann\0p2word"[..],
        b"ann p1word",
        b"\0ann\0p1word\0",
        b"",
    ] {
        assert_eq!(
            ask(&mut client, &login(wrong)).status(),
            0x20,
            "{}",
            shortened(wrong)
        );
    }
    let right = ask(&mut client, &login(b"\0ann\0p1word"));
    assert_eq!(
        (right.status(), &right.body[..]),
        (0, &b"Authenticated"[..])
    );
    assert_eq!(ask(&mut client, &get).status(), 1);
    drop(client);
    eventually("all is printed", || {
        server.stderr().matches("connection closed").count() == 2
    });
    assert!(!server.stderr().contains("word"), "{}", server.stderr());
}

#[test]
fn with_dash_vv_binary_requests_are_printed_as_text() {
    let server = process::spawn("-vv");
    let mut client = server.client();
    ask(&mut client, &Request::new(SET, &flags(0), b"k", b"hello"));
    ask(&mut client, &Request::new(GET, b"", b"k", b""));
    client.send(Request::new(0x09, b"", b"none", b"").bytes());
    ask(&mut client, &Request::new(0x02, &flags(0), b"k", b"x"));
    let expected = [
        "binary set k, value of 5 bytes",
        "success (status 0x00)",
        "binary get k",
        "value: hello",
        "binary get (quiet) none",
        "no answer, because the request is quiet",
        "binary add k, value of 1 bytes",
        "Data exists for key. (status 0x02)   (the key already holds an item)",
    ];
    eventually("all is printed", || server.stderr().contains("status 0x02"));
    let stderr = server.stderr();
    let lines = stderr
        .lines()
        .skip(2)
        .map(|line| line.split_once(' ').unwrap().1);
    assert_eq!(lines.collect::<Vec<_>>(), expected);
}

#[test]
fn prefixes_of_binary_requests_are_counted_as_in_memcached() {
    let check = |address, whose| {
        let mut text = Client::connect(address);
        text.check("stats detail on\r\n", "OK\r\n");
        let mut client = Client::connect(address);
        let zeros = [0; 20];
        for (opcode, extras, value) in [
            (GET, 0, ""),
            (SET, 8, "1"),
            (GETK, 0, ""),
            (0x02, 8, "2"),
            (0x0e, 0, "3"),
            (0x05, 20, ""),
            (0x1d, 4, ""),
            (0x04, 0, ""),
        ] {
            let request = Request::new(opcode, &zeros[..extras], b"a:k", value.as_bytes());
            ask(&mut client, &request);
        }
        let counted = "PREFIX a get 3 hit 2 set 3 del 1\r\nEND\r\n";
        text.send("stats detail dump\r\n");
        let mut answer = vec![0; counted.len()];
        text.stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&answer), counted, "{whose}");
    };
    check(common::server("").address, "rustmemc");
    if let Some((program, _)) = Memcached::find_any() {
        check(Memcached::start(&program, "").address, "memcached");
    }
}
