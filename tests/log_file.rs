//! The log as a file among others: which files are refused, what is made beside it, and what happens when it is removed
//! or replaced.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use common::folder::{Folder, content};
use common::memory::{Memory, NOW};
use common::process::{self, Process, eventually, passed_over};
use rustmemc::internals::base64;

fn spawn(path: &Path, flags: &str) -> Process {
    process::spawn(&format!("-c 8 --aof {} {flags}", path.display()))
}

/// Starts a server on a file that it must refuse. Returns what it prints.
#[track_caller]
fn refusal(path: &Path, flags: &str) -> String {
    let flags = format!("-p 0 --aof {} {flags}", path.display());
    let outcome = process::launch("", &flags).outcome();
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
    outcome.stderr
}

/// The only file in the folder whose name begins like this.
#[track_caller]
fn named(folder: &Folder, begin: &str) -> std::path::PathBuf {
    let names = folder.names();
    let found: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with(begin))
        .collect();
    assert_eq!(found.len(), 1, "{names:?}");
    folder.file(found[0])
}

fn stop(server: Process) -> String {
    server.signal("TERM");
    server.outcome().stderr
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).status();
    status.is_ok_and(|status| status.success())
}

/// Writes a log with this many items, and does not close it.
fn write_log(path: &Path, items: usize) {
    let memory = Memory::open(path, NOW);
    for n in 0..items {
        memory.check(format!("set k{n} 0 0 20\r\n{n:020}\r\n"), "STORED\r\n");
    }
}

#[test]
fn devices_and_pipes_and_links_to_nothing_are_refused_and_left_alone() {
    let folder = Folder::new();
    let pipe = folder.file("pipe");
    assert!(run("mkfifo", &[pipe.to_str().expect("it is text")]));
    let printed = refusal(&pipe, "");
    assert!(
        printed.contains("this is a pipe") && printed.contains("--no-aof"),
        "{printed}"
    );
    let link = folder.file("link");
    symlink(folder.file("nothing"), &link).expect("a link can be made");
    let printed = refusal(&link, "");
    assert!(printed.contains("a link to nothing"), "{printed}");
    assert!(!folder.file("nothing").exists());

    let device = folder.file("null");
    if !run(
        "mknod",
        &[device.to_str().expect("it is text"), "c", "1", "3"],
    ) {
        return passed_over("only root may make a device");
    }
    let printed = refusal(&device, "");
    assert!(
        printed.contains("this is a device") && printed.contains("--no-aof"),
        "{printed}"
    );
    let kind = fs::metadata(&device).expect("it is there").file_type();
    assert!(kind.is_char_device(), "it is still a device");
}

#[test]
fn a_file_of_a_newer_format_is_named_and_not_called_damaged() {
    let folder = Folder::new();
    let path = folder.file("aof");
    fs::write(&path, "mn rustmemc 3 O123456\r\n").expect("it can be written");
    for flags in ["", "--aof-repair"] {
        let printed = refusal(&path, flags);
        assert!(
            printed.contains("format 3") && !printed.contains("damaged"),
            "{printed}"
        );
        assert!(!printed.contains("--aof-repair"), "{printed}");
    }
    assert_eq!(folder.names(), ["aof"]);
}

#[test]
fn zeros_at_the_end_of_a_file_are_damage_and_no_torn_record() {
    let folder = Folder::new();
    let path = folder.file("aof");
    write_log(&path, 100);
    let whole = content(&path);
    // The zeros begin at different places in a record.
    for zeros in (2..100).chain(300..400) {
        let mut file = whole.clone();
        let good = file.len() - zeros;
        file[good..].fill(0);
        fs::write(&path, &file).expect("it can be written");
        let opened = Memory::try_open(&path, NOW, 1 << 20);
        let error = opened.err().unwrap_or_else(|| panic!("{zeros} zeros pass"));
        assert!(error.to_string().contains("damaged at byte"), "{error}");
    }
}

