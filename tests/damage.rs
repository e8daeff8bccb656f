//! What can happen to the append-only file, and what the server does then: a crash in the middle of a record, flipped
//! bits, a full disk, another server with the same file, a file that is not a log. The server serves everything that
//! was acknowledged, or it does not start and prints why. It never deletes a record that may have been acknowledged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::Client;
use common::folder::{Folder, content};
use common::memory::{Memory, NOW, State, assert_same};
use common::process::{self, Process, eventually, passed_over};

/// Starts the server on a file, and waits until it has printed the line about the replay.
fn start(path: &Path, flags: &str) -> Process {
    let server = process::spawn(&format!("-c 8 --aof {} {flags}", path.display()));
    eventually("the line about the replay is printed", || {
        server.stderr().contains("replayed")
    });
    server
}

/// Starts the server on a file that it must refuse. It must print one line that contains all these parts, and exit with
/// code 1.
#[track_caller]
fn check_refused(path: &Path, parts: &[&str]) {
    let flags = format!("-p 0 -c 8 --aof {}", path.display());
    let server = process::launch("", &flags);
    eventually("a line is printed", || server.stderr().ends_with('\n'));
    let printed = server.stderr();
    assert!(
        !printed.contains("replayed") && !printed.contains("are removed"),
        "{printed}"
    );
    let outcome = server.outcome();
    let (code, stdout, stderr) = (outcome.status.code(), outcome.stdout, outcome.stderr);
    assert_eq!(
        (code, stdout.as_str()),
        (Some(1), ""),
        "it is refused: {stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let path = path.display().to_string();
    for part in parts.iter().copied().chain([path.as_str(), "--aof"]) {
        assert!(stderr.contains(part), "{part:?} is not in {stderr:?}");
    }
}

/// Commands whose file has almost every kind of record. (`a` has a value that looks like records;
/// `d` is stale; the last records include a touch, a delete and a delayed flush.)
const HISTORY: &[&str] = &[
    "set a 1 0 5\r\nvalue\r\n",
    "set b 2 100000 3\r\nbbb\r\n",
    "ms YyBj 3 b F3\r\nccc\r\n",
    "set d 4 0 3\r\nddd\r\n",
    "set e 0 0 2\r\n99\r\n",
    "incr e 1\r\n",
    "append b 0 0 2\r\n++\r\n",
    "flush_all 1000000\r\n",
    // The records of the last commands are cut at every byte.
    "set a 5 200000 26\r\nmd b O00000000\r\nms \r\nmd\r\n\r\r\n\r\n",
    "md d I T300000\r\n",
    "delete b\r\n",
    "touch e 300000\r\n",
    "flush_all 2000000\r\n",
];
/// How many commands these last ones are.
const LAST: usize = 5;

/// Writes the history to a file, and returns the file's length and the state after each command.
fn write_history(path: &Path) -> Vec<(u64, State)> {
    let memory = Memory::open(path, NOW);
    let commands = HISTORY.iter().map(|command| {
        let answer = memory.say(command);
        assert!(!answer.starts_with(b"ERROR") && !answer.starts_with(b"NOT_FOUND"));
        (memory.stat("aof_size"), memory.state())
    });
    commands.collect()
}

/// The offsets at which the records of a file begin, and the file's length.
fn borders(file: &[u8]) -> Vec<usize> {
    let (mut borders, mut rest) = (vec![0], file);
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        let words: Vec<&str> = line.split(' ').collect();
        let data = match words[0] {
            "ms" => words[2].parse::<usize>().expect("a length") + 2,
            _ => 0,
        };
        rest = &rest[end + 1 + data..];
        borders.push(file.len() - rest.len());
    }
    borders
}

