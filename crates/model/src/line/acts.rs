//! What members do by their own decision, step by step as the shell does it.

use super::world::{
    FIRST_COMMIT, Lease, MEMBERS, MOST_COMMITS, NOBODY, NOTHING, Server, State, Touch, Work, end_of_recovery,
};
use super::{Happening, Line};
use crate::explore::{Successor, Violation};

/// What one decision asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    Propose(u32),
    Request(u8),
    Read,
    Relinquish(u8),
    Kill,
    Seal(u8),
    Start,
    Open { epoch: u8, timeline: u8, set: u32 },
    Follow { member: u8, epoch: u8 },
    Rewind { member: u8, epoch: u8 },
    Clone { member: u8, epoch: u8 },
    SetNames(u32),
    OpenGate(u8),
}

type Into<'a> = &'a mut Vec<Successor<State, Happening>>;

impl Line {
    pub(super) fn decisions(&mut self, state: &State, into: Into<'_>) {
        for member in (0..MEMBERS).filter(|member| state.member(*member).up) {
            let decisions = self.minds.decide(&mut self.records, state, member);
            for acts in decisions.iter() {
                // What is given up is given up before anything else in the list is done.
                let mut before = state.clone();
                for act in acts {
                    if let Act::Relinquish(epoch) = act {
                        if before.member(member).lease.epoch() == *epoch {
                            before.member_mut(member).lease = Lease::None;
                            // Who can propose does so in the same instant, or at any later time.
                            if before.member(member).touch == Touch::Cut || self.scope.in_flight {
                                self.push(into, Happening::Acts(member, *act, "does"), before.clone(), true);
                            }
                        }
                    } else {
                        self.act(&before, member, *act, into);
                    }
                }
            }
        }
    }

    fn act(&mut self, state: &State, member: u8, act: Act, into: Into<'_>) {
        match act {
            Act::Propose(command) => self.propose(state, member, command, into),
            Act::Request(epoch) => {
                let command = self.minds.grant(&mut self.records, state, member, epoch);
                self.request(state, member, command, into);
            }
            Act::Open { epoch, timeline, set } => self.open(state, member, (epoch, timeline, set), into),
            Act::Rewind { member: source, epoch } => {
                self.change_directory(state, member, Work::Rewind { member: source, epoch }, act, into);
            }
            Act::Clone { member: source, epoch } => {
                self.change_directory(state, member, Work::Clone { member: source, epoch }, act, into);
            }
            _ => {
                let mut next = state.clone();
                self.act_alone(&mut next, member, act);
                self.push(into, Happening::Acts(member, act, "does"), next, true);
            }
        }
    }

    /// What changes only the member itself.
    fn act_alone(&self, next: &mut State, member: u8, act: Act) {
        let newest = next.record;
        let epoch = super::sight::small(self.records.record(newest).epoch);
        let upstream = next.member(member).upstream;
        let attached = upstream != NOBODY && next.is_attached(member, upstream);
        let own = next.member_mut(member);
        match act {
            Act::Read if own.touch != Touch::Cut => {
                own.touch = Touch::Full;
                own.view = newest;
                own.confirmed = epoch;
            }
            // A frozen guard ends nothing.
            Act::Kill if !matches!(own.server, Server::Zombie(_)) => own.stop_server(),
            Act::Seal(epoch) => {
                own.work = Work::Nothing;
                // Between the promise and the end of the stream another record may be received.
                let at_once = own.sealed >= epoch || !attached;
                own.sealed = own.sealed.max(epoch);
                if at_once {
                    own.upstream = NOBODY;
                    own.upstream_epoch = 0;
                    own.scanned = true;
                }
            }
            Act::Start => {
                own.server = Server::Standby;
                own.work = Work::Nothing;
            }
            Act::Follow { member, epoch } => own.work = Work::Follow { member, epoch },
            Act::SetNames(set) if own.told != set || !own.proving => {
                own.told = set;
                own.proven = NOTHING;
                own.proving = true;
            }
            Act::OpenGate(epoch) if own.opened() == epoch && !own.gate => {
                own.gate = true;
                let seen = commits(own.wal.contents());
                next.kept |= seen;
            }
            _ => {}
        }
    }

    fn propose(&mut self, state: &State, member: u8, command: u32, into: Into<'_>) {
        if state.member(member).touch != Touch::Cut {
            let mut next = state.clone();
            next.record = self.records.apply(state.record, command);
            if next.record != state.record {
                self.push(into, Happening::Acts(member, Act::Propose(command), "commits"), next, true);
            }
        }
        self.leave_in_flight(state, member, command, into);
    }

