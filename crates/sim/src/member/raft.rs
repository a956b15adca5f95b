//! The shipped replica on its disk, with the record as its machine.

use std::rc::Rc;
use std::sync::Arc;

use mainstay_consensus::sim_disk::SimDisk;
use mainstay_consensus::{
    Machine, MembershipChange, Outgoing, Replica, RestoreError, Role, Settings, Timing,
};
use mainstay_core::record::{Applied, Command, Record};

use super::{Member, MemberEvent};
use crate::event::Message;
use crate::mutant::ShellMutant;
use crate::queue::{MICROSECOND, SECOND};
use crate::world::World;

pub(crate) type RaftReplica = Replica<SimDisk, RecordMachine>;

pub(crate) const CLUSTER: &str = "simulated";

/// Ticks that pile up while the disk stands still are not delivered in a burst.
const WAITING_TICKS: usize = 3;

pub(crate) enum RaftInput {
    Tick,
    Step { from: u64, bytes: Vec<u8> },
    Propose { id: u128, data: Vec<u8> },
    Read { context: u64 },
    Change { id: u128, changes: Vec<MembershipChange> },
    HandOver { to: u64 },
}

#[derive(Clone, Default)]
pub(crate) struct RecordMachine {
    pub(crate) record: Arc<Record>,
}

impl Machine for RecordMachine {
    type Output = (Command, Applied);

    fn apply(&mut self, _index: u64, data: &[u8]) -> (Command, Applied) {
        let command: Command = serde_json::from_slice(data).expect("only commands are proposed");
        let applied = Arc::make_mut(&mut self.record).apply(command.clone());
        (command, applied)
    }

    fn snapshot(&self) -> Vec<u8> {
        serde_json::to_vec(&*self.record).expect("a record has no map with keys that are not strings")
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let record = serde_json::from_slice(snapshot).map_err(|error| RestoreError(error.to_string()))?;
        self.record = Arc::new(record);
        Ok(())
    }
}

impl World {
    /// Opens the consensus directory, if the disk allows it.
    pub(super) fn open_raft(&mut self, machine: usize) -> Option<(RaftReplica, Arc<Record>)> {
        // Drawn here and fixed, since Raft's own choice is not ours to repeat.
        let election = usize::try_from(self.random.between(6, 12)).expect("small");
        let timing = Timing {
            heartbeat_ticks: 2,
            leader_ticks: 5,
            election_ticks_min: election,
            election_ticks_max: election + 1,
        };
        let settings = Settings { timing, compact_after_entries: 60, keep_entries: 20 };
        let disk = self.machines[machine].raft_disk.clone();
        match Replica::open(disk, RecordMachine::default(), CLUSTER, settings) {
            Ok((replica, _)) => {
                let record = Arc::clone(&replica.machine().record);
                Some((replica, record))
            }
            Err(error) => {
                if !self.machines[machine].disk.full {
                    self.violated("consensus_directory", || error.to_string());
                }
                None
            }
        }
    }

    pub(super) fn reopen_raft(&mut self, machine: usize) {
        let place = &self.machines[machine];
        if place.disk.full || place.disk.stalled_since.is_some() {
            self.again(machine, SECOND, MemberEvent::RaftReopen);
            return;
        }
        if let Some((replica, _)) = self.open_raft(machine) {
            self.member(machine).raft = Some(replica);
            self.record_changed(machine);
        }
    }