#[test]
fn a_file_cut_short_anywhere_by_a_crash_replays_exactly_its_whole_records() {
    let folder = Folder::new();
    let steps = write_history(&folder.file("whole"));
    let whole = content(&folder.file("whole"));
    let borders = borders(&whole);
    assert_eq!(
        borders.len(),
        HISTORY.len() + 2,
        "there is a record for each command, and a heading"
    );
    let path = folder.file("cut");
    let first = steps[HISTORY.len() - LAST - 1].0 as usize;
    for cut in first..=whole.len() {
        fs::write(&path, &whole[..cut]).expect("a file can be written");
        let (length, state) = steps
            .iter()
            .rfind(|(length, _)| *length as usize <= cut)
            .expect("the first step is before every cut");
        let length = *length as usize;

        let server = start(&path, "");
        assert_eq!(
            server.count("curr_items"),
            state.len() as u64,
            "cut at {cut}"
        );
        let printed = server.stderr();
        drop(server);
        let torn = format!("{} bytes at byte {length} are removed", cut - length);
        assert_eq!(
            printed.contains(&torn),
            cut > length,
            "cut at {cut}: {printed}"
        );
        assert!(
            content(&path) == whole[..length],
            "cut at {cut}: the whole records stay"
        );
        assert_same(
            &Memory::open(&path, NOW).state(),
            state,
            &format!("cut at {cut}"),
        );
    }
}

#[test]
fn a_command_interrupted_by_a_crash_happened_completely_or_not_at_all() {
    for command in [
        "ms k 4 C1 I E9\r\nlate\r\n",
        "md k I x\r\n",
        "ma k T500\r\n",
        "mg new N300 T500\r\n",
    ] {
        let folder = Folder::new();
        let path = folder.file("aof");
        let memory = Memory::open(&path, NOW);
        memory.check("ms k 1 E5 T100\r\n1\r\n", "HD\r\n");
        let (start, before) = (memory.stat("aof_size") as usize, memory.state());
        memory.say(command);
        let (after, file) = (memory.state(), content(&path));
        drop(memory);
        assert_ne!(after, before, "{command}");
        for cut in borders(&file).into_iter().filter(|border| *border >= start) {
            fs::write(&path, &file[..cut]).expect("a file can be written");
            let state = Memory::open(&path, NOW).state();
            assert!(
                state == before || state == after,
                "{command}: only part of it happened: {state:?}"
            );
        }
    }
}

#[test]
fn every_flipped_bit_of_the_file_is_noticed() {
    let folder = Folder::new();
    write_history(&folder.file("whole"));
    let whole = content(&folder.file("whole"));
    let borders = borders(&whole);
    let path = folder.file("flipped");
    // One bit of every byte, and all bits of one record with data.
    let all_bits = borders[9]..borders[10];
    assert!(whole[all_bits.clone()].starts_with(b"ms a 26 F5 "));
    let one_bit_each = (0..whole.len()).map(|byte| (byte, byte % 8));
    let every_bit = all_bits.flat_map(|byte| (0..8).map(move |bit| (byte, bit)));
    for (byte, bit) in one_bit_each.chain(every_bit) {
        let mut flipped = whole.clone();
        flipped[byte] ^= 1 << bit;
        fs::write(&path, &flipped).expect("a file can be written");
        let error = match Memory::try_open(&path, NOW, 1 << 20) {
            Err(error) => error.to_string(),
            Ok(memory) => panic!(
                "bit {bit} of byte {byte} is not noticed: {:?}",
                memory.state()
            ),
        };
        let record = borders.iter().rfind(|border| **border <= byte);
        let record = *record.expect("one");
        let place = format!("{}: damaged at byte {record} (", path.display());
        // Without its heading it could be any file, and with another number in it, one of a later version.
        let is_other = error.contains("not a log of rustmemc") || error.contains("has format");
        assert!(
            error.contains(&place) || (record == 0 && is_other),
            "bit {bit} of byte {byte}: {error}"
        );
        assert!(content(&path) == flipped, "the file is left as it is");
    }
    assert_eq!(folder.names(), ["flipped", "whole"]);
}

