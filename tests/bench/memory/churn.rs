//! `churn`: how much memory is resident after several times `-m` of items in all sizes were stored, were flushed and
//! have expired. All of it is done twice. If half of `-m` can be stored without evictions after a flush or an expiry,
//! the memory of the old items is used again.

use std::io;
use std::thread;
use std::time::Duration;

use super::common::{Bound, Cell, Client, Key, Program, Random, Report, Server};
use super::{LIMIT, MB, RESIDENT, connect, peak, start, together};

pub const CHURNERS: usize = 100;
/// How far the first keys of two clients are apart.
const KEYS_APART: Key = 1_000_000;
const LONGEST: usize = 100_000;

/// Chooses the size of a value at random.
pub type Size = fn(&mut Random) -> usize;

/// About 50 bytes: 45 to 55.
pub const SMALL: Size = |random| 45 + random.below(11);
const LARGE: Size = |random| 19_000 + random.below(2_000);
/// 10 bytes to 100 KB: each order of magnitude has the same share.
const MIXED: Size = |random| (10.0 * 10f64.powf(4.0 * random.fraction())) as usize;

enum Step {
    /// Stores this number of megabytes of keys and values, with this exptime.
    Fill(usize, u32, Size),
    Flush,
    Wait(Duration),
}

const STEPS: [(&str, Step); 11] = [
    ("all are connected", Step::Wait(Duration::ZERO)),
    ("3 x 64 MB, ~50 bytes", Step::Fill(192, 0, SMALL)),
    ("3 x 64 MB, ~20 KB", Step::Fill(192, 0, LARGE)),
    ("3 x 64 MB, 10 bytes to 100 KB", Step::Fill(192, 0, MIXED)),
    ("flush_all", Step::Flush),
    ("16 MB, ~50 bytes", Step::Fill(16, 0, SMALL)),
    ("3 x 64 MB, ~50 bytes", Step::Fill(192, 0, SMALL)),
    (
        "3 x 64 MB, 10 bytes to 100 KB, 2 s",
        Step::Fill(192, 2, MIXED),
    ),
    ("5 s later", Step::Wait(Duration::from_secs(5))),
    ("32 MB, ~20 KB", Step::Fill(32, 0, LARGE)),
    ("flush_all", Step::Flush),
];

/// A server and its clients. Each client has keys of its own.
pub struct Churn {
    pub server: Server,
    churners: Vec<Churner>,
}

struct Churner {
    client: Client,
    random: Random,
    first: Key,
    /// How many keys it has used.
    used: usize,
}

impl Churn {
    pub fn start(program: &Program) -> io::Result<Self> {
        let server = start(program, LIMIT)?;
        let clients = connect(&server, CHURNERS)?;
        let churners = clients
            .into_iter()
            .zip(0..)
            .map(|(client, number)| Churner {
                client,
                random: Random(u64::from(number)),
                first: number * KEYS_APART,
                used: 0,
            });
        let churners = churners.collect();
        Ok(Churn { server, churners })
    }

    /// Stores this number of megabytes, all clients at the same time.
    pub fn fill(&mut self, megabytes: usize, exptime: u32, size: Size) -> io::Result<()> {
        let bytes = (megabytes << 20) / CHURNERS;
        together(&mut self.churners, |_, churner| {
            churner.fill(bytes, exptime, size)
        })
    }

    pub fn flush(&self) -> io::Result<()> {
        Client::connect(&self.server.address)?.ask("flush_all")?;
        // The server may free memory after it has answered.
        thread::sleep(Duration::from_secs(2));
        Ok(())
    }

    fn step(&mut self, step: &Step) -> io::Result<Cell> {
        let mut other = Client::connect(&self.server.address)?;
        let before = other.stat("evictions")?;
        match *step {
            Step::Fill(megabytes, exptime, size) => self.fill(megabytes, exptime, size)?,
            Step::Flush => self.flush()?,
            Step::Wait(time) => thread::sleep(time),
        }
        let evictions = other.stat("evictions")? - before;
        let resident = self.server.resident()? as f64 / MB;
        let count = other.stat("curr_items")?;
        let text = format!("{count} {evictions:>9} {resident:>7.1}");
        Ok(Cell::new(text, resident))
    }
}

impl Churner {
    /// Every third `set` is for a key that it has used before, with a new size.
    fn fill(&mut self, bytes: usize, exptime: u32, size: Size) -> io::Result<()> {
        let value = [b'v'; LONGEST];
        let mut sent = 0;
        while sent < bytes {
            let key = if self.used > 0 && self.random.below(3) == 0 {
                self.random.below(self.used)
            } else {
                self.used += 1;
                self.used - 1
            };
            let length = size(&mut self.random).min(LONGEST);
            let value = value.split_at(length).0;
            self.client.set(self.first + key as Key, exptime, value)?;
            sent += "key:000000000".len() + length;
        }
        self.client.ask("version").map(drop)
    }
}

pub fn churn(programs: &[Program], _rounds: usize, report: &mut Report) -> io::Result<()> {
    let title = format!("churn, -m {LIMIT}, connections: {CHURNERS}");
    let columns = "items evictions  MB RSS";
    report.table(&title, programs, columns, "MB")?;
    let mut churns = programs
        .iter()
        .map(Churn::start)
        .collect::<io::Result<Vec<_>>>()?;
    for time in 1..=2 {
        for (name, step) in &STEPS {
            let cells: io::Result<Vec<_>> =
                churns.iter_mut().map(|churn| churn.step(step)).collect();
            report.row(
                &format!("{time}: {name}"),
                &cells?,
                Some(Bound::AtMost(RESIDENT)),
            )?;
        }
    }
    let peaks: io::Result<Vec<_>> = churns.iter().map(|churn| peak(&churn.server)).collect();
    report.row(
        "the maximum (VmHWM)",
        &peaks?,
        Some(Bound::AtMost(RESIDENT)),
    )
}
