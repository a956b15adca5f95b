//! Statements that take long are logged, without what they are about: values are nobody's business but the database's.

use tokio::time::Instant;
use tracing::info;

use super::Session;
use crate::redact::without_literals;
use crate::snapshot::Addresses;
use crate::statements::Statement;

/// As much of a text is kept while it runs; what is shown of it is shorter.
const KEPT_BYTES: usize = 2048;
const SHOWN_CHARACTERS: usize = 200;

impl Session {
    /// Keeps the beginning of a text that is about to run, if its time is of interest.
    #[inline]
    pub(super) fn speaks(&mut self, text: &[u8]) {
        if self.worker.log_min_duration.get().is_some() {
            self.keep_text(text);
        }
    }

    /// The same for a statement that was prepared; `None`: the unnamed one.
    #[inline]
    pub(super) fn speaks_prepared(&mut self, statement: Option<&Statement>) {
        if self.worker.log_min_duration.get().is_none() {
            return;
        }
        let text = self.text_of(statement).to_vec();
        self.keep_text(&text);
    }

    /// `None`: of the unnamed one.
    pub(super) fn text_of<'a>(&'a self, statement: Option<&'a Statement>) -> &'a [u8] {
        statement.map_or_else(|| self.unnamed.text(), Statement::text)
    }

    fn keep_text(&mut self, text: &[u8]) {
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        let kept = &text[..end.min(KEPT_BYTES)];
        // Of several in one pipeline the first is told.
        self.spoken.get_or_insert_with(|| String::from_utf8_lossy(kept).into());
    }

    /// A statement has been answered.
    pub(super) fn log_slow(&mut self) {
        let (Some(text), Some(least)) = (self.spoken.take(), self.worker.log_min_duration.get()) else {
            return;
        };
        let (entry, now) = (&self.entry, Instant::now());
        let took = now.duration_since(entry.since.get());
        if took < least {
            return;
        }
        let client = Addresses::of(entry.descriptor).remote.map(|address| address.to_string());
        info!(
            database = %entry.key.database,
            user = %entry.key.user,
            client = client.unwrap_or_default(),
            duration_ms = took.as_secs_f64() * 1000.0,
            wait_ms = entry.waited.get().as_secs_f64() * 1000.0,
            statement = without_literals(&text, SHOWN_CHARACTERS),
            "a slow statement"
        );
    }
}
