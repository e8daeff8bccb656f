//! The conversations: the tutorial of the protocol, as files that a server can be held to.
//!
//! They are the files of `tests/conversations`, and part of the library, so that `memc` can teach with them (`memc
//! learn`) and hold any server to them (`memc check`). The tests play them too. `format.rs` has their format and its
//! parser, `player.rs` plays them, `answer.rs` reads answers to other lines, and `recorder.rs` writes a conversation. The
//! documentation has a page for each: the modules below.
//!
//! The build script, `build.rs` in this folder, makes the list and the pages of what it finds in `tests/conversations`.

pub mod answer;
pub mod format;
pub mod player;
pub mod recorder;

include!(concat!(env!("OUT_DIR"), "/conversations.rs"));

/// The file that `server: -Y tests/conversations/users` names.
pub const USERS: &str = include_str!("../../tests/conversations/users");

/// The number of a conversation: `05` of `05-keys`.
#[must_use]
pub fn number_of(name: &str) -> &str {
    name.split('-').next().unwrap_or(name)
}

/// Whether these words of a user mean the conversation of this name: they are its number, or a part of its name.
#[must_use]
pub fn is_named(name: &str, wanted: &str) -> bool {
    match wanted.parse::<u32>() {
        Ok(number) => number_of(name).parse() == Ok(number),
        Err(_) => name.contains(wanted),
    }
}