#[test]
fn a_damaged_file_is_refused_and_a_repair_keeps_the_good_part_and_saves_the_rest() {
    let folder = Folder::new();
    let steps = write_history(&folder.file("whole"));
    let whole = content(&folder.file("whole"));
    let borders = borders(&whole);
    // The heading, the first record, one in the middle, the last.
    for record in [0, 1, 6, borders.len() - 2] {
        let (start_of_record, end) = (borders[record], borders[record + 1]);
        let mut damaged = whole.clone();
        damaged[end - 4] ^= 1;
        let folder = Folder::new();
        let path = folder.file("aof");
        fs::write(&path, &damaged).expect("a file can be written");
        let place = format!("byte {start_of_record} ");
        check_refused(&path, &[&place, "--aof-repair"]);
        assert!(
            content(&path) == damaged && folder.names() == ["aof"],
            "no file is changed or made"
        );

        let server = start(&path, "--aof-repair");
        let printed = server.stderr();
        server
            .client()
            .check("set new 0 0 1\r\n1\r\n", "STORED\r\n");
        drop(server);
        let names = folder.names();
        assert!(
            names.len() == 2 && names[1].starts_with("aof.damaged"),
            "{names:?}"
        );
        let saved = folder.file(&names[1]);
        assert!(
            printed.contains(&saved.display().to_string()) && printed.contains(&place),
            "{printed}"
        );
        assert!(
            content(&saved) == damaged[start_of_record..],
            "the damaged part is saved"
        );
        assert!(
            content(&path).starts_with(&damaged[..start_of_record]),
            "the good part stays"
        );

        let memory = Memory::open(&path, NOW);
        memory.check("delete new\r\n", "DELETED\r\n");
        let before = record.checked_sub(2).map(|step| steps[step].1.clone());
        assert_same(
            &memory.state(),
            &before.unwrap_or_default(),
            "after the repair",
        );
    }
}

#[test]
fn a_repair_changes_nothing_in_a_good_file() {
    let folder = Folder::new();
    let path = folder.file("aof");
    write_history(&path);
    let before = content(&path);
    drop(start(&path, "--aof-repair"));
    assert!(content(&path) == before && folder.names() == ["aof"]);
}

#[test]
fn a_file_that_is_not_a_log_is_refused_and_left_unchanged() {
    for other in [
        "Dear diary,\nnothing happened today.\n",
        "Dear diary,\r\nnothing happened today.\r\n",
        "a password, and no line end",
        "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        "set k 0 0 1\r\n1\r\n",
        &"no line end for long ".repeat(1000),
    ] {
        let folder = Folder::new();
        let path = folder.file("notes.txt");
        fs::write(&path, other).expect("a file can be written");
        check_refused(&path, &["not a log of rustmemc"]);
        assert_eq!(content(&path), other.as_bytes());
        assert_eq!(folder.names(), ["notes.txt"]);
    }
}

#[test]
fn a_second_server_on_the_same_file_is_refused_and_the_first_keeps_serving() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let first = start(&path, "");
    first.client().check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
    let before = content(&path);
    let process = format!("(process {})", first.pid());
    check_refused(&path, &["another server", &process]);
    assert!(content(&path).starts_with(&before));
    first
        .client()
        .check("set k 0 0 1\r\n2\r\n", "STORED\r\n")
        .check("get k\r\n", "VALUE k 0 1\r\n2\r\nEND\r\n");
    // Under another name it is the same file.
    let link = folder.file("link");
    symlink(&path, &link).expect("a link can be made");
    check_refused(&link, &["another server"]);
}

#[test]
fn a_file_that_cannot_be_opened_is_refused_with_its_name_and_the_reason() {
    let folder = Folder::new();
    check_refused(
        &folder.file("missing/aof"),
        &["No such file or directory", "--no-aof"],
    );
    fs::create_dir(folder.file("folder")).expect("a folder can be made");
    check_refused(&folder.file("folder"), &["a folder", "--no-aof"]);
    let locked = folder.file("locked");
    fs::create_dir(&locked).expect("a folder can be made");
    fs::set_permissions(&locked, PermissionsExt::from_mode(0o555)).expect("it is ours");
    if fs::write(locked.join("probe"), "").is_err() {
        check_refused(&locked.join("aof"), &["Permission denied"]);
    } else {
        passed_over("root may write in any folder, so permission is never denied");
    }
}

