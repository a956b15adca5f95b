//! Any commands in any order: the record stays whole and remembers what it must.

use std::collections::BTreeSet;

use mainstay_core::election;
use mainstay_core::lineage::compare;
use mainstay_core::record::{Applied, Command, EndCause, OnCrash, Phase, Record, Report};
use mainstay_core::sync::is_safe;
use mainstay_core::{MemberId, Timeline};
use proptest::prelude::*;

use super::cases;
use super::commands::{Draft, any_draft, any_member, command};
use crate::cluster;

/// Begins with nothing, with a new cluster, or with one that has a primary.
pub(super) fn any_beginning() -> impl Strategy<Value = Record> {
    let names = ["m1", "m2", "m3"];
    prop_oneof![
        1 => Just(Record::default()),
        3 => Just(cluster::created(&names, OnCrash::Failover)),
        2 => Just(cluster::founded(&names, OnCrash::Restart)),
        6 => Just(cluster::opened(&names, OnCrash::Failover)),
    ]
}

/// A record on its way through an epoch, and some commands more.
pub(super) fn any_record() -> impl Strategy<Value = Record> {
    let names = ["m1", "m2", "m3"];
    let way = (Just(cluster::opened(&names, OnCrash::Failover)), 0u8..5, any_member()).prop_map(
        move |(mut record, steps, holder)| {
            let end = |epoch| Command::End { epoch, cause: EndCause::Crashed };
            if steps > 0 && record.data_members().any(|name| *name == holder) {
                let epoch = record.epoch;
                cluster::apply(&mut record, end(epoch));
                for name in names {
                    cluster::report(&mut record, &crate::notation::member(name), cluster::END);
                }
                if steps > 1 {
                    cluster::grant(&mut record, &holder);
                }
                if steps > 2 {
                    cluster::open(&mut record, cluster::END);
                }
            }
            record
        },
    );
    let beginning = prop_oneof![1 => any_beginning(), 2 => way];
    (beginning, prop::collection::vec(any_draft(), 0..6)).prop_map(|(mut record, drafts)| {
        for draft in drafts {
            let next = command(&record, draft);
            record.apply(next);
        }
        record
    })
}

/// What is true of every record, however it came about.
fn check_whole(record: &Record) {
    match record.phase {
        Phase::Unfounded => assert!(record.base.is_none() && record.lineage.is_empty()),
        Phase::Granted => assert_eq!(record.tenure().map(|tenure| tenure.epoch), Some(record.epoch)),
        Phase::Open => {
            assert_eq!(record.base.as_ref().map(|base| base.epoch), Some(record.epoch));
            assert!(record.reports.is_empty() && record.unopened.is_empty());
            assert_eq!(record.last_end, None);
        }
        Phase::Ended { .. } => assert!(record.base.is_some()),
    }
    for tenure in record.base.iter().chain(&record.unopened) {
        assert!(tenure.sync.is_consistent() && tenure.names.is_consistent());
        assert!(is_safe(&tenure.names, &tenure.sync), "the order law: {tenure:?}");
        assert!(tenure.timeline <= record.highest_timeline);
    }
    assert!(record.lineage.windows(2).all(|pair| pair[0].timeline < pair[1].timeline));
    if let Some(row) = record.ledger.last() {
        assert_eq!(
            record.lineage.last().map(|fork| (fork.timeline, fork.begin)),
            Some((row.timeline, row.fork))
        );
    }
}

fn apply_and_check(record: &mut Record, draft: Draft, reserved: &mut BTreeSet<Timeline>) {
    let before = record.clone();
    let next = command(record, draft);
    let applied = record.apply(next.clone());
    let mut twin = before.clone();
    assert_eq!(twin.apply(next.clone()), applied, "the same command on the same record");
    assert_eq!(twin, *record);
    check_whole(record);
    if applied != Applied::Done {
        assert_eq!(*record, before, "refused or repeated, and yet something changed: {next:?}");
    } else {
        check_step(&before, record, &next, reserved);
        let after = record.clone();
        assert_eq!(record.apply(next.clone()), Applied::Already, "repeated at once: {next:?}");
        assert_eq!(*record, after);
    }
    let json = serde_json::to_string(record).expect("a record is JSON");
    assert_eq!(serde_json::from_str::<Record>(&json).expect("as it was written"), *record);
}