    /// The command may be committed at any time later.
    fn leave_in_flight(&mut self, state: &State, member: u8, command: u32, into: Into<'_>) {
        if !self.scope.in_flight || !self.may_fail(state) || state.in_flight.contains(&command) {
            return;
        }
        if let Some(free) = state.in_flight.iter().position(|slot| *slot == NOTHING) {
            let mut next = state.clone();
            next.in_flight[free] = command;
            next.in_flight.sort_unstable();
            next.spent.faults += 1;
            self.push(into, Happening::Acts(member, Act::Propose(command), "proposes"), next, false);
        }
    }

    fn request(&mut self, state: &State, member: u8, command: u32, into: Into<'_>) {
        let bound = self.scope.epochs + 3;
        if self.records.record(state.record).epoch.0 >= u64::from(bound) {
            return;
        }
        self.leave_in_flight(state, member, command, into);
        let after = self.records.apply(state.record, command);
        if state.member(member).touch == Touch::Cut || after == state.record {
            return;
        }
        let mut next = State { record: after, ..state.clone() };
        let epoch = super::sight::small(self.records.record(after).epoch);
        next.member_mut(member).lease = Lease::Valid(epoch);
        self.push(into, Happening::Acts(member, Act::Propose(command), "is granted"), next.clone(), true);
        if self.scope.late && self.may_fail(state) {
            next.member_mut(member).lease = Lease::Lapsed(epoch);
            next.spent.faults += 1;
            self.push(into, Happening::Acts(member, Act::Propose(command), "is granted late"), next, false);
        }
    }

    /// Names first, then the guard looks at the deadline and promotes.
    fn open(&mut self, state: &State, member: u8, (epoch, timeline, set): (u8, u8, u32), into: Into<'_>) {
        let own = state.member(member);
        if own.server != Server::Standby || own.lease != Lease::Valid(epoch) || own.wal.is_full() {
            return;
        }
        let act = Act::Open { epoch, timeline, set };
        if self.scope.fail && self.may_fail(state) && own.failed_open != epoch {
            let mut next = state.clone();
            next.member_mut(member).failed_open = epoch;
            next.spent.faults += 1;
            self.push(into, Happening::Acts(member, act, "fails"), next, false);
        }
        let mut next = state.clone();
        let own = next.member_mut(member);
        own.work = Work::Nothing;
        // Effective, but not proven: nobody has flushed what was recovered.
        own.told = set;
        own.upstream = NOBODY;
        own.upstream_epoch = 0;
        own.scanned = false;
        own.server = Server::Opened(epoch);
        // PostgreSQL takes the number after the newest that it knows; empty files make it know the one before the reserved.
        let next_number = own.wal.timeline() + 1;
        if self.scope.renumber && self.may_fail(state) && next_number < timeline {
            let mut renumbered = next.clone();
            renumbered.member_mut(member).wal.push(next_number, end_of_recovery(epoch));
            renumbered.spent.faults += 1;
            self.push(into, Happening::Acts(member, act, "misnumbers"), renumbered, false);
        }
        next.member_mut(member).wal.push(timeline.max(next_number), end_of_recovery(epoch));
        self.push(into, Happening::Acts(member, act, "does"), next, true);
    }

    /// The record is read anew, then the directory is marked; until the work is done it is nobody's.
    fn change_directory(&mut self, state: &State, member: u8, work: Work, act: Act, into: Into<'_>) {
        let own = state.member(member);
        if own.work == work || own.touch == Touch::Cut {
            return;
        }
        if own.touch == Touch::Lagging {
            let mut next = state.clone();
            next.member_mut(member).touch = Touch::Full;
            return self.push(into, Happening::CatchesUp(member), next, true);
        }
        let base = self.records.record(state.record).base.clone();
        let voter = mainstay_core::sync::Voter {
            member: self.minds.name(member).clone(),
            incarnation: super::sight::incarnation_of(member, own.incarnation),
        };
        let votes = own.incarnation > 0 && base.is_some_and(|base| base.sync.voters.contains(&voter));
        let mut next = state.clone();
        let own = next.member_mut(member);
        own.stop_server();
        own.server = Server::Down(0);
        own.incarnation = 0;
        own.scanned = false;
        own.upstream = NOBODY;
        own.upstream_epoch = 0;
        own.work = work;
        self.push(into, Happening::Acts(member, act, "begins"), next, true);
        if votes && let Some(last) = into.last_mut() {
            let detail = format!("{voter:?} proves what was acknowledged, and its directory is replaced");
            last.violation = Some(Violation::new("voters_untouched", detail));
        }
    }