#[test]
fn a_rewritten_file_is_smaller_and_keeps_its_content_mode_and_link() {
    let folder = Folder::new();
    let (path, link) = (folder.file("real"), folder.file("aof"));
    fs::write(&path, "").expect("a file can be written");
    symlink(&path, &link).expect("a link can be made");
    let memory = Memory::open(&link, NOW);
    fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("it is ours");
    for n in 0..1000 {
        memory.check(format!("set k 0 0 4\r\n{n:04}\r\n"), "STORED\r\n");
    }
    let before = content(&path).len();
    memory.rewrite();
    let after = content(&path).len();
    assert!(after < before / 100, "{before} bytes became {after}");
    memory.check("append k 0 0 1\r\n!\r\n", "STORED\r\n");
    assert!(content(&path).len() > after, "the new file grows");

    let mode = fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(fs::read_link(&link).expect("it is still a link"), path);
    assert_eq!(folder.names(), ["aof", "real"]);
    memory.restart(0).check("mg k v\r\n", "VA 5\r\n0999!\r\n");
}

#[test]
fn the_unfinished_file_of_a_crashed_rewrite_is_removed() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let memory = Memory::open(&path, NOW);
    memory.check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
    drop(memory);
    // It may have the old format too, or only the beginning of its heading.
    for unfinished in [
        "mn rustmemc 1 E0 O0b506acf\r\nms other 1",
        "mn rustmemc 2 OADECGwB\r\nms other 1",
        "mn rust",
    ] {
        fs::write(folder.file("aof.rewrite"), unfinished).expect("a file can be written");
        drop(Memory::open(&path, NOW));
        assert_eq!(folder.names(), ["aof"]);
    }
    let memory = Memory::open(&path, NOW);
    memory.rewrite();
    memory
        .restart(0)
        .check("get k other\r\n", "VALUE k 0 1\r\n1\r\nEND\r\n");
}

#[test]
fn a_failed_rewrite_is_counted_and_printed_and_the_old_file_stays_in_use() {
    let folder = Folder::new();
    let path = folder.file("aof");
    fs::create_dir(folder.file("aof.rewrite")).expect("a folder can be made");
    let server = start(&path, "--aof-rewrite-size 1");
    server.client().check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
    eventually("the line about the failed rewrite is printed", || {
        server.stderr().contains("cannot rewrite")
    });
    assert_eq!(server.count("aof_rewrites"), 0);
    server
        .client()
        .check("append k 0 0 1\r\n2\r\n", "STORED\r\n");
    assert_eq!(server.count("aof_errors"), 1);
    drop(server);
    Memory::open(&path, NOW).check("mg k v\r\n", "VA 2\r\n12\r\n");
}

/// Shell commands that limit every file to 64 blocks: for the server this is a full disk.
const SMALL_DISK: &str = "trap '' XFSZ; ulimit -f 64;";

/// Starts a server on a small disk that cannot rewrite its file to make room: a folder has the path of the new file.
fn start_on_small_disk(folder: &Folder) -> Process {
    let flags = format!("-c 8 --aof {}", folder.file("aof").display());
    let server = process::spawn_after(SMALL_DISK, &flags);
    fs::create_dir(folder.file("aof.rewrite")).expect("a folder can be made");
    server
}

/// Sets a value of 1,000 bytes, and returns the answer.
fn set(client: &mut Client, key: &str, letter: &str) -> String {
    let value = letter.repeat(1000);
    client
        .send(format!("set {key} 0 0 1000\r\n{value}\r\n"))
        .line()
}

const REFUSED: &str = "SERVER_ERROR cannot write to the append-only file";

/// Waits for an answer. Returns whether the server has closed the connection instead.
fn is_closed(client: &Client) -> bool {
    let bytes = client.stream.peek(&mut [0]);
    bytes.expect("an answer or the end can be read") == 0
}

/// The value that [`fill`] sets with its command of this number: 1,000 bytes.
fn value(number: usize) -> String {
    format!("{number:01000}")
}

