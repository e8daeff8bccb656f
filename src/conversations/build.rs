//! The build script. It writes `conversations.rs`: the list of all conversations, and a page of documentation for each.
//!
//! cargo runs it before it builds the library. A new file in `tests/conversations` so is a lesson, a test and a page.

#[allow(dead_code, reason = "the player needs more of the format")]
mod format;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use format::{Action, Conversation};

fn main() -> Result<(), String> {
    let variable = |name| env::var_os(name).map(PathBuf::from);
    let missing = "cargo sets the folders of a build script";
    let project = variable("CARGO_MANIFEST_DIR").ok_or(missing)?;
    let out = variable("OUT_DIR").ok_or(missing)?.join("conversations.rs");
    let folder = project.join("tests/conversations");
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-changed=src/conversations");
    let error = |error: std::io::Error| format!("{}: {error}", folder.display());

    let entries = fs::read_dir(&folder).map_err(error)?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();

    let mut list = String::new();
    let mut pages = String::new();
    for file in &files {
        let text = fs::read_to_string(file).map_err(error)?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let conversation = Conversation::parse(&text);
        let conversation = conversation.map_err(|error| format!("{}: {error}", file.display()))?;
        let _ = writeln!(list, "    ({name:?}, include_str!({file:?})),");
        let module = name.replace('-', "_");
        let page = page(&conversation);
        let _ = writeln!(
            pages,
            "#[cfg(doc)]\n#[doc = {page:?}]\npub mod lesson_{module} {{}}"
        );
    }
    let list = format!(
        "/// Each conversation: its name, such as `01-first-steps`, and its text. They are sorted by name.\n\
         pub const ALL: &[(&str, &str)] = &[\n{list}];\n{pages}"
    );
    write(&out, &list)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The conversation in Markdown: prose stays prose, and the exchanges are blocks of code.
fn page(conversation: &Conversation<'_>) -> String {
    let mut page = Page::default();
    page.prose(conversation.title);
    page.prose("");
    for line in &conversation.introduction {
        page.line(line, line.starts_with("    "));
    }
    if !conversation.flags.is_empty() {
        page.prose("");
        page.prose(&format!("The server runs with `{}`.", conversation.flags));
    }
    let code = conversation.code.split_whitespace();
    let links: Vec<String> = code
        .map(|path| format!("[`{path}`](crate::{path})"))
        .collect();
    if !links.is_empty() {
        page.prose("");
        page.prose(&format!("The code: {}.", links.join(", ")));
    }
    for section in &conversation.sections {
        page.prose("");
        page.prose(&format!("## {}", section.title));
        for step in &section.steps {
            let is_prose = matches!(step.action, Action::Prose);
            page.line(step.source, !is_prose || step.source.starts_with("    "));
        }
    }
    page.prose("");
    page.text
}

/// A page of documentation that is being written.
#[derive(Default)]
struct Page {
    text: String,
    /// Whether the last line is in a block of code.
    is_in_code: bool,
}

impl Page {
    fn prose(&mut self, line: &str) {
        self.line(line, false);
    }

    fn line(&mut self, line: &str, is_code: bool) {
        if is_code != self.is_in_code {
            self.text += if is_code { "\n```text\n" } else { "```\n\n" };
            self.is_in_code = is_code;
        }
        self.text += line;
        self.text += "\n";
    }
}
