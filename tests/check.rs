//! `memc check` as a user runs it: against real servers, and against false ones with one fault each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::Client;
use common::folder::Folder;
use common::memcached::Memcached;
use common::system::free_port;

/// How `memc check` has ended.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn memc_check(address: &str, options: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memc"));
    let output = command.args(["check", address]).args(options).output();
    let output = output.expect("memc can be started");
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// The check of a server that is expected to answer at once, on a busy machine too.
fn check(address: impl ToString, options: &[&str]) -> Outcome {
    let mut words = vec!["--timeout", "20s"];
    words.extend(options);
    memc_check(&address.to_string(), &words)
}

/// The check of a server that may be silent.
fn check_silent(address: impl ToString, options: &[&str]) -> Outcome {
    let mut words = vec!["--timeout", "300ms"];
    words.extend(options);
    memc_check(&address.to_string(), &words)
}

impl Outcome {
    /// It was refused, with one sentence that contains these words.
    #[track_caller]
    fn is_refused(&self, words: &str) {
        assert_eq!(self.code, Some(2), "{self:?}");
        assert_eq!(self.stdout, "");
        assert!(self.stderr.contains(words), "{words:?}: {self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
    }

    /// Every section that was played held, and this is the last line.
    #[track_caller]
    fn holds(&self) -> usize {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stderr, "");
        let last = self.stdout.lines().last().unwrap_or_default();
        let words: Vec<&str> = last.split(' ').collect();
        let [held, "of", played, "sections", "hold."] = words[..] else {
            panic!("{last:?} is not the summary");
        };
        assert_eq!(held, played);
        held.parse().expect("a number")
    }

    /// Something differs, and the report has these lines, one after the other.
    #[track_caller]
    fn differs(&self, lines: &str) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.stderr, "");
        let trimmed: Vec<&str> = self.stdout.lines().map(str::trim).collect();
        let trimmed = trimmed.join("\n");
        assert!(trimmed.contains(lines), "{lines}\nis not in\n{trimmed}");
    }

    #[track_caller]
    fn has(&self, text: &str) -> &Self {
        assert!(self.stdout.contains(text), "{text:?}: {}", self.stdout);
        self
    }

    #[track_caller]
    fn has_not(&self, text: &str) -> &Self {
        assert!(!self.stdout.contains(text), "{text:?}: {}", self.stdout);
        self
    }
}

/// The number of the first line with this text after the title of a section.
fn line_of(number: &str, title: &str, source: &str) -> usize {
    let mut conversations = rustmemc::conversations::ALL.iter();
    let found = conversations.find(|(name, _)| name.starts_with(number));
    let lines = found.expect("there is such a conversation").1.lines();
    let mut lines = lines
        .zip(1..)
        .skip_while(|(line, _)| *line != format!("## {title}"));
    let line = lines.find(|(line, _)| *line == source);
    line.expect("the section has such a line").1
}

/// What a false server does at a line.
enum Reply {
    Text(&'static str),
    Nothing,
    Close,
}

/// A server that decides line by line. Returns its address.
fn false_server(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has one").to_string();
    let reply = Arc::new(reply);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let reply = Arc::clone(&reply);
            std::thread::spawn(move || serve(&stream, &*reply));
        }
    });
    address
}

fn serve(mut stream: &TcpStream, reply: &impl Fn(&str) -> Reply) {
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        match reply(String::from_utf8_lossy(&line).trim_end()) {
            Reply::Text(text) => {
                let _ = stream.write_all(text.as_bytes());
            }
            Reply::Nothing => {}
            Reply::Close => return,
        }
        line.clear();
    }
}

/// The answers of a server that begins well. The data blocks of the conversations that are played count as `other`.
fn good_start(line: &str, other: Reply) -> Reply {
    match line.split(' ').next() {
        Some("version") => Reply::Text("VERSION 1.6.45\r\n"),
        Some("flush_all") => Reply::Text("OK\r\n"),
        Some("stats") => Reply::Text("STAT curr_items 0\r\nEND\r\n"),
        Some("quit") => Reply::Close,
        _ => other,
    }
}

