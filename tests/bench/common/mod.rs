//! What the benchmarks share: the servers, a client, tables with bounds, and some arithmetic.

// Each benchmark uses only a part of this.
#![allow(dead_code, unused_imports)]
// Only lists that were just made are indexed here.
#![allow(clippy::indexing_slicing)]

use std::fmt::Display;
use std::io;
use std::str::FromStr;
use std::time::Duration;

mod client;
mod report;
mod server;

// The tests use these too.
#[path = "../../common/folder.rs"]
#[allow(clippy::expect_used)]
mod folder;
#[path = "../../common/random.rs"]
mod random;
#[path = "../../common/system.rs"]
mod system;

pub use client::{Client, PIECE, connect, key_name};
pub use folder::Folder;
pub use random::{Random, mix};
pub use report::{Bound, Cell, Report, print, run};
pub use server::{Program, Server, memcached, memtier, ourselves, programs, redis, rustmemc};

/// How long a client waits for an answer. If a server hangs, the benchmark ends with an error.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The number of a key. All benchmarks number their keys.
pub type Key = u32;

/// The smallest, the median and the largest, of at least one value.
pub fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let (last, middle) = (values.len() - 1, values.len() / 2);
    // For an even count this is the average of the two values in the middle, and for an odd count both are the same.
    let median = (values[last - middle] + values[middle]) / 2.0;
    [values[0], median, values[last]]
}

/// How many times as large these values are as those, pair by pair: median (smallest–largest).
pub fn ratio(these: &[f64], those: &[f64]) -> String {
    let ratios = these.iter().zip(those).map(|(this, that)| this / that);
    let [min, median, max] = spread(ratios.collect());
    format!("{median:.2} ({min:.2}–{max:.2})")
}

/// A number from the command line.
pub fn number<T: FromStr + PartialOrd + Display>(text: &str, least: T, most: T) -> io::Result<T> {
    let number = text.parse().ok();
    let number = number.filter(|number| (&least..=&most).contains(&number));
    number
        .ok_or_else(|| io::Error::other(format!("{text:?} is not a number from {least} to {most}")))
}

/// The error for an argument that a benchmark does not know, or whose value is missing.
pub fn wrong(argument: &str, what: &str) -> io::Error {
    io::Error::other(format!(
        "{argument:?} {what}; ARGS=--help lists the options"
    ))
}