#[test]
fn a_torn_record_is_kept_beside_the_file() {
    let folder = Folder::new();
    let path = folder.file("aof");
    write_log(&path, 10);
    let whole = content(&path);
    let last = whole
        .windows(6)
        .rposition(|bytes| bytes == b"ms k9 ")
        .expect("it is there");
    for end in [last + 1, last + 10, whole.len() - 25, whole.len() - 1] {
        fs::write(&path, &whole[..end]).expect("it can be written");
        assert_eq!(Memory::open(&path, NOW).state().len(), 9);
        let torn = named(&folder, "aof.torn-");
        assert_eq!(content(&torn), &whole[last..end]);
        fs::remove_file(torn).expect("it can be removed");
    }
}

#[test]
fn a_line_that_announces_two_gigabytes_which_the_file_does_not_have_takes_no_memory() {
    let folder = Folder::new();
    let path = folder.file("aof");
    write_log(&path, 1);
    let whole = content(&path);
    // The checksum of this line is right, as if a crash had cut its data. It is the lowest 24 bits of the CRC.
    let line = b"ms huge 2000000000 OB";
    let crc = crc32(line);
    let checksum = [18, 12, 6, 0].map(|shift| base64::letter((crc >> shift) as u8));
    let torn = [&whole[..], line, &checksum, b"AAAAAA\r\nabc"].concat();
    fs::write(&path, torn).expect("it can be written");
    let server = spawn(&path, "");
    assert_eq!(server.count("curr_items"), 1);
    // The allocator reserves up to 1 GB of addresses for its threads.
    let most = server.memory("VmPeak");
    assert!(most < 3 << 19, "{most} kB of address space");
}

/// The checksum of the log, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            1 => crc >> 1 ^ 0xEDB8_8320,
            _ => crc >> 1,
        })
    })
}

#[test]
fn a_repair_saves_with_the_mode_of_the_file_and_never_overwrites_an_earlier_save() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let mut saved = Vec::new();
    for round in 1..=3 {
        let _ = fs::remove_file(&path);
        write_log(&path, 10);
        let mut file = content(&path);
        let middle = file.len() / 2;
        file[middle] ^= 1;
        fs::write(&path, &file).expect("it can be written");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("it is ours");
        stop(spawn(&path, "--aof-repair"));
        saved = folder.names();
        saved.retain(|name| name.starts_with("aof.damaged-"));
        assert_eq!(saved.len(), round, "{saved:?}");
    }
    for name in saved {
        let mode = fs::metadata(folder.file(&name))
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_repair_on_a_full_disk_leaves_the_file_unchanged_and_nothing_beside_it() {
    let folder = Folder::new();
    let path = folder.file("aof");
    write_log(&path, 1000);
    let mut file = content(&path);
    file[100] ^= 1;
    fs::write(&path, &file).expect("it can be written");
    let flags = format!("-p 0 --aof-repair --aof {}", path.display());
    let outcome = process::launch("trap '' XFSZ; ulimit -f 8;", &flags).outcome();
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("aof.damaged-"),
        "{}",
        outcome.stderr
    );
    assert!(content(&path) == file);
    assert_eq!(folder.names(), ["aof"]);
}

#[test]
fn a_rewrite_never_writes_through_a_link_or_into_a_pipe() {
    let folder = Folder::new();
    let (path, victim, rewrite) = (
        folder.file("aof"),
        folder.file("victim"),
        folder.file("aof.rewrite"),
    );
    fs::write(&victim, "precious").expect("it can be written");
    for is_link in [true, false] {
        let server = spawn(&path, "--aof-rewrite-size 1000");
        match is_link {
            true => symlink(&victim, &rewrite).expect("a link can be made"),
            false => assert!(run("mkfifo", &[rewrite.to_str().expect("it is text")])),
        }
        let mut client = server.client();
        for n in 0..100 {
            client.check(format!("set k 0 0 100\r\n{n:0100}\r\n"), "STORED\r\n");
        }
        eventually("the failure is printed", || {
            server.stderr().contains("aof.rewrite is there already")
        });
        client.check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
        assert_eq!(content(&victim), b"precious");
        stop(server);
        fs::remove_file(&rewrite).expect("it is still there");
    }
}

