//! What happened, one line each, for people and for the comparison of two runs.

use std::fmt::Write as _;

use crate::queue::{MS, Time};

#[derive(Default)]
pub(crate) struct Trace {
    lines: Option<String>,
}

impl Trace {
    pub(crate) fn new(on: bool) -> Trace {
        Trace { lines: on.then(String::new) }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    pub(crate) fn line(&mut self, now: Time, who: &str, text: &str) {
        if let Some(lines) = &mut self.lines {
            let (seconds, millis, micros) = (now / (1_000 * MS), now / MS % 1_000, now / 1_000 % 1_000);
            writeln!(lines, "{seconds:4}.{millis:03}.{micros:03} {who:>3} {text}")
                .expect("a string takes it");
        }
    }

    pub(crate) fn take(&mut self) -> String {
        self.lines.take().unwrap_or_default()
    }
}
