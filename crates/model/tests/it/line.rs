//! Three members, the first of them the primary; what may go wrong, and how often.

use mainstay_core::mutant::Mutant;
use mainstay_model::line::{Line, Scope};

use super::{caught, holds};

const ONE_COMMIT: Scope = Scope { commits: 1, ..Scope::CALM };

/// Everything but wrong numbers: with those, timelines may collide where nobody streams.
const ANY: Scope = Scope {
    faults: 2,
    crash: true,
    down: true,
    restart: true,
    cut: true,
    lag: true,
    link: true,
    freeze: true,
    late: true,
    in_flight: true,
    wipe: true,
    fail: true,
    stray: true,
    ..ONE_COMMIT
};

/// One commit may be on a member and the next not.
const TWO_COMMITS: Scope = Scope {
    commits: 2,
    faults: 2,
    crash: true,
    cut: true,
    freeze: true,
    link: true,
    late: true,
    ..Scope::CALM
};

/// Openings that fail, or take the wrong number.
const OPENINGS: Scope = Scope { faults: 2, epochs: 2, crash: true, fail: true, renumber: true, ..ONE_COMMIT };

/// Standbys are lost and the primary goes on alone.
const LONE: Scope = Scope { faults: 3, link: true, down: true, ..ONE_COMMIT };

/// Changes of the sync set that are committed late, and twice.
const LATE_CHANGES: Scope = Scope { faults: 3, link: true, in_flight: true, ..ONE_COMMIT };

/// The primary is cut off, and its guard frozen, so that PostgreSQL goes on past the deadline.
const FROZEN: Scope = Scope { faults: 3, crash: true, cut: true, freeze: true, ..ONE_COMMIT };

#[test]
fn two_faults_of_any_kind_in_two_epochs() {
    holds(Line::new(Scope { epochs: 2, ..ANY }), 7_941_983);
}

#[test]
fn two_commits() {
    holds(Line::new(TWO_COMMITS), 816_939);
}

#[test]
fn two_commits_with_a_witness() {
    holds(Line::new(Scope { witness: true, commits: 2, epochs: 2, renumber: true, ..ANY }), 778_450);
}

#[test]
fn three_faults_with_a_witness() {
    holds(Line::new(Scope { witness: true, faults: 3, ..ANY }), 2_333_997);
}

#[test]
fn three_epochs_with_a_witness() {
    holds(Line::new(Scope { witness: true, epochs: 3, renumber: true, ..ANY }), 311_700);
}

#[test]
fn openings_that_fail() {
    holds(Line::new(OPENINGS), 532_428);
}

#[test]
fn alone_for_a_while() {
    holds(Line::new(LONE), 2_034_755);
}

#[test]
fn changes_of_the_sync_set_committed_late() {
    holds(Line::new(LATE_CHANGES), 129_764);
}

#[test]
fn frozen_past_the_deadline() {
    holds(Line::new(FROZEN), 739_629);
}

#[test]
fn follow_ahead_of_fork() {
    caught(Line::new(ANY), Mutant::FollowAheadOfFork, "lineage");
}

#[test]
fn names_before_record() {
    caught(Line::new(ANY), Mutant::NamesBeforeRecord, "order_law");
}

#[test]
fn record_before_names() {
    caught(Line::new(ANY), Mutant::RecordBeforeNames, "order_law");
}

#[test]
fn late_sync_accepted() {
    caught(Line::new(LATE_CHANGES), Mutant::LateSyncAccepted, "order_law");
}

#[test]
fn timeline_reused() {
    caught(
        Line::new(Scope { renumber: false, down: true, ..OPENINGS }),
        Mutant::TimelineReused,
        "timelines_unique",
    );
}

#[test]
fn open_unchecked() {
    let scope = Scope { fail: false, ..OPENINGS };
    caught(Line::new(scope), Mutant::OpenUnchecked, "no_dead_end");
}

#[test]
fn floor_ignored() {
    caught(Line::new(Scope { down: true, ..OPENINGS }), Mutant::FloorIgnored, "nothing_acknowledged_lost");
}

#[test]
fn incarnation_ignored() {
    caught(Line::new(ANY), Mutant::IncarnationIgnored, "nothing_acknowledged_lost");
}

#[test]
fn lone_ignored() {
    caught(Line::new(LONE), Mutant::LoneIgnored, "nothing_acknowledged_lost");
}

#[test]
fn one_report_suffices() {
    caught(Line::new(ANY), Mutant::OneReportSuffices, "nothing_acknowledged_lost");
}

#[test]
fn not_the_furthest() {
    caught(Line::new(ANY), Mutant::NotTheFurthest, "nothing_acknowledged_lost");
}

#[test]
fn voters_unchecked() {
    caught(Line::new(ANY), Mutant::VotersUnchecked, "voters_behind_fork");
}

#[test]
fn voter_wiped() {
    caught(Line::new(ANY), Mutant::VoterWiped, "voters_untouched");
}

#[test]
fn stray_primary_tolerated() {
    caught(Line::new(ANY), Mutant::StrayPrimaryTolerated, "no_write_without_lease");
}

#[test]
fn old_epoch_tolerated() {
    caught(Line::new(ANY), Mutant::OldEpochTolerated, "one_writer");
}

#[test]
fn failed_opening_kept() {
    let scope = Scope { renumber: false, ..OPENINGS };
    caught(Line::new(scope), Mutant::FailedOpeningKept, "no_dead_end");
}

#[test]
fn report_before_seal() {
    caught(Line::new(FROZEN), Mutant::ReportBeforeSeal, "nothing_acknowledged_lost");
}

#[test]
fn record_not_read() {
    caught(Line::new(ANY), Mutant::RecordNotRead, "order_law");
}

#[test]
fn gate_ignored() {
    caught(Line::new(ANY), Mutant::GateIgnored, "kept_by_voters");
}

#[test]
fn lease_kept() {
    let scope = Scope { faults: 3, epochs: 2, late: true, in_flight: true, ..ONE_COMMIT };
    caught(Line::new(scope), Mutant::LeaseKept, "one_writer");
}
