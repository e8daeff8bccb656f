//! `-Y`: a client must log in before any command is executed. If memcached is installed, the test checks that it gives
//! the same answers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::fs;
use std::io::Read;
use std::net::SocketAddr;

use common::Client;
use common::folder::Folder;
use common::memcached::Memcached;
use common::process::{self, eventually};

const UNAUTHENTICATED: &str = "CLIENT_ERROR unauthenticated\r\n";
const FAILURE: &str = "CLIENT_ERROR authentication failure\r\n";
const BAD_FORMAT: &str = "CLIENT_ERROR bad authentication token format\r\n";
const BAD_END: &str = "CLIENT_ERROR bad command line termination\r\n";
const TOO_LONG: &str = "CLIENT_ERROR auth token too long\r\n";
/// The connection is closed without an answer.
const CLOSED: &str = "";

/// What a client sends, and the answer. The client waits for each answer, because before the login memcached loses
/// answers of a pipeline. Each item of the list is a connection of its own.
const CONVERSATIONS: &[&[(&str, &str)]] = &[
    &[("version\r\n", UNAUTHENTICATED)],
    &[
        ("set auth 0 0 10\r\nann p1word\r\n", "STORED\r\n"),
        ("get auth\r\n", "END\r\n"),
    ],
    &[
        ("set x y z 10\r\nann p1word\r\n", "STORED\r\n"),
        ("get x\r\n", "END\r\n"),
    ],
    &[
        ("set auth 0 0 10\r\nann p2word\r\n", FAILURE),
        ("get auth\r\n", UNAUTHENTICATED),
    ],
    &[("set auth 0 0 11\r\nann p1word \r\n", FAILURE)],
    &[("set auth 0 0 3\r\nann\r\n", BAD_FORMAT)],
    &[
        ("set auth 0 0 3\r\nann x", BAD_END),
        ("get auth\r\n", UNAUTHENTICATED),
    ],
    &[
        ("set auth 0 0\r\n", UNAUTHENTICATED),
        ("set\r\r\r\r\n", UNAUTHENTICATED),
    ],
    &[
        ("set auth 0 0 16384", ""),
        ("0\r\n", TOO_LONG),
        ("get auth\r\n", UNAUTHENTICATED),
    ],
    &[
        ("get auth\r\n", UNAUTHENTICATED),
        ("set auth 0 0 9\r\nbob a:b c\r\n", "STORED\r\n"),
        ("get a\r\n", "END\r\n"),
    ],
    // The connection is closed after a line that is too short to be a login.
    &[("quit\r\n", CLOSED)],
];

fn check(address: SocketAddr, whose: &str) {
    for steps in CONVERSATIONS {
        let mut client = Client::connect(address);
        for (sent, expected) in *steps {
            client.send(sent);
            let mut answer = vec![0; expected.len()];
            client.stream.read_exact(&mut answer).expect("an answer");
            let answer = String::from_utf8_lossy(&answer);
            assert_eq!(answer, *expected, "{whose} answers {sent:?}");
        }
        if steps.ends_with(&[("quit\r\n", CLOSED)]) {
            client.expect_end();
        }
    }
    // It is also closed after a line that is too long.
    Client::connect(address).send("k".repeat(3000)).expect_end();
    let mut client = Client::connect(address);
    client.check("set auth 0 0 10\r\nann p1word\r\n", "STORED\r\n");
    assert_eq!(client.stat("auth_cmds"), "6");
    assert_eq!(client.stat("auth_errors"), "2");
}

#[test]
fn nothing_is_executed_before_the_login() {
    let folder = Folder::new();
    let file = folder.file("users");
    fs::write(&file, "ann:p1word\nbob:a:b c\n").unwrap();
    let file = file.display();
    let server = process::spawn(&format!("-vv -Y {file}"));
    check(server.address(), "rustmemc");
    assert_eq!(
        Client::connect(server.address())
            .login()
            .setting("auth_enabled_ascii"),
        file.to_string()
    );
    // Passwords are never printed, wherever they were sent.
    let mut client = server.client();
    client.check(
        "set auth 0 0 1\r\nann sesame\r\n",
        "CLIENT_ERROR bad command line termination\r\n",
    );
    client.expect(UNAUTHENTICATED);
    client.check("ann sesame\r\n", UNAUTHENTICATED);
    drop(client);
    eventually("all is printed", || {
        server.stderr().contains("connection closed")
    });
    for secret in ["p1word", "p2word", "a:b c", "sesame"] {
        assert!(
            !server.stderr().contains(secret),
            "{secret}: {}",
            server.stderr()
        );
    }

    if let Some(program) = Memcached::find((1, 6, 45)) {
        let memcached = Memcached::start(&program, &format!("-Y {file}"));
        check(memcached.address, "memcached");
    }
}

#[test]
fn a_server_does_not_start_with_a_bad_file_of_users_and_prints_no_password_of_it() {
    let folder = Folder::new();
    let file = folder.file("users");
    for (content, part) in [("ann:p1word\nsesame\n", "line 2"), ("\n\n", "no line")] {
        fs::write(&file, content).unwrap();
        let outcome = process::launch("", &format!("-p 0 -Y {}", file.display())).outcome();
        assert_eq!(outcome.status.code(), Some(1));
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains("sesame"), "{}", outcome.stderr);
    }
}

impl Client {
    fn login(mut self) -> Self {
        self.check("set auth 0 0 10\r\nann p1word\r\n", "STORED\r\n");
        self
    }
}
