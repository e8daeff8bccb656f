//! What the tools of operators ask: the statistics have the same names as memcached's, and the commands that tune it
//! get the same answers.
//!
//! The real server is the program that MEMCACHED names, or `memcached` on the PATH. It must be 1.6.45 or later.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::Client;
use common::memcached::Memcached;
use common::process::eventually;
use common::random::Random;

/// The names in the answer to a kind of `stats`. The number of a slab class becomes 1: memcached has other classes.
fn names(client: &mut Client, kind: &str) -> Vec<String> {
    client.send(format!("stats {kind}\r\n"));
    let lines = std::iter::from_fn(|| Some(client.line()).filter(|line| line != "END"));
    let name = |line: String| {
        let name = line.split(' ').nth(1).expect("STAT <name> <value>");
        let is_class = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let parts = name.split(':');
        let parts = parts.map(|part| if is_class(part) { "1" } else { part });
        parts.collect::<Vec<_>>().join(":")
    };
    lines.map(name).collect()
}

#[test]
fn statistics_have_the_names_of_memcached_in_its_order() {
    let Some(program) = Memcached::find((1, 6, 45)) else {
        return;
    };
    let (ours, theirs) = (common::server(""), Memcached::start(&program, ""));
    let (mut ours, mut theirs) = (ours.client(), Client::connect(theirs.address));
    for with_item in [false, true] {
        for kind in ["", "settings", "items", "slabs", "sizes", "extstore"] {
            let expected = names(&mut theirs, kind);
            let mut found = names(&mut ours, kind);
            let own = found.split_off(expected.len().min(found.len()));
            assert_eq!(found, expected, "stats {kind}, with an item: {with_item}");
            match kind {
                // memcached has this one if it has an idle timeout.
                "" => assert_eq!(own, ["rustmemc_version", "idle_kicks"]),
                _ => assert_eq!(own, [""; 0], "stats {kind}"),
            }
        }
        for client in [&mut ours, &mut theirs] {
            client.check("set a:b 0 0 1\r\nx\r\n", "STORED\r\n");
        }
    }
}

/// An exporter that reads one value by several names counts it twice, or fails.
#[test]
fn no_name_is_in_two_kinds_of_statistics_about_a_class() {
    let server = common::server("");
    let mut client = server.client();
    client.check("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    let items = names(&mut client, "items");
    let last = |name: &String| name.rsplit(':').next().unwrap_or_default().to_owned();
    let items: Vec<String> = items.iter().map(last).collect();
    for name in names(&mut client, "slabs") {
        assert!(!items.contains(&last(&name)), "{name}");
    }
}

#[test]
fn sizes_are_tracked_as_in_memcached() {
    let flags = "-o track_sizes";
    let program = Memcached::find((1, 6, 45));
    let theirs = program.map(|program| Memcached::start(&program, flags));
    let ours = common::server(flags);
    let mut clients = vec![ours.client()];
    clients.extend(
        theirs
            .as_ref()
            .map(|theirs| Client::connect(theirs.address)),
    );
    for mut client in clients {
        client.check("stats sizes\r\n", "END\r\n");
        for (key, flags, bytes) in [
            ("a", 0, 1),
            ("b", 0, 4),
            ("c", 0, 5),
            ("d", 1, 1),
            ("e", 0, 5000),
        ] {
            let value = "x".repeat(bytes);
            client.check(
                format!("set {key} {flags} 0 {bytes}\r\n{value}\r\n"),
                "STORED\r\n",
            );
        }
        client.check(
            "stats sizes\r\n",
            "STAT 64 2\r\nSTAT 96 2\r\nSTAT 5088 1\r\nEND\r\n",
        );
    }
}

/// Each text is a list of choices, which bars separate.
const VERBS: &str = "lru_crawler|slabs|lru|extstore|stats detail|stats";
const SUBCOMMANDS: &str = "enable|disable|enable|enable|sleep|tocrawl|crawl|metadump|mgdump|m|mg|cr|reassign|automove|a|r|\
    tune|mode|temp_ttl|t|free_memchunks|item_size|item_|low_ttl|max_frag|max_|drop_unread|compact_under|f|on|off|dump|o|d|\
    settings_|ext|sizes|x";
const ARGUMENTS: &str = "0|1|2|3|5|40|39|63|64|80|-1|-|+1|x|1,2|2,3|1,x|all|hash|0.5|1e3|.|5.|nan|1e999|ratio|freeratio|\
    window|r|flat|segmented|seg|1000000|1000001|1801|4294967295|4294967296|noreply";

/// Sends a line, and returns the lines of its answer.
fn ask(client: &mut Client, line: &str) -> String {
    let mut lines = Vec::new();
    if line.starts_with("lru_crawler m") && !line.ends_with("noreply") {
        // memcached allows no other command in a batch with this one.
        client.send(format!("{line}\r\n"));
        lines.push(client.line());
        while lines[0] == "OK" && !matches!(&*lines[lines.len() - 1], "END" | "EN") {
            lines.push(client.line());
        }
    } else {
        // An answer may be empty. It ends where the answer to `mn` begins.
        client.send(format!("{line}\r\nmn\r\n"));
        lines.extend(std::iter::from_fn(|| {
            Some(client.line()).filter(|line| line != "MN")
        }));
    }
    lines.join("\n")
}

#[test]
fn commands_that_tune_memcached_are_answered_as_memcached_answers_them() {
    let Some(program) = Memcached::find((1, 6, 45)) else {
        return;
    };
    let mut random = Random(1);
    let mut pick = |choices: &'static str| -> &'static str {
        let choices: Vec<_> = choices.split('|').collect();
        choices[random.below(choices.len())]
    };
    for flags in ["", "-X"] {
        let (ours, theirs) = (common::server(flags), Memcached::start(&program, flags));
        let (mut ours, mut theirs) = (ours.client(), Client::connect(theirs.address));
        for _ in 0..3000 {
            let mut line = format!("{} {}", pick(VERBS), pick(SUBCOMMANDS));
            for _ in 0..pick("0|1|1|1|1|2|2|3|4|5").parse().expect("a number") {
                line = format!("{line} {}", pick(ARGUMENTS));
            }
            let (our_answer, their_answer) = (ask(&mut ours, &line), ask(&mut theirs, &line));
            if line.starts_with("lru_crawler") {
                let setting = ours.setting("lru_crawler");
                eventually("the thread of memcached begins or ends", || {
                    theirs.setting("lru_crawler") == setting
                });
            }
            // A crawl of memcached takes a moment.
            let is_busy = their_answer == "BUSY currently processing crawler request";
            assert!(
                our_answer == their_answer || is_busy,
                "with {flags:?}: {line}\nmemcached: {their_answer}\nrustmemc:  {our_answer}"
            );
        }
    }
}
