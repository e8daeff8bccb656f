//! What the program does besides serving: `-d` (run in the background), `-u` (run as another user), `-P` (the file with
//! the process id).
//!
//! std can neither fork nor change the user of a running process. But it can start a program as another user, so the
//! program starts itself again. The new process gets the same command line.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustmemc::log;

/// Is set in a process that was started by `-d`.
const IN_BACKGROUND: &str = "RUSTMEMC_IN_BACKGROUND";

/// How the program was started: its name, and the words after it.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// The name, perhaps that of a link.
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
        // The link of Linux works even if the user may not enter the program's folder.
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
    /// The user that `-u` names, if this process must become it: only root can, and only root must.
    ///
    /// # Errors
    /// A line for the operator: there is no such user.
    pub fn to_become(name: Option<&str>) -> Result<Option<User>, String> {
        // The owner of this folder is the user that the process runs as. (Only Linux has it.)
        let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        let Some(name) = name.map(str::trim).filter(|_| is_root) else {
            return Ok(None);
        };
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

/// Becomes the same program, run by `user`. Returns only if that fails.
pub fn restart_as(user: User, command_line: &CommandLine) -> String {
    let error = match command_line.again(Some(user)) {
        Ok(mut command) => command.exec(),
        Err(error) => error,
    };
    format!("-u: cannot run as this user: {error}")
}

/// Whether `-d` has started this process.
pub fn is_in_background() -> bool {
    env::var_os(IN_BACKGROUND).is_some()
}

/// Starts the server in a new process (`-d`), and waits until it listens, or has ended. Its lines are printed here.
///
/// The process is in a process group of its own, so neither Ctrl-C nor the end of the terminal reaches it. Unlike
/// memcached, it stays in the current folder, because that has the append-only file. With `-v` it keeps standard error.
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
    // A socket, because a pipe cannot be read without waiting.
    let (lines, stderr) = UnixStream::pair()?;
    let mut command = command_line.again(user)?;
    command
        .env(IN_BACKGROUND, "1")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if !is_verbose {
        command.stderr(OwnedFd::from(stderr));
    }
    let mut child = command.spawn()?;
    // The command has a copy of the socket's other end.
    drop(command);
    let mut listens = false;
    for line in BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).lines() {
        let line = line?;
        listens = line.is_empty();
        if listens {
            break;
        }
        log::print(line);
    }
    // A process that listens has written its lines already (`report_listening`), and writes to nobody from now on.
    lines.set_nonblocking(listens)?;
    let _ = io::copy(&mut &lines, &mut io::stderr());
    if listens {
        return Ok(ExitCode::SUCCESS);
    }
    let code = child.wait()?.code();
    Ok(code.map_or(ExitCode::FAILURE, |code| ExitCode::from(code as u8)))
}

/// Tells the process that started this one with `-d` that the server listens.
pub fn report_listening() {
    if is_in_background() {
        log::flush(super::LAST_LINES_GRACE);
        log::print("");
    }
}

/// A program that was started again has the name of the link in `/proc`. This gives it its own name back, for `ps` and
/// `pkill`. (Linux only.)
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
        // Another program that reads the file never finds half of it.
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
        // Another server may have written its own meanwhile.
        if fs::read_to_string(&self.path).is_ok_and(|content| content == self.content) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
