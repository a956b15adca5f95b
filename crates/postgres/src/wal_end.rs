//! The end of the last valid WAL record on disk: how much of the history this member can prove that it holds.
//!
//! PostgreSQL's own answers do not do: what a walreceiver has flushed may end in a torn record, and after a restart
//! `pg_last_wal_receive_lsn()` forgets. So `pg_waldump` reads what is there, with PostgreSQL up or down.

use std::time::Duration;

use mainstay_core::lineage::{Fork, History};
use mainstay_core::{Lsn, Timeline};

use crate::blocking::blocking;
use crate::control::{self, Control, ControlError};
use crate::durable::FileError;
use crate::history::{self, HistoryError};
use crate::layout::Layout;
use crate::tools::{Tools, ToolsError};
use crate::waldump::{ScanEnd, Stretch};

/// Why the end of WAL is not known.
#[derive(Debug, thiserror::Error)]
pub enum WalEndError {
    #[error(
        "timeline {timeline} has no valid WAL from {redo} to its last checkpoint, where recovery begins: clone the directory"
    )]
    NoWal { timeline: Timeline, redo: Lsn },
    #[error("the record at {record} on timeline {timeline} is valid at one reading and not at the next")]
    Unsteady { timeline: Timeline, record: Lsn },
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("cannot read the WAL")]
    Tool(#[from] ToolsError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Where the WAL on disk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalEnd {
    /// The newest timeline of which there is at least one record.
    pub timeline: Timeline,
    pub end: Lsn,
}

/// Finds the end of WAL on disk.
///
/// `replayed` is the running standby's replay position, which saves reading what lies before it; `None` reads from
/// the last checkpoint's redo position. The answer lasts as long as nothing writes: seal a standby first.
pub async fn wal_end(
    tools: &Tools,
    layout: &Layout,
    replayed: Option<Lsn>,
    timeout: Duration,
) -> Result<WalEnd, WalEndError> {
    let control = control::read(tools, layout).await?;
    let pg_wal = layout.pg_wal();
    let histories = blocking(move || history::all(&pg_wal)).await?;
    let scan = Scan { tools, layout, control: &control, replayed, timeout };
    let is_own =
        |history: &&History| history.last().is_some_and(|fork| fork.timeline == control.checkpoint_timeline);
    let own = histories.iter().find(is_own);
    for history in histories.iter().filter(|history| is_continuation(history, own, &control)) {
        if let Some(found) = scan.newer_timeline(history).await? {
            return Ok(found);
        }
    }
    scan.own_timeline().await
}

/// Whether the history leads from where the directory is to a newer timeline: the same test that PostgreSQL makes
/// before it follows one.
///
/// `own` is the history of the timeline of the last checkpoint: a timeline of that number that began elsewhere is
/// another one.
fn is_continuation(history: &[Fork], own: Option<&History>, control: &Control) -> bool {
    let is_newer = history.last().is_some_and(|fork| fork.timeline > control.checkpoint_timeline);
    let reaches_minimum = control.minimum_recovery_timeline.0 == 0
        || holds(history, control.minimum_recovery_timeline, control.minimum_recovery_end);
    let is_same_line = own.is_none_or(|own| history.starts_with(own));
    is_newer
        && is_same_line
        && holds(history, control.checkpoint_timeline, control.checkpoint)
        && reaches_minimum
}

/// Whether `position` on `timeline` lies on the history, that is before the history leaves that timeline.
fn holds(history: &[Fork], timeline: Timeline, position: Lsn) -> bool {
    let index = history.iter().position(|fork| fork.timeline == timeline);
    index.is_some_and(|index| history.get(index + 1).is_none_or(|next| position <= next.begin))
}

struct Scan<'a> {
    tools: &'a Tools,
    layout: &'a Layout,
    control: &'a Control,
    replayed: Option<Lsn>,
    timeout: Duration,
}

