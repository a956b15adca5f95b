//! One function per command. Each checks the epoch and the phase first, so that stale and doubled commands do nothing.

use super::{
    Applied, Cancelled, Command, EndCause, LEDGER_ROWS, LedgerRow, Phase, Record, Refusal, Report,
    Switchover, Tenure,
};
use crate::election;
use crate::lineage::{self, Fork, History};
use crate::mutant::{Mutant, mutated};
use crate::sync::{self, SyncSet};
use crate::vocabulary::{Epoch, Incarnation, Lsn, MemberId, Timeline};

/// What a new cluster begins with, whichever releases its members are of.
const FIRST_FORMAT: u32 = 1;

type Result = std::result::Result<Applied, Refusal>;

impl Record {
    /// Applies one committed command. Deterministic and total: every member comes to the same answer.
    pub fn apply(&mut self, command: Command) -> Applied {
        if command.format() > self.format
            && !matches!(command, Command::RaiseFormat { .. })
            && self.format > 0
        {
            return Applied::Refused(Refusal::OldFormat);
        }
        let result = match command {
            Command::Create { cluster, settings, members } => self.create(cluster, settings, members),
            Command::Found { member, incarnation, system_identifier } => {
                self.found(member, incarnation, system_identifier)
            }
            Command::Grant { epoch, holder, incarnation, request } => {
                self.grant(epoch, holder, incarnation, request)
            }
            Command::Open { epoch, history, next_xid, at_unix_ms } => {
                self.open(epoch, history, next_xid, at_unix_ms)
            }
            Command::End { epoch, cause } => self.end(epoch, cause),
            Command::Report { member, report } => self.report(member, report),
            Command::SetSync { epoch, serial, sync, names } => self.set_sync(epoch, serial, sync, names),
            Command::RequestSwitchover { id, epoch, to } => self.request_switchover(id, epoch, to),
            Command::CancelSwitchover { id, why } => self.cancel_switchover(id, why),
            Command::RaiseFormat { to } => self.raise_format(to),
            Command::Invite { invitation, at_unix_ms } => self.invite(invitation, at_unix_ms),
            Command::Revoke { id } => self.revoke(&id),
            Command::Join(joining) => self.join(joining),
            Command::Leave { member } => self.leave(&member),
            Command::Remove { member } => self.remove(&member),
            Command::SetVoters { serial, voters } => self.set_voters(serial, &voters),
            Command::SettleVoters { serial } => self.settle_voters(serial),
            Command::Operate(what) => self.operate(what),
            Command::ChangeParameters { serial, set, by, at_unix_ms } => {
                self.change_parameters(serial, set, by, at_unix_ms)
            }
            Command::RequestRestart { id, members, in_place, by } => {
                self.request_restart(id, members, in_place, by)
            }
            Command::GiveTurn { id, member, epoch, how } => self.give_turn(id, member, epoch, how),
            Command::EndTurn { id, number } => self.end_turn(id, number),
            Command::EndRestart { id, why } => self.end_restart(id, why),
            Command::AcceptKey { member, key, serial } => self.accept_key(member, key, serial),
            Command::DropKey { member, serial } => self.drop_key(&member, serial),
        };
        result.unwrap_or_else(Applied::Refused)
    }

    fn create(
        &mut self,
        cluster: String,
        settings: super::Settings,
        members: std::collections::BTreeMap<MemberId, super::Member>,
    ) -> Result {
        if self.format != 0 {
            return if self.cluster == cluster { Ok(Applied::Already) } else { Err(Refusal::Created) };
        }
        *self = Record { format: FIRST_FORMAT, cluster, settings, members, ..Record::default() };
        Ok(Applied::Done)
    }

    fn found(&mut self, member: MemberId, incarnation: Incarnation, system_identifier: u64) -> Result {
        self.check_data_member(&member)?;
        if self.system_identifier == Some(system_identifier) {
            return Ok(Applied::Already);
        }
        if self.phase != Phase::Unfounded {
            return Err(Refusal::Created);
        }
        let timeline = Timeline(1);
        self.system_identifier = Some(system_identifier);
        self.lineage = vec![Fork { timeline, begin: Lsn::ZERO }];
        self.highest_timeline = timeline;
        self.base = Some(Tenure {
            epoch: Epoch(0),
            holder: member,
            incarnation,
            timeline,
            sync: SyncSet::lone(),
            names: SyncSet::lone(),
            sync_serial: 0,
            request: 0,
        });
        self.phase = Phase::Ended { cause: EndCause::Founded };
        Ok(Applied::Done)
    }

