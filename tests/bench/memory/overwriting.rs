//! `overwriting`: how much memory is resident with `-m 64` while 24 MB of items are overwritten, again and again. The
//! next key and the new size of its value are random. So few values fit into the place of the old ones, and the memory
//! of most old values must be used again.

use std::io;

use super::common::{Bound, Cell, Client, Key, Program, Random, Report};
use super::{LIMIT, MB, peak, start};

const ROUNDS: usize = 40;
/// With keys of 13 bytes, these are 24 MB.
const KEYS: usize = 48_500;
const SMALLEST: usize = 10;
const LARGEST: usize = 1000;
const MOST: Bound = Bound::AtMost(45.0);

pub fn overwriting(programs: &[Program], _rounds: usize, report: &mut Report) -> io::Result<()> {
    let title = format!("overwriting 24 MB, -m {LIMIT}");
    report.table(&title, programs, "items  MB RSS", "MB")?;
    let servers = programs
        .iter()
        .map(|program| start(program, LIMIT))
        .collect::<io::Result<Vec<_>>>()?;
    let mut clients = servers
        .iter()
        .map(|server| Client::connect(&server.address))
        .collect::<io::Result<Vec<_>>>()?;
    let (mut random, value) = (Random(0), [b'v'; LARGEST]);
    for round in 0..=ROUNDS {
        for number in 0..KEYS {
            let key = match round {
                0 => number,
                _ => random.below(KEYS),
            };
            let size = SMALLEST + random.below(LARGEST + 1 - SMALLEST);
            for client in &mut clients {
                client.set(key as Key, 0, value.split_at(size).0)?;
            }
        }
        let items = clients
            .iter_mut()
            .map(|client| client.stat("curr_items"))
            .collect::<io::Result<Vec<_>>>()?;
        if round % 10 == 0 {
            let cells: io::Result<Vec<_>> = servers
                .iter()
                .zip(items)
                .map(|(server, items)| {
                    let resident = server.resident()? as f64 / MB;
                    Ok(Cell::new(format!("{items} {resident:>7.1}"), resident))
                })
                .collect();
            report.row(&format!("after {round} times"), &cells?, Some(MOST))?;
        }
    }
    let peaks: io::Result<Vec<_>> = servers.iter().map(peak).collect();
    report.row("the maximum (VmHWM)", &peaks?, Some(MOST))
}
