//! What the model remembers: the record, and of each member what matters for who may write.

use super::wal::{Content, Wal};

/// Members by number; 0 is the first primary.
pub(super) const MEMBERS: u8 = 3;
pub(super) const NOBODY: u8 = u8::MAX;
/// No number of a command, a record or a set.
pub(super) const NOTHING: u32 = u32::MAX;

/// Contents of WAL records: what the cluster was made with, commits, ends of recovery.
pub(super) const MADE: Content = 0;
pub(super) const FIRST_COMMIT: Content = 1;
pub(super) const MOST_COMMITS: u8 = 4;

/// The end-of-recovery record of an opening; no two openings write the same.
pub(super) fn end_of_recovery(epoch: u8) -> Content {
    assert!(epoch < 9, "the model's bounds are too wide");
    FIRST_COMMIT + MOST_COMMITS + epoch
}

/// The end-of-recovery record of a promotion by an outside hand.
pub(super) const STRAY: Content = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Touch {
    /// Sees what is committed and can propose.
    Full,
    /// What was committed reaches it late; the rest works.
    Lagging,
    /// Its process reaches nobody; its PostgreSQL may still stream.
    Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Server {
    /// The epoch under which it was opened last, 0 if under none.
    Down(u8),
    Standby,
    Opened(u8),
    /// Opened, past its deadline, and alive: the guard is frozen.
    Zombie(u8),
    /// Promoted by an outside hand.
    Stray,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lease {
    None,
    /// The deadline is in the future.
    Valid(u8),
    /// The deadline has passed; an answer that is under way may still move it.
    Lapsed(u8),
}

impl Lease {
    pub(super) fn epoch(self) -> u8 {
        match self {
            Lease::None => 0,
            Lease::Valid(epoch) | Lease::Lapsed(epoch) => epoch,
        }
    }
}

/// Work that has begun and goes on until it is done or other work takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Work {
    Nothing,
    Follow { member: u8, epoch: u8 },
    Rewind { member: u8, epoch: u8 },
    Clone { member: u8, epoch: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    /// Whether the machine runs.
    pub(super) up: bool,
    pub(super) touch: Touch,
    /// The record as applied here.
    pub(super) view: u32,
    /// Which life of the process this is: a grant that an earlier one asked for is void.
    pub(super) life: u8,
    pub(super) server: Server,
    pub(super) gate: bool,
    /// 0: there is no whole directory.
    pub(super) incarnation: u8,
    pub(super) newest_incarnation: u8,
    pub(super) wal: Wal,
    pub(super) sealed: u8,
    /// Whom the standby is told to stream from, and the epoch of that.
    pub(super) upstream: u8,
    pub(super) upstream_epoch: u8,
    /// Whether streaming works where it is allowed to.
    pub(super) link: bool,
    pub(super) scanned: bool,
    pub(super) work: Work,
    pub(super) lease: Lease,
    /// What PostgreSQL was told last, and what was proven effective.
    pub(super) told: u32,
    pub(super) proven: u32,
    /// Whether the proof is under way.
    pub(super) proving: bool,
    /// As the primary: which members have not streamed from here for long, one bit each.
    pub(super) lost: u8,
    pub(super) confirmed: u8,
    /// The epoch whose promotion made no progress here.
    pub(super) failed_open: u8,
}

impl Member {
    /// The epoch under which PostgreSQL is open here, the deadline past or not; 0 if it is not.
    pub(super) fn opened(&self) -> u8 {
        match self.server {
            Server::Opened(epoch) | Server::Zombie(epoch) => epoch,
            _ => 0,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.up && !matches!(self.server, Server::Down(_))
    }

    pub(super) fn stop_server(&mut self) {
        self.server = Server::Down(self.opened());
        self.gate = false;
        self.told = NOTHING;
        self.proven = NOTHING;
        self.proving = false;
    }

    /// Everything that only the process knew is gone.
    pub(super) fn forget(&mut self) {
        self.life += 1;
        self.scanned = false;
        self.work = Work::Nothing;
        self.proven = NOTHING;
        self.proving = false;
        self.lost = 0;
        self.confirmed = 0;
        self.failed_open = 0;
    }
}

/// What was spent of the model's bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Spent {
    pub(super) commits: u8,
    pub(super) faults: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) record: u32,
    pub(super) members: [Member; MEMBERS as usize],
    /// Commits that were acknowledged, or seen by somebody: one bit each.
    pub(super) kept: u8,
    /// Commits made under an epoch that was over and succeeded by another grant: never to be acknowledged.
    pub(super) late: u8,
    /// Proposals that may be committed any time later, and again.
    pub(super) in_flight: [u32; 2],
    /// Whether a majority of the voters says that the lease of the record's epoch has run out.
    pub(super) run_out: bool,
    pub(super) spent: Spent,
}

impl State {
    pub(super) fn member(&self, member: u8) -> &Member {
        &self.members[usize::from(member)]
    }

    pub(super) fn member_mut(&mut self, member: u8) -> &mut Member {
        &mut self.members[usize::from(member)]
    }

    /// Whether `standby` has its walreceiver pointed at the running server of `source`.
    pub(super) fn is_attached(&self, standby: u8, source: u8) -> bool {
        let (from, to) = (self.member(standby), self.member(source));
        from.is_running()
            && from.server == Server::Standby
            && from.upstream == source
            && from.link
            && to.is_running()
    }

    /// Whether it also receives.
    pub(super) fn is_streaming(&self, standby: u8) -> bool {
        let from = self.member(standby);
        from.upstream != NOBODY
            && self.is_attached(standby, from.upstream)
            && self.member(from.upstream).wal.lets_stream(from.wal)
    }
}
