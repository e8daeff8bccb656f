//! Replaying: the file is read once, from its beginning, and each record is applied to the store.
//!
//! Two things can be wrong with a file:
//! - **A torn tail**: the last record is cut short. A crash in the middle of a write leaves this. The change was not
//!   acknowledged, or it was not synced yet. The server moves the tail to a file beside the log, and prints a line
//!   about it.
//! - **Damage**: anything else that is wrong: a checksum that does not match, a line that is not a record, a time mark
//!   at another offset. Then the server does not start, because it cannot know what is wrong and what is missing. It
//!   prints where the damage begins and what the user can do.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::disk::{Disk, LogFile, SystemDisk, sync_folder_of};
use super::log::{Log, Pending, write_and_flush};
use super::opaque::Format;
use super::open::{OpenError, move_aside, move_end, open_and_lock};
use super::record::{self, Parsed, Parser, Record};
use super::rewrite::rewrite_path;
use super::{Aof, Options, encoded, unix_time};

/// No record's line is longer than this, in bytes: it has a key, a few numbers and an opaque.
const MAX_LINE: u64 = 1024;

/// How many bytes are replayed before the server looks again whether it was asked to stop: some milliseconds' worth.
const CHECK_INTERVAL: u64 = 1 << 20;

/// The version of the format that is written. Format 1 is read too.
const FORMAT: u64 = 2;

