//! The whole world of one run: machines, network, clients, and what happens next.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_core::record::Kind;
use mainstay_core::{MemberId, Now};

use crate::client::Client;
use crate::event::{Event, Life};
use crate::fault::{Operator, Plan, Registrar};
use crate::invariants::Observer;
use crate::machine::{Machine, Process};
use crate::mutant::{Mutation, ShellMutant};
use crate::network::Network;
use crate::postgres::Connection;
use crate::queue::{MS, Queue, SECOND, Time};
use crate::random::Random;
use crate::trace::Trace;
use crate::wal::Wal;

/// What the cluster of this run is like.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) kinds: Vec<Kind>,
    /// Machines that may join later.
    pub(crate) spares: Vec<Kind>,
    pub(crate) lease: Duration,
    pub(crate) mutations: Vec<Mutation>,
}

/// Troubles that are not events: how likely each is whenever it could happen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) slow_start: f64,
    pub(crate) slow_checkpointer: f64,
    pub(crate) slow_walsender: f64,
    pub(crate) promotion_hangs: f64,
    pub(crate) wal_removed: f64,
    pub(crate) job_failures: f64,
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) queue: Queue<Event>,
    pub(crate) random: Random,
    pub(crate) config: Setup,
    pub(crate) weather: Weather,
    pub(crate) wal: Wal,
    pub(crate) network: Network,
    pub(crate) machines: Vec<Machine>,
    pub(crate) clients: Vec<Client>,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) plan: Plan,
    pub(crate) operator: Option<Operator>,
    pub(crate) registrar: Option<Registrar>,
    pub(crate) observer: Observer,
    pub(crate) trace: Trace,
    pub(crate) next_transaction: u32,
    pub(crate) events: u64,
    lives: Life,
    numbers: u64,
}

impl World {
    pub(crate) fn empty(seed: u64, config: Setup, trace: Trace) -> World {
        World {
            now: 0,
            queue: Queue::new(),
            random: Random::new(seed),
            config,
            weather: Weather::default(),
            wal: Wal::new(),
            network: Network::new(0),
            machines: Vec::new(),
            clients: Vec::new(),
            connections: BTreeMap::new(),
            plan: Plan::default(),
            operator: None,
            registrar: None,
            observer: Observer::default(),
            trace,
            next_transaction: 0,
            events: 0,
            lives: 0,
            numbers: 0,
        }
    }

    pub(crate) fn new_life(&mut self) -> Life {
        self.lives += 1;
        self.lives
    }

    pub(crate) fn new_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn local_now(&self, machine: usize) -> Now {
        self.machines[machine].now(self.now)
    }

    pub(crate) fn machine_of(&self, member: &MemberId) -> Option<usize> {
        self.machines.iter().position(|machine| machine.id == *member)
    }

    pub(crate) fn mutated(&self, mutant: ShellMutant) -> bool {
        self.config.mutations.contains(&Mutation::Shell(mutant))
    }

    /// A line of the trace.
    pub(crate) fn note(&mut self, machine: usize, text: impl FnOnce() -> String) {
        if self.trace.is_on() {
            let name = self.machines[machine].id.to_string();
            self.trace.line(self.now, &name, &text());
        }
    }

    /// Runs until `until`, or until something was violated.
    pub(crate) fn run_until(&mut self, until: Time) {
        while self.observer.violation.is_none() && self.queue.next_at().is_some_and(|at| at <= until) {
            self.one_event();
        }
        self.now = self.now.max(until);
    }