/// Without proof nobody is granted anything but what an operator has decided about this very directory; while the cluster is
/// paused nobody is who was not asked for.
fn check_wishes(before: &Record, holder: &MemberId, report: &Report) {
    let mut without = before.clone();
    without.operation.forced = None;
    if election::may_be_promoted(&without, holder, report.incarnation).is_err() {
        let forced = before.operation.forced.as_ref().expect("a decision");
        assert_eq!((&forced.member, forced.epoch), (holder, before.epoch));
        assert_eq!((forced.incarnation, forced.end), (report.incarnation, report.extent.end));
    }
    let stopped = matches!(before.last_end, Some(EndCause::Switchover { .. }));
    let asked = stopped || before.switchover.is_some() || before.failover().is_some();
    let forced = before.operation.forced.as_ref().is_some_and(|forced| forced.member == *holder);
    assert!(before.paused().is_none() || asked || forced, "promoted while paused");
}

/// What one accepted command may change.
fn check_step(before: &Record, record: &Record, command: &Command, reserved: &mut BTreeSet<Timeline>) {
    assert!(record.epoch == before.epoch || record.epoch == before.epoch.next(), "epochs go one by one");
    assert_eq!(
        record.epoch > before.epoch,
        matches!(command, Command::Grant { .. }),
        "only a grant is a new epoch"
    );
    assert!(record.lineage.starts_with(&before.lineage), "what was accepted stays");
    assert!(record.lineage == before.lineage || !before.is_open(), "no second opening within an epoch");
    assert!(record.highest_timeline >= before.highest_timeline);
    if let Command::Grant { holder, .. } = command {
        let tenure = record.tenure().expect("just granted");
        assert!(tenure.timeline > before.highest_timeline, "a number that may be in use");
        assert!(reserved.insert(tenure.timeline), "two grants share a timeline");
        assert!(
            !tenure.sync.voters.contains(&tenure.voter()),
            "a holder does not acknowledge its own commits"
        );
        let report = before.reports.get(holder).expect("nobody is granted anything without a report");
        assert_eq!((report.epoch, report.incarnation), (before.epoch, tenure.incarnation));
        assert!(report.extent.history.starts_with(&before.lineage), "below the floor");
        check_wishes(before, holder, report);
        for voter in &tenure.sync.voters {
            let theirs = before.reports.get(&voter.member).expect("a voter has reported");
            let is_prefix = compare(&report.extent.history, &theirs.extent).may_follow();
            assert_eq!((theirs.epoch, theirs.incarnation), (before.epoch, voter.incarnation));
            assert!(is_prefix && theirs.extent.end <= report.extent.end, "a voter ahead of the holder");
        }
    }
    if let Command::SetSync { serial, .. } = command {
        let planned_on = before.base.as_ref().map(|base| base.sync_serial);
        assert_eq!(Some(*serial), planned_on, "it was planned on another sync set");
    }
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn any_commands_in_any_order_leave_the_record_whole(
        beginning in any_beginning(),
        drafts in prop::collection::vec(any_draft(), 1..40),
    ) {
        let mut record = beginning;
        let mut reserved = BTreeSet::new();
        for draft in drafts {
            apply_and_check(&mut record, draft, &mut reserved);
        }
    }
}

/// A property over records that are never granted or opened would prove little.
#[test]
fn the_commands_lead_through_whole_epochs() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::new(cases(1));
    let strategy = (any_beginning(), prop::collection::vec(any_draft(), 40));
    let mut accepted = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..500 {
        let (mut record, drafts) = strategy.new_tree(&mut runner).expect("nothing is rejected").current();
        for draft in drafts {
            let next = command(&record, draft);
            let name = format!("{next:?}").split([' ', '{', '(']).next().unwrap_or_default().to_owned();
            if record.apply(next) == Applied::Done {
                *accepted.entry(name).or_default() += 1;
            }
        }
    }
    assert!(accepted.len() == 11 && accepted.values().all(|count| *count >= 10), "{accepted:?}");
}
