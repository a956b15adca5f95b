//! The lease on the wire: renewals, answers, and the question whether it has run out. None of it waits for the main loop.

use std::collections::BTreeSet;
use std::time::Duration;

use mainstay_core::lease::{Answer, Holder, renewal_interval, usable};
use mainstay_core::mutant::{Mutant, mutated};
use mainstay_core::record::{Phase, Record};
use mainstay_core::view::{Lease, RunOut};
use mainstay_core::{Epoch, MemberId, Now};

use super::MemberEvent;
use crate::event::Message;
use crate::guard::GuardRequest;
use crate::mutant::ShellMutant;
use crate::queue::MS;
use crate::world::World;

/// How long it counts that another voter finds a lease run out.
const EXPIRED_FRESH: Duration = Duration::from_millis(300);
/// How many requests for the lease are remembered.
const REQUESTS: usize = 64;

impl World {
    /// The record as applied here has changed.
    pub(super) fn record_changed(&mut self, machine: usize) {
        let now = self.local_now(machine);
        let from_application = self.mutated(ShellMutant::LeaseCountedFromGrant);
        let lease = self.config.lease;
        let member = self.member(machine);
        let Some(replica) = &member.raft else { return };
        let record = std::sync::Arc::clone(&replica.machine().record);
        member.grantor.learn(now, &record);
        let tenure = record.tenure().filter(|tenure| tenure.holder == member.view.me);
        let ours = tenure.map(|tenure| (tenure.epoch, tenure.request));
        if member.holder.as_ref().is_some_and(|holder| ours.is_none_or(|(epoch, _)| epoch != holder.epoch()))
        {
            member.holder = None;
            member.armed = Now(0);
        }
        if let Some((epoch, request)) =
            ours.filter(|_| member.holder.is_none() && record.phase == Phase::Granted)
            && let Some((_, sent)) = member.requests.iter().find(|(number, _)| *number == request)
            && epoch > member.relinquished
        {
            let sent = if from_application { now } else { *sent };
            member.holder = Some(Holder::granted(epoch, lease, sent));
        }
        if record.membership.serial != member.view.record.membership.serial {
            member.learnt_at = now;
            member.view.run_out = RunOut::default();
        }
        let serial = record.membership.serial;
        member.seen_serial = member.seen_serial.max(serial);
        if let Some(holder) = &mut member.holder {
            holder.has_seen(member.seen_serial);
        }
        member.view.record = record;
        self.follow_roster(machine);
        self.keep_serial(machine, serial);
        self.resume_lease(machine);
        self.arm(machine);
        self.wake(machine);
    }

    /// Who votes is remembered before the lease is said to rest on them.
    fn keep_serial(&mut self, machine: usize, serial: u64) {
        let disk = &self.machines[machine].disk;
        let works = disk.stalled_since.is_none() && !disk.full;
        if !works || self.machines[machine].files.serial >= serial {
            return;
        }
        // Written; known to be once the sync is over.
        self.machines[machine].files.serial = serial;
        let at = self.now + self.machines[machine].disk.sync_time(&mut self.random);
        self.tell_member(machine, at, MemberEvent::SerialDurable(serial));
    }

    pub(super) fn serial_durable(&mut self, machine: usize, serial: u64) {
        let member = self.member(machine);
        member.durable_serial = member.durable_serial.max(serial);
        self.wake(machine);
    }

    /// A member that was started anew: the guard knows until when the lease of the record's tenure allows it to be open.
    pub(super) fn resume_lease(&mut self, machine: usize) {
        let (now, lease) = (self.local_now(machine), self.config.lease);
        let member = self.member(machine);
        let Some((epoch, deadline)) = member.guard_word.and_then(|word| word.armed) else { return };
        let tenure = member.view.record.tenure().filter(|tenure| tenure.holder == member.view.me);
        let ours = tenure.is_some_and(|tenure| tenure.epoch == epoch);
        if ours && member.holder.is_none() && now < deadline && epoch > member.relinquished {
            member.holder = Some(Holder::resumed(epoch, lease, deadline, member.seen_serial));
        }
    }

    pub(super) fn deadline(&mut self, machine: usize) -> Option<(Epoch, Now)> {
        let member = self.member(machine);
        let holder = member.holder.as_ref()?;
        Some((holder.epoch(), holder.deadline(&member.view.record)))
    }

    pub(super) fn lease_view(&mut self, machine: usize) -> Option<Lease> {
        let (epoch, deadline) = self.deadline(machine)?;
        let renewed_at = deadline.minus(usable(self.config.lease));
        let member = self.member(machine);
        let record = &member.view.record;
        let holder = member.holder.as_ref()?;
        let rests_on = holder.rests_on(record, member.learnt_at, member.durable_serial);
        Some(Lease { epoch, deadline, renewed_at, rests_on: rests_on.then_some(record.membership.serial) })
    }

    /// Each later deadline goes to the guard.
    pub(super) fn arm(&mut self, machine: usize) {
        let Some((epoch, deadline)) = self.deadline(machine) else { return };
        let member = self.member(machine);
        if deadline > member.armed && member.guard.is_some() {
            member.armed = deadline;
            self.request_guard(machine, GuardRequest::Arm { epoch, deadline });
        }
    }

    pub(super) fn request_grant(&mut self, machine: usize) -> u64 {
        let (number, now) = (self.random.next(), self.local_now(machine));
        let member = self.member(machine);
        member.requests.push_back((number, now));
        if member.requests.len() > REQUESTS {
            member.requests.pop_front();
        }
        number
    }

