//! The program: it reads the flags, starts the server, stops it at a signal, and returns the exit code.

mod process;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use process::{CommandLine, PidFile, User};
use rustmemc::config::{self, Invocation};
use rustmemc::{Server, StartError, Stopper, VERSION, log};

/// How long the process waits at its end for the last lines to be written to standard error.
const LAST_LINES_GRACE: Duration = Duration::from_millis(200);

/// Signals that arrive within this time are one request to stop: `timeout` sends two, and so does a shell at its end.
const ONE_REQUEST: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let code = run().unwrap_or_else(|message| {
        log::line(format_args!("rustmemc: {message}"));
        ExitCode::FAILURE
    });
    log::flush(LAST_LINES_GRACE);
    code
}

fn run() -> Result<ExitCode, String> {
    let command_line = CommandLine::of_this_process();
    let CommandLine { program, args } = command_line.clone();
    let (config, options) = match config::from_command_line(&program, args)? {
        Invocation::Serve { config, process } => (config, process),
        Invocation::Text(text) => {
            log::print(text.trim_end());
            return Ok(ExitCode::SUCCESS);
        }
    };
    let user = User::to_become(options.user.as_deref())?;
    if options.daemon && !process::is_in_background() {
        return process::start_in_background(&command_line, user, config.verbosity > 0);
    }
    if let Some(user) = user {
        return Err(process::restart_as(user, &command_line));
    }
    process::set_name(&program);

    // This is called before the first thread is started: see `connection/descriptors.rs`.
    rustmemc::reserve_descriptors(config.conn_limit);
    let stopper = Stopper::default();
    stop_at_signals(stopper.clone())?;
    let mut server = match Server::start_with(*config, stopper) {
        Err(StartError::Stopped) if !process::is_in_background() => {
            return Ok(ExitCode::SUCCESS);
        }
        started => started.map_err(|error| error.to_string())?,
    };
    let _pid_file = options.pid_file.and_then(PidFile::write);
    for address in server.addresses() {
        log::print(format_args!("rustmemc {VERSION} listening on {address}"));
    }
    process::report_listening()?;
    server.wait();
    Ok(ExitCode::SUCCESS)
}

/// The first signal asks the server to stop. A later one ends the process at once. Then nothing is cleaned up: the
/// files of `-P` and `-s` stay.
fn stop_at_signals(stopper: Stopper) -> Result<(), String> {
    let mut first: Option<Instant> = None;
    let handle = move || match first {
        None => {
            first = Some(Instant::now());
            stopper.stop();
        }
        Some(first) if first.elapsed() < ONE_REQUEST => {}
        Some(_) => {
            log::line("rustmemc: a second signal: the process ends at once");
            log::flush(LAST_LINES_GRACE);
            std::process::exit(1);
        }
    };
    ctrlc::set_handler(handle).map_err(|error| format!("cannot handle signals: {error}"))
}
