//! Connections: from the accepted socket to the last answer. (The Go program's `connection_handler`.)

pub(crate) mod binary;
mod conversation;
pub mod descriptors;
pub(crate) mod line;
mod listener;
pub(crate) mod login;
mod request;
mod server;
mod start_error;
pub(crate) mod watching;
pub(crate) mod wire;
mod workers;

pub use server::{Running, Server};
pub use start_error::StartError;
