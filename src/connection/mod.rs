//! Connections: from an accepted socket to its last answer. (The Go program's `connection_handler`.)

mod conversation;
mod server;
mod wire;
mod workers;

pub use server::Server;
