//! `memc` alone: what is typed is sent, answers are shown, and what was said can be recorded.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use common::folder::Folder;
use common::memcached::Memcached;
use common::process::passed_over;
use common::system::free_port;
use common::{TIMEOUT, server};
use rustmemc::Address;
use rustmemc::conversations::format::Conversation;
use rustmemc::conversations::player::{Kind, Server};

fn start(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_memc"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("memc starts")
}

/// Runs memc with these arguments, and gives it the input.
fn memc(arguments: &[&str], input: &str) -> Output {
    let mut child = start(arguments);
    let mut stdin = child.stdin.take().expect("it is a pipe");
    // memc may end before it has read everything.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("memc ends")
}

#[track_caller]
fn check(arguments: &[&str], input: &str, output: &str, code: i32) -> String {
    let ended = memc(arguments, input);
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), output, "{errors}");
    assert_eq!(ended.status.code(), Some(code), "{errors}");
    errors
}

/// Talks to a new server, and checks the answers.
#[track_caller]
fn talk(lines: &str, answers: &str) {
    let server = server("");
    check(&["-s", &server.address.to_string()], lines, answers, 0);
}

/// Does what [`memc`] does, on a terminal. Returns what the terminal shows, or `None` if there is no program that makes
/// one.
fn on_a_terminal(command: &str, input: &str) -> Option<String> {
    let mut child = Command::new("script")
        .args([
            "-qec",
            &format!("{} {command}", env!("CARGO_BIN_EXE_memc")),
            "/dev/null",
        ])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .inspect_err(|error| passed_over(&format!("there is no program `script`: {error}")))
        .ok()?;
    let mut stdin = child.stdin.take().expect("it is a pipe");
    let typed = stdin.write_all(input.as_bytes());
    typed.expect("the terminal reads");
    let mut shown = Vec::new();
    let stdout = child.stdout.as_mut().expect("it is a pipe");
    stdout
        .read_to_end(&mut shown)
        .expect("the terminal shows it");
    // `script` may wait for ever if its input ends first.
    drop(stdin);
    child.wait().expect("it ends");
    Some(String::from_utf8_lossy(&shown).into_owned())
}

/// The style of the terminal removed.
fn plain(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()));
    rest.fold(first, |text, part| text + part.get(1..).unwrap_or_default())
}

fn play(address: SocketAddr, kind: Kind, text: &str) {
    let server = Server {
        address: Address::Tcp(address),
        kind,
        patience: TIMEOUT,
    };
    let conversation = Conversation::parse(text).expect("it is a conversation");
    assert!(!conversation.sections.is_empty());
    for section in conversation.sections {
        server
            .play(&section)
            .unwrap_or_else(|(line, difference)| panic!("line {line}: {difference}\n{text}"));
    }
}

#[test]
fn lines_are_sent_and_their_answers_are_printed_plainly_into_a_pipe() {
    talk(
        "set greeting 5 0 5\nhello\nget greeting\nadd greeting 0 0 1\nx\nmg greeting v f\nset a 0 0 1 noreply\n1\n\
         mg none v q\nmd a q\nstats detail on\nstats detail dump\nstats reset\nlru_crawler mgdump all\nnonsense\nversion\n",
        "STORED\nVALUE greeting 5 5\nhello\nEND\nNOT_STORED\nVA 5 f5\nhello\n\
         OK\nEND\nRESET\nOK\nmg greeting\nEN\nERROR\nVERSION 1.6.45\n",
    );
}

#[test]
fn a_missing_byte_count_is_filled_in() {
    let lines = "set k 0 60\nhello world\nms m T60\nmeta\nget k m\ncas k 0 0 77\nx\n";
    let answers = "STORED\nHD\nVALUE k 0 11\nhello world\nVALUE m 0 4\nmeta\nEND\nEXISTS\n";
    talk(lines, answers);
}

