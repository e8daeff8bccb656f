//! The users that may log in (`-Y`): the lines `user:password` of a file.
//!
//! Lesson: [32](crate::conversations::lesson_32_login).

use std::fmt;
use std::fs;
use std::hint::black_box;
use std::io;
use std::path::Path;

/// The name and the password of each user.
pub struct Users(Vec<(Vec<u8>, Vec<u8>)>);

/// Shows only how many users there are, because passwords must not be printed.
impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.0.len())
    }
}

impl Users {
    /// Reads the file. It is read once: to change a password, restart the server.
    ///
    /// # Errors
    /// Those of reading; [`io::ErrorKind::InvalidData`] if a line has no `:`, or there is no user at all.
    pub fn read(path: &Path) -> io::Result<Self> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        // A pipe could be read for ever.
        if !fs::metadata(path)?.is_file() {
            return Err(invalid("this is not a regular file".into()));
        }
        let mut users = Vec::new();
        for (number, line) in fs::read(path)?.split(|&byte| byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let colon = line
                .iter()
                .position(|&byte| byte == b':')
                .ok_or_else(|| invalid(format!("line {} is not `user:password`", number + 1)))?;
            let (user, password) = line.split_at(colon);
            users.push((user.to_vec(), password.iter().skip(1).copied().collect()));
        }
        match users.is_empty() {
            true => Err(invalid("there is no line `user:password`".into())),
            false => Ok(Users(users)),
        }
    }

    /// Whether there is such a user with this password. All users are compared, to the last byte, so the time that this
    /// takes does not help to guess a password.
    pub fn may_log_in(&self, user: &[u8], password: &[u8]) -> bool {
        let is_this =
            |(name, secret): &(Vec<u8>, Vec<u8>)| is_same(user, name) & is_same(password, secret);
        self.0
            .iter()
            .fold(false, |found, entry| found | is_this(entry))
    }
}

/// Compares all bytes, even if the first ones differ.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    let bytes = given.iter().enumerate();
    let difference = bytes.fold(0, |difference, (index, byte)| {
        black_box(difference | (byte ^ expected.get(index).copied().unwrap_or(0)))
    });
    (difference == 0) & (given.len() == expected.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(text: &str) -> Users {
        let path = std::env::temp_dir().join(format!("users-{}", std::process::id()));
        fs::write(&path, text).unwrap();
        let users = Users::read(&path);
        fs::remove_file(&path).unwrap();
        users.unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    #[test]
    fn only_the_password_of_the_same_user_is_right() {
        let users = users("ann:one\r\n\nbob:two:three\n");
        for (user, password, is_right) in [
            ("ann", "one", true),
            ("bob", "two:three", true),
            ("ann", "two:three", false),
            ("ann", "on", false),
            ("ann", "one\0", false),
            ("an", "one", false),
            ("", "", false),
        ] {
            let found = users.may_log_in(user.as_bytes(), password.as_bytes());
            assert_eq!(found, is_right, "{user} {password}");
        }
        assert_eq!(format!("{users:?}"), "Users(2)");
    }
}