/// Sets one value after the other until the disk is full: then the connection is closed without an answer. Returns how
/// many values were stored. This is also the number of the value without an answer.
#[track_caller]
fn fill(server: &Process, key: impl Fn(usize) -> String) -> usize {
    let mut client = server.client();
    for number in 0..1000 {
        client.send(format!(
            "set {} 0 0 1000\r\n{}\r\n",
            key(number),
            value(number)
        ));
        if is_closed(&client) {
            return number;
        }
        client.expect("STORED\r\n");
    }
    panic!("the disk does not become full");
}

#[test]
fn on_a_full_disk_changes_are_refused_and_reads_are_served() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let flags = format!("-v -c 64 --aof {}", path.display());
    let server = process::spawn_after(SMALL_DISK, &flags);
    let mut reader = server.client();
    reader.check("get k0\r\n", "END\r\n");
    let stored = fill(&server, |number| format!("k{number}"));
    assert!((10..1000).contains(&stored), "{stored} were stored");
    let full = content(&path);
    for message in [
        "cannot write (",
        "connection closed (the append-only file cannot be written: ",
    ] {
        eventually(message, || server.stderr().contains(message));
    }

    // The change without an answer was made, and its record waits for room. Refused commands change nothing.
    let has = |number| {
        let value = value(number);
        format!("VALUE k{number} 0 1000\r\n{value}\r\nEND\r\n")
    };
    let mut client = server.client();
    let last = format!("k{stored}");
    for key in ["k0", &last, "new"] {
        assert_eq!(set(&mut client, key, "b"), REFUSED);
        for command in [format!("delete {key}\r\n"), format!("touch {key} 1\r\n")] {
            // Even a command that would change nothing is refused, and also the first command of a connection.
            assert_eq!(client.send(&command).line(), REFUSED, "{command}");
            assert_eq!(server.client().send(&command).line(), REFUSED, "{command}");
        }
    }
    client
        .check("set k0 0 0 1000 noreply\r\n", "")
        .check(format!("{}\r\n", "b".repeat(1000)), "");
    for reader in [&mut reader, &mut client] {
        reader
            .check("get k0\r\n", has(0))
            .check(format!("get {last}\r\n"), has(stored))
            .check("get new\r\n", "END\r\n");
    }
    assert!(content(&path) == full, "no part of a record is left behind");
    assert!(server.count("aof_errors") >= 3);
    drop(server);

    // When there is room again, the server starts. Nothing is damaged or cut short, and nothing acknowledged is lost.
    let server = start(&path, "");
    assert!(!server.stderr().contains("cut"), "{}", server.stderr());
    let mut client = server.client();
    for number in 0..stored {
        client.check(format!("get k{number}\r\n"), has(number));
    }
    assert_eq!(server.count("curr_items"), stored as u64);
    assert_eq!(set(&mut client, "k0", "c"), "STORED");
}

#[test]
fn on_a_full_disk_every_command_of_a_pipeline_gets_its_own_answer() {
    let folder = Folder::new();
    let server = start_on_small_disk(&folder);
    let big = "v".repeat(10_000);
    // This client has changed something before the disk was full.
    let mut old = server.client();
    old.check(format!("set big 0 0 10000\r\n{big}\r\n"), "STORED\r\n");
    fill(&server, |_| "k".into());
    let refused = format!("{REFUSED}\r\n");
    let get = format!("get{}\r\n", " big".repeat(10));
    let got = format!("VALUE big 0 10000\r\n{big}\r\n").repeat(10) + "END\r\n";
    for client in [&mut old, &mut server.client()] {
        client.check(&get, &got);
        for change in ["set a 0 0 1\r\n1\r\n", "delete nokey\r\n", "incr big 1\r\n"] {
            client.check(format!("{change}{get}"), format!("{refused}{got}"));
            client.check(
                format!("{get}{change}{change}{get}"),
                format!("{got}{refused}{refused}{got}"),
            );
        }
        client.check(
            "set a 0 0 1\r\n1\r\n".repeat(400) + "mn\r\n",
            refused.repeat(400) + "MN\r\n",
        );
        // `noreply` silences the error, but `q` does not.
        client.check(
            "mg nothing\r\nset a 0 0 1 noreply\r\n1\r\nms a 1 q\r\n1\r\n".repeat(400) + "mn\r\n",
            format!("EN\r\n{refused}").repeat(400) + "MN\r\n",
        );
    }
}

