//! `memc learn`: the conversations as lessons.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::memcached::Memcached;
use common::server;
use rustmemc::conversations::ALL;
use rustmemc::conversations::format::Conversation;

/// What the learner sees, and the exit code. After the typed lines the learner presses Enter until the lesson is over.
fn learn(arguments: &[&str], typed: &str) -> (String, Option<i32>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_memc"))
        .arg("learn")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("memc starts");
    let mut stdin = child.stdin.take().expect("it is a pipe");
    let typed = format!("{typed}{}", "\n".repeat(500));
    // memc may end before it has read everything.
    let _ = stdin.write_all(typed.as_bytes());
    drop(stdin);
    let ended = child.wait_with_output().expect("memc ends");
    let shown = [ended.stdout, ended.stderr].concat();
    (
        String::from_utf8_lossy(&shown).into_owned(),
        ended.status.code(),
    )
}

const ALL_RIGHT: &str = "Every answer was as the lesson shows it.";

#[test]
fn every_lesson_is_played_to_its_end_by_pressing_enter() {
    std::thread::scope(|scope| {
        for (name, text) in ALL {
            scope.spawn(move || {
                let (shown, code) = learn(&[name], "");
                assert!(shown.contains(ALL_RIGHT), "{name}: {shown}");
                assert_eq!(code, Some(0), "{name}");
                for section in Conversation::parse(text)
                    .expect("it is a conversation")
                    .sections
                {
                    assert!(shown.contains(section.title), "{name}: {}", section.title);
                }
            });
        }
    });
}

#[test]
fn the_lessons_are_listed_with_their_titles() {
    let (shown, code) = learn(&[], "");
    assert_eq!(code, Some(0));
    for (name, text) in ALL {
        let title = Conversation::parse(text)
            .expect("it is a conversation")
            .title;
        let (number, _) = name.split_once('-').expect("it has a number");
        let listed = shown
            .lines()
            .any(|line| line.contains(number) && line.contains(title));
        assert!(listed, "{name} is not in {shown}");
    }
}

#[test]
fn a_lesson_is_found_by_its_number_or_a_part_of_its_name() {
    assert!(learn(&["08"], "").0.contains("Expiry"));
    assert!(learn(&["8"], "").0.contains("Expiry"));
    assert!(learn(&["expiry"], "").0.contains("Expiry"));
    let (shown, code) = learn(&["nonsense"], "");
    assert!(shown.contains("there is no lesson nonsense"), "{shown}");
    assert_eq!(code, Some(2));
}

#[test]
fn a_line_of_the_learner_is_answered_and_the_lesson_goes_on() {
    // The first line of the lesson is `version`.
    let (shown, _) = learn(&["01"], "set mine 0 0 2\nhi\nget mine\nnonsense\nversion\n");
    let answers = [
        "STORED\n",
        "VALUE mine 0 2\nhi\nEND\n",
        "ERROR\n",
        "< VERSION 1.6.45\n",
    ];
    let mut rest = shown.as_str();
    for answer in answers {
        let (_, after) = rest
            .split_once(answer)
            .unwrap_or_else(|| panic!("{answer:?} is not in {shown}"));
        rest = after;
    }
    assert!(shown.contains(ALL_RIGHT), "{shown}");
}

#[test]
fn a_second_answer_to_a_line_of_the_learner_is_not_compared_with_the_lesson() {
    let (shown, _) = learn(&["01"], "set mine 0 0 2\nhello world\n");
    let answers = "CLIENT_ERROR bad data chunk\nERROR\n";
    assert!(
        shown.contains(answers) && shown.contains(ALL_RIGHT),
        "{shown}"
    );
}

#[test]
fn a_section_is_played_again_only_if_the_learner_says_so() {
    let (shown, _) = learn(&["01"], "version\nset greeting 0 0 5\nworld\n\nno\nagain\n");
    let question = "This differs from the lesson";
    assert_eq!(shown.matches(question).count(), 1, "{shown}");
    assert!(shown.contains(ALL_RIGHT), "{shown}");
}

#[test]
fn long_lines_are_shown_as_the_lesson_has_them_and_prose_is_wrapped() {
    let (shown, _) = learn(&["02"], "version\n");
    assert!(shown.contains("{2000*x}"), "{shown}");
    assert!(
        shown.contains("This line ends in \\n alone, which a keyboard cannot send"),
        "{shown}"
    );
    for line in shown.lines() {
        assert!(line.len() <= 120, "{line}");
    }
}

#[test]
fn a_line_of_the_learner_may_lack_its_byte_count() {
    let (shown, _) = learn(&["01"], "set mine 0 0\nhello world\nget mine\n");
    let answers = "VALUE mine 0 11\nhello world\nEND\n";
    assert!(
        shown.contains("STORED\n") && shown.contains(answers),
        "{shown}"
    );
}

#[test]
fn an_answer_that_differs_is_shown_and_the_section_can_be_played_again() {
    // The data block has a wrong length, and the second time the right one.
    let (shown, _) = learn(&["01"], "version\nset greeting 0 0 5\nhi\n\nagain\n");
    let (before, after) = shown
        .split_once("5 bytes were announced, and these are 2.")
        .expect("it is noticed");
    assert!(
        !before.contains("differs")
            && after.contains("This differs from the lesson: expected \"STORED"),
        "{shown}"
    );
    assert!(shown.contains(ALL_RIGHT), "{shown}");

    let (shown, _) = learn(
        &["01"],
        "version\nset greeting 0 0 5\nworld\nget greeting\n",
    );
    assert!(
        shown.contains("expected \"hello\\r\\n\"") && shown.contains("got  \"world\\r\\n\""),
        "{shown}"
    );
    assert!(
        shown.contains("One answer was not as the lesson shows it."),
        "{shown}"
    );
}

#[test]
fn a_lesson_with_another_server_deletes_its_items_only_if_that_is_allowed() {
    let server = server("");
    let address = server.address.to_string();
    server
        .client()
        .check("set mine 0 0 1\r\nx\r\n", "STORED\r\n");
    let (shown, code) = learn(&["01", "-s", &address], "");
    assert!(
        shown.contains("--empty") && shown.contains(&address),
        "{shown}"
    );
    assert_eq!(code, Some(2));
    server
        .client()
        .check("get mine\r\n", "VALUE mine 0 1\r\nx\r\nEND\r\n");
    let (shown, _) = learn(&["01", "-s", &address, "--empty"], "");
    assert!(shown.contains(ALL_RIGHT), "{shown}");
    server.client().check("get mine\r\n", "END\r\n");
}

#[test]
fn a_lesson_is_played_with_memcached() {
    let Some((program, _)) = Memcached::find_any() else {
        return;
    };
    let process = Memcached::start(&program, "");
    for lesson in ["01", "21", "34"] {
        let (shown, _) = learn(&[lesson, "-s", &process.address.to_string(), "--empty"], "");
        assert!(shown.contains(ALL_RIGHT), "{shown}");
    }
}
