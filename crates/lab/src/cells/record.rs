//! What a session of a cell is, and what it has seen.

use mainstay_core::Now;

use super::form::Statement;
use super::wire::{Answer, Failure};

/// In which state the fault finds a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// It has done something, and asks again once there is a primary.
    Idle,
    /// It begins its next transaction while there is no primary.
    Between,
    /// It has written in a transaction, and asks again once there is a primary.
    InTransaction,
    /// A statement of its transaction is under way.
    Running,
    /// A write outside of a transaction is.
    Autocommit,
    /// A commit is.
    Commit,
    /// It has a temporary table.
    Tied,
    /// One write after the other.
    WriteLoop,
    /// One transaction after the other.
    TransactionLoop,
}

impl Role {
    pub(super) const ALL: [Role; 9] = [
        Role::Idle,
        Role::Between,
        Role::InTransaction,
        Role::Running,
        Role::Autocommit,
        Role::Commit,
        Role::Tied,
        Role::WriteLoop,
        Role::TransactionLoop,
    ];

    pub(super) fn words(self) -> &'static str {
        match self {
            Role::Idle => "idle",
            Role::Between => "between transactions",
            Role::InTransaction => "in a transaction",
            Role::Running => "statement of a transaction under way",
            Role::Autocommit => "autocommit write under way",
            Role::Commit => "COMMIT under way",
            Role::Tied => "with a temporary table",
            Role::WriteLoop => "writing",
            Role::TransactionLoop => "transactions",
        }
    }

    /// Whether its statement sleeps in the server when the fault hits.
    pub(super) fn sleeps(self) -> bool {
        matches!(self, Role::Running | Role::Autocommit | Role::Commit)
    }
}

/// What an answer is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Begin,
    /// Of a transaction.
    Statement,
    Commit,
    /// A write outside of a transaction.
    Autocommit,
    Read,
    Rollback,
}

/// One answer.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) what: What,
    /// Whether it is the one of its role, and not of what the session did before or after.
    pub(super) is_main: bool,
    pub(super) asked: Now,
    pub(super) at: Now,
    pub(super) failure: Option<Failure>,
    pub(super) end: Option<String>,
}

/// What a client may believe of rows that it wanted to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belief {
    There,
    Absent,
    Unknown,
}

/// Everything that one session has seen.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) role: Role,
    pub(super) proxy: String,
    /// Whether client and proxy were cut off with the old primary.
    pub(super) is_cut_off: bool,
    pub(super) told: Vec<Told>,
    pub(super) rows: Vec<(i64, Belief)>,
    /// What is wrong apart from codes.
    pub(super) complaints: Vec<String>,
}

/// What a unit is to its client.
pub(super) fn what(unit: &[Statement], is_in_transaction: bool) -> What {
    match unit {
        unit if unit.contains(&Statement::Commit) => What::Commit,
        [Statement::Begin, ..] => What::Begin,
        [Statement::Rollback] => What::Rollback,
        [Statement::Mark] => What::Read,
        _ if is_in_transaction => What::Statement,
        _ => What::Autocommit,
    }
}

/// What the client may believe of its rows after this answer.
pub(super) fn belief(answer: &Answer) -> Belief {
    match answer.failure.as_ref().map(|failure| failure.code.as_str()) {
        None => Belief::There,
        Some("08007") => Belief::Unknown,
        Some(_) => Belief::Absent,
    }
}
