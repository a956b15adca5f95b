//! Scenarios: one story in one file, in words that an operator uses.

mod addressed;
pub mod expect;
pub mod grow;
pub mod parse;
pub mod play;
mod proxied;

use std::fmt;
use std::time::Duration;

use crate::fault::Fault;
use crate::files::Plan;
use crate::journal::Rung;
use crate::pgbench::Load;

/// A file of the directory `scenarios`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// The file's name without its ending.
    pub name: String,
    /// As it is shown in errors.
    pub path: String,
    /// Why it exists: the comment at the top.
    pub why: String,
    /// Whether CI plays it.
    pub in_ci: bool,
    pub plan: Plan,
    /// How often the story is told.
    pub repeat: u32,
    pub steps: Vec<Step>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub line: usize,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    LoadPgbench(Load),
    /// A second client on a member's own node, which writes to its local server only.
    LocalClient {
        on: Target,
    },
    /// A switchover, if need be, so that the Raft leader is the primary, or is not.
    ArrangeLeader {
        on_primary: bool,
    },
    Fault {
        fault: Fault,
        targets: Vec<Target>,
    },
    /// No packet from one member reaches a port of another.
    ClosePort {
        port: u16,
        of: Target,
        from: Target,
    },
    /// Undo all faults, or those of one kind.
    Heal {
        fault: Option<Fault>,
    },
    /// Members whose process is gone; none named: all of those.
    Start {
        targets: Vec<Target>,
    },
    Switchover {
        to: Target,
    },
    /// A spare machine becomes a member, by a token of the cluster's `init`.
    Join {
        machine: Target,
        /// What the one line says with which it is refused; nothing of it is left then.
        refused: Option<String>,
    },
    /// A spare machine takes a member's place.
    Replace {
        old: Target,
        new: Target,
    },
    /// From now on every data member is asked for `/primary`, as a load balancer does.
    WatchPrimary,
    /// What an operator or a package asks of the service manager.
    Service {
        verb: ServiceVerb,
        targets: Vec<Target>,
    },
    /// What an operator types after `mainstay`; `{old}`, `{standby}` and the like stand for names.
    Command {
        /// Any member that lives, if none is named.
        on: Option<Target>,
        line: String,
        /// What the one line says with which it is refused; `None`: it is carried out.
        refused: Option<String>,
    },
    Sql {
        on: Target,
        statement: String,
        /// It may break what it runs on, and then has no answer.
        may_fail: bool,
    },
    Wait {
        duration: Duration,
    },
    Expect(Expectation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceVerb {
    /// Returns when the service is dead.
    Stop,
    /// Replaces the program, and tells the member to make way for it; returns when the new one is ready.
    Upgrade,
}

/// Who is meant. `old` and the standbys are those of the moment of the story's first event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Who is the primary now.
    Primary,
    Old,
    /// 1 is the first.
    Standby(usize),
    Standbys,
    Leader,
    All,
    Named(String),
}

/// What must be so. Times count from the last event.
#[derive(Clone, Debug, PartialEq)]
pub enum Expectation {
    /// The longest time without an acknowledgement since the last event.
    WriteGap {
        below: Duration,
    },
    /// The same over all events of the story.
    TotalGap {
        below: Duration,
    },
    PrimaryChanged(bool),
    PrimaryIs {
        target: Target,
        is: bool,
    },
    EpochChanged(bool),
    /// At most so many epochs since the story began.
    Epochs {
        most: u64,
    },
    Streaming {
        who: Target,
        within: Duration,
    },
    /// Since the first command of the cluster's founding: every machine of so few lines votes, and every standby streams.
    Founded {
        within: Duration,
        commands: u32,
    },
    /// No two members have called themselves the primary at the same time, and the old one said that it is none before another did.
    OnePrimaryEndpoint,
    /// Writes are acknowledged.
    Writes {
        within: Duration,
    },
    /// Nobody acknowledges a write for so long from now.
    NoWrites {
        duration: Duration,
    },
    /// No process of the old primary's PostgreSQL was left when the next one was promoted.
    Fenced,
    /// The client on the old primary's own node got no acknowledgement after the next epoch was opened.
    LocalSilent,
    /// The postmaster is the same process as before the first event.
    SamePostgres {
        on: Target,
    },
    /// Since the last event the service has said that it is ready.
    Ready {
        of: Target,
        within: Duration,
    },
    /// How the member's process ended last, in systemd's words, and has been started again since.
    Ended {
        of: Target,
        how: String,
        within: Duration,
    },
    /// No process of the member is left.
    NothingRuns {
        on: Target,
    },
    /// The clients have seen no error since the first event.
    NoErrors,
    /// Since the first event the clients have seen errors of these SQLSTATEs only.
    OnlyErrors {
        codes: Vec<String>,
    },
    /// Since the first event the client has not had to connect again.
    ConnectionsKept,
    /// Since the last event a SQL proxy has been started, and takes connections.
    SqlProxyRuns {
        of: Target,
        within: Duration,
    },
    /// The member has the virtual address.
    AddressAt {
        who: Target,
        within: Duration,
    },
    /// Since the last event the member's kernel has no virtual address any more.
    AddressLeft {
        who: Target,
        within: Duration,
    },
    /// The longest time without a holder since the last event.
    AddressGap {
        below: Duration,
    },
    /// At no moment since the story began two members had it.
    OneAddressHolder,
    /// Commits are acknowledged by the primary alone.
    Alone {
        within: Duration,
    },
    /// What is at risk is shown.
    AtRisk,
    Explain {
        on: Option<Target>,
        text: String,
        within: Duration,
    },
    Log {
        of: Target,
        text: String,
        within: Duration,
    },
    Rung {
        of: Target,
        rungs: Vec<Rung>,
    },
    /// The answer of SQL on one member.
    Answer {
        on: Target,
        statement: String,
        answer: String,
    },
    /// Every acknowledged row is there exactly once, and every member holds the same rows.
    NothingLost,
    /// An operator has accepted it: acknowledged rows are missing, none is there twice, and every member holds the same rows.
    SomeLost,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Primary => f.write_str("primary"),
            Target::Old => f.write_str("old"),
            Target::Standby(number) => write!(f, "standby-{number}"),
            Target::Standbys => f.write_str("standbys"),
            Target::Leader => f.write_str("leader"),
            Target::All => f.write_str("all"),
            Target::Named(name) => f.write_str(name),
        }
    }
}
