//! The program as people and scripts start it: what it prints, where, and its exit code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};

use common::process::{self, Process, eventually};
use common::system::free_port;
use common::{Client, VERSION};

/// The server must refuse these flags: with one line on standard error that has all of these parts, and exit code 1.
#[track_caller]
fn check_refused(flags: &str, parts: &[&str]) {
    let outcome = process::launch("", flags).outcome();
    let stderr = &outcome.stderr;
    assert_eq!(outcome.status.code(), Some(1), "{flags:?}: {stderr}");
    assert_eq!(outcome.stdout, "", "{flags:?}");
    assert_eq!(stderr.lines().count(), 1, "{flags:?}: {stderr}");
    for part in parts {
        assert!(
            stderr.contains(part),
            "{flags:?}: {part:?} is not in {stderr:?}"
        );
    }
}

/// The flags ask for a text: it is printed on standard output, and the exit code is 0.
#[track_caller]
fn check_text(flags: &str, parts: &[&str]) {
    let outcome = process::launch("", flags).outcome();
    assert_eq!(outcome.status.code(), Some(0), "{flags:?}");
    assert_eq!(outcome.stderr, "", "{flags:?}");
    for part in parts {
        assert!(
            outcome.stdout.contains(part),
            "{flags:?}: {part:?} is not in {}",
            outcome.stdout
        );
    }
}

#[test]
fn a_wrong_value_gets_one_line_that_names_flag_and_value() {
    for (flags, parts) in [
        ("-p 65536", ["-p", "65536"]),
        ("--port=x", ["--port", "x"]),
        ("-c 0", ["-c", "0"]),
        ("-c -1", ["-c", "-1"]),
        ("-m0", ["-m", "0"]),
        ("-I 1023", ["-I", "1023"]),
        ("-m 64 -I 33m", ["-I", "-m 64"]),
        ("--idle-timeout soon", ["--idle-timeout", "soon"]),
        ("--nonsense", ["--nonsense", ""]),
        ("-S", ["-S", "SASL"]),
        ("-Z", ["-Z", "TLS"]),
        ("-Y /nonexistent/users", ["-Y", "/nonexistent/users"]),
        ("-p 0 -s /nonexistent/socket", ["-s", "/nonexistent/socket"]),
        ("-u nonsense..here", ["-u", "nonsense..here"]),
        // A name with two dots in a row is invalid, so no name server is asked.
        ("-p 0 -l nonsense..here", ["-l", "nonsense..here"]),
        // This address is reserved for examples: no machine has it.
        ("-p 0 -l 192.0.2.1", ["-l", "192.0.2.1"]),
    ] {
        check_refused(flags, &parts);
    }
}

/// How many threads the system really gives is found out when they are needed. The limit on open files is known.
#[test]
fn a_client_limit_above_the_systems_limits_is_accepted() {
    let server = process::spawn_after("ulimit -n 1024;", "-c 900000");
    let mut client = server.client();
    client.check("version\r\n", VERSION);
    let allowed: u32 = client.stat("max_connections").parse().expect("a number");
    assert!((900..1024).contains(&allowed), "{allowed}");
    let note = format!("the limit of 1024 open files allows {allowed} of 900000 clients");
    assert!(server.stderr().contains(&note), "{}", server.stderr());
    assert!(
        server.stderr().contains("`ulimit -n 9000"),
        "{}",
        server.stderr()
    );
}

#[test]
fn a_start_on_a_port_in_use_is_refused_with_that_reason() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = taken.local_addr().expect("it has an address").port();
    check_refused(
        &format!("-p {port}"),
        &["-p", &port.to_string(), "Address already in use"],
    );
}

#[test]
fn help_names_every_flag_and_the_version_is_printed() {
    let flags = [
        "--port",
        "--listen",
        "--conn-limit",
        "--memory-limit",
        "--max-item-size",
        "--disable-evictions",
        "--enable-shutdown",
        "--disable-flush-all",
        "--idle-timeout",
        "--verbose",
        "--version",
    ];
    check_text("-h", &flags);
    check_text("--help", &flags);
    check_text(
        "-V",
        &[concat!("rustmemc ", env!("CARGO_PKG_VERSION")), "1.6.45"],
    );
}

