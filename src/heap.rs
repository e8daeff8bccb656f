//! How glibc's allocator is set up, on which it depends how much memory the process takes beyond what the items do.
//!
//! By itself glibc keeps a heap for every few threads, and each of them grows to what it ever had to hold. With
//! 100 clients and `-m 64`, values first of 50 bytes, then of 20 KB, then of all sizes, the process was measured to
//! take 133 MB; with one heap, and large values in mappings of their own that are given back as soon as they are
//! free, it took 99 MB. Neither can be asked for in std, but both in the environment, which is looked at when a
//! process starts.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What is set unless the user has set it, each with its name in the environment.
const SETTINGS: [(&str, &str); 2] = [
    // How many heaps there are.
    ("MALLOC_ARENA_MAX", "1"),
    // From how many bytes on an allocation is a mapping.
    ("MALLOC_MMAP_THRESHOLD_", "16384"),
];

/// Starts this program again, in the same process, with the environment that it needs; returns if it has that
/// already. If it cannot be started again it does without: it is only larger then.
pub fn set_up() {
    let is_set = |(name, _): &(&str, &str)| env::var_os(name).is_some();
    if cfg!(not(target_env = "gnu")) || SETTINGS.iter().any(is_set) {
        return;
    }
    if let Ok(program) = env::current_exe() {
        let mut again = Command::new(program);
        let mut args = env::args_os();
        if let Some(name) = args.next() {
            again.arg0(name);
        }
        // It returns only if it has failed.
        let _ = again.args(args).envs(SETTINGS).exec();
    }
}
