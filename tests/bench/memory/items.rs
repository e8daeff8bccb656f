//! `items`: how much resident memory an item takes: its key of 13 bytes, its value, and the overhead. Nothing is
//! evicted, and this is checked at the end.

use std::io;

use super::common::{Bound, Cell, Client, Program, Report};
use super::{connect, start, store};

/// The number of items, the bytes of each value, and the bound.
const SIZES: [(usize, usize, f64); 3] = [
    (1_000_000, 32, 105.0),
    (1_000_000, 100, 172.0),
    (200_000, 1000, 1100.0),
];

pub fn items(programs: &[Program], _rounds: usize, report: &mut Report) -> io::Result<()> {
    report.table("items", programs, "bytes an item", "bytes")?;
    for (count, bytes, most) in SIZES {
        for connections in [1, 50] {
            let cells: io::Result<Vec<_>> = programs
                .iter()
                .map(|program| measure(program, count, bytes, connections))
                .collect();
            let name = format!("{count} of {bytes} bytes, connections: {connections}");
            report.row(&name, &cells?, Some(Bound::AtMost(most)))?;
        }
    }
    Ok(())
}

fn measure(program: &Program, count: usize, bytes: usize, connections: usize) -> io::Result<Cell> {
    let server = start(program, 1024)?;
    let mut clients = connect(&server, connections)?;
    let before = server.resident()?;
    store(&mut clients, count, 0, bytes)?;
    let grown = server.resident()?.saturating_sub(before);
    if Client::connect(&server.address)?.stat("curr_items")? != count as u64 {
        let name = program.name;
        return Err(io::Error::other(format!("{name} has lost items")));
    }
    Ok(Cell::number(grown as f64 / count as f64, 1))
}
