//! Flags -> server -> exit code, and nothing else.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use rustmemc::clients::Clients;
use rustmemc::config::{self, Wanted};
use rustmemc::connection::Server;
use rustmemc::log;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            log::line(format_args!("rustmemc: {message}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let config = match config::from_command_line(&args)? {
        Wanted::Serve(config) => config,
        Wanted::Text(text) => {
            say(text.trim_end());
            return Ok(());
        }
    };
    for note in &config.notes {
        log::line(format_args!("rustmemc: note: {note}"));
    }
    let clients = Arc::new(Clients::new(config.conn_limit));
    let stop = Arc::clone(&clients);
    ctrlc::set_handler(move || stop.stop())
        .map_err(|error| format!("cannot handle signals: {error}"))?;
    let server = match Server::start(config, Arc::clone(&clients)) {
        // Told to stop while it was starting: so it does.
        Err(_) if clients.stopping() => return Ok(()),
        started => started?,
    };
    for address in server.addresses() {
        say(&format!(
            "rustmemc {} listening on {address}",
            rustmemc::VERSION
        ));
    }
    server.run()
}

/// One line on standard output. That nobody may be there to read it is no reason to fail.
fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
