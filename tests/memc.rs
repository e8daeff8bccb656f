//! `memc`, the client for the command line: each command, against this server and against the real memcached.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use common::folder::{Folder, content};
use common::memcached::Memcached;
use common::{Client, server, server_with_log};

/// The command `memc` of these words, separated by spaces.
fn command(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memc"));
    command.args(words.split_whitespace());
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `memc` with these words and this standard input: the exit code, and both outputs.
#[track_caller]
fn run(words: &str, input: &[u8]) -> (i32, Vec<u8>, String) {
    let child = command(words).stdin(Stdio::piped()).spawn();
    let mut child = child.expect("memc starts");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let input = input.to_vec();
    // memc may end before it has read all its input.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("memc ends");
    writer.join().expect("the writer does not panic");
    let stderr = String::from_utf8(output.stderr).expect("errors are text");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let code = output.status.code().expect("memc is not killed");
    (code, output.stdout, stderr)
}

/// Checks what `memc` prints on standard output, and that it succeeds.
#[track_caller]
fn prints(words: &str, expected: impl AsRef<[u8]>) {
    let (code, stdout, stderr) = run(words, b"");
    let shown = |bytes: &[u8]| common::shortened(bytes);
    assert_eq!(
        (code, shown(&stdout), stderr.as_str()),
        (0, shown(expected.as_ref()), ""),
        "{words}"
    );
    assert!(stdout == expected.as_ref(), "{words}");
}

/// Checks that `memc` fails with this exit code, prints nothing, and says this in one line.
#[track_caller]
fn fails(words: &str, code: i32, message: &str) {
    let (found, stdout, stderr) = run(words, b"");
    assert_eq!((found, stdout.len()), (code, 0), "{words}: {stderr}");
    assert!(stderr.starts_with("memc: "), "{stderr}");
    assert!(stderr.contains(message), "{words}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// Calls `check` with the address of this server, and then with that of the real memcached, if there is one.
fn with_both(check: impl Fn(SocketAddr)) {
    let ours = server("-I 2m");
    check(ours.address);
    if let Some((program, _)) = Memcached::find_any() {
        let real = Memcached::start(&program, "-I 2m");
        check(real.address);
    }
}

/// A server that accepts one client, reads a line, and answers this. It keeps the connection until the client closes
/// it, or closes it at once if there is no answer.
fn impostor(answer: Option<&'static [u8]>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("memc connects");
        if let Some(answer) = answer {
            let mut reader = BufReader::new(stream.try_clone().expect("it can be cloned"));
            reader.read_line(&mut String::new()).expect("a line comes");
            stream.write_all(answer).expect("memc reads");
            let _ = reader.read_to_end(&mut Vec::new());
        }
    });
    (address, thread)
}

#[test]
fn commands_for_one_key_print_the_word_of_the_server() {
    with_both(|s| {
        prints(&format!("set greeting hello -s {s}"), "STORED\n");
        prints(&format!("-s {s} get greeting"), "hello");
        prints(&format!("touch greeting 2h -s {s}"), "TOUCHED\n");
        prints(&format!("delete greeting -s {s}"), "DELETED\n");
        prints(&format!("add lock mine --ttl 30s -s {s}"), "STORED\n");
        prints(&format!("set n -s {s} -- 5"), "STORED\n");
        prints(&format!("incr n -s {s}"), "6\n");
        prints(&format!("incr n 10 -s {s}"), "16\n");
        prints(&format!("decr n -s {s}"), "15\n");
        prints(&format!("decr n 20 -s {s}"), "0\n");
        let version = Client::connect(s).send("version\r\n").line() + "\n";
        prints(&format!("version -s {s}"), version);
        prints(&format!("flush -s {s}"), "OK\n");
        fails(&format!("get n -s {s}"), 1, "END: the key n holds no item");
    });
}

#[test]
fn the_exit_code_is_1_if_nothing_was_found_or_stored() {
    with_both(|s| {
        prints(&format!("set taken word -s {s}"), "STORED\n");
        for (words, message) in [
            ("get none", "END: the key none holds no item"),
            ("delete none", "NOT_FOUND: the key none holds no item"),
            ("incr none", "NOT_FOUND"),
            ("touch none 60", "NOT_FOUND"),
            (
                "add taken x",
                "NOT_STORED: the key taken holds an item already",
            ),
            ("incr taken", "CLIENT_ERROR cannot increment"),
        ] {
            fails(&format!("{words} -s {s}"), 1, message);
        }
        let (code, _, stderr) = run(&format!("set big -s {s}"), &vec![b'x'; 3 << 20]);
        assert_eq!(code, 1, "{stderr}");
        assert!(
            stderr.contains("SERVER_ERROR object too large for cache"),
            "{stderr}"
        );
    });
}

#[test]
fn a_value_may_be_any_bytes_from_standard_input_or_a_file() {
    let folder = Folder::new();
    let path = folder.file("value");
    let all: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..500_000u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    with_both(|s| {
        for value in [&all[..], &large, b"", b"END\r\n"] {
            let (code, stdout, stderr) = run(&format!("set piped -s {s}"), value);
            assert_eq!(
                (code, stdout, stderr),
                (0, b"STORED\n".to_vec(), String::new())
            );
            prints(&format!("get piped -s {s}"), value);
            fs::write(&path, value).expect("it can be written");
            prints(
                &format!("set filed -s {s} --file {}", path.display()),
                "STORED\n",
            );
            prints(&format!("get filed -s {s}"), value);
        }
    });
    fails("set k v --file x", 2, "there is a value and a --file");
    fails("set k --file /none/such", 2, "cannot read the value");
}

#[test]
fn a_time_over_30_days_is_sent_as_a_date() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("it is after 1970").as_secs();
    with_both(|s| {
        for (ttl, seconds) in [
            ("60", 60),
            ("90s", 90),
            ("5m", 300),
            ("2h", 7200),
            ("30d", 2_592_000),
            ("40d", 3_456_000),
        ] {
            prints(
                &format!("set k v --ttl {ttl} --flags 77 -s {s}"),
                "STORED\n",
            );
            let answer = Client::connect(s).send("mg k t f\r\n").line();
            let words: Vec<&str> = answer.split(' ').collect();
            let left: u64 = words[1][1..].parse().expect("t is a number");
            let passed = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("it is after 1970")
                .as_secs()
                - now;
            assert!(
                (seconds - passed - 2..=seconds + passed + 2).contains(&left),
                "{ttl}: {answer}"
            );
            assert_eq!(words[2], "f77");
        }
    });
    fails("set k v --ttl 100ms", 2, "whole seconds");
    fails("touch k 30000d", 2, "no date after January 2038");
    fails("touch k soon", 2, "a time is a number of seconds");
}

