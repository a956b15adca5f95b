//! One run: bootstrap, a time of faults, then everything is put right.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mainstay_consensus::{Identity, create};
use mainstay_core::mutant::activate;
use mainstay_core::record::{Command, Kind, Member, OnCrash, Settings};
use mainstay_core::{Epoch, MemberId};

use crate::client::Client;
use crate::clock::Clock;
use crate::event::Event;
use crate::fault::{Fault, Operator, Plan, Registrar, spares};
use crate::invariants::Violation;
use crate::machine::Machine;
use crate::mutant::{Mutation, ShellMutant};
use crate::network::Network;
use crate::queue::{MS, SECOND, Time};
use crate::random::Random;
use crate::script::Script;
use crate::trace::Trace;
use crate::world::{Setup, Weather, World};

/// What is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long faults happen, in simulated seconds.
    pub seconds: u64,
    /// Whether there are faults at all.
    pub faults: bool,
    /// Rules to take away, at most one of them the core's.
    pub mutations: Vec<Mutation>,
    /// A sequence of faults that is played instead of drawn ones.
    pub script: Option<Script>,
    /// Whether to write down what happens.
    pub trace: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config { seconds: 60, faults: true, mutations: Vec::new(), script: None, trace: false }
    }
}

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub violation: Option<Violation>,
    /// How many epochs were opened.
    pub openings: usize,
    /// Commits that a client saw acknowledged.
    pub acknowledged: u64,
    /// Commits whose fate no client knows.
    pub unknown: u64,
    /// Why epochs ended, and how often.
    pub causes: BTreeMap<&'static str, u64>,
    pub simulated_seconds: u64,
    /// How long it took after everything was put right until a commit was acknowledged, and until all were standbys again.
    pub primary_again_ms: u64,
    pub standbys_again_ms: u64,
    pub events: u64,
    /// Whether the script, if there is one, found all that it waits for.
    pub played: bool,
    /// Empty unless it was asked for.
    pub trace: String,
}

/// Runs one seed. The same seed and configuration do the same, to the last byte of the trace.
pub fn run(seed: u64, config: &Config) -> Report {
    activate(config.mutations.iter().find_map(|mutation| mutation.core()));
    let mut world = bootstrap(seed, config);
    if let Some(script) = config.script {
        settle(&mut world);
        script.play(&mut world);
        put_right(&mut world);
    } else if config.faults {
        faults(&mut world, seed, config);
    } else {
        calm(&mut world, config);
    }
    activate(None);
    report(seed, world)
}

pub(crate) fn report(seed: u64, mut world: World) -> Report {
    Report {
        seed,
        openings: world.observer.openings.len(),
        acknowledged: world.observer.outcomes.acknowledged,
        unknown: world.observer.outcomes.unknown,
        causes: std::mem::take(&mut world.observer.causes),
        simulated_seconds: world.seconds(),
        primary_again_ms: world.observer.primary_again_ms,
        standbys_again_ms: world.observer.standbys_again_ms,
        events: world.events,
        played: world.observer.played,
        trace: world.trace.take(),
        violation: world.observer.violation,
    }
}

fn faults(world: &mut World, seed: u64, config: &Config) {
    let mut random = Random::new(seed ^ 0x0066_6F75_6E64_6564);
    // Some runs have their faults from the first moment on.
    if random.chance(0.85) {
        settle(world);
    } else {
        world.run_until(random.below(4 * SECOND));
    }
    let until = world.now + config.seconds * SECOND;
    world.plan = Plan::drawn(seed, until);
    world.weather = weather(&mut random);
    world.operator = Operator::drawn(seed, until);
    if !world.config.spares.is_empty() {
        world.registrar = Some(Registrar::new(seed, until));
        world.fault_after(0, Fault::Register);
    }
    world.fault_after(0, Fault::Operate);
    world.fault_after(0, Fault::Next);
    world.run_until(until);
    put_right(world);
}

/// Everything is healed; then there is a primary again, and everyone behind it.
fn put_right(world: &mut World) {
    world.fault(Fault::Heal);
    world.operator_leaves();
    world.registrar_leaves();
    if !world.observer.excused {
        let healed = world.now;
        world.expect_primary();
        world.observer.primary_again_ms = (world.now - healed) / MS;
        world.expect_standbys();
        world.observer.standbys_again_ms = (world.now - healed) / MS;
    }
    world.run_until(world.now + 3 * SECOND);
    world.check_at_the_end();
}

/// Nothing happens: the first primary stays, with everyone behind it.
fn calm(world: &mut World, config: &Config) {
    settle(world);
    world.run_until(world.now + config.seconds * SECOND);
    let (openings, whole) = (world.observer.openings.len(), world.is_whole());
    if openings != 1 || !whole {
        world.violated("needless_failover", || {
            format!("without any fault: {openings} openings, whole: {whole}")
        });
    }
}

/// Waits until the cluster is founded and whole.
pub(crate) fn settle(world: &mut World) {
    if !world.run_while(60 * SECOND, |world| world.is_whole()) {
        world.violated("primary_again", || "a new cluster does not become whole within a minute".to_owned());
    }
}

fn weather(random: &mut Random) -> Weather {
    let mut some = |values: &[f64]| if random.chance(0.5) { 0.0 } else { values[random.index(values.len())] };
    Weather {
        slow_checkpointer: some(&[0.1, 0.5]),
        slow_walsender: some(&[0.001, 0.02]),
        promotion_hangs: some(&[0.05, 0.2]),
        wal_removed: some(&[0.3, 1.0]),
        slow_start: some(&[0.05, 0.3]),
        job_failures: some(&[0.002, 0.02]),
    }
}

