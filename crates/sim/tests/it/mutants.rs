//! Each rule that is taken away is noticed by an invariant, or stands in the list of those that are not.

use std::collections::BTreeSet;

use mainstay_sim::{Config, Mutation, Script, first_violation};

/// By drawn faults: the rule, the invariant that notices, and within how many seeds.
const BY_CHANCE: &[(&str, &str, u64)] = &[
    ("FollowAheadOfFork", "lineage", 50),
    ("NamesBeforeRecord", "order_law", 20),
    ("RecordBeforeNames", "order_law", 20),
    ("TimelineReused", "timelines", 100),
    ("ExpiryByMinority", "lease", 50),
    ("LoneIgnored", "nothing_acknowledged_lost", 300),
    ("OneReportSuffices", "nothing_acknowledged_lost", 400),
    ("NotTheFurthest", "nothing_acknowledged_lost", 400),
    ("VotersUnchecked", "primary_again", 100),
    ("NoClockMargin", "lease", 100),
    ("RenewedByOne", "lease", 50),
    ("GrantorForgetsRestart", "lease", 50),
    ("GrantorHurries", "lease", 100),
    ("StrayPrimaryTolerated", "no_write_without_lease", 200),
    ("FailedOpeningKept", "primary_again", 50),
    ("RecordNotRead", "lineage", 200),
    ("GateIgnored", "gate", 20),
    // A log that says it is synced, and is not, loses votes and entries that Raft relies on.
    ("SyncLies", "consensus", 100),
    ("WalreceiverLeftAlive", "nothing_acknowledged_lost", 400),
    ("DummiesNotWritten", "primary_again", 20),
    ("DummiesKept", "primary_again", 50),
    ("NamesNotProven", "order_law", 100),
    ("GateLeftOpen", "gate", 20),
    ("StandbySessionsSpared", "gate", 50),
    ("SessionsEndedLate", "gate", 50),
    ("HalfChangedStarted", "whole_directory", 200),
    ("GuardWithoutDeadline", "no_write_without_lease", 100),
    ("RemovedWhileItVotes", "members_settle", 300),
    ("RosterNotTold", "standbys_again", 700),
    ("LeftoversTolerated", "lease", 100),
    ("AddressesKept", "one_address", 100),
];

/// By a script, within 20 seeds.
const BY_SCRIPT: &[(&[&str], Script, &str)] = &[
    (&["FloorIgnored"], Script::LostBeforeAttached, "lineage"),
    (&["OpenUnchecked"], Script::PromotedByHandUnderGrant, "timelines"),
    (&["ScanKept"], Script::PromotedByHandWhenSealed, "lineage"),
    (&["PromiseNotPersisted"], Script::RenewedAfterRunOut, "lease"),
    (&["GrantorAnswersAfterRunOut"], Script::RenewedAfterRunOut, "lease"),
    (&["RunOutBeforeDurable"], Script::RenewedAfterRunOut, "lease"),
    // Either alone is made good by the other: a guard that lives knows that the lease has run out.
    (&["LateGrantHonoured", "PromiseNotPersisted"], Script::RenewedAtOldGuard, "lease"),
    (&["ReportBeforeSeal"], Script::EndedWhileFollowing, "nothing_acknowledged_lost"),
    (&["VoterWiped"], Script::VoterDiverges, "primary_again"),
    (&["IncarnationIgnored"], Script::VoterRestored, "nothing_acknowledged_lost"),
    (&["IncarnationKept"], Script::VoterRestored, "nothing_acknowledged_lost"),
    (&["DummiesAboveOnly"], Script::BackToCopy, "needless_clone"),
    (&["OlderNotAwaited"], Script::LaggardLeftAlone, "nothing_acknowledged_lost"),
    (&["LateSyncAccepted"], Script::ChangesComeLate, "order_law"),
    (&["LeaseCountedFromGrant"], Script::GrantHeldUp, "lease"),
    (&["LeaseKept"], Script::EndHeldUp, "lease"),
    (&["RelinquishIgnored"], Script::EndHeldUp, "lease"),
    (&["RewindUnmarked"], Script::KilledInRewind, "whole_directory"),
    (&["NotToldAgain"], Script::KilledBeforeTelling, "needless_clone"),
    (&["CutCountsAsStuck"], Script::LongCut, "needless_clone"),
    (&["ForcedWithAnyDirectory"], Script::ForcedThenRestored, "nothing_acknowledged_lost"),
    (&["ForcedInAnyEpoch"], Script::ForcedOnce, "nothing_acknowledged_lost"),
];

/// What nothing here notices, and why: second lines of defence, whose first line has to be gone as well.
const NOT_CAUGHT: &[(&str, &str)] = &[
    ("OldEpochTolerated", "the guard has ended every server of an epoch before that can be over"),
    (
        "SealNotDurable",
        "a member that was started anew follows nobody before it has read the record through a majority",
    ),
    (
        "ScanNotSynced",
        "a loss of power ends the lease as well, and the member reports anew before its next grant",
    ),
];

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn is_noticed(names: &[&str], script: Option<Script>, invariant: &str, seeds: u64) -> Result<(), String> {
    let mutations = names.iter().map(|name| Mutation::by_name(name).ok_or(format!("{name} is no mutation")));
    let mutations = mutations.collect::<Result<Vec<Mutation>, String>>()?;
    let config = Config { mutations, script, ..Config::default() };
    match first_violation(1, seeds, &config, threads(), Some(invariant)) {
        Some(_) => Ok(()),
        None => Err(format!("{names:?} was not noticed by {invariant} within {seeds} seeds")),
    }
}

#[test]
fn each_rule_that_is_taken_away_is_noticed_by_chance() {
    let missed = BY_CHANCE
        .iter()
        .filter_map(|(name, invariant, seeds)| is_noticed(&[name], None, invariant, *seeds).err());
    assert_eq!(missed.collect::<Vec<String>>(), Vec::<String>::new());
}

#[test]
fn each_rule_that_is_taken_away_is_noticed_by_its_script() {
    let missed = BY_SCRIPT
        .iter()
        .filter_map(|(names, script, invariant)| is_noticed(names, Some(*script), invariant, 20).err());
    assert_eq!(missed.collect::<Vec<String>>(), Vec::<String>::new());
}

#[test]
fn every_mutation_stands_in_one_list() {
    let by_chance = BY_CHANCE.iter().map(|(name, ..)| *name);
    let by_script = BY_SCRIPT.iter().map(|(names, ..)| names[0]);
    let listed = by_chance.chain(by_script).chain(NOT_CAUGHT.iter().map(|(name, _)| *name));
    let mut listed: Vec<String> = listed.map(str::to_owned).collect();
    listed.sort();
    let known: BTreeSet<String> = Mutation::all().into_iter().map(Mutation::name).collect();
    assert_eq!(listed, known.into_iter().collect::<Vec<String>>());
}