#[test]
fn a_wrong_command_line_is_refused_before_anything_is_sent() {
    let long = "k".repeat(251);
    for (words, message) in [
        ("get k --record f", "get has no option --record"),
        ("keys --empty", "keys has no option --empty"),
        ("nonsense", "there is no command"),
        ("--nonsense", "--nonsense"),
        ("get k --ttl 5", "get has no option --ttl"),
        ("get k --timeout 0", "an answer takes longer than no time"),
        ("get k --level meta", "get has no option --level"),
        ("check -s a b", "Usage: memc check"),
        ("check", "Usage: memc check"),
        (&format!("get {long}"), "a key has 1 to 250 bytes"),
        ("set k v --flags -1", "--flags"),
    ] {
        let (code, stdout, stderr) = run(words, b"");
        assert_eq!((code, stdout.len()), (2, 0), "{words}: {stderr}");
        assert!(stderr.contains(message), "{words}: {stderr}");
    }
    for words in ["get", "get a b", "touch k", "flush x"] {
        let (code, _, stderr) = run(words, b"");
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.starts_with("memc: Usage: memc "), "{stderr}");
    }
    for key in ["", "a b", "a\r\nflush_all"] {
        let output = command("get").arg(key).output().expect("memc starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("a key has 1 to 250 bytes"), "{stderr}");
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    let (code, overview, _) = run("--help", b"");
    let overview = String::from_utf8(overview).expect("help is text");
    let (_, commands) = overview.split_once("Commands:\n").expect("it lists them");
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let names: Vec<&str> = commands
        .map(|line| line.trim().split([' ', ':']).next().unwrap())
        .collect();
    assert_eq!((code, names.len()), (0, 17), "{names:?}");
    for name in names {
        for words in [
            format!("{name} --help"),
            format!("help {name}"),
            format!("-h {name}"),
        ] {
            let (code, help, stderr) = run(&words, b"");
            let help = String::from_utf8(help).expect("help is text");
            assert_eq!((code, stderr.as_str()), (0, ""));
            assert!(help.starts_with(&format!("Usage: memc {name}")), "{help}");
            assert!(help.contains("\n    "), "{help}");
        }
    }
    prints("--version", format!("memc {}\n", rustmemc::VERSION));
}

#[test]
fn a_server_that_cannot_be_used_is_described_in_a_sentence() {
    let dead = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let dead = dead.expect("a port was free");
    fails(
        &format!("get k -s {dead}"),
        2,
        &format!("no server answers at {dead}: connection refused. Start one"),
    );
    fails("get k -s /none/such.sock", 2, "there is no such socket");
    fails("get k -s a:b", 2, "is not a port");
    for (answer, message) in [
        (
            Some(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]),
            "is not a memcached: it answers \"HTTP/1.1 400 Bad Request\"",
        ),
        (Some(b""), "was silent for 100ms"),
        (None, "closed the connection"),
        (Some(b"VALUE k 0 5\r\nhel"), "was silent for 100ms"),
        (
            Some(b"ERROR Too many open connections\r\n"),
            "as many clients as it may have",
        ),
        (Some(b"ERROR\r\n"), "the server refuses: ERROR"),
    ] {
        let (address, thread) = impostor(answer);
        let (code, _, stderr) = run(&format!("get k -s {address} --timeout 100ms"), b"");
        assert_eq!(
            code,
            if answer == Some(b"ERROR\r\n") { 1 } else { 2 },
            "{stderr}"
        );
        assert!(stderr.contains(message), "{stderr}");
        thread.join().expect("the impostor does not panic");
    }
    let endless = vec![b'x'; 9000].leak();
    let (address, thread) = impostor(Some(endless));
    fails(&format!("stats -s {address}"), 2, "is not a memcached");
    thread.join().expect("the impostor does not panic");
}

