//! The format of a conversation, and its parser. A conversation is a file of `tests/conversations`: prose with exchanges
//! between clients and the server.
//!
//! A line of any other form than these is prose:
//!
//! | line            | meaning                                                                            |
//! |-----------------|------------------------------------------------------------------------------------|
//! | `# A title`     | (the first line) what the conversation is about                                    |
//! | `server: -M`    | (before the first section) the server runs with these flags                        |
//! | `code: a b`     | (before the first section) the parts of the code that it speaks of                 |
//! | `## A sentence` | a section begins: the player sends `flush_all` and opens new connections           |
//! | `> text`        | the client sends the text and `\r\n`                                               |
//! | `>- text`       | the client sends only the text                                                     |
//! | `< text`        | the server answers the text and `\r\n`                                             |
//! | `>x 80 key:61`  | the client sends these bytes (binary protocol)                                     |
//! | `<x 81 "text"`  | the server answers these bytes (binary protocol)                                   |
//! | `<- text`       | the server answers the text and `\n` alone                                         |
//! | `<closed`       | the server closes the connection, and sends nothing before that                    |
//! | `<...until END` | the server sends lines up to `END`, with any content                               |
//! | `<...has text`  | one of the lines up to `END` is this one (several such lines are about one answer) |
//! | `anna> text`    | `anna` names a connection; every line above can have such a name                   |
//! | `@ +10`         | ten seconds pass (`debugtime`)                                                     |
//!
//! The sentence of a section can end in a mark. `(ours alone)`: only rustmemc does this. `(since 1.6.40)`: an older
//! memcached answers something else.
//!
//! In a text, `\r \n \t \0 \\ \xHH` are bytes and `\s` is a space; `{250*k}` is 250 times `k`. `{=a}` is a number. The
//! player remembers the first one as `a`, and from then on `{=a}` is this number, also in a text that is sent. `{>a}`
//! is a greater number, `{#}` is any number, and `{*}` is anything up to the end of the line.
//!
//! In a line of bytes, a word is hexadecimal, or a text in quotation marks. A name before a colon explains the word.
//! `{=a}` is a number of 8 bytes. The player remembers it too.
//!
//! This file uses nothing else of the crate, because the build script uses it too.

/// A file of `tests/conversations`.
#[derive(Debug)]
pub struct Conversation<'t> {
    /// What it is about.
    pub title: &'t str,
    /// The flags of the server that it needs. Usually empty.
    pub flags: &'t str,
    /// Paths of the code that it speaks of, such as `protocol::classic`.
    pub code: &'t str,
    /// The lines of prose before the first section.
    pub introduction: Vec<&'t str>,
    /// Its sections.
    pub sections: Vec<Section<'t>>,
}

/// A part of a conversation that can be played alone.
#[derive(Debug)]
pub struct Section<'t> {
    /// What it shows, in one sentence, with its mark.
    pub title: &'t str,
    /// Whether only rustmemc answers so.
    pub is_ours_alone: bool,
    /// The first release of memcached that answers so.
    pub since: Release,
    /// Its lines.
    pub steps: Vec<Step<'t>>,
}

/// The part of the protocol that a section needs. A server is usually written in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The classic commands.
    Classic,
    /// The meta commands too.
    Meta,
    /// The binary protocol too.
    Binary,
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "classic" => Ok(Level::Classic),
            "meta" => Ok(Level::Meta),
            "binary" => Ok(Level::Binary),
            _ => Err("a level is classic, meta or binary".into()),
        }
    }
}

/// The numbers of a release of memcached: 1.6.45.
pub type Release = (u32, u32, u32);

/// A line of a section.
#[derive(Debug)]
pub struct Step<'t> {
    /// The number of the line in its file.
    pub line: usize,
    /// The line as it is written.
    pub source: &'t str,
    /// The name of the connection. Empty if the section needs no names.
    pub client: &'t str,
    /// What happens.
    pub action: Action,
}

