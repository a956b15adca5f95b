//! The promises of the voters: never is a holder's deadline in the future once its lease has been said to have run out.
//!
//! The shipped `Grantor` and `Holder` on three machines whose clocks run at the extremes of what is assumed of them.
//! Renewals are sent, received and answered at any time later, doubled or lost; any process is frozen for any time
//! (it takes no step); voters restart and keep nothing but their durable promise; the holder restarts and learns from its
//! guard until when it is armed; a grant arrives any time after it was asked for.
//!
//! Messages that take time are explored with a short horizon, of several between two processes the newest only: an older
//! one that arrives later binds the voter for longer and the holder for less. With a long horizon each renewal is
//! received and answered in the instant of its sending, or never: by the same argument no delay does worse.

pub(crate) mod shipped;
mod steps;

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::action::Action;
use mainstay_core::decide::{Memory, decide};
use mainstay_core::lease::{Answer, Grantor, Holder};
use mainstay_core::record::{Applied, Record};
use mainstay_core::view::RunOut;
use mainstay_core::{Epoch, MemberId, Now};

use crate::explore::{Model, Successor, Violation, fingerprint};
use shipped::{records, witness_view};

const MACHINES: usize = 3;
/// How far a clock gets in one tick of real time; one to the other as 1 − ε to 1, ε = 0.16.
pub(crate) const SLOW: u64 = 21;
pub(crate) const FAST: u64 = 25;
/// Clock units are 100 ms, so that the least margin of 100 ms is small against the lease.
pub(crate) const UNIT_MS: u64 = 100;
/// What a clock in the middle counts in a tick.
pub(crate) const MIDDLE: u64 = 23;

/// How far the exploration goes.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The machines whose clocks run fast; the first has the first holder, the second the next.
    pub fast: [bool; MACHINES],
    /// How many ticks a lease is about.
    pub lease_ticks: u8,
    /// Whether messages take time.
    pub late: bool,
    /// Whether epoch 1 is over at the start, and the grant of epoch 2 is explored; else it is epoch 1 itself.
    pub next: bool,
    /// The machine of the second holder.
    pub heir: usize,
    /// Restarts of voters and holders, altogether.
    pub restarts: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Voter {
    grantor: Grantor,
    /// Its process has stopped answering this epoch, and is about to make that durable.
    closing: Epoch,
    /// What its disk keeps of its promises.
    durable: Epoch,
    /// How much of the log it has learned since it was started, and when that was.
    learned: usize,
    started: u8,
}

/// The holder of one epoch, and the answers that are under way to it, by the tick of what they answer.
///
/// It sends a renewal to every voter at every tick; one that it did not send, being frozen, is one that was lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Tenure {
    machine: usize,
    holder: Holder,
    /// Since when it renews.
    since: u8,
    /// What each voter has answered, by the tick of sending; the holder itself knows more.
    answered: [Option<u8>; MACHINES],
    answers: [Option<u8>; MACHINES],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    tick: u8,
    /// How many entries of the log are committed, and since when.
    log: usize,
    logged: u8,
    voters: [Voter; MACHINES],
    /// Of epochs 1 and 2; `None` before the grant, and once it was given up.
    tenures: [Option<Tenure>; 2],
    /// When the second grant was asked for.
    requested: Option<u8>,
    /// Who has said to somebody that the lease of the newest epoch has run out.
    said: [bool; MACHINES],
    restarts: u8,
}

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Tick,
    Receives { epoch: usize, voter: usize, sent: u8 },
    Answered { epoch: usize, voter: usize },
    Learns(usize),
    Closes(usize),
    Promises(usize),
    SaysRunOut(usize),
    VoterRestarts(usize),
    HolderRestarts(usize),
    Ends,
    Requests,
    Granted,
}

pub struct Lease {
    scope: Scope,
    lease: Duration,
    names: Vec<MemberId>,
    /// The record after each entry of the log: epoch 1 granted, ended, epoch 2 granted, ended.
    records: Vec<Arc<Record>>,
    /// Whether these voters' words, on that record, make a member propose the end, and the record accept it.
    ends: HashMap<(usize, [bool; MACHINES]), bool>,
}

impl Lease {
    pub fn new(scope: Scope) -> Lease {
        let names: Vec<MemberId> =
            ["m1", "m2", "m3"].iter().map(|name| MemberId::new(name).expect("a valid name")).collect();
        let lease_ms = u64::from(scope.lease_ticks) * MIDDLE * UNIT_MS;
        let records = records(&names, lease_ms);
        Lease { scope, lease: Duration::from_millis(lease_ms), names, records, ends: HashMap::new() }
    }

    fn clock(&self, machine: usize, tick: u8) -> Now {
        let rate = if self.scope.fast[machine] { FAST } else { SLOW };
        // Started at another time, lest a reading mean anything elsewhere.
        Now::from_millis(((machine as u64 + 1) * 1_000 + u64::from(tick) * rate) * UNIT_MS)
    }

    /// The epoch that the log has come to, and whether its lease lives.
    fn newest(&self, state: &State) -> (usize, bool) {
        let record = &self.records[state.log];
        (usize::try_from(record.epoch.0).expect("epochs 1 and 2"), record.tenure().is_some())
    }

    fn answer(&self, tenure: &mut Tenure, voter: usize, sent: u8) {
        tenure.holder.answered(&self.names[voter], self.clock(tenure.machine, sent));
        tenure.answered[voter] = tenure.answered[voter].max(Some(sent));
    }

    fn deadline(&self, tenure: &Tenure) -> Now {
        tenure.holder.deadline(&self.records[0])
    }

