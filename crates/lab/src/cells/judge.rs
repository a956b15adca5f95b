//! What each session must have been told, by the state in which the fault found it: the table of the book's page on the SQL proxy.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_core::Now;

use super::record::{Belief, Record, Role, Told, What};
use super::{CellFault, Form};

/// No error.
const NONE: &str = "-";
/// What says too little, and what is for violations of the protocol and broken machines.
const NEVER: [&str; 2] = ["08P01", "58000"];

/// What became of one cell's sessions.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict {
    /// How often which code was told to which role by the answers that count.
    pub(super) told: BTreeMap<(Role, String), usize>,
    /// How long after the new primary stood the last session knew what had become of its statement.
    pub(super) latest: Option<Duration>,
    pub(super) acknowledged: usize,
    pub(super) absent: usize,
    pub(super) unknown: usize,
    pub(super) unknown_and_there: usize,
    pub(super) violations: Vec<String>,
}

/// Judges what was told, and when.
pub(super) fn answers(
    (fault, form): (CellFault, Form),
    records: &[Record],
    stands_at: Option<Now>,
    bar: Duration,
) -> Verdict {
    let mut verdict = Verdict::default();
    for record in records {
        let who = format!("{} through {}", record.role.words(), record.proxy);
        verdict.violations.extend(
            record
                .complaints
                .iter()
                .filter(|_| !is_expected_end(fault, record))
                .map(|complaint| format!("{who}: {complaint}")),
        );
        for told in &record.told {
            let code = code(told);
            if told.is_main {
                *verdict.told.entry((record.role, code.clone())).or_default() += 1;
            }
            let allowed: &[&str] =
                if told.is_main { allowed((fault, form), record.role, told.what) } else { &[NONE] };
            if !allowed.contains(&code.as_str()) || NEVER.contains(&code.as_str()) {
                let text = told.failure.as_ref().map_or("", |failure| failure.text.as_str());
                let end = told.end.as_deref().map_or_else(String::new, |end| format!(", then: {end}"));
                verdict.violations.push(format!(
                    "{who}: {:?} was answered {code}, and not {}: {text}{end}",
                    told.what,
                    allowed.join(" or ")
                ));
            }
            if let Some(late) = stands_at.and_then(|stands| lateness(fault, record, told, stands)) {
                verdict.latest = verdict.latest.max(Some(late));
                if late > bar {
                    verdict
                        .violations
                        .push(format!("{who}: was told {} ms after the new primary stood", late.as_millis()));
                }
            }
        }
    }
    verdict
}

/// Of a session that is told that it is over, the end of its connection is no complaint.
fn is_expected_end(fault: CellFault, record: &Record) -> bool {
    record.role == Role::Tied && fault != CellFault::CutLink
}

fn code(told: &Told) -> String {
    match (&told.failure, &told.end) {
        (Some(failure), _) => failure.code.clone(),
        (None, Some(_)) => "end".to_owned(),
        (None, None) => NONE.to_owned(),
    }
}

/// The answers that are right.
fn allowed((fault, form): (CellFault, Form), role: Role, what: What) -> &'static [&'static str] {
    let is_kept = fault == CellFault::CutLink;
    // Whoever is cut off or asks one who hangs may have asked before anybody could know that.
    let is_plain = matches!(fault, CellFault::KillPostmaster | CellFault::KillMember | CellFault::Switchover);
    match (role, what) {
        (Role::Idle, _) => &[NONE],
        (Role::Between, _) if is_plain => &[NONE],
        (Role::WriteLoop | Role::TransactionLoop, _) if fault == CellFault::Switchover => &[NONE],
        (Role::Tied, _) if is_kept => &[NONE, "57P01"],
        (Role::Tied, _) => &["57P01"],
        (Role::InTransaction | Role::Running, _) if !is_kept => &["40001"],
        (Role::Autocommit | Role::Commit, _) if !is_kept => &["08007"],
        (_, What::Statement) => &[NONE, "40001"],
        (_, What::Autocommit) => &[NONE, "08007"],
        // Pipelined, the commit is under way with it.
        (_, What::Begin) if form != Form::Pipelined => &[NONE, "40001"],
        // A commit that was not sent any more is certain, one that was sent is not.
        (_, What::Begin | What::Commit) => &[NONE, "40001", "08007"],
        (_, What::Read | What::Rollback) => &[NONE],
    }
}