/// What happens in a step.
#[derive(Debug)]
pub enum Action {
    /// Nothing: this is a line of prose, or an empty one.
    Prose,
    /// The client sends these bytes.
    Send(Text),
    /// The server answers these bytes.
    Answer(Text),
    /// The server closes the connection.
    Closed,
    /// The server sends lines up to END.
    UntilEnd,
    /// The server sends lines up to END, and this is one of them.
    Has(Text),
    /// So many seconds pass.
    TimePasses(u32),
}

/// The pieces of a text, in their order.
pub type Text = Vec<Piece>;

/// A piece of a text that is sent or expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Bytes(Vec<u8>),
    /// `{=a}`: the number that is remembered as `a`, in decimal digits.
    Remembered(String),
    /// `{>a}`: a greater number than the one that is remembered as `a`.
    Above(String),
    /// `{#}`: any number.
    Number,
    /// `{*}`: anything up to the end of the line.
    Anything,
    /// `{=a}` in a line of bytes: the number that is remembered as `a`, in eight bytes.
    Remembered8(String),
}

impl<'t> Conversation<'t> {
    /// Parses a file.
    ///
    /// # Errors
    /// A sentence that names the line.
    pub fn parse(text: &'t str) -> Result<Self, String> {
        let mut conversation = Conversation {
            title: "",
            flags: "",
            code: "",
            introduction: Vec::new(),
            sections: Vec::new(),
        };
        for (index, source) in text.lines().enumerate() {
            let line = index + 1;
            let error = |error: String| format!("line {line}: {error}");
            if let Some(title) = source.strip_prefix("## ") {
                let section = Section::new(title).map_err(error)?;
                conversation.sections.push(section);
                continue;
            }
            let step = Step::parse(line, source).map_err(error)?;
            if let Some(section) = conversation.sections.last_mut() {
                section.steps.push(step);
            } else if let Some(title) = source.strip_prefix("# ") {
                conversation.title = title;
            } else if let Some(flags) = source.strip_prefix("server: ") {
                conversation.flags = flags.trim();
            } else if let Some(code) = source.strip_prefix("code: ") {
                conversation.code = code.trim();
            } else if let Action::Prose = step.action {
                conversation.introduction.push(source);
            } else {
                return Err(error("an exchange before the first section".into()));
            }
        }
        Ok(conversation)
    }
}

impl<'t> Section<'t> {
    fn new(title: &'t str) -> Result<Self, String> {
        let since = match title.split_once("(since 1.6.") {
            None => (0, 0, 0),
            Some((_, patch)) => {
                let patch = patch.trim_end_matches(')').parse();
                (1, 6, patch.map_err(|_| "this is no release")?)
            }
        };
        Ok(Section {
            title,
            is_ours_alone: title.ends_with("(ours alone)"),
            since,
            steps: Vec::new(),
        })
    }

    /// The highest level of what the clients send.
    #[must_use]
    pub fn level(&self) -> Level {
        let levels = self.steps.iter().filter_map(|step| match &step.action {
            Action::Send(text) => Some(level(text)),
            _ => None,
        });
        levels.max().unwrap_or(Level::Classic)
    }
}

impl<'t> Step<'t> {
    fn parse(line: usize, source: &'t str) -> Result<Self, String> {
        let step = |client, action| Step {
            line,
            source,
            client,
            action,
        };
        if let Some(seconds) = source.strip_prefix("@ +") {
            let seconds = seconds.trim().parse().map_err(|_| "no seconds")?;
            return Ok(step("", Action::TimePasses(seconds)));
        }
        let name = source.find(|c: char| !c.is_ascii_lowercase());
        let (client, rest) = source.split_at(name.unwrap_or(source.len()));
        let action = if let Some(rest) = rest.strip_prefix(">x ") {
            Action::Send(hexadecimal(rest)?)
        } else if let Some(rest) = rest.strip_prefix("<x ") {
            Action::Answer(hexadecimal(rest)?)
        } else if let Some(rest) = rest.strip_prefix(">-") {
            Action::Send(text(rest, "")?)
        } else if let Some(rest) = rest.strip_prefix('>') {
            Action::Send(text(rest, "\r\n")?)
        } else if rest == "<closed" {
            Action::Closed
        } else if rest == "<...until END" {
            Action::UntilEnd
        } else if let Some(rest) = rest.strip_prefix("<...has ") {
            Action::Has(text(rest, "")?)
        } else if let Some(rest) = rest.strip_prefix("<-") {
            Action::Answer(text(rest, "\n")?)
        } else if let Some(rest) = rest.strip_prefix('<') {
            Action::Answer(text(rest, "\r\n")?)
        } else {
            return Ok(step("", Action::Prose));
        };
        Ok(step(client, action))
    }
}

