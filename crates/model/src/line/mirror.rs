//! The second and the third member are alike: what happens to one can happen to the other. A state and its mirror image
//! count as one.

use std::collections::BTreeMap;

use mainstay_core::record::{Command, Record, Report, Tenure};
use mainstay_core::sync::{SyncSet, Voter};
use mainstay_core::{Incarnation, MemberId};

use super::sight::incarnation_of;
use super::world::{Member, NOTHING, State, Work};
use crate::explore::fingerprint;

/// The names of the two members that are alike.
pub(super) struct Mirror {
    pub(super) pair: [MemberId; 2],
}

fn number(member: u8) -> u8 {
    match member {
        1 => 2,
        2 => 1,
        other => other,
    }
}

fn incarnation(of: Incarnation) -> Incarnation {
    let member = u8::try_from(of.0 / 16).expect("made from a member's number");
    incarnation_of(number(member), u8::try_from(of.0 % 16).expect("below 16"))
}

impl Mirror {
    fn member(&self, name: &MemberId) -> MemberId {
        match self.pair.iter().position(|one| one == name) {
            Some(place) => self.pair[1 - place].clone(),
            None => name.clone(),
        }
    }

    pub(super) fn set(&self, set: &SyncSet) -> SyncSet {
        let voter = |voter: &Voter| Voter {
            member: self.member(&voter.member),
            incarnation: incarnation(voter.incarnation),
        };
        SyncSet { voters: set.voters.iter().map(voter).collect(), k: set.k }
    }

    fn tenure(&self, tenure: &Tenure) -> Tenure {
        Tenure {
            holder: self.member(&tenure.holder),
            incarnation: incarnation(tenure.incarnation),
            sync: self.set(&tenure.sync),
            names: self.set(&tenure.names),
            ..tenure.clone()
        }
    }

    fn report(&self, report: &Report) -> Report {
        Report { incarnation: incarnation(report.incarnation), ..report.clone() }
    }

    pub(super) fn record(&self, record: &Record) -> Record {
        let reports: BTreeMap<MemberId, Report> = record
            .reports
            .iter()
            .map(|(member, report)| (self.member(member), self.report(report)))
            .collect();
        Record {
            base: record.base.as_ref().map(|base| self.tenure(base)),
            reports,
            unopened: record.unopened.iter().map(|tenure| self.tenure(tenure)).collect(),
            ..record.clone()
        }
    }

    pub(super) fn command(&self, command: &Command) -> Command {
        match command.clone() {
            Command::Grant { epoch, holder, incarnation: of, request } => {
                Command::Grant { epoch, holder: self.member(&holder), incarnation: incarnation(of), request }
            }
            Command::Report { member, report } => {
                Command::Report { member: self.member(&member), report: self.report(&report) }
            }
            Command::SetSync { epoch, serial, sync, names } => {
                Command::SetSync { epoch, serial, sync: self.set(&sync), names: self.set(&names) }
            }
            other => other,
        }
    }
}

impl super::Line {
    /// One hash for a state and its mirror image.
    pub(super) fn hash(&mut self, state: &State) -> u128 {
        let own = fingerprint(state);
        if self.scope.witness {
            return own;
        }
        let mut mirrored = state.clone();
        mirrored.members.swap(1, 2);
        for member in &mut mirrored.members {
            self.mirror_member(member);
        }
        mirrored.record = self.records.mirrored_record(state.record);
        for slot in &mut mirrored.in_flight {
            *slot = self.records.mirrored_command(*slot);
        }
        mirrored.in_flight.sort_unstable();
        own.min(fingerprint(&mirrored))
    }

    fn mirror_member(&mut self, member: &mut Member) {
        member.view = self.records.mirrored_record(member.view);
        member.told = self.records.mirrored_set(member.told);
        member.proven = self.records.mirrored_set(member.proven);
        member.upstream = number(member.upstream);
        member.lost = (member.lost & 1) | (member.lost & 2) << 1 | (member.lost & 4) >> 1;
        member.work = match member.work {
            Work::Nothing => Work::Nothing,
            Work::Follow { member, epoch } => Work::Follow { member: number(member), epoch },
            Work::Rewind { member, epoch } => Work::Rewind { member: number(member), epoch },
            Work::Clone { member, epoch } => Work::Clone { member: number(member), epoch },
        };
    }
}

impl super::records::Records {
    fn mirrored_set(&mut self, set: u32) -> u32 {
        if set == NOTHING { NOTHING } else { self.mirror_set(set) }
    }

    fn mirrored_command(&mut self, command: u32) -> u32 {
        if command == NOTHING { NOTHING } else { self.mirror_command(command) }
    }
}
