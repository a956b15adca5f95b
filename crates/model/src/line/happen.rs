//! What happens by itself: replication, time, clients, and the end of disturbances.

use mainstay_core::record::{Command, Phase};

use super::acts::commit_bit;
use super::sight::small;
use super::world::{FIRST_COMMIT, Lease, MEMBERS, NOBODY, NOTHING, Server, State, Touch, Work};
use super::{Happening, Line};
use crate::explore::Successor;

type Into<'a> = &'a mut Vec<Successor<State, Happening>>;

impl Line {
    pub(super) fn happen(&mut self, state: &State, into: Into<'_>) {
        for member in 0..MEMBERS {
            self.disturbances_end(state, member, into);
            self.replicate(state, member, into);
            self.finish_work(state, member, into);
            self.lease_passes(state, member, into);
            self.client_commits(state, member, into);
        }
        self.run_out(state, into);
        self.commit_late(state, into);
    }

    fn disturbances_end(&mut self, state: &State, member: u8, into: Into<'_>) {
        let own = state.member(member);
        let mut next = state.clone();
        if !own.up {
            next.member_mut(member).up = true;
            return self.push(into, Happening::MachineUp(member), next, false);
        }
        if own.touch != Touch::Full {
            next.member_mut(member).touch = Touch::Full;
            self.push(into, Happening::CatchesUp(member), next.clone(), true);
            next = state.clone();
        }
        if !own.link {
            next.member_mut(member).link = true;
            self.push(into, Happening::LinkHeals(member), next.clone(), true);
            next = state.clone();
        }
        if let Server::Zombie(_) = own.server {
            next.member_mut(member).stop_server();
            self.push(into, Happening::Thaws(member), next, true);
        }
    }

    fn replicate(&mut self, state: &State, member: u8, into: Into<'_>) {
        if !state.is_streaming(member) {
            return;
        }
        let source = state.member(state.member(member).upstream).wal;
        if state.member(member).wal.len() < source.len() {
            let mut next = state.clone();
            next.member_mut(member).wal.copy_next(source);
            self.push(into, Happening::Ships(member), next, true);
        }
    }

    fn finish_work(&mut self, state: &State, member: u8, into: Into<'_>) {
        let own = state.member(member);
        if !own.up {
            return;
        }
        if own.proving && own.told != NOTHING && own.opened() > 0 {
            let set = self.records.set(own.told).clone();
            let flushed =
                set.voters.iter().filter(|voter| self.has_flushed(state, member, voter, own.wal.len()));
            if flushed.count() >= set.k as usize {
                let mut next = state.clone();
                next.member_mut(member).proven = own.told;
                next.member_mut(member).proving = false;
                self.push(into, Happening::NamesProven(member), next, true);
            }
        }
        self.give_up(state, member, into);
        let mut next = state.clone();
        let changed = next.member_mut(member);
        changed.work = Work::Nothing;
        match own.work {
            Work::Nothing => return,
            // What it was decided on is looked at again: nothing happened to the server, nothing was promised since.
            Work::Follow { epoch, .. } if own.sealed >= epoch || !own.scanned => {}
            Work::Follow { member: source, epoch } => {
                changed.upstream = source;
                changed.upstream_epoch = epoch;
                changed.scanned = false;
                if let Server::Down(_) = own.server {
                    changed.server = Server::Standby;
                }
            }
            Work::Rewind { member: source, epoch } | Work::Clone { member: source, epoch } => {
                let from = state.member(source);
                if !from.is_running() || from.opened() != epoch || !own.link {
                    return;
                }
                // `pg_rewind` finds nothing to do between equal timeline numbers.
                let idle =
                    matches!(own.work, Work::Rewind { .. }) && own.wal.timeline() == from.wal.timeline();
                if !idle {
                    changed.wal = from.wal;
                }
                changed.newest_incarnation += 1;
                changed.incarnation = changed.newest_incarnation;
            }
        }
        self.push(into, Happening::WorkDone(member), next, true);
    }

    fn give_up(&mut self, state: &State, member: u8, into: Into<'_>) {
        let record = self.records.record(state.record);
        let voters = record.sync().into_iter().flat_map(|sync| &sync.voters);
        let voters: Vec<u8> = voters.map(|voter| self.minds.number(&voter.member)).collect();
        for voter in voters {
            let bit = 1 << voter;
            if state.member(member).opened() > 0 && state.member(member).lost & bit == 0 {
                let mut next = state.clone();
                next.member_mut(member).lost |= bit;
                self.push(into, Happening::GivenUp(member, voter), next, true);
            }
        }
    }

