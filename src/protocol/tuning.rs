//! The commands that tune the insides of memcached: `lru_crawler`, `slabs`, `lru`, `extstore`. Each command has one
//! parsing function, with its grammar above it.
//!
//! Most of them change nothing, because this server does not have the part that they tune. They are answered as
//! memcached answers them, so that a tool that sends them works. As in memcached, a subcommand may be shortened, as in
//! `slabs auto 1`. A short form that fits several subcommands is the first of them in the grammar for which the line
//! has enough words.
//!
//! Lessons: [31](crate::conversations::lesson_31_what_is_there), [35](crate::conversations::lesson_35_tools).

use super::request::{Classes, Crawler, Internals, Request};
use super::{LineError, Parsed, ProtocolError, number, words};

/// The classes that memcached has with its default flags; 0 is its pool of free pages.
const SLAB_CLASSES: std::ops::RangeInclusive<i32> = 0..=39;

/// The classes that memcached can have.
const POSSIBLE_CLASSES: std::ops::Range<i64> = 1..64;

/// `lru_crawler crawl <classes>|metadump <classes>|mgdump <classes>`, `lru_crawler tocrawl <number>`,
/// `lru_crawler sleep <microseconds>` and `lru_crawler enable|disable`
pub(super) fn lru_crawler(args: &[u8]) -> Parsed<'_> {
    let list = words(args).collect::<Vec<_>>();
    let crawler = |command| Ok(Request::LruCrawler(command));
    let request = match *list {
        [subcommand] if b"enable".starts_with(subcommand) => crawler(Crawler::Enable),
        [subcommand] if b"disable".starts_with(subcommand) => crawler(Crawler::Disable),
        [subcommand, argument] => {
            let is = |name: &[u8]| name.starts_with(subcommand);
            if is(b"crawl") {
                crawler(Crawler::Crawl(classes(argument)))
            } else if is(b"metadump") {
                crawler(Crawler::Metadump(classes(argument)))
            } else if is(b"mgdump") {
                crawler(Crawler::Mgdump(classes(argument)))
            } else if is(b"tocrawl") || is(b"sleep") {
                match number::u32(argument) {
                    None => Err(ProtocolError::BadLine(LineError::Number)),
                    Some(1_000_001..) if is(b"sleep") => Err(ProtocolError::CrawlerSleepTooLong),
                    Some(_) => Ok(Request::WithoutEffect(Internals::Crawler)),
                }
            } else {
                Err(ProtocolError::UnknownCommand)
            }
        }
        _ => Err(ProtocolError::UnknownCommand),
    };
    Parsed::maybe_noreply(request, args)
}

/// `all`, `hash`, or numbers with commas between them
fn classes(word: &[u8]) -> Classes {
    match word {
        b"all" => return Classes::All,
        b"hash" => return Classes::Hash,
        _ => {}
    }
    let mut found = Classes::None;
    for number in word.split(|&byte| byte == b',') {
        if number.is_empty() {
            continue;
        }
        found = match number::like_strtoll(number) {
            // Here all items are in class 1.
            Some(1) => Classes::All,
            Some(class) if POSSIBLE_CLASSES.contains(&class) => match found {
                Classes::All => Classes::All,
                _ => Classes::Empty,
            },
            _ => return Classes::Invalid,
        };
    }
    found
}

/// `slabs reassign <from> <to>` and `slabs automove ratio <factor>|freeratio <factor>|window <seconds>|<level>`
pub(super) fn slabs(args: &[u8]) -> Parsed<'_> {
    let list = words(args).collect::<Vec<_>>();
    let request = match *list {
        [subcommand, from, to] if b"reassign".starts_with(subcommand) => Err(reassign(from, to)),
        [subcommand, argument, ref more @ ..] if b"automove".starts_with(subcommand) => {
            automove(argument, more.first().copied())
        }
        _ => Err(ProtocolError::UnknownCommand),
    };
    Parsed::maybe_noreply(request, args)
}

/// The error that answers `slabs reassign`: this server never has a spare page.
fn reassign(from: &[u8], to: &[u8]) -> ProtocolError {
    let (Some(from), Some(to)) = (number::i32(from), number::i32(to)) else {
        return ProtocolError::BadLine(LineError::Class);
    };
    if from == to {
        ProtocolError::SlabsAreTheSame
    } else if !SLAB_CLASSES.contains(&from) || !SLAB_CLASSES.contains(&to) {
        ProtocolError::BadSlabClass
    } else {
        ProtocolError::NoSparePage
    }
}

