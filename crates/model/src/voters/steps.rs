//! What each process may do next, at any time.

use mainstay_core::Epoch;
use mainstay_core::lease::{Answer, Grantor, Holder};
use mainstay_core::record::{Applied, Command, Record};

use super::{EPOCH, MACHINES, Machines, State, Step, Voters, has, only};
use crate::explore::Successor;

impl Voters {
    pub(super) fn push(into: &mut Vec<Successor<State, Step>>, step: Step, state: State) {
        into.push(Successor { step, state, progress: false, violation: None });
    }

    pub(super) fn voters_act(&self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        let known = self.known(state);
        for voter in self.in_scope() {
            let now = self.clock(voter, state.tick);
            let is_asked = known.voters().chain(known.outgoing()).any(|asked| *asked == self.names[voter]);
            let mut next = state.clone();
            if is_asked && next.grantors[voter].renew(now, EPOCH) == Answer::Promised {
                next.holder.answered(&self.names[voter], self.clock(0, state.tick));
                next.answered[voter] = Some(state.tick);
                self.arm(&mut next);
                Voters::push(into, Step::Renews { voter }, next);
            }
            let mut next = state.clone();
            let said = state.grantors[voter].says_run_out(EPOCH);
            if !said && next.grantors[voter].run_out(now) == Some(EPOCH) {
                next.grantors[voter].promise(EPOCH);
                Voters::push(into, Step::SaysRunOut { voter }, next);
            }
            self.replaced(state, voter, into);
        }
    }

    /// By the record nobody counts on it: a new machine may get its name.
    fn replaced(&self, state: &State, machine: usize, into: &mut Vec<Successor<State, Step>>) {
        let record = &self.records[self.committed(state)];
        let counts = record.voters().chain(record.outgoing()).any(|voter| *voter == self.names[machine]);
        if counts || machine == 0 || state.replaced >= self.scope.replaced {
            return;
        }
        let mut next = state.clone();
        if state.grantors[machine].says_run_out(EPOCH) {
            next.old_words |= only(machine);
        }
        let now = self.clock(machine, state.tick);
        next.grantors[machine] = Grantor::new(now, self.lease, Epoch(0));
        next.grantors[machine].learn(now, record);
        next.replaced += 1;
        Voters::push(into, Step::Replaced { machine }, next);
    }

    pub(super) fn holder_acts(&self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        let serial = |known: usize| self.records[state.history[known]].membership.serial;
        if state.known + 1 < state.history.len() {
            let mut next = State { known: state.known + 1, ..state.clone() };
            if serial(next.known) != serial(state.known) {
                next.learnt = state.tick;
            }
            next.seen = next.seen.max(serial(next.known));
            next.holder.has_seen(next.seen);
            self.arm(&mut next);
            Voters::push(into, Step::Learns, next);
        }
        let known = self.known(state);
        if state.durable < known.membership.serial {
            let next = State { durable: known.membership.serial, ..state.clone() };
            Voters::push(into, Step::WritesDown, next);
        }
        let bit = 1 << known.membership.serial;
        let rests = state.holder.rests_on(known, self.clock(0, state.learnt), state.durable);
        if rests && known.outgoing().next().is_some() && state.proposed & bit == 0 {
            let next = State { proposed: state.proposed | bit, ..state.clone() };
            Voters::push(into, Step::ProposesToSettle, next);
        }
        if self.clock(0, state.tick) < state.armed && state.restarts < self.scope.restarts {
            for known in 0..=state.known {
                let seen = state.durable.max(serial(known));
                let mut holder = Holder::resumed(EPOCH, self.lease, state.armed, state.durable);
                holder.has_seen(seen);
                let mut next = State { holder, known, seen, learnt: state.tick, ..state.clone() };
                next.answered = [None; MACHINES];
                next.restarts += 1;
                Voters::push(into, Step::HolderRestarts { known }, next);
            }
        }
    }

    pub(super) fn log_grows(&mut self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        if state.over {
            return;
        }
        let number = self.committed(state);
        let serial = self.records[number].membership.serial;
        if let Some(voters) = self.scope.voters.get(state.changes) {
            let command = Command::SetVoters { serial, voters: self.named(*voters) };
            if let Some(mut next) = self.applied(state, command) {
                next.changes += 1;
                Voters::push(into, Step::Changes, next);
            }
        }
        for serial in (1..8).filter(|serial| has(state.proposed, *serial)) {
            let serial = serial as u64;
            if let Some(next) = self.applied(state, Command::SettleVoters { serial }) {
                Voters::push(into, Step::Settles { serial }, next);
            }
        }
        let words: Machines = self.says_run_out(state);
        if self.ends(number, serial, words) {
            Voters::push(into, Step::Ends { old_words: false }, State { over: true, ..state.clone() });
        } else if state.old_words != 0 && self.ends(number, serial - 1, words | state.old_words) {
            // Somebody has kept what the old machine said, and knows the newest record.
            Voters::push(into, Step::Ends { old_words: true }, State { over: true, ..state.clone() });
        }
    }

    fn applied(&mut self, state: &State, command: Command) -> Option<State> {
        let mut record = Record::clone(&self.records[self.committed(state)]);
        if record.apply(command) != Applied::Done {
            return None;
        }
        let number = self.number(record);
        let mut next = state.clone();
        next.history.push(number);
        Some(next)
    }
}