impl Scan<'_> {
    async fn own_timeline(&self) -> Result<WalEnd, WalEndError> {
        let (timeline, redo) = (self.control.checkpoint_timeline, self.control.redo);
        let begin = self.replayed.map_or(redo, |replayed| replayed.max(redo));
        let stretch = self.stretch(timeline, begin, None).await?;
        match self.last_end(&stretch).await? {
            // Without its checkpoint record PostgreSQL does not start, however much WAL leads up to it.
            Some(end) if end <= self.control.checkpoint => Err(WalEndError::NoWal { timeline, redo }),
            Some(end) => Ok(WalEnd { timeline, end }),
            // What was replayed is there, even if nothing follows it.
            None if self.replayed.is_some() => Ok(WalEnd { timeline, end: stretch.normal_form(begin) }),
            None => Err(WalEndError::NoWal { timeline, redo }),
        }
    }

    /// The end on the history's last timeline, if there is WAL of it; what leads there must be there too.
    async fn newer_timeline(&self, history: &[Fork]) -> Result<Option<WalEnd>, WalEndError> {
        let Some(newest) = history.last() else { return Ok(None) };
        let replayed_on_it = self.replayed.filter(|replayed| *replayed > newest.begin);
        let mut end = None;
        // Usually the segment at hand is proof enough; one that a single record fills is not.
        for position in replayed_on_it.into_iter().chain([newest.begin]) {
            let begin = self.segment_start(position).max(self.control.redo);
            let stretch = self.stretch(newest.timeline, begin, None).await?;
            end = self.last_end(&stretch).await?;
            if end.is_some() {
                break;
            }
        }
        match end {
            Some(end) if end > newest.begin => {
                let gap = if replayed_on_it.is_some() { None } else { self.first_gap(history).await? };
                Ok(Some(gap.unwrap_or(WalEnd { timeline: newest.timeline, end })))
            }
            _ => Ok(None),
        }
    }

    /// Reads the older timelines between the starting position and the newest one's first segment. Returns where they
    /// break off, if they do.
    ///
    /// The segment in which a timeline begins is read under the newer name only, as PostgreSQL does.
    async fn first_gap(&self, history: &[Fork]) -> Result<Option<WalEnd>, WalEndError> {
        let mut begin = self.replayed.map_or(self.control.redo, |replayed| replayed.max(self.control.redo));
        for pair in history.windows(2) {
            let (timeline, limit) = (pair[0].timeline, self.segment_start(pair[1].begin));
            if timeline < self.control.checkpoint_timeline || limit <= begin {
                continue;
            }
            let stretch = self.stretch(timeline, begin, Some(limit)).await?;
            let ended = stretch.scan(self.tools, self.layout, self.timeout).await?;
            if stretch.end < limit || ended != ScanEnd::EndOfFiles {
                let end = self.last_end(&stretch).await?.unwrap_or(stretch.normal_form(begin));
                return Ok(Some(WalEnd { timeline, end }));
            }
            begin = limit;
        }
        Ok(None)
    }

    /// Where the last valid record of the stretch ends; `None` if it holds none.
    async fn last_end(&self, stretch: &Stretch) -> Result<Option<Lsn>, WalEndError> {
        let end = match stretch.scan(self.tools, self.layout, self.timeout).await? {
            ScanEnd::Nothing => None,
            ScanEnd::After { end: Some(end), .. } => Some(end),
            ScanEnd::After { last_record, end: None } => {
                let read =
                    stretch.last_record(self.tools, self.layout, last_record, Some(1), self.timeout).await?;
                let unsteady = || WalEndError::Unsteady {
                    timeline: self.control.checkpoint_timeline,
                    record: last_record,
                };
                Some(stretch.record_end(read.ok_or_else(unsteady)?))
            }
            ScanEnd::EndOfFiles => self.last_end_in_files(stretch).await?,
        };
        Ok(end.map(|end| stretch.normal_form(end)))
    }

    /// The last record of files that are valid to their end, looked for from the last file backwards.
    async fn last_end_in_files(&self, stretch: &Stretch) -> Result<Option<Lsn>, WalEndError> {
        let mut from = stretch.segment_start(Lsn(stretch.end.0 - 1)).max(stretch.begin);
        loop {
            let read = stretch.last_record(self.tools, self.layout, from, None, self.timeout).await?;
            if let Some(record) = read {
                return Ok(Some(stretch.record_end(record)));
            }
            if from <= stretch.begin {
                return Ok(None);
            }
            from = stretch.segment_start(Lsn(from.0 - 1)).max(stretch.begin);
        }
    }

    async fn stretch(
        &self,
        timeline: Timeline,
        begin: Lsn,
        limit: Option<Lsn>,
    ) -> Result<Stretch, FileError> {
        let (pg_wal, segment_bytes) = (self.layout.pg_wal(), self.control.wal_segment_bytes);
        blocking(move || Stretch::find(&pg_wal, segment_bytes, timeline, begin, limit)).await
    }

    fn segment_start(&self, position: Lsn) -> Lsn {
        Lsn(position.0 - position.0 % self.control.wal_segment_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ClusterState;

    fn fork(timeline: u32, begin: u64) -> Fork {
        Fork { timeline: Timeline(timeline), begin: Lsn(begin) }
    }

    fn control(timeline: u32, checkpoint: u64, minimum: (u32, u64)) -> Control {
        Control {
            system_identifier: 1,
            state: ClusterState::InArchiveRecovery,
            checkpoint: Lsn(checkpoint),
            redo: Lsn(checkpoint),
            checkpoint_timeline: Timeline(timeline),
            previous_timeline: Timeline(timeline),
            minimum_recovery_end: Lsn(minimum.1),
            minimum_recovery_timeline: Timeline(minimum.0),
            next_xid: 3,
            data_checksums: true,
            wal_segment_bytes: 16 << 20,
            least: Default::default(),
        }
    }

    #[test]
    fn a_timeline_that_was_left_before_our_position_is_no_continuation() {
        let history = vec![fork(1, 0), fork(3, 1000)];
        assert!(is_continuation(&history, None, &control(1, 500, (1, 1000))));
        assert!(!is_continuation(&history, None, &control(1, 500, (1, 1001))), "replayed past the fork");
        assert!(!is_continuation(&history, None, &control(1, 1001, (0, 0))), "checkpoint past the fork");
        assert!(!is_continuation(&history, None, &control(3, 1500, (3, 1600))), "it is our own");
        assert!(!is_continuation(&history, None, &control(2, 500, (0, 0))), "not of our line");
        let other_beginning = vec![fork(1, 0), fork(2, 300), fork(3, 1000)];
        let own = vec![fork(1, 0), fork(2, 400)];
        assert!(
            !is_continuation(&other_beginning, Some(&own), &control(2, 500, (0, 0))),
            "the number alone is no proof"
        );
        assert!(is_continuation(&other_beginning, None, &control(2, 500, (0, 0))));
        let longer = vec![fork(1, 0), fork(3, 1000), fork(4, 2000)];
        assert!(is_continuation(&longer, None, &control(1, 500, (3, 2000))));
    }
}
