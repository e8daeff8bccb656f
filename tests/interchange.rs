//! The append-only file is written in memcached's protocol. If it is sent to a real memcached, this one then holds the
//! same items. So users can go back to memcached, and the format stays readable.
//!
//! The cas uniques are not the same: they are in the opaque, which memcached ignores. Older releases, such as 1.6.18 of
//! Debian 12, accept the file too, except a key with a zero byte.
//!
//! The real server is the program in the environment variable MEMCACHED, or else `memcached` on the PATH.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use common::Client;
use common::folder::{Folder, content};
use common::memcached::Memcached;
use common::memory::Memory;
use common::process;

/// The commands of a run. They change items in many different ways.
const RUN: &[&str] = &[
    "set text 1 0 5\r\nhello\r\n",
    "set text 4294967295 0 5\r\nworld\r\n",
    "append text 0 0 1\r\n!\r\n",
    "set lines 0 86400 14\r\nEND\r\nmd text\r\n\r\n",
    "add added 7 0 0\r\n\r\n",
    "set number 0 0 2\r\n98\r\n",
    "incr number 5\r\n",
    "set short 0 0 3\r\n100\r\n",
    "decr short 95\r\n",
    "set touched 0 100 1\r\n1\r\n",
    "touch touched 5000\r\n",
    "set ever 0 100 1\r\n1\r\n",
    "gat 0 ever\r\n",
    "set deleted 0 0 1\r\n1\r\n",
    "delete deleted\r\n",
    "set negative 0 0 1\r\n1\r\n",
    "set negative 0 -1 1\r\n2\r\n",
    "ms YSBi 3 b F9 T600\r\na b\r\n",
    "ms AAH/ 3 b\r\nbin\r\n",
    "mg AAH/ b T700\r\n",
    "set h\u{e9}llo 0 0 1\r\n1\r\n",
    "ms chosen 1 E1000000 F3\r\nc\r\n",
    "ms stale 3 F2 T900\r\nold\r\n",
    "md stale I T300\r\n",
    "ms emptied 3 F2\r\nold\r\n",
    "md emptied x T800\r\n",
    "mg vivified N500 v\r\n",
    "ma counted N400 J41\r\n",
    "ma counted\r\n",
];

const KEYS: &[&str] = &[
    "text",
    "lines",
    "added",
    "number",
    "short",
    "touched",
    "ever",
    "deleted",
    "negative",
    "YSBi b",
    "AAH/ b",
    "h\u{e9}llo",
    "chosen",
    "stale",
    "emptied",
    "vivified",
    "counted",
    "flushed",
];

/// Sends commands, and returns all their answers.
fn answers(client: &mut Client, commands: &[u8]) -> String {
    // The answer to `version` comes after all others.
    client.send(commands).send("mn O-the-end\r\nversion\r\n");
    let mut answers = String::new();
    loop {
        let line = client.line();
        if line.starts_with("VERSION") {
            return answers;
        }
        answers.push_str(&line);
        answers.push('\n');
    }
}

/// A command or a key as it is sent. Older releases of memcached accept no zero byte in a key, so for them another key
/// is used.
fn for_release(text: &str, is_new: bool) -> String {
    match is_new {
        true => text.to_owned(),
        false => text.replace("AAH/", "AQH/"),
    }
}

/// What a server holds under every key: the answer to `mg` but without its TTL, the TTL, and the value.
fn items(client: &mut Client, is_new: bool) -> Vec<(String, Option<i64>, String)> {
    let ask = |key: &&str| {
        let key = for_release(key, is_new);
        let line = client.send(format!("mg {key} k f s v t\r\n")).line();
        let value = match line.strip_prefix("VA ") {
            Some(rest) => {
                let length = rest.split(' ').next().and_then(|word| word.parse().ok());
                read_value(client, length.expect("a length"))
            }
            None => String::new(),
        };
        let (mut ttl, mut words) = (None, Vec::new());
        for word in line.split(' ') {
            match word.strip_prefix('t').and_then(|ttl| ttl.parse().ok()) {
                Some(seconds) => ttl = Some(seconds),
                // The file does not record that a client has won a vivified item.
                None if word == "Z" => {}
                None => words.push(word),
            }
        }
        (format!("{key}: {}", words.join(" ")), ttl, value)
    };
    KEYS.iter().map(ask).collect()
}

/// Reads a value and its `\r\n`.
fn read_value(client: &mut Client, length: usize) -> String {
    let mut value = vec![0; length + 2];
    std::io::Read::read_exact(&mut client.stream, &mut value).expect("the value comes");
    value.escape_ascii().to_string()
}

/// Runs the commands on our server, and sends a copy of its file to a real memcached. `prepare` may change the copy
/// first. Then both servers must hold the same items.
fn compare(before: &str, prepare: impl Fn(&Path)) {
    let Some((program, release)) = Memcached::find_any() else {
        return;
    };
    let folder = Folder::new();
    let path = folder.file("aof");
    let server = process::spawn(&format!("-c 8 --aof {}", path.display()));
    let mut ours = server.client();
    let is_new = release >= (1, 6, 40);
    for command in [before].iter().chain(RUN) {
        let command = for_release(command, is_new);
        let answers = answers(&mut ours, command.as_bytes());
        assert!(!answers.contains("ERROR"), "{command}: {answers}");
    }
    let copy = folder.file("copy");
    fs::copy(&path, &copy).expect("the file can be copied");
    prepare(&copy);

    let theirs = Memcached::start(&program, "");
    let mut theirs = Client::connect(theirs.address);
    let answers = answers(&mut theirs, &content(&copy));
    let refusal = answers
        .lines()
        .find(|line| !["MN", "HD", "OK"].contains(&line.split(' ').next().expect("a word")));
    assert_eq!(refusal, None, "memcached accepts every record: {answers}");

    let (ours, theirs) = (items(&mut ours, is_new), items(&mut theirs, is_new));
    for (ours, theirs) in ours.into_iter().zip(theirs) {
        assert_eq!((&ours.0, &ours.2), (&theirs.0, &theirs.2));
        // The clocks of the two servers may differ a little.
        let difference = ours
            .1
            .zip(theirs.1)
            .map(|(ours, theirs)| ours.abs_diff(theirs));
        assert!(
            ours.1.is_some() == theirs.1.is_some() && difference.is_none_or(|seconds| seconds <= 2),
            "{}: {:?} and {:?} seconds",
            ours.0,
            ours.1,
            theirs.1
        );
    }
}

#[test]
fn the_log_of_a_run_gives_memcached_the_same_items() {
    compare("", |_| ());
}

#[test]
fn the_log_of_a_run_with_a_flush_gives_memcached_the_same_items() {
    let flushed = "set flushed 0 0 1\r\n1\r\nset text 0 0 1\r\n1\r\nflush_all\r\n";
    compare(flushed, |_| ());
}

#[test]
fn a_rewritten_log_gives_memcached_the_same_items() {
    compare("", |file| {
        let before = content(file).len();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("it is after 1970").as_secs();
        Memory::open(file, now as u32).rewrite();
        assert!(content(file).len() < before);
    });
}