#[test]
fn both_answers_to_a_data_block_that_is_too_long_are_shown_before_the_next_one() {
    let lines = "set k 0 0 2\nhello world\nversion\nset k 0 0 1\nx\n";
    let answers = "CLIENT_ERROR bad data chunk\nERROR\nVERSION 1.6.45\nSTORED\n";
    talk(lines, answers);
}

#[test]
fn a_line_that_is_wrong_without_its_byte_count_is_sent_as_it_is() {
    let lines = "set big 0 soon\nms foo S3\nversion\n";
    let error = "CLIENT_ERROR bad command line format\n";
    let answers = format!("{error}{error}VERSION 1.6.45\n");
    talk(lines, &answers);
}

#[test]
fn a_data_block_is_sent_as_it_is_or_not_at_all() {
    let server = server("");
    let address = server.address.to_string();
    let lines = "set q 0 0 4\n?foo\nget q\nset r 0 0\n?\nget r\n";
    let answers = "STORED\nVALUE q 0 4\n?foo\nEND\nSTORED\nVALUE r 0 1\n?\nEND\n";
    check(&["-s", &address], lines, answers, 0);
    let errors = check(&["-s", &address], "set cut 0 0 10\nab\n", "", 2);
    assert!(errors.contains("its command was not sent"), "{errors}");
    let mut child = start(&["-s", &address]);
    let mut stdin = child.stdin.take().expect("it is a pipe");
    stdin.write_all(b"set h 0 0 1\n\xff\n").expect("memc reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not UTF-8"));
    server.client().check("get h cut\r\n", "END\r\n");
}

#[test]
fn quit_ends_the_conversation_and_a_server_that_closes_it_is_an_error() {
    let server = server("");
    let address = server.address.to_string();
    check(&["-s", &address], "quit\nversion\n", "", 0);

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has one").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("memc connects");
        let length = stream.read(&mut [0; 100]).expect("memc asks");
        assert_eq!(length, b"version\r\n".len());
    });
    let errors = check(&["-s", &address], "version\nversion\n", "", 2);
    assert!(errors.contains("closed the connection"), "{errors}");
    server.join().expect("the server was asked");
}

#[test]
fn nobody_to_talk_to_is_an_error_that_says_what_to_do() {
    let port = free_port().expect("a port is free");
    let errors = check(&["-s", &format!("127.0.0.1:{port}")], "version\n", "", 2);
    assert!(
        errors.contains("no server answers") && errors.contains("make run"),
        "{errors}"
    );
}

#[test]
fn a_question_mark_shows_the_grammar_that_is_above_the_parser() {
    let server = server("");
    let address = server.address.to_string();
    check(
        &["-s", &address],
        "?touch\n? me\n",
        "touch <key> <exptime> [noreply]\nme <key> [b]\n",
        0,
    );
    let shown = memc(&["-s", &address], "?\n").stdout;
    let shown = String::from_utf8_lossy(&shown);
    assert!(
        shown.contains(" flush_all ") && shown.contains("memc learn"),
        "{shown}"
    );
}

#[test]
fn a_terminal_shows_the_reason_of_an_answer() {
    let server = server("");
    let address = server.address;
    let lines = "set k 0 60\nhello\nadd k 0 0 1\nx\nincr k 1\nset k 0 soon 1\nx\nset e 0 0 4\na\nb\n\
                 set e b 0 0\n\nset foo hello\nset e 0 0 0\n\x04";
    let Some(shown) = on_a_terminal(&format!("-s {address}"), lines) else {
        return;
    };
    for expected in [
        "(sent as: set k 0 60 5)",
        "< STORED\r\n",
        "< NOT_STORED   (the key already holds an item)",
        "(the stored value is not a number from 0 to 18446744073709551615)",
        "< CLIENT_ERROR bad command line format   (<exptime> must be a whole number)",
        "data (4 bytes)> (the line end counts as two bytes of the data, and more is missing)\r\n\
         data (1 byte)> < STORED",
        "(this line is wrong, but the server reads its data too)\r\n",
        "format   (too few words for set <key> <flags> <exptime> <bytes> [noreply])",
        "data (only Enter is missing)> (not sent)\r\n",
    ] {
        assert!(
            plain(&shown).contains(expected),
            "{expected:?} is not in {}",
            plain(&shown)
        );
    }
    assert!(shown.contains("\x1b["), "a terminal has colours");
}