    fn grant(&mut self, epoch: Epoch, holder: MemberId, incarnation: Incarnation, request: u64) -> Result {
        if let Some(tenure) = self.tenure()
            && tenure.epoch == epoch
            && tenure.request == request
            && tenure.holder == holder
        {
            return Ok(Applied::Already);
        }
        if !matches!(self.phase, Phase::Ended { .. }) || epoch != self.epoch.next() {
            return Err(Refusal::OtherEpoch { now: self.epoch, wanted: epoch });
        }
        self.check_data_member(&holder)?;
        election::may_be_promoted(self, &holder, incarnation)
            .map_err(|why| Refusal::NotProven { member: holder.clone(), why: why.to_string() })?;
        if let Some(why) = election::held_back_by_command(self, &holder) {
            return Err(Refusal::HeldBack { member: holder, why: why.to_string() });
        }
        let sync = election::voters_under(self, &holder);
        let timeline = if mutated(Mutant::TimelineReused) {
            Timeline(self.lineage.last().map_or(1, |fork| fork.timeline.0)).next()
        } else {
            // One number stays free: an outside hand's promotion takes the next one after what its directory holds, and
            // where it leaves the lineage at the very position of this grant, nothing but the number tells the two apart.
            self.highest_timeline.next().next()
        };
        self.highest_timeline = timeline.max(self.highest_timeline);
        self.epoch = epoch;
        let names = sync.clone();
        let tenure = Tenure { epoch, holder, incarnation, timeline, sync, names, sync_serial: 0, request };
        self.unopened.push(tenure);
        self.phase = Phase::Granted;
        Ok(Applied::Done)
    }

    fn open(&mut self, epoch: Epoch, history: History, next_xid: u64, at_unix_ms: u64) -> Result {
        if self.is_open() && self.epoch == epoch {
            return if self.lineage == history { Ok(Applied::Already) } else { Err(self.other_epoch(epoch)) };
        }
        let Some(tenure) = self.tenure().filter(|tenure| tenure.epoch == epoch).cloned() else {
            return Err(self.other_epoch(epoch));
        };
        let opened = history.last().copied().unwrap_or(Fork { timeline: Timeline(0), begin: Lsn::ZERO });
        let continues = lineage::extends(&self.lineage, &history) && self.tail_was_granted(&history, &tenure);
        let covers_voters = tenure.sync.voters.iter().all(|voter| {
            self.reports
                .get(&voter.member)
                .is_some_and(|report| lineage::compare(&history, &report.extent).may_follow())
        });
        let accepted = opened.timeline == tenure.timeline && continues && covers_voters;
        if !accepted && !mutated(Mutant::OpenUnchecked) {
            return Err(Refusal::WrongTimeline { came: opened.timeline, reserved: tenure.timeline });
        }
        let after = self.last_end.take().unwrap_or(EndCause::Founded);
        let forced = self.operation.forced.take().filter(|forced| {
            forced.epoch.next() == epoch
                && (&forced.member, forced.incarnation) == (&tenure.holder, tenure.incarnation)
        });
        let forced = forced.map(|forced| forced.missing);
        self.forget_answered(&tenure.holder);
        self.ledger.push(LedgerRow {
            epoch,
            member: tenure.holder.clone(),
            incarnation: tenure.incarnation,
            timeline: opened.timeline,
            fork: opened.begin,
            next_xid,
            at_unix_ms,
            after,
            forced,
        });
        if self.ledger.len() > LEDGER_ROWS {
            self.ledger.remove(0);
        }
        self.lineage = history;
        let last = self.base.as_ref().map(|base| base.holder.clone());
        self.turn_after_opening(last.as_ref(), &tenure.holder);
        self.base = Some(tenure);
        self.unopened.clear();
        self.reports.clear();
        self.switchover = None;
        self.phase = Phase::Open;
        Ok(Applied::Done)
    }

    /// Every timeline between the lineage and the one opened was granted to this same directory and never opened.
    fn tail_was_granted(&self, history: &[Fork], tenure: &Tenure) -> bool {
        let voter = tenure.voter();
        history.iter().skip(self.lineage.len()).all(|fork| self.was_reserved_for(fork.timeline, &voter))
    }