    /// Time passes for a holder that reaches nobody; an answer that was under way may still arrive.
    fn lease_passes(&mut self, state: &State, member: u8, into: Into<'_>) {
        let own = state.member(member);
        let mut next = state.clone();
        let changed = next.member_mut(member);
        match own.lease {
            Lease::Valid(epoch) if own.touch == Touch::Cut => {
                changed.lease = Lease::Lapsed(epoch);
                if let Server::Opened(opened) = own.server {
                    if self.scope.freeze && self.may_fail(state) {
                        let mut frozen = next.clone();
                        frozen.member_mut(member).server = Server::Zombie(opened);
                        frozen.spent.faults += 1;
                        self.push(into, Happening::Fault("guard frozen", member), frozen, false);
                    }
                    next.member_mut(member).stop_server();
                }
                self.push(into, Happening::Lapses(member), next, false);
            }
            Lease::Lapsed(epoch) if own.opened() == 0 && !self.has_run_out(state, epoch) => {
                changed.lease = Lease::Valid(epoch);
                self.push(into, Happening::Regains(member), next, false);
            }
            _ => {}
        }
    }

    /// Whether a majority has promised never to answer `epoch` again.
    fn has_run_out(&self, state: &State, epoch: u8) -> bool {
        let record = self.records.record(state.record);
        match record.tenure() {
            Some(tenure) if small(tenure.epoch) == epoch => state.run_out,
            _ => true,
        }
    }

    /// Whoever does not hold the lease now will not hold it again once a majority has said so.
    fn run_out(&mut self, state: &State, into: Into<'_>) {
        let Some(tenure) = self.records.record(state.record).tenure() else { return };
        let (holder, epoch) = (self.minds.number(&tenure.holder), small(tenure.epoch));
        let own = state.member(holder);
        if state.run_out || own.up && own.lease == Lease::Valid(epoch) {
            return;
        }
        let mut next = state.clone();
        next.run_out = true;
        if own.lease.epoch() == epoch {
            next.member_mut(holder).lease = Lease::None;
        }
        self.push(into, Happening::RunsOut, next, true);
    }

    fn client_commits(&mut self, state: &State, member: u8, into: Into<'_>) {
        let own = state.member(member);
        if own.opened() == 0 || !own.gate || state.spent.commits >= self.scope.commits || own.wal.is_full() {
            return;
        }
        let mut next = state.clone();
        let content = FIRST_COMMIT + state.spent.commits;
        let timeline = own.wal.timeline();
        next.member_mut(member).wal.push(timeline, content);
        next.spent.commits += 1;
        let record = self.records.record(state.record);
        if record.epoch.0 > u64::from(own.opened()) && !matches!(record.phase, Phase::Ended { .. }) {
            next.late |= commit_bit(content);
        }
        self.push(into, Happening::ClientCommits(member), next, false);
    }

    fn commit_late(&mut self, state: &State, into: Into<'_>) {
        for command in state.in_flight.into_iter().filter(|command| *command != NOTHING) {
            let after = self.records.apply(state.record, command);
            if after == state.record {
                continue;
            }
            let next = State { record: after, ..state.clone() };
            self.push(into, Happening::Committed(command), next.clone(), false);
            let Command::Grant { epoch, holder, request, .. } = self.records.command(command) else {
                continue;
            };
            let (holder, epoch) = (self.minds.number(holder), small(*epoch));
            // Only the process that asked knows when it asked.
            if state.member(holder).up && u64::from(state.member(holder).life) == *request {
                for lease in [Lease::Valid(epoch), Lease::Lapsed(epoch)] {
                    let mut granted = next.clone();
                    granted.member_mut(holder).lease = lease;
                    self.push(into, Happening::Committed(command), granted, false);
                }
            }
        }
    }

    /// The machine's memory is lost; its disk is as it was.
    pub(super) fn machine_down(&self, next: &mut State, member: u8) {
        let own = next.member_mut(member);
        own.forget();
        own.stop_server();
        own.server = Server::Down(0);
        own.up = false;
        own.touch = Touch::Full;
        own.link = true;
        own.lease = Lease::None;
    }

    /// The directory is gone, with everything that stood in it.
    pub(super) fn directory_gone(&self, next: &mut State, member: u8) {
        let own = next.member_mut(member);
        own.stop_server();
        own.server = Server::Down(own.opened());
        own.wal = super::wal::Wal::default();
        own.incarnation = 0;
        own.scanned = false;
        own.upstream = NOBODY;
        own.upstream_epoch = 0;
        own.work = Work::Nothing;
    }
}
