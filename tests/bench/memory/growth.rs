//! `growth`: how much memory is resident with `-m 64` while values grow from 50 bytes to 20 KB. Each size is a step of
//! 64 MB. One item in 16 of each step is kept alive by reads until the end of the round. A store that cannot reuse the
//! memory between the items that stay alive grows with every step. There are three rounds.
//!
//! Each step is stored by 100 new connections. An allocator may give each thread an arena of its own, and then the
//! memory that was freed for one client is not reused for the next. With one connection for everything, even a store
//! that allocates each item separately stays within the bound.

use std::io;

use super::common::{Bound, Client, Key, Program, Report, Server};
use super::{LIMIT, RESIDENT, connect, peak, resident, start, together};

const ROUNDS: usize = 3;
const SIZES: [usize; 9] = [50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000];
const WRITERS: usize = 100;
const KEYS_APART: Key = 1_000_000;
/// One item in this number is kept alive.
const KEPT_OF: Key = 16;
/// The kept items are read each time this number of megabytes was stored.
const READ_EVERY: usize = 16;
/// The keys of one `get`.
const AT_ONCE: usize = 50;

/// A server, and the clients whose values grow.
struct Growth {
    server: Server,
    writers: Vec<Writer>,
}

/// The keys of one client. The client that takes its place in the next step continues with them.
struct Writer {
    next: Key,
    kept: Vec<Key>,
}

impl Growth {
    fn start(program: &Program) -> io::Result<Self> {
        let server = start(program, LIMIT)?;
        let writers = (0..WRITERS as Key).map(|number| Writer {
            next: number * KEYS_APART,
            kept: Vec::new(),
        });
        let writers = writers.collect();
        Ok(Growth { server, writers })
    }

    fn step(&mut self, size: usize) -> io::Result<()> {
        let clients = connect(&self.server, WRITERS)?;
        let mut both: Vec<_> = clients.into_iter().zip(&mut self.writers).collect();
        together(&mut both, |_, (client, writer)| {
            for _ in 0..LIMIT / READ_EVERY {
                writer.store((READ_EVERY << 20) / WRITERS, size, client)?;
                writer.read(client)?;
            }
            Ok(())
        })
    }
}

impl Writer {
    fn store(&mut self, bytes: usize, size: usize, client: &mut Client) -> io::Result<()> {
        let value = vec![b'v'; size];
        for _ in 0..bytes / size {
            client.set(self.next, 0, &value)?;
            if self.next.is_multiple_of(KEPT_OF) {
                self.kept.push(self.next);
            }
            self.next += 1;
        }
        Ok(())
    }

    /// Reads the kept items, and forgets those that were evicted.
    fn read(&mut self, client: &mut Client) -> io::Result<()> {
        let mut found = Vec::new();
        for keys in self.kept.chunks(AT_ONCE) {
            found.extend(client.get(keys)?);
        }
        self.kept = found;
        Ok(())
    }
}

pub fn growth(programs: &[Program], _rounds: usize, report: &mut Report) -> io::Result<()> {
    let title = format!("growth, -m {LIMIT}, connections: {WRITERS}");
    report.table(&title, programs, "MB RSS", "MB")?;
    let bound = Some(Bound::AtMost(RESIDENT));
    let mut all = programs
        .iter()
        .map(Growth::start)
        .collect::<io::Result<Vec<_>>>()?;
    for round in 1..=ROUNDS {
        for size in SIZES {
            all.iter_mut().try_for_each(|growth| growth.step(size))?;
        }
        let cells: io::Result<Vec<_>> = all.iter().map(|growth| resident(&growth.server)).collect();
        report.row(&format!("after round {round}"), &cells?, bound)?;
        let writers = all.iter_mut().flat_map(|growth| &mut growth.writers);
        writers.for_each(|writer| writer.kept.clear());
    }
    let peaks: io::Result<Vec<_>> = all.iter().map(|growth| peak(&growth.server)).collect();
    report.row("the maximum (VmHWM)", &peaks?, bound)
}