#[test]
fn a_server_with_a_login_is_recognised() {
    let folder = Folder::new();
    let users = folder.file("users");
    fs::write(&users, "anna:secret\n").expect("it can be written");
    let ours = server(&format!("-Y {}", users.display()));
    for words in [
        "get k",
        "keys",
        "ping",
        "set k v",
        "set k --file Cargo.toml",
    ] {
        fails(
            &format!("{words} -s {}", ours.address),
            2,
            "wants a login (its flag -Y)",
        );
    }
    // The server would take this for a login, and answer STORED.
    let (code, stdout, stderr) = run(&format!("set k -s {}", ours.address), b"anna secret");
    assert_eq!((code, stdout.len()), (2, 0), "{stderr}");
    assert!(stderr.contains("wants a login"), "{stderr}");
}

#[test]
fn a_refusal_has_a_reason_and_a_wrong_command_line_a_hint() {
    let ours = server("");
    let s = ours.address;
    prints(&format!("set n 1 -s {s}"), "STORED\n");
    fails(
        &format!("incr n foo -s {s}"),
        1,
        "(the delta must be a number",
    );
    fails(
        &format!("stats bogus -s {s}"),
        1,
        "(there are no stats with this name)",
    );
    fails(
        "set num -5",
        2,
        "-5 looks like an option: write memc set num -- -5",
    );
    fails("set n v --ttl -5", 2, "a time is a number of seconds");
    let (_, _, stderr) = run("set greeting hello world", b"");
    let hint = "a value of several words needs quotes: memc set greeting \"hello world\"";
    assert!(stderr.contains(hint), "{stderr}");
}

