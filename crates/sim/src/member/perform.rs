//! Decide, and do what was decided.

use std::time::Duration;

use mainstay_core::action::{Action, Job};
use mainstay_core::decide::decide;
use mainstay_core::record::Command;
use mainstay_core::{Epoch, Now};

use super::lane::{RUN, UPKEEP};
use crate::guard::GuardRequest;
use crate::member::{MemberEvent, RaftInput};
use crate::mutant::ShellMutant;
use crate::queue::MS;
use crate::world::World;

/// A proposal or a read whose fate is unknown is repeated after this.
const REPEAT: Duration = Duration::from_millis(200);

impl World {
    pub(super) fn decide(&mut self, machine: usize) {
        let busy_until = self.member(machine).busy_until;
        if self.now < busy_until {
            if !std::mem::replace(&mut self.member(machine).deciding, true) {
                self.tell_member(machine, busy_until, MemberEvent::Decide);
            }
            return;
        }
        let (now, lease, health) = (self.local_now(machine), self.lease_view(machine), self.health(machine));
        let unix_ms = self.now / MS;
        let member = self.member(machine);
        member.view.now = now;
        member.view.unix_ms = unix_ms;
        member.view.leads = member.leads().is_some();
        member.view.lease = lease;
        member.view.health = health;
        self.follow_addresses(machine);
        let member = self.member(machine);
        let decision = decide(&member.view, &mut member.memory);
        self.observe_decision(machine, &decision);
        for action in &decision.actions {
            if !self.perform(machine, action) {
                break;
            }
            if self.machines[machine].member.is_none() {
                return;
            }
        }
        self.gossip_changes(machine);
    }

    /// Whether the actions after this one may be performed now.
    fn perform(&mut self, machine: usize, action: &Action) -> bool {
        match action {
            // The log's own members follow the record's: one that they still count must not vanish from it.
            Action::Propose(Command::Remove { member }) if self.votes_in_the_log(machine, member) => {}
            Action::Propose(command) => self.propose_again(machine, command),
            Action::RequestGrant { epoch, incarnation } => {
                let now = self.local_now(machine);
                let member = self.member(machine);
                let waits = |(asked, at): (Epoch, Now)| asked == *epoch && now.since(at) < REPEAT;
                if !member.granting.is_some_and(waits) {
                    member.granting = Some((*epoch, now));
                    let request = self.request_grant(machine);
                    let holder = self.machines[machine].id.clone();
                    let (epoch, incarnation) = (*epoch, *incarnation);
                    self.propose(machine, &Command::Grant { epoch, holder, incarnation, request });
                }
            }
            Action::ReadRecord => self.read_again(machine),
            Action::Relinquish { epoch } => return self.relinquish(machine, *epoch),
            Action::Kill { .. } => {
                if self.member(machine).guard.is_some() {
                    self.request_guard(machine, GuardRequest::Kill);
                }
            }
            Action::Run(job) => self.run(machine, RUN, job),
            Action::Upkeep(job) => self.run(machine, UPKEEP, job),
            Action::EndWalsender { pid } => {
                if self.machines[machine].live_server().is_some() {
                    let sender = self.server(machine).senders.iter().find(|sender| sender.pid == *pid);
                    if let Some(connection) = sender.map(|sender| sender.connection) {
                        self.drop_sender(machine, connection);
                    }
                }
            }
        }
        true
    }

    fn propose_again(&mut self, machine: usize, command: &Command) {
        let now = self.local_now(machine);
        let member = self.member(machine);
        let repeated = |(before, at): &(Command, Now)| before == command && now.since(*at) < REPEAT;
        if !member.proposed.as_ref().is_some_and(repeated) {
            member.proposed = Some((command.clone(), now));
            self.propose(machine, command);
        }
    }

    fn read_again(&mut self, machine: usize) {
        let now = self.local_now(machine);
        let member = self.member(machine);
        if member.reading.is_none_or(|(_, asked)| now.since(asked) >= REPEAT) {
            member.next_number += 1;
            let context = member.next_number;
            member.reading = Some((context, now));
            self.raft_input(machine, RaftInput::Read { context });
        }
    }

    /// The lease is given up: no renewal, no opening. What comes after waits until an opening that was asked for is answered,
    /// since a guard that stood still may do it late.
    fn relinquish(&mut self, machine: usize, epoch: Epoch) -> bool {
        let ignored = self.mutated(ShellMutant::RelinquishIgnored);
        let member = self.member(machine);
        member.addresses.relinquished = member.addresses.relinquished.max(epoch);
        if ignored {
            return true;
        }
        member.relinquished = member.relinquished.max(epoch);
        if member.holder.as_ref().is_some_and(|holder| holder.epoch() <= epoch) {
            member.holder = None;
        }
        let opening =
            matches!(&member.lanes[RUN].job, Some(Job::Open { epoch: opened, .. }) if *opened <= epoch);
        if opening {
            self.abort(machine, RUN);
        }
        let member = self.member(machine);
        if let Some((opened, number)) = member.opening
            && opened <= epoch
        {
            if !member.answers.contains_key(&number) {
                return false;
            }
            member.opening = None;
        }
        true
    }
}
