//! The guard's log. Writing a line can block on a full or hanging disk, and a blocked guard does not kill. So lines wait
//! in memory while a server is open and are written when no deadline can be missed by it.

use std::collections::VecDeque;

/// A guard says little; when it says more than this while a server is open, the oldest lines go.
const LONGEST: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Journal {
    lines: VecDeque<(tracing::Level, String)>,
    dropped: usize,
}

impl Journal {
    pub(crate) fn info(&mut self, line: String) {
        self.push(tracing::Level::INFO, line);
    }

    pub(crate) fn warn(&mut self, line: String) {
        self.push(tracing::Level::WARN, line);
    }

    pub(crate) fn error(&mut self, line: String) {
        self.push(tracing::Level::ERROR, line);
    }

    /// Writes what has gathered. Only while nothing is open.
    pub(crate) fn flush(&mut self) {
        if self.dropped > 0 {
            tracing::warn!("{} earlier lines of the guard were dropped", self.dropped);
            self.dropped = 0;
        }
        for (level, line) in self.lines.drain(..) {
            match level {
                tracing::Level::ERROR => tracing::error!("{line}"),
                tracing::Level::WARN => tracing::warn!("{line}"),
                _ => tracing::info!("{line}"),
            }
        }
    }

    fn push(&mut self, level: tracing::Level, line: String) {
        if self.lines.len() >= LONGEST {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back((level, line));
    }
}