#[test]
fn flags_of_memcached_are_accepted_and_one_line_names_those_without_effect() {
    let server = process::spawn("-t 4 -U 0 -B ascii -o modern,idle_timeout=100 -m64 -b 511 -C -L");
    let mut client = server.client();
    client.check("version\r\n", VERSION);
    assert_eq!(client.stat("limit_maxbytes"), (64 << 20).to_string());
    let stderr = server.stderr();
    let [note] = stderr.lines().collect::<Vec<_>>()[..] else {
        panic!("{stderr}")
    };
    for flag in ["-t 4", "-b 511", "-C", "-L", "-o modern"] {
        assert!(note.contains(flag), "{flag} is not in {note}");
    }
    for flag in ["-U", "-B", "-m", "idle_timeout"] {
        assert!(!note.contains(flag), "{flag} has an effect: {note}");
    }
    for (name, value) in [
        ("num_threads", "4"),
        ("tcp_backlog", "511"),
        ("binding_protocol", "ascii"),
        ("cas_enabled", "no"),
        ("idle_timeout", "100"),
        ("tcpport", &server.address().port().to_string()),
    ] {
        assert_eq!(client.setting(name), value, "{name}");
    }
}

/// A word for the shell: `set --` adds it to the command line as one word, with its blanks.
#[test]
fn a_number_is_read_as_c_reads_it() {
    for (word, bytes) in [
        ("-m 64", 64),
        ("-m512m", 512),
        ("--memory-limit= 256M", 256),
    ] {
        let server = process::spawn_after(&format!("set -- \"$@\" '{word}';"), "");
        assert_eq!(server.count("limit_maxbytes"), bytes << 20, "{word}");
    }
}

#[test]
fn a_server_started_on_port_0_prints_the_port_that_it_got() {
    let (one, other) = (process::spawn(""), process::spawn("-l localhost"));
    for server in [&one, &other] {
        assert_ne!(server.address().port(), 0);
        server.client().check("version\r\n", VERSION);
    }
    assert_ne!(one.address(), other.address());
}

/// The lines on standard error, without the connections' numbers. Waits until a line contains `last`.
fn trace(server: &Process, last: &str) -> Vec<String> {
    let lines = || -> Vec<String> {
        let stderr = server.stderr();
        let number = |c: char| c.is_ascii_digit();
        let short = |line: &str| match line.split_at_checked(1) {
            Some((arrow @ ("<" | ">"), rest)) => {
                format!("{arrow}{}", rest.trim_start_matches(number))
            }
            _ => line.to_owned(),
        };
        stderr.lines().map(short).collect()
    };
    eventually(last, || lines().iter().any(|line| line.contains(last)));
    lines()
}

/// 20 MB do not fit into the memory for lines, so they are served in pieces.
#[test]
fn with_vv_each_piece_of_a_long_line_is_printed_as_such() {
    let server = process::spawn("-vv");
    let mut client = server.client();
    client.send("get").send(" key".repeat(5_000_000));
    client.check("\r\nget a\r\n", "END\r\nEND\r\n");
    let lines = || -> Vec<String> {
        let stderr = server.stderr();
        let short = |line: &str| line.split_once(' ').unwrap().1.chars().take(30).collect();
        stderr.lines().skip(2).map(short).collect()
    };
    eventually("all is printed", || {
        lines().iter().filter(|&line| line == "END").count() == 2
    });
    let lines = lines();
    let [first, pieces @ .., end, get, get_end] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(first, "get key key key key key key ke");
    assert!(pieces.len() >= 4, "{lines:?}");
    for piece in pieces {
        assert!(piece.starts_with("(more of this line) get "), "{piece}");
    }
    assert_eq!([end, get, get_end], ["END", "get a", "END"]);
}

