//! The program: it reads the flags, starts the server, stops it at a signal, and returns the exit code.

use std::process::ExitCode;
use std::time::Duration;

use rustmemc::config::{self, Invocation};
use rustmemc::{Server, StartError, Stopper, VERSION, log};

/// How long the process waits, before it ends, until the last lines are written to standard error.
const LAST_LINES_GRACE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let code = match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            log::line(format_args!("rustmemc: {message}"));
            ExitCode::FAILURE
        }
    };
    log::flush(LAST_LINES_GRACE);
    code
}

fn run() -> Result<(), String> {
    let config = match config::from_command_line(std::env::args_os().skip(1))? {
        Invocation::Serve(config) => config,
        Invocation::Text(text) => {
            log::print(text.trim_end());
            return Ok(());
        }
    };
    let stopper = Stopper::default();
    let on_signal = stopper.clone();
    ctrlc::set_handler(move || on_signal.stop())
        .map_err(|error| format!("cannot handle signals: {error}"))?;
    let mut server = match Server::start_with(config, stopper) {
        Err(StartError::Stopped) => return Ok(()),
        started => started.map_err(|error| error.to_string())?,
    };
    for address in server.addresses() {
        log::print(format_args!("rustmemc {VERSION} listening on {address}"));
    }
    server.wait();
    Ok(())
}
