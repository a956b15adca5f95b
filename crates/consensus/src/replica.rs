//! The replica: ticks and messages in, messages and applied outputs out.

use std::collections::BTreeMap;
use std::io;

use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};
use raft_proto::eraftpb::{ConfState, HardState, Message, MessageType};

use crate::PROPOSAL_BYTES_MAX;
use crate::disk::Disk;
use crate::failure::Failure;
use crate::log::LogFile;
use crate::machine::Machine;
use crate::membership::{self, MembershipChange};
use crate::message::{self, Verdict, View};
use crate::recent::Recent;
use crate::storage::Log;

mod open;
mod ready;
mod settings;
mod status;

pub use open::{OpenError, OpenReport};
pub(crate) use open::{read_identity, read_log};
pub use ready::{Applied, MembershipApplied, Outgoing, ReadDone, Ready};
pub use settings::{Settings, Timing};
pub use status::{Heard, Role, Status};

/// Why a message was not stepped.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// It is no message.
    #[error("a consensus message cannot be decoded")]
    Decode(#[source] prost::DecodeError),
    /// No correct peer sends it.
    #[error("a consensus message {what} was refused")]
    Invalid {
        /// Which one.
        what: &'static str,
    },
    /// The replica is poisoned.
    #[error("this member does not take part in consensus")]
    Failed(#[source] Failure),
}

/// Why something was not proposed. In every case it is certain that it will not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader is known.
    #[error("the members are electing a leader")]
    NoLeader,
    /// Only the leader can do this.
    #[error("member {leader} leads, not this one")]
    NotLeader {
        /// The leader.
        leader: u64,
    },
    /// The leader hands over, changes its members already, or has too much uncommitted.
    #[error("the leader is busy with a change of leader or of members, or with too many proposals")]
    Busy,
    /// More than [`PROPOSAL_BYTES_MAX`].
    #[error("a proposal of {bytes} bytes is larger than {PROPOSAL_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The change of membership is not possible.
    #[error("the change of membership is not possible: {reason}")]
    Membership {
        /// What is wrong.
        reason: String,
    },
    /// The replica is poisoned.
    #[error("this member does not take part in consensus")]
    Failed(#[source] Failure),
}

/// A replica of `M` on the disk `D`.
pub struct Replica<D: Disk, M: Machine> {
    disk: D,
    node: RawNode<Log>,
    machine: M,
    file: LogFile,
    /// The hard state that is on disk.
    durable: HardState,
    /// The membership after the entry `applied`.
    members: ConfState,
    applied: u64,
    recent: Recent,
    /// Reads that are confirmed and wait until their index is applied, by context.
    reads: BTreeMap<u64, u64>,
    /// As leader: for how many ticks a snapshot to this member is unanswered.
    snapshots: BTreeMap<u64, usize>,
    /// What left while there was nobody to give it to, and what was applied then.
    outbox: Vec<Outgoing>,
    done: Ready<M::Output>,
    failure: Option<Failure>,
    settings: Settings,
    /// Size of the log's file after the last compaction.
    compact_bytes: u64,
}

impl<D: Disk, M: Machine> Replica<D, M> {
    /// Opens a consensus directory. `machine` is the machine's beginning; the state that the directory holds
    /// replaces it. What was read is written anew before anything else, see the module `open`.
    ///
    /// # Errors
    /// [`OpenError`] tells an absent directory, another cluster's, an unknown format, damage, and a directory that
    /// must not vote any more apart.
    pub fn open(
        disk: D,
        machine: M,
        cluster_id: &str,
        settings: Settings,
    ) -> Result<(Self, OpenReport), OpenError> {
        open::open(disk, machine, cluster_id, settings)
    }

    /// Lets one tick pass.
    pub fn tick(&mut self) {
        if self.failure.is_some() || self.settle().is_err() {
            return;
        }
        self.node.tick();
        self.watch_snapshots();
    }

    /// Takes a message that the transport received from `from`, which the transport has authenticated.
    ///
    /// # Errors
    /// A message that no correct peer sends is refused and changes nothing. One that proves that promises were
    /// lost poisons the replica. Messages to another replica or of a removed member are ignored and are no error.
    pub fn step(&mut self, from: u64, bytes: &[u8]) -> Result<Heard, StepError> {
        if let Some(failure) = &self.failure {
            return Err(StepError::Failed(failure.clone()));
        }
        let message = message::decode(bytes).map_err(StepError::Decode)?;
        match message::judge(&message, from, &self.view(&|id| self.node.raft.prs().get(id).is_some())) {
            Verdict::Step => self.step_judged(message),
            Verdict::Ignore => Ok(Heard::Nobody),
            Verdict::Invalid(what) => Err(StepError::Invalid { what }),
            Verdict::Poison(failure) => {
                self.poison(failure.clone());
                Err(StepError::Failed(failure))
            }
        }
    }

    /// Proposes `data`. Its output comes from [`Replica::ready`] under `id` once it is applied here, if ever; an `id`
    /// that is applied already is not applied again, so a proposal whose fate is unknown may be repeated.
    ///
    /// # Errors
    /// See [`ProposeError`]; none leaves it open whether it was proposed.
    pub fn propose(&mut self, id: u128, data: Vec<u8>) -> Result<(), ProposeError> {
        self.check_leader()?;
        if data.len() > PROPOSAL_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: data.len() });
        }
        self.node.propose(id.to_be_bytes().to_vec(), data).map_err(|_| ProposeError::Busy)
    }

    /// Proposes a change of membership; several changes take effect together. It is reported by [`Replica::ready`]
    /// under `id` when it begins to hold; with several, [`Status::voters_outgoing`] is empty once it holds alone.
    ///
    /// # Errors
    /// See [`ProposeError`]. Only the leader can tell whether it is possible, so only the leader takes it.
    pub fn propose_membership(&mut self, id: u128, changes: &[MembershipChange]) -> Result<(), ProposeError> {
        self.check_leader()?;
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader { leader: raft.leader_id });
        }
        let now = raft.prs().conf().to_conf_state();
        let change =
            membership::propose(changes, &now).map_err(|reason| ProposeError::Membership { reason })?;
        if raft.has_pending_conf() || !now.voters_outgoing.is_empty() {
            return Err(ProposeError::Busy);
        }
        self.node.propose_conf_change(id.to_be_bytes().to_vec(), change).map_err(|_| ProposeError::Busy)
    }

    /// Asks a majority for the commit index. [`Replica::ready`] answers under `context` once that is applied here; a lost
    /// message or a new leader means no answer, so ask again, with the same context if you like.
    ///
    /// # Errors
    /// [`ProposeError::NoLeader`] and [`ProposeError::Failed`].
    pub fn read_index(&mut self, context: u64) -> Result<(), ProposeError> {
        self.check_leader()?;
        let context = (u128::from(self.node.raft.id) << 64) | u128::from(context);
        self.node.read_index(context.to_be_bytes().to_vec());
        Ok(())
    }

    /// As leader: hands leadership over to a voter, within an election timeout or not at all.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`], [`ProposeError::NoLeader`] and [`ProposeError::Failed`].
    pub fn transfer_leader(&mut self, to: u64) -> Result<(), ProposeError> {
        self.check_leader()?;
        if self.node.raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader { leader: self.node.raft.leader_id });
        }
        self.node.transfer_leader(to);
        Ok(())
    }

    /// Says that a message to this member was dropped, so that Raft asks what it has before sending it more.
    pub fn report_unreachable(&mut self, id: u64) {
        if self.failure.is_none() {
            self.node.report_unreachable(id);
        }
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Why the replica is poisoned, if it is.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    fn view<'a>(&self, is_member: &'a dyn Fn(u64) -> bool) -> View<'a> {
        let raft = &self.node.raft;
        View {
            raft_id: raft.id,
            term: raft.term,
            role: raft.state,
            commit: raft.raft_log.committed,
            last_index: raft.raft_log.last_index(),
            commit_term: raft.raft_log.term(raft.raft_log.committed).unwrap_or(0),
            is_member,
        }
    }

    fn step_judged(&mut self, message: Message) -> Result<Heard, StepError> {
        let (kind, from, term) = (message.get_msg_type(), message.from, message.term);
        let from_leader =
            matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot);
        if !self.shares_a_sync(kind) {
            self.settle().map_err(StepError::Failed)?;
        }
        // Refused proposals of a peer are the peer's to repeat, answers of strangers nobody's.
        let _ = self.node.step(message);
        if self.node.snap().is_some() {
            self.settle().map_err(StepError::Failed)?;
        }
        let raft = &self.node.raft;
        Ok(if raft.term != term {
            Heard::Nobody
        } else if from_leader && raft.leader_id == from {
            Heard::Leader
        } else if matches!(kind, MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse)
            && raft.state == StateRole::Leader
        {
            Heard::Follower
        } else {
            Heard::Nobody
        })
    }

    /// Whether a message may be stepped while entries are unwritten, so that a row of them costs one sync. Whatever could
    /// make this replica a leader must meet a log without unwritten entries: raft-rs asserts it.
    fn shares_a_sync(&self, kind: MessageType) -> bool {
        use MessageType::*;
        match kind {
            MsgAppend | MsgHeartbeat => true,
            MsgPropose | MsgReadIndex | MsgAppendResponse | MsgHeartbeatResponse => {
                self.node.raft.state == StateRole::Leader
            }
            _ => false,
        }
    }

    fn check_leader(&self) -> Result<(), ProposeError> {
        if let Some(failure) = &self.failure {
            return Err(ProposeError::Failed(failure.clone()));
        }
        if self.node.raft.leader_id == raft::INVALID_ID {
            return Err(ProposeError::NoLeader);
        }
        Ok(())
    }

    /// raft-rs sends a member nothing more until somebody tells it what became of a snapshot. Links may lose one,
    /// so after an election timeout it counts as lost.
    fn watch_snapshots(&mut self) {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            self.snapshots.clear();
            return;
        }
        let unanswered: Vec<u64> = raft
            .prs()
            .iter()
            .filter(|(_, peer)| peer.state == ProgressState::Snapshot)
            .map(|(id, _)| *id)
            .collect();
        self.snapshots.retain(|id, _| unanswered.contains(id));
        for id in unanswered {
            let ticks = self.snapshots.entry(id).or_insert(0);
            *ticks += 1;
            if *ticks > self.settings.timing.election_ticks_max {
                self.snapshots.remove(&id);
                self.node.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
    }

    /// Stops taking part. A directory that has lost promises is marked, so that it does not vote after a restart either.
    fn poison(&mut self, failure: Failure) {
        if failure.is_final() {
            // Should this fail, the next heartbeat finds the same again.
            let _ = self.disk.replace(open::RETIRED, failure.to_string().as_bytes());
        }
        self.outbox.clear();
        self.failure = Some(failure);
    }

    fn written(&mut self, file: &'static str, result: io::Result<()>) -> Result<(), Failure> {
        result.map_err(|error| {
            let failure = Failure::of_write(file, &error);
            self.poison(failure.clone());
            failure
        })
    }
}