#[test]
fn ping_is_a_health_check_that_can_wait() {
    with_both(|s| {
        let (code, stdout, _) = run(&format!("ping -s {s}"), b"");
        let stdout = String::from_utf8(stdout).expect("it is text");
        assert_eq!(code, 0);
        assert!(
            stdout.starts_with("VERSION 1.") && stdout.ends_with(" ms)\n"),
            "{stdout}"
        );
    });
    let folder = Folder::new();
    let path = folder.file("socket");
    let waiting = command(&format!("ping --wait 20s -s {}", path.display())).spawn();
    let waiting = waiting.expect("memc starts");
    // Whether memc has tried already or not: it finds the server that begins to listen now.
    let listener = UnixListener::bind(&path).expect("it can listen");
    let (mut stream, _) = listener.accept().expect("memc connects");
    stream.write_all(b"VERSION 1\r\n").expect("memc reads");
    let output = waiting.wait_with_output().expect("memc ends");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    fs::remove_file(&path).expect("it exists");
    fails(
        &format!("ping --wait 100ms -s {}", path.display()),
        2,
        "there is no such socket",
    );
}

#[test]
fn a_unix_socket_is_a_server_too() {
    let folder = Folder::new();
    let path = folder.file("socket");
    let path = path.display();
    let _ours = server(&format!("-p 11211 -l 127.0.0.1:0 -s {path}"));
    prints(&format!("set k v -s {path}"), "STORED\n");
    prints(&format!("get k -s {path}"), "v");
}

#[test]
fn keys_lists_all_keys_or_those_with_a_prefix() {
    with_both(|s| {
        Client::connect(s)
            .check("set a:1 0 0 1\r\nx\r\n", "STORED\r\n")
            .check("set a%2 0 0 1\r\nx\r\n", "STORED\r\n")
            .check("set bé 0 0 1\r\nx\r\n", "STORED\r\n")
            .check("ms YSBi 1 b\r\nx\r\n", "HD\r\n")
            .check("ms YQFi 1 b\r\nx\r\n", "HD\r\n");
        let listed = |words: &str| {
            let (code, stdout, stderr) = run(&format!("{words} -s {s}"), b"");
            assert_eq!((code, stderr.as_str()), (0, ""));
            let stdout = String::from_utf8(stdout).expect("these keys are text");
            let mut lines: Vec<String> = stdout.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(listed("keys"), ["a%01b", "a%20b", "a%252", "a:1", "bé"]);
        assert_eq!(listed("keys a:"), ["a:1"]);
        assert!(listed("keys none").is_empty());
    });
}

#[test]
fn a_server_that_forbids_to_list_its_keys_is_named_as_such() {
    let ours = server("-X");
    for words in ["keys", "dump"] {
        let (code, _, stderr) = run(&format!("{words} -s {}", ours.address), b"");
        assert_eq!(code, 1, "{stderr}");
        assert!(
            stderr.contains("ERROR metadump not allowed (its flag -X"),
            "{stderr}"
        );
    }
}

#[test]
fn a_busy_server_is_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    let busy = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("memc connects");
        let mut lines = BufReader::new(&stream).lines();
        for answer in [
            "BUSY currently processing crawler request\r\n",
            "key=k exp=-1 la=1 \nEND\r\n",
        ] {
            let line = lines.next().expect("memc asks").expect("it asks in text");
            assert_eq!(line, "lru_crawler metadump all");
            (&stream).write_all(answer.as_bytes()).expect("memc reads");
        }
    });
    prints(&format!("keys -s {address}"), "k\n");
    busy.join().expect("it is asked twice");
}