#[test]
fn a_pipeline_that_fills_the_disk_gets_only_true_answers_before_the_connection_closes() {
    // The size of the records decides which command of the pipeline fills the disk. Without the `get` no answer is sent
    // before the end: there are more records than may be pending, and the first refused record is one in the middle.
    let cases = [
        (1500, "get read\r\n"),
        (2500, "get read\r\n"),
        (9000, "get read\r\n"),
        (9000, ""),
    ];
    for (size, get) in cases {
        let folder = Folder::new();
        let server = start_on_small_disk(&folder);
        let mut client = server.client();
        let (log, read) = ("l".repeat(size), "r".repeat(12000));
        client
            .check(format!("set log 0 0 {size}\r\n{log}\r\n"), "STORED\r\n")
            .check(format!("set read 0 0 12000\r\n{read}\r\n"), "STORED\r\n");
        // An append is a short command with a long record.
        let commands = format!(
            "append log 0 0 1\r\n+\r\n{get}ms quiet 1 q\r\n1\r\n\
             set silent 0 0 1 noreply\r\n1\r\ndelete nothing\r\n"
        );
        let got = match get {
            "" => String::new(),
            _ => format!("VALUE read 0 12000\r\n{read}\r\nEND\r\n"),
        };
        let answers = format!("STORED\r\n{got}NOT_FOUND\r\n");
        client.send(commands.repeat(100));
        let got = String::from_utf8(client.rest()).expect("it is text");
        let all = answers.repeat(100);
        assert!(
            all.starts_with(&got) && got.len() < all.len(),
            "{}",
            common::shortened(got.as_bytes())
        );
        let acknowledged = got.matches("STORED\r\n").count();
        assert!(
            size == 9000 || acknowledged > 0,
            "some answers were received"
        );
        server
            .client()
            .check("append log 0 0 1\r\n+\r\n", format!("{REFUSED}\r\n"))
            .check("mg read s\r\n", "HD s12000\r\n");
        drop(server);

        let server = start(&folder.file("aof"), "");
        let line = server.client().send("mg log s\r\n").line();
        let length: usize = line
            .strip_prefix("HD s")
            .and_then(|length| length.parse().ok())
            .expect("a length");
        assert!(
            length >= size + acknowledged,
            "{acknowledged} appends were acknowledged, but the value has {length} bytes"
        );
    }
}

#[test]
fn a_noreply_change_that_cannot_be_recorded_closes_the_connection() {
    let folder = Folder::new();
    let server = start_on_small_disk(&folder);
    let mut client = server.client();
    // No command has an answer. The server may close the connection before the last command is sent.
    for number in 0..100 {
        let command = format!("set k 0 0 1000 noreply\r\n{}\r\n", value(number));
        if client.stream.write_all(command.as_bytes()).is_err() {
            break;
        }
    }
    client.expect_end();
    assert_eq!(set(&mut server.client(), "k", "b"), REFUSED);
}

#[test]
fn a_long_answer_to_a_change_that_cannot_be_recorded_is_not_sent_at_all() {
    let folder = Folder::new();
    let server = start_on_small_disk(&folder);
    let mut client = server.client();
    let value = "v".repeat(20_000);
    client.check(format!("set long 0 0 20000\r\n{value}\r\n"), "STORED\r\n");
    let answer = format!("VALUE long 0 20000\r\n{value}\r\nEND\r\n");
    let closed = (0..10_000).any(|_| {
        client.send("gat 0 long\r\n");
        let closed = is_closed(&client);
        if !closed {
            client.expect(&answer);
        }
        closed
    });
    assert!(closed, "the connection is closed");
    // The connections of other clients stay open: their changes are only refused.
    server.client().check("get long\r\n", &answer);
    assert_eq!(server.client().send("touch long 0\r\n").line(), REFUSED);
}

