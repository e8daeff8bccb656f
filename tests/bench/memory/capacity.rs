//! `capacity`: how many items of about 50 bytes fit into `-m 64`. 100 clients store 192 MB: values of 45 to 55 bytes,
//! with keys of 13 bytes. Every third `set` is for a key that was used before. This is measured with a new server, and
//! again after `flush_all`.

use std::io;

use super::churn::{CHURNERS, Churn, SMALL};
use super::common::{Bound, Cell, Client, Program, Report};
use super::{LIMIT, MB};

const LEAST: f64 = 570_000.0;

pub fn capacity(programs: &[Program], _rounds: usize, report: &mut Report) -> io::Result<()> {
    let title = format!("capacity, -m {LIMIT}, connections: {CHURNERS}");
    report.table(&title, programs, "MB RSS    items", "items")?;
    let mut churns = programs
        .iter()
        .map(Churn::start)
        .collect::<io::Result<Vec<_>>>()?;
    let rows = [
        ("3 x 64 MB, ~50 bytes", false),
        ("flush_all, and the same again", true),
    ];
    for (name, flush) in rows {
        if flush {
            churns.iter().try_for_each(Churn::flush)?;
        }
        let cells: io::Result<Vec<_>> = churns.iter_mut().map(fill).collect();
        report.row(name, &cells?, Some(Bound::AtLeast(LEAST)))?;
    }
    Ok(())
}

fn fill(churn: &mut Churn) -> io::Result<Cell> {
    churn.fill(3 * LIMIT, 0, SMALL)?;
    let resident = churn.server.resident()? as f64 / MB;
    let items = Client::connect(&churn.server.address)?.stat("curr_items")? as f64;
    Ok(Cell::new(format!("{resident:.1} {items:>8}"), items))
}
