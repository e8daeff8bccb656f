//! Command lines in the forms that getopt accepts, rewritten in the one form that `argh` understands.
//!
//! Scripts written for memcached use all these forms: `-vv`, `-m64`, `--port=11211`, `--verb` (the start of a long
//! name), and words that are no flags.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use argh::{FlagInfo, FlagInfoKind};

/// A command line that argh understands.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The flags, each followed by its value if it has one.
    pub flags: Vec<String>,
    /// The value of the last `--aof`, if it is not UTF-8. A file may have any name, but argh accepts only text.
    pub aof: Option<PathBuf>,
    /// Words that are neither flags nor values. getopt ignores them.
    pub ignored: Vec<String>,
}

/// Rewrites a command line (without the program's name). `known` are the flags that exist.
///
/// # Errors
/// One line for the user: a word is not UTF-8 and is not the value of `--aof`, or a long name is unknown or ambiguous.
pub fn normalised(
    args: impl IntoIterator<Item = OsString>,
    known: &[FlagInfo<'_>],
) -> Result<Words, String> {
    let mut words = Words::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        // The name of `--aof` is text, but its value may be any bytes.
        if let Some(path) = arg.as_bytes().strip_prefix(b"--aof=") {
            words.add_aof(Some(OsStr::from_bytes(path)));
            continue;
        }
        let arg = text(arg, None)?;
        if arg == "--" {
            for word in args.by_ref() {
                words.ignored.push(text(word, None)?);
            }
        } else if let Some(long) = arg.strip_prefix("--") {
            words.add_long(long, known, &mut args)?;
        } else if let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            words.add_letters(letters, known, &mut args)?;
        } else {
            words.ignored.push(arg);
        }
    }
    Ok(words)
}

impl Words {
    /// Adds `--aof` and its value.
    fn add_aof(&mut self, value: Option<&OsStr>) {
        let is_text = value.is_none_or(|value| value.to_str().is_some());
        self.aof = value.filter(|_| !is_text).map(PathBuf::from);
        let value = value.map(|value| value.to_string_lossy().into_owned());
        self.flags.extend(["--aof".into()].into_iter().chain(value));
    }

    /// Adds a long flag. `long` is its word without the two dashes, and `args` are the words after it.
    fn add_long(
        &mut self,
        long: &str,
        known: &[FlagInfo<'_>],
        args: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), String> {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let flag = find_long(name, known)?;
        let name = flag.long.to_owned();
        if name == "--aof" {
            self.add_aof(args.next().as_deref());
            return Ok(());
        }
        if has_value(flag) {
            return self.add_with_value(name, value, args);
        }
        // getopt accepts `--verbose=1`, and memcached ignores the 1.
        self.flags.push(name);
        Ok(())
    }

    /// Adds the flags of one word such as `-vvm64`. `letters` is the word without its dash.
    fn add_letters(
        &mut self,
        letters: &str,
        known: &[FlagInfo<'_>],
        args: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), String> {
        for (index, letter) in letters.char_indices() {
            let name = format!("-{letter}");
            let flag = known.iter().find(|flag| flag.short == Some(letter));
            if !flag.is_some_and(has_value) {
                self.flags.push(name);
                continue;
            }
            let (_, rest) = letters.split_at(index + letter.len_utf8());
            let value = Some(rest.to_owned()).filter(|rest| !rest.is_empty());
            return self.add_with_value(name, value, args);
        }
        Ok(())
    }

    /// Adds a flag that has a value. If its own word does not have the value, it is the next word, even if that begins
    /// with `-`.
    fn add_with_value(
        &mut self,
        name: String,
        value: Option<String>,
        args: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), String> {
        let value = match value {
            Some(value) => Some(value),
            None => {
                let next = args.next();
                next.map(|next| text(next, Some(&name))).transpose()?
            }
        };
        self.flags.extend([name].into_iter().chain(value));
        Ok(())
    }
}

fn has_value(flag: &FlagInfo<'_>) -> bool {
    matches!(flag.kind, FlagInfoKind::Option { .. })
}

/// The flag with this long name, or the only flag whose long name begins with it.
fn find_long<'f>(name: &str, known: &'f [FlagInfo<'f>]) -> Result<&'f FlagInfo<'f>, String> {
    let long = format!("--{name}");
    let candidates: Vec<_> = known
        .iter()
        .filter(|flag| flag.long.starts_with(&long))
        .collect();
    match *candidates {
        [only] => Ok(only),
        [] => Err(format!(
            "{long}: there is no such flag; --help lists all flags"
        )),
        _ => {
            let exact = candidates.iter().find(|flag| flag.long == long);
            let names: Vec<_> = candidates.iter().map(|flag| flag.long).collect();
            exact
                .copied()
                .ok_or_else(|| format!("{long}: this is ambiguous; it can be {}", names.join(", ")))
        }
    }
}

/// Converts a word to text. `flag` is named in the error if the word is its value.
fn text(word: OsString, flag: Option<&str>) -> Result<String, String> {
    word.into_string().map_err(|word| {
        let shown = word.to_string_lossy();
        let flag = flag.map(|flag| format!("{flag} ")).unwrap_or_default();
        format!("{flag}{shown}: this is not UTF-8; only the value of --aof need not be UTF-8")
    })
}
