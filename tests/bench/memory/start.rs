//! `start`: how long an empty server takes from its start to its first answer, and how much memory it has then.
//! rustmemc runs with its defaults here, so it has an append-only file. The figures are medians of 20 starts. The bound
//! is one and a half times memcached's.

use std::io;
use std::time::Instant;

use super::MB;
use super::common::{Bound, Cell, Client, Program, Report, memcached, rustmemc, spread};

const STARTS: usize = 20;

pub fn start(_programs: &[Program], _rounds: usize, report: &mut Report) -> io::Result<()> {
    let mut programs = vec![rustmemc("--aof rustmemc.aof")?];
    programs.extend(memcached()?);
    let (mut times, mut sizes) = (
        vec![Vec::new(); programs.len()],
        vec![Vec::new(); programs.len()],
    );
    for _ in 0..STARTS {
        for ((program, times), sizes) in programs.iter().zip(&mut times).zip(&mut sizes) {
            let start = Instant::now();
            let server = program.start(&[])?;
            Client::connect(&server.address)?.ask("version")?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            sizes.push(server.resident()? as f64 / MB);
        }
    }
    let columns = "median (range)";
    report.table("start", &programs, columns, "ms")?;
    let times = cells(times);
    let bound = times
        .get(1)
        .map(|memcached| Bound::AtMost(1.5 * memcached.figure));
    report.row("ms to the first answer", &times, bound)?;
    report.table("start", &programs, columns, "MB")?;
    let bound = Some(Bound::AtMost(6.0));
    report.row("MB resident", &cells(sizes), bound)
}

fn cells(servers: Vec<Vec<f64>>) -> Vec<Cell> {
    let cell = |figures| {
        let [least, median, most] = spread(figures);
        Cell::new(format!("{median:.2} ({least:.2} to {most:.2})"), median)
    };
    servers.into_iter().map(cell).collect()
}
