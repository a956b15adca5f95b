//! The write-ahead log of one directory: at most 16 records, each a timeline and what it says, one byte together.
//!
//! A position is the number of records before it, so `Lsn(3)` is behind the third record.

use std::fmt;

use mainstay_core::lineage::{Extent, Fork, History};
use mainstay_core::{Lsn, Timeline};

/// What a record says, 0 to 15; the meaning is the model's.
pub(super) type Content = u8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Wal(u128);

impl Wal {
    pub(super) fn len(self) -> u8 {
        u8::try_from((128 - self.0.leading_zeros()).div_ceil(8)).expect("at most 16 records")
    }

    fn record(self, index: u8) -> u8 {
        u8::try_from((self.0 >> (8 * index)) & 0xFF).expect("masked to one byte")
    }

    /// No further record, or no further timeline, would fit.
    pub(super) fn is_full(self) -> bool {
        self.len() == 16 || self.timeline() == 15
    }

    pub(super) fn push(&mut self, timeline: u8, content: Content) {
        assert!(
            timeline > 0 && timeline < 16 && content < 16 && self.len() < 16,
            "the model's bounds are too wide"
        );
        self.0 |= u128::from((timeline << 4) | content) << (8 * self.len());
    }

    /// Takes over the record of `source` at this log's end.
    pub(super) fn copy_next(&mut self, source: Wal) {
        self.0 |= u128::from(source.record(self.len())) << (8 * self.len());
    }

    pub(super) fn timeline(self) -> u8 {
        self.len().checked_sub(1).map_or(0, |last| self.record(last) >> 4)
    }

    pub(super) fn contents(self) -> impl Iterator<Item = Content> {
        (0..self.len()).map(move |index| self.record(index) & 0x0F)
    }

    /// Where the first record with this content ends.
    pub(super) fn end_of(self, content: Content) -> Option<u8> {
        self.contents().zip(1u8..).find(|(says, _)| *says == content).map(|(_, end)| end)
    }

    /// The first `length` records.
    pub(super) fn cut(self, length: u8) -> Wal {
        if length >= 16 { self } else { Wal(self.0 & ((1u128 << (8 * length)) - 1)) }
    }

    pub(super) fn is_prefix_of(self, other: Wal) -> bool {
        self.len() <= other.len() && other.cut(self.len()) == self
    }

    /// Where a timeline with this *number* ends in this log; the end of the log if it is the newest.
    fn leaves(self, timeline: u8) -> Option<u8> {
        let last = (0..self.len()).rev().find(|index| self.record(*index) >> 4 == timeline)?;
        Some(last + 1)
    }

    /// Whether a server with this log lets a standby with `standby` stream: PostgreSQL compares timeline numbers and
    /// positions, never what is there.
    pub(super) fn lets_stream(self, standby: Wal) -> bool {
        standby.len() > 0 && self.leaves(standby.timeline()).is_some_and(|end| standby.len() <= end)
    }

    /// Whether both have a timeline of one number that begins elsewhere or says something else.
    pub(super) fn has_other_records_on_a_timeline_of(self, other: Wal) -> bool {
        let both = self.len().min(other.len());
        let common = (0..both).find(|index| self.record(*index) != other.record(*index)).unwrap_or(both);
        // One timeline in both, on one side at least with records that the other does not have there.
        (common..self.len()).any(|index| {
            let timeline = self.record(index) >> 4;
            (common..other.len()).any(|index| other.record(index) >> 4 == timeline)
        })
    }

    pub(super) fn history(self) -> History {
        let mut history = History::new();
        for index in 0..self.len() {
            let timeline = Timeline(u32::from(self.record(index) >> 4));
            if history.last().is_none_or(|fork| fork.timeline != timeline) {
                history.push(Fork { timeline, begin: Lsn(u64::from(index)) });
            }
        }
        history
    }

    pub(super) fn extent(self) -> Extent {
        Extent { history: self.history(), end: Lsn(u64::from(self.len())) }
    }
}

impl fmt::Display for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut timeline = 0;
        for index in 0..self.len() {
            let record = self.record(index);
            if record >> 4 != timeline {
                timeline = record >> 4;
                write!(f, "/{timeline}:")?;
            }
            write!(f, "{:x}", record & 0x0F)?;
        }
        Ok(())
    }
}
