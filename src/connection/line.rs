//! The line that a connection reads, in bounded memory.
//!
//! A `get` or `gets` line may have any length. If it is longer than its memory, it is served in pieces:
//!
//! ```text
//! the line:    get k1 k2 k3 ... k6999 k7000 k7001 k7002 ... \r\n
//! 1st piece:   get k1 k2 k3 ... k6999 k70                         no more memory: VALUEs of k1 to k6999
//! 2nd piece:                      get k7000 k7001 k7002 ... \r\n  the end of the line: VALUEs, then END
//! ```
//!
//! The last word of a piece may be incomplete, so it is kept for the next piece, after the verb. So each piece is
//! itself a `get` line, and the last one always has a key if any piece had one.
//!
//! All keys of a piece are checked before its first VALUE is sent. If a key is too long, the error replaces the rest of
//! the answer, and the rest of the line is swallowed. So VALUEs come before an error only if the line has several
//! pieces.
//!
//! A line is cut as late as possible, because many clients read no answer before they have sent the whole line. If the
//! server answered the first piece too early, both would wait for ever: the server until the client reads, and the
//! client until the server reads. So a line longer than [`OWN`] takes more memory, up to [`MAX_PIECE`], from the
//! [`LineMemory`] that all connections share.
//!
//! Lesson: [02](crate::conversations::lesson_02_lines).

use crate::clients::LineMemory;
use crate::protocol;

/// A line is too long if it has more bytes than this and its end has not arrived. (Not if it begins with `get` or
/// `gets`.)
pub const MAX_LINE: usize = 2048;

/// How much of a `get` line each connection may hold without asking for memory: 64 KB.
pub const OWN: usize = 64 << 10;

/// The longest piece of a `get` line.
pub const MAX_PIECE: usize = 4 << 20;

/// A line that is being read, or a piece of it.
#[derive(Debug)]
pub struct Line<'m> {
    bytes: Vec<u8>,
    /// How many bytes it may have now. What exceeds [`OWN`] is taken from the shared memory.
    capacity: usize,
    memory: &'m LineMemory,
    position: Position,
    longest: Longest,
}

/// How long a line may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Longest {
    /// A `get` or `gets` may have any length, and every other line [`MAX_LINE`] bytes.
    Command,
    /// Before the login every line may have only [`MAX_LINE`] bytes.
    Login,
}

/// Which part of a line the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The line from its start.
    Start,
    /// The verb, and a later piece of the line.
    Later,
}

impl<'m> Line<'m> {
    /// An empty line.
    pub fn new(memory: &'m LineMemory, longest: Longest) -> Self {
        Line {
            bytes: Vec::new(),
            capacity: OWN,
            memory,
            position: Position::Start,
            longest,
        }
    }

    /// What was read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Which part of the line this is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Whether it may have several pieces.
    pub fn may_be_long(&self) -> bool {
        let is_get = self.bytes.starts_with(b"get ") || self.bytes.starts_with(b"gets ");
        is_get && self.longest == Longest::Command
    }

    /// Appends bytes, up to the end of the line, and returns how many. 0 if there is no memory for more.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        if self.bytes.len() >= self.capacity {
            self.grow();
        }
        let free = self.capacity.saturating_sub(self.bytes.len());
        let (bytes, _) = bytes.split_at(bytes.len().min(free));
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let (taken, _) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
        self.bytes.extend_from_slice(taken);
        taken.len()
    }

    /// Doubles the capacity, up to [`MAX_PIECE`], if enough shared memory is free.
    fn grow(&mut self) {
        if self.capacity < MAX_PIECE && self.memory.take(self.capacity) {
            self.capacity *= 2;
            self.bytes.reserve_exact(self.capacity - self.bytes.len());
        }
    }

    /// Removes the line, or its last piece, after it was served.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.position = Position::Start;
        self.give_back();
    }

    /// Removes the words of a piece that was served, except the verb and the last word. If a space follows the last
    /// word, it is complete, and one space is kept.
    pub fn keep_last_word(&mut self) {
        // A `\r` at the end may belong to the line's end, `\r\n`, as in `parse_piece`. So it is not a part of the word.
        let carriage_return = self.bytes.pop_if(|&mut byte| byte == b'\r');
        let verb = self.bytes.iter().position(|&byte| byte == b' ');
        let verb = verb.map_or(0, |space| space + 1);
        let last = protocol::without_last_word(&self.bytes).len().max(verb);
        self.bytes.drain(verb..last);
        // A million spaces mean the same as one.
        let spaces = self.bytes.iter().rev().take_while(|&&byte| byte == b' ');
        let spaces = spaces.count();
        self.bytes
            .truncate(self.bytes.len() - spaces.saturating_sub(1));
        self.bytes.extend(carriage_return);
        self.position = Position::Later;
        self.give_back();
    }

    /// Frees the memory of a long line. Otherwise the connection would keep it until it is closed.
    fn give_back(&mut self) {
        self.bytes.shrink_to(MAX_LINE);
        if self.capacity > OWN {
            self.memory.give_back(self.capacity - OWN);
            self.capacity = OWN;
        }
    }
}

/// The shared memory is given back even if the connection is lost in the middle of a line.
impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.bytes.clear();
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept of a piece after it was served.
    fn rest(piece: &str) -> String {
        let memory = LineMemory::default();
        let mut line = Line::new(&memory, Longest::Command);
        assert_eq!(line.append(piece.as_bytes()), piece.len());
        line.keep_last_word();
        assert_eq!(line.position(), Position::Later);
        String::from_utf8(line.bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_verb_and_the_last_word_of_a_piece_stay() {
        assert_eq!(rest("get a b cd"), "get cd");
        assert_eq!(rest("gets a b cd "), "gets cd ");
        assert_eq!(rest("get a   b    "), "get b ");
        assert_eq!(rest("get a"), "get a");
        assert_eq!(rest("get     "), "get ");
        assert_eq!(rest("get a b\r"), "get b\r");
        assert_eq!(rest("get a b   \r"), "get b \r");
    }

    #[test]
    fn a_line_takes_shared_memory_only_above_its_own_and_gives_it_back() {
        let memory = LineMemory::default();
        let fill = |line: &mut Line<'_>| {
            while line.append(b"get a b c d e f ") > 0 {}
            line.bytes().len()
        };
        let mut lines = Vec::new();
        while memory.take(MAX_PIECE - OWN) {
            memory.give_back(MAX_PIECE - OWN);
            lines.push(Line::new(&memory, Longest::Command));
            assert_eq!(fill(lines.last_mut().unwrap()), MAX_PIECE);
        }
        assert!(lines.len() > 1);
        // The memory that is left is too small for another long piece.
        let mut another = Line::new(&memory, Longest::Command);
        assert!((OWN..MAX_PIECE).contains(&fill(&mut another)));
        lines.pop();
        another.clear();
        assert_eq!(fill(&mut another), MAX_PIECE);
        another.keep_last_word();
        assert_eq!(fill(&mut another), MAX_PIECE);
        drop((lines, another));
        assert!(memory.is_unused());
    }
}