/// The level of a request. (A data block counts as a request, which makes no difference as long as none begins like a
/// meta command.)
fn level(text: &[Piece]) -> Level {
    let bytes = text.iter().map_while(|piece| match piece {
        Piece::Bytes(bytes) => Some(&bytes[..]),
        _ => None,
    });
    let bytes = bytes.flatten().take(3).copied().collect::<Vec<u8>>();
    match bytes[..] {
        [0x80, ..] => Level::Binary,
        [b'm', b'g' | b's' | b'd' | b'a' | b'n' | b'e', b' ' | b'\r'] => Level::Meta,
        _ => Level::Classic,
    }
}

/// Parses a text into pieces; `end` is the last one.
fn text(text: &str, end: &str) -> Result<Text, String> {
    let mut pieces = Vec::new();
    let mut rest = text.strip_prefix(' ').unwrap_or(text);
    while let Some(next) = rest.chars().next() {
        let special = match next {
            '{' => placeholder(rest),
            '\\' => Some(escape(rest)?),
            _ => None,
        };
        let (piece, after) = special.unwrap_or_else(|| {
            let (first, after) = rest.split_at(next.len_utf8());
            (Piece::Bytes(first.into()), after)
        });
        pieces.push(piece);
        rest = after;
    }
    pieces.push(Piece::Bytes(end.into()));
    Ok(pieces)
}

/// Parses what is between braces. `None`: it has no meaning here, so the braces are ordinary bytes.
fn placeholder(text: &str) -> Option<(Piece, &str)> {
    let (inside, after) = text.strip_prefix('{')?.split_once('}')?;
    let piece = match inside {
        "#" => Piece::Number,
        "*" => Piece::Anything,
        _ => {
            if let Some(name) = inside.strip_prefix('=') {
                Piece::Remembered(name.to_owned())
            } else if let Some(name) = inside.strip_prefix('>') {
                Piece::Above(name.to_owned())
            } else {
                let (count, what) = inside.split_once('*')?;
                Piece::Bytes(what.repeat(count.parse().ok()?).into_bytes())
            }
        }
    };
    Some((piece, after))
}

fn escape(text: &str) -> Result<(Piece, &str), String> {
    let unknown = || format!("no such escape: {text:?}");
    let (escape, mut after) = text.split_at_checked(2).ok_or_else(unknown)?;
    let byte = match escape {
        r"\r" => b'\r',
        r"\n" => b'\n',
        r"\t" => b'\t',
        r"\0" => 0,
        r"\s" => b' ',
        r"\\" => b'\\',
        r"\x" => {
            let (digits, rest) = after.split_at_checked(2).ok_or_else(unknown)?;
            after = rest;
            byte_of(digits).ok_or_else(unknown)?
        }
        _ => return Err(unknown()),
    };
    Ok((Piece::Bytes(vec![byte]), after))
}

/// Parses the bytes of a binary request or answer.
fn hexadecimal(line: &str) -> Result<Text, String> {
    let mut pieces = Vec::new();
    // Every second part is inside quotation marks.
    for (place, part) in line.split('"').enumerate() {
        if place % 2 == 1 {
            pieces.push(Piece::Bytes(part.into()));
            continue;
        }
        for word in part.split_whitespace() {
            let (_, word) = word.rsplit_once(':').unwrap_or(("", word));
            pieces.push(match word.strip_prefix("{=") {
                Some(name) => Piece::Remembered8(name.trim_end_matches('}').into()),
                None => Piece::Bytes(bytes_of(word)?),
            });
        }
    }
    Ok(pieces)
}

