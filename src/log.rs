//! Lines for the operator of the server. A closed or full standard output or standard error is not a failure.

use std::fmt::Display;

/// Writes one line to standard error: what the operator has to know, also without `-v`.
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

/// Writes one line, or a longer text, to standard output: what the operator has asked for.
pub fn print(text: impl Display) {
    use std::io::Write;
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
