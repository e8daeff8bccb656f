//! A file of format 1, which the first versions wrote, is replayed, and what follows is of format 2. A crash at any
//! moment between the two loses nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::folder::{Folder, content};
use common::memory::{Memory, NOW, assert_same};
use common::process::{self, eventually};
use common::server;
use rustmemc::OpenError;

/// A file of the old format with every kind of record.
const OLD: &[&str] = &[
    "mn rustmemc 1 E0 O0b506acf\r\n",
    "ms flushed 1 E1 O2c524de2.76d32be0\r\n",
    "f\r\n",
    "flush_all 0 Oe265912c\r\n",
    "flush_all 1900000500 O2d55858b\r\n",
    "flush_all 0 Oe265912c\r\n",
    "ms text 11 F4294967295 E2 O847e7356.fa973792\r\n",
    "ms a 1\r\n",
    "b\r\n",
    "\r\n",
    "ms YSBi 3 b F9 T1900000600 E3 O28fe85f8.806c5cd3\r\n",
    "a b\r\n",
    "ms chosen 1 F3 E18446744073709551615 O16edd685.06b9df6f\r\n",
    "c\r\n",
    "ms stale 3 F2 T1900000900 E4 Ocd9a3f88.3f5dd4e5\r\n",
    "old\r\n",
    "md stale I T1900000300 E5 O42dcbfab\r\n",
    "ms touched 1 T1900000100 E6 O553c6291.83dcefb7\r\n",
    "1\r\n",
    "mg touched T1900005000 O04032459\r\n",
    "ms deleted 1 E7 O7d32fd70.83dcefb7\r\n",
    "1\r\n",
    "md deleted O493dc405\r\n",
    "ms negative 1 E8 Oa4a6caca.83dcefb7\r\n",
    "1\r\n",
    "md negative E9 O8a381e9b\r\n",
    "ms short 1 T1900000001 E10 O6bde7d1d.83dcefb7\r\n",
    "1\r\n",
    "mn rustmemc at 1900000002 672 E10 O21e91651\r\n",
    "flush_all 1900900002 Oe29f7784\r\n",
];

/// One that was written after January 2038.
const OLD_AND_LATE: &[&str] = &[
    "mn rustmemc 1 E0 O0b506acf\r\n",
    "ms late 1 F7 T2147483647 L2147484652 E1 O1430f9b5.83dcefb7\r\n",
    "1\r\n",
    "mg late T2147483647 L2147485652 O5d21d1f0\r\n",
];

/// Writes the old file, and opens it.
fn open_old(path: &Path) -> Memory {
    fs::write(path, OLD.concat()).expect("a file can be written");
    Memory::open(path, NOW + 2)
}

/// Writes the old file, and lets this server append a record to it.
fn write_old_and_append(path: &Path) {
    open_old(path).check("set new 0 0 2\r\n11\r\n", "STORED\r\n");
}

#[test]
fn a_file_of_format_1_is_replayed_with_all_its_items() {
    let folder = Folder::new();
    let memory = open_old(&folder.file("aof"));
    let state = memory.state();
    assert_eq!(
        state.keys().collect::<Vec<_>>(),
        ["a b", "chosen", "stale", "text", "touched"]
    );
    memory
        .check(
            "gets text\r\n",
            "VALUE text 4294967295 11 2\r\nms a 1\r\nb\r\n\r\nEND\r\n",
        )
        .check("mg YSBi b k f c t\r\n", "HD kYSBi b f9 c3 t598\r\n")
        .check("mg chosen f c t\r\n", "HD f3 c18446744073709551615 t-1\r\n")
        .check("mg touched c t\r\n", "HD c6 t4998\r\n");
    let stale = &state["stale"];
    assert_eq!((stale.stale, stale.cas, stale.flags), (true, 5, 2));
    assert_eq!((stale.expiry, &*stale.value), (Some(NOW + 300), "old"));
    // The file knows of the flush that is to come.
    memory.pass(900_100);
    assert_eq!(memory.state().len(), 0);

    let late = folder.file("late");
    fs::write(&late, OLD_AND_LATE.concat()).expect("a file can be written");
    let late = Memory::open(&late, u32::MAX / 2 + 5);
    late.check("mg late f t\r\n", "HD f7 t2000\r\n");
}