fn kinds(random: &mut Random) -> Vec<Kind> {
    match random.below(10) {
        0 => vec![Kind::Data; 5],
        1 => vec![Kind::Data, Kind::Data, Kind::Witness],
        _ => vec![Kind::Data; 3],
    }
}

pub(crate) fn bootstrap(seed: u64, config: &Config) -> World {
    let mut random = Random::new(seed ^ 0x0063_6C75_7374_6572);
    let leases = [3_000, 3_000, 1_000, 2_000, 6_000];
    let lease = Duration::from_millis(leases[random.index(leases.len())]);
    let (kinds, lease) = match config.script {
        Some(script) => (vec![Kind::Data; 3], script.lease()),
        None => (kinds(&mut random), lease),
    };
    let moves = spares(seed).filter(|_| config.faults && config.script.is_none());
    let (kinds, spares) = match moves {
        Some((founders, spares)) => (vec![Kind::Data; founders], spares),
        None => (kinds, Vec::new()),
    };
    let setup = Setup { kinds, spares, lease, mutations: config.mutations.clone() };
    build(seed, setup, Trace::new(config.trace), &mut random)
}

/// Machines, an empty consensus directory on each, clients, and the first proposal.
pub(crate) fn build(seed: u64, setup: Setup, trace: Trace, random: &mut Random) -> World {
    let mut world = World::empty(seed, setup, trace);
    let kinds = world.config.kinds.clone();
    let voters: Vec<u64> = (1..=kinds.len() as u64).collect();
    let mut members = BTreeMap::new();
    for (index, kind) in kinds.iter().enumerate() {
        let id = name(voters[index]);
        let clock = Clock::booted(0, world.random_rate());
        let mut machine = Machine::new(id.clone(), *kind, clock);
        let identity = Identity { cluster_id: crate::member::CLUSTER.to_owned(), raft_id: voters[index] };
        create(&mut machine.raft_disk, &identity, &voters, &[]).expect("the disk is empty");
        machine.raft_disk.set_sync_lies(world.mutated(ShellMutant::SyncLies));
        machine.raft_id = Some(voters[index]);
        machine.files.roster = voters.iter().map(|raft_id| (name(*raft_id), *raft_id)).collect();
        let row = member(index, *kind, voters[index]);
        machine.key.clone_from(&row.key);
        members.insert(id, row);
        world.machines.push(machine);
        let at = random.below(300 * MS);
        world.queue.push(at, Event::StartMember { machine: index });
    }
    for kind in world.config.spares.clone() {
        let clock = Clock::booted(0, world.random_rate());
        let id = name(world.machines.len() as u64 + 1);
        world.machines.push(Machine::new(id, kind, clock));
    }
    add_clients(&mut world, random);
    world.queue.push(0, Event::Inspect);
    let lease_ms = u64::try_from(world.config.lease.as_millis()).expect("a lease is short");
    let on_crash = if random.chance(0.8) { OnCrash::Failover } else { OnCrash::Restart };
    let settings = Settings { lease_ms, on_crash };
    let founding = Command::Create { cluster: crate::member::CLUSTER.to_owned(), settings, members };
    found(&mut world, &founding);
    world
}

fn name(number: u64) -> MemberId {
    MemberId::new(&format!("m{number}")).expect("it is a name")
}

pub(crate) fn member(index: usize, kind: Kind, raft_id: u64) -> Member {
    let port = 5432 + u16::try_from(index).expect("few");
    let address = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    Member {
        kind,
        votes: true,
        raft_id,
        address: address(port + 1_000),
        postgres: (kind == Kind::Data).then(|| address(port)),
        key: format!("key {index}"),
        priority: 0,
        http: None,
        leaving: false,
        next_key: None,
        key_serial: 0,
    }
}

/// The operator's first command, repeated until it is in the record.
fn found(world: &mut World, create: &Command) {
    let created = |world: &mut World| world.observer.record.format != 0;
    for _ in 0..60 {
        if world.run_while(500 * MS, created) {
            return;
        }
        if world.machines[0].member.is_some() {
            world.propose(0, create);
        }
    }
    world.violated("primary_again", || "the members do not elect a leader".to_owned());
}

fn add_clients(world: &mut World, random: &mut Random) {
    let machines = world.machines.len();
    let data = world.data_machines();
    let hosts = usize::try_from(random.between(1, 3)).expect("few");
    world.network = Network::new(machines + hosts);
    for _ in 0..machines {
        if random.chance(0.25) {
            let delay = random.span_ms(5, 400);
            world.network.slow_wal(random.index(machines), random.index(machines), delay);
        }
    }
    for host in 0..hosts {
        for _ in 0..random.between(1, 2) {
            let stubborn = !world.clients.is_empty() && random.chance(0.4);
            let client = Client::new(machines + host, None, stubborn, random.between(20, 300));
            world.clients.push(client);
        }
    }
    for home in data {
        if random.chance(0.5) {
            let client = Client::new(home, Some(home), random.chance(0.7), random.between(20, 300));
            world.clients.push(client);
        }
    }
    for client in 0..world.clients.len() {
        let delay: Time = random.below(SECOND);
        world.client_acts_after(client, delay);
    }
}

impl World {
    /// What was acknowledged and seen is in the primary of the end.
    fn check_at_the_end(&mut self) {
        let epoch = self.observer.record.epoch;
        let tip = self
            .primary()
            .and_then(|primary| self.machines[primary].data.content.as_ref())
            .map(|c| c.written);
        if let Some(tip) = tip {
            self.check_all_there(epoch, tip);
        }
    }

    fn check_all_there(&mut self, epoch: Epoch, tip: crate::wal::Tip) {
        self.check_nothing_lost_by_opening(epoch, tip);
        self.check_seen_survives_opening(epoch, tip);
    }
}
