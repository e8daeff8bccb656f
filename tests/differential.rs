//! Sends the same random commands to rustmemc and to a real memcached: both must answer the same bytes.
//!
//! The conversations check the cases that we thought of, and this finds others. The real server is the program that
//! MEMCACHED names, or `memcached` on the PATH. It must be 1.6.45 or later: older releases differ, for example they
//! take `+1` for a number. More commands, or a seed that failed:
//!
//!     SEED=42 COMMANDS=100000 cargo test --test differential
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::{HashMap, VecDeque};
use std::env;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;

use common::memcached::Memcached;
use common::random::Random;
use common::{Client, shortened};

/// With its modern defaults, memcached has a thread that holds an item now and then. Meanwhile `incr` does not change a
/// number in place but replaces it: without the spaces behind it, and without its marks.
const OPTIONS: &str = "-o no_modern -m 1024";

#[test]
fn random_commands_get_the_same_answers_from_rustmemc_and_memcached() {
    let Some(program) = Memcached::find((1, 6, 45)) else {
        return;
    };
    let number = |name| {
        env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect("a number"))
    };
    let commands = number("COMMANDS").unwrap_or(1500);
    let seeds = number("SEED").map_or(vec![1, 2, 3], |seed| vec![seed]);
    for seed in seeds {
        compare(&program, seed, commands);
    }
}

/// The cas uniques below this are used before the comparison begins.
const WARM_UP: u64 = 200;

/// Sends both servers this number of commands, and fails at the first one that they answer differently.
fn compare(program: &PathBuf, seed: u64, commands: u64) {
    let (ours, theirs) = (
        common::server("-m 1024"),
        Memcached::start(program, OPTIONS),
    );
    let mut ours = Side::new(ours.address, ours);
    let mut theirs = Side::new(theirs.address, theirs);
    // The cas uniques that the generator chooses itself (flag E) are smaller or larger than all that the servers
    // choose. So both servers order them in the same way. These commands use the small ones.
    for _ in 0..WARM_UP {
        for side in [&mut ours.client, &mut theirs.client] {
            side.check("ms warm-up 0\r\n\r\n", "HD\r\n");
        }
    }
    let mut generator = Generator {
        random: Random(seed),
        key: "a".to_owned(),
    };
    let mut last = VecDeque::new();
    for count in 1..=commands {
        let command = generator.command(theirs.uniques.len());
        let sent = theirs.bytes(&command);
        let (our_answer, their_answer) = (ours.ask(&command, count), theirs.ask(&command, count));
        last.push_back(shortened(&sent));
        if last.len() > 10 {
            last.pop_front();
        }
        let (our_view, their_view) = (ours.view(&our_answer), theirs.view(&their_answer));
        assert!(
            our_view.matches(&their_view),
            "SEED={seed}, command {count}: the last of these is answered differently\n  {}\n\
             memcached: \"{}\"\nrustmemc:  \"{}\"",
            Vec::from(last).join("\n  "),
            shortened(&their_answer),
            shortened(&our_answer)
        );
    }
}

/// A server, one connection to it, and the cas uniques that it has shown.
///
/// The two servers choose different cas uniques. So `{3}` in a command is a placeholder for the fourth cas unique that
/// the server has shown, and a cas unique in an answer is compared by its place in that list.
struct Side<S> {
    address: SocketAddr,
    client: Client,
    uniques: Vec<u64>,
    places: HashMap<u64, usize>,
    _server: S,
}

impl<S> Side<S> {
    fn new(address: SocketAddr, server: S) -> Self {
        Side {
            address,
            client: Client::connect(address),
            uniques: Vec::new(),
            places: HashMap::new(),
            _server: server,
        }
    }

    /// The bytes of a command, with this server's cas uniques.
    fn bytes(&self, command: &Line) -> Vec<u8> {
        let line = match command.line.split_once('{') {
            None => command.line.clone(),
            Some((before, rest)) => {
                let (place, behind) = rest.split_once('}').expect("a brace closes");
                let place: usize = place.parse().expect("a number");
                format!("{before}{}{behind}", self.uniques[place])
            }
        };
        [line.as_bytes(), b"\r\n", &command.data].concat()
    }