#[test]
fn stats_are_printed_in_columns() {
    with_both(|s| {
        prints(&format!("set k v -s {s}"), "STORED\n");
        let (code, stdout, _) = run(&format!("stats -s {s}"), b"");
        let stdout = String::from_utf8(stdout).expect("it is text");
        assert_eq!(code, 0);
        let line = stdout.lines().find(|line| line.starts_with("curr_items"));
        assert_eq!(line, Some(format!("{:<30} 1", "curr_items").as_str()));
        prints(&format!("stats detail on -s {s}"), "OK\n");
        prints(&format!("set a:k v -s {s}"), "STORED\n");
        prints(
            &format!("stats detail dump -s {s}"),
            "PREFIX a get 0 hit 0 set 1 del 0\n",
        );
        prints(&format!("stats reset -s {s}"), "RESET\n");
    });
}

#[test]
fn watch_prints_each_line_at_once_and_without_colour_in_a_pipe() {
    with_both(|s| {
        let mut watcher = command(&format!("watch -s {s}"))
            .spawn()
            .expect("memc starts");
        let mut lines = BufReader::new(watcher.stdout.take().expect("stdout is a pipe"));
        // A watcher that the server does not have yet misses the first commands.
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_over = std::sync::Arc::clone(&stop);
        let asking = thread::spawn(move || {
            let mut client = Client::connect(s);
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                client.check("get missing\r\n", "END\r\n");
            }
        });
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line comes");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        asking.join().expect("the client is answered");
        watcher
            .kill()
            .and_then(|()| watcher.wait())
            .expect("it runs");
        assert!(
            line.starts_with("ts=") && line.contains(" type=item_get key=missing "),
            "{line}"
        );
    });
    let ours = server("-W");
    fails(
        &format!("watch -s {}", ours.address),
        1,
        "CLIENT_ERROR watch commands not allowed",
    );
}