fn automove<'a>(argument: &[u8], value: Option<&[u8]>) -> Result<Request<'a>, ProtocolError> {
    let is = |name: &[u8]| name.starts_with(argument);
    if is(b"ratio") || is(b"freeratio") {
        value
            .and_then(number::f64)
            .ok_or(ProtocolError::UnknownCommand)?;
    } else if is(b"window") {
        let window = value.and_then(number::u32);
        let window = window.ok_or(ProtocolError::BadLine(LineError::Number))?;
        if !(3..=1800).contains(&window) {
            return Err(ProtocolError::BadAutomoveWindow);
        }
    } else {
        let level = number::u32(argument).ok_or(ProtocolError::BadLine(LineError::Number))?;
        if level > 2 {
            return Err(ProtocolError::UnknownCommand);
        }
    }
    Ok(Request::WithoutEffect(Internals::Slabs))
}

/// `lru tune <percent hot> <percent warm> <factor hot> <factor warm>`, `lru mode flat|segmented` and
/// `lru temp_ttl <seconds>`
pub(super) fn lru(args: &[u8]) -> Parsed<'_> {
    let list = words(args).collect::<Vec<_>>();
    let result = match *list {
        [subcommand, hot, warm, hot_factor, warm_factor, ..] if b"tune".starts_with(subcommand) => {
            tune([hot, warm], [hot_factor, warm_factor])
        }
        [subcommand, mode, ..] if b"mode".starts_with(subcommand) => {
            let is_known = b"flat".starts_with(mode) || b"segmented".starts_with(mode);
            is_known.then_some(()).ok_or(ProtocolError::UnknownCommand)
        }
        [subcommand, ttl, ..] if b"temp_ttl".starts_with(subcommand) => number::i32(ttl)
            .map(|_| ())
            .ok_or(ProtocolError::UnknownCommand),
        _ => Err(ProtocolError::UnknownCommand),
    };
    let request = result.map(|()| Request::WithoutEffect(Internals::Lru));
    Parsed::maybe_noreply(request, args)
}

fn tune(percents: [&[u8]; 2], factors: [&[u8]; 2]) -> Result<(), ProtocolError> {
    let ([Some(hot), Some(warm)], [Some(hot_factor), Some(warm_factor)]) =
        (percents.map(number::u32), factors.map(number::f64))
    else {
        return Err(ProtocolError::UnknownCommand);
    };
    if hot.wrapping_add(warm) > 80 {
        Err(ProtocolError::LruPercentsTooLarge)
    } else if hot_factor <= 0.0 || warm_factor <= 0.0 {
        Err(ProtocolError::LruFactorsTooSmall)
    } else {
        Ok(())
    }
}

/// `extstore free_memchunks <class> <number>`, `extstore max_frag <factor>`, and `extstore <name> <number>` with one of
/// eight names
pub(super) fn extstore(args: &[u8]) -> Parsed<'_> {
    const WITH_NUMBER: [&[u8]; 8] = [
        b"item_size",
        b"item_age",
        b"low_ttl",
        b"recache_rate",
        b"compact_under",
        b"drop_under",
        b"max_sleep",
        b"drop_unread",
    ];
    let list = words(args).collect::<Vec<_>>();
    let is_valid = match *list {
        [name, class, number, ..] if b"free_memchunks".starts_with(name) => {
            number::u32(class).is_some_and(|class| class < 64) && number::u32(number).is_some()
        }
        [name, number, ..] if WITH_NUMBER.iter().any(|other| other.starts_with(name)) => {
            number::u32(number).is_some()
        }
        [name, factor, ..] if b"max_frag".starts_with(name) => number::f64(factor).is_some(),
        _ => false,
    };
    let request = match is_valid {
        true => Ok(Request::WithoutEffect(Internals::Extstore)),
        false => Err(ProtocolError::UnknownCommand),
    };
    Parsed::maybe_noreply(request, args)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn request(line: &str) -> Result<Request<'_>, ProtocolError> {
        parse(line.as_bytes()).request
    }

    #[test]
    fn all_items_are_in_class_1() {
        for (word, expected) in [
            ("all", Classes::All),
            ("hash", Classes::Hash),
            ("1", Classes::All),
            ("+01,63", Classes::All),
            ("2,,3,", Classes::Empty),
            (",", Classes::None),
            ("0", Classes::Invalid),
            ("1,64", Classes::Invalid),
            ("all,1", Classes::Invalid),
        ] {
            assert_eq!(classes(word.as_bytes()), expected, "{word}");
        }
    }

    #[test]
    fn a_short_subcommand_is_the_first_for_which_there_are_enough_words() {
        let metadump = Request::LruCrawler(Crawler::Metadump(Classes::All));
        assert_eq!(request("lru_crawler m all\n"), Ok(metadump));
        let mgdump = Request::LruCrawler(Crawler::Mgdump(Classes::All));
        assert_eq!(request("lru_crawler mg all\n"), Ok(mgdump));
        let lru = Ok(Request::WithoutEffect(Internals::Lru));
        assert_eq!(request("lru t 5\n"), lru);
        assert_eq!(request("lru t 20 40 0.2 2.0\n"), lru);
        assert_eq!(
            request("lru t 50 40 0.2 2.0\n"),
            Err(ProtocolError::LruPercentsTooLarge)
        );
    }
}