#[test]
fn a_file_that_is_removed_while_the_server_runs_is_written_anew() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let server = spawn(&path, "");
    let mut client = server.client();
    client.check("set before 0 0 1\r\n1\r\n", "STORED\r\n");
    fs::remove_file(&path).expect("it is there");
    client.check("set after 0 0 1\r\n2\r\n", "STORED\r\n");
    eventually("it is printed", || {
        server.stderr().contains("was removed or replaced")
    });
    eventually("the file is there again", || path.exists());
    client.check("set later 0 0 1\r\n3\r\n", "STORED\r\n");
    server.signal("KILL");
    server.outcome();
    assert_eq!(spawn(&path, "").count("curr_items"), 3);
}

#[test]
fn a_file_that_is_removed_just_before_the_stop_is_written_anew() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let server = spawn(&path, "");
    server.client().check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
    fs::remove_file(&path).expect("it is there");
    stop(server);
    assert_eq!(spawn(&path, "").count("curr_items"), 1);
}

#[test]
fn a_file_that_takes_the_logs_name_is_kept_under_another_one() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let server = spawn(&path, "");
    server.client().check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
    fs::write(folder.file("new"), "somebody's").expect("it can be written");
    fs::rename(folder.file("new"), &path).expect("it can be renamed");
    stop(server);
    assert_eq!(content(&named(&folder, "aof.replaced-")), b"somebody's");
    assert_eq!(spawn(&path, "").count("curr_items"), 1);
}

#[test]
fn a_missing_folder_is_printed_and_the_file_is_written_when_the_folder_exists_again() {
    let folder = Folder::new();
    let inner = folder.file("inner");
    fs::create_dir(&inner).expect("a folder can be made");
    let path = inner.join("aof");
    let server = spawn(&path, "");
    server.client().check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
    fs::remove_dir_all(&inner).expect("it is there");
    let told = format!("its folder {} is gone", inner.display());
    eventually("the folder is named", || server.stderr().contains(&told));
    server.client().check("set l 0 0 1\r\n1\r\n", "STORED\r\n");
    fs::create_dir(&inner).expect("a folder can be made");
    // Without a stop, and much sooner than a failed rewrite is tried again.
    eventually("the file is written anew", || path.exists());
    server.signal("KILL");
    server.outcome();
    assert_eq!(spawn(&path, "").count("curr_items"), 2);
}

#[test]
fn a_server_waits_for_the_lock_of_one_that_is_about_to_end() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let first = spawn(&path, "");
    first.client().check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
    let flags = format!("-p 0 --aof {}", path.display());
    let second = process::launch("", &flags);
    // It has found the lock taken when it goes to sleep for the first time.
    let name = || fs::read_to_string(format!("/proc/{}/comm", second.pid()));
    eventually("the second waits", || {
        name().is_ok_and(|name| name == "rustmemc\n") && second.waits("rustmemc") > 0
    });
    first.signal("KILL");
    assert_eq!(second.count("curr_items"), 1);
}

#[test]
fn a_server_that_lost_its_name_to_another_server_leaves_that_one_alone() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let first = spawn(&path, "");
    first.client().check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
    fs::remove_file(&path).expect("it is there");
    let second = spawn(&path, "");
    second.client().check("set k 0 0 1\r\n2\r\n", "STORED\r\n");
    eventually("the first prints it", || {
        first
            .stderr()
            .contains("another server uses the file of this name now")
    });
    stop(first);
    second.signal("KILL");
    second.outcome();
    assert_eq!(folder.names(), ["aof"]);
    spawn(&path, "")
        .client()
        .check("get k\r\n", "VALUE k 0 1\r\n2\r\nEND\r\n");
}

