//! The voters change while a lease is held: never is the holder's guard armed beyond now once the epoch has ended because its
//! lease has run out.
//!
//! The shipped `Grantor`, `Holder` and `Record::apply`. The voters go through a list of sets, at any time that the record
//! accepts it. The holder learns of each entry at any time later, writes it down at any time, and proposes to settle the
//! change when the shipped condition says so; the proposal is committed at any time later, or twice, or never. It is
//! restarted, then it knows no more of the log than it likes, what it wrote down, and until when its guard is armed. A
//! machine that votes no more is replaced by a new one of the same name, which has promised nothing.
//!
//! A renewal is received and answered in the instant of its sending, or never: no delay does worse, see [`crate::lease`],
//! where restarts of voters are explored, too. A voter says for good that the lease has run out as soon as it finds so alone;
//! the shell asks a majority before.

mod steps;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::action::Action;
use mainstay_core::decide::{Memory, decide};
use mainstay_core::lease::{Answer, Grantor, Holder};
use mainstay_core::lineage::Extent;
use mainstay_core::record::{Applied, Command, Kind, Member, Record, Report, Settings};
use mainstay_core::view::RunOut;
use mainstay_core::{Epoch, Incarnation, Lsn, MemberId, Now};

use crate::explore::{Model, Successor, Violation, fingerprint};
use crate::lease::shipped::witness_view;
use crate::lease::{FAST, MIDDLE, SLOW, UNIT_MS};

/// The first is the holder.
const MACHINES: usize = 4;
const EPOCH: Epoch = Epoch(1);

/// Some machines, as bits.
pub type Machines = u8;

/// How far the exploration goes.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The voters, one set after the other.
    pub voters: &'static [Machines],
    pub lease_ticks: u8,
    /// Restarts of the holder's process.
    pub restarts: u8,
    /// Machines that are replaced by another one of the same name.
    pub replaced: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    tick: u8,
    grantors: [Grantor; MACHINES],
    /// The records that the log led to, by number.
    history: Vec<usize>,
    /// How many of the sets of voters were put in place.
    changes: usize,
    /// The epoch has ended because the lease had run out.
    over: bool,
    holder: Holder,
    answered: [Option<u8>; MACHINES],
    /// Up to which record the holder knows, since when, and what its disk keeps of that.
    known: usize,
    learnt: u8,
    durable: u64,
    /// The newest change of the voters that it has seen in this life, or that its disk told it of.
    seen: u64,
    /// The newest deadline that its guard was told.
    armed: Now,
    /// By serial: whether a settlement was proposed.
    proposed: Machines,
    /// Who said that the lease had run out, and is another machine now.
    old_words: Machines,
    restarts: u8,
    replaced: u8,
}

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Tick,
    Renews { voter: usize },
    SaysRunOut { voter: usize },
    Changes,
    Learns,
    WritesDown,
    ProposesToSettle,
    Settles { serial: u64 },
    Ends { old_words: bool },
    HolderRestarts { known: usize },
    Replaced { machine: usize },
}

pub struct Voters {
    scope: Scope,
    lease: Duration,
    names: Vec<MemberId>,
    records: Vec<Arc<Record>>,
    numbers: HashMap<Record, usize>,
    /// Whether these words, asked for under that change of the voters, end the epoch.
    ends: HashMap<(usize, u64, Machines), bool>,
}

fn has(machines: Machines, machine: usize) -> bool {
    machines & (1 << machine) != 0
}

fn only(machine: usize) -> Machines {
    1 << machine
}

impl Voters {
    pub fn new(scope: Scope) -> Voters {
        let names = ["m1", "m2", "m3", "m4"].map(|name| MemberId::new(name).expect("a valid name")).to_vec();
        let lease_ms = u64::from(scope.lease_ticks) * MIDDLE * UNIT_MS;
        let mut model = Voters {
            scope,
            lease: Duration::from_millis(lease_ms),
            names,
            records: Vec::new(),
            numbers: HashMap::new(),
            ends: HashMap::new(),
        };
        let first = model.first_record(lease_ms);
        model.number(first);
        model
    }

    /// The first machine holds the lease of epoch 1, by the shipped commands.
    fn first_record(&self, lease_ms: u64) -> Record {
        let row = |machine: usize| Member {
            kind: Kind::Data,
            votes: has(self.scope.voters[0], machine),
            raft_id: machine as u64 + 1,
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            postgres: None,
            key: String::new(),
            priority: 0,
            http: None,
            leaving: false,
            next_key: None,
            key_serial: 0,
        };
        let members: BTreeMap<MemberId, Member> =
            self.names.iter().enumerate().map(|(machine, name)| (name.clone(), row(machine))).collect();
        let settings = Settings { lease_ms, ..Settings::default() };
        let (member, incarnation) = (self.names[0].clone(), Incarnation(1));
        let mut record = Record::default();
        record.apply(Command::Create { cluster: "model".to_owned(), settings, members });
        record.apply(Command::RaiseFormat { to: 2 });
        record.apply(Command::Found { member: member.clone(), incarnation, system_identifier: 1 });
        let report = Report {
            epoch: Epoch(0),
            incarnation,
            extent: Extent { history: record.lineage.clone(), end: Lsn(1) },
            replayed: Lsn(1),
            unfit: None,
        };
        record.apply(Command::Report { member: member.clone(), report });
        let granted = record.apply(Command::Grant { epoch: EPOCH, holder: member, incarnation, request: 1 });
        assert_eq!(granted, Applied::Done, "the record of the model could not be made");
        record
    }

    fn number(&mut self, record: Record) -> usize {
        if let Some(number) = self.numbers.get(&record) {
            return *number;
        }
        self.records.push(Arc::new(record.clone()));
        self.numbers.insert(record, self.records.len() - 1);
        self.records.len() - 1
    }

