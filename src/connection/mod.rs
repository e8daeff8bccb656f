//! Connections: from the accepted socket to the last answer. (The Go program's `connection_handler`.)

mod binary;
mod conversation;
pub mod descriptors;
mod line;
mod listener;
mod login;
mod request;
mod server;
mod start_error;
mod watching;
mod wire;
mod workers;

pub use server::{Running, Server};
pub use start_error::StartError;
