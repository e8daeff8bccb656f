//! How glibc's allocator is set up, on which it depends how much memory the process takes beyond what the items do.
//!
//! By itself glibc keeps a heap for every few threads, and each of them stays as large as it ever was. With 100
//! clients and `-m 64`, and values first of 50 bytes, then of 20 KB, then of all sizes, the process was measured to
//! take 101, 118 and 126 MB; with one heap 86, 98 and 98. How many there are cannot be said in std, but in the
//! environment, which glibc looks at when a process starts.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// glibc's name for the number of heaps.
const HEAPS: &str = "MALLOC_ARENA_MAX";

/// Starts this program again, in this same process, with one heap; returns if that is done, or if the user has
/// said how many there are to be. If it cannot be started again it does without: it only takes more memory then.
pub fn use_one() {
    if cfg!(not(target_env = "gnu")) || env::var_os(HEAPS).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut args = env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    // It comes back only if it has failed.
    let _ = again.args(args).env(HEAPS, "1").exec();
}