    /// Sends a command, and returns its whole answer.
    ///
    /// An answer has no end mark, and it may be empty. So a second command follows, which touches no item and has an
    /// answer of its own: the first answer ends where that one begins. The next command is sent only after both
    /// answers. Otherwise it would depend on time whether memcached changes an item in place: it does not while an
    /// earlier answer with that item waits to be sent.
    fn ask(&mut self, command: &Line, count: u64) -> Vec<u8> {
        let fence = format!("NF O{count}\r\n");
        let mut bytes = self.bytes(command);
        bytes.extend_from_slice(format!("md nobody O{count}\r\n").as_bytes());
        self.client.send(bytes);
        let mut answer = Vec::new();
        let mut room = vec![0; 1 << 16];
        loop {
            // No answer within the client's timeout counts as a closed connection.
            let read = self.client.stream.read(&mut room).unwrap_or(0);
            answer.extend_from_slice(&room[..read]);
            if answer.ends_with(fence.as_bytes()) {
                answer.truncate(answer.len() - fence.len());
                return answer;
            }
            if read == 0 {
                answer.extend_from_slice(b"(closed)");
                self.client = Client::connect(self.address);
                return answer;
            }
        }
    }

    /// The parts of an answer that must be the same on both servers.
    fn view(&mut self, answer: &[u8]) -> View {
        let mut view = View::default();
        let mut rest = answer;
        while !rest.is_empty() {
            let end = rest.iter().position(|&byte| byte == b'\n');
            let (line, behind) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
            let text = line.strip_suffix(b"\r\n").unwrap_or(line);
            let words: Vec<&[u8]> = text.split(|&byte| byte == b' ').collect();
            for (place, word) in words.iter().enumerate() {
                self.view_word(words[0], place, word, &mut view);
            }
            view.text.extend_from_slice(&line[text.len()..]);
            // Data is compared as it is, and is not read as lines.
            let length = match words[0] {
                b"VALUE" => words.get(3),
                b"VA" => words.get(1),
                _ => None,
            };
            let length = length.map_or(0, |word| number(word).unwrap_or(0) as usize + 2);
            let (data, behind) = behind.split_at(length.min(behind.len()));
            view.text.extend_from_slice(data);
            rest = behind;
        }
        view
    }

    /// Adds one word of an answer's line to the view.
    fn view_word(&mut self, first: &[u8], place: usize, word: &[u8], view: &mut View) {
        let (name, value) = match first {
            b"VALUE" if place == 4 => (&b"cas="[..], word),
            b"ME" => word.split_at(word.iter().position(|&b| b == b'=').map_or(0, |at| at + 1)),
            b"VA" | b"HD" | b"NS" | b"EX" | b"NF" | b"EN" if place > 0 => {
                word.split_at(word.len().min(1))
            }
            b"VERSION" if place > 0 => return,
            _ => (&b""[..], word),
        };
        match (name, number(value)) {
            (b"c" | b"cas=", Some(unique)) if !is_explicit(unique) => {
                let next = self.uniques.len();
                let place = *self.places.entry(unique).or_insert(next);
                if place == next {
                    self.uniques.push(unique);
                }
                view.text
                    .extend_from_slice(format!(" cas {place}").as_bytes());
            }
            (b"t" | b"exp=", Some(seconds)) => {
                // An item that expired before this second has a negative time left. memcached writes it as a very large
                // number.
                let left = if seconds > u64::from(u32::MAX / 2) {
                    0
                } else {
                    seconds
                };
                view.time(left, 2);
            }
            // memcached records the time of an access at most once a minute.
            (b"l" | b"la=", Some(seconds)) => view.time(seconds, 62),
            // Sizes in memory differ.
            (b"cls=" | b"size=", Some(_)) => {}
            _ => view.text.extend_from_slice(&[b" ", name, value].concat()),
        }
    }
}

/// An answer without the parts that may differ.
#[derive(Default)]
struct View {
    text: Vec<u8>,
    /// Seconds, and by how many they may differ: the clocks of the servers do not tick at the same moment.
    times: Vec<(u64, u64)>,
}

