//! The states of the order law's model.

use std::fmt;

use super::postgres::{Process, Processes};

/// At most so many standbys.
pub(super) const STANDBYS: usize = 3;

/// A sync set: the voters, one bit each, and how many of them must have flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Set {
    pub(super) voters: u8,
    pub(super) k: u8,
}

impl Set {
    pub(super) fn has(self, standby: usize) -> bool {
        self.voters & (1 << standby) != 0
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let voters = ["b", "c", "d"].iter().enumerate().filter(|(standby, _)| self.has(*standby));
        let voters: Vec<&str> = voters.map(|(_, name)| *name).collect();
        write!(f, "{}({})", self.k, voters.join(","))
    }
}

/// How the member proves that names are effective; all but the first are mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Full,
    /// A new connection shows them.
    NewConnection,
    /// The checkpointer is not looked at.
    WithoutCheckpointer,
    /// What was inserted until then is not waited for.
    WithoutFlush,
}

#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// 1 to 3, and the primary: how many acknowledgements are wanted follows from their number.
    pub standbys: u8,
    /// Proposals under way at once, 0 to 2.
    pub in_flight: u8,
    /// Whether walsenders end and begin; without them it does not matter when the postmaster reads.
    pub reconnects: bool,
    pub proof: Proof,
}

/// A change of the record as proposed, and whether its serial is the record's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Proposal {
    pub(super) sync: Set,
    pub(super) names: Set,
    pub(super) current: bool,
}

/// The member's work on the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Job {
    Nothing,
    /// They are written; whose process acts on them is being looked at.
    Moving(Set),
    /// They are effective; what was inserted until then is being flushed.
    Flushing(Set),
}

/// Positions in the log; only their order means anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Positions {
    pub(super) flushed: [u8; STANDBYS],
    /// Everything before it was acknowledged to somebody.
    pub(super) acknowledged: u8,
    pub(super) inserted: u8,
    /// What must be flushed before the names count as proven; 0 if nothing.
    pub(super) awaited: u8,
}

impl Positions {
    /// The same order with the least numbers.
    pub(super) fn ranked(&mut self) {
        let Positions { flushed: [b, c, d], acknowledged, inserted, awaited } = *self;
        let mut all = [0, b, c, d, acknowledged, inserted, awaited];
        all.sort_unstable();
        let rank = |of: u8| (1..all.len()).filter(|at| all[*at] != all[at - 1] && all[*at] <= of).count();
        let rank = |of: u8| u8::try_from(rank(of)).expect("below 7");
        *self = Positions {
            flushed: [rank(b), rank(c), rank(d)],
            acknowledged: rank(acknowledged),
            inserted: rank(inserted),
            awaited: rank(awaited),
        };
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The record.
    pub(super) sync: Set,
    pub(super) names: Set,
    /// What the member has seen of it, and whether that is the newest.
    pub(super) seen: Proposal,
    pub(super) in_flight: [Option<Proposal>; 2],
    pub(super) proven: Option<Set>,
    pub(super) job: Job,
    pub(super) processes: Processes,
    pub(super) positions: Positions,
}

#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// The member writes these names for PostgreSQL.
    Writes(u8, u8),
    /// What the member proposes is committed, and it sees that.
    Commits,
    /// What the member proposes is under way.
    Proposes,
    /// What was under way is committed, and may be once more.
    CommittedLate,
    Lost,
    Sees,
    Restarts,
    Effective,
    Proven,
    /// A process reads the names anew.
    Reads(Process),
    Connects(usize),
    Disconnects(usize),
    Flushes(usize),
    ClientCommits,
}

impl State {
    pub(super) fn renamed(&self, renaming: &[usize; STANDBYS]) -> State {
        let set = |of: Set| Set {
            voters: (0..STANDBYS).filter(|at| of.has(*at)).fold(0, |bits, at| bits | (1 << renaming[at])),
            k: of.k,
        };
        let proposal = |of: Proposal| Proposal { sync: set(of.sync), names: set(of.names), ..of };
        let mut in_flight = self.in_flight.map(|slot| slot.map(proposal));
        in_flight.sort_unstable();
        let mut flushed = [0; STANDBYS];
        for (at, place) in renaming.iter().enumerate() {
            flushed[*place] = self.positions.flushed[at];
        }
        State {
            sync: set(self.sync),
            names: set(self.names),
            seen: proposal(self.seen),
            in_flight,
            proven: self.proven.map(set),
            job: match self.job {
                Job::Nothing => Job::Nothing,
                Job::Moving(names) => Job::Moving(set(names)),
                Job::Flushing(names) => Job::Flushing(set(names)),
            },
            processes: self.processes.renamed(renaming, set),
            positions: Positions { flushed, ..self.positions },
        }
    }
}
