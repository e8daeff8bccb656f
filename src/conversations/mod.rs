//! The conversations: the tutorial of the protocol, as files that a server can be held to.
//!
//! They are the files of `tests/conversations`, and part of the library, so that `memc` can teach with them (`memc
//! learn`) and hold any server to them (`memc check`). The tests play them too. `format.rs` has their format and its
//! parser, `player.rs` plays them. The documentation has a page for each (the modules below).
//!
//! The build script, `build.rs` in this folder, makes the list and the pages of what it finds in `tests/conversations`.

pub mod format;
pub mod player;

include!(concat!(env!("OUT_DIR"), "/conversations.rs"));

/// The file that `server: -Y tests/conversations/users` names.
pub const USERS: &str = include_str!("../../tests/conversations/users");