    fn committed(&self, state: &State) -> usize {
        *state.history.last().expect("it begins with the first")
    }

    fn known(&self, state: &State) -> &Record {
        &self.records[state.history[state.known]]
    }

    fn clock(&self, machine: usize, tick: u8) -> Now {
        let rate = if machine == 0 { SLOW } else { FAST };
        Now::from_millis(((machine as u64 + 1) * 1_000 + u64::from(tick) * rate) * UNIT_MS)
    }

    fn named(&self, machines: Machines) -> BTreeSet<MemberId> {
        (0..MACHINES)
            .filter(|machine| has(machines, *machine))
            .map(|machine| self.names[machine].clone())
            .collect()
    }

    /// Machines that matter at all.
    fn in_scope(&self) -> impl Iterator<Item = usize> + use<> {
        let all = self.scope.voters.iter().fold(0, |all, set| all | set);
        (0..MACHINES).filter(move |machine| has(all, *machine))
    }

    fn says_run_out(&self, state: &State) -> Machines {
        self.in_scope()
            .filter(|machine| state.grantors[*machine].says_run_out(EPOCH))
            .fold(0, |words, machine| words | only(machine))
    }

    /// Whether the shipped rules end the epoch on these words: somebody sees them and proposes it, and the record accepts.
    fn ends(&mut self, number: usize, serial: u64, words: Machines) -> bool {
        if let Some(known) = self.ends.get(&(number, serial, words)) {
            return *known;
        }
        let record = self.records[number].clone();
        let view = witness_view(
            &self.names[3],
            record.clone(),
            RunOut { epoch: EPOCH, serial, voters: self.named(words) },
        );
        let decision = decide(&view, &mut Memory::default());
        let ends = decision.actions.into_iter().any(|action| match action {
            Action::Propose(command @ Command::End { .. }) => {
                Record::clone(&record).apply(command) == Applied::Done
            }
            _ => false,
        });
        self.ends.insert((number, serial, words), ends);
        ends
    }

    /// The guard is told each later deadline.
    fn arm(&self, state: &mut State) {
        state.armed = state.armed.max(state.holder.deadline(self.known(state)));
    }

    fn age(&self, state: &State, tick: u8) -> u8 {
        (state.tick - tick).min(self.scope.lease_ticks + 1)
    }
}

impl Model for Voters {
    type State = State;
    type Step = Step;

    /// Epoch 1 was just granted, on a request that was sent in the same instant, and everybody has just learnt of it.
    fn initial(&mut self) -> Vec<State> {
        let grantor = |machine: usize| {
            let now = self.clock(machine, 0);
            let mut grantor = Grantor::new(now.minus(self.lease), self.lease, Epoch(0));
            grantor.learn(now, &self.records[0]);
            grantor
        };
        let mut state = State {
            tick: 0,
            grantors: std::array::from_fn(grantor),
            history: vec![0],
            changes: 1,
            over: false,
            holder: Holder::granted(EPOCH, self.lease, self.clock(0, 0)),
            answered: [None; MACHINES],
            known: 0,
            learnt: 0,
            durable: 0,
            seen: 0,
            armed: Now(0),
            proposed: 0,
            old_words: 0,
            restarts: 0,
            replaced: 0,
        };
        self.arm(&mut state);
        vec![state]
    }

    fn successors(&mut self, state: &State, into: &mut Vec<Successor<State, Step>>) {
        self.voters_act(state, into);
        self.holder_acts(state, into);
        self.log_grows(state, into);
        Voters::push(into, Step::Tick, State { tick: state.tick + 1, ..state.clone() });
    }

    /// Only what can still make a difference, and only how long ago it was: so there is no horizon.
    fn hash(&mut self, state: &State) -> u128 {
        let grantors = std::array::from_fn::<_, MACHINES, _>(|machine| {
            let (own, now) = (&state.grantors[machine], self.clock(machine, state.tick));
            let left = own.wake_at().map(|at| now.until(at));
            let over = own.clone().renew(now, EPOCH) == Answer::Over;
            (left.filter(|_| !over), over, own.says_run_out(EPOCH))
        });
        let none = self.scope.lease_ticks + 2;
        let answered = state
            .answered
            .map(|at| (at.map_or(none, |at| self.age(state, at)), at.is_some_and(|at| at > state.learnt)));
        let left = self.clock(0, state.tick).until(state.armed);
        let rest = state.holder.deadline(self.known(state));
        let own = (answered, left, self.clock(0, state.tick).until(rest), state.known, state.durable);
        let log = (&state.history, state.changes, state.over, state.proposed, state.old_words);
        fingerprint(&(grantors, own, log, state.restarts, state.replaced, state.seen))
    }

    fn violation(&mut self, state: &State) -> Option<Violation> {
        let now = self.clock(0, state.tick);
        (state.over && now < state.armed).then(|| {
            let left = state.armed.since(now).as_millis();
            Violation::new(
                "lease_exclusive",
                format!("epoch {EPOCH} is over, its holder goes on for {left} ms"),
            )
        })
    }

    fn name(&self, step: &Step) -> String {
        format!("{step:?}")
    }

    fn describe(&self, state: &State) -> String {
        let record = &self.records[self.committed(state)];
        let list =
            |names: Vec<&MemberId>| names.into_iter().map(MemberId::as_str).collect::<Vec<&str>>().join(" ");
        let left = self.clock(0, state.tick).until(state.armed).as_millis();
        format!(
            "tick {} | voters {} outgoing {} | holder knows {} of {}, for {left} ms | run out {:04b}",
            state.tick,
            list(record.voters().collect()),
            list(record.outgoing().collect()),
            state.known,
            state.history.len() - 1,
            self.says_run_out(state),
        )
    }
}