#[test]
fn a_name_that_is_no_server_and_a_wrong_option_are_refused_with_one_sentence() {
    for name in ["127.0.0.1:", ":11211", "a:b", "h:65536"] {
        memc_check(name, &[]).is_refused(&format!("memc: {name} is not host:port: "));
    }
    // A name with two dots in a row is invalid, so no name server is asked.
    memc_check("nonsense..here:11211", &[])
        .is_refused("no server answers at nonsense..here:11211: ");
    memc_check("127.0.0.1:1", &["--level", "high"])
        .is_refused("a level is classic, meta or binary");
    memc_check("127.0.0.1:1", &["--only", "nothing"])
        .is_refused("no conversation has nothing in its name");
    let named = format!("127.0.0.1:{}", free_port().expect("a port is free"));
    memc_check(&named, &[]).is_refused(&format!("no server answers at {named}: "));
    memc_check("/nowhere/memcached.sock", &[])
        .is_refused("no server answers at /nowhere/memcached.sock: ");
}

#[test]
fn a_server_that_is_no_memcached_is_refused_with_one_sentence() {
    let http = false_server(|_| Reply::Text("HTTP/1.1 400 Bad Request\r\n\r\n"));
    check(&http, &[]).is_refused(&format!(
        r#"the server at {http} is not a memcached: it answers "HTTP/1.1 400 Bad Request\r\n" to `version`."#
    ));
    let redis = false_server(|_| Reply::Text("-ERR unknown command\r\n"));
    check(&redis, &[]).is_refused("is not a memcached");
    let closing = false_server(|_| Reply::Close);
    check(&closing, &[]).is_refused(&format!(
        "the server at {closing} does not answer: to `version` and to `get` it answers with the end of the connection."
    ));
    let silent = false_server(|_| Reply::Nothing);
    check_silent(&silent, &[]).is_refused("to `version` and to `get` it answers with silence.");
}

#[test]
fn a_server_with_items_is_refused_until_the_user_permits_that_they_are_deleted() {
    let play = |address: std::net::SocketAddr| {
        let mut client = Client::connect(address);
        let set = "set a 0 0 1\r\nx\r\nset b 0 0 1\r\nx\r\n";
        client.check(set, "STORED\r\nSTORED\r\n");
        let refused = check(address, &["--only", "1"]);
        refused.is_refused(&format!("the server at {address} holds items (2)"));
        refused.is_refused("--empty");
        client.check("get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n");
        check(address, &["--only", "1", "--empty"]).holds();
        client.check("get a\r\n", "END\r\n");
        // The check leaves nothing that the next check would have to delete.
        check(address, &["--only", "03"]).holds();
        check(address, &["--only", "03"]).holds();
    };
    play(common::server("").address);
    if let Some(program) = Memcached::find((1, 6, 0)) {
        play(Memcached::start(&program, "").address);
    }
    // A server without `lru_crawler`, but with `stats`.
    let items = false_server(|line| match line {
        "stats" => Reply::Text("STAT curr_items 3\r\nEND\r\n"),
        _ => good_start(line, Reply::Text("ERROR\r\n")),
    });
    check(&items, &[]).is_refused("holds items (3)");
    check(&items, &["--only", "1", "--empty"]).differs("but got  \"ERROR\\r\\n\"");
}

#[test]
fn memcached_passes_at_every_level() {
    let Some(program) = Memcached::find((1, 6, 45)) else {
        return;
    };
    let server = Memcached::start(&program, "-o no_lru_maintainer");
    let [classic, meta, binary] = ["classic", "meta", "binary"].map(|level| {
        let outcome = check(server.address, &["--level", level]);
        let held = outcome.holds();
        outcome.has("01 First steps: 9 of 9\n");
        outcome.has("Passed over, marked (ours alone): ");
        outcome.has("Passed over, for a server with --flags \"-M -m 8\": 2 in 17\n");
        (held, outcome)
    });
    classic
        .1
        .has_not("\n21 ")
        .has_not("\n34 ")
        .has("Passed over, above the --level: ");
    meta.1
        .has("\n21 ")
        .has_not("\n34 ")
        .has("Passed over, above the --level: ");
    binary
        .1
        .has("\n21 ")
        .has("\n34 ")
        .has_not("above the --level");
    assert!(classic.0 < meta.0 && meta.0 < binary.0);
    assert_eq!(check(server.address, &[]).holds(), binary.0);
}

#[test]
fn rustmemc_passes_everything_also_what_is_ours_alone() {
    let with_debug = common::server("--debug");
    let outcome = check(with_debug.address, &[]);
    let all = outcome.holds();
    outcome
        .has("\n20 Ours alone: ")
        .has_not("ours alone)")
        .has_not("debugtime");
    assert_eq!(outcome.stderr, "");
    outcome.has_not("\x1b").has_not("Note: ");

    let without = common::server("");
    let outcome = check(without.address, &[]);
    assert!(outcome.holds() < all);
    outcome.has("Passed over, in need of debugtime, which a rustmemc has with --debug: ");
}

