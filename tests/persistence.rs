//! A restart loses no change: every item is there with its value, flags, cas unique and the second of its expiry, and
//! removed items do not come back.
//!
//! A restart in these tests is a store that is dropped without closing its log, as after `kill -9`, and another store
//! that replays the file. (`crashes.rs` does that with real processes.)
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::folder::Folder;
use common::memory::{Memory, NOW, assert_same};

/// Lets `before` change a store, restarts it, and lets `after` check the result. The whole state must be the same as
/// before the restart too: all values, flags, cas uniques and expiries. All this is done once more with a file that is
/// rewritten before the restart.
#[track_caller]
fn check(before: impl Fn(&Memory), after: impl Fn(&Memory)) {
    check_later(0, before, after);
}

/// The same with this number of seconds between stop and start.
#[track_caller]
fn check_later(seconds: u32, before: impl Fn(&Memory), after: impl Fn(&Memory)) {
    for rewritten in [false, true] {
        let folder = Folder::new();
        let memory = Memory::open(&folder.file("aof"), NOW);
        before(&memory);
        if rewritten {
            memory.rewrite();
        }
        let restarted = memory.successor(seconds);
        let when = format!("after a restart (rewritten: {rewritten})");
        assert_same(&restarted.state(), &memory.pass(seconds).state(), &when);
        after(&restarted);
    }
}

#[test]
fn items_stored_by_classic_commands_survive_a_restart() {
    let long = "0123456789".repeat(50_000);
    let set_long = format!("set long 0 0 500000\r\n{long}\r\n");
    let has_long = format!("VALUE long 0 500000\r\n{long}\r\nEND\r\n");
    check(
        |memory| {
            memory
                .check("set a 4294967295 0 3\r\nold\r\n", "STORED\r\n")
                .check("set a 1 0 3\r\nnew\r\n", "STORED\r\n")
                .check("add b 2 0 3\r\nadd\r\n", "STORED\r\n")
                .check("add b 3 0 2\r\nno\r\n", "NOT_STORED\r\n")
                .check("replace b 4 0 7\r\nreplace\r\n", "STORED\r\n")
                .check("set c 5 0 3\r\nmid\r\n", "STORED\r\n")
                .check("append c 0 0 4\r\n-end\r\n", "STORED\r\n")
                .check("prepend c 0 0 6\r\nstart-\r\n", "STORED\r\n")
                .check("set d 6 0 0\r\n\r\n", "STORED\r\n");
            let cas = format!("cas d 7 0 8 {}\r\ncompared\r\n", memory.cas("d"));
            memory
                .check(&cas, "STORED\r\n")
                .check(&cas, "EXISTS\r\n")
                .check(&set_long, "STORED\r\n")
                .check("set quiet 0 0 1 noreply\r\nq\r\n", "");
        },
        |memory| {
            memory
                .check(
                    "get a b\r\n",
                    "VALUE a 1 3\r\nnew\r\nVALUE b 4 7\r\nreplace\r\nEND\r\n",
                )
                .check(
                    "get c d\r\n",
                    "VALUE c 5 13\r\nstart-mid-end\r\nVALUE d 7 8\r\ncompared\r\nEND\r\n",
                )
                .check("get long\r\n", &has_long)
                .check("get quiet\r\n", "VALUE quiet 0 1\r\nq\r\nEND\r\n");
        },
    );
}

#[test]
fn values_of_any_bytes_survive_a_restart_even_if_they_look_like_records() {
    let all_bytes: Vec<u8> = (0..=255).collect();
    let set = [&b"set any 0 0 256\r\n"[..], &all_bytes, b"\r\n"].concat();
    let has = [&b"VALUE any 0 256\r\n"[..], &all_bytes, b"\r\nEND\r\n"].concat();
    check(
        |memory| {
            memory
                .check(&set, "STORED\r\n")
                .check("set empty 9 0 0\r\n\r\n", "STORED\r\n")
                .check("set ends 0 0 4\r\n\r\n\r\n\r\n", "STORED\r\n")
                .check("set like 0 0 13\r\nflush_all 0\r\n\r\n", "STORED\r\n");
        },
        |memory| {
            memory
                .check("get any\r\n", &has)
                .check("get empty\r\n", "VALUE empty 9 0\r\n\r\nEND\r\n")
                .check("get ends\r\n", "VALUE ends 0 4\r\n\r\n\r\n\r\nEND\r\n")
                .check(
                    "get like\r\n",
                    "VALUE like 0 13\r\nflush_all 0\r\n\r\nEND\r\n",
                );
        },
    );
}

