//! Timeline history files: `pg_wal/00000007.history`.
//!
//! A file is *real* if it says where its timeline began. An empty one is a *dummy*: written to reserve a timeline
//! number just before a promotion. A standby that restarts with a dummy above its newest real history never becomes
//! ready, so those are removed before every start.

use std::path::{Path, PathBuf};

use mainstay_core::lineage::{Fork, History};
use mainstay_core::{Lsn, Timeline};

use crate::durable::{self, FileError};

/// Why the histories could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("timeline {0} has no history file, or an empty one")]
    Missing(Timeline),
    #[error("{path}: line {line} is no line of a timeline history")]
    Malformed { path: PathBuf, line: usize },
    #[error(transparent)]
    File(#[from] FileError),
}

/// The name of a timeline's history file.
pub fn file_name(timeline: Timeline) -> String {
    format!("{:08X}.history", timeline.0)
}

/// The timelines that lead to `timeline`, oldest first, that one last: from its file in `pg_wal`.
pub fn read(pg_wal: &Path, timeline: Timeline) -> Result<History, HistoryError> {
    let path = pg_wal.join(file_name(timeline));
    let text = durable::read(&path)?.unwrap_or_default();
    match parse(&path, timeline, &String::from_utf8_lossy(&text))? {
        history if history.len() == 1 && timeline.0 != 1 => Err(HistoryError::Missing(timeline)),
        history => Ok(history),
    }
}

/// All real histories in `pg_wal`, the newest timeline first. Timeline 1, which has no file, is not
/// among them.
pub fn all(pg_wal: &Path) -> Result<Vec<History>, HistoryError> {
    let mut histories = Vec::new();
    for (timeline, path) in files(pg_wal)? {
        let text = durable::read(&path)?.unwrap_or_default();
        if !is_dummy(&text) {
            histories.push(parse(&path, timeline, &String::from_utf8_lossy(&text))?);
        }
    }
    histories.sort_by_key(|history: &History| std::cmp::Reverse(history.last().map(|fork| fork.timeline)));
    Ok(histories)
}

/// Removes every dummy above the newest real history, durably. Returns the timelines whose dummies were removed.
///
/// PostgreSQL must be down.
pub fn remove_dummies(pg_wal: &Path) -> Result<Vec<Timeline>, HistoryError> {
    let mut files = files(pg_wal)?;
    files.sort();
    let mut removed = Vec::new();
    while let Some((timeline, path)) = files.pop() {
        let text = durable::read(&path)?.unwrap_or_default();
        if !is_dummy(&text) {
            break;
        }
        durable::remove(&path)?;
        // PostgreSQL would go on trying to archive a file that is gone.
        for status in ["ready", "done"] {
            durable::remove(&pg_wal.join(format!("archive_status/{}.{status}", file_name(timeline))))?;
        }
        removed.push(timeline);
    }
    Ok(removed)
}

fn files(pg_wal: &Path) -> Result<Vec<(Timeline, PathBuf)>, HistoryError> {
    let failed = |e| FileError::new("list", pg_wal, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(pg_wal).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".history")).filter(|d| d.len() == 8);
        if let Some(number) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
            files.push((Timeline(number), entry.path()));
        }
    }
    Ok(files)
}

fn is_dummy(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n')
        .all(|line| line.trim_ascii().is_empty() || line.trim_ascii().starts_with(b"#"))
}

/// Each line: the parent timeline, where it was left, and why; separated by blanks. `#` begins a comment.
fn parse(path: &Path, timeline: Timeline, text: &str) -> Result<History, HistoryError> {
    let mut history = History::new();
    let mut begin = Lsn::ZERO;
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let malformed = || HistoryError::Malformed { path: path.to_owned(), line: index + 1 };
        let mut fields = line.split_whitespace();
        let number =
            fields.next().and_then(|field| field.parse().ok()).map(Timeline).ok_or_else(malformed)?;
        let left_at = fields.next().and_then(|field| field.parse().ok()).ok_or_else(malformed)?;
        if history.last().is_some_and(|parent: &Fork| number <= parent.timeline) || number >= timeline {
            return Err(malformed());
        }
        history.push(Fork { timeline: number, begin });
        begin = left_at;
    }
    history.push(Fork { timeline, begin });
    Ok(history)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(timeline: u32, text: &str) -> Result<History, HistoryError> {
        parse(Path::new("x.history"), Timeline(timeline), text)
    }

    #[test]
    fn a_history_names_where_each_timeline_begins() {
        let text = "1\t0/3000000\tno recovery target specified\n\n4\t0/5000A28\tbefore 2000-01-01\n";
        let history = parsed(7, text).unwrap();
        let fork = |timeline, begin| Fork { timeline: Timeline(timeline), begin: Lsn(begin) };
        assert_eq!(history, [fork(1, 0), fork(4, 0x300_0000), fork(7, 0x500_0A28)]);
    }

    #[test]
    fn nonsense_is_refused_by_line() {
        for text in ["1\n", "one\t0/1\tx\n", "2\t0/1\tx\n1\t0/2\tx\n", "7\t0/1\tx\n"] {
            assert!(matches!(parsed(7, text), Err(HistoryError::Malformed { .. })), "{text:?}");
        }
    }
}