#[test]
fn with_vv_commands_and_answers_are_printed_with_reasons() {
    let server = process::spawn("-vv");
    let mut client = server.client();
    client.check(
        "set a 0 0 5\r\nhello\r\nget a\r\n",
        "STORED\r\nVALUE a 0 5\r\nhello\r\nEND\r\n",
    );
    client.check("add a 0 0 1\r\nx\r\n", "NOT_STORED\r\n");
    client.check("add a 0 0 1 noreply\r\nx\r\n", "");
    let long = "k".repeat(251);
    client.check(
        format!("get {long}\r\n"),
        "CLIENT_ERROR bad command line format\r\n",
    );
    client.send("quit\r\n").expect_end();
    let expected = [
        // A harness that starts memcached waits for this line.
        "< server listening (auto-negotiate)",
        "< new client connection from 127.0.0.1:",
        "< set a 0 0 5",
        "> STORED",
        "< get a",
        "> VALUE a 0 5",
        "> hello",
        "> END",
        "< add a 0 0 1",
        "> NOT_STORED   (the key already holds an item)",
        "< add a 0 0 1 noreply",
        "> not sent, because of noreply: NOT_STORED   (the key already holds an item)",
        "< get kkk",
        "> CLIENT_ERROR bad command line format   (the key is 251 bytes long; the limit is 250)",
        "< quit",
        "< connection closed",
    ];
    let trace = trace(&server, "connection closed");
    assert_eq!(trace.len(), expected.len(), "{trace:#?}");
    for (line, expected) in trace.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line:?} is not {expected:?}");
    }
}

#[test]
fn with_v_the_reason_for_help_lists_the_commands() {
    let server = process::spawn("-v");
    let mut client = server.client();
    let unknown = ["bogus", "help", "HELP me", "debugtime 5"];
    for command in unknown {
        client.check(format!("{command}\r\n"), "ERROR\r\n");
    }
    client.send("quit\r\n").expect_end();
    let trace = trace(&server, "connection closed");
    let answers: Vec<&str> = (trace.iter())
        .filter_map(|line| line.strip_prefix("> "))
        .collect();
    assert_eq!(answers.len(), unknown.len(), "{trace:#?}");
    assert_eq!(answers[0], "ERROR   (no command has this form)");
    for help in &answers[1..3] {
        assert!(help.contains("the commands are get gets "), "{help}");
        assert!(help.contains("memc learn"), "{help}");
    }
    assert_eq!(
        answers[3],
        "ERROR   (start the server with --debug to allow it)"
    );
}

#[test]
fn with_v_connections_and_errors_are_printed_and_without_it_nothing() {
    let (quiet, verbose) = (process::spawn(""), process::spawn("-v"));
    for server in [&quiet, &verbose] {
        let mut client = server.client();
        client
            .check("get a\r\nbogus\r\n", "END\r\nERROR\r\n")
            .send("quit\r\n")
            .expect_end();
    }
    let trace = trace(&verbose, "connection closed");
    assert_eq!(trace.len(), 3, "{trace:?}");
    assert!(trace[1].starts_with("> ERROR"), "{trace:?}");
    assert_eq!(quiet.stderr(), "");
}

#[test]
fn a_closed_or_full_standard_output_does_not_stop_the_server() {
    // The server cannot print which port it got, so the test chooses one.
    let port = free_port().expect("there is a free port");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for closed in [
        "exec 2>&-;",
        "exec >&-;",
        "exec >&- 2>&-;",
        "exec >/dev/full 2>/dev/full;",
    ] {
        let server = process::launch(closed, &format!("-p {port} -t 4 -vv"));
        eventually("it serves", || TcpStream::connect(address).is_ok());
        let mut client = Client::connect(address);
        client.check("bogus\r\nversion\r\n", format!("ERROR\r\n{VERSION}"));
        server.signal("TERM");
        assert_eq!(server.outcome().status.code(), Some(0), "{closed}");
    }
}