#[test]
fn results_of_incr_and_decr_survive_a_restart() {
    check(
        |memory| {
            memory
                .check("set n 3 0 2\r\n98\r\n", "STORED\r\n")
                .check("incr n 1\r\n", "99\r\n")
                .check("incr n 1\r\n", "100\r\n")
                .check("decr n 95\r\n", "5\r\n")
                .check("ma new N0 J7 v\r\n", "VA 1\r\n7\r\n")
                .check("ma new D5 MD v\r\n", "VA 1\r\n2\r\n")
                .check("ma unique N0 J1 E1000 c\r\n", "HD c1000\r\n");
        },
        |memory| {
            memory
                // Like memcached, `decr` keeps the length of the value: two spaces are part of it.
                .check("mg n v f\r\n", "VA 3 f3\r\n5  \r\n")
                .check("incr n 1\r\n", "6\r\n")
                .check("get new\r\n", "VALUE new 0 1\r\n2\r\nEND\r\n")
                .check("mg unique v c\r\n", "VA 1 c1000\r\n1\r\n");
        },
    );
}

#[test]
fn an_item_expires_at_the_same_time_with_or_without_a_restart() {
    let set = |memory: &Memory| {
        memory
            .check("set soon 0 20 1\r\ns\r\n", "STORED\r\n")
            .check("set day 0 86400 1\r\nd\r\n", "STORED\r\n")
            .check("set dated 0 1900000500 1\r\nd\r\n", "STORED\r\n")
            .check("set forever 0 0 1\r\nf\r\n", "STORED\r\n")
            .check("mg vivified N20\r\n", "HD W\r\n")
            .check("ma counted N20 T500\r\n", "HD\r\n");
    };
    check_later(10, set, |memory| {
        memory
            .check("mg soon t\r\n", "HD t10\r\n")
            .check("mg day t\r\n", "HD t86390\r\n")
            .check("mg dated t\r\n", "HD t490\r\n")
            .check("mg forever t\r\n", "HD t-1\r\n")
            .check("mg counted t\r\n", "HD t490\r\n");
        assert_eq!(memory.state()["vivified"].expiry, Some(NOW + 20));
    });
    check_later(20, set, |memory| {
        memory.check("mg soon t\r\n", "EN\r\n");
        memory.check("mg vivified t\r\n", "EN\r\n");
    });
}

#[test]
fn a_touched_item_survives_a_restart_after_its_first_expiry() {
    check_later(
        100,
        |memory| {
            for key in ["touch", "gat", "gats", "mg", "ma", "md", "ever"] {
                memory.check(format!("set {key} 0 20 1\r\n1\r\n"), "STORED\r\n");
            }
            memory.pass(10);
            let cas = memory.cas("gats");
            memory
                .check("touch touch 1000\r\n", "TOUCHED\r\n")
                .check("gat 1000 gat\r\n", "VALUE gat 0 1\r\n1\r\nEND\r\n")
                .check(
                    "gats 1000 gats\r\n",
                    format!("VALUE gats 0 1 {cas}\r\n1\r\nEND\r\n"),
                )
                .check("mg mg T1000\r\n", "HD\r\n")
                .check("ma ma T1000\r\n", "HD\r\n")
                .check("md md I T1000\r\n", "HD\r\n")
                .check("touch ever 0\r\n", "TOUCHED\r\n");
            memory.pass(20);
        },
        |memory| {
            for key in ["touch", "gat", "gats", "mg", "ma"] {
                memory.check(format!("mg {key} t\r\n"), "HD t880\r\n");
            }
            memory
                .check("mg md t\r\n", "HD t880 X W\r\n")
                .check("mg ever t\r\n", "HD t-1\r\n");
        },
    );
}

#[test]
fn an_expiry_that_a_touch_made_earlier_survives_a_restart() {
    check_later(
        10,
        |memory| {
            for key in ["shorter", "now", "gat", "mg", "negative"] {
                memory.check(format!("set {key} 0 0 1\r\n1\r\n"), "STORED\r\n");
            }
            memory
                .check("touch shorter 15\r\n", "TOUCHED\r\n")
                .check("touch now -1\r\n", "TOUCHED\r\n")
                .check("gat -1 gat\r\n", "VALUE gat 0 1\r\n1\r\nEND\r\n")
                .check("mg mg T-1\r\n", "HD\r\n")
                .check("set negative 0 -1 1\r\n2\r\n", "STORED\r\n");
        },
        |memory| {
            memory
                .check("mg shorter t\r\n", "HD t5\r\n")
                .check("get now gat mg negative\r\n", "END\r\n");
        },
    );
}