    pub(super) fn renew(&mut self, machine: usize) {
        let interval = renewal_interval(self.config.lease);
        self.again(machine, nanos(interval), MemberEvent::RenewTick);
        let sent = self.local_now(machine);
        let member = self.member(machine);
        let Some(epoch) = member.holder.as_ref().map(Holder::epoch) else { return };
        if epoch <= member.relinquished {
            return;
        }
        for voter in all_voters(&member.view.record) {
            if let Some(to) = self.machine_of(&voter) {
                self.send(machine, to, Message::Renew { epoch, sent });
            }
        }
    }

    pub(super) fn answer_renewal(&mut self, from: usize, to: usize, epoch: Epoch, sent: Now) {
        let now = self.local_now(to);
        let answer = self.member(to).grantor.renew(now, epoch);
        if answer != Answer::Promised {
            self.note(to, || format!("does not renew epoch {epoch}: {answer:?}"));
        }
        self.send(to, from, Message::Renewed { epoch, sent, answer });
    }

    pub(super) fn renewed(&mut self, from: usize, to: usize, epoch: Epoch, sent: Now, answer: Answer) {
        let voter = self.machines[from].id.clone();
        let member = self.member(to);
        let Some(holder) = member.holder.as_mut().filter(|holder| holder.epoch() == epoch) else { return };
        if answer == Answer::Promised {
            holder.answered(&voter, sent);
            self.arm(to);
            self.hold_address(to);
        }
    }

    /// The voter's side. What has run out here is first told to the others; once a majority finds the same it is promised,
    /// durably, and then said for good.
    pub(super) fn check_lease(&mut self, machine: usize) {
        self.again(machine, 50 * MS, MemberEvent::LeaseCheck);
        let now = self.local_now(machine);
        self.run_out_if_agreed(machine, now);
        self.ask_run_out(machine, now);
    }

    fn run_out_if_agreed(&mut self, machine: usize, now: Now) {
        let hasty = self.mutated(ShellMutant::RunOutBeforeDurable);
        let disk = &self.machines[machine].disk;
        let works = disk.stalled_since.is_none() && !disk.full;
        let member = self.member(machine);
        let Some(epoch) = member.grantor.expired(now).filter(|epoch| !member.grantor.says_run_out(*epoch))
        else {
            return;
        };
        let record = &member.view.record;
        let agrees = |voter: &MemberId| {
            *voter == member.view.me
                || member
                    .expired
                    .get(voter)
                    .is_some_and(|(expired, at)| *expired == epoch && now.since(*at) < EXPIRED_FRESH)
        };
        let agreed =
            record.has_majority(agrees) || mutated(Mutant::ExpiryByMinority) && record.voters().any(agrees);
        if !agreed || member.promising == Some(epoch) {
            return;
        }
        member.grantor.run_out(now);
        if hasty {
            member.grantor.promise(epoch);
        } else if works {
            member.promising = Some(epoch);
            let place = &mut self.machines[machine];
            place.files.promised = place.files.promised.max(epoch);
            let at = self.now + self.machines[machine].disk.sync_time(&mut self.random);
            self.tell_member(machine, at, MemberEvent::PromiseDurable(epoch));
        }
    }

    pub(super) fn promise_durable(&mut self, machine: usize, epoch: Epoch) {
        self.member(machine).grantor.promise(epoch);
        let now = self.local_now(machine);
        self.member(machine).asked_run_out = None;
        self.ask_run_out(machine, now);
    }

    fn ask_run_out(&mut self, machine: usize, now: Now) {
        let member = self.member(machine);
        let record = std::sync::Arc::clone(&member.view.record);
        let Some(epoch) = record.tenure().map(|tenure| tenure.epoch) else { return };
        if !member.grantor.says_run_out(epoch) && member.grantor.expired(now) != Some(epoch) {
            return;
        }
        let recently = |asked: Now| now.since(asked) < Duration::from_millis(100);
        if member.asked_run_out.is_some_and(recently) {
            return;
        }
        member.asked_run_out = Some(now);
        for voter in all_voters(&record) {
            if let Some(to) = self.machine_of(&voter) {
                self.send(machine, to, Message::AskRunOut { epoch });
            }
        }
    }

    /// Who asks finds it run out; so may this one, for now or for good.
    pub(super) fn answer_run_out(&mut self, from: usize, to: usize, epoch: Epoch) {
        let (now, asker) = (self.local_now(to), self.machines[from].id.clone());
        let member = self.member(to);
        member.expired.insert(asker, (epoch, now));
        let over = member.grantor.says_run_out(epoch);
        if over || member.grantor.expired(now) == Some(epoch) {
            self.send(to, from, Message::RunOut { epoch, over });
            self.run_out_if_agreed(to, now);
        }
    }

    pub(super) fn note_run_out(&mut self, from: usize, to: usize, epoch: Epoch, over: bool) {
        let (voter, now) = (self.machines[from].id.clone(), self.local_now(to));
        self.member(to).expired.insert(voter.clone(), (epoch, now));
        self.run_out_if_agreed(to, now);
        if !over {
            return;
        }
        let member = self.member(to);
        let serial = member.view.record.membership.serial;
        let run_out = &mut member.view.run_out;
        if run_out.epoch < epoch {
            *run_out = RunOut { epoch, serial, ..RunOut::default() };
        }
        if run_out.epoch == epoch && run_out.voters.insert(voter) {
            self.wake(to);
        }
    }
}

pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).expect("a lease is shorter than centuries")
}

/// The voters and, during a change of them, the outgoing ones.
fn all_voters(record: &Record) -> BTreeSet<MemberId> {
    record.voters().chain(record.outgoing()).cloned().collect()
}
