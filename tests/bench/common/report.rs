//! Tables of figures with their bounds, and the `main` of all benchmarks.

use std::env;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::process::ExitCode;

use super::Program;

/// `println!` panics when the output is closed (`... | head`); this returns an error.
pub fn print(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// The range that a figure of rustmemc must be in. The figures of other servers have no bound.
#[derive(Clone, Copy)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, figure: f64) -> bool {
        match self {
            Bound::AtMost(most) => figure <= most,
            Bound::AtLeast(least) => figure >= least,
        }
    }
}

impl Display for Bound {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Bound::AtMost(most) => write!(formatter, "at most {}", rounded(most)),
            Bound::AtLeast(least) => write!(formatter, "at least {}", rounded(least)),
        }
    }
}

/// Rounds to two digits after the point.
fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

/// The result of one server in one row.
pub struct Cell {
    /// The text that is printed.
    pub text: String,
    /// The figure that the bound applies to.
    pub figure: f64,
}

impl Cell {
    pub fn new(text: String, figure: f64) -> Cell {
        Cell { text, figure }
    }

    /// A cell that shows only its figure.
    pub fn number(figure: f64, digits: usize) -> Cell {
        Cell::new(format!("{figure:.digits$}"), figure)
    }
}

/// Prints tables row by row, and collects each figure that is out of its bound.
#[derive(Default)]
pub struct Report {
    table: String,
    unit: &'static str,
    failures: Vec<String>,
}

impl Report {
    /// Begins a table. `columns` is printed above the cells of every server, and `unit` is the unit of the bounds.
    pub fn table(
        &mut self,
        title: &str,
        programs: &[Program],
        columns: &str,
        unit: &'static str,
    ) -> io::Result<()> {
        (self.table, self.unit) = (title.into(), unit);
        print("")?;
        print_row(title, programs.iter().map(|program| program.name), "")?;
        print_row("", programs.iter().map(|_| columns), "bound")
    }

    /// Prints a row: a cell for every server. The bound is for the first server, which is rustmemc.
    pub fn row(&mut self, name: &str, cells: &[Cell], bound: Option<Bound>) -> io::Result<()> {
        let figure = cells.first().map_or(f64::NAN, |cell| cell.figure);
        let verdict = match bound {
            None => String::new(),
            Some(bound) if bound.holds(figure) => bound.to_string(),
            Some(bound) => {
                let (table, unit, figure) = (&self.table, self.unit, rounded(figure));
                self.failures.push(format!(
                    "FAILED: {name} ({table}): {figure} {unit}, the bound is {bound}"
                ));
                format!("{bound}: FAILED")
            }
        };
        let texts = cells.iter().map(|cell| cell.text.as_str());
        print_row(name, texts, &verdict)
    }
}

fn print_row<'a>(
    name: &str,
    cells: impl Iterator<Item = &'a str>,
    verdict: &str,
) -> io::Result<()> {
    let cells: String = cells.map(|cell| format!("  {cell:>25}")).collect();
    let row = format!("{name:40}{cells}  {verdict}");
    print(row.trim_end())
}

/// Runs the benchmark with its arguments, or prints its usage. The exit code is 0 if there was no error and no figure
/// was out of its bound.
pub fn run(
    usage: &str,
    benchmark: impl FnOnce(&[String], &mut Report) -> io::Result<()>,
) -> ExitCode {
    let arguments: Vec<String> = env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .filter(|argument| argument != "--bench") // cargo adds this
        .collect();
    let mut report = Report::default();
    let outcome = if arguments
        .iter()
        .any(|word| word == "--help" || word == "-h")
    {
        print(usage)
    } else if cfg!(debug_assertions) {
        // `cargo test --all-targets` runs this.
        print("a debug build is not measured: use `cargo bench`")
    } else {
        benchmark(&arguments, &mut report)
    };
    // After an error, the figures before it that were out of bounds are printed too.
    let mut errors = report.failures;
    errors.extend(outcome.err().map(|error| error.to_string()));
    for error in &errors {
        let _ = writeln!(io::stderr(), "{error}");
    }
    match errors.is_empty() {
        true => ExitCode::SUCCESS,
        // As a test that fails. About any other code cargo prints three lines more.
        false => ExitCode::from(101),
    }
}
