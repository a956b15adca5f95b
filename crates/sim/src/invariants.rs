//! What must hold at every instant, seen by an observer who knows everything. One file per invariant, named as in the
//! reports.

mod consensus;
mod forced;
mod gate;
mod lease;
mod lineage;
mod needless_clone;
mod needless_failover;
mod no_write_without_lease;
mod nothing_acknowledged_lost;
mod one_address;
mod one_writer;
mod order_law;
mod primary_again;
mod standbys_again;
mod timelines;
mod visible_then_lost;
mod whole_directory;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mainstay_core::Epoch;
use mainstay_core::decide::Decision;
use mainstay_core::record::{Applied, Command, Phase, Record};

use crate::client::Outcomes;
use crate::event::Event;
use crate::queue::{MS, Time};
use crate::wal::Tip;
use crate::world::World;

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
    /// What happened, in one line.
    pub what: String,
    /// Milliseconds since the beginning of the run.
    pub at_ms: u64,
}

/// An epoch whose opening was committed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    pub(crate) epoch: Epoch,
    /// Its end-of-recovery record.
    pub(crate) tip: Tip,
}

#[derive(Default)]
pub(crate) struct Observer {
    pub(crate) violation: Option<Violation>,
    /// The newest record that anyone has applied, and its index in the log.
    pub(crate) record: Arc<Record>,
    pub(crate) index: u64,
    entries: BTreeMap<u64, u64>,
    records: BTreeMap<u64, u64>,
    leaders: BTreeMap<u64, usize>,
    /// Promotions by the guard.
    promotions: BTreeMap<Epoch, (usize, Tip)>,
    pub(crate) openings: Vec<Opening>,
    /// Epochs whose gate was opened.
    pub(crate) gates: BTreeSet<Epoch>,
    /// Everything acknowledged so far is in this.
    acknowledged: Option<Tip>,
    /// Everything that a client read through the gate is in this, or one of these.
    seen: Option<Tip>,
    seen_alone: Vec<Tip>,
    /// Since when a server is out of recovery that the guard did not open.
    strays: BTreeMap<usize, Time>,
    /// Servers that went down, by epoch, and whether there was no reason to.
    losses: BTreeMap<Epoch, bool>,
    pub(crate) outcomes: Outcomes,
    pub(crate) acknowledged_at: Time,
    pub(crate) weather_at: Time,
    pub(crate) primary_again_ms: u64,
    pub(crate) standbys_again_ms: u64,
    /// The newest proposals, as they were made.
    pub(crate) proposals: VecDeque<Command>,
    pub(crate) switchovers: u64,
    pub(crate) data_removed: bool,
    /// A loss that an operator accepts, and the epochs that were granted by one.
    pub(crate) forced: Option<mainstay_core::record::Forced>,
    pub(crate) forced_epochs: BTreeSet<Epoch>,
    pub(crate) outside_hand: bool,
    /// A person would have to decide how it goes on: nothing is promised about when.
    pub(crate) excused: bool,
    /// A script came to its end.
    pub(crate) played: bool,
    reasons: BTreeMap<usize, String>,
    pub(crate) causes: BTreeMap<&'static str, u64>,
}

/// How often the observer looks by itself.
const INSPECTION: Time = 100 * MS;

impl Observer {
    pub(crate) fn newest_open(&self) -> Epoch {
        self.openings.last().map_or(Epoch(0), |opening| opening.epoch)
    }

    pub(crate) fn remember_proposal(&mut self, command: &Command) {
        const REMEMBERED: usize = 40;
        if self.proposals.len() == REMEMBERED {
            self.proposals.pop_front();
        }
        self.proposals.push_back(command.clone());
    }
}

impl World {
    /// Notes the first violation; the run ends with it.
    pub(crate) fn violated(&mut self, invariant: &'static str, what: impl FnOnce() -> String) {
        if self.observer.violation.is_none() {
            let what = what();
            self.trace.line(self.now, "!!!", &format!("{invariant}: {what}"));
            self.observer.violation = Some(Violation { invariant, what, at_ms: self.now / MS });
        }
    }

    pub(crate) fn inspect(&mut self) {
        self.queue.push(self.now + INSPECTION, Event::Inspect);
        for machine in 0..self.machines.len() {
            self.check_no_write_without_lease(machine);
        }
    }

