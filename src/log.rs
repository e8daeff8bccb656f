//! Lines on standard error: what the operator of the server has to know, also without `-v`.

use std::fmt::Display;
use std::io::Write;

/// Writes one line to standard error. A closed standard error is not a failure.
pub fn line(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