#[test]
fn deleted_items_stay_deleted_after_a_restart() {
    check(
        |memory| {
            for key in ["delete", "md", "quiet", "large", "again", "kept"] {
                memory.check(format!("set {key} 0 0 3\r\nold\r\n"), "STORED\r\n");
            }
            let too_large = format!("set large 0 0 9000000\r\n{}\r\n", "x".repeat(9_000_000));
            memory
                .check("delete delete\r\n", "DELETED\r\n")
                .check("md md\r\n", "HD\r\n")
                .check("md quiet q\r\n", "")
                .check("delete again\r\n", "DELETED\r\n")
                .check("set again 0 0 3\r\nnew\r\n", "STORED\r\n")
                // A client that wanted to replace a value must not read the old value afterwards.
                .check(too_large, "SERVER_ERROR object too large for cache\r\n");
        },
        |memory| {
            memory
                .check("get delete md quiet large\r\n", "END\r\n")
                .check(
                    "get again kept\r\n",
                    "VALUE again 0 3\r\nnew\r\nVALUE kept 0 3\r\nold\r\nEND\r\n",
                );
        },
    );
}

#[test]
fn items_stored_by_meta_commands_survive_a_restart() {
    check(
        |memory| {
            memory
                .check("ms set 1 F7 T600\r\ns\r\n", "HD\r\n")
                .check("ms add 1 ME\r\na\r\n", "HD\r\n")
                .check("ms add 1 ME\r\nb\r\n", "NS\r\n")
                .check("ms set 2 MA\r\n-a\r\n", "HD\r\n")
                .check("ms set 2 MP\r\np-\r\n", "HD\r\n")
                .check("ms set-2 1 MR\r\nr\r\n", "NS\r\n")
                .check("ms add 1 MR F1\r\nr\r\n", "HD\r\n")
                .check("ms vivified 1 MA N300\r\nv\r\n", "HD\r\n")
                .check("ms chosen 1 E77\r\nc\r\n", "HD\r\n")
                .check("ms chosen 2 C77 E78\r\ncc\r\n", "HD\r\n")
                .check("ms chosen 3 C77 E79\r\nccc\r\n", "EX\r\n")
                .check("ms emptied 4 F5 E80\r\nfull\r\n", "HD\r\n")
                .check("md emptied x F6 T90 E81\r\n", "HD\r\n");
        },
        |memory| {
            memory
                .check("mg set v f t\r\n", "VA 5 f7 t600\r\np-s-a\r\n")
                .check("mg add v f\r\n", "VA 1 f1\r\nr\r\n")
                .check("mg set-2\r\n", "EN\r\n")
                .check("mg vivified v t\r\n", "VA 1 t300\r\nv\r\n")
                .check("mg chosen v c\r\n", "VA 2 c78\r\ncc\r\n")
                .check("mg emptied v f t c\r\n", "VA 0 f6 t90 c81\r\n\r\n");
        },
    );
}

#[test]
fn a_cas_unique_of_0_survives_a_restart_like_any_other() {
    check(
        |memory| {
            memory
                .check("mg vivified N0 E0\r\n", "HD W\r\n")
                .check("ma counted N0 E0\r\n", "HD\r\n")
                .check("ms emptied 1\r\n1\r\n", "HD\r\n")
                .check("md emptied x E0\r\n", "HD\r\n")
                .check("ms stale 1\r\n1\r\n", "HD\r\n")
                .check("md stale I E0\r\n", "HD\r\n");
        },
        |memory| {
            memory.check("mg counted v\r\n", "VA 1\r\n0\r\n");
        },
    );
}