    /// Whether another fault fits into the bounds.
    pub(super) fn may_fail(&self, state: &State) -> bool {
        state.spent.faults < self.scope.faults
            && self.records.record(state.record).epoch.0 <= u64::from(self.scope.epochs)
    }

    /// Adds the state once everything has followed that follows at once.
    pub(super) fn push(&mut self, into: Into<'_>, step: Happening, mut state: State, progress: bool) {
        let violation = self.settle(&mut state);
        into.push(Successor { step, state, progress, violation });
    }

    /// What follows at once: records are seen, leases of others forgotten, commits acknowledged as early as can be.
    fn settle(&mut self, state: &mut State) -> Option<Violation> {
        let record = self.records.record(state.record).clone();
        let tenure = record
            .tenure()
            .map(|tenure| (super::sight::small(tenure.epoch), self.minds.number(&tenure.holder)));
        state.run_out &= tenure.is_some();
        let newest = state.record;
        let epoch = super::sight::small(record.epoch);
        for number in 0..MEMBERS {
            let own = state.member_mut(number);
            if own.touch == Touch::Full {
                own.view = newest;
                // A read that is wanted succeeds at once; a member that acts late is one that has not been asked yet.
                own.confirmed = epoch;
            }
            let held = tenure.filter(|(_, holder)| *holder == number).map_or(0, |(epoch, _)| epoch);
            let lease = own.lease.epoch();
            if own.touch == Touch::Full && lease != held && lease != own.opened() {
                own.lease = Lease::None;
            }
            if own.touch == Touch::Full && own.failed_open != held {
                own.failed_open = 0;
            }
            let streaming = (0..MEMBERS).filter(|member| state.is_streaming(*member));
            let streaming = streaming.filter(|member| state.member(*member).upstream == number);
            let found = streaming.fold(0, |bits, member| bits | (1 << member));
            let own = state.member_mut(number);
            own.lost = if own.opened() > 0 { own.lost & !found } else { 0 };
        }
        self.acknowledge(state)
    }

    fn acknowledge(&mut self, state: &mut State) -> Option<Violation> {
        for number in 0..MEMBERS {
            let own = *state.member(number);
            if own.opened() == 0 || !own.gate {
                continue;
            }
            let set = self.records.set(own.told).clone();
            for content in FIRST_COMMIT..FIRST_COMMIT + MOST_COMMITS {
                let bit = commit_bit(content);
                let Some(end) = own.wal.end_of(content).filter(|_| state.kept & bit == 0) else { continue };
                let flushed =
                    |voter: &&mainstay_core::sync::Voter| self.has_flushed(state, number, voter, end);
                if set.voters.iter().filter(flushed).count() >= set.k as usize {
                    state.kept |= bit;
                    if state.late & bit != 0 {
                        let detail =
                            "a commit was made and acknowledged under an epoch that others had succeeded";
                        return Some(Violation::new("one_writer", detail));
                    }
                }
            }
        }
        None
    }

    /// Whether PostgreSQL on `primary` takes `voter` to have flushed up to `end`: it compares bare positions.
    pub(super) fn has_flushed(
        &self,
        state: &State,
        primary: u8,
        voter: &mainstay_core::sync::Voter,
        end: u8,
    ) -> bool {
        let number = self.minds.number(&voter.member);
        let member = state.member(number);
        let same_life = super::sight::incarnation_of(number, member.incarnation) == voter.incarnation;
        let really = member.wal.cut(end) == state.member(primary).wal.cut(end);
        let as_reported = state.is_attached(number, primary);
        member.incarnation > 0 && same_life && member.wal.len() >= end && (really || as_reported)
    }
}

pub(super) fn commit_bit(content: u8) -> u8 {
    1 << (content - FIRST_COMMIT)
}

/// The commits among these contents.
pub(super) fn commits(contents: impl Iterator<Item = u8>) -> u8 {
    let commits = contents.filter(|content| (FIRST_COMMIT..FIRST_COMMIT + MOST_COMMITS).contains(content));
    commits.fold(0, |bits, content| bits | commit_bit(content))
}
