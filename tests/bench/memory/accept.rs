//! `accept`: how long it takes to accept and serve 900 clients that connect one after the other. A client that finds
//! the system's queue of new connections full waits a second. The bound is twice memcached's time.

use std::io;
use std::time::{Duration, Instant};

use super::common::{Bound, Cell, Client, Program, Report, spread};
use super::start;

/// Fewer than memcached's `-c`.
const CLIENTS: usize = 900;

/// How often a round starts each server. A wait of a second is rare.
const STARTS: usize = 5;

/// Who waited so long has found the queue full.
const LONG: Duration = Duration::from_millis(500);

/// What one server did in all rounds.
#[derive(Default)]
struct Seen {
    /// How long each start's clients took together, in ms.
    times: Vec<f64>,
    /// How many clients waited for a second.
    late: usize,
}

pub fn accept(programs: &[Program], rounds: usize, report: &mut Report) -> io::Result<()> {
    let mut seen: Vec<Seen> = programs.iter().map(|_| Seen::default()).collect();
    for _ in 0..rounds * STARTS {
        for (program, seen) in programs.iter().zip(&mut seen) {
            let server = start(program, 64)?;
            let begin = Instant::now();
            let mut clients = Vec::new();
            for _ in 0..CLIENTS {
                let connecting = Instant::now();
                clients.push(Client::connect(&server.address)?);
                seen.late += usize::from(connecting.elapsed() > LONG);
            }
            for client in &mut clients {
                client.ask("version")?;
            }
            seen.times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    let title = format!("accept: {CLIENTS} clients, {} starts", rounds * STARTS);
    report.table(&title, programs, "median (range)", "ms")?;
    let cell = |seen: &Seen| {
        let [least, median, most] = spread(seen.times.clone());
        Cell::new(format!("{median:.0} ({least:.0} to {most:.0})"), median)
    };
    let times: Vec<_> = seen.iter().map(cell).collect();
    let bound = times
        .get(1)
        .map(|memcached| Bound::AtMost(2.0 * memcached.figure));
    report.row("ms until all are served", &times, bound)?;
    let late: Vec<_> = seen
        .iter()
        .map(|seen| Cell::number(seen.late as f64, 0))
        .collect();
    report.row("clients that waited a second", &late, None)
}
