//! The operations that make records durable: writing, truncating, syncing, renaming.
//!
//! The log does them through [`Disk`] (except in `open.rs`, where std copies or renames what is moved to another file),
//! because their order matters and each may fail. The server uses [`SystemDisk`]. The tests use a disk that records the
//! calls and fails some of them (`tests.rs`).

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the log asks of the operating system. Each method does what std does, unless a test replaces it.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Writes some of these bytes, and returns how many.
    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<usize> {
        file.write(bytes)
    }

    /// Truncates a file to this length.
    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    /// Makes a file's content durable.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Renames a file. It replaces a file that has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Makes the directory entries of a folder durable.
    fn sync_folder(&self, folder: &File) -> io::Result<()> {
        folder.sync_all()
    }
}

/// The operating system itself.
#[derive(Debug)]
pub struct SystemDisk;

impl Disk for SystemDisk {}

/// An open file of the log. All clones are the same open file.
#[derive(Debug, Clone)]
pub struct LogFile {
    file: Arc<File>,
    disk: Arc<dyn Disk>,
}

impl LogFile {
    pub fn new(file: File, disk: &Arc<dyn Disk>) -> Self {
        LogFile {
            file: Arc::new(file),
            disk: Arc::clone(disk),
        }
    }

    pub fn truncate(&self, length: u64) -> io::Result<()> {
        self.disk.truncate(&self.file, length)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.disk.sync(&self.file)
    }

    /// The file, for operations whose failures are not tested.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether it has this name.
    pub fn is_at(&self, path: &Path) -> bool {
        is_at(&self.file, path)
    }

    /// Lets another server open the file.
    pub fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    pub fn is_same_as(&self, other: &LogFile) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.write(&self.file, bytes)
    }

    /// Does nothing: the operating system has the bytes as soon as they are written.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether this open file has this name.
pub fn is_at(file: &File, path: &Path) -> bool {
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => id(ours) == id(there),
        _ => false,
    }
}

/// The path of another file in the same folder: this path with a suffix.
pub fn path_beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes a file's directory entry durable.
pub fn sync_folder_of(path: &Path, disk: &dyn Disk) -> io::Result<()> {
    disk.sync_folder(&open_folder(path)?)
}

pub fn open_folder(path: &Path) -> io::Result<File> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))
}
