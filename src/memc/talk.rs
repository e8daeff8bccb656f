//! `memc` alone: a conversation. What a person types is sent as a line, and the answers are shown as they come, each
//! with its reason if it does not explain itself.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use rustmemc::conversations::answer::{self, End, Ending, Part};
use rustmemc::conversations::format::escaped;

use crate::client::Server;
use crate::screen::{Style, ask, ask_for_data, is_terminal, show, show_part};
use crate::{Failure, failed};

/// How long to wait for an answer that may not come.
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// Talks until the input ends or the server closes the connection. `record` is the file to write.
pub fn talk(server: &Server, record: Option<&Path>) -> Result<(), Failure> {
    let mut client = server.connect()?;
    let mut record = record.map(Record::create).transpose()?;
    if is_terminal() {
        let name = &server.name;
        let greeting = format!("Connected to {name}. Type a command; ? explains, Ctrl-D ends.\n");
        show(Style::Dim, &greeting)?;
    }
    loop {
        let (mut line, mut data) = (ask("> ")?, String::new());
        if let Some((before, after)) = without_bytes(&line) {
            let typed = ask("data> ")?;
            line = format!("{before} {}{after}", typed.len());
            data = typed + "\r\n";
            if is_terminal() {
                show(Style::Dim, &format!("(sent as: {line})\n"))?;
            }
        }
        let (ending, length) = answer::ending(line.as_bytes());
        if let Some(length) = length.filter(|_| data.is_empty()) {
            data = ask_for_data(length)?;
        }
        if let Some(record) = &mut record {
            record.sent(&line, &data)?;
        }
        client.set_timeout(match ending {
            Ending::Unknown => Some(SHORT_WAIT),
            Ending::Never => None,
            _ => Some(server.timeout),
        });
        client.send(format!("{line}\r\n{data}").as_bytes())?;
        let end = client.read_parts(ending, |part| {
            show_part("", line.as_bytes(), &part)?;
            match &mut record {
                Some(record) => record.received(&line, &part),
                None => Ok(()),
            }
        })?;
        match end {
            End::Closed => {
                if let Some(record) = &mut record {
                    record.write("<closed")?;
                }
                return match ending {
                    Ending::Unknown => Ok(()),
                    _ => Err(server.lost(end)),
                };
            }
            End::Silence if ending != Ending::Unknown => {
                let note = "(no answer; what comes later is shown after the next line)\n";
                show(Style::Dim, note)?;
            }
            _ => {}
        }
    }
}

/// Splits a storage line that lacks its `<bytes>` there. `None`: the line is another one, or has them.
fn without_bytes(line: &str) -> Option<(String, String)> {
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let is_number = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
    let arguments = words.iter().skip(1).filter(|word| **word != "noreply");
    let before = match (*words.first()?, arguments.count()) {
        ("set" | "add" | "replace" | "append" | "prepend", 3) | ("cas", 4) => 4,
        ("ms", 1..) if !words.get(2).is_some_and(is_number) => 2,
        _ => return None,
    };
    let (before, after) = words.split_at_checked(before)?;
    let after: String = after.iter().map(|word| format!(" {word}")).collect();
    Some((before.join(" "), after))
}

/// A file that is written as a conversation, which the tests and `memc check` can play.
struct Record {
    file: File,
    /// The cas uniques that the server has sent. Another server sends other numbers, so each is written as `{=cas0}`
    /// with its position in this list.
    uniques: Vec<String>,
}

impl Record {
    fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::create_new(path).map_err(|error| {
            let path = path.display();
            failed(format!(
                "cannot create the file {path} for the record: {error}."
            ))
        })?;
        let mut record = Record {
            file,
            uniques: Vec::new(),
        };
        let title = path.file_stem().unwrap_or_default().display();
        record.write(&format!(
            "# {title}\n\nRecorded by memc. It begins without any item.\n\n## A record"
        ))?;
        Ok(record)
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.file, "{line}")
    }

    fn sent(&mut self, line: &str, data: &str) -> io::Result<()> {
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

    fn received(&mut self, sent: &str, part: &Part) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_storage_line_without_its_byte_count_is_completed() {
        let check = |line: &str, expected: &str| {
            let completed = without_bytes(line).map(|(before, after)| format!("{before} 5{after}"));
            assert_eq!(completed.as_deref().unwrap_or(line), expected, "{line}");
        };
        check("set k 0 60", "set k 0 60 5");
        check("set k 0 60 noreply", "set k 0 60 5 noreply");
        check("set k 0 60 3", "set k 0 60 3");
        check("add k 0", "add k 0");
        check("cas k 0 60 77", "cas k 0 60 5 77");
        check("cas k 0 60 3 77", "cas k 0 60 3 77");
        check("ms k", "ms k 5");
        check("ms k T60 c", "ms k 5 T60 c");
        check("ms k 3 c", "ms k 3 c");
        check("ms", "ms");
        check("get k 0 60", "get k 0 60");
        check("", "");
    }
}