    /// Runs until `done` says so, looked at every 20 ms, for at most `limit`; whether it did.
    pub(crate) fn run_while(&mut self, limit: Time, mut done: impl FnMut(&mut World) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            if self.now >= end || self.observer.violation.is_some() {
                return false;
            }
            self.run_until(self.now + 20 * MS);
        }
    }

    /// Runs event by event until `done` says so, for at most `limit`; whether it did.
    pub(crate) fn run_to(&mut self, limit: Time, mut done: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + limit;
        while !done(self) {
            let next = self.queue.next_at().filter(|at| *at <= end);
            if next.is_none() || self.observer.violation.is_some() {
                return false;
            }
            self.one_event();
        }
        true
    }

    fn one_event(&mut self) {
        if let Some((at, event)) = self.queue.pop() {
            self.now = at;
            self.events += 1;
            self.dispatch(event);
        }
    }

    /// Hands the event over, or keeps it for a process that stands still, or drops it with one that is gone.
    pub(crate) fn dispatch(&mut self, event: Event) {
        if let Some(machine) = event.place().filter(|machine| self.machines[*machine].suspended) {
            self.machines[machine].while_suspended.push_back(event);
            return;
        }
        if let Some((machine, process)) = event.addressee() {
            if !self.is_addressed(&event) {
                return;
            }
            if self.machines[machine].stopped[process.index()] {
                self.machines[machine].inbox[process.index()].push_back(event);
                return;
            }
        }
        match event {
            Event::StartMember { machine } => self.start_member(machine),
            Event::Member { machine, what, .. } => self.member_event(machine, what),
            Event::Message { from, sender, to, body } => self.message(from, sender, to, &body),
            Event::Guard { machine, what, .. } => self.guard_event(machine, what),
            Event::Server { machine, what, .. } => self.server_event(machine, what),
            Event::Kernel { machine, what } => self.kernel_event(machine, what),
            Event::Client { client, token, what } => self.client_event(client, token, what),
            Event::Fault(fault) => self.fault(fault),
            Event::Inspect => self.inspect(),
        }
    }

    /// Whether the life that it was meant for is still there.
    fn is_addressed(&self, event: &Event) -> bool {
        match event {
            Event::Member { machine, life, .. } => {
                self.machines[*machine].member.as_ref().is_some_and(|member| member.life == *life)
            }
            Event::Message { to, .. } => self.machines[*to].member.is_some(),
            Event::Guard { machine, life, .. } => {
                self.machines[*machine].guard.as_ref().is_some_and(|guard| guard.life == *life)
            }
            Event::Server { machine, life, .. } => self.machines[*machine]
                .server
                .as_ref()
                .is_some_and(|live| live.life == *life && live.executing),
            _ => true,
        }
    }

    /// A process goes on: what waited for it happens now, in its order.
    pub(crate) fn release_inbox(&mut self, machine: usize, process: Process) {
        for event in std::mem::take(&mut self.machines[machine].inbox[process.index()]) {
            self.queue.push(self.now, event);
        }
    }

    pub(crate) fn boot(&mut self, machine: usize) {
        let rate = self.random_rate();
        let place = &mut self.machines[machine];
        if place.powered {
            return;
        }
        place.powered = true;
        place.clock = crate::clock::Clock::booted(self.now, rate);
        self.note(machine, || "booted".to_owned());
        let at = self.now + self.random.span_ms(50, 500);
        self.queue.push(at, Event::StartMember { machine });
        self.disturb(machine);
    }

    /// A clock's rate within what the core allows for, often at its very edge.
    pub(crate) fn random_rate(&mut self) -> u64 {
        let error = crate::clock::RATE_ERROR_MAX;
        match self.random.below(4) {
            0 => 1_000_000 - error,
            1 => 1_000_000 + error,
            2 => 1_000_000,
            _ => self.random.between(1_000_000 - error, 1_000_000 + error),
        }
    }

    pub(crate) fn disturb(&mut self, machine: usize) {
        self.machines[machine].disturbed_at = self.now;
    }

    pub(crate) fn data_machines(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|m| self.machines[*m].kind == Kind::Data).collect()
    }

    /// The machines of the members that run PostgreSQL.
    pub(crate) fn data_members(&self) -> Vec<usize> {
        self.data_machines().into_iter().filter(|machine| self.is_member(*machine)).collect()
    }

    /// The machine whose open server is the newest, if it lives.
    pub(crate) fn primary(&self) -> Option<usize> {
        let record = &self.observer.record;
        let holder = self.machine_of(record.primary()?)?;
        let opened = self.machines[holder].server.as_ref().and_then(|server| server.opened);
        (opened == Some(record.epoch)).then_some(holder)
    }

    /// How many real seconds have passed.
    pub(crate) fn seconds(&self) -> u64 {
        self.now / SECOND
    }
}
