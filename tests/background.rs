//! What the program does besides serving: `-d`, `-P`, `-u`, and signals.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use common::folder::Folder;
use common::process::{self, eventually, passed_over};
use common::system::{free_port, is_root, status};
use common::{Client, VERSION};

/// Whether a process runs. A process that has ended, but whose parent has not waited for it, does not run.
fn is_alive(pid: u32) -> bool {
    status(format!("/proc/{pid}/status"), "State").is_some_and(|state| !state.starts_with('Z'))
}

fn kill(signal: &str, pid: u32) {
    let kill = format!("kill -{signal} {pid}");
    let sent = Command::new("sh").args(["-c", &kill]).status();
    assert!(sent.expect("there is a shell").success(), "{kill}");
}

#[test]
fn d_returns_when_the_server_listens_and_the_server_outlives_its_terminal() {
    let folder = Folder::new();
    let (file, port) = (folder.file("m.pid"), free_port().unwrap());
    // The shell ends, as the shell of a terminal does, and sends SIGHUP to its process group.
    let flags = format!("-d -P {} -p {port} -t 2", file.display());
    let shell = process::launch("setsid -w sh -c '\"$@\"; kill -HUP 0' sh", &flags);
    let outcome = shell.outcome();
    let expected = format!("listening on 127.0.0.1:{port}");
    assert!(outcome.stdout.contains(&expected), "{}", outcome.stdout);
    assert!(
        outcome.stderr.contains("no effect here: -t 2"),
        "{}",
        outcome.stderr
    );

    let pid: u32 = fs::read_to_string(&file)
        .expect("it is written")
        .trim()
        .parse()
        .unwrap();
    let mut client = Client::connect((Ipv4Addr::LOCALHOST, port).into());
    client.check("version\r\n", VERSION);
    assert_eq!(client.stat("pid"), pid.to_string());
    kill("TERM", pid);
    client.expect_end();
    eventually("it ends", || !is_alive(pid));
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

#[test]
fn d_prints_why_the_server_does_not_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let folder = Folder::new();
    let file = folder.file("m.pid");
    for verbose in ["", "-v"] {
        let flags = format!("-d {verbose} -P {} -p {port}", file.display());
        let outcome = process::launch("", &flags).outcome();
        assert_eq!(outcome.status.code(), Some(1));
        assert_eq!(outcome.stdout, "");
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        assert!(
            matches!(lines[..], [line] if line.contains("Address already in use")),
            "{lines:?}"
        );
        assert!(folder.names().is_empty(), "{:?}", folder.names());
    }
}

#[test]
fn the_pid_file_exists_while_the_server_listens_and_a_bad_path_is_only_reported() {
    let folder = Folder::new();
    let file = folder.file("m.pid");
    let server = process::spawn(&format!("-P {}", file.display()));
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        format!("{}\n", server.pid())
    );
    server.signal("INT");
    assert_eq!(server.outcome().status.code(), Some(0));
    assert!(folder.names().is_empty(), "{:?}", folder.names());

    let server = process::spawn("-P /nonexistent/m.pid");
    server.client().check("version\r\n", VERSION);
    eventually("it prints why", || {
        server.stderr().contains("-P /nonexistent/m.pid")
    });
}

#[test]
fn root_becomes_the_user_that_u_names() {
    if !is_root() {
        passed_over("only root can become another user");
        return;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("nobody:"));
    let Some(uid) = line.and_then(|line| line.split(':').nth(2)) else {
        passed_over("there is no user nobody");
        return;
    };
    let owner = |pid| fs::metadata(format!("/proc/{pid}")).map(|process| process.uid().to_string());
    for flags in ["-u nobody", "-u root"] {
        let server = process::spawn(flags);
        server.client().check("version\r\n", VERSION);
        let expected = if flags.ends_with("root") { "0" } else { uid };
        assert_eq!(owner(server.pid()).unwrap(), expected, "{flags}");
        let name = status(format!("/proc/{}/status", server.pid()), "Name");
        assert_eq!(name.as_deref(), Some("rustmemc"), "{flags}");
    }

    let port = free_port().unwrap();
    let outcome = process::launch("", &format!("-d -u nobody -p {port}")).outcome();
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    let mut client = Client::connect((Ipv4Addr::LOCALHOST, port).into());
    let pid = client.stat("pid").parse().unwrap();
    assert_eq!(owner(pid).unwrap(), uid);
    kill("TERM", pid);
    client.expect_end();
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for signal in ["TERM", "INT"] {
        let server = process::spawn("");
        let mut client = server.client();
        let value = "x".repeat(900_000);
        client.check(format!("set k 0 0 900000\r\n{value}\r\n"), "STORED\r\n");
        // The server waits for this client, which does not read its answers.
        client.send("get k\r\n".repeat(100));
        eventually("it waits for the client", || server.count("get_hits") > 0);
        server.signal(signal);
        // Signals within 0.1 seconds are one request to stop. The server waits 1.5 seconds for the client.
        std::thread::sleep(Duration::from_millis(200));
        server.signal(signal);
        let outcome = server.outcome();
        assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
        assert!(
            outcome.stderr.contains("second signal"),
            "{}",
            outcome.stderr
        );
    }
}

/// `timeout` sends its signal twice.
#[test]
fn two_signals_at_once_are_one_request_to_stop() {
    let server = process::spawn("");
    let pid = server.pid();
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -TERM {pid}; kill -TERM {pid}")])
        .status();
    assert!(sent.unwrap().success());
    assert_eq!(server.outcome().status.code(), Some(0));
}
