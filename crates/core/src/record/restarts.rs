//! Restarts of PostgreSQL that an operator asked for: one member after the other, in turns that the primary gives.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Applied, Kind, Record, Refusal};
use crate::vocabulary::{Epoch, MemberId};

/// What the record keeps of restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Restarts {
    pub wanted: Option<Restart>,
    /// How the newest one ended.
    pub ended: Option<RestartEnd>,
}

/// A restart that was asked for and is not done.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Restart {
    pub id: u64,
    /// These members; empty: whichever has parameters that wait for a restart.
    pub members: BTreeSet<MemberId>,
    /// The primary is restarted where it is; without it another member takes over first, if one can.
    pub in_place: bool,
    pub by: String,
    /// Who is being restarted.
    pub turn: Option<Turn>,
    /// How many turns each member has had.
    pub done: BTreeMap<MemberId, u32>,
}

/// One member's turn.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Turn {
    pub member: MemberId,
    /// Counts the turns of this restart.
    pub number: u64,
    /// The epoch in which it was given.
    pub epoch: Epoch,
    pub how: How,
}

/// How a member's PostgreSQL is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// A standby stops and follows again.
    Standby,
    /// The primary stops for a switchover and comes back as a standby.
    Switchover,
    /// The primary stops and takes over from itself.
    InPlace,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RestartEnd {
    pub id: u64,
    pub done: BTreeSet<MemberId>,
    /// Why it was given up, if it was.
    pub why: Option<String>,
}

impl Restarts {
    pub(super) fn is_default(&self) -> bool {
        *self == Restarts::default()
    }
}

impl Record {
    /// The turn that is being carried out.
    pub fn turn(&self) -> Option<&Turn> {
        self.restarts.wanted.as_ref().and_then(|restart| restart.turn.as_ref())
    }

    pub(super) fn request_restart(
        &mut self,
        id: u64,
        members: BTreeSet<MemberId>,
        in_place: bool,
        by: String,
    ) -> Result<Applied, Refusal> {
        let data = |member: &MemberId| self.members.get(member).is_some_and(|row| row.kind == Kind::Data);
        if let Some(stranger) = members.iter().find(|member| !data(member)) {
            return Err(Refusal::NotAMember(stranger.clone()));
        }
        match &self.restarts.wanted {
            Some(under_way) if under_way.id == id => Ok(Applied::Already),
            Some(_) => Err(Refusal::RestartUnderWay),
            None => {
                let done = BTreeMap::new();
                self.restarts.wanted = Some(Restart { id, members, in_place, by, turn: None, done });
                Ok(Applied::Done)
            }
        }
    }

    /// No second turn is given before the first one has ended.
    pub(super) fn give_turn(
        &mut self,
        id: u64,
        member: MemberId,
        epoch: Epoch,
        how: How,
    ) -> Result<Applied, Refusal> {
        if !self.is_open() || self.epoch != epoch {
            return Err(Refusal::OtherEpoch { now: self.epoch, wanted: epoch });
        }
        if !self.members.contains_key(&member) {
            return Err(Refusal::NotAMember(member));
        }
        let Some(restart) = self.restarts.wanted.as_mut().filter(|restart| restart.id == id) else {
            return Err(Refusal::OtherRestart);
        };
        match &restart.turn {
            Some(turn) if turn.member == member && turn.epoch == epoch => Ok(Applied::Already),
            Some(_) => Err(Refusal::RestartUnderWay),
            None => {
                let number = u64::from(restart.done.values().sum::<u32>()) + 1;
                restart.turn = Some(Turn { member, number, epoch, how });
                Ok(Applied::Done)
            }
        }
    }

    pub(super) fn end_turn(&mut self, id: u64, number: u64) -> Result<Applied, Refusal> {
        let Some(restart) = self.restarts.wanted.as_mut().filter(|restart| restart.id == id) else {
            return Ok(Applied::Already);
        };
        match restart.turn.take_if(|turn| turn.number == number) {
            Some(turn) => {
                *restart.done.entry(turn.member).or_default() += 1;
                Ok(Applied::Done)
            }
            None => Ok(Applied::Already),
        }
    }

    pub(super) fn end_restart(&mut self, id: u64, why: Option<String>) -> Result<Applied, Refusal> {
        match self.restarts.wanted.take_if(|restart| restart.id == id) {
            Some(restart) => {
                let done = restart.done.into_keys().collect();
                self.restarts.ended = Some(RestartEnd { id, done, why });
                Ok(Applied::Done)
            }
            None => Ok(Applied::Already),
        }
    }

    /// Another epoch has been opened: the PostgreSQL that held the one before was stopped, whatever became of it since.
    pub(super) fn turn_after_opening(&mut self, last: Option<&MemberId>, opened: &MemberId) {
        let Some(restart) = &mut self.restarts.wanted else { return };
        let Some(turn) = restart.turn.take() else { return };
        if last == Some(&turn.member) && turn.how != How::Standby {
            *restart.done.entry(turn.member).or_default() += 1;
        } else if turn.how == How::Standby && turn.member != *opened {
            restart.turn = Some(turn);
        }
    }
}
