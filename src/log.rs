//! Lines on standard error: what the operator of the server has to know, also without `-v`.

use std::fmt::Display;

/// Writes one line to standard error. A closed standard error is not a failure.
pub fn line(line: impl Display) {
    // A unit test's lines belong to that test. Only this macro's are kept back until the test fails.
    #[cfg(test)]
    eprintln!("{line}");
    #[cfg(not(test))]
    {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}