fn bytes_of(word: &str) -> Result<Vec<u8>, String> {
    let pairs = (0..word.len()).step_by(2);
    let bytes = pairs.map(|at| {
        let two = word.get(at..at + 2);
        let two = two.ok_or(format!("{word} has an odd number of digits"))?;
        byte_of(two).ok_or_else(|| format!("{word} is not hexadecimal"))
    });
    bytes.collect()
}

/// Parses two hexadecimal digits.
fn byte_of(digits: &str) -> Option<u8> {
    // The parser of std also accepts "+1".
    let is_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hexadecimal.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Text as it must be written in a conversation, so that it means these bytes.
#[must_use]
pub fn escaped(bytes: &[u8]) -> String {
    let mut escaped = String::new();
    for &byte in bytes {
        match byte {
            b'\\' => escaped.push_str(r"\\"),
            b'{' => escaped.push_str(r"\x7b"),
            b' '..=b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!(r"\x{byte:02x}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The only step of a section with this line.
    fn step(line: &str) -> Result<(String, Action), String> {
        let text = format!("## A section\n{line}\n");
        let mut conversation = Conversation::parse(&text)?;
        let step = conversation.sections.remove(0).steps.remove(0);
        assert_eq!((step.line, step.source), (2, line));
        Ok((step.client.to_owned(), step.action))
    }

    /// The bytes of a text that has only bytes.
    fn bytes(text: Text) -> Vec<u8> {
        let bytes = text.into_iter().map(|piece| match piece {
            Piece::Bytes(bytes) => bytes,
            other => panic!("{other:?} has no bytes"),
        });
        bytes.collect::<Vec<_>>().concat()
    }

    #[test]
    fn each_form_of_a_line_has_its_meaning() {
        for (line, client, is_sent, expected) in [
            ("> get a", "", true, &b"get a\r\n"[..]),
            (">get a", "", true, b"get a\r\n"),
            (">  get a", "", true, b" get a\r\n"),
            (">", "", true, b"\r\n"),
            (">- get a", "", true, b"get a"),
            ("anna> get a", "anna", true, b"get a\r\n"),
            ("anna>- x", "anna", true, b"x"),
            ("< END", "", false, b"END\r\n"),
            ("<- END", "", false, b"END\n"),
            ("ben< END", "ben", false, b"END\r\n"),
            (r#">x 80 key:0161 "a b" ff"#, "", true, b"\x80\x01aa b\xff"),
            (r#"anna<x 81 "" 00"#, "anna", false, b"\x81\0"),
        ] {
            let (found, action) = step(line).expect(line);
            assert_eq!(found, client, "{line}");
            match (action, is_sent) {
                (Action::Send(text), true) | (Action::Answer(text), false) => {
                    assert_eq!(bytes(text), expected, "{line}");
                }
                (action, _) => panic!("{line}: {action:?}"),
            }
        }
        assert!(matches!(step("<closed"), Ok((_, Action::Closed))));
        assert!(matches!(step("<...until END"), Ok((_, Action::UntilEnd))));
        assert!(matches!(step("@ +10"), Ok((_, Action::TimePasses(10)))));
        match step("anna<...has STAT a").expect("a line") {
            (client, Action::Has(text)) => {
                assert_eq!((client, bytes(text)), ("anna".into(), b"STAT a".into()))
            }
            (_, action) => panic!("{action:?}"),
        }
        for prose in [
            "",
            "prose",
            "a < b",
            "Anna> x",
            "# not a title",
            "    > x",
            "@ 10",
            "x",
        ] {
            assert!(matches!(step(prose), Ok((_, Action::Prose))), "{prose}");
        }
    }

    #[test]
    fn a_text_has_escapes_and_placeholders() {
        let pieces = |source: &str| text(source, "").expect(source);
        let one = |source: &str| pieces(source).remove(0);
        assert_eq!(bytes(pieces(r"\r\n\t\0\\\s\xfF.")), b"\r\n\t\0\\ \xff.");
        assert_eq!(bytes(pieces("{3*ab}c")), b"abababc");
        assert_eq!(one("{=a}"), Piece::Remembered("a".into()));
        assert_eq!(one("{>a}"), Piece::Above("a".into()));
        assert_eq!(one("{#}"), Piece::Number);
        assert_eq!(one("{*}"), Piece::Anything);
        assert_eq!(
            hexadecimal("cas:{=a}"),
            Ok(vec![Piece::Remembered8("a".into())])
        );
        // Other braces are ordinary bytes.
        for braces in ["{x}", "{", "}{", "{a*b}", "{}"] {
            assert_eq!(bytes(pieces(braces)), braces.as_bytes());
        }
    }

    #[test]
    fn what_cannot_be_parsed_is_an_error_with_its_line() {
        for (line, error) in [
            (r"> a\qb", r#"line 2: no such escape: "\\qb""#),
            (r"> a\", r#"line 2: no such escape: "\\""#),
            (r"< \x4", r#"line 2: no such escape: "\\x4""#),
            (r"< \x4g", r#"line 2: no such escape: "\\x4g""#),
            (r"< \x+4", r#"line 2: no such escape: "\\x+4""#),
            (">x 80 0", "line 2: 0 has an odd number of digits"),
            (">x zz", "line 2: zz is not hexadecimal"),
            (">x +1", "line 2: +1 is not hexadecimal"),
            ("@ +soon", "line 2: no seconds"),
        ] {
            assert_eq!(step(line).expect_err(line), error);
        }
        let error = |text| Conversation::parse(text).expect_err(text);
        assert_eq!(
            error("# T\n\n> get a\n## S"),
            "line 3: an exchange before the first section"
        );
        assert_eq!(
            error("## S\n## T (since 1.6.x)"),
            "line 2: this is no release"
        );
    }

    #[test]
    fn a_conversation_has_a_heading_and_sections_with_marks() {
        let text = "# Title: x\n\nserver: -M -m 8 \ncode: a b\nprose\n## One (ours alone)\nmore\n> a\n## Two (since 1.6.40)";
        let conversation = Conversation::parse(text).expect("it is a conversation");
        assert_eq!(conversation.title, "Title: x");
        assert_eq!((conversation.flags, conversation.code), ("-M -m 8", "a b"));
        assert_eq!(conversation.introduction, ["", "prose"]);
        let [one, two] = &conversation.sections[..] else {
            panic!("{:?}", conversation.sections);
        };
        assert_eq!((one.title, one.is_ours_alone), ("One (ours alone)", true));
        assert_eq!((one.since, two.since), ((0, 0, 0), (1, 6, 40)));
        assert!(!two.is_ours_alone && two.steps.is_empty());
        let lines: Vec<usize> = one.steps.iter().map(|step| step.line).collect();
        assert_eq!(lines, [7, 8]);
    }

    #[test]
    fn the_level_of_a_section_is_that_of_its_highest_request() {
        for (lines, level) in [
            ("prose", Level::Classic),
            ("> mget a", Level::Classic),
            ("> set a 0 0 1\n> x\n< HD", Level::Classic),
            ("> set a 0 0 1\n> x\n> mg a\n> get a", Level::Meta),
            ("> mn", Level::Meta),
            ("> me a\n>x 80 00", Level::Binary),
            (">x 80\n> mg a", Level::Binary),
            ("<x 80", Level::Classic),
        ] {
            let text = format!("## S\n{lines}");
            let conversation = Conversation::parse(&text).expect(lines);
            assert_eq!(conversation.sections[0].level(), level, "{lines}");
        }
    }

    #[test]
    fn escaped_bytes_are_read_as_these_bytes() {
        let all: Vec<u8> = (0..=255).collect();
        for written in [&all[..], b" {3*a} {=b} \\n \"", b"plain"] {
            let line = format!("> {}", escaped(written));
            let Ok((_, Action::Send(text))) = step(&line) else {
                panic!("{line}");
            };
            assert_eq!(bytes(text), [written, b"\r\n"].concat());
        }
        assert_eq!(escaped(b"get a\r\n"), r"get a\x0d\x0a");
    }
}
