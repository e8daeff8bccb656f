//! Opening the file: only a regular file, only for one server, and nothing in the folder is overwritten.
//!
//! Invariants:
//! - What is not a regular file (a device, a pipe, a folder) is never opened, written or replaced.
//! - A file that is made beside the log is created exclusively: never through a link, and never over another file. It
//!   gets the permissions of the log.

use std::fmt;
use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::disk::{Disk, is_at, path_beside, sync_folder_of};
use super::{Options, unix_time};

/// How often a server that waits for the lock tries again.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Why the file could not be opened. `Display` is the message for the user, and says what to do.
#[derive(Debug)]
pub enum OpenError {
    /// Another server has locked it.
    InUse {
        /// Which file.
        path: PathBuf,
        /// The process that has locked it, if the system lists it.
        process: Option<u32>,
    },
    /// It is not a regular file.
    NotAFile {
        /// Which file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It is a file, but not a log of rustmemc.
    NotALog(PathBuf),
    /// It was written by a later version.
    NewerFormat {
        /// Which file.
        path: PathBuf,
        /// The version of its format.
        version: u64,
    },
    /// Its content is not what was written.
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The offset of the first damaged record, in bytes.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The damaged part cannot be saved in this file. The log is unchanged.
    CannotSave(PathBuf, io::Error),
    /// The operating system returned an error.
    Io(PathBuf, io::Error),
    /// The server was asked to stop during the replay.
    Stopped,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse { path, process } => {
                write!(f, "--aof {}: another server uses this file", path.display())?;
                if let Some(process) = process {
                    write!(f, " (process {process})")?;
                }
                f.write_str("; give each server a file of its own")
            }
            OpenError::NotAFile { path, kind } => write!(
                f,
                "--aof {}: this is {kind} and not a regular file; choose another path, or --no-aof for no file",
                path.display()
            ),
            OpenError::NotALog(path) => write!(
                f,
                "--aof {}: this file is not a log of rustmemc; choose another path",
                path.display()
            ),
            OpenError::NewerFormat { path, version } => write!(
                f,
                "--aof {}: this file has format {version}, and this version of rustmemc knows formats 1 and 2; use a newer one",
                path.display()
            ),
            OpenError::Damaged { path, offset, what } => write!(
                f,
                "--aof {}: damaged at byte {offset} ({what}); --aof-repair keeps what is before this byte and moves the rest to another file",
                path.display()
            ),
            OpenError::CannotSave(path, error) => write!(
                f,
                "--aof-repair: cannot save the damaged part in {}: {error}; the log is unchanged",
                path.display()
            ),
            OpenError::Io(path, error) => write!(
                f,
                "--aof {}: {error}; to run without a file, use --no-aof",
                path.display()
            ),
            OpenError::Stopped => f.write_str("stopped while the append-only file was replayed"),
        }
    }
}

/// Opens the file for reading and appending, creates it if there is none, and locks it while it is open. If another
/// server has locked it, waits for as long as the options say: a server that was killed keeps its lock until the system
/// has freed its memory.
pub fn open_and_lock(options: &Options, stopping: impl Fn() -> bool) -> Result<File, OpenError> {
    let path = &options.path;
    let failed = |error| OpenError::Io(path.clone(), error);
    let start = Instant::now();
    loop {
        let file = open(path)?;
        match file.try_lock() {
            // Another server may have replaced it by a rewritten file just before it was locked here.
            Ok(()) if is_at(&file, path) => return Ok(file),
            Ok(()) => {}
            Err(_) if stopping() => return Err(OpenError::Stopped),
            Err(_) if start.elapsed() < options.lock_wait => thread::sleep(LOCK_RETRY_INTERVAL),
            Err(_) => {
                let process = lock_holder(&file.metadata().map_err(failed)?);
                let path = path.clone();
                return Err(OpenError::InUse { path, process });
            }
        }
    }
}