#[test]
fn no_cas_unique_of_a_file_of_format_1_is_given_out_again() {
    let folder = Folder::new();
    let memory = open_old(&folder.file("aof"));
    memory.check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
    let cas = memory.cas("k");
    // The old server may have given out more than the file has.
    assert!(cas > 1 << 32, "{cas}");
    let memory = memory.restart(0);
    memory.check("set k 0 0 1\r\n2\r\n", "STORED\r\n");
    assert!(memory.cas("k") > cas);
}

#[test]
fn what_follows_a_file_of_format_1_is_replayed_wherever_a_crash_cuts_it() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let memory = open_old(&path);
    let before = memory.state();
    assert_eq!(
        content(&path).len(),
        OLD.concat().len(),
        "nothing is written yet"
    );
    memory.check("set new 0 0 2\r\n11\r\n", "STORED\r\n");
    let one = (memory.stat("aof_size") as usize, memory.state());
    memory.check("delete text\r\n", "DELETED\r\n");
    let two = (memory.stat("aof_size") as usize, memory.state());
    drop(memory);
    let whole = content(&path);
    let (old, new) = whole.split_at(OLD.concat().len());
    assert!(old == OLD.concat().as_bytes() && new.starts_with(b"mn rustmemc 2 O"));
    assert_eq!(whole.len(), two.0);
    for cut in old.len()..=whole.len() {
        fs::write(&path, &whole[..cut]).expect("a file can be written");
        let expected = match cut {
            cut if cut >= two.0 => &two.1,
            cut if cut >= one.0 => &one.1,
            _ => &before,
        };
        let memory = Memory::open(&path, NOW + 2);
        assert_same(&memory.state(), expected, &format!("cut at {cut}"));
        // And what follows is replayed too, with or without a rewrite.
        memory.check("set after 0 0 1\r\n1\r\n", "STORED\r\n");
        let state = memory.state();
        let memory = memory.restart(0);
        assert_same(&memory.state(), &state, &format!("after a cut at {cut}"));
        memory.rewrite();
        assert!(content(&path).starts_with(b"mn rustmemc 2 O"));
        assert_same(&memory.restart(0).state(), &state, "after a rewrite");
    }
}

#[test]
fn every_flipped_bit_of_a_file_of_format_1_is_noticed() {
    let folder = Folder::new();
    let path = folder.file("aof");
    drop(open_old(&path));
    let whole = content(&path);
    for byte in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[byte] ^= 1 << bit;
            fs::write(&path, &flipped).expect("a file can be written");
            match Memory::try_open(&path, NOW, 1 << 20) {
                Err(OpenError::Damaged { .. }) => {}
                Err(OpenError::NotALog(_) | OpenError::NewerFormat { .. }) if byte < 15 => {}
                Err(error) => panic!("bit {bit} of byte {byte}: {error}"),
                Ok(_) => panic!("bit {bit} of byte {byte} is not noticed"),
            }
        }
    }
}

#[test]
fn a_server_that_starts_with_a_file_of_format_1_rewrites_it_soon() {
    let folder = Folder::new();
    let path = folder.file("aof");
    fs::write(&path, OLD.concat()).expect("a file can be written");
    let server = process::spawn(&format!("-c 8 --aof {}", path.display()));
    eventually("it is rewritten", || {
        content(&path).starts_with(b"mn rustmemc 2 O")
    });
    assert_eq!(server.count("curr_items"), 5);
    assert_eq!(server.count("aof_rewrites"), 1);
}

#[test]
fn a_file_of_format_1_to_which_format_2_was_appended_is_rewritten_too() {
    let folder = Folder::new();
    let path = folder.file("aof");
    write_old_and_append(&path);
    assert!(content(&path).starts_with(b"mn rustmemc 1 E"));
    let _server = process::spawn(&format!("-c 8 --aof {}", path.display()));
    eventually("it is rewritten", || {
        content(&path).starts_with(b"mn rustmemc 2 O")
    });
}

#[test]
fn memc_load_sends_a_file_of_format_1_and_what_follows_it() {
    let folder = Folder::new();
    let path = folder.file("aof");
    write_old_and_append(&path);
    let server = server("");
    let status = Command::new(env!("CARGO_BIN_EXE_memc"))
        .args(["load", "-s", &server.address.to_string()])
        .arg(&path)
        .status();
    assert!(status.expect("memc runs").success());
    server.client().check(
        "get text new deleted\r\n",
        "VALUE text 4294967295 11\r\nms a 1\r\nb\r\n\r\nVALUE new 0 2\r\n11\r\nEND\r\n",
    );
}