#[test]
fn the_conversations_for_other_flags_are_played_if_the_server_has_these() {
    let server = common::server("-M -m 8");
    let outcome = check(server.address, &["--flags", "-M  -m 8"]);
    assert_eq!(outcome.holds(), 2);
    outcome.has("17 No evictions: 2 of 2\n");
    outcome.has("Passed over, for a server with no --flags: ");
    let nothing = check(server.address, &["--only", "17"]);
    assert_eq!(nothing.code, Some(2), "{nothing:?}");
    assert_eq!(nothing.stderr, "memc: no section was played.\n");
}

#[test]
fn only_names_conversations_by_number_or_by_a_part_of_the_name() {
    let server = common::server("");
    let numbers = |options: &[&str]| {
        let outcome = check(server.address, options);
        outcome.holds();
        let lines = outcome.stdout.lines().take_while(|line| !line.is_empty());
        Vec::from_iter(lines.map(|line| line[..2].to_owned()))
    };
    assert_eq!(numbers(&["--only", "03"]), ["03"]);
    assert_eq!(
        numbers(&["--only", "3", "--only", "key"]),
        ["03", "05", "12", "29"]
    );
    assert_eq!(numbers(&["--only", "meta-set"]), ["22"]);
}

#[test]
fn the_server_can_be_named_by_s_as_for_the_other_commands() {
    let server = common::server("");
    memc_check("-s", &[&server.address.to_string(), "--only", "03"]).holds();
}

#[test]
fn a_unix_socket_can_be_checked() {
    let folder = Folder::new();
    let path = folder.file("memcached.sock");
    let _server = common::server(&format!("-s {}", path.display()));
    check(path.display(), &["--only", "01"]).holds();
}

#[test]
fn a_server_that_never_finds_an_item_learns_which_answer_is_missing() {
    let server = false_server(|line| match line.split(' ').next() {
        Some("get") => Reply::Text("END\r\n"),
        Some("set") => Reply::Nothing,
        _ => good_start(line, Reply::Text("STORED\r\n")),
    });
    let start = Instant::now();
    let outcome = check(&server, &["--only", "01"]);
    let title = "A value is stored under a key and fetched by it";
    let line = line_of("01", title, "< VALUE greeting 0 5");
    let second = line_of("01", "A second set replaces the first", "< VALUE mood 0 7");
    outcome.differs(&format!(
        "{title} (line {line})\n\
         > get greeting\n\
         expected \"VALUE greeting 0 5\\r\\n\"\n\
         but got  \"END\\r\\n\"\n\
         A second set replaces the first (line {second})\n"
    ));
    outcome.has("01 First steps: 3 of 9\n");
    outcome.has("   Read: memc learn 01, or tests/conversations/01-first-steps.txt\n");
    // A wrong line is not an occasion to wait for more.
    assert!(start.elapsed() < Duration::from_secs(15), "{outcome:?}");

    // Without --only one difference is shown, and the way to the others.
    let outcome = check_silent(&server, &["--level", "classic"]);
    outcome.differs(&format!(
        "but got  \"END\\r\\n\"\n\
         Read: memc learn 01, or tests/conversations/01-first-steps.txt\n\
         All 6 differences: memc check {server} --only 01\n02 Lines: "
    ));
}

#[test]
fn a_server_that_answers_error_to_everything_is_checked_too() {
    let server = false_server(|_| Reply::Text("ERROR\r\n"));
    check_silent(&server, &[]).is_refused("does not tell by `stats` whether it holds items");
    let outcome = check_silent(&server, &["--empty"]);
    let title = "The server says which protocol level it speaks";
    let line = line_of("01", title, "< VERSION 1.6.{*}");
    outcome.differs(&format!(
        "{title} (line {line})\n\
         > version\n\
         expected \"VERSION 1.6.{{*}}\\r\\n\"\n\
         but got  \"ERROR\\r\\n\"\n"
    ));
    outcome.has(r#"Note: it answers "ERROR\r\n" to `version`."#);
    outcome.has("Note: it does not answer OK to `flush_all`");
    // The release is taken as the newest.
    outcome.has_not("Passed over, newer than memcached");
    outcome.has("\n34 The binary protocol: 0 of ");
    outcome.has("Neither the meta commands nor the binary protocol work: --level classic passes over both.\n");
}

#[test]
fn a_server_that_closes_after_each_line_learns_that_it_does() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has one").to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut line = String::new();
            let mut reader = BufReader::new(&stream);
            let _ = reader.read_line(&mut line);
            let Reply::Text(text) = good_start(line.trim_end(), Reply::Text("END\r\n")) else {
                continue;
            };
            let _ = stream.write_all(text.as_bytes());
            // Otherwise the system would reset the connection, and the client might not read the answer.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let outcome = check(&address, &["--only", "15"]);
    let title = "version names the protocol level";
    let line = line_of("15", title, "> version and more") + 1;
    outcome.differs(&format!(
        "{title} (line {line})\n\
         > version and more\n\
         expected \"VERSION 1.6.{{*}}\\r\\n\"\n\
         but got  the end of the connection\n"
    ));
}