impl View {
    fn time(&mut self, seconds: u64, tolerance: u64) {
        self.text.extend_from_slice(b" time");
        self.times.push((seconds, tolerance));
    }

    fn matches(&self, other: &View) -> bool {
        let mut times = self.times.iter().zip(&other.times);
        self.text == other.text
            && times.all(|((a, tolerance), (b, _))| a.abs_diff(*b) <= *tolerance)
    }
}

/// Whether a cas unique was chosen by the generator (or is 0, which no item has).
fn is_explicit(unique: u64) -> bool {
    !(WARM_UP..1 << 60).contains(&unique)
}

fn number(word: &[u8]) -> Option<u64> {
    str::from_utf8(word).ok()?.parse().ok()
}

/// A command: its line without the line end, and what follows the line.
struct Line {
    line: String,
    data: Vec<u8>,
}

/// Generates commands. It leaves out:
/// - the deliberate differences of `20-ours-alone.txt`: verbs in capitals, `del`, flags of 2^32 and
///   over, a `get` with a key that is too long;
/// - an exptime that does not fit into 31 bits, and `me` with `b`;
/// - items that could expire during the test: all have expired already, or expire long after it;
/// - values of white space only: when memcached looks for a number in them, it reads beyond their end;
/// - lines over 2,048 bytes: whether memcached refuses them depends on the packets in which they arrive;
/// - `stats`, and the commands that tune the internals of memcached.
struct Generator {
    random: Random,
    key: String,
}

/// Choices are a text with bars between them. Five keys are base64, of `foo`, `f`, and bytes that are no text, or
/// nearly base64. (They contain no line end: after `incr` the answer contains such a key as it is, and a line end would
/// break the line.)
const KEYS: &str = "a|b|num|foo|key-é|with\ttab|LONG|Zm9v|Zg==|AAF/gP8=|Zm9v!|Z!g=-=";
const EXPTIMES: &str = "0|0|0|1000|01000|100000|2000000000|-1|2592001";
const NUMBERS: &str = "0|1|5|10|99|007|18446744073709551615|1000000000000";
const BAD_NUMBERS: &str = "x|-1|1x|+1|18446744073709551616|1.5";
const VALUES: &str = "||0|9 |-5|18446744073709551615|18446744073709551616|10x|hello|é|\
    a somewhat longer text that is not a number|a\r\nb\0\nc|END\r\n|\x0b5|7\x0b8|\t\x0c+6\x0b";
const ODD_FLAGS: &str = "b|P1|Lx|S5|Z|W|1|!|^|noreply|é|OO|v1|cx|T|N|R|E|F|C|M|J|D|O";
const LONG_OPAQUE: &str = "Othis-is-longer-than-thirty-one-bytes";
const OTHERS: &str = "version|version x|mn|mn x|verbosity 0|verbosity|verbosity x|verbosity 0 noreply|\
    verbosity noreply|verbosity 0 x|flush_all|flush_all 0|flush_all -1|flush_all noreply|\
    flush_all 0 noreply|flush_all x|flush_all x noreply|nonsense|nonsense noreply|x||\x20|\x20get a|\
    \tget a|\x20flush_all|\x20\x20verbosity 0|\x20verbosity x noreply|\x20flush_all x|\x20mn|\x20x HTTP/1|getx a|get\ta|mget a|mx a|post / HTTP/1.1|quit";

impl Generator {
    fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, choices: &'a str) -> &'a str {
        let count = choices.split('|').count();
        let chosen = choices.split('|').nth(self.below(count));
        chosen.expect("the number is below the count")
    }

    /// Mostly one of the good choices, and sometimes one of the bad ones.
    fn mostly<'a>(&mut self, good: &'a str, bad: &'a str) -> &'a str {
        let choices = if self.one_in(15) { bad } else { good };
        self.pick(choices)
    }

    /// A key: often the key of the last command, so that it has an item.
    fn key(&mut self) -> String {
        if self.one_in(2) {
            self.key = self.pick(KEYS).replace("LONG", &"k".repeat(250));
        }
        self.key.clone()
    }

