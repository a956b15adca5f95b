//! The answers, from what is known at one moment.

use std::sync::Arc;
use std::time::Duration;

use mainstay_core::Now;
use mainstay_core::sync::SyncSet;
use mainstay_core::view::Lease;

use super::Question;
use crate::status::{MemberStatus, Role, Status};

/// What an answer is made from.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) now: Now,
    /// What the main loop said last. It may be old.
    pub(super) status: Arc<Status>,
    /// From the lease's own thread.
    pub(super) lease: Option<Lease>,
    /// The epoch that the living server was opened under, from the guard.
    pub(super) opened: Option<u64>,
    /// Who acknowledges commits while the epoch is open.
    pub(super) sync: SyncSet,
    /// For how long the main loop has not turned, if that is too long.
    pub(super) hangs_for: Option<Duration>,
}

/// Yes or no, and why in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) holds: bool,
    pub(super) why: String,
}

fn yes(why: impl Into<String>) -> Verdict {
    Verdict { holds: true, why: why.into() }
}

fn no(why: impl Into<String>) -> Verdict {
    Verdict { holds: false, why: why.into() }
}

impl Verdict {
    fn or_else(self, other: impl FnOnce() -> Verdict) -> Verdict {
        if self.holds { self } else { other() }
    }
}

/// Answers one question; `lag` is how many bytes a standby may be behind.
pub(super) fn judge(question: Question, lag: Option<u64>, moment: &Moment) -> Verdict {
    let standby = || moment.standby(lag);
    let counting = |counts: fn(&Moment) -> Verdict| {
        let standby = standby();
        if standby.holds { counts(moment) } else { standby }
    };
    match question {
        Question::Primary => moment.primary(),
        Question::Replica => standby(),
        Question::Sync => counting(Moment::is_sync),
        Question::Quorum => counting(Moment::counts),
        Question::Async => counting(Moment::is_async),
        Question::ReadOnly => moment.primary().or_else(standby),
        Question::ReadOnlySync => moment.primary().or_else(|| counting(Moment::is_sync)),
        Question::ReadOnlyQuorum => moment.primary().or_else(|| counting(Moment::counts)),
        Question::Readiness => moment.primary().or_else(|| moment.witness()).or_else(standby),
        Question::Health => moment.health(),
        Question::Liveness => moment.turns(),
    }
}

impl Moment {
    fn own(&self) -> Option<&MemberStatus> {
        self.status.members.iter().find(|row| row.name == self.status.member)
    }

    fn role(&self) -> Role {
        self.own().map_or(Role::Unknown, |row| row.role)
    }

    /// In the member's own words.
    fn reason(&self) -> &str {
        self.own().and_then(|row| row.reason.as_deref()).unwrap_or(&self.status.reason)
    }

    /// The one answer that a loop which hangs does not void: lease and guard speak for themselves.
    fn primary(&self) -> Verdict {
        let status = &self.status;
        if self.role() != Role::Primary || status.primary.as_ref() != Some(&status.member) {
            return self.turns_or(no(status.reason.clone()));
        }
        let epoch = status.epoch;
        if self.lease.is_none_or(|lease| lease.epoch != epoch || self.now >= lease.deadline) {
            return no(format!("the lease of epoch {epoch} is not held any more"));
        }
        if self.opened != Some(epoch.0) {
            return no(format!("PostgreSQL is not open under epoch {epoch}"));
        }
        if !status.writable {
            return self.turns_or(no(self.reason()));
        }
        yes(self.reason())
    }

    fn standby(&self, lag: Option<u64>) -> Verdict {
        if self.role() != Role::Standby {
            return self.turns_or(no(self.reason()));
        }
        if self.hangs_for.is_some() {
            return self.turns();
        }
        if self.own().is_some_and(|row| row.maintenance) {
            return no("it is in maintenance, and to be left alone");
        }
        match (lag, self.own().and_then(|row| row.lag_bytes)) {
            (None, _) => yes(self.reason()),
            (Some(_), None) => no("how far it is behind is not known: the primary is not heard"),
            (Some(most), Some(bytes)) if bytes > most => {
                no(format!("{bytes} bytes behind, {most} are allowed"))
            }
            (Some(_), Some(bytes)) => yes(format!("{}, {bytes} bytes behind", self.reason())),
        }
    }

    fn is_voter(&self) -> bool {
        self.own().is_some_and(|row| row.sync)
    }

    /// How many of how many acknowledge.
    fn quorum(&self) -> String {
        format!("{} of {}", self.sync.k, self.sync.voters.len())
    }

    fn counts(&self) -> Verdict {
        match self.is_voter() {
            true => yes(format!("{}; commits wait for {} standbys", self.reason(), self.quorum())),
            false => no("it streams, but commits do not wait for it"),
        }
    }

    fn is_sync(&self) -> Verdict {
        let counts = self.counts();
        if counts.holds && (self.sync.k as usize) < self.sync.voters.len() {
            return no(format!(
                "commits wait for {} standbys, not always for this one; see /quorum",
                self.quorum()
            ));
        }
        counts
    }

    fn is_async(&self) -> Verdict {
        match self.is_voter() {
            true => no(format!("commits wait for {} standbys, this one among them", self.quorum())),
            false => yes(format!("{}; commits do not wait for it", self.reason())),
        }
    }

    fn witness(&self) -> Verdict {
        match self.role() {
            Role::Witness => self.turns_or(yes(self.reason())),
            _ => no(self.reason()),
        }
    }

    /// Also while the gate is shut.
    fn health(&self) -> Verdict {
        match self.role() {
            Role::Primary | Role::Standby | Role::Witness => self.turns_or(yes(self.reason())),
            _ => self.turns_or(no(self.status.reason.clone())),
        }
    }

    fn turns(&self) -> Verdict {
        self.turns_or(yes("the member's main loop turns"))
    }

    /// What a loop said that hangs says nothing of now.
    fn turns_or(&self, verdict: Verdict) -> Verdict {
        match self.hangs_for {
            Some(silent) => {
                no(format!("the member's main loop has not turned for {:.1} s", silent.as_secs_f64()))
            }
            None => verdict,
        }
    }
}
