//! Writes a conversation, in the [format](super::format) that the [player](super::player) plays: `memc --record`.

use std::io::{self, Write};

use super::answer::Part;
use super::format::escaped;

/// Writes down what a client and a server say, as a conversation that the tests and `memc check` can play.
pub struct Recorder {
    out: Box<dyn Write>,
    /// The cas uniques that the server has sent. Another server sends other numbers, so each is written as `{=cas0}`
    /// with its position in this list.
    uniques: Vec<String>,
}

impl Recorder {
    /// Writes the beginning.
    ///
    /// # Errors
    /// Those of `out`, as for every method.
    pub fn new(out: Box<dyn Write>, title: &str) -> io::Result<Self> {
        let mut recorder = Recorder {
            out,
            uniques: Vec::new(),
        };
        recorder.write(&format!(
            "# {title}\n\nRecorded by memc. It begins without any item.\n\n## A record"
        ))?;
        Ok(recorder)
    }

    /// The server has closed the connection.
    pub fn closed(&mut self) -> io::Result<()> {
        self.write("<closed")
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "{line}")
    }

    /// The client has sent a line, and this data block with its line end.
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