    fn end(&mut self, epoch: Epoch, cause: EndCause) -> Result {
        if let Phase::Ended { .. } = self.phase
            && self.epoch == epoch
        {
            return Ok(Applied::Already);
        }
        if self.tenure().is_none_or(|tenure| tenure.epoch != epoch) {
            return Err(self.other_epoch(epoch));
        }
        if let EndCause::Recovered { .. } = &cause {
            // It stands where a new instance begins, and ends no epoch.
            return Err(Refusal::Unreadable);
        }
        if let EndCause::Expired { voters, serial } = &cause {
            if *serial != self.membership.serial && !mutated(Mutant::OldWordsCount) {
                return Err(Refusal::OtherVoters);
            }
            let known = self.voters().filter(|voter| voters.contains(voter)).count();
            if !self.has_majority(|voter| voters.contains(voter)) && !mutated(Mutant::ExpiryByMinority) {
                return Err(Refusal::NoMajority(known));
            }
        }
        if self.is_open() {
            self.last_end = Some(cause.clone());
        }
        // Nobody holds a lease that rests on the old voters.
        self.membership.outgoing.clear();
        self.phase = Phase::Ended { cause };
        Ok(Applied::Done)
    }

    fn report(&mut self, member: MemberId, report: Report) -> Result {
        self.check_data_member(&member)?;
        if !matches!(self.phase, Phase::Ended { .. }) || report.epoch != self.epoch {
            return Err(self.other_epoch(report.epoch));
        }
        // A number that an outside hand's promotion has used is never given to a grant: two histories would share it.
        self.highest_timeline = self.highest_timeline.max(report.extent.timeline());
        match self.reports.insert(member, report.clone()) {
            Some(earlier) if earlier == report => Ok(Applied::Already),
            _ => {
                // Whoever decided to go on without proof did not know of this.
                let kept = mutated(Mutant::ForcedInAnyEpoch) || mutated(Mutant::ForcedWithAnyDirectory);
                self.operation.forced = self.operation.forced.take().filter(|_| kept);
                Ok(Applied::Done)
            }
        }
    }

    fn set_sync(&mut self, epoch: Epoch, serial: u64, sync: SyncSet, names: SyncSet) -> Result {
        let other_epoch = self.other_epoch(epoch);
        let current = self.is_open() && self.epoch == epoch;
        let Some(base) = self.base.as_mut().filter(|_| current) else {
            return Err(other_epoch);
        };
        if base.sync == sync && base.names == names {
            return Ok(Applied::Already);
        }
        // One that was removed while the proposal was under way would be counted and never report.
        let mut counted = sync.voters.iter().chain(&names.voters).map(|voter| &voter.member);
        if let Some(gone) = counted.find(|member| !self.members.contains_key(*member))
            && !mutated(Mutant::RemovedTooSoon)
        {
            return Err(Refusal::NotAMember(gone.clone()));
        }
        if base.sync_serial != serial && !mutated(Mutant::LateSyncAccepted) {
            return Err(Refusal::OtherSync);
        }
        // PostgreSQL may act on the old names for as long as it takes to prove the new ones effective.
        let covered = sync::is_safe(&base.names, &sync) && sync::is_safe(&names, &sync);
        if !covered || !sync.is_consistent() || !names.is_consistent() {
            return Err(Refusal::OrderLaw);
        }
        base.sync = sync;
        base.names = names;
        base.sync_serial += 1;
        Ok(Applied::Done)
    }

    fn request_switchover(&mut self, id: u64, epoch: Epoch, to: Option<MemberId>) -> Result {
        if let Some(to) = &to {
            self.check_data_member(to)?;
        }
        if !self.is_open() || self.epoch != epoch {
            return Err(self.other_epoch(epoch));
        }
        match &self.switchover {
            Some(under_way) if under_way.id == id => Ok(Applied::Already),
            Some(_) => Err(Refusal::SwitchoverUnderWay),
            None => {
                self.switchover = Some(Switchover { id, epoch, to });
                Ok(Applied::Done)
            }
        }
    }

    fn cancel_switchover(&mut self, id: u64, why: String) -> Result {
        match &self.switchover {
            Some(under_way) if under_way.id == id => {
                self.switchover = None;
                self.cancelled = Some(Cancelled { id, why });
                Ok(Applied::Done)
            }
            _ => Ok(Applied::Already),
        }
    }

    pub(super) fn check_data_member(&self, member: &MemberId) -> std::result::Result<(), Refusal> {
        match self.data_members().any(|id| id == member) {
            true => Ok(()),
            false => Err(Refusal::NotAMember(member.clone())),
        }
    }

    pub(super) fn other_epoch(&self, wanted: Epoch) -> Refusal {
        Refusal::OtherEpoch { now: self.epoch, wanted }
    }
}
