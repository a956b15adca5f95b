//! Each rule that is taken away is noticed by an invariant, or stands in the list of those that are not.

use std::collections::BTreeSet;

use mainstay_sim::{Config, Mutation, first_violation};

/// Mutation, the invariant that notices, and within how many seeds.
const CAUGHT: &[(&str, &str, u64)] = &[
    ("FollowAheadOfFork", "lineage", 100),
    ("NamesBeforeRecord", "order_law", 20),
    ("RecordBeforeNames", "order_law", 20),
    ("TimelineReused", "primary_again", 100),
    ("ExpiryByMinority", "lease", 50),
    ("LoneIgnored", "nothing_acknowledged_lost", 300),
    ("OneReportSuffices", "nothing_acknowledged_lost", 400),
    ("NotTheFurthest", "nothing_acknowledged_lost", 300),
    ("VotersUnchecked", "primary_again", 100),
    ("NoClockMargin", "lease", 100),
    ("RenewedByOne", "lease", 50),
    ("GrantorHurries", "lease", 100),
    ("StrayPrimaryTolerated", "no_write_without_lease", 200),
    ("GateIgnored", "gate", 20),
    ("WalreceiverLeftAlive", "nothing_acknowledged_lost", 400),
    ("DummiesNotWritten", "primary_again", 20),
    ("DummiesKept", "primary_again", 100),
    ("NamesNotProven", "order_law", 50),
    ("GateLeftOpen", "gate", 20),
    ("StandbySessionsSpared", "gate", 50),
    ("SessionsEndedLate", "gate", 50),
    ("HalfChangedStarted", "whole_directory", 200),
    ("GuardWithoutDeadline", "no_write_without_lease", 100),
    ("LeftoversTolerated", "lease", 100),
    // A log that says it is synced, and is not, loses votes and entries that Raft relies on.
    ("SyncLies", "consensus_directory", 200),
    ("LeaseCountedFromGrant", "lease", 800),
    ("RelinquishIgnored", "lease", 800),
];

/// What no schedule here has noticed yet.
const NOT_CAUGHT: &[(&str, &str)] = &[
    ("LateSyncAccepted", "no schedule yet"),
    ("OpenUnchecked", "no schedule yet"),
    ("FloorIgnored", "no schedule yet"),
    ("IncarnationIgnored", "no schedule yet"),
    ("VoterWiped", "no schedule yet"),
    ("GrantorForgetsRestart", "no schedule yet"),
    ("PromiseNotPersisted", "no schedule yet"),
    ("GrantorAnswersAfterRunOut", "no schedule yet"),
    ("OldEpochTolerated", "no schedule yet"),
    ("LeaseKept", "no schedule yet"),
    ("FailedOpeningKept", "no schedule yet"),
    ("ReportBeforeSeal", "no schedule yet"),
    ("RecordNotRead", "no schedule yet"),
    ("SealNotDurable", "no schedule yet"),
    ("ScanNotSynced", "no schedule yet"),
    ("ScanKept", "no schedule yet"),
    ("DummiesAboveOnly", "no schedule yet"),
    ("OlderNotAwaited", "no schedule yet"),
    ("RewindUnmarked", "no schedule yet"),
    ("IncarnationKept", "no schedule yet"),
    ("LateGrantHonoured", "no schedule yet"),
    ("RunOutBeforeDurable", "no schedule yet"),
    ("CutCountsAsStuck", "no schedule yet"),
    ("NotToldAgain", "no schedule yet"),
];

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn is_noticed(name: &str, invariant: &str, seeds: u64) -> Result<(), String> {
    let mutation = Mutation::by_name(name).ok_or(format!("{name} is no mutation"))?;
    let config = Config { mutations: vec![mutation], ..Config::default() };
    match first_violation(1, seeds, &config, threads(), Some(invariant)) {
        Some(_) => Ok(()),
        None => Err(format!("{name} was not noticed by {invariant} within {seeds} seeds")),
    }
}

#[test]
fn each_rule_that_is_taken_away_is_noticed() {
    let missed: Vec<String> = CAUGHT
        .iter()
        .filter_map(|(name, invariant, seeds)| is_noticed(name, invariant, *seeds).err())
        .collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn every_mutation_stands_in_one_list() {
    let listed: Vec<&str> =
        CAUGHT.iter().map(|(name, ..)| *name).chain(NOT_CAUGHT.iter().map(|(name, _)| *name)).collect();
    let known: BTreeSet<String> = Mutation::all().into_iter().map(Mutation::name).collect();
    assert_eq!(listed.iter().map(ToString::to_string).collect::<BTreeSet<String>>(), known);
    assert_eq!(listed.len(), known.len());
}