/// How long a session that lost something has waited for the answer while a new primary was there already.
fn lateness(fault: CellFault, record: &Record, told: &Told, stands: Now) -> Option<Duration> {
    let counts = matches!(record.role, Role::InTransaction | Role::Running | Role::Autocommit | Role::Commit);
    if !counts || !told.is_main || record.is_cut_off || fault == CellFault::CutLink || told.failure.is_none()
    {
        return None;
    }
    Some(told.at.since(stands.max(told.asked)))
}

/// Holds what clients believe against the rows that are there: how often each.
pub(super) fn rows(verdict: &mut Verdict, records: &[Record], there: &BTreeMap<i64, i64>) {
    for (row, count) in there.iter().filter(|(_, count)| **count > 1) {
        verdict.violations.push(format!("row {row} is there {count} times"));
    }
    for record in records {
        for (row, belief) in &record.rows {
            let is_there = there.contains_key(row);
            match belief {
                Belief::There => verdict.acknowledged += 1,
                Belief::Absent => verdict.absent += 1,
                Belief::Unknown => {
                    verdict.unknown += 1;
                    verdict.unknown_and_there += usize::from(is_there);
                }
            }
            let who = format!("{} through {}", record.role.words(), record.proxy);
            if *belief == Belief::There && !is_there {
                verdict.violations.push(format!("{who}: row {row} was acknowledged, and is lost"));
            }
            if *belief == Belief::Absent && is_there {
                verdict.violations.push(format!("{who}: row {row} was said to be rolled back, and is there"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Failure;
    use super::*;

    fn record(role: Role, code: Option<&str>, at: u64) -> Record {
        let failure = code.map(|code| Failure { code: code.to_owned(), text: String::new() });
        let what = if role == Role::Commit { What::Commit } else { What::Statement };
        let told = Told { what, is_main: true, asked: Now(0), at: Now(at), failure, end: None };
        Record {
            role,
            proxy: "m1".to_owned(),
            is_cut_off: false,
            told: vec![told],
            rows: vec![(1, Belief::There), (2, Belief::Absent), (3, Belief::Unknown)],
            complaints: Vec::new(),
        }
    }

    fn violations(role: Role, code: Option<&str>, fault: CellFault) -> usize {
        let bar = Duration::from_millis(100);
        answers((fault, Form::Simple), &[record(role, code, 0)], Some(Now(0)), bar).violations.len()
    }

    #[test]
    fn each_state_has_its_answer() {
        for fault in [CellFault::KillPostmaster, CellFault::Switchover, CellFault::Freeze] {
            assert_eq!(violations(Role::Running, Some("40001"), fault), 0);
            assert_eq!(violations(Role::Running, Some("08007"), fault), 1);
            assert_eq!(violations(Role::Running, None, fault), 1);
            assert_eq!(violations(Role::Commit, Some("08007"), fault), 0);
            assert_eq!(violations(Role::Commit, Some("40001"), fault), 1);
            assert_eq!(violations(Role::Idle, Some("40001"), fault), 1);
        }
        assert_eq!(violations(Role::TransactionLoop, Some("40001"), CellFault::Switchover), 1);
        assert_eq!(violations(Role::TransactionLoop, Some("40001"), CellFault::Freeze), 0);
        assert_eq!(violations(Role::TransactionLoop, Some("08P01"), CellFault::Freeze), 1);
        assert_eq!(violations(Role::Running, None, CellFault::CutLink), 0);
    }

    #[test]
    fn whoever_is_told_late_is_noticed() {
        let bar = Duration::from_millis(100);
        let late = |at| {
            let records = [record(Role::Running, Some("40001"), at)];
            answers((CellFault::Freeze, Form::Simple), &records, Some(Now(1_000_000_000)), bar)
                .violations
                .len()
        };
        assert_eq!((late(900_000_000), late(1_090_000_000), late(1_110_000_000)), (0, 0, 1));
    }

    #[test]
    fn rows_are_held_against_what_was_believed() {
        let found = |there: &[(i64, i64)]| {
            let mut verdict = Verdict::default();
            rows(&mut verdict, &[record(Role::Commit, None, 0)], &there.iter().copied().collect());
            (verdict.violations.len(), verdict.unknown_and_there)
        };
        assert_eq!(found(&[(1, 1)]), (0, 0));
        assert_eq!(found(&[(1, 1), (3, 1)]), (0, 1));
        assert_eq!(found(&[]), (1, 0));
        assert_eq!(found(&[(1, 2), (2, 1)]), (2, 0));
    }
}
