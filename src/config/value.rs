//! The values of flags: numbers as C's `atoi` reads them, sizes, the mode of `-a`, and the words of `-o`.

use std::ops::RangeInclusive;

use super::MEGABYTE;

/// Parses a number as C's `atoi` does: blanks before it and anything after its digits are ignored. So `-m 512m` is 512.
///
/// # Errors
/// There is no digit. (`atoi` would return 0.)
pub fn number(text: &str) -> Result<i64, String> {
    let text = text.trim_start();
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = unsigned.chars().take_while(char::is_ascii_digit).count();
    let (digits, _) = unsigned.split_at(digits);
    // A number that does not fit into the type is too large for every flag.
    let number = digits.parse().unwrap_or(i64::MAX);
    match digits {
        "" => Err("this is not a number".into()),
        _ if text.starts_with('-') => Ok(-number),
        _ => Ok(number),
    }
}

/// Parses a size such as `512`, `16k` or `2m`, into bytes. As in memcached, the last character is the unit.
///
/// # Errors
/// There is no digit.
pub fn size(text: &str) -> Result<i64, String> {
    let unit = match text.trim_end().chars().next_back() {
        Some('k' | 'K') => 1 << 10,
        Some('m' | 'M') => MEGABYTE as i64,
        _ => 1,
    };
    number(text)
        .map(|number| number.saturating_mul(unit))
        .map_err(|_| "a size must be a number of bytes, or a number with k or m".into())
}

/// Parses the factor of `-f`.
///
/// # Errors
/// There is no number.
pub fn factor(text: &str) -> Result<f64, String> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (digits, _) = text.split_at(end.unwrap_or(text.len()));
    digits.parse().map_err(|_| "this is not a number".into())
}

/// Parses permission bits in octal, such as `0766`.
///
/// # Errors
/// The text is not an octal number up to `0777`.
pub fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text.trim(), 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "the permissions must be an octal number up to 777".into())
}

/// What the words of `-o` ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Extended {
    /// `idle_timeout`, in seconds.
    pub idle_timeout: Option<i64>,
    /// `track_sizes`.
    pub track_sizes: bool,
    /// The words that have no effect here.
    pub without_effect: Vec<String>,
}

/// What may follow a word of `-o`.
enum Form {
    /// Nothing, or anything: memcached ignores it.
    Any,
    /// `=` and any text.
    Text,
    /// `=` and one of these words.
    OneOf(&'static [&'static str]),
    /// `=` and a number in this range.
    Number(RangeInclusive<i64>),
    /// Nothing, or `=` and a number in this range.
    MaybeNumber(RangeInclusive<i64>),
    /// `=` and a factor above 0.
    Factor,
}

const ANY_NUMBER: RangeInclusive<i64> = i64::MIN..=i64::MAX;
const NUMBER_32: RangeInclusive<i64> = 0..=u32::MAX as i64;

/// The words that memcached accepts after `-o`, and what it accepts after each. Only `idle_timeout` and `track_sizes`
/// have an effect here. `maxconns_fast` asks for what this server always does: it quickly refuses one client too many.
const OPTIONS: &[(&str, Form)] = &[
    ("idle_timeout", Form::Number(ANY_NUMBER)),
    ("maxconns_fast", Form::Any),
    ("drop_privileges", Form::Any),
    ("ext_compact_under", Form::Text),
    ("ext_drop_under", Form::Text),
    ("ext_drop_unread", Form::Any),
    ("ext_item_age", Form::Text),
    ("ext_item_size", Form::Text),
    ("ext_low_ttl", Form::Text),
    ("ext_max_frag", Form::Text),
    ("ext_max_sleep", Form::Text),
    ("ext_page_size", Form::Text),
    ("ext_path", Form::Text),
    ("ext_recache_rate", Form::Text),
    ("ext_threads", Form::Text),
    ("ext_wbuf_size", Form::Text),
    (
        "hash_algorithm",
        Form::OneOf(&["jenkins", "murmur3", "xxh3"]),
    ),
    ("hashpower", Form::Number(12..=32)),
    ("hot_lru_pct", Form::Number(1..=79)),
    ("hot_max_factor", Form::Factor),
    ("inline_ascii_resp", Form::Any),
    ("lru_crawler", Form::Any),
    ("lru_crawler_sleep", Form::Number(0..=1_000_000)),
    ("lru_crawler_tocrawl", Form::Number(NUMBER_32)),
    ("lru_maintainer", Form::Any),
    ("modern", Form::Any),
    ("no_chunked_items", Form::Any),
    ("no_drop_privileges", Form::Any),
    ("no_hashexpand", Form::Any),
    ("no_inline_ascii_resp", Form::Any),
    ("no_lru_crawler", Form::Any),
    ("no_lru_maintainer", Form::Any),
    ("no_maxconns_fast", Form::Any),
    ("no_modern", Form::Any),
    ("no_slab_automove", Form::Any),
    ("no_slab_reassign", Form::Any),
    ("read_buf_mem_limit", Form::Number(NUMBER_32)),
    ("relaxed_privileges", Form::Any),
    ("resp_obj_mem_limit", Form::Any),
    ("slab_automove", Form::MaybeNumber(0..=2)),
    ("slab_automove_freeratio", Form::Text),
    ("slab_automove_ratio", Form::Factor),
    ("slab_automove_window", Form::Number(3..=1800)),
    ("slab_chunk_max", Form::Number(1..=1024)),
    ("slab_reassign", Form::Any),
    ("slab_sizes", Form::Text),
    ("sock_cookie_id", Form::Any),
    ("tail_repair_time", Form::Number(10..=i64::MAX)),
    ("temporary_ttl", Form::Number(ANY_NUMBER)),
    ("track_sizes", Form::Any),
    ("warm_lru_pct", Form::Number(1..=79)),
    ("warm_max_factor", Form::Factor),
    ("watcher_logbuf_size", Form::Number(NUMBER_32)),
    ("worker_logbuf_size", Form::Number(NUMBER_32)),
];

