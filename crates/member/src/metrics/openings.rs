//! How often a primary was opened, by what had ended the epoch before.

use std::collections::BTreeMap;

use mainstay_core::Epoch;
use mainstay_core::record::{EndCause, LedgerRow};

/// Those that a cluster meets in its life, so that the first of a kind is seen as an increase and not as a new series.
const USUAL: [&str; 9] = [
    "founded",
    "crashed",
    "lease_lost",
    "hung",
    "switchover",
    "restarted",
    "directory_lost",
    "expired",
    "recovered",
];

/// Counts on while the process lives. The record's ledger is its beginning; that itself forgets its oldest rows, which
/// a counter must not.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    counts: BTreeMap<String, u64>,
    counted: Epoch,
}

impl Openings {
    /// Counts what is new, and answers how often each cause was met.
    pub(crate) fn count(&mut self, ledger: &[LedgerRow]) -> Vec<(String, u64)> {
        for cause in USUAL {
            self.counts.entry(cause.to_owned()).or_default();
        }
        let counted = self.counted;
        for row in ledger.iter().filter(|row| row.epoch > counted) {
            *self.counts.entry(word(&row.after)).or_default() += 1;
            self.counted = self.counted.max(row.epoch);
        }
        self.counts.iter().map(|(cause, count)| (cause.clone(), *count)).collect()
    }
}

/// As the record writes it, without what it carries.
fn word(cause: &EndCause) -> String {
    match serde_json::to_value(cause) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(serde_json::Value::Object(object)) => object.keys().next().cloned().unwrap_or_default(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use mainstay_core::{Incarnation, Lsn, MemberId, Timeline};

    use super::*;

    fn row(epoch: u64, after: EndCause) -> LedgerRow {
        LedgerRow {
            epoch: Epoch(epoch),
            member: MemberId::new("m1").expect("a name"),
            incarnation: Incarnation(1),
            timeline: Timeline(1),
            fork: Lsn::ZERO,
            next_xid: 0,
            at_unix_ms: 0,
            after,
            forced: None,
        }
    }

    fn of(counts: &[(String, u64)], cause: &str) -> u64 {
        counts.iter().find(|(word, _)| word == cause).map_or(u64::MAX, |(_, count)| *count)
    }

    #[test]
    fn what_the_ledger_forgets_stays_counted_and_nothing_counts_twice() {
        let mut openings = Openings::default();
        let switched = || EndCause::Switchover { to: None };
        let first =
            openings.count(&[row(1, EndCause::Founded), row(2, EndCause::Crashed), row(3, switched())]);
        assert_eq!((of(&first, "founded"), of(&first, "crashed"), of(&first, "switchover")), (1, 1, 1));
        assert_eq!(of(&first, "expired"), 0, "a series is there before the first of its kind");
        let second = openings.count(&[row(3, switched()), row(5, switched())]);
        assert_eq!((of(&second, "founded"), of(&second, "switchover")), (1, 2));
        assert_eq!(openings.count(&[row(5, switched())]), second);
    }
}
