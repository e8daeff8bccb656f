use std::net::TcpListener;
use std::time::Instant;

use super::*;
use crate::conversations::format::Conversation;

/// What the server does after it has sent its bytes.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// It closes the connection when the client does.
    Follow,
    /// It closes the connection at once.
    Close,
    /// It never closes the connection.
    Stay,
}

/// A server that sends these bytes to each client, whatever the client sends.
fn server(bytes: &'static [u8], then: Then) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has one");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.write_all(bytes);
                if then == Then::Close {
                    let _ = stream.shutdown(Shutdown::Write);
                }
                let _ = stream.read_to_end(&mut Vec::new());
                if then == Then::Stay {
                    std::thread::park();
                }
            });
        }
    });
    Server {
        address: Address::Tcp(address),
        kind: Kind::Rustmemc,
        // A test that passes waits so long only for a server that is silent.
        patience: Duration::from_millis(if then == Then::Stay { 200 } else { 20_000 }),
    }
}

fn play(lines: &str, server: &Server) -> Result<(), (usize, Difference)> {
    let text = format!("## A section\n{lines}");
    let conversation = Conversation::parse(&text).expect("it is a conversation");
    server.play_unflushed(&conversation.sections[0])
}

#[track_caller]
fn holds(lines: &str, bytes: &'static [u8]) {
    assert_eq!(play(lines, &server(bytes, Then::Follow)), Ok(()), "{lines}");
}

/// The first line of the section is line 2.
#[track_caller]
fn differs(lines: &str, bytes: &'static [u8], then: Then, line: usize, expected: &str, got: &str) {
    let difference = Difference {
        expected: expected.into(),
        got: got.into(),
    };
    let played = play(lines, &server(bytes, then));
    assert_eq!(played, Err((line, difference)), "{lines}");
}

#[test]
fn an_answer_that_is_as_shown_holds() {
    holds(
        "> get a\n< VALUE a 0 1\n< x\n< END",
        b"VALUE a 0 1\r\nx\r\nEND\r\n",
    );
    holds("> get a\nprose\n\n<- END\n", b"END\n");
    holds(r"<x 81 0d 0a", b"\x81\r\n");
    holds("prose only", b"");
}

