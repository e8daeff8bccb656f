//! rustmemc
pub mod clients;
pub mod command;
pub mod config;
pub mod connection;
pub mod datastore;
pub mod protocol;
pub mod serialization;
pub mod stats;
pub mod trace;

/// v
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// s
pub const VERSION_SPOKEN: &str = "1.6.45";
