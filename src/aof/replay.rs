//! Replaying: the file is read once, from its beginning, and each record is applied to the store.
//!
//! Two things can be wrong with a file:
//! - **A torn tail**: the last record is cut short. A crash leaves that of a write that it interrupted. The change was
//!   not acknowledged. The server truncates the tail, and prints a line about it.
//! - **Damage**: anything else that does not match its checksum. Then the server does not start, because it cannot
//!   know what is wrong and what is missing. It prints the place and what the user can do.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::crc::crc32;
use super::disk::{Disk, LogFile, SystemDisk};
use super::log::{Log, write_and_flush};
use super::record::{self, HEADING, Parsed, Record};
use super::rewrite::{path_beside, rewrite_path, sync_folder_of};
use super::{Aof, Options, encoded, open_and_lock, unix_time};

/// No record's line is longer, in bytes: a key, a few numbers, two checksums.
const MAX_LINE: u64 = 1024;

/// How often the progress of a long replay is printed.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Why the file could not be opened. `Display` is the message for the user, and says what to do.
#[derive(Debug)]
pub enum OpenError {
    /// Another server has locked it.
    InUse(PathBuf),
    /// Its content is not what was written.
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The offset of the first damaged record, in bytes.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The operating system returned an error.
    Io(PathBuf, io::Error),
    /// The server was asked to stop during the replay.
    Stopped,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse(path) => {
                write!(
                    f,
                    "--aof {}: another server has this file; give each its own",
                    path.display()
                )
            }
            OpenError::Damaged { path, offset, what } => write!(
                f,
                "--aof {}: damaged at byte {offset} ({what}); --aof-repair keeps what is before it and saves the rest beside the file",
                path.display()
            ),
            OpenError::Io(path, error) => {
                write!(
                    f,
                    "--aof {}: {error}; --no-aof does without a file",
                    path.display()
                )
            }
            OpenError::Stopped => f.write_str("stopped while the append-only file was replayed"),
        }
    }
}

/// The result of a replay.
#[derive(Debug)]
pub struct Replayed {
    /// How many records there were.
    pub records: u64,
    /// How many bytes.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Replayed {
            records,
            bytes,
            took,
        } = self;
        write!(
            f,
            "{records} records, {bytes} bytes replayed in {:.3} seconds",
            took.as_secs_f64()
        )
    }
}

impl Aof {
    /// Opens the file, creates it if there is none, and passes each of its records to `apply`, in order. Calls
    /// `stopping` now and then, and gives up when it returns true.
    ///
    /// # Errors
    /// See [`OpenError`]. After an error the file is unchanged.
    pub fn open(
        options: Options,
        apply: impl FnMut(Record<'_>),
        stopping: impl Fn() -> bool,
    ) -> Result<(Aof, Replayed), OpenError> {
        Aof::open_on(Arc::new(SystemDisk), options, apply, stopping)
    }

    /// The same on another disk: a test can make one fail.
    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        options: Options,
        mut apply: impl FnMut(Record<'_>),
        stopping: impl Fn() -> bool,
    ) -> Result<(Aof, Replayed), OpenError> {
        let failed = |error| OpenError::Io(options.path.clone(), error);
        let file = open_and_lock(&options.path).map_err(failed)?;
        let file = file.ok_or_else(|| OpenError::InUse(options.path.clone()))?;
        let path = fs::canonicalize(&options.path).map_err(failed)?;
        // A rewrite that a crash interrupted has left this file. The log itself is whole.
        let _ = fs::remove_file(rewrite_path(&path));

        let start = Instant::now();
        let mut reader = Reader::new(&file, &path).map_err(failed)?;
        let mut records = 0;
        let ending = loop {
            match reader.record(&mut apply).map_err(failed)? {
                Next::Record => records += 1,
                ending => break ending,
            }
            if records % 1024 == 0 {
                reader.print_progress(start);
                if stopping() {
                    return Err(OpenError::Stopped);
                }
            }
        };
        let length = reader.offset;
        match ending {
            Next::Damage(what) if !options.repair => {
                return Err(OpenError::Damaged {
                    path: options.path,
                    offset: length,
                    what,
                });
            }
            Next::Damage(what) => {
                save_damaged(&file, &path, length, what, &*disk).map_err(failed)?
            }
            Next::TornTail => {
                let (path, torn) = (path.display(), reader.size - length);
                crate::log::line(format_args!(
                    "rustmemc: {path}: the last record is cut short by a crash; {torn} bytes at {length} are cut off"
                ));
                disk.truncate(&file, length).map_err(failed)?;
            }
            Next::Record | Next::End => {}
        }
        let replayed = Replayed {
            records,
            bytes: length,
            took: start.elapsed(),
        };

        let mut writer = io::BufWriter::new(LogFile::new(file, &disk));
        let mut length = length;
        if length == 0 {
            let (heading, _) = encoded([Record::Heading { cas: 0 }]);
            write_and_flush(&mut writer, &heading).map_err(failed)?;
            length = heading.len() as u64;
            sync_folder_of(&path, &*disk).map_err(failed)?;
        }
        let log = Log {
            writer,
            unwritten: Vec::new(),
            length,
            marked: 0,
            base: 0,
            copy: None,
            unsynced_folder: None,
            retry_at: Instant::now(),
        };
        let aof = Aof {
            options,
            path,
            disk,
            log: Mutex::new(log),
            pending: Mutex::default(),
            // This is one byte more than is synced, because it is unknown how much of the file is on disk.
            appended: AtomicU64::new(1),
            written: AtomicU64::new(1),
            synced: AtomicU64::new(0),
            syncing: Mutex::default(),
            has_synced: Condvar::new(),
            rewrite_requested: AtomicBool::new(false),
            keeper: OnceLock::new(),
            last_sync: AtomicU64::new(unix_time()),
            records: AtomicU64::new(records),
            rewrites: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        };
        Ok((aof, replayed))
    }

    /// Sets the size that the file would have if it were rewritten. Its growth is measured against that.
    pub fn set_base(&self, bytes: u64) {
        self.lock().base = bytes;
    }
}

/// What is next in the file.
enum Next {
    Record,
    End,
    TornTail,
    Damage(&'static str),
}

struct Reader<'f> {
    input: BufReader<&'f File>,
    path: &'f Path,
    /// The offset of the next record.
    offset: u64,
    size: u64,
    line: Vec<u8>,
    last_progress: Instant,
}

impl<'f> Reader<'f> {
    fn new(file: &'f File, path: &'f Path) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let mut input = BufReader::with_capacity(1 << 20, file);
        input.seek(SeekFrom::Start(0))?;
        Ok(Reader {
            input,
            path,
            offset: 0,
            size,
            line: Vec::new(),
            last_progress: Instant::now(),
        })
    }

