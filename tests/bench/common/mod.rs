//! What the benchmarks share: the servers, a client, tables with bounds, a generator of numbers.

// Each benchmark uses its part of this.
#![allow(dead_code, unused_imports)]
// What is indexed here are lists that were just made.
#![allow(clippy::indexing_slicing)]

use std::fmt::Display;
use std::io;
use std::str::FromStr;
use std::time::Duration;

mod client;
mod report;
mod server;

pub use client::{Client, PIECE, key_name};
pub use report::{Bound, Cell, Report, print, run};
pub use server::{Folder, Program, Server, memcached, ourselves, programs, redis, rustmemc};

/// No server needs this long for an answer. A server that hangs ends the benchmark with an error.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The number of a key: all benchmarks name their keys by numbers.
pub type Key = u32;

/// splitmix64: the same seed gives the same numbers everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From 0 to below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    /// From 0.0 to below 1.0.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The end of splitmix64, which by itself is a good hash of a number.
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The smallest, the median and the largest, of at least one value.
pub fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let (last, middle) = (values.len() - 1, values.len() / 2);
    // Of an even number the two in the middle are averaged; of an odd number they are the same one.
    let median = (values[last - middle] + values[middle]) / 2.0;
    [values[0], median, values[last]]
}

/// How many times as much these are as those, measured pair by pair: median (smallest–largest).
pub fn ratio(these: &[f64], those: &[f64]) -> String {
    let ratios = these.iter().zip(those).map(|(this, that)| this / that);
    let [min, median, max] = spread(ratios.collect());
    format!("{median:.2} ({min:.2}–{max:.2})")
}

/// A number on the command line.
pub fn number<T: FromStr + PartialOrd + Display>(text: &str, least: T, most: T) -> io::Result<T> {
    let number = text.parse().ok();
    let number = number.filter(|number| (&least..=&most).contains(&number));
    number
        .ok_or_else(|| io::Error::other(format!("{text:?} is not a number from {least} to {most}")))
}
