//! The values of flags: numbers as C's `atoi` reads them, sizes, the mode of `-a`, and the words of `-o`.

use super::MEGABYTE;

/// Parses a number as C's `atoi` does: blanks before it and anything after its digits are ignored. So `-m 512m` is 512.
///
/// # Errors
/// There is no digit. (`atoi` returns 0 then.)
pub fn number(text: &str) -> Result<i64, String> {
    let text = text.trim_start();
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = unsigned.chars().take_while(char::is_ascii_digit).count();
    let (digits, _) = unsigned.split_at(digits);
    // A number that is too large for the type is too large for every flag.
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
/// It is no octal number, or it has other bits than permissions.
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

/// The words that memcached accepts after `-o`, except `idle_timeout`, `track_sizes`, and those whose promise is kept here anyway.
const WITHOUT_EFFECT: &[&str] = &[
    "drop_privileges",
    "ext_compact_under",
    "ext_drop_under",
    "ext_drop_unread",
    "ext_item_age",
    "ext_item_size",
    "ext_low_ttl",
    "ext_max_frag",
    "ext_max_sleep",
    "ext_page_size",
    "ext_path",
    "ext_recache_rate",
    "ext_threads",
    "ext_wbuf_size",
    "hash_algorithm",
    "hashpower",
    "hot_lru_pct",
    "hot_max_factor",
    "inline_ascii_resp",
    "lru_crawler",
    "lru_crawler_sleep",
    "lru_crawler_tocrawl",
    "lru_maintainer",
    "modern",
    "no_chunked_items",
    "no_drop_privileges",
    "no_hashexpand",
    "no_inline_ascii_resp",
    "no_lru_crawler",
    "no_lru_maintainer",
    "no_maxconns_fast",
    "no_modern",
    "no_slab_automove",
    "no_slab_reassign",
    "read_buf_mem_limit",
    "resp_obj_mem_limit",
    "slab_automove",
    "slab_automove_freeratio",
    "slab_automove_ratio",
    "slab_automove_window",
    "slab_chunk_max",
    "slab_reassign",
    "slab_sizes",
    "sock_cookie_id",
    "tail_repair_time",
    "temporary_ttl",
    "warm_lru_pct",
    "warm_max_factor",
    "watcher_logbuf_size",
    "worker_logbuf_size",
];

/// Parses the words of `-o`, which commas separate: `idle_timeout=60,modern`.
///
/// # Errors
/// memcached does not know a word, or a word lacks its number.
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
        match name {
            "idle_timeout" => {
                let seconds = value.and_then(|value| number(value).ok());
                let seconds = seconds.ok_or("idle_timeout needs a number of seconds")?;
                extended.idle_timeout = Some(seconds);
            }
            "track_sizes" => extended.track_sizes = true,
            // One client too many is always refused at once here.
            "maxconns_fast" => {}
            _ if WITHOUT_EFFECT.contains(&name) => extended.without_effect.push(word.into()),
            _ => return Err(format!("{name} is not an option of memcached")),
        }
    }
    Ok(extended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_atoi_reads_it_but_needs_a_digit() {
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
    fn the_words_of_o_are_those_of_memcached() {
        let found = extended("modern,,idle_timeout=60,hashpower=20, ").expect("they are known");
        assert_eq!(found.idle_timeout, Some(60));
        assert_eq!(found.without_effect, ["modern", "hashpower=20"]);
        for text in ["nonsense", "idle_timeout", "idle_timeout=x", "ssl_key=x"] {
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