#[test]
fn a_stale_item_is_still_stale_after_a_restart_and_can_be_won_again() {
    check(
        |memory| {
            memory
                .check("ms stale 3 T600\r\nold\r\n", "HD\r\n")
                .check("md stale I T30\r\n", "HD\r\n")
                .check("mg stale v\r\n", "VA 3 X W\r\nold\r\n")
                .check("mg stale v\r\n", "VA 3 Z X\r\nold\r\n")
                // This `ms` is too late, and its item is stored as stale.
                .check("ms late 3 E100\r\nold\r\n", "HD\r\n")
                .check("ms late 4 C99 I E101\r\nlate\r\n", "HD\r\n")
                .check("ms fresh 3\r\nold\r\n", "HD\r\n")
                .check("md fresh I\r\n", "HD\r\n")
                .check("ms fresh 3\r\nnew\r\n", "HD\r\n")
                .check("ms touched 3\r\nold\r\n", "HD\r\n")
                .check("md touched I\r\n", "HD\r\n")
                .check("touch touched 40\r\n", "TOUCHED\r\n");
        },
        |memory| {
            memory
                .check("mg stale v t\r\n", "VA 3 t30 X W\r\nold\r\n")
                .check("mg stale v\r\n", "VA 3 Z X\r\nold\r\n")
                .check("mg late v c\r\n", "VA 4 c101 X W\r\nlate\r\n")
                .check("mg fresh v\r\n", "VA 3\r\nnew\r\n")
                .check("mg touched v t\r\n", "VA 3 t40 X W\r\nold\r\n");
        },
    );
}

#[test]
fn keys_of_any_bytes_survive_a_restart() {
    let longest = "k".repeat(250);
    check(
        |memory| {
            memory
                .check("set h\u{e9}llo\u{20ac} 0 0 1\r\n1\r\n", "STORED\r\n")
                .check(b"set \x80\xff 0 0 1\r\n2\r\n", "STORED\r\n")
                .check(format!("set {longest} 0 0 1\r\n3\r\n"), "STORED\r\n")
                // "a b", "a\r\nb", "flush_all", and four bytes that are not text.
                .check("ms YSBi 1 b\r\n4\r\n", "HD\r\n")
                .check("ms YQ0KYg== 1 b\r\n5\r\n", "HD\r\n")
                .check("ms Zmx1c2hfYWxs 1 b\r\n6\r\n", "HD\r\n")
                .check("ms AAF/gA== 1 b\r\n7\r\n", "HD\r\n")
                // Every other kind of record about such a key.
                .check("ms AA== 1 b\r\n8\r\n", "HD\r\n")
                .check("md AA== b\r\n", "HD\r\n")
                .check("ms AQ== 1 b\r\n9\r\n", "HD\r\n")
                .check("mg AQ== b T50\r\n", "HD\r\n")
                .check("ms Ag== 1 b\r\n9\r\n", "HD\r\n")
                .check("md Ag== b I\r\n", "HD\r\n");
        },
        |memory| {
            memory
                .check("mg h\u{e9}llo\u{20ac} v\r\n", "VA 1\r\n1\r\n")
                .check(b"mg \x80\xff v\r\n", "VA 1\r\n2\r\n")
                .check(format!("mg {longest} v\r\n"), "VA 1\r\n3\r\n")
                .check("mg YSBi b v k\r\n", "VA 1 kYSBi b\r\n4\r\n")
                .check("mg YQ0KYg== b v k\r\n", "VA 1 kYQ0KYg== b\r\n5\r\n")
                .check("mg flush_all v k\r\n", "VA 1 kZmx1c2hfYWxs b\r\n6\r\n")
                .check("mg AAF/gA== b v\r\n", "VA 1\r\n7\r\n")
                .check("mg AA== b v\r\n", "EN\r\n")
                .check("mg AQ== b v t\r\n", "VA 1 t50\r\n9\r\n")
                .check("mg Ag== b v\r\n", "VA 1 X W\r\n9\r\n");
        },
    );
}

#[test]
fn a_key_with_a_control_character_is_shown_the_same_after_a_restart() {
    check(
        |memory| {
            memory.check("set with\ttab 0 0 1\r\n1\r\n", "STORED\r\n");
        },
        |memory| {
            memory.check("mg with\ttab v k\r\n", "VA 1 kwith\ttab\r\n1\r\n");
        },
    );
}

#[test]
fn a_long_key_with_a_control_character_does_not_make_the_file_unreadable() {
    // In base64 it would be longer than a key may be.
    let key = format!("{}\t{}", "k".repeat(124), "k".repeat(125));
    check(
        |memory| {
            memory.check(format!("set {key} 0 0 1\r\n1\r\n"), "STORED\r\n");
        },
        |memory| {
            memory.check(format!("mg {key} v\r\n"), "VA 1\r\n1\r\n");
        },
    );
}

#[test]
fn flushed_items_stay_flushed_after_a_restart() {
    check(
        |memory| {
            memory
                .check("set before 0 0 1\r\n1\r\n", "STORED\r\n")
                .check("flush_all\r\n", "OK\r\n")
                .check("set after 0 0 1\r\n2\r\n", "STORED\r\n");
        },
        |memory| {
            memory.check("get before after\r\n", "VALUE after 0 1\r\n2\r\nEND\r\n");
        },
    );
}

