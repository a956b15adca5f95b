//! The history of the data: which timelines the cluster accepted, and how far a directory agrees with them.
//!
//! PostgreSQL's own comparisons look at bare WAL positions. A follower that is *ahead of the fork* then
//! acknowledges commits that it does not have, and a member that was promoted by an outside hand passes for a
//! follower. So positions are compared along the lineage, never as bare numbers across timelines.

use serde::{Deserialize, Serialize};

use crate::mutant::{Mutant, mutated};
use crate::vocabulary::{Lsn, Timeline};

/// Where a timeline begins. Timeline 1 begins at 0; every other one begins where it left its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fork {
    pub timeline: Timeline,
    pub begin: Lsn,
}

/// A chain of timelines, oldest first, each leaving the one before it at its `begin`.
pub type History = Vec<Fork>;

/// What a directory holds: its own history and the end of its last valid record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    pub history: History,
    pub end: Lsn,
}

impl Extent {
    pub fn timeline(&self) -> Timeline {
        self.history.last().map_or(Timeline(0), |fork| fork.timeline)
    }
}

/// How a directory stands to the cluster's lineage.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Standing {
    /// Everything of the lineage before this position is in the directory, and nothing of it after.
    pub position: Lsn,
    pub beyond: Beyond,
}

/// What a directory holds behind the position at which it leaves the lineage.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Beyond {
    /// Nothing: it is a prefix of the lineage and may follow.
    Nothing,
    /// It goes on behind the lineage's newest timeline, on timelines that the lineage does not have (yet).
    Extension { timelines: Vec<Timeline> },
    /// WAL that the lineage abandoned: it must be rewound or cloned before it may follow.
    Diverged { timeline: Timeline, bytes: u64 },
    /// Not one timeline in common: another cluster's history.
    Unrelated,
}

impl Standing {
    pub fn may_follow(&self) -> bool {
        self.beyond == Beyond::Nothing || mutated(Mutant::FollowAheadOfFork)
    }
}

/// Compares a directory with the lineage.
pub fn compare(lineage: &[Fork], local: &Extent) -> Standing {
    let common = lineage.iter().zip(&local.history).take_while(|(ours, theirs)| ours == theirs).count();
    if common == 0 {
        return Standing { position: Lsn::ZERO, beyond: Beyond::Unrelated };
    }
    let lineage_leaves = lineage.get(common).map(|fork| fork.begin);
    let local_leaves = local.history.get(common).map(|fork| fork.begin);
    let local_end_here = local_leaves.unwrap_or(local.end);
    let position = lineage_leaves.map_or(local_end_here, |at| at.min(local_end_here));
    let beyond = match (lineage_leaves, local_leaves) {
        (None, None) => Beyond::Nothing,
        (None, Some(_)) => Beyond::Extension {
            timelines: local.history[common..].iter().map(|fork| fork.timeline).collect(),
        },
        (Some(at), None) if local.end <= at => Beyond::Nothing,
        (Some(_), _) => {
            Beyond::Diverged { timeline: local.timeline(), bytes: local.end.bytes_ahead_of(position) }
        }
    };
    Standing { position, beyond }
}

/// Whether `newer` goes on where `older` ends: the same chain with more timelines behind it.
pub fn extends(older: &[Fork], newer: &[Fork]) -> bool {
    newer.len() > older.len()
        && newer.starts_with(older)
        && newer.windows(2).all(|pair| pair[0].timeline < pair[1].timeline && pair[0].begin <= pair[1].begin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fork(timeline: u32, begin: u64) -> Fork {
        Fork { timeline: Timeline(timeline), begin: Lsn(begin) }
    }

    fn extent(history: &[Fork], end: u64) -> Extent {
        Extent { history: history.to_vec(), end: Lsn(end) }
    }

    #[test]
    fn a_prefix_may_follow_up_to_the_fork_itself() {
        let lineage = [fork(1, 0), fork(2, 100)];
        for end in [10, 100] {
            let standing = compare(&lineage, &extent(&[fork(1, 0)], end));
            assert_eq!(standing, Standing { position: Lsn(end), beyond: Beyond::Nothing });
        }
    }

    #[test]
    fn one_byte_past_the_fork_has_diverged() {
        let lineage = [fork(1, 0), fork(2, 100)];
        let standing = compare(&lineage, &extent(&[fork(1, 0)], 101));
        assert_eq!(standing.position, Lsn(100));
        assert_eq!(standing.beyond, Beyond::Diverged { timeline: Timeline(1), bytes: 1 });
        assert!(!standing.may_follow());
    }

    #[test]
    fn the_same_number_with_another_beginning_is_another_timeline() {
        let lineage = [fork(1, 0), fork(2, 100)];
        let standing = compare(&lineage, &extent(&[fork(1, 0), fork(2, 90)], 150));
        assert_eq!(standing.position, Lsn(90));
        assert_eq!(standing.beyond, Beyond::Diverged { timeline: Timeline(2), bytes: 60 });
    }

    #[test]
    fn a_timeline_that_nobody_opened_is_an_extension() {
        let lineage = [fork(1, 0), fork(2, 100)];
        let standing = compare(&lineage, &extent(&[fork(1, 0), fork(2, 100), fork(3, 120)], 130));
        assert_eq!(standing.position, Lsn(120));
        assert_eq!(standing.beyond, Beyond::Extension { timelines: vec![Timeline(3)] });
    }

    #[test]
    fn another_cluster_has_nothing_in_common() {
        let standing = compare(&[fork(1, 0)], &extent(&[fork(4, 7)], 9));
        assert_eq!(standing.beyond, Beyond::Unrelated);
    }

    #[test]
    fn an_opening_must_extend_what_was_accepted() {
        let older = [fork(1, 0), fork(2, 100)];
        assert!(extends(&older, &[fork(1, 0), fork(2, 100), fork(4, 120)]));
        assert!(!extends(&older, &[fork(1, 0), fork(4, 120)]));
        assert!(!extends(&older, &older));
        assert!(!extends(&older, &[fork(1, 0), fork(2, 100), fork(4, 90)]));
    }
}
