//! Synchronous replication: who must have flushed a commit before it is acknowledged, and in which order
//! that may change.
//!
//! Two copies of the answer exist: the **names** that PostgreSQL on the primary acts on, and the record's **sync set**
//! that decides who may be promoted. The order law keeps them safe together: at every instant, for every value
//! P of the names that any process of the primary may still act on, P asks only voters of R, and at least R.k of them. Then
//! every acknowledged commit is on at least R.k of R's voters, so any |R.voters| − R.k + 1 of them have one
//! that holds it. With R.k = 0 only the last holder's own disk proves anything, so any names are safe.
//!
//! To ask more of a wider circle (`P.k − |P.voters ∖ R.voters| ≥ R.k`) would be enough if PostgreSQL moved from one
//! value to the next as a whole. It does not: each walsender that has read the new names counts by them, each other one
//! by the old, and how many are enough is what the one that looks has read. So of two values any mixture of voters and
//! k may be acted on; a mixture of values that keep this law keeps it too.
//!
//! A proposal to change the record may be committed late or twice, also after the process that made it has died. So
//! the names, too, are announced in the record before PostgreSQL is told, and every change carries the serial number
//! of what it was planned on: whatever is in flight, the names cannot have moved on without voiding it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::mutant::{Mutant, mutated};
use crate::vocabulary::{Incarnation, MemberId};

/// A sync voter: one life of one member's data directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Voter {
    pub member: MemberId,
    pub incarnation: Incarnation,
}

/// A commit is acknowledged once `k` of `voters` have flushed it; `k = 0` is **lone**: the primary alone.
///
/// Invariant: `k ≤ |voters|`, and `voters` is empty exactly when `k` is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SyncSet {
    pub voters: BTreeSet<Voter>,
    pub k: u32,
}

impl SyncSet {
    pub fn lone() -> SyncSet {
        SyncSet::default()
    }

    /// The set of `voters` with `wanted` acknowledgements, fewer if there are fewer voters.
    pub fn new(voters: impl IntoIterator<Item = Voter>, wanted: u32) -> SyncSet {
        let voters: BTreeSet<Voter> = voters.into_iter().collect();
        let k = wanted.min(u32::try_from(voters.len()).unwrap_or(u32::MAX));
        if k == 0 { SyncSet::lone() } else { SyncSet { voters, k } }
    }

    pub fn is_lone(&self) -> bool {
        self.k == 0
    }

    pub fn is_consistent(&self) -> bool {
        self.k as usize <= self.voters.len() && (self.k == 0) == self.voters.is_empty()
    }

    pub fn contains(&self, member: &MemberId) -> bool {
        self.voters.iter().any(|voter| &voter.member == member)
    }

    /// How many of the voters must report before the furthest of them holds every acknowledged commit.
    pub fn reports_needed(&self) -> usize {
        (self.voters.len() + 1).saturating_sub(self.k as usize)
    }
}

/// How many acknowledgements the configuration asks for: half the data members, at least one, none alone.
pub fn wanted_acknowledgements(data_members: usize) -> u32 {
    match data_members {
        0 | 1 => 0,
        n => u32::try_from(n / 2).unwrap_or(u32::MAX),
    }
}

/// The order law for one value of the names and one of the record.
pub fn is_safe(names: &SyncSet, record: &SyncSet) -> bool {
    let strangers = names.voters.difference(&record.voters).count();
    if mutated(Mutant::MixtureIgnored) && names.k as usize >= record.k as usize + strangers {
        return true;
    }
    record.is_lone() || strangers == 0 && names.k >= record.k
}

/// One step of a change; each is complete (the names effective, the record committed) before the next is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Names and record are as wanted.
    Done,
    /// Write these names, prove them effective, and wait until k of them have flushed everything inserted by then.
    Names(SyncSet),
    /// Commit this sync set, and the names that PostgreSQL is to be told next.
    Record { sync: SyncSet, names: SyncSet },
}