    pub(crate) fn raft_input(&mut self, machine: usize, input: RaftInput) {
        let stalled = self.machines[machine].disk.stalled_since.is_some();
        let member = self.member(machine);
        if stalled {
            let ticks = member.raft_inbox.iter().filter(|input| matches!(input, RaftInput::Tick)).count();
            if !matches!(input, RaftInput::Tick) || ticks < WAITING_TICKS {
                member.raft_inbox.push_back(input);
            }
            return;
        }
        let Some(replica) = &mut member.raft else { return };
        match input {
            RaftInput::Tick => replica.tick(),
            // A refused message is the sender's problem; a poisoned replica shows in `ready`.
            RaftInput::Step { from, bytes } => drop(replica.step(from, &bytes)),
            RaftInput::Propose { id, data } => drop(replica.propose(id, data)),
            RaftInput::Read { context } => drop(replica.read_index(context)),
            RaftInput::Change { id, changes } => drop(replica.propose_membership(id, &changes)),
            RaftInput::HandOver { to } => drop(replica.transfer_leader(to)),
        }
        self.raft_ready(machine);
    }

    fn raft_ready(&mut self, machine: usize) {
        let mut messages = Vec::new();
        let Some(replica) = &mut self.member(machine).raft else { return };
        let ready = replica.ready(|message| messages.push(message));
        if !messages.is_empty() {
            let written = self.now + self.random.between(50 * MICROSECOND, 2_000 * MICROSECOND);
            self.tell_member(machine, written, MemberEvent::RaftSend(messages));
        }
        let ready = match ready {
            Ok(ready) => ready,
            Err(failure) => {
                self.note(machine, || format!("consensus stops: {failure}"));
                if !failure.may_pass() && !self.mutated(ShellMutant::SyncLies) {
                    self.violated("consensus_directory", || failure.to_string());
                }
                self.member(machine).raft = None;
                self.again(machine, 5 * SECOND, MemberEvent::RaftReopen);
                return;
            }
        };
        self.observe_leader(machine);
        let changed = ready.restored || !ready.applied.is_empty();
        for applied in ready.applied {
            let (command, result) = applied.output;
            self.observe_applied(machine, applied.index, &command, &result);
        }
        if changed {
            self.observe_record(machine);
            self.record_changed(machine);
        }
        let reading = self.member(machine).reading.map(|(context, _)| context);
        if ready.reads.iter().any(|read| Some(read.context) == reading) {
            let member = self.member(machine);
            member.reading = None;
            member.view.confirmed = Some(member.view.record.epoch);
            self.wake(machine);
        }
    }

    pub(super) fn raft_send(&mut self, machine: usize, messages: Vec<Outgoing>) {
        for message in messages {
            if let Some(to) = self.machines.iter().position(|place| place.raft_id == Some(message.to)) {
                self.send(machine, to, Message::Raft(message.bytes));
            }
        }
    }

    /// A datagram between members; only those that know each other are linked.
    pub(crate) fn send(&mut self, from: usize, to: usize, body: Message) {
        let Some(sender) = self.machines[from].raft_id else { return };
        if from != to && !self.machines[to].raft_id.is_some_and(|id| self.is_linked(from, to, id)) {
            return;
        }
        let body = Rc::new(body);
        for delay in self.network.arrivals(&mut self.random, from, to).into_iter().flatten() {
            let body = Rc::clone(&body);
            self.queue.push(self.now + delay, crate::event::Event::Message { from, sender, to, body });
        }
    }

    pub(crate) fn propose(&mut self, machine: usize, command: &Command) {
        let data = serde_json::to_vec(command).expect("a command has no map with keys that are not strings");
        let member = self.member(machine);
        member.next_number += 1;
        let id = u128::from(member.next_number);
        self.observer.remember_proposal(command);
        self.raft_input(machine, RaftInput::Propose { id, data });
    }

    /// The disk goes on: what waited for it is done.
    pub(crate) fn raft_goes_on(&mut self, machine: usize) {
        while let Some(input) =
            self.machines[machine].member.as_mut().and_then(|member| member.raft_inbox.pop_front())
        {
            self.raft_input(machine, input);
        }
    }
}

impl Member {
    pub(crate) fn leads(&self) -> Option<u64> {
        let status = self.raft.as_ref()?.status();
        (status.role == Role::Leader).then_some(status.term)
    }
}
