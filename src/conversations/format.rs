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
            u8::from_str_radix(digits, 16).map_err(|_| unknown())?
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
        u8::from_str_radix(two, 16).map_err(|_| format!("{word} is not hexadecimal"))
    });
    bytes.collect()
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
