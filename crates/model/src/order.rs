//! The order law of synchronous replication, with the shipped `plan`, `apply` and proof of who may be promoted.
//!
//! One epoch of one primary. Every process of PostgreSQL acts on a copy of its own of the names, and reads them anew at
//! any time after they were written: the postmaster, from which new walsenders inherit; the checkpointer, without
//! whom backends do not wait; each walsender. What a walsender acts on is a mixture: who counts is what each of the others
//! last read of itself, how many must have flushed is its own copy. The member plans on what it has seen of the record,
//! is restarted at any time, changes its mind at any time; what it proposes is committed late, twice or never.
//!
//! Nothing of this is bounded but the number of standbys and of proposals under way: only the order of positions is
//! remembered, and whether a proposal still has the serial of the record.

mod postgres;
mod shipped;
mod state;

use crate::explore::{Model, Outlook, Successor, Violation, fingerprint};
use postgres::Processes;
use shipped::{Plan, Shipped};
use state::{Job, Positions, Proposal, STANDBYS, Set};
pub use state::{Proof, Scope, State, Step};

pub struct Order {
    scope: Scope,
    shipped: Shipped,
    /// Every set that the member may come to want.
    targets: Vec<Set>,
    /// The ways to rename the standbys.
    renamings: Vec<[usize; STANDBYS]>,
}

impl Order {
    pub fn new(scope: Scope) -> Order {
        let shipped = Shipped::new(scope.standbys);
        let standbys = usize::from(scope.standbys);
        let targets = (0..1u8 << standbys).map(|voters| shipped.wanted(voters)).collect();
        let all = [[0, 1, 2], [1, 0, 2], [0, 2, 1], [2, 1, 0], [1, 2, 0], [2, 0, 1]];
        let keeps = |renaming: &[usize; STANDBYS]| (standbys..STANDBYS).all(|at| renaming[at] == at);
        Order { scope, shipped, targets, renamings: all.into_iter().filter(keeps).collect() }
    }

    /// What the member wants when every standby is well.
    fn everyone(&self) -> Set {
        *self.targets.last().expect("at least one set")
    }

    fn push(&mut self, into: &mut Vec<Successor<State, Step>>, step: Step, mut state: State, progress: bool) {
        self.acknowledge(&mut state);
        state.positions.ranked();
        state.in_flight.sort_unstable();
        let violation = self.check(&state);
        into.push(Successor { step, state, progress, violation });
    }

    /// As early as can be: what is acknowledged later is no more.
    fn acknowledge(&self, state: &mut State) {
        let positions = &mut state.positions;
        let acknowledged = state.processes.acknowledged(&positions.flushed, positions.inserted);
        positions.acknowledged = positions.acknowledged.max(acknowledged);
    }

    /// What the member does next, whatever it has come to want.
    fn decides(&mut self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        let mut wanted = self.targets.clone();
        if !wanted.contains(&state.seen.sync) {
            wanted.push(state.seen.sync);
        }
        let everyone = self.everyone();
        let mut done: Vec<Plan> = Vec::new();
        // What everybody's being well leads to comes first: the others may lead to the same.
        for target in wanted.into_iter().rev() {
            let plan = self.shipped.plan(state.proven, &state.seen, target);
            if done.contains(&plan) && target != everyone {
                continue;
            }
            done.push(plan);
            match plan {
                Plan::Done => {}
                Plan::Names(names) => self.writes(state, names, target == everyone, into),
                Plan::Record { sync, names } => {
                    let proposal = Proposal { sync, names, current: state.seen.current };
                    self.proposes(state, proposal, target == everyone, into);
                }
            }
        }
    }

    fn writes(&mut self, state: &State, names: Set, progress: bool, into: &mut Vec<Successor<State, Step>>) {
        if matches!(state.job, Job::Moving(under_way) | Job::Flushing(under_way) if under_way == names) {
            return;
        }
        let mut next = state.clone();
        next.processes.write(names, self.scope.reconnects);
        next.proven = None;
        next.job = Job::Moving(names);
        next.positions.awaited = 0;
        self.push(into, Step::Writes(names.k, names.voters), next, progress);
    }

    fn proposes(
        &mut self,
        state: &State,
        proposal: Proposal,
        progress: bool,
        into: &mut Vec<Successor<State, Step>>,
    ) {
        let mut next = state.clone();
        if self.commit(&mut next, proposal) {
            next.seen = Proposal { sync: next.sync, names: next.names, current: true };
            self.push(into, Step::Commits, next, progress);
        }
        let slots = &state.in_flight[2 - usize::from(self.scope.in_flight)..];
        let lives = proposal.current || self.shipped.takes_late();
        if lives
            && !slots.contains(&Some(proposal))
            && let Some(free) = slots.iter().position(Option::is_none)
        {
            let mut next = state.clone();
            next.in_flight[2 - slots.len() + free] = Some(proposal);
            self.push(into, Step::Proposes, next, false);
        }
    }

    /// Whether the record takes it; everything proposed on what it was before has another serial then.
    fn commit(&mut self, state: &mut State, proposal: Proposal) -> bool {
        if !self.shipped.applies(state.sync, state.names, proposal) {
            return false;
        }
        (state.sync, state.names) = (proposal.sync, proposal.names);
        state.seen.current = false;
        let late = self.shipped.takes_late();
        state.in_flight = state
            .in_flight
            .map(|slot| slot.filter(|_| late).map(|proposal| Proposal { current: false, ..proposal }));
        true
    }

