//! Connections: from the accepted socket to the last answer. (The Go program's `connection_handler`.)

mod conversation;
mod line;
mod server;
mod start_error;
mod wire;
mod workers;

pub use server::{Running, Server};
pub use start_error::StartError;
