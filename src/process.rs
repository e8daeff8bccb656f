//! What the program does besides serving: `-d` (run in the background), `-u` (run as another user), `-P` (the file with
//! the process id).
//!
//! std can neither fork nor change the user of a running process. But it can start a program as another user, so the
//! program starts itself again. The new process gets the same command line.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustmemc::log;

/// The environment variable that is set in a process started by `-d`.
const IN_BACKGROUND: &str = "RUSTMEMC_IN_BACKGROUND";

/// The command line that started the program.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// The name under which the program was started. It may be the name of a link.
    pub program: OsString,
    /// All words after the name.
    pub args: Vec<OsString>,
}

impl CommandLine {
    /// The command line of this process.
    pub fn of_this_process() -> Self {
        let mut args = env::args_os();
        CommandLine {
            program: args.next().unwrap_or_default(),
            args: args.collect(),
        }
    }

    /// A command that starts this program with the same command line, as `user` if there is one.
    fn again(&self, user: Option<User>) -> io::Result<Command> {
        // On Linux this link works even if the user may not enter the program's folder.
        let link = Path::new("/proc/self/exe");
        let program = match link.exists() {
            true => link.to_owned(),
            false => env::current_exe()?,
        };
        let mut command = Command::new(program);
        command.arg0(&self.program).args(&self.args);
        if let Some(user) = user {
            command.gid(user.gid).uid(user.uid);
        }
        Ok(command)
    }
}

/// A user of the system.
#[derive(Debug, Clone, Copy)]
pub struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// The user that `-u` names, if this process must become that user. `None` if there is no `-u`, if the process does
    /// not run as root (then memcached ignores `-u` too), or if `-u` names root.
    ///
    /// # Errors
    /// A line for the operator: there is no such user.
    pub fn to_become(name: Option<&str>) -> Result<Option<User>, String> {
        let Some(name) = name.map(str::trim) else {
            return Ok(None);
        };
        // The owner of this folder is the user of the process. Without it a server that must not be root could be root.
        let process = fs::metadata("/proc/self");
        let process = process.map_err(|error| {
            format!("-u {name}: it is not known which user runs this program: /proc/self: {error}")
        })?;
        if process.uid() != 0 {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd");
        let users = users.map_err(|error| format!("-u {name}: /etc/passwd: {error}"))?;
        let user = users.lines().find_map(|line| User::parse(line, name));
        let user = user.ok_or_else(|| format!("-u {name}: there is no such user"))?;
        Ok(Some(user).filter(|user| user.uid != 0))
    }

    /// The user of a line of `/etc/passwd`, if it has this name: `name:password:uid:gid:...`
    fn parse(line: &str, name: &str) -> Option<User> {
        let mut fields = line
            .strip_prefix(name)?
            .strip_prefix(':')?
            .split(':')
            .skip(1);
        Some(User {
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        })
    }
}

/// Replaces this process by the same program, run as `user`. If that fails, it returns a line for the operator.
pub fn restart_as(user: User, command_line: &CommandLine) -> String {
    let error = match command_line.again(Some(user)) {
        Ok(mut command) => command.exec(),
        Err(error) => error,
    };
    format!("-u: cannot run as this user: {error}")
}

/// Whether `-d` has started this process.
pub fn is_in_background() -> bool {
    env::var(IN_BACKGROUND).is_ok_and(|parent| parent == parent_id().to_string())
}

/// Starts the server in a new process (`-d`), waits until it listens or has ended, and prints its lines. Returns the
/// exit code of this process.
///
/// The new process is in its own process group, so neither Ctrl-C nor the end of the terminal reaches it. Unlike
/// memcached, it stays in the current folder, because the append-only file is there. With `-v` it keeps standard error.
///
/// # Errors
/// A line for the operator: the process cannot be started.
pub fn start_in_background(
    command_line: &CommandLine,
    user: Option<User>,
    is_verbose: bool,
) -> Result<ExitCode, String> {
    start(command_line, user, is_verbose).map_err(|error| format!("-d: {error}"))
}

fn start(command_line: &CommandLine, user: Option<User>, is_verbose: bool) -> io::Result<ExitCode> {
    // Its standard error is a socket, because std cannot read a pipe without waiting.
    let (lines, stderr) = UnixStream::pair()?;
    let mut command = command_line.again(user)?;
    command
        .env(IN_BACKGROUND, std::process::id().to_string())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if is_verbose {
        drop(stderr);
    } else {
        command.stderr(OwnedFd::from(stderr));
    }
    let mut child = command.spawn()?;
    // The command holds the other end of the socket. While it is open, `lines` has no end.
    drop(command);
    let mut listens = false;
    for line in BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).lines() {
        let line = line?;
        // The empty line of `report_listening`.
        listens = line.is_empty();
        if listens {
            break;
        }
        log::print(line);
    }
    // A server that listens has already written its lines (`report_listening`), and keeps the socket open. So this
    // copies what is there, and does not wait for more. Later lines of the server are lost.
    lines.set_nonblocking(listens)?;
    let _ = io::copy(&mut &lines, &mut io::stderr());
    if listens {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait()?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(code as u8)),
        None => Err(io::Error::other(format!("the server ended: {status}"))),
    }
}

/// In a process that `-d` started: prints an empty line. The process that waits reads it, and so knows that the server
/// listens.
///
/// # Errors
/// A line for the operator: the waiting process has ended, for example because of Ctrl-C. Then this server must end
/// too.
pub fn report_listening() -> Result<(), String> {
    if !is_in_background() {
        return Ok(());
    }
    log::flush(super::LAST_LINES_GRACE);
    writeln!(io::stdout()).map_err(|error| format!("-d was interrupted: {error}"))
}

/// Sets the name that `ps` and `pkill` see. A program that has started itself again would have the name of the link in
/// `/proc`, `exe`. (Linux only.)
pub fn set_name(program: &OsStr) {
    if let Some(name) = Path::new(program).file_name() {
        let _ = fs::write("/proc/self/comm", name.as_encoded_bytes());
    }
}

/// The file with the process id (`-P`). It is removed when this is dropped.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    content: String,
}

impl PidFile {
    /// Writes the file. If that fails, it prints why, as memcached does, and the server runs without it.
    pub fn write(path: PathBuf) -> Option<Self> {
        let content = format!("{}\n", std::process::id());
        // The file is renamed into place, so another program never reads half of it.
        let mut temporary = path.clone().into_os_string();
        temporary.push(".tmp");
        let written = fs::write(&temporary, &content).and_then(|()| fs::rename(&temporary, &path));
        match written {
            Ok(()) => Some(PidFile { path, content }),
            Err(error) => {
                log::line(format_args!("rustmemc: -P {}: {error}", path.display()));
                None
            }
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another server may have replaced the file.
        if fs::read_to_string(&self.path).is_ok_and(|content| content == self.content) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