#[test]
fn a_closed_pipe_ends_the_program_quietly() {
    let ours = server("");
    let mut client = ours.client();
    for n in 0..20_000 {
        client.send(format!(
            "set a-key-of-some-length:{n} 0 0 1 noreply\r\nx\r\n"
        ));
    }
    client.check("mn\r\n", "MN\r\n");
    for words in ["keys", "dump", "stats"] {
        let mut child = command(&format!("{words} -s {}", ours.address))
            .spawn()
            .expect("memc starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("memc ends");
        // A backup that nobody has read to its end is no success.
        let code = i32::from(words == "dump");
        assert_eq!(
            (output.status.code(), output.stderr.len()),
            (Some(code), 0),
            "{output:?}"
        );
    }
}

#[test]
fn an_answer_to_another_command_is_no_success() {
    for (words, answer) in [
        ("get k", &b"VALUE other 0 1\r\nx\r\nEND\r\n"[..]),
        ("delete k", b"42\r\n"),
        ("incr k", b"STORED\r\n"),
    ] {
        let (address, thread) = impostor(Some(answer));
        fails(&format!("{words} -s {address}"), 2, "is not a memcached");
        thread.join().expect("it was asked");
    }
}

/// Stores items of all kinds, more than two batches of them.
fn fill(address: SocketAddr) {
    let mut client = Client::connect(address);
    client
        .check("ms plain 5 F7 T1000\r\nhello\r\n", "HD\r\n")
        .check("ms YSBi 3 b F9 T0\r\n\r\n!\r\n", "HD\r\n")
        .check("ms empty 0\r\n\r\n", "HD\r\n")
        .check("ms stale 3\r\nold\r\n", "HD\r\n")
        .check("md stale I T500\r\n", "HD\r\n");
    client
        .send("set large 0 0 500000\r\n")
        .send(vec![0xff; 500_000])
        .check("\r\n", "STORED\r\n");
    for n in 0..250 {
        client.check(format!("set {n} {n} 0 3\r\nabc\r\n"), "STORED\r\n");
    }
}

/// Checks that the server has the items of [`fill`].
#[track_caller]
fn check_filled(address: SocketAddr) {
    let mut client = Client::connect(address);
    client
        .check("mg YSBi b v f t\r\n", "VA 3 f9 t-1\r\n\r\n!\r\n")
        .check("get empty\r\n", "VALUE empty 0 0\r\n\r\nEND\r\n")
        .check("get stale\r\n", "VALUE stale 0 3\r\nold\r\nEND\r\n")
        .check("get 249\r\n", "VALUE 249 249 3\r\nabc\r\nEND\r\n");
    let plain = client.send("mg plain v f t\r\n").line();
    let left = plain.strip_prefix("VA 5 f7 t").expect("it has its flags");
    let left: i64 = left.parse().expect("it expires");
    assert!((900..=1000).contains(&left), "{plain}");
    client.expect("hello\r\n");
    client
        .send("get large\r\n")
        .expect("VALUE large 0 500000\r\n");
    client.expect(vec![0xff; 500_000]).expect("\r\nEND\r\n");
}

#[track_caller]
fn dumped(address: SocketAddr) -> Vec<u8> {
    let (code, stdout, stderr) = run(&format!("dump -s {address}"), b"");
    assert_eq!((code, stderr.as_str()), (0, ""));
    stdout
}

#[test]
fn a_dump_is_a_file_with_which_the_server_starts() {
    with_both(|s| {
        fill(s);
        let folder = Folder::new();
        let path = folder.file("dump.aof");
        fs::write(&path, dumped(s)).expect("it can be written");
        let restarted = server_with_log(&format!("--aof {}", path.display()));
        check_filled(restarted.address);
        assert_eq!(restarted.stat("curr_items"), "255");
    });
}

#[test]
fn a_dump_does_not_win_a_stale_item() {
    with_both(|s| {
        fill(s);
        dumped(s);
        let answer = Client::connect(s).send("mg stale s\r\n").line();
        assert_eq!(answer, "HD s3 X W");
    });
}

#[test]
fn load_sends_a_dump_to_any_memcached() {
    with_both(|source| {
        fill(source);
        let dump = dumped(source);
        with_both(|target| {
            let (code, stdout, stderr) = run(&format!("load -s {target}"), &dump);
            let stdout = String::from_utf8(stdout).expect("it is text");
            assert_eq!(
                (code, stdout.as_str(), stderr.as_str()),
                (0, "255 records accepted, 0 refused\n", "")
            );
            check_filled(target);
        });
    });
}

#[test]
fn load_notices_that_the_end_of_a_dump_is_missing() {
    let ours = server("");
    ours.client().check("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    let dump = dumped(ours.address);
    let mark = b"mn rustmemc at ";
    let end = dump.windows(mark.len()).rposition(|part| part == mark);
    let end = end.expect("the last record is a time mark");
    let (code, stdout, stderr) = run(&format!("load -s {}", ours.address), &dump[..end]);
    assert_eq!(
        (code, stdout),
        (2, b"1 records accepted, 0 refused\n".to_vec())
    );
    assert!(
        stderr.contains("the end of this dump is missing"),
        "{stderr}"
    );
}

/// The append-only file of a server that has executed commands of all kinds.
fn history(path: &Path) -> Vec<u8> {
    let server = server_with_log(&format!("--aof {}", path.display()));
    server
        .client()
        .check("set gone 0 0 1\r\nx\r\n", "STORED\r\n")
        .check("flush_all\r\n", "OK\r\n")
        .check("set k 5 0 3\r\nold\r\n", "STORED\r\n")
        .check("set k 5 0 3\r\nnew\r\n", "STORED\r\n")
        .check("touch k 600\r\n", "TOUCHED\r\n")
        .check("set no 0 0 1\r\nx\r\n", "STORED\r\n")
        .check("delete no\r\n", "DELETED\r\n")
        .check("set n 0 0 1\r\n1\r\n", "STORED\r\n")
        .check("incr n 4\r\n", "5\r\n");
    drop(server);
    content(path)
}

#[test]
fn load_replays_any_append_only_file() {
    let folder = Folder::new();
    let path = folder.file("log.aof");
    history(&path);
    with_both(|target| {
        Client::connect(target).check("set before 0 0 1\r\nx\r\n", "STORED\r\n");
        prints(
            &format!("load {} -s {target}", path.display()),
            "9 records accepted, 0 refused\n",
        );
        let mut client = Client::connect(target);
        client.check("gets gone before no\r\n", "END\r\n");
        client.check(
            "get k n\r\n",
            "VALUE k 5 3\r\nnew\r\nVALUE n 0 1\r\n5\r\nEND\r\n",
        );
        let touched = client.send("mg k t\r\n").line();
        let left = touched
            .strip_prefix("HD t")
            .and_then(|left| left.parse().ok());
        let left: u64 = left.expect("it expires");
        assert!((500..=600).contains(&left), "{touched}");
    });
}

#[test]
fn load_refuses_a_file_that_is_damaged_or_cut_short() {
    let folder = Folder::new();
    let log = history(&folder.file("log.aof"));
    let ours = server("");
    let loads = |input: &[u8], message: &str| {
        let (code, stdout, stderr) = run(&format!("load -s {}", ours.address), input);
        assert_eq!((code, stdout.len()), (2, 0), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
    };
    loads(b"", "is not an append-only file");
    loads(b"set k 0 0 1\r\nx\r\n", "is not an append-only file");
    let position = |text: &[u8]| {
        log.windows(text.len())
            .position(|part| part == text)
            .unwrap()
    };
    let new = position(b"new\r\n");
    loads(&log[..new + 1], "the last record is cut short");
    loads(&log[..new - 5], "the last record is cut short");
    loads(&log[..new + 4], "the last record is cut short");
    let mut damaged = log.clone();
    damaged[new] = b'N';
    loads(&damaged, "the data's checksum is wrong");
    let mut damaged = log.clone();
    damaged[position(b"ms k 3")] = b'M';
    loads(&damaged, "the line's checksum is wrong");
    loads(
        &[&log[..], &vec![b'x'; 2000]].concat(),
        "the line does not end",
    );
    // What is before the damage was sent.
    let (_, _, stderr) = run(&format!("load -s {}", ours.address), &log[..new]);
    assert!(
        stderr.contains("3 records before it were accepted"),
        "{stderr}"
    );
    ours.client()
        .check("get k\r\n", "VALUE k 5 3\r\nold\r\nEND\r\n");
    fails("load /none/such", 2, "/none/such");
}

#[test]
fn load_names_the_first_record_that_the_server_refuses() {
    let source = server("-I 2m");
    source
        .client()
        .send("set big 0 0 1500000\r\n")
        .send(vec![b'x'; 1_500_000])
        .check("\r\n", "STORED\r\n");
    source.client().check("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    let target = server("");
    let (code, stdout, stderr) = run(
        &format!("load -s {}", target.address),
        &dumped(source.address),
    );
    let stdout = String::from_utf8(stdout).expect("it is text");
    assert_eq!(
        (code, stdout.as_str()),
        (1, "1 records accepted, 1 refused\n")
    );
    assert!(stderr.contains("ms big 1500000: "), "{stderr}");
    assert!(
        stderr.contains("SERVER_ERROR object too large for cache"),
        "{stderr}"
    );
    target
        .client()
        .check("get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
}