#[test]
fn a_server_that_never_answers_a_storage_command_is_reported_soon() {
    let server = false_server(|line| match line.split(' ').next() {
        Some("get") => Reply::Text("END\r\n"),
        _ => good_start(line, Reply::Nothing),
    });
    let outcome = check_silent(&server, &["--only", "01", "--only", "03"]);
    let title = "A value is stored under a key and fetched by it";
    let line = line_of("01", title, "< STORED");
    outcome.differs(&format!(
        "{title} (line {line})\n\
         > set greeting 0 0 5\n\
         > hello\n\
         expected \"STORED\\r\\n\"\n\
         but got  no answer\n"
    ));
    outcome.has_not("does not answer any more");
}

#[test]
fn a_server_that_serves_one_client_at_a_time_learns_that_several_are_connected() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has one").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(&stream, &|line: &str| match line {
                "from anna" => Reply::Text("STORED\r\n"),
                "get shared" => Reply::Text("VALUE shared 0 9\r\nfrom anna\r\nEND\r\n"),
                _ => good_start(line, Reply::Nothing),
            });
        }
    });
    let outcome = check_silent(&address, &["--only", "01"]);
    let title = "All clients see the same items";
    let line = line_of("01", title, "ben< VALUE shared 0 9");
    outcome.differs(&format!(
        "{title} (line {line})\n\
         ben> get shared\n\
         expected \"VALUE shared 0 9\\r\\n\"\n\
         but got  no answer\n\
         (anna and ben are connected at the same time."
    ));
}

#[test]
fn a_server_that_ends_is_given_up_and_the_report_has_the_last_line() {
    let has_ended = AtomicBool::new(false);
    let server = false_server(move |line| {
        if line.starts_with("incr ") {
            has_ended.store(true, Relaxed);
        }
        match has_ended.load(Relaxed) {
            true => Reply::Close,
            false => good_start(line, Reply::Text("STORED\r\n")),
        }
    });
    let outcome = check(&server, &[]);
    let incr = "The command incr adds to a value that is a number";
    let line = line_of("01", incr, "< 10");
    outcome.differs(&format!(
        "The rest was not played: after line {line} of conversation 01 the server at {server} does not answer any more."
    ));
    outcome.has("01 First steps: ").has_not("\n02 Lines: ");
}

#[test]
fn an_answer_to_version_with_other_numbers_means_the_newest_release() {
    let own = |line: &str| match line {
        "version" => Reply::Text("VERSION 0.1\r\n"),
        _ => good_start(line, Reply::Text("ERROR\r\n")),
    };
    let outcome = check_silent(false_server(own), &["--only", "05"]);
    outcome.has(r#"Note: it answers "VERSION 0.1\r\n" to `version`."#);
    outcome.has("\n05 Keys: 0 of 11\n");
    let old = |line: &str| match line {
        "version" => Reply::Text("VERSION 1.6.18\r\n"),
        _ => good_start(line, Reply::Text("ERROR\r\n")),
    };
    let outcome = check_silent(false_server(old), &["--only", "05"]);
    outcome.has_not("Note: ");
    outcome.has("Passed over, newer than memcached 1.6.18: 2 in 05\n");
}

#[test]
fn a_report_that_nobody_reads_has_the_same_exit_code() {
    let server = common::server("");
    let false_server = false_server(|_| Reply::Text("ERROR\r\n"));
    for (address, code) in [
        (server.address.to_string(), 0),
        (false_server.to_string(), 1),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_memc"));
        command.args(["check", &address, "--empty", "--only", "01"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("memc can be started");
        drop(process.stdout.take());
        let output = process.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}