#[test]
fn what_was_said_is_recorded_as_a_conversation_that_can_be_played() {
    let folder = Folder::new();
    let file = folder.file("40-mine.txt");
    let file = file.to_str().expect("it is text");
    let mine = server("");
    // A server whose cas uniques are other numbers than those of the next.
    let cas = memc(
        &["-s", &mine.address.to_string()],
        "set k 0 0 1\n1\nset n 0 0 1\n1\ngets n\n",
    );
    let cas = String::from_utf8_lossy(&cas.stdout).into_owned();
    let cas = cas.split_whitespace().nth(6).expect("gets shows it");
    mine.client().check("flush_all\r\n", "OK\r\n");
    let lines = "set k 7 0\na {b} \\ c\nset n 0 0 1\n1\ngets k n\nmg k v c\nversion\nstats settings\nnonsense\n\
                 incr n 4\nlru_crawler metadump all\nquit\n";
    memc(&["-s", &mine.address.to_string(), "--record", file], lines);
    let text = std::fs::read_to_string(file).expect("it was written");
    assert!(!text.contains(&format!(" {cas}\n")), "{text}");
    play(mine.address, Kind::Rustmemc, &text);
    play(server("").address, Kind::Rustmemc, &text);
    if let Some((program, release)) = Memcached::find_any() {
        let process = Memcached::start(&program, "");
        play(
            process.address,
            Kind::Memcached {
                release,
                moved: Arc::default(),
            },
            &text,
        );
    }
    let broken = text.replace("a \\x7bb}", "another");
    let conversation = Conversation::parse(&broken).expect("it is a conversation");
    let other = Server {
        address: Address::Tcp(mine.address),
        kind: Kind::Rustmemc,
        patience: TIMEOUT,
    };
    assert!(
        other.play(&conversation.sections[0]).is_err(),
        "a changed record fails: {broken}"
    );

    let errors = check(
        &["-s", &mine.address.to_string(), "--record", file],
        "",
        "",
        2,
    );
    assert!(
        errors.contains("40-mine.txt") && errors.contains("exists"),
        "{errors}"
    );
}

#[test]
fn a_recorded_check_and_set_succeeds_with_the_numbers_of_another_server() {
    let folder = Folder::new();
    let file = folder.file("cas.txt");
    let file = file.to_str().expect("it is text");
    let mine = server("");
    // So its cas uniques are not those of a new server.
    mine.client().check("ms a 1 c\r\nx\r\n", "HD c1\r\n");
    let mut child = start(&["-s", &mine.address.to_string(), "--record", file]);
    let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let stdin = stdin.as_mut().expect("it is a pipe");
    stdin
        .write_all(b"set k 0 0 1\n1\ngets k\n")
        .expect("memc reads");
    let mut lines = BufReader::new(stdout.expect("it is a pipe")).lines();
    let unique = lines.find_map(|line| {
        let line = line.expect("memc answers");
        line.strip_prefix("VALUE k 0 1 ").map(str::to_owned)
    });
    let unique = unique.expect("gets shows it");
    let change = format!("cas k 0 0 1 {unique}\n2\nmd k C{unique}\nquit\n");
    stdin.write_all(change.as_bytes()).expect("memc reads");
    assert_eq!(lines.map_while(Result::ok).count(), 4, "1, END, STORED, EX");
    assert!(child.wait().expect("memc ends").success());
    let text = std::fs::read_to_string(file).expect("it was written");
    assert!(text.contains("> cas k 0 0 1 {=cas0}"), "{text}");
    assert!(text.contains("> md k C{=cas0}\n< EX"), "{text}");
    play(server("").address, Kind::Rustmemc, &text);
}