#[test]
fn a_start_removes_no_file_that_is_not_of_an_interrupted_rewrite() {
    let folder = Folder::new();
    let rewrite = folder.file("aof.rewrite");
    fs::write(&rewrite, "a diary").expect("it can be written");
    stop(spawn(&folder.file("aof"), ""));
    assert_eq!(content(&rewrite), b"a diary");
    // The log of a server that runs.
    fs::remove_file(&rewrite).expect("it is there");
    let other = spawn(&rewrite, "");
    stop(spawn(&folder.file("aof"), ""));
    assert!(rewrite.exists());
    stop(other);
}

#[test]
fn with_fresh_a_log_behind_a_link_is_moved_and_the_link_stays() {
    let folder = Folder::new();
    let (path, link) = (folder.file("real"), folder.file("link"));
    write_log(&path, 10);
    symlink(&path, &link).expect("a link can be made");
    let server = spawn(&link, "--fresh");
    server.client().check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
    stop(server);
    assert_eq!(fs::read_link(&link).expect("it is a link"), path);
    assert_eq!(spawn(&link, "").count("curr_items"), 1);
    named(&folder, "real.old-");
}

#[test]
fn a_torn_record_whose_key_has_zero_bytes_is_torn_and_not_damaged() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let memory = Memory::open(&path, NOW);
    memory.check("set first 0 0 1\r\n1\r\n", "STORED\r\n");
    let length = content(&path).len();
    memory.check(b"set k\0\0key 0 0 1\r\n1\r\n", "STORED\r\n");
    let whole = content(&path);
    drop(memory);
    for end in length + 1..whole.len() {
        fs::write(&path, &whole[..end]).expect("it can be written");
        assert_eq!(Memory::open(&path, NOW).state().len(), 1, "cut at {end}");
    }
}

#[test]
fn a_log_that_is_removed_during_its_rewrite_is_there_after_the_stop() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let memory = Memory::open(&path, NOW);
    memory.check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
    // The server stops in the middle of a rewrite, of which only the keeper knows when it ends.
    memory.rewrite_and_meanwhile(|memory| {
        fs::remove_file(&path).expect("it is there");
        memory.close();
    });
    drop(memory);
    assert_eq!(Memory::open(&path, NOW).state().len(), 1);
}

#[test]
fn with_fresh_the_log_begins_empty_and_the_old_one_is_kept() {
    let folder = Folder::new();
    let path = folder.file("aof");
    write_log(&path, 10);
    let old = content(&path);
    let server = spawn(&path, "--fresh");
    assert_eq!(server.count("curr_items"), 0);
    let kept = named(&folder, "aof.old-");
    assert!(server.stderr().contains(&kept.display().to_string()));
    assert!(content(&kept) == old);
    // If there was no old file, none is kept.
    let other = Folder::new();
    stop(spawn(&other.file("aof"), "--fresh"));
    assert_eq!(other.names(), ["aof"]);
}

#[test]
fn items_and_flushes_work_in_2040_and_survive_a_restart_then() {
    const IN_2040: u32 = 2_208_988_800;
    let folder = Folder::new();
    let memory = Memory::open(&folder.file("aof"), IN_2040);
    memory.check(
        "set k 0 60 1\r\n1\r\nset forever 0 0 1\r\n1\r\n",
        "STORED\r\nSTORED\r\n",
    );
    memory.check(
        "set touched 0 0 1\r\n1\r\ntouch touched 90\r\n",
        "STORED\r\nTOUCHED\r\n",
    );
    memory.check("ms stale 1\r\n1\r\nmd stale I T90\r\n", "HD\r\nHD\r\n");
    memory.check("flush_all 100\r\n", "OK\r\n");
    let memory = memory.restart(59);
    memory.check("mg k t v\r\n", "VA 1 t1\r\n1\r\n");
    memory.pass(1).check("mg k t v\r\n", "EN\r\n");
    memory.check("mg touched t\r\nmg stale t\r\n", "HD t30\r\nHD t30 X W\r\n");
    memory.rewrite();
    let memory = memory.restart(30);
    memory.check("mg touched t\r\nmg forever t\r\n", "EN\r\nHD t-1\r\n");
    memory.restart(10).check("mg forever t\r\n", "EN\r\n");
}
