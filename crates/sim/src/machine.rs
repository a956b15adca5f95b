//! One machine: a clock, a disk, and the processes on it.

use std::collections::VecDeque;

use mainstay_consensus::sim_disk::SimDisk;
use mainstay_core::record::Kind;
use mainstay_core::{Epoch, MemberId, Now};

use crate::clock::Clock;
use crate::disk::{Directory, Disk, Files};
use crate::event::Event;
use crate::guard::Guard;
use crate::member::Member;
use crate::postgres::Server;
use crate::queue::Time;

/// What can be stopped and continued (SIGSTOP, SIGCONT) by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Process {
    Member,
    Guard,
    Server,
}

impl Process {
    pub(crate) const ALL: [Process; 3] = [Process::Member, Process::Guard, Process::Server];

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

pub(crate) struct Machine {
    pub(crate) id: MemberId,
    pub(crate) kind: Kind,
    pub(crate) clock: Clock,
    pub(crate) powered: bool,
    /// The whole machine stands still; its clock goes on.
    pub(crate) suspended: bool,
    /// What happened meanwhile.
    pub(crate) while_suspended: VecDeque<Event>,
    pub(crate) stopped: [bool; 3],
    /// What waits for a stopped process.
    pub(crate) inbox: [VecDeque<Event>; 3],
    /// Since when by its own clock.
    pub(crate) stopped_at: [Now; 3],
    pub(crate) disk: Disk,
    pub(crate) files: Files,
    pub(crate) data: Directory,
    /// As which replica of the log it belongs to the cluster, if it does.
    pub(crate) raft_id: Option<u64>,
    /// What proves that it is itself; another one after each time that it was cleared away.
    pub(crate) key: String,
    pub(crate) raft_disk: SimDisk,
    pub(crate) member: Option<Box<Member>>,
    pub(crate) guard: Option<Guard>,
    pub(crate) server: Option<Server>,
    /// The epoch under which its kernel has the virtual address, and until when by its own clock.
    pub(crate) address: Option<(Epoch, Now)>,
    /// Until when the guard may be late: it was not running, or has just been continued.
    pub(crate) guard_excused_until: Time,
    /// Since when nothing has been done to this machine or to its links; for the checkers.
    pub(crate) disturbed_at: Time,
}

impl Machine {
    pub(crate) fn new(id: MemberId, kind: Kind, clock: Clock) -> Machine {
        Machine {
            id,
            kind,
            clock,
            powered: true,
            suspended: false,
            while_suspended: VecDeque::new(),
            stopped: [false; 3],
            inbox: Default::default(),
            stopped_at: [Now(0); 3],
            disk: Disk::default(),
            files: Files::default(),
            data: Directory::default(),
            raft_id: None,
            key: String::new(),
            raft_disk: SimDisk::new(),
            member: None,
            guard: None,
            server: None,
            address: None,
            guard_excused_until: 0,
            disturbed_at: 0,
        }
    }

    pub(crate) fn now(&self, real: Time) -> Now {
        self.clock.now(real)
    }

    /// Whether nothing of Mainstay or PostgreSQL is there, running or not.
    pub(crate) fn is_idle(&self) -> bool {
        self.member.is_none() && self.guard.is_none() && self.server.is_none()
    }

    /// Whether the process would run if it existed.
    pub(crate) fn runs(&self, process: Process) -> bool {
        self.powered && !self.suspended && !self.stopped[process.index()]
    }

    /// The server, if its processes run.
    pub(crate) fn live_server(&self) -> Option<&Server> {
        self.server.as_ref().filter(|server| server.executing && self.runs(Process::Server))
    }
}