#[test]
fn a_rewrite_makes_room_for_records_that_could_not_be_written() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let flags = format!("-c 8 --aof {} --aof-rewrite-size 16000", path.display());
    let server = process::spawn_after(SMALL_DISK, &flags);
    let last = fill(&server, |_| "k".into());
    let mut client = server.client();
    eventually("the file is rewritten", || {
        client.send("ms new 1\r\n1\r\n").line() == "HD"
    });
    // The change that got no answer was made, and is recorded now.
    let held = format!("VA 1000\r\n{}\r\n", value(last));
    client.check("mg k v\r\n", &held);
    drop(server);
    start(&path, "")
        .client()
        .check("mg k v\r\n", &held)
        .check("mg new v\r\n", "VA 1\r\n1\r\n");
}

#[test]
fn a_small_file_that_cannot_be_written_is_rewritten() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let flags = format!("-c 8 --aof {}", path.display());
    let server = process::spawn_after(SMALL_DISK, &flags);
    fill(&server, |_| "k".into());
    let mut client = server.client();
    eventually("the file is rewritten", || {
        set(&mut client, "k", "b") == "STORED"
    });
    assert_eq!(server.count("aof_rewrites"), 1);
    drop(server);
    start(&path, "")
        .client()
        .check("mg k v\r\n", format!("VA 1000\r\n{}\r\n", "b".repeat(1000)));
}

#[test]
fn a_rewrite_after_a_restart_makes_room_on_a_full_disk() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let server = start_on_small_disk(&folder);
    // The disk is full of one key's old values.
    fill(&server, |_| "k".into());
    drop(server);
    fs::remove_dir(folder.file("aof.rewrite")).expect("it is empty");

    let size = content(&path).len();
    let server = process::spawn_after(
        SMALL_DISK,
        &format!("-c 8 --aof {} --aof-rewrite-size {size}", path.display()),
    );
    eventually("the file is rewritten", || {
        server.count("aof_rewrites") == 1
    });
    assert_eq!(set(&mut server.client(), "k", "b"), "STORED");
    assert!(content(&path).len() < size / 5);
}

#[test]
fn a_delayed_flush_happens_on_a_full_disk_too() {
    let folder = Folder::new();
    let flags = format!("-c 8 --debug --aof {}", folder.file("aof").display());
    let server = process::spawn_after(SMALL_DISK, &flags);
    fs::create_dir(folder.file("aof.rewrite")).expect("a folder can be made");
    let mut client = server.client();
    client.check("flush_all 100\r\n", "OK\r\n");
    let stored = fill(&server, |number| format!("k{number}"));
    client.check("mg k0\r\n", "HD\r\n");
    client.check("debugtime 100\r\n", "OK\r\n");
    client.check("mg k0\r\nmg k5\r\n", "EN\r\nEN\r\n");
    assert_eq!(client.stat("curr_items"), "0", "of {stored}");
    assert_eq!(set(&mut client, "k", "b"), REFUSED);
}

#[test]
fn a_server_on_a_full_disk_with_less_memory_than_its_file_serves_what_it_has() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let server = process::spawn(&format!("-m 64 --aof {}", path.display()));
    let mut client = server.client();
    for n in 0..100 {
        let value = "v".repeat(200_000);
        client.check(format!("set k{n} 0 0 200000\r\n{value}\r\n"), "STORED\r\n");
    }
    drop(server);
    let flags = format!("-m 8 --aof {}", path.display());
    let server = process::spawn_after("trap '' XFSZ; ulimit -f 0;", &flags);
    let mut client = server.client();
    client.check("mg k99 s\r\n", "HD s200000\r\n");
    client.send("set k 0 0 1\r\n1\r\n");
    assert!(is_closed(&client), "the change is not acknowledged");
    let said = server.stderr();
    assert!(said.contains("what was evicted is still in it"), "{said}");
}

#[test]
fn a_server_does_not_start_on_a_full_disk_but_starts_when_there_is_room() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let flags = format!("-p 0 -c 8 --aof {}", path.display());
    let outcome = process::launch("trap '' XFSZ; ulimit -f 0;", &flags).outcome();
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--no-aof"), "{}", outcome.stderr);
    // The failed start left a file that a later start can use.
    start(&path, "")
        .client()
        .check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
}
