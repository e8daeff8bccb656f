//! The file under its lock: records are written whole or not at all.
//!
//! Invariant: up to `length` the file has whole records and nothing else. What a write that failed has left
//! behind them is cut off before the next.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Instant;

use super::rewrite::Copy;

/// What the log's lock guards.
#[derive(Debug)]
pub struct Log {
    pub writer: BufWriter<Arc<File>>,
    /// The length of the file, in bytes, up to its last whole record.
    pub length: u64,
    /// What is behind `length` (part of a record that could not be written) must be cut off first.
    pub torn: bool,
    /// A sync has failed, and what it was to save may be lost though a later sync succeeds. Only a new file
    /// has it for sure: nothing is appended until there is one.
    pub unsure: bool,
    /// The server has stopped; the file may be another's now.
    pub closed: bool,
    /// The length after the last rewrite.
    pub base: u64,
    /// The new file, while the old one is being rewritten.
    pub copy: Option<Copy>,
    /// When a rewrite that failed may be tried again.
    pub not_before: Instant,
}

impl Log {
    /// Writes records and hands them to the operating system, or leaves the file as it was.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.closed {
            return Err(io::Error::other("the server has stopped"));
        }
        if self.unsure {
            return Err(io::Error::other("a sync has failed"));
        }
        self.mend()?;
        match write(&mut self.writer, bytes) {
            Ok(()) => {
                self.length += bytes.len() as u64;
                // The copy gets what the file gets. If it cannot, it is given up, and the file goes on.
                if let Some(copy) = &mut self.copy {
                    copy.append(bytes);
                }
                Ok(())
            }
            Err(error) => {
                self.torn = true;
                // What is left in the buffer must not be written later, by the buffer itself.
                let file = Arc::clone(self.writer.get_ref());
                let _ = std::mem::replace(&mut self.writer, BufWriter::new(file)).into_parts();
                // If not now, then before the next record.
                let _ = self.mend();
                Err(error)
            }
        }
    }

    /// Cuts part of a record off that a write which failed has left.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.writer.get_ref().set_len(self.length)?;
            self.torn = false;
        }
        Ok(())
    }
}

/// Writes bytes and hands them to the operating system.
pub fn write(writer: &mut BufWriter<Arc<File>>, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes)?;
    writer.flush()
}