    /// One entry applied at one member.
    pub(crate) fn observe_applied(
        &mut self,
        machine: usize,
        index: u64,
        command: &Command,
        result: &Applied,
    ) {
        self.check_same_entry(index, command, result);
        if index <= self.observer.index {
            return;
        }
        self.note(machine, || format!("applied {index}: {command:?} -> {result:?}"));
        self.observer.index = index;
        let mut record = Record::clone(&self.observer.record);
        let before = Arc::clone(&self.observer.record);
        // A mutated core gives the observer the same record as everyone.
        record.apply(command.clone());
        self.observer.record = Arc::new(record);
        if *result == Applied::Done {
            self.observe_command(command, &before);
        }
    }

    fn observe_command(&mut self, command: &Command, before: &Record) {
        self.observe_forced(command, before);
        match command {
            Command::Open { epoch, .. } => {
                self.observe_opening(*epoch);
                self.ambush_on_tenure();
            }
            Command::Grant { .. } => self.ambush_on_tenure(),
            Command::Report { member, .. } => {
                if let Some(machine) = self.machine_of(member) {
                    self.ambush_on_record(machine);
                }
            }
            Command::End { epoch, cause } => {
                *self.observer.causes.entry(cause_name(cause)).or_default() += 1;
                self.check_lease_is_over(*epoch, cause);
                if before.phase == Phase::Open && before.failover().is_none() {
                    self.check_end_was_needed(*epoch, cause);
                }
            }
            Command::SetSync { .. } => {
                self.excuse_lone_without_data();
                if let Some(primary) = self.primary() {
                    self.check_order_law(primary);
                }
            }
            _ => {}
        }
    }

    /// A change to lone that was under way when the holder's directory was lost, and was committed late: what was
    /// acknowledged is proven by nothing that is left, whoever holds it.
    fn excuse_lone_without_data(&mut self) {
        let Some(base) = self.observer.record.base.as_ref().filter(|base| base.sync.is_lone()) else {
            return;
        };
        let content = self.machine_of(&base.holder).map(|machine| &self.machines[machine].data.content);
        let there = content.and_then(|content| content.as_ref()).map(|content| content.incarnation);
        self.observer.excused |= there != Some(base.incarnation);
    }

    fn ambush_on_tenure(&mut self) {
        let holder = self.observer.record.tenure().and_then(|tenure| self.machine_of(&tenure.holder));
        if let Some(machine) = holder {
            self.ambush_on_record(machine);
        }
    }

    /// The first time that anyone learns that an epoch is open.
    fn observe_opening(&mut self, epoch: Epoch) {
        let Some((_, tip)) = self.observer.promotions.get(&epoch).copied() else {
            self.violated("lineage", || {
                format!("epoch {epoch} is open in the record and was never promoted")
            });
            return;
        };
        self.check_opening_is_recorded_truly(epoch, tip);
        self.check_timeline_is_new(epoch, tip);
        if self.observer.forced_epochs.contains(&epoch) {
            self.accept_what_is_lost(tip);
        }
        self.check_nothing_lost_by_opening(epoch, tip);
        self.check_seen_survives_opening(epoch, tip);
        self.observer.openings.push(Opening { epoch, tip });
    }

    /// Everything that one call of a replica applied.
    pub(crate) fn observe_record(&mut self, machine: usize) {
        self.check_same_record(machine);
    }

    pub(crate) fn observe_promotion(&mut self, machine: usize, tip: Tip) {
        if let Some(epoch) = self.machines[machine].server.as_ref().and_then(|server| server.opened) {
            self.observer.promotions.insert(epoch, (machine, tip));
            self.check_order_law(machine);
        }
    }

    pub(crate) fn observe_decision(&mut self, machine: usize, decision: &Decision) {
        if self.trace.is_on() {
            let reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
            let reasons = reasons.join("; ");
            if self.observer.reasons.get(&machine) != Some(&reasons) {
                self.note(machine, || reasons.clone());
                self.observer.reasons.insert(machine, reasons);
            }
        }
    }
}

fn cause_name(cause: &mainstay_core::record::EndCause) -> &'static str {
    use mainstay_core::record::EndCause;
    match cause {
        EndCause::Founded => "founded",
        EndCause::Crashed => "crashed",
        EndCause::LeaseLost => "lease lost",
        EndCause::Hung { .. } => "hung",
        EndCause::Switchover { .. } => "switchover",
        EndCause::Restarted => "restarted",
        EndCause::RestartedInPlace => "restarted in place",
        EndCause::NotOpened { .. } => "not opened",
        EndCause::DirectoryLost => "directory lost",
        EndCause::Expired { .. } => "expired",
        EndCause::Recovered { .. } => "recovered",
    }
}