    /// Whether the shipped rules end the epoch on these words.
    fn ends(&mut self, log: usize, said: [bool; MACHINES]) -> bool {
        if let Some(known) = self.ends.get(&(log, said)) {
            return *known;
        }
        let record = self.records[log].clone();
        let voters: BTreeSet<MemberId> =
            self.names.iter().zip(said).filter(|(_, said)| *said).map(|(name, _)| name.clone()).collect();
        let view =
            witness_view(&self.names[2], record.clone(), RunOut { epoch: record.epoch, serial: 0, voters });
        let decision = decide(&view, &mut Memory::default());
        let ends = decision.actions.into_iter().any(|action| match action {
            Action::Propose(command) => Record::clone(&record).apply(command) == Applied::Done,
            _ => false,
        });
        self.ends.insert((log, said), ends);
        ends
    }

    /// How many ticks ago, as far as that matters: what was sent more than a lease ago promises nothing any more.
    fn age(&self, state: &State, tick: u8) -> u8 {
        (state.tick - tick).min(self.scope.lease_ticks + 1)
    }

    /// All that a voter's answers depend on from now on, found out from copies of it.
    fn voter_trait(&self, state: &State, machine: usize) -> impl Hash + use<> {
        let own = &state.voters[machine];
        let now = self.clock(machine, state.tick);
        let current = own.grantor.expired(now.plus(self.lease * 4));
        let left = own.grantor.wake_at().map(|at| now.until(at));
        let over = [1, 2].map(|epoch| own.grantor.clone().renew(now, Epoch(epoch)) == Answer::Over);
        let said = [1, 2].map(|epoch| own.grantor.says_run_out(Epoch(epoch)));
        let fresh = (own.started == state.tick).then_some(own.learned);
        (current, left, over, said, own.closing, own.durable, own.learned, fresh)
    }

    /// All that a holder's deadline depends on from now on. Of three answers the oldest never counts again.
    fn tenure_trait(&self, state: &State, tenure: &Tenure) -> impl Hash + use<> {
        let none = self.scope.lease_ticks + 1;
        let ages = |ticks: [Option<u8>; MACHINES]| ticks.map(|at| at.map_or(none, |at| self.age(state, at)));
        let mut answered = ages(tenure.answered);
        let oldest = (0..MACHINES).max_by_key(|voter| answered[*voter]).unwrap_or(0);
        answered[oldest] = none;
        let now = self.clock(tenure.machine, state.tick);
        let left = now.until(self.deadline(tenure));
        (left, answered, ages(tenure.answers), self.age(state, tenure.since))
    }
}

impl Model for Lease {
    type State = State;
    type Step = Step;

    /// Epoch 1 was just granted on a request that was sent in the same instant; or it has just ended, and the next is
    /// about to be asked for. No voter knows of it yet.
    fn initial(&mut self) -> Vec<State> {
        let voter = |machine: usize| {
            // Up for long: a lease of an earlier life is over.
            let started = self.clock(machine, 0).minus(self.lease);
            let grantor = Grantor::new(started, self.lease, Epoch(0));
            Voter { grantor, closing: Epoch(0), durable: Epoch(0), learned: 0, started: 0 }
        };
        let holder = Holder::granted(Epoch(1), self.lease, self.clock(0, 0));
        let none = [None; MACHINES];
        let first = Tenure { machine: 0, holder, since: 0, answered: none, answers: none };
        vec![State {
            tick: 0,
            log: usize::from(self.scope.next),
            logged: 0,
            voters: [voter(0), voter(1), voter(2)],
            tenures: [Some(first).filter(|_| !self.scope.next), None],
            requested: None,
            said: [false; MACHINES],
            restarts: 0,
        }]
    }

    fn successors(&mut self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        self.holders(state, into);
        self.voters(state, into);
        self.store(state, into);
        Lease::push(into, Step::Tick, State { tick: state.tick + 1, ..state.clone() });
    }

    /// Only what can still make a difference, and only how long ago it was: so there is no horizon.
    fn hash(&mut self, state: &State) -> u128 {
        let voters = [0, 1, 2].map(|machine| self.voter_trait(state, machine));
        let tenures =
            [0, 1].map(|epoch| state.tenures[epoch].as_ref().map(|tenure| self.tenure_trait(state, tenure)));
        let requested = state.requested.map(|at| self.age(state, at));
        let fresh = state.logged == state.tick;
        fingerprint(&(state.log, fresh, voters, tenures, requested, state.said, state.restarts))
    }

    /// Of an epoch that is over, or was followed by another, the deadline has passed for the holder's own clock.
    fn violation(&mut self, state: &State) -> Option<Violation> {
        let (newest, live) = self.newest(state);
        state.tenures.iter().zip(1usize..).find_map(|(tenure, epoch)| {
            let tenure = tenure.as_ref()?;
            let over = epoch < newest || epoch == newest && !live;
            let (now, deadline) = (self.clock(tenure.machine, state.tick), self.deadline(tenure));
            (over && now < deadline).then(|| {
                let left = deadline.since(now).as_millis();
                Violation::new(
                    "lease_exclusive",
                    format!("epoch {epoch} is over, its holder goes on for {left} ms"),
                )
            })
        })
    }

    fn name(&self, step: &Step) -> String {
        format!("{step:?}")
    }

    fn describe(&self, state: &State) -> String {
        let mut line = format!("tick {} log {}", state.tick, state.log);
        for (tenure, epoch) in state.tenures.iter().zip(1..) {
            if let Some(tenure) = tenure {
                let now = self.clock(tenure.machine, state.tick);
                let left = now.until(self.deadline(tenure)).as_millis();
                line += &format!(" | epoch {epoch} for {left} ms");
            }
        }
        for (voter, said) in state.voters.iter().zip(state.said) {
            line += &format!(" | durable {} said {said}", voter.durable);
        }
        line
    }
}
