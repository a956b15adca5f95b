//! Everything that can happen.

use std::collections::BTreeMap;
use std::rc::Rc;

use mainstay_consensus::Outgoing;
use mainstay_core::lease::Answer;
use mainstay_core::view::MemberState;
use mainstay_core::{Epoch, MemberId, Now};

use crate::fault::Fault;
use crate::guard::{GuardRequest, GuardWord};
use crate::machine::Process;
use crate::wal::Tip;

/// A process's life: what was meant for an earlier one never reaches its successor.
pub(crate) type Life = u32;

pub(crate) enum Event {
    /// The init system starts the member.
    StartMember {
        machine: usize,
    },
    Member {
        machine: usize,
        life: Life,
        what: MemberEvent,
    },
    /// From another member, to whichever life is there.
    Message {
        from: usize,
        /// The replica that it was then.
        sender: u64,
        to: usize,
        body: Rc<Message>,
    },
    Guard {
        machine: usize,
        life: Life,
        what: GuardEvent,
    },
    Server {
        machine: usize,
        life: Life,
        what: ServerEvent,
    },
    Kernel {
        machine: usize,
        what: KernelEvent,
    },
    Client {
        client: usize,
        token: u32,
        what: ClientEvent,
    },
    Fault(Fault),
    /// The observer looks at what needs no event to go wrong.
    Inspect,
}

pub(crate) enum Message {
    Raft(Vec<u8>),
    Renew {
        epoch: Epoch,
        sent: Now,
    },
    Renewed {
        epoch: Epoch,
        sent: Now,
        answer: Answer,
    },
    AskRunOut {
        epoch: Epoch,
    },
    RunOut {
        epoch: Epoch,
        over: bool,
    },
    Gossip(MemberState),
    /// To one that knows of fewer members: those there are, and how many ids were given by then.
    Roster {
        ids_given: u64,
        roster: BTreeMap<MemberId, u64>,
    },
}

pub(crate) enum MemberEvent {
    /// Every 100 ms of its clock.
    Tick,
    Decide,
    RaftTick,
    /// Written; the messages leave.
    RaftSend(Vec<Outgoing>),
    RaftReopen,
    Observe,
    GossipTick,
    RenewTick,
    LeaseCheck,
    PromiseDurable(Epoch),
    SerialDurable(u64),
    /// The job in a lane goes on.
    Step {
        lane: usize,
        serial: u64,
    },
    GuardSays(GuardWord),
    GuardAnswers {
        request: u64,
        result: Result<(), String>,
    },
    GuardDied {
        life: Life,
    },
    /// The process that holds the virtual address has taken it away.
    AddressLetGo(Epoch),
    /// The member tries to reach its guard, or starts one.
    ConnectGuard,
}

pub(crate) enum GuardEvent {
    Request {
        from: Life,
        number: u64,
        request: GuardRequest,
    },
    Alarm,
    /// The time for a fast stop of this server is over.
    StopTooSlow {
        server: Life,
    },
    /// The pidfd of the postmaster became readable.
    PostmasterDied {
        server: Life,
    },
    /// Nothing of the server is left.
    Gone {
        server: Life,
    },
}

/// What no process does and no stop signal delays.
pub(crate) enum KernelEvent {
    /// The kill reaches the processes: none executes any more.
    Struck {
        server: Life,
    },
    /// The last process is gone.
    Gone {
        server: Life,
    },
    /// A backend that outlived its postmaster finds out.
    OrphansDie {
        server: Life,
    },
    Boot,
}

pub(crate) enum ServerEvent {
    Started,
    Reload,
    /// The checkpointer comes round to the reload.
    CheckpointerReload,
    FlushDone {
        tip: Tip,
    },
    Promote,
    Promoted,
    CheckpointDone,
    /// The startup process wants a walreceiver.
    Connect,
    Connected {
        connection: u64,
    },
    /// SIGTERM.
    EndWalreceiver,
    Received {
        connection: u64,
        tip: Tip,
    },
    ReceivedFlushed {
        connection: u64,
        tip: Tip,
    },
    Reply {
        connection: u64,
        flushed: mainstay_core::Lsn,
    },
    /// A walsender that was held up goes on.
    WalsenderGoesOn {
        connection: u64,
    },
    /// The other end closed it.
    Closed {
        connection: u64,
    },
    /// Keepalives and timeouts of a connection.
    Keepalive {
        connection: u64,
    },
    Accept {
        client: usize,
        token: u32,
    },
    Authenticated {
        session: u64,
    },
    Commit {
        session: u64,
        transaction: u32,
    },
    Look {
        session: u64,
    },
    FastStop,
}

pub(crate) enum ClientEvent {
    Act,
    Refused,
    Welcome {
        session: u64,
    },
    Committed {
        transaction: u32,
    },
    ReadOnly,
    Lost,
    /// It has waited for long enough.
    Impatient {
        wait: u64,
    },
}

impl Event {
    /// Which process must run for it to happen, and on which machine.
    pub(crate) fn addressee(&self) -> Option<(usize, Process)> {
        match self {
            Event::Member { machine, .. } | Event::Message { to: machine, .. } => {
                Some((*machine, Process::Member))
            }
            Event::Guard { machine, .. } => Some((*machine, Process::Guard)),
            Event::Server { machine, .. } => Some((*machine, Process::Server)),
            _ => None,
        }
    }

    /// On which machine it happens.
    pub(crate) fn place(&self) -> Option<usize> {
        match self {
            Event::StartMember { machine } | Event::Kernel { machine, .. } => Some(*machine),
            _ => self.addressee().map(|(machine, _)| machine),
        }
    }
}