#[test]
fn another_line_is_reported_whole_and_at_once() {
    let start = Instant::now();
    for (bytes, got) in [
        (&b"END\r\n"[..], r#""END\r\n""#),
        (b"NOT_STORED\r\n", r#""NOT_STORED\r\n""#),
        (b"ERROR\r\n", r#""ERROR\r\n""#),
        (b"STORED\n", r#""STORED\n""#),
        (b"stored\r\n", r#""stored\r\n""#),
    ] {
        differs(
            "> set\n< STORED",
            bytes,
            Then::Follow,
            3,
            r#""STORED\r\n""#,
            got,
        );
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "no answer is waited for"
    );
    // This is shorter than a value may be. It has no line end, so more could come.
    differs(
        "< STORED",
        b"STORE",
        Then::Stay,
        2,
        r#""STORED\r\n""#,
        r#""STORE", and then silence"#,
    );
    let got = r#""STORE", and then the end of the connection"#;
    differs("< STORED", b"STORE", Then::Close, 2, r#""STORED\r\n""#, got);
    differs(
        "<x 81 02",
        b"\x81",
        Then::Stay,
        2,
        r#""\x81\x02""#,
        r#""\x81", and then silence"#,
    );
    differs(
        "<x 81 02",
        b"\x81\x03",
        Then::Follow,
        2,
        r#""\x81\x02""#,
        r#""\x81\x03""#,
    );
    differs(
        "<- END",
        b"END\r\n",
        Then::Follow,
        2,
        r#""END\n""#,
        r#""END\r\n""#,
    );
}

#[test]
fn a_server_that_is_silent_or_closes_or_does_not_listen_is_reported() {
    differs(
        "> set\n< STORED",
        b"",
        Then::Stay,
        3,
        r#""STORED\r\n""#,
        "no answer",
    );
    let got = "the end of the connection";
    differs(
        "> set\n< STORED",
        b"",
        Then::Close,
        3,
        r#""STORED\r\n""#,
        got,
    );

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = Address::Tcp(listener.local_addr().expect("it has one"));
    drop(listener);
    let (kind, patience) = (Kind::Rustmemc, Duration::from_secs(20));
    let nobody = Server {
        address,
        kind,
        patience,
    };
    let (line, difference) = play("prose\n> get a", &nobody).expect_err("nobody listens");
    assert_eq!(line, 3);
    assert_eq!(difference.expected, "that the server accepts a connection");
    assert!(!nobody.flush() && nobody.ask(b"version\r\n").is_err());
}

#[test]
fn bytes_after_the_last_answer_are_a_difference() {
    let expected = "that the server sends nothing more, and closes the connection after the client";
    let got = r#""END\r\n""#;
    differs(
        "> get a\n< END\n\nprose",
        b"END\r\nEND\r\n",
        Then::Follow,
        3,
        expected,
        got,
    );
    let got = "a connection that stays open";
    differs("> get a\n< END", b"END\r\n", Then::Stay, 3, expected, got);
    let got = r#""x", and the connection stays open"#;
    differs("> get a\n< END", b"END\r\nx", Then::Stay, 3, expected, got);
}

#[test]
fn the_server_must_close_where_the_conversation_shows_it() {
    let server = server(b"", Then::Close);
    assert_eq!(play("> quit\n<closed", &server), Ok(()));
    let expected = "that the server closes the connection, and sends nothing before that";
    differs(
        "> quit\n<closed",
        b"",
        Then::Stay,
        3,
        expected,
        "a connection that stays open",
    );
    differs(
        "> quit\n<closed",
        b"OK\r\n",
        Then::Close,
        3,
        expected,
        r#""OK\r\n""#,
    );
}

#[test]
fn lines_up_to_end_may_be_any_but_must_have_an_end() {
    holds("> stats\n<...until END", b"STAT a 1\r\nSTAT b 2\r\nEND\r\n");
    holds("<...until END\n< OK", b"END\r\nOK\r\n");
    let (lines, expected) = ("> stats\n<...until END", "lines up to END");
    let got = r#""STAT a 1\r\n", and then silence"#;
    differs(lines, b"STAT a 1\r\n", Then::Stay, 3, expected, got);
    let got = r#""STAT a 1\r\n", and then the end of the connection"#;
    differs(lines, b"STAT a 1\r\n", Then::Close, 3, expected, got);
    differs(
        lines,
        b"ERROR\r\nEND\r\n",
        Then::Follow,
        3,
        expected,
        r#""ERROR\r\n""#,
    );
    differs(
        "<...has a",
        b"a\r\n",
        Then::Stay,
        2,
        expected,
        r#""a\r\n", and then silence"#,
    );
}

#[test]
fn several_lines_can_be_about_one_answer() {
    let bytes = b"STAT a 1\r\nSTAT b 2 \r\nEND\r\nOK\r\n";
    holds("<...has STAT b 2\\s\n\n<...has STAT a {#}\n< OK", bytes);
    let got = r#""STAT a 1\r\nEND\r\n""#;
    let expected = r#"a line "STAT b""#;
    differs(
        "<...has STAT a 1\n<...has STAT b",
        b"STAT a 1\r\nEND\r\n",
        Then::Follow,
        3,
        expected,
        got,
    );
    // A part of a line is not enough.
    differs(
        "<...has STAT b",
        b"STAT bc\r\nEND\r\n",
        Then::Follow,
        2,
        expected,
        r#""STAT bc\r\nEND\r\n""#,
    );
}

#[test]
fn a_number_is_remembered_and_compared() {
    holds("< {=a}\n< {=a}\n< {>a}\n< {=b}", b"7\r\n7\r\n8\r\n1\r\n");
    differs(
        "< {=a}\n< {=a}",
        b"7\r\n8\r\n",
        Then::Follow,
        3,
        r#""{=a}\r\n""#,
        r#""8\r\n""#,
    );
    differs(
        "< {=a}",
        b"x\r\n",
        Then::Follow,
        2,
        r#""{=a}\r\n""#,
        r#""x\r\n""#,
    );
    for (bytes, got) in [
        (&b"7\r\n7\r\n"[..], r#""7\r\n""#),
        (b"7\r\n6\r\n", r#""6\r\n""#),
    ] {
        differs(
            "< {=a}\n< {>a}",
            bytes,
            Then::Follow,
            3,
            r#""{>a}\r\n""#,
            got,
        );
    }
    differs(
        "< {>a}",
        b"1\r\n",
        Then::Follow,
        2,
        r#""{>a}\r\n""#,
        r#""1\r\n""#,
    );
    // Eight bytes are the same number.
    holds("<x cas:{=a}\n< {=a}", b"\0\0\0\0\0\0\x01\x00256\r\n");
    differs(
        "< {=a}\n<x {=a}",
        b"7\r\n\0\0\0\0\0\0\0\x08",
        Then::Follow,
        3,
        r#""{=a}""#,
        r#""\x00\x00\x00\x00\x00\x00\x00\x08""#,
    );
}

#[test]
fn a_number_of_a_line_that_does_not_match_is_forgotten() {
    holds("<...has {=a} x\n< {=a}", b"1 y\r\n2 x\r\nEND\r\n2\r\n");
    holds("< {*}{=a}\n< {=a}", b"3x12\r\n12\r\n");
}

#[test]
fn any_number_and_any_text_match_no_more_than_that() {
    holds("< a {#} b", b"a 00123 b\r\n");
    differs(
        "< a {#}",
        b"a 1x\r\n",
        Then::Follow,
        2,
        r#""a {#}\r\n""#,
        r#""a 1x\r\n""#,
    );
    differs(
        "< a {#}",
        b"a \r\n",
        Then::Follow,
        2,
        r#""a {#}\r\n""#,
        r#""a \r\n""#,
    );
    holds("< VERSION 1.6.{*}", b"VERSION 1.6.45 x\r\n");
    holds("< a {*} b", b"a  b\r\n");
    holds("<- {#} {*}\n<- {#}", b"1 x\n2\n");
    differs(
        "< a {*} b",
        b"a x c\r\n",
        Then::Follow,
        2,
        r#""a {*} b\r\n""#,
        r#""a x c\r\n""#,
    );
}

#[test]
fn a_number_that_was_received_is_sent() {
    let (kind, patience) = (Kind::Rustmemc, Duration::from_secs(20));
    let address = Address::Unix("/nowhere".into());
    let server = Server {
        address,
        kind,
        patience,
    };
    let mut player = Player::new(&server);
    let text = |source: &str| {
        let text = format!("## A section\n> {source}");
        let mut conversation = Conversation::parse(&text).expect("it is a conversation");
        match conversation.sections.remove(0).steps.remove(0).action {
            Action::Send(text) => text,
            other => panic!("{other:?}"),
        }
    };
    let error = player
        .bytes(&text("cas {=a}"))
        .expect_err("no number is known");
    assert_eq!(error.got, r#""cas {=a}\r\n""#);
    assert!(player.matches(&[Piece::Remembered("a".into())], b"42"));
    assert_eq!(player.bytes(&text("cas {=a}")), Ok(b"cas 42\r\n".to_vec()));
    assert!(player.bytes(&text("{#}")).is_err() && player.bytes(&text("{*}")).is_err());
}

#[test]
fn each_name_is_a_connection_of_its_own() {
    // Each connection gets this answer once.
    holds("anna> get a\nanna< END\nben> get a\nben< END", b"END\r\n");
    let expected = r#""END\r\n""#;
    differs(
        "anna< END\nanna< END",
        b"END\r\n",
        Then::Close,
        3,
        expected,
        "the end of the connection",
    );
}

#[test]
fn sections_that_this_server_cannot_play_are_passed_over() {
    let text = "## All\n## One (ours alone)\n## Two (since 1.6.40)\n## Three\n@ +1\n";
    let conversation = Conversation::parse(text).expect("it is a conversation");
    let passed_over = |answer, release: Option<Release>| {
        let mut server = server(answer, Then::Close);
        let moved = Arc::default();
        server.kind = release.map_or(Kind::Rustmemc, |release| Kind::Memcached { release, moved });
        let reasons = conversation
            .sections
            .iter()
            .map(|section| server.passes_over(section));
        reasons
            .map(|why| why.unwrap_or_default())
            .collect::<Vec<_>>()
    };
    assert_eq!(passed_over(b"OK\r\n", None), ["", "", "", ""]);
    let needs = "in need of debugtime, which a rustmemc has with --debug";
    assert_eq!(passed_over(b"ERROR\r\n", None), ["", "", "", needs]);
    let ours = "marked (ours alone)";
    assert_eq!(passed_over(b"OK\r\n", Some((1, 6, 40))), ["", ours, "", ""]);
    let newer = "newer than memcached 1.6.39";
    let needs = "in need of debugtime, which memcached has only in its debug build";
    assert_eq!(
        passed_over(b"ERROR\r\n", Some((1, 6, 39))),
        ["", ours, newer, needs]
    );
}