fn open(path: &Path) -> Result<File, OpenError> {
    let failed = |error| OpenError::Io(path.to_owned(), error);
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            let (path, kind) = (path.to_owned(), kind_of(found.file_type()));
            return Err(OpenError::NotAFile { path, kind });
        }
        // Exclusively: a link that leads nowhere must not decide where the file is made.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                let (path, kind) = (path.to_owned(), "a link to nothing");
                return Err(OpenError::NotAFile { path, kind });
            }
            options.create_new(true);
        }
        // If there is another error, `open` below returns it.
        _ => {}
    }
    match options.open(path) {
        // Another server has just created it.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => open(path),
        outcome => outcome.map_err(failed),
    }
}

/// The kind of a file, in words for a message.
pub fn kind_of(file: FileType) -> &'static str {
    match file {
        _ if file.is_dir() => "a folder",
        _ if file.is_fifo() => "a pipe",
        _ if file.is_socket() => "a socket",
        _ if file.is_symlink() => "a link",
        _ if file.is_file() => "a regular file",
        _ => "a device",
    }
}

/// The process that has locked a file, as Linux lists it: `1: FLOCK ADVISORY WRITE <process> <device>:<inode> 0 EOF`.
fn lock_holder(file: &fs::Metadata) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let inode = format!(":{}", file.ino());
    let lines = locks.lines().map(|line| line.split_whitespace());
    lines
        .filter(|words| words.clone().nth(5).is_some_and(|id| id.ends_with(&inode)))
        .find_map(|mut words| words.nth(4)?.parse().ok())
}

/// Creates a file beside the log, with this suffix and the log's permissions. If the name is taken, it gets a number
/// too.
fn create_beside(log: &File, path: &Path, suffix: &str) -> (PathBuf, io::Result<File>) {
    let mut number = 1;
    loop {
        let number_suffix = match number {
            1 => String::new(),
            _ => format!("-{number}"),
        };
        let beside = path_beside(path, &format!("{suffix}{number_suffix}"));
        match create_exclusively(log, &beside) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            outcome => return (beside, outcome),
        }
    }
}

/// Creates a file that must not exist, with the permissions of the log.
pub fn create_exclusively(log: &File, path: &Path) -> io::Result<File> {
    let permissions = log.metadata()?.permissions();
    let mut options = OpenOptions::new();
    // Nobody else may read it before it has the right permissions.
    let file = options
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(permissions)?;
    Ok(file)
}

/// Moves the end of the log, from `offset` on, to another file: `<path>.<what>-<unix time>`. Returns its path.
///
/// # Errors
/// [`OpenError::CannotSave`]: the log is unchanged, and nothing is left of the other file. [`OpenError::Io`]: the other
/// file is whole, but the log could not be truncated.
pub fn move_end(
    mut log: &File,
    path: &Path,
    offset: u64,
    what: &str,
    disk: &dyn Disk,
) -> Result<PathBuf, OpenError> {
    let (saved, created) = create_beside(log, path, &format!(".{what}-{}", unix_time()));
    let save = |mut rest: File| {
        log.seek(SeekFrom::Start(offset))?;
        io::copy(&mut log, &mut rest)?;
        // The copy is made durable before the file is truncated.
        disk.sync(&rest)?;
        sync_folder_of(&saved, disk)
    };
    if let Err(error) = created.and_then(save) {
        let _ = fs::remove_file(&saved);
        return Err(OpenError::CannotSave(saved, error));
    }
    let truncated = disk.truncate(log, offset).and_then(|()| disk.sync(log));
    match truncated {
        Ok(()) => Ok(saved),
        Err(error) => Err(OpenError::Io(path.to_owned(), error)),
    }
}

/// Renames the file at this path to `<path>.<what>-<unix time>`, and returns the new path.
pub fn move_aside(path: &Path, what: &str) -> io::Result<PathBuf> {
    let file = File::open(path)?;
    // The new name is created first, so that no other file is overwritten.
    let (beside, created) = create_beside(&file, path, &format!(".{what}-{}", unix_time()));
    created?;
    fs::rename(path, &beside)?;
    Ok(beside)
}
