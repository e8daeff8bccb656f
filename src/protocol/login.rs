//! The login of a server with `-Y`. Until it succeeds, no command is executed.
//!
//! `set <any key> <flags> <exptime> <bytes>`, then the data block `<user> <password>`. Only `<bytes>` is used.
//!
//! Source: memcached's `doc/protocol.txt`, "Authentication", and `proto_text.c` of memcached 1.6.45.

use super::{ProtocolError, number, words};

/// The longest data block, in bytes.
pub const MAX_CREDENTIALS: usize = 16384;

/// Parses the line. Returns the length of the data block, without its `\r\n`.
///
/// # Errors
/// [`ProtocolError::Unauthenticated`] for anything but a `set`, [`ProtocolError::CredentialsTooLong`].
pub fn parse_login(line: &[u8]) -> Result<usize, ProtocolError> {
    let bytes = words(line.trim_ascii_end()).nth(4).and_then(number::u32);
    let bytes = bytes.filter(|_| line.starts_with(b"set"));
    let bytes = bytes.ok_or(ProtocolError::Unauthenticated)? as usize;
    if bytes > MAX_CREDENTIALS {
        return Err(ProtocolError::CredentialsTooLong);
    }
    Ok(bytes)
}

/// Parses the data block, which includes its `\r\n`. Returns the user and the password.
///
/// # Errors
/// [`ProtocolError::BadCredentialsEnd`], [`ProtocolError::BadCredentials`].
pub fn parse_credentials(block: &[u8]) -> Result<(&[u8], &[u8]), ProtocolError> {
    let block = block
        .strip_suffix(b"\r\n")
        .ok_or(ProtocolError::BadCredentialsEnd)?;
    let space = block.iter().position(|&byte| byte == b' ');
    let (user, password) = block.split_at(space.ok_or(ProtocolError::BadCredentials)?);
    Ok((user, password.strip_prefix(b" ").unwrap_or_default()))
}
