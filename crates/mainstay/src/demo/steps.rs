//! One line per step, with its time.

use std::time::{Duration, Instant};

use crate::output::println;

/// Prints the demo's steps. They go to standard error when standard output is for JSON.
pub(super) struct Steps {
    number: u32,
    of: u32,
    to_stderr: bool,
}

impl Steps {
    /// The wrapper has done the first steps and says which is next.
    pub(super) fn new(to_stderr: bool) -> Steps {
        let number = std::env::var("MAINSTAY_DEMO_STEP").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        Steps { number, of: number + 1, to_stderr }
    }

    pub(super) fn title(&self, text: &str) {
        self.print(text);
    }

    pub(super) fn done(&mut self, name: &str, what: &str, since: Instant) {
        let line =
            format!(" [{}/{}] {name:<10} {what:<60} {:>6}", self.number, self.of, seconds(since.elapsed()));
        self.number += 1;
        self.print(&line);
    }

    fn print(&self, line: &str) {
        if self.to_stderr {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }
}

fn seconds(duration: Duration) -> String {
    match duration.as_secs_f64() {
        short if short < 10.0 => format!("{short:.1} s"),
        long => format!("{long:.0} s"),
    }
}