#[test]
fn a_delayed_flush_still_happens_after_a_restart() {
    let before = |memory: &Memory| {
        memory
            .check("set k 0 0 1\r\n1\r\n", "STORED\r\n")
            .check("flush_all 100\r\n", "OK\r\n");
    };
    check_later(50, before, |memory| {
        memory
            .check("set since 0 0 1\r\n2\r\n", "STORED\r\n")
            .check("mg k\r\n", "HD\r\n")
            .pass(50)
            .check("get k since\r\n", "END\r\n")
            // It happens only once.
            .check("set k 0 0 1\r\n3\r\n", "STORED\r\n")
            .pass(100)
            .check("mg k\r\n", "HD\r\n");
    });
}

#[test]
fn a_flush_that_came_due_while_the_server_was_down_removes_everything() {
    let folder = Folder::new();
    let memory = Memory::open(&folder.file("aof"), NOW);
    memory
        .check("set k 0 0 1\r\n1\r\n", "STORED\r\n")
        .check("flush_all 100\r\n", "OK\r\n")
        .check("set since 0 0 1\r\n1\r\n", "STORED\r\n");
    let memory = memory.restart(1000);
    memory
        .check("get k since\r\n", "END\r\n")
        .check("set k 0 0 1\r\n2\r\n", "STORED\r\n");
    // It does not happen again.
    memory.restart(1000).check("mg k v\r\n", "VA 1\r\n2\r\n");
}

#[test]
fn a_cancelled_delayed_flush_does_not_happen_after_a_restart() {
    for other in [
        "flush_all\r\n",
        "flush_all 2592001\r\n",
        "flush_all 500\r\n",
    ] {
        check_later(
            200,
            |memory| {
                memory
                    .check("flush_all 100\r\n", "OK\r\n")
                    .check(other, "OK\r\n")
                    .check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
            },
            |memory| {
                memory.check("mg k v\r\n", "VA 1\r\n1\r\n");
            },
        );
    }
}

#[test]
fn a_cas_unique_read_before_a_restart_is_valid_after_it() {
    check(
        |memory| {
            memory
                .check("ms k 3 E41\r\nold\r\n", "HD\r\n")
                .check("set other 0 0 1\r\n1\r\n", "STORED\r\n");
        },
        |memory| {
            memory
                .check("cas k 0 0 3 41\r\nnew\r\n", "STORED\r\n")
                .check("cas k 0 0 3 41\r\nbad\r\n", "EXISTS\r\n")
                .check("mg k v\r\n", "VA 3\r\nnew\r\n");
        },
    );
}

/// Calls `last_unique`, which runs commands and returns the last cas unique of the store. Then restarts the store. The
/// next cas unique must be greater. Otherwise a client with the old one could replace a value that it has never read.
#[track_caller]
fn check_next_unique(last_unique: impl Fn(&Memory) -> u64) {
    for rewritten in [false, true] {
        let folder = Folder::new();
        let memory = Memory::open(&folder.file("aof"), NOW);
        let last = last_unique(&memory);
        if rewritten {
            memory.rewrite();
        }
        // Two restarts: the first one must not lose what the second one needs.
        let memory = memory.restart(1).restart(1);
        memory.check("set next 0 0 1\r\n1\r\n", "STORED\r\n");
        let next = memory.cas("next");
        assert!(next > last, "{next} after {last} (rewritten: {rewritten})");
    }
}

#[test]
fn no_cas_unique_is_repeated_after_a_restart() {
    check_next_unique(|memory| {
        for _ in 0..10 {
            memory.check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
        }
        memory.cas("k")
    });
}

#[test]
fn no_cas_unique_is_repeated_after_a_restart_even_if_its_item_is_gone() {
    for removal in [
        "delete k\r\n",
        "flush_all\r\n",
        "touch k -1\r\n",
        "set k 0 0 9000000\r\n",
    ] {
        check_next_unique(|memory| {
            memory
                .check("set first 0 0 1\r\n1\r\n", "STORED\r\n")
                .check("set k 0 0 1\r\n1\r\n", "STORED\r\n");
            let last = memory.cas("k");
            match removal.starts_with("set") {
                true => memory.say(format!("{removal}{}\r\n", "x".repeat(9_000_000))),
                false => memory.say(removal),
            };
            assert_eq!(memory.say("get k\r\n"), b"END\r\n");
            last
        });
    }
}

