//! What the commands print. A reader that goes away early, such as `head`, ends the command and is no error.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Shadows the standard macro, which panics when nobody reads any more.
macro_rules! println {
    ($($argument:tt)*) => { $crate::output::line(format_args!($($argument)*)) };
}
pub(crate) use println;

/// Prints a line to standard output.
pub(crate) fn line(text: Arguments<'_>) {
    end_if_nobody_reads(writeln!(io::stdout().lock(), "{text}"));
}

/// Prints without a line's end, at once.
pub(crate) fn part(text: &str) {
    let mut stdout = io::stdout().lock();
    end_if_nobody_reads(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

fn end_if_nobody_reads(written: io::Result<()>) {
    if written.is_err() {
        std::process::exit(0);
    }
}