/// How often the progress of a long replay is printed.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

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
    /// Opens the file, creates it if it does not exist, and passes each of its records to `apply`, in order. Calls
    /// `stopping` now and then, and gives up when it returns true.
    ///
    /// # Errors See [`OpenError`]. A file that is refused (not a log, newer format, damaged) is unchanged.
    pub fn open(
        options: Options,
        apply: impl FnMut(Record<'_>),
        stopping: impl Fn() -> bool,
    ) -> Result<(Aof, Replayed), OpenError> {
        Aof::open_on(Arc::new(SystemDisk), options, apply, stopping)
    }

    /// The same on another disk: a test uses one that fails.
    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        options: Options,
        mut apply: impl FnMut(Record<'_>),
        stopping: impl Fn() -> bool,
    ) -> Result<(Aof, Replayed), OpenError> {
        let failed = |error| OpenError::Io(options.path.clone(), error);
        let mut file = open_and_lock(&options, &stopping)?;
        let path = fs::canonicalize(&options.path).map_err(failed)?;
        if options.fresh && file.metadata().map_err(failed)?.len() > 0 {
            let old = move_aside(&path, "old").map_err(failed)?;
            crate::log::line(format_args!(
                "rustmemc: {}: begins empty; the old file is {}",
                path.display(),
                old.display()
            ));
            // If the log's name is a link, it leads to the new file.
            let path = path.clone();
            file = open_and_lock(
                &Options {
                    path,
                    ..options.clone()
                },
                &stopping,
            )?;
        }
        // A rewrite that a crash interrupted may have left this file. The log itself is whole.
        remove_stale(&rewrite_path(&path));

        let start = Instant::now();
        let mut reader = Reader::new(&file, &path).map_err(failed)?;
        let (mut records, mut next_check, mut has_format_1) = (0, 0, false);
        let ending = loop {
            match reader.record(&mut apply).map_err(failed)? {
                Next::Record => records += 1,
                ending => break ending,
            }
            has_format_1 |= reader.parser.format == Format::One;
            // This counts bytes and not records, because one record may have many bytes.
            if reader.offset >= next_check {
                next_check = reader.offset + CHECK_INTERVAL;
                reader.print_progress(start, records);
                if stopping() {
                    return Err(OpenError::Stopped);
                }
            }
        };
        let (length, size, format) = (reader.offset, reader.size, reader.parser.format);
        match ending {
            Next::NotALog => return Err(OpenError::NotALog(options.path)),
            Next::NewerFormat(version) => {
                let path = options.path;
                return Err(OpenError::NewerFormat { path, version });
            }
            Next::Damage(what) if !options.repair => {
                let (path, offset) = (options.path, length);
                return Err(OpenError::Damaged { path, offset, what });
            }
            Next::Damage(what) => {
                let saved = move_end(&file, &path, length, "damaged", &*disk)?;
                crate::log::line(format_args!(
                    "rustmemc: {}: damaged at byte {length} ({what}); the {} bytes from there to the end were moved to {}",
                    path.display(),
                    size - length,
                    saved.display()
                ));
            }
            Next::TornTail => {
                let kept = match move_end(&file, &path, length, "torn", &*disk) {
                    Ok(saved) => format!(", and kept in {}", saved.display()),
                    // A crash because of a full disk leaves a torn tail, and the server must start then. The tail was
                    // not acknowledged, or not synced.
                    Err(OpenError::CannotSave(_, error)) => {
                        disk.truncate(&file, length).map_err(failed)?;
                        format!("; they cannot be kept ({error})")
                    }
                    Err(error) => return Err(error),
                };
                crate::log::line(format_args!(
                    "rustmemc: {}: a crash cut the last record short; its {} bytes at byte {length} are removed{kept}",
                    path.display(),
                    size - length
                ));
            }
            Next::Record | Next::End => {}
        }
        let replayed = Replayed {
            records,
            bytes: length,
            took: start.elapsed(),
        };

        let mut writer = io::BufWriter::new(LogFile::new(file, &disk));
        let (mut length, mut pending) = (length, Pending::default());
        let (heading, _) = encoded([Record::Heading { cas: 0 }]);
        if length == 0 {
            write_and_flush(&mut writer, &heading).map_err(failed)?;
            length = heading.len() as u64;
        } else if format == Format::One {
            // What follows needs a heading of its own. It is written with the first record.
            pending.bytes = heading;
        }
        // The directory entry may be as new as a crash of the last server.
        sync_folder_of(&path, &*disk).map_err(failed)?;
        let log = Log {
            writer,
            unwritten: Vec::new(),
            length,
            marked: 0,
            base: 0,
            new_file: None,
            unsynced_folder: None,
            retry_at: Instant::now(),
        };
        let aof = Aof {
            options,
            path,
            disk,
            log: Mutex::new(log),
            // The history begins one byte ahead of `synced`, so that the first sync is not skipped: it is unknown how
            // much of the file is on disk.
            appended: AtomicU64::new(1 + pending.bytes.len() as u64),
            pending: Mutex::new(pending),
            written: AtomicU64::new(1),
            synced: AtomicU64::new(0),
            syncing: Mutex::default(),
            has_synced: Condvar::new(),
            // An older server says of a file that begins with format 2 that it is newer, and of this one that it is
            // damaged. So it does not stay as it is.
            rewrite_requested: AtomicBool::new(has_format_1),
            keeper: OnceLock::new(),
            last_sync: AtomicU64::new(unix_time()),
            records: AtomicU64::new(records),
            rewrites: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            replay_took: replayed.took,
            is_misplaced: AtomicBool::new(false),
            has_no_folder: AtomicBool::new(false),
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
    NotALog,
    NewerFormat(u64),
}

struct Reader<'f> {
    input: BufReader<&'f File>,
    path: &'f Path,
    /// The offset of the next record.
    offset: u64,
    size: u64,
    line: Vec<u8>,
    parser: Parser,
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
            parser: Parser::default(),
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
        // A heading may be cut short.
        if self.offset == 0
            && !record::is_beginning_of_file(&self.line)
            && let Some(other) = other_format(&self.line)
        {
            return Ok(other);
        }
        if !self.line.ends_with(b"\n") {
            return Ok(if self.is_cut_short() {
                Next::TornTail
            } else {
                Next::Damage("the line has no end")
            });
        }
        // A line may announce more data than the file has: then no memory is taken for it.
        let rest = self.size - self.offset - length;
        match self.parser.parse(&self.line, rest) {
            Err(what) => Ok(Next::Damage(what)),
            // The line's checksum covers the length of the data. So the file was cut short.
            Ok(Parsed::CutShort) => Ok(Next::TornTail),
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
                let value = item.value_mut();
                let end = self.offset + length + value.len() as u64 + 2;
                let mut line_end = [0; 2];
                self.input.read_exact(value)?;
                self.input.read_exact(&mut line_end)?;
                if line_end != *b"\r\n" || !checksum.matches(&item.value()) {
                    return Ok(Next::Damage("the data's checksum is wrong"));
                }
                apply(Record::Put(item.borrowed()));
                self.parser.reuse(item);
                self.offset = end;
                Ok(Next::Record)
            }
        }
    }

    /// Whether the rest of the file, in which no line ends, can be the beginning of exactly one record.
    fn is_cut_short(&self) -> bool {
        let is_at_the_end = self.offset + self.line.len() as u64 == self.size;
        // A log begins with its heading. A file that is no log must not be truncated.
        let is_ours = self.offset > 0 || record::is_beginning_of_file(&self.line);
        // A record that is whole except for its last byte was not cut short: that byte was changed.
        let mut completed = self.line.clone();
        completed.pop();
        completed.push(b'\n');
        let mut parser = self.parser.clone();
        let is_changed = parser.parse(&completed, u64::MAX).is_ok();
        is_at_the_end && is_ours && !is_changed && record::is_beginning(&self.line)
    }

    fn print_progress(&mut self, start: Instant, records: u64) {
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
            "rustmemc: replaying {}: {percent:.0} %, {records} records ({:.0} MB/s, about {:.0} s left)",
            self.path.display(),
            speed / 1e6,
            (size - done) / speed
        ));
    }
}

/// What the first line of a file shows: no log, or a newer format. `None` if it may be a damaged heading.
fn other_format(line: &[u8]) -> Option<Next> {
    let Some(rest) = line.strip_prefix(b"mn rustmemc ") else {
        return Some(Next::NotALog);
    };
    let version = rest.split(|&byte| byte == b' ').next()?;
    let version = str::from_utf8(version).ok()?.parse().ok()?;
    (version > FORMAT).then_some(Next::NewerFormat(version))
}

/// Removes a file that an interrupted rewrite has left: one that begins like a log, and that no server has locked.
fn remove_stale(path: &Path) {
    let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let Some(file) = is_file.then(|| File::open(path).ok()).flatten() else {
        return;
    };
    let mut begin = Vec::new();
    let is_read = (&file).take(MAX_LINE).read_to_end(&mut begin).is_ok();
    if is_read && record::is_beginning_of_file(&begin) && file.try_lock().is_ok() {
        let _ = fs::remove_file(path);
    }
}