    /// The same, and sometimes a key that is too long.
    fn any_key(&mut self) -> String {
        match self.below(60) {
            0 => "k".repeat(251),
            _ => self.key(),
        }
    }

    fn exptime(&mut self) -> &'static str {
        self.mostly(EXPTIMES, "x|1.5|1000x|-|99999999999999999999|+1000")
    }

    /// The placeholder of a cas unique that was shown lately, or sometimes a number that never was one.
    fn unique(&mut self, seen: usize) -> String {
        let age = match self.below(8) {
            0..4 => 0,
            _ => self.below(8),
        };
        if age >= seen || self.one_in(8) {
            let others = "0|1|3|5|18446744073709551615|2000000000000000003";
            return self.pick(others).to_owned();
        }
        format!("{{{}}}", seen - 1 - age)
    }

    /// The next command. `seen` is the number of cas uniques that have been shown.
    fn command(&mut self, seen: usize) -> Line {
        let mut data = Vec::new();
        let mut line = match self.below(100) {
            0..15 => self.retrieval(),
            15..35 => {
                let (length, block) = self.block();
                data = block;
                self.storage(&length, seen)
            }
            35..47 => {
                let (verb, key) = (self.pick("delete|touch|incr|decr"), self.any_key());
                let argument = match verb {
                    "delete" => self.mostly("||0", "1|x y|noreply x"),
                    "touch" => self.exptime(),
                    _ => self.mostly(NUMBERS, BAD_NUMBERS),
                };
                format!("{verb} {key} {argument}{}", self.noreply())
            }
            47..50 => self.pick(OTHERS).to_owned(),
            50..52 => format!("me {}{}", self.any_key(), self.mostly("", " x| v")),
            52..68 => self.meta("mg", "", seen),
            68..84 => {
                let (length, block) = self.block();
                data = block;
                let line = self.meta("ms", &format!(" {length}"), seen);
                // When an `ms` fails, memcached gives its cas unique to the next item that is stored on the connection.
                // So the next one is an item that no other command uses.
                data.extend_from_slice(b"set nobody-looks 0 0 0 noreply\r\n\r\n");
                // If a flag is not a letter, the data is read as commands. Both servers close the connection on such a
                // long line, and then their earlier answers may not arrive.
                match data.len() {
                    1500.. => line.replace(" !", "").replace(" é", ""),
                    _ => line,
                }
            }
            84..90 => self.meta("md", "", seen),
            _ => self.meta("ma", "", seen),
        };
        // Sometimes only the first words are sent. If the length is missing then, the data is read as commands.
        if self.one_in(60) && data.len() < 1000 && !line.contains(" D0") {
            let count = 1 + self.below(line.split(' ').count());
            line = line.split(' ').take(count).collect::<Vec<_>>().join(" ");
        }
        // Additional spaces mean nothing.
        if self.one_in(30) && !line.starts_with(' ') {
            line = line.replace(' ', "  ") + " ";
        }
        Line { line, data }
    }

    fn retrieval(&mut self) -> String {
        let verb = self.pick("get|gets|gat|gats");
        let mut line = match verb {
            "gat" | "gats" => format!("{verb} {}", self.exptime()),
            _ => verb.to_owned(),
        };
        for _ in 0..1 + self.below(4) * self.below(2) {
            line = format!("{line} {}", self.key());
        }
        line
    }

    fn storage(&mut self, length: &str, seen: usize) -> String {
        let verb = self.pick("set|set|add|replace|append|prepend|cas|cas");
        let (key, flags) = (
            self.any_key(),
            self.mostly("0|1|+7|007|4294967295", "x|-1|1x"),
        );
        let exptime = self.mostly(EXPTIMES, "x|1.5|1000x|+|99999999999999999999|+1000");
        let unique = match self.below(20) {
            _ if verb != "cas" => String::new(),
            0 => format!(" {}", self.pick(BAD_NUMBERS)),
            1 => String::new(),
            _ => format!(" {}", self.unique(seen)),
        };
        let noreply = self.noreply();
        format!("{verb} {key} {flags} {exptime} {length}{unique}{noreply}")
    }

    fn noreply(&mut self) -> &'static str {
        self.mostly("|||| noreply", " x| noreply x| NOREPLY")
    }

    /// A data block, and the length that is announced for it.
    fn block(&mut self) -> (String, Vec<u8>) {
        let mut value = match self.below(150) {
            // A value that is larger than one read, one in several of memcached's chunks, and one that is too large.
            0 => "1 large ".repeat(3000),
            1 => "larger".repeat(100_000),
            2 => "largest".repeat(150_000),
            3..15 => "middle-sized".repeat(self.below(120)),
            15..75 => self.pick(NUMBERS).to_owned(),
            _ => self.pick(VALUES).to_owned(),
        };
        let size = value.len();
        value.push_str("\r\n");
        // Whatever length is announced, the data ends with a line end, and a command may begin behind it.
        let length = match self.below(40) {
            _ if size > 1500 => size.to_string(),
            // With an invalid length its end is unknown, so it is read as commands.
            0 => self.pick("x|-1|1x|+1|2147483646|99999999999").to_owned(),
            // Too short: the rest is a line of its own.
            1 => self.below(size + 1).to_string(),
            // Too long: the next line belongs to it too, except its last two bytes.
            2 => {
                let more = 1 + self.below(30);
                value = format!("{value}{}\r\n", "x".repeat(more));
                (size + more).to_string()
            }
            _ => size.to_string(),
        };
        (length, value.into_bytes())
    }

    /// A meta command: verb, key, what follows the key, and up to ten flags. Sometimes it has too many flags.
    fn meta(&mut self, verb: &str, follows: &str, seen: usize) -> String {
        let key = self.any_key();
        let is_base64 = key.contains('=') || key.starts_with("Zm9v");
        let mut flags = Vec::new();
        if is_base64 != self.one_in(20) {
            flags.push("b".to_owned());
        }
        let count = match self.below(100) {
            0 => 17 + self.below(5),
            _ => self.below(6) + self.below(5),
        };
        let mut unused: Vec<char> = "cfhkqstuvxIlTNREFCMJDO".chars().collect();
        while flags.len() < count && !unused.is_empty() {
            let letter = unused.swap_remove(self.below(unused.len()));
            flags.push(format!("{letter}{}", self.flag_value(letter, seen)));
        }
        // Sometimes an odd flag, or one that the command has already.
        match self.below(36) {
            0 => flags.extend(flags.first().cloned()),
            1 | 2 => flags.push(self.pick(ODD_FLAGS).to_owned()),
            3 => {
                flags.retain(|flag| !flag.starts_with('O'));
                flags.push(LONG_OPAQUE.to_owned());
            }
            _ => {}
        }
        // When a number gets longer, memcached sets exptime and cas unique on the old item, which it then replaces.
        if verb == "ma" && flags.iter().any(|flag| flag.starts_with(['T', 'E'])) {
            flags.retain(|flag| !flag.starts_with('D'));
            flags.push("D0".to_owned());
        }
        // In any order.
        for place in (1..flags.len()).rev() {
            flags.swap(place, self.below(place + 1));
        }
        let words = [vec![format!("{verb} {key}{follows}")], flags].concat();
        words.join(" ")
    }

    fn flag_value(&mut self, letter: char, seen: usize) -> String {
        let value = match letter {
            'C' => return self.unique(seen),
            'T' | 'N' => self.mostly(EXPTIMES, "x|1000x|1.5"),
            // Never near the time left of an item.
            'R' => self.mostly("30|3000|0|-1", "x|30x"),
            'E' => self.pick("1|2|3|4|2000000000000000001|2000000000000000002"),
            'F' => self.mostly("0|5|4294967295", "x|-1|5x"),
            'M' => self.mostly("E|A|P|R|S|I|+|D|-|append", "x|0|!"),
            'J' | 'D' => self.mostly(NUMBERS, BAD_NUMBERS),
            'O' => self.pick("1|opaque|c5|exactly-thirty-one-letters-long"),
            _ => "",
        };
        value.to_owned()
    }
}