/// The next step towards `target`, from the sync set and names that the record shows.
///
/// `proven` are the names that are known to be effective; `None` while a change of them is under way, and after a
/// restart of the member: then any value that the record ever announced may still be acted on, each of them safe
/// against the sync set.
pub fn plan(proven: Option<&SyncSet>, sync: &SyncSet, names: &SyncSet, target: &SyncSet) -> Step {
    if mutated(Mutant::NamesBeforeRecord) && proven != Some(target) {
        return Step::Names(target.clone());
    }
    let effective = proven == Some(names) || mutated(Mutant::RecordBeforeNames);
    if sync == target && names == target {
        return if effective { Step::Done } else { Step::Names(names.clone()) };
    }
    // What every acknowledged commit is known to have been flushed by.
    let assured = if effective { names } else { sync };
    if is_safe(assured, target) {
        return Step::Record { sync: target.clone(), names: target.clone() };
    }
    if is_safe(target, sync) {
        return if names == target {
            Step::Names(target.clone())
        } else {
            Step::Record { sync: sync.clone(), names: target.clone() }
        };
    }
    // Neither may move alone (one voter replaced by another, or both voters and k changed): the proof goes by both until
    // the names have moved.
    let both =
        SyncSet { voters: sync.voters.union(&target.voters).cloned().collect(), k: sync.k.min(target.k) };
    Step::Record { sync: both, names: target.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn set(names: &[&str], k: u32) -> SyncSet {
        let voter = |name: &&str| Voter { member: MemberId::new(name).unwrap(), incarnation: Incarnation(1) };
        SyncSet { voters: names.iter().map(voter).collect(), k }
    }

    /// Every set over five voters, lone included.
    fn all_sets() -> Vec<SyncSet> {
        let names = ["a", "b", "c", "d"];
        let mut sets = vec![SyncSet::lone()];
        for mask in 1u32..16 {
            let chosen: Vec<&str> = names
                .iter()
                .enumerate()
                .filter(|(i, _)| mask & (1 << i) != 0)
                .map(|(_, name)| *name)
                .collect();
            for k in 1..=u32::try_from(chosen.len()).unwrap() {
                sets.push(set(&chosen, k));
            }
        }
        sets
    }

    /// Walks from anywhere to `target`; every value that PostgreSQL may act on is held against the sync set.
    fn walk(start: (Option<SyncSet>, SyncSet, SyncSet), told: Vec<SyncSet>, target: &SyncSet) {
        let (mut proven, mut sync, mut names) = start;
        let mut acted_on = told;
        for step in 0.. {
            assert!(step <= 6, "does not arrive at {target:?}: {proven:?} {sync:?} {names:?}");
            for value in &acted_on {
                assert!(is_safe(value, &sync), "{value:?} against {sync:?}");
            }
            match plan(proven.as_ref(), &sync, &names, target) {
                Step::Done => break,
                Step::Names(next) => {
                    assert_eq!(next, names, "PostgreSQL is told only what the record says");
                    acted_on.push(next.clone());
                    for value in &acted_on {
                        assert!(is_safe(value, &sync), "{value:?} against {sync:?}");
                    }
                    // While they are being proven the same step is asked for, or the record moves.
                    if let Step::Names(again) = plan(None, &sync, &names, target) {
                        assert_eq!(again, next);
                    }
                    acted_on = vec![next.clone()];
                    proven = Some(next);
                }
                Step::Record { sync: next_sync, names: next_names } => {
                    assert!(next_sync.is_consistent() && next_names.is_consistent());
                    assert!(is_safe(&names, &next_sync) && is_safe(&next_names, &next_sync));
                    (sync, names) = (next_sync, next_names);
                }
            }
        }
        assert_eq!((&sync, &names, proven.as_ref()), (target, target, Some(target)));
    }

    #[test]
    fn every_change_arrives_and_is_safe_at_every_step() {
        let sets = all_sets();
        for from in &sets {
            for target in &sets {
                walk((Some(from.clone()), from.clone(), from.clone()), vec![from.clone()], target);
            }
        }
    }

    #[test]
    fn a_change_that_was_interrupted_anywhere_still_arrives() {
        let sets = all_sets();
        for names in &sets {
            for sync in sets.iter().filter(|sync| is_safe(names, sync)) {
                for target in sets.iter().step_by(3) {
                    let told = vec![names.clone(), sync.clone()];
                    walk((Some(names.clone()), sync.clone(), names.clone()), vec![names.clone()], target);
                    walk((None, sync.clone(), names.clone()), told, target);
                }
            }
        }
    }

    #[test]
    fn removing_waits_for_postgresql_and_adding_does_not() {
        let (bc, c) = (set(&["b", "c"], 1), set(&["c"], 1));
        let announced = Step::Record { sync: bc.clone(), names: c.clone() };
        assert_eq!(plan(Some(&bc), &bc, &bc, &c), announced);
        assert_eq!(plan(Some(&bc), &bc, &c, &c), Step::Names(c.clone()));
        assert_eq!(plan(Some(&c), &bc, &c, &c), Step::Record { sync: c.clone(), names: c.clone() });
        assert_eq!(plan(Some(&c), &c, &c, &bc), Step::Record { sync: bc.clone(), names: bc.clone() });
        assert_eq!(plan(Some(&c), &bc, &bc, &bc), Step::Names(bc));
    }

    #[test]
    fn going_lone_starts_in_the_record_and_coming_back_in_postgresql() {
        let (b, lone) = (set(&["b"], 1), SyncSet::lone());
        assert_eq!(plan(Some(&b), &b, &b, &lone), Step::Record { sync: lone.clone(), names: lone.clone() });
        assert_eq!(plan(None, &b, &b, &lone), Step::Record { sync: lone.clone(), names: lone.clone() });
        assert_eq!(
            plan(Some(&lone), &lone, &lone, &b),
            Step::Record { sync: lone.clone(), names: b.clone() }
        );
        assert_eq!(plan(Some(&lone), &lone, &b, &b), Step::Names(b.clone()));
        assert_eq!(plan(Some(&b), &lone, &b, &b), Step::Record { sync: b.clone(), names: b });
    }

    /// While walsenders read the new names, one that has not counts a voter that is not of them any more, and one that has
    /// is content with a single flush: that of the former voter. Found by the model check.
    #[test]
    fn voters_and_k_do_not_change_at_once() {
        let (bc, b) = (set(&["b", "c"], 2), set(&["b"], 1));
        let both = set(&["b", "c"], 1);
        assert!(!is_safe(&bc, &b));
        assert_eq!(plan(Some(&bc), &bc, &bc, &b), Step::Record { sync: both.clone(), names: b.clone() });
        assert_eq!(plan(Some(&b), &b, &b, &bc), Step::Record { sync: both, names: bc });
    }

    #[test]
    fn replacing_goes_through_both() {
        let (b, c) = (set(&["b"], 1), set(&["c"], 1));
        assert_eq!(plan(Some(&b), &b, &b, &c), Step::Record { sync: set(&["b", "c"], 1), names: c });
    }

    /// After a restart with every voter lost, the only standby left could not become one: its names were never provable.
    #[test]
    fn a_new_voter_joins_although_the_old_names_can_not_be_proven() {
        let (bc, d) = (set(&["b", "c"], 1), set(&["d"], 1));
        assert_eq!(plan(None, &bc, &bc, &d), Step::Record { sync: set(&["b", "c", "d"], 1), names: d });
    }

    #[test]
    fn acknowledgements_are_half_the_data_members() {
        let wanted: Vec<u32> = (0..=5).map(wanted_acknowledgements).collect();
        assert_eq!(wanted, [0, 0, 1, 1, 2, 2]);
    }
}
