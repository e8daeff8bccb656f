//! `readers`: how much memory is resident with `-m 64` when clients do not read their answers. 800 times, one client
//! sets the same key to a new value of 1 MB, and a new client sends 12 `get`s for it and never reads. The `set` may be
//! refused with a SERVER_ERROR, but it must be answered.
//!
//! The buffers of the sockets belong to the kernel, and are not in the resident memory of the server. The server's own
//! memory for a connection is there: a buffer for each direction, and the used part of a stack. 40 KB are allowed for
//! each connection, in addition to what is allowed for `-m`.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use super::common::{Bound, Cell, Client, Program, Report, connect};
use super::{LIMIT, MB, RESIDENT, start};

const READERS: usize = 800;
const GETS: usize = 12;
const VALUE: usize = 1_000_000;
const KB_A_CONNECTION: f64 = 40.0;

/// The result of one server.
struct Outcome {
    refused: usize,
    /// Resident memory in megabytes: with all readers, the maximum, and after the readers have left.
    megabytes: [f64; 3],
}

pub fn readers(programs: &[Program], _rounds: usize, report: &mut Report) -> io::Result<()> {
    let title = format!("readers: {READERS} that do not read, -m {LIMIT}");
    report.table(&title, programs, "sets refused  MB RSS", "MB")?;
    let outcomes = programs
        .iter()
        .map(measure)
        .collect::<io::Result<Vec<_>>>()?;
    let bound = Bound::AtMost(RESIDENT + READERS as f64 * KB_A_CONNECTION / 1024.0);
    let rows = [
        "all are connected",
        "the maximum (VmHWM)",
        "2 s after they have left",
    ];
    for (row, name) in rows.into_iter().enumerate() {
        report.row(name, &cells(&outcomes, row), Some(bound))?;
    }
    Ok(())
}

fn cells(outcomes: &[Outcome], row: usize) -> Vec<Cell> {
    let cell = |outcome: &Outcome| {
        let megabytes = outcome.megabytes.get(row).copied().unwrap_or(f64::NAN);
        Cell::new(format!("{} {megabytes:>7.1}", outcome.refused), megabytes)
    };
    outcomes.iter().map(cell).collect()
}

fn measure(program: &Program) -> io::Result<Outcome> {
    let server = start(program, LIMIT)?;
    let mut client = Client::connect(&server.address)?;
    let (mut readers, mut refused) = (Vec::new(), 0);
    for _ in 0..READERS {
        write!(client.request, "set k 0 0 {VALUE}\r\n")?;
        client.request.resize(client.request.len() + VALUE, b'v');
        // `ask` adds the line end of the data block.
        match client.ask("")?.as_str() {
            "STORED" => {}
            answer if answer.starts_with("SERVER_ERROR") => refused += 1,
            answer => return Err(io::Error::other(format!("unexpected: {answer}"))),
        }
        let mut reader = connect(&server.address)?;
        reader.write_all("get k\r\n".repeat(GETS).as_bytes())?;
        // Waits until the server has begun to answer, and reads nothing.
        reader.peek(&mut [0])?;
        readers.push(reader);
    }
    let all = server.resident()? as f64 / MB;
    let most = server.peak()? as f64 / MB;
    drop(readers);
    thread::sleep(Duration::from_secs(2));
    let megabytes = [all, most, server.resident()? as f64 / MB];
    Ok(Outcome { refused, megabytes })
}