    /// Reads one record and applies it. `offset` advances only if the record is whole.
    fn record(&mut self, apply: &mut impl FnMut(Record<'_>)) -> io::Result<Next> {
        self.line.clear();
        self.input
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut self.line)?;
        let length = self.line.len() as u64;
        if self.line.is_empty() {
            return Ok(Next::End);
        }
        if !self.line.ends_with(b"\n") {
            return Ok(if self.is_cut_short() {
                Next::TornTail
            } else {
                Next::Damage("no line ends here")
            });
        }
        match record::parse(&self.line) {
            Err(what) => Ok(Next::Damage(what)),
            Ok(Parsed::Whole(Record::Mark { offset, .. })) if offset != self.offset => {
                Ok(Next::Damage(
                    "this time mark was written elsewhere: bytes before it are lost or doubled",
                ))
            }
            Ok(Parsed::Whole(record)) => {
                apply(record);
                self.offset += length;
                Ok(Next::Record)
            }
            Ok(Parsed::Announced(mut item, checksum)) => {
                let room = item.value_mut();
                let end = self.offset + length + room.len() as u64 + 2;
                // The line's checksum covers the length. So if the file ends earlier, the data was cut short.
                if end > self.size {
                    return Ok(Next::TornTail);
                }
                let mut line_end = [0; 2];
                self.input.read_exact(room)?;
                self.input.read_exact(&mut line_end)?;
                if line_end != *b"\r\n" || crc32(&item.value()) != checksum {
                    return Ok(Next::Damage("the data's checksum is wrong"));
                }
                apply(Record::Put(item));
                self.offset = end;
                Ok(Next::Record)
            }
        }
    }

    /// Whether the rest of the file, in which no line ends, can be the beginning of a record.
    fn is_cut_short(&mut self) -> bool {
        let at_the_end = self.offset + self.line.len() as u64 == self.size;
        // A log begins with its heading. A file that is no log must not be truncated.
        let begin = self.line.get(..HEADING.len()).unwrap_or(&self.line);
        let is_ours = self.offset > 0 || HEADING.starts_with(begin);
        // A record that is whole except for its last byte was not cut short: that byte was changed.
        let mut completed = self.line.clone();
        completed.pop();
        completed.push(b'\n');
        at_the_end && is_ours && record::parse(&completed).is_err()
    }

    fn print_progress(&mut self, start: Instant) {
        if self.last_progress.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.last_progress = Instant::now();
        let (done, size, seconds) = (
            self.offset as f64,
            self.size as f64,
            start.elapsed().as_secs_f64(),
        );
        let (percent, speed) = (100.0 * done / size, done / seconds);
        crate::log::line(format_args!(
            "rustmemc: replaying {}: {percent:.0} % ({:.0} MB/s, about {:.0} s left)",
            self.path.display(),
            speed / 1e6,
            (size - done) / speed
        ));
    }
}

/// Moves what is behind `offset` to another file.
fn save_damaged(
    mut file: &File,
    path: &Path,
    offset: u64,
    what: &str,
    disk: &dyn Disk,
) -> io::Result<()> {
    let saved = path_beside(path, &format!(".damaged-{}", unix_time()));
    let mut rest = File::create_new(&saved)?;
    file.seek(SeekFrom::Start(offset))?;
    let bytes = io::copy(&mut file, &mut rest)?;
    // The copy is made durable before the file is truncated.
    disk.sync(&rest)?;
    sync_folder_of(&saved, disk)?;
    disk.truncate(file, offset)?;
    disk.sync(file)?;
    crate::log::line(format_args!(
        "rustmemc: {}: damaged at byte {offset} ({what}); the {bytes} bytes from there on are saved in {}",
        path.display(),
        saved.display()
    ));
    Ok(())
}
