//! `idle`: how many kilobytes of memory an idle client costs. First the clients have sent nothing, then each has done
//! one `set` and one `get`.
//!
//! memcached has no thread for a client, so its clients cost far less. 12 KB are allowed here. The pages of a worker's
//! stack that were used are 8 KB of them.

use std::io;

use super::common::{Bound, Cell, Client, Key, Program, Report};
use super::start;

/// Fewer than memcached's `-c`.
const CLIENTS: usize = 900;
const KB_A_CLIENT: f64 = 12.0;

pub fn idle(programs: &[Program], _rounds: usize, report: &mut Report) -> io::Result<()> {
    let title = format!("idle: {CLIENTS} clients");
    report.table(&title, programs, "KB a client", "KB")?;
    let measured: Vec<_> = programs.iter().map(measure).collect::<io::Result<_>>()?;
    let bound = Some(Bound::AtMost(KB_A_CLIENT));
    let (silent, served): (Vec<_>, Vec<_>) = measured.into_iter().unzip();
    report.row("they have sent nothing", &silent, bound)?;
    report.row("after a set and a get", &served, bound)
}

fn measure(program: &Program) -> io::Result<(Cell, Cell)> {
    let server = start(program, 64)?;
    let mut first = Client::connect(&server.address)?;
    use_once(&mut first, 0)?;
    let before = server.resident()?;
    let connect = |_| Client::connect(&server.address);
    let mut clients: Vec<_> = (0..CLIENTS).map(connect).collect::<io::Result<_>>()?;
    // The last client is served when all others are, or soon after.
    first.ask("version")?;
    let cell = |resident: u64| {
        let bytes = resident.saturating_sub(before) as f64;
        Cell::number(bytes / 1024.0 / CLIENTS as f64, 1)
    };
    let silent = cell(server.resident()?);
    for (key, client) in clients.iter_mut().enumerate() {
        use_once(client, key as Key)?;
    }
    Ok((silent, cell(server.resident()?)))
}

fn use_once(client: &mut Client, key: Key) -> io::Result<()> {
    client.set(key, 0, &[b'v'; 32])?;
    client.ask("version")?;
    client.get(&[key]).map(drop)
}