impl Form {
    /// Whether this value may follow the word. `None`: nothing follows it.
    fn allows(&self, value: Option<&str>) -> bool {
        let is_in = |range: &RangeInclusive<i64>, value| {
            number(value).is_ok_and(|number| range.contains(&number))
        };
        match (self, value) {
            (Form::Any, _) | (Form::MaybeNumber(_), None) => true,
            (_, None) => false,
            (Form::Text, Some(_)) => true,
            (Form::OneOf(words), Some(value)) => words.contains(&value),
            (Form::Number(range) | Form::MaybeNumber(range), Some(value)) => is_in(range, value),
            (Form::Factor, Some(value)) => factor(value).is_ok_and(|factor| factor > 0.0),
        }
    }
}

/// Parses the words of `-o`, which commas separate: `idle_timeout=60,modern`.
///
/// # Errors
/// memcached does not know a word, or does not accept its value.
pub fn extended(text: &str) -> Result<Extended, String> {
    let mut extended = Extended::default();
    for word in text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let option = OPTIONS.iter().find(|(known, _)| *known == name);
        let (_, form) = option.ok_or(format!("{name} is not an option of memcached"))?;
        if !form.allows(value) {
            return Err(format!("{word}: memcached does not accept this value"));
        }
        match name {
            "idle_timeout" => extended.idle_timeout = value.and_then(|value| number(value).ok()),
            "track_sizes" => extended.track_sizes = true,
            "maxconns_fast" => {}
            _ => extended.without_effect.push(word.into()),
        }
    }
    Ok(extended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_atoi_reads_it_but_must_have_a_digit() {
        for (text, expected) in [
            ("64", 64),
            (" 64", 64),
            ("512m", 512),
            ("11211 ", 11211),
            ("-1", -1),
            ("+5", 5),
            ("1.9", 1),
            ("99999999999999999999", i64::MAX),
        ] {
            assert_eq!(number(text), Ok(expected), "{text:?}");
        }
        for text in ["", " ", "x", "-", "m5", "."] {
            assert!(number(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_size_may_end_in_its_unit() {
        for (text, expected) in [
            ("512", 512),
            ("16k", 16 << 10),
            (" 5M ", 5 << 20),
            ("1g", 1),
            ("99999999999999999m", i64::MAX),
        ] {
            assert_eq!(size(text), Ok(expected), "{text:?}");
        }
        assert!(size("m").is_err());
    }

    #[test]
    fn dash_o_accepts_the_words_of_memcached_and_no_others() {
        let found = extended("modern,,idle_timeout=60,hashpower=20, ").expect("they are known");
        assert_eq!(found.idle_timeout, Some(60));
        assert_eq!(found.without_effect, ["modern", "hashpower=20"]);
        for text in [
            "nonsense",
            "idle_timeout",
            "idle_timeout=x",
            "ssl_key=x",
            "hashpower",
            "hashpower=2",
            "hash_algorithm=md5",
            "slab_automove=9",
            "hot_max_factor=0",
            "tail_repair_time=5",
        ] {
            assert!(extended(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(mode("0766"), Ok(0o766));
        assert_eq!(mode(" 700"), Ok(0o700));
        for text in ["", "9", "1000", "-1", "rwx"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }
}
