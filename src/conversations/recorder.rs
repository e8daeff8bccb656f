//! Writes a conversation, in the [format](super::format) that the [player](super::player) plays: `memc --record`.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::answer::Part;
use super::format::escaped;

/// A file that is written as a conversation, which the tests and `memc check` can play.
#[derive(Debug)]
pub struct Recorder {
    file: File,
    /// The cas uniques that the server has sent. Another server sends other numbers, so each is written as `{=cas0}`
    /// with its position in this list.
    uniques: Vec<String>,
}

impl Recorder {
    /// Creates the file.
    ///
    /// # Errors
    /// There is such a file, or it cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut recorder = Recorder {
            file: File::create_new(path)?,
            uniques: Vec::new(),
        };
        let title = path.file_stem().unwrap_or_default().display();
        recorder.write(&format!(
            "# {title}\n\nRecorded by memc. It begins without any item.\n\n## A record"
        ))?;
        Ok(recorder)
    }

    /// The server has closed the connection.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn closed(&mut self) -> io::Result<()> {
        self.write("<closed")
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.file, "{line}")
    }

    /// The client has sent a line, and this data block with its line end.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sent(&mut self, line: &str, data: &str) -> io::Result<()> {
        let is_meta = line.starts_with('m');
        let words = line
            .split(' ')
            .enumerate()
            .map(|(index, word)| match index {
                5 if line.starts_with("cas ") => self.named(word, ""),
                2.. if is_meta && word.starts_with('C') => self.named(word, "C"),
                _ => escaped(word.as_bytes()),
            });
        let words: Vec<String> = words.collect();
        self.write(&format!("> {}", words.join(" ")))?;
        for line in data.lines() {
            self.write(&format!("> {}", escaped(line.as_bytes())))?;
        }
        Ok(())
    }

    /// The server has sent a part of the answer to the line `sent`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn received(&mut self, sent: &str, part: &Part) -> io::Result<()> {
        let line = String::from_utf8_lossy(&part.line);
        let lists = ["stats", "lru_crawler metadump"];
        let is_list = lists.iter().any(|list| sent.starts_with(list));
        let is_meta = matches!(line.get(..3), Some("HD " | "VA " | "NS " | "EX " | "NF "));
        let words = line.split(' ').enumerate().map(|(index, word)| {
            let prefix = match index {
                4 if line.starts_with("VALUE ") => "",
                1.. if is_meta && word.starts_with('c') => "c",
                _ => return escaped(word.as_bytes()),
            };
            let unique = word.trim_start_matches(prefix).to_owned();
            if !self.uniques.contains(&unique) {
                self.uniques.push(unique);
            }
            self.named(word, prefix)
        });
        let words = words.collect::<Vec<_>>().join(" ");
        match (&*line, part.line_end) {
            // The list of another server differs.
            ("END", _) if is_list => self.write("<...until END"),
            _ if is_list => Ok(()),
            _ if line.starts_with("VERSION ") => self.write("< VERSION {*}"),
            (_, "\n") => self.write(&format!("<- {words}")),
            _ => self.write(&format!("< {words}")),
        }?;
        match &part.value {
            Some(value) => self.write(&format!("< {}", escaped(value))),
            None => Ok(()),
        }
    }

    /// A word that is a known cas unique after this prefix, with the name of the number.
    fn named(&self, word: &str, prefix: &str) -> String {
        let number = word.strip_prefix(prefix);
        let known = self
            .uniques
            .iter()
            .position(|unique| Some(unique.as_str()) == number);
        known.map_or(escaped(word.as_bytes()), |index| {
            format!("{prefix}{{=cas{index}}}")
        })
    }
}