    fn commits_late(&mut self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        for (slot, proposal) in state.in_flight.iter().enumerate() {
            let Some(proposal) = *proposal else { continue };
            let mut next = state.clone();
            if self.commit(&mut next, proposal) {
                self.push(into, Step::CommittedLate, next, false);
            }
            let mut next = state.clone();
            next.in_flight[slot] = None;
            self.push(into, Step::Lost, next, true);
        }
    }

    fn member(&mut self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        let newest = Proposal { sync: state.sync, names: state.names, current: true };
        if state.seen != newest {
            self.push(into, Step::Sees, State { seen: newest, ..state.clone() }, true);
        }
        if state.proven.is_some() || state.job != Job::Nothing {
            // It reads the record before it decides anything.
            let mut next = State { seen: newest, proven: None, job: Job::Nothing, ..state.clone() };
            next.positions.awaited = 0;
            self.push(into, Step::Restarts, next, false);
        }
        match state.job {
            Job::Nothing => {}
            Job::Moving(names) if state.processes.act_on(names, self.scope.proof) => {
                let mut next = State { job: Job::Flushing(names), ..state.clone() };
                next.positions.awaited = next.positions.inserted;
                self.push(into, Step::Effective, next, true);
            }
            Job::Moving(_) => {}
            Job::Flushing(names) => {
                let Positions { flushed, awaited, .. } = state.positions;
                let count = (0..STANDBYS).filter(|at| names.has(*at) && flushed[*at] >= awaited).count();
                if count >= usize::from(names.k) || self.scope.proof == Proof::WithoutFlush {
                    let mut next = State { job: Job::Nothing, proven: Some(names), ..state.clone() };
                    next.positions.awaited = 0;
                    self.push(into, Step::Proven, next, true);
                }
            }
        }
    }

    fn postgresql(&mut self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        for (process, processes) in state.processes.readings() {
            self.push(into, Step::Reads(process), State { processes, ..state.clone() }, true);
        }
        for standby in 0..usize::from(self.scope.standbys) {
            let mut next = state.clone();
            if next.processes.disconnect(standby) {
                if self.scope.reconnects {
                    self.push(into, Step::Disconnects(standby), next, false);
                }
                if state.positions.flushed[standby] < state.positions.inserted {
                    // How far it gets is decided by what is inserted by then.
                    let mut next = state.clone();
                    next.positions.flushed[standby] = next.positions.inserted;
                    self.push(into, Step::Flushes(standby), next, true);
                }
            } else {
                next.processes.connect(standby);
                self.push(into, Step::Connects(standby), next, true);
            }
        }
        let mut next = state.clone();
        next.positions.inserted += 1;
        self.push(into, Step::ClientCommits, next, false);
    }

    fn check(&mut self, state: &State) -> Option<Violation> {
        let unsafe_names = state.processes.acted_on().find(|names| !self.shipped.is_safe(*names, state.sync));
        if let Some(names) = unsafe_names {
            let detail = format!("a process may act on {names}, the record says {}", state.sync);
            return Some(Violation::new("order_law", detail));
        }
        let Positions { flushed, acknowledged, .. } = state.positions;
        let holding = (0..STANDBYS).filter(|standby| flushed[*standby] >= acknowledged);
        let holding = holding.fold(0, |bits, standby| bits | (1 << standby));
        let lost = acknowledged > 0 && !self.shipped.survives(state.sync, state.names, holding);
        lost.then(|| {
            let detail = format!("the record says {}, and a standby without it may be promoted", state.sync);
            Violation::new("nothing_acknowledged_lost", detail)
        })
    }
}

impl Model for Order {
    type State = State;
    type Step = Step;

    /// Everybody is well, and has all that there is.
    fn initial(&mut self) -> Vec<State> {
        let set = self.everyone();
        vec![State {
            sync: set,
            names: set,
            seen: Proposal { sync: set, names: set, current: true },
            in_flight: [None; 2],
            proven: Some(set),
            job: Job::Nothing,
            processes: Processes::new(set, self.scope.standbys),
            positions: Positions { flushed: [0; STANDBYS], acknowledged: 0, inserted: 0, awaited: 0 },
        }]
    }

    fn successors(&mut self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        self.decides(state, into);
        self.commits_late(state, into);
        self.member(state, into);
        self.postgresql(state, into);
    }

    /// The standbys are alike.
    fn hash(&mut self, state: &State) -> u128 {
        let renamed = self.renamings.iter().map(|renaming| fingerprint(&state.renamed(renaming)));
        renamed.min().expect("at least the names as they are")
    }

    fn violation(&mut self, _state: &State) -> Option<Violation> {
        None
    }

    /// Whatever was begun, everybody acknowledges again once everybody is well.
    fn outlook(&mut self, state: &State) -> Outlook {
        let set = self.everyone();
        let arrived = state.sync == set && state.names == set && state.proven == Some(set);
        if arrived { Outlook::Goal } else { Outlook::MustReachGoal }
    }

    fn name(&self, step: &Step) -> String {
        match step {
            Step::Writes(k, voters) => format!("writes {}", Set { voters: *voters, k: *k }),
            other => format!("{other:?}"),
        }
    }

    fn describe(&self, state: &State) -> String {
        let Positions { flushed, acknowledged, inserted, .. } = state.positions;
        let proven = state.proven.map_or("nothing".to_owned(), |names| names.to_string());
        format!(
            "record {} announces {}, proven {proven} | {} | flushed {flushed:?} acknowledged {acknowledged} of {inserted}",
            state.sync, state.names, state.processes
        )
    }
}