#[test]
fn no_cas_unique_is_repeated_after_a_restart_even_if_its_item_is_stale() {
    check_next_unique(|memory| {
        memory
            .check("set k 0 0 1\r\n1\r\n", "STORED\r\n")
            .check("md k I\r\n", "HD\r\n");
        memory.cas("k")
    });
}

#[test]
fn no_cas_unique_is_repeated_after_a_restart_even_if_its_item_expired_at_once() {
    check_next_unique(|memory| {
        let answer = memory.say("ms k 1 T-1 c\r\n1\r\n");
        let answer = String::from_utf8(answer).expect("it is plain text");
        let unique = answer.trim_end().strip_prefix("HD c");
        unique
            .and_then(|unique| unique.parse().ok())
            .expect("the answer shows the cas unique")
    });
}

#[test]
fn an_evicted_item_does_not_come_back_after_a_restart_even_if_it_was_deleted_since() {
    const ROOM: usize = 512 << 10;
    let folder = Folder::new();
    let memory = Memory::open_within(&folder.file("aof"), NOW, ROOM);
    let value = "v".repeat(5000);
    let keys: Vec<String> = (0..200).map(|n| format!("k{n}")).collect();
    for key in &keys {
        memory.check(format!("set {key} 0 0 5000\r\n{value}\r\n"), "STORED\r\n");
    }
    let state = memory.state();
    assert!(
        (10..150).contains(&state.len()),
        "some items are evicted and some stay: {} stay",
        state.len()
    );
    for key in keys.iter().filter(|key| !state.contains_key(*key)) {
        memory.check(format!("delete {key}\r\n"), "NOT_FOUND\r\n");
    }
    let (time, path) = (memory.now(), folder.file("aof"));
    drop(memory);
    let same_room = Memory::open_within(&path, time, ROOM).state();
    assert_same(&same_room, &state, "after a restart");
    let more_room = Memory::open(&path, time).state();
    assert_same(&more_room, &state, "after a restart with more memory");
}

#[test]
fn a_restart_with_less_memory_keeps_some_items_and_the_others_do_not_come_back() {
    let folder = Folder::new();
    let path = folder.file("aof");
    let memory = Memory::open(&path, NOW);
    for n in 0..200 {
        memory.check(
            format!("set k{n} 0 0 5000\r\n{}\r\n", "v".repeat(5000)),
            "STORED\r\n",
        );
    }
    drop(memory);
    let memory = Memory::open_within(&path, NOW, 512 << 10);
    let state = memory.state();
    assert!((10..150).contains(&state.len()), "{} are kept", state.len());
    for n in 0..200 {
        memory.say(format!("delete k{n}\r\n"));
    }
    drop(memory);
    assert_eq!(Memory::open(&path, NOW).state().len(), 0);
}

#[test]
fn expired_items_do_not_make_a_replay_evict_others() {
    const ROOM: usize = 512 << 10;
    let folder = Folder::new();
    let memory = Memory::open_within(&folder.file("aof"), NOW, ROOM);
    for n in 0..40 {
        memory.check(format!("set keep{n} 0 0 3\r\nold\r\n"), "STORED\r\n");
    }
    let value = "v".repeat(4000);
    for n in 0..1000 {
        memory.check(
            format!("set short{n} 0 1 4000\r\n{value}\r\n"),
            "STORED\r\n",
        );
        if n % 50 == 49 {
            memory.pass(1);
        }
    }
    let state = memory.state();
    assert_eq!(state.len(), 40, "only the short-lived items are removed");
    assert_same(&memory.restart(0).state(), &state, "after a restart");
}

#[test]
fn the_growth_of_a_replayed_file_is_measured_against_its_alive_items() {
    let folder = Folder::new();
    let memory = Memory::open(&folder.file("aof"), NOW);
    let value = "v".repeat(100);
    // Each of 100 values is replaced 50 times.
    for n in 0..5000 {
        let key = n % 100;
        memory.check(format!("set k{key} 0 0 100\r\n{value}\r\n"), "STORED\r\n");
    }
    let memory = memory.restart(0);
    let (size, base) = (memory.stat("aof_size"), memory.stat("aof_base_size"));
    memory.rewrite();
    let alive = memory.stat("aof_size");
    assert!(alive < size / 40, "{alive} of {size} bytes are alive");
    assert_eq!(memory.stat("aof_base_size"), alive, "after a rewrite");
    let is_near = base.abs_diff(alive) < alive / 4;
    assert!(
        is_near,
        "after a replay the base is {base} bytes, but {alive} bytes are alive"
    );
}
