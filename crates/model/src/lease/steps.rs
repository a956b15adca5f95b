//! What each process may do next, at any time.

use mainstay_core::lease::{Answer, Grantor, Holder};
use mainstay_core::{Epoch, Now};

use super::{Lease, MACHINES, State, Step, Tenure, Voter};
use crate::explore::Successor;

impl Lease {
    pub(super) fn push(into: &mut Vec<Successor<State, Step>>, step: Step, state: State) {
        into.push(Successor { step, state, progress: false, violation: None });
    }

    pub(super) fn holders(&self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        for (epoch, tenure) in state.tenures.iter().enumerate() {
            let Some(tenure) = tenure else { continue };
            let mut change = |step: Step, changed: Tenure| {
                let mut next = state.clone();
                next.tenures[epoch] = Some(changed);
                Lease::push(into, step, next);
            };
            for voter in (0..MACHINES).filter(|_| self.scope.late) {
                if let Some(sent) = tenure.answers[voter] {
                    let mut changed = tenure.clone();
                    changed.answers[voter] = None;
                    self.answer(&mut changed, voter, sent);
                    change(Step::Answered { epoch, voter }, changed);
                }
            }
            let now = self.clock(tenure.machine, state.tick);
            let lives = now < self.deadline(tenure);
            if lives && state.restarts < self.scope.restarts {
                // The guard was armed until then; what was under way to the old process is lost.
                let mut next = state.clone();
                let holder = Holder::resumed(Epoch(epoch as u64 + 1), self.lease, self.deadline(tenure), 0);
                let none = [None; MACHINES];
                next.tenures[epoch] =
                    Some(Tenure { holder, answered: none, answers: none, ..tenure.clone() });
                next.restarts += 1;
                Lease::push(into, Step::HolderRestarts(epoch), next);
            }
        }
    }

    pub(super) fn voters(&self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        for voter in 0..MACHINES {
            let now = self.clock(voter, state.tick);
            for (epoch, tenure) in state.tenures.iter().enumerate() {
                let Some(tenure) = tenure else { continue };
                let earliest = if self.scope.late { tenure.since } else { state.tick };
                for sent in earliest..=state.tick {
                    let mut next = state.clone();
                    let answer = next.voters[voter].grantor.renew(now, Epoch(epoch as u64 + 1));
                    if let Some(tenure) = next.tenures[epoch].as_mut().filter(|_| answer == Answer::Promised)
                    {
                        if self.scope.late {
                            let newest = tenure.answers[voter].map_or(sent, |older| older.max(sent));
                            tenure.answers[voter] = Some(newest);
                        } else {
                            self.answer(tenure, voter, sent);
                        }
                    }
                    Lease::push(into, Step::Receives { epoch, voter, sent }, next);
                }
            }
            // Who learns late counts from later: it learns at once, or a renewal comes first.
            let fresh = state.logged == state.tick || state.voters[voter].started == state.tick;
            if fresh && state.voters[voter].learned <= state.log {
                let mut next = state.clone();
                next.voters[voter].grantor.learn(now, &self.records[state.log]);
                next.voters[voter].learned = state.log + 1;
                Lease::push(into, Step::Learns(voter), next);
            }
            self.voter_speaks(state, voter, now, into);
            if state.restarts < self.scope.restarts {
                let mut next = state.clone();
                let durable = next.voters[voter].durable;
                next.voters[voter] = Voter {
                    grantor: Grantor::new(now, self.lease, durable),
                    closing: Epoch(0),
                    durable,
                    learned: 0,
                    started: state.tick,
                };
                next.restarts += 1;
                Lease::push(into, Step::VoterRestarts(voter), next);
            }
        }
    }

    /// It stops answering, then the promise becomes durable, then it is made, then it is told. The shell asks a majority
    /// whether they see the same before the first; here a voter goes ahead alone.
    fn voter_speaks(&self, state: &State, voter: usize, now: Now, into: &mut Vec<Successor<State, Step>>) {
        let own = &state.voters[voter];
        let mut next = state.clone();
        let changed = &mut next.voters[voter];
        if let Some(epoch) = changed.grantor.run_out(now).filter(|epoch| *epoch > own.closing) {
            changed.closing = epoch;
            Lease::push(into, Step::Closes(voter), next);
        }
        let mut next = state.clone();
        let changed = &mut next.voters[voter];
        if own.closing > own.durable {
            changed.durable = own.closing;
            Lease::push(into, Step::Promises(voter), next);
        } else if own.closing > Epoch(0) && !own.grantor.says_run_out(own.closing) {
            changed.grantor.promise(own.closing);
            Lease::push(into, Step::Promises(voter), next);
        }
        let (epoch, live) = self.newest(state);
        if live && !state.said[voter] && own.grantor.says_run_out(Epoch(epoch as u64)) {
            let mut next = state.clone();
            next.said[voter] = true;
            Lease::push(into, Step::SaysRunOut(voter), next);
        }
    }

    pub(super) fn store(&mut self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        let (epoch, live) = self.newest(state);
        if live && self.ends(state.log, state.said) {
            let next =
                State { log: state.log + 1, logged: state.tick, said: [false; MACHINES], ..state.clone() };
            Lease::push(into, Step::Ends, next);
        }
        if epoch == 1 && !live && self.scope.next && state.requested.is_none() {
            Lease::push(into, Step::Requests, State { requested: Some(state.tick), ..state.clone() });
        }
        if epoch == 1
            && !live
            && let Some(requested) = state.requested
        {
            let mut next = State { log: state.log + 1, logged: state.tick, ..state.clone() };
            let machine = self.scope.heir;
            let holder = Holder::granted(Epoch(2), self.lease, self.clock(machine, requested));
            let none = [None; MACHINES];
            next.tenures[1] =
                Some(Tenure { machine, holder, since: state.tick, answered: none, answers: none });
            Lease::push(into, Step::Granted, next);
        }
    }
}
