//! The heart of the replica: what is written, and what is said, in which order.

use prost::Message as _;
use raft::StateRole;
use raft_proto::eraftpb::{Entry, EntryType, HardState, Message};

use super::Replica;
use crate::disk::Disk;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::message::ID_BYTES;
use crate::recent::Recent;
use crate::{log, membership, snapshot};

/// A log beyond this is compacted before its entries are many, and is cut to half of it.
const LOG_BYTES: u64 = 8 << 20;

/// A message for another member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The Raft id of the receiver.
    pub to: u64,
    /// The message.
    pub bytes: Vec<u8>,
}

/// A proposal that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied<O> {
    /// Its place in the log.
    pub index: u64,
    /// The id that its proposer gave it.
    pub id: u128,
    /// What the machine answered.
    pub output: O,
}

/// A change of membership that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipApplied {
    /// Its place in the log.
    pub index: u64,
    /// The id that its proposer gave it; none for the end of a joint change, which Raft proposes itself.
    pub id: Option<u128>,
    /// Why it changed nothing, if it did not.
    pub result: Result<(), String>,
}

/// A confirmed read: the machine now holds everything that was committed when it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadDone {
    /// The context under which it was asked for.
    pub context: u64,
    /// The commit index at the time, applied by now.
    pub index: u64,
}

/// What happened since the last call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready<O> {
    /// Applied proposals, in the order of the log.
    pub applied: Vec<Applied<O>>,
    /// Applied changes of membership, in the order of the log.
    pub memberships: Vec<MembershipApplied>,
    /// Confirmed reads.
    pub reads: Vec<ReadDone>,
    /// A snapshot was installed: the machine jumped over entries that are not among `applied`.
    pub restored: bool,
}

impl<O> Default for Ready<O> {
    fn default() -> Self {
        Self { applied: Vec::new(), memberships: Vec::new(), reads: Vec::new(), restored: false }
    }
}

impl<D: Disk, M: Machine> Replica<D, M> {
    /// Does all that there is to do: writes, lets messages leave through `send`, applies. Call it after ticks, steps
    /// and proposals; several of them before one call share one sync.
    ///
    /// A leader's appends leave before its own sync, so that the members write at the same time; everything
    /// else leaves after the sync on which it rests.
    ///
    /// # Errors
    /// The failure that has poisoned the replica. Nothing that rests on a failed write has left.
    pub fn ready(&mut self, mut send: impl FnMut(Outgoing)) -> Result<Ready<M::Output>, Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.outbox.drain(..).for_each(&mut send);
        self.process(&mut send)?;
        Ok(std::mem::take(&mut self.done))
    }

    /// Does what there is to do in the middle of a row of steps, if anything is unwritten; messages wait for
    /// [`Replica::ready`].
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        let unstable = self.node.raft.raft_log.unstable();
        if unstable.entries.is_empty() && unstable.snapshot.is_none() {
            return Ok(());
        }
        let mut sent = Vec::new();
        self.process(&mut |message| sent.push(message))?;
        self.outbox.append(&mut sent);
        Ok(())
    }

    fn process(&mut self, send: &mut dyn FnMut(Outgoing)) -> Result<(), Failure> {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let hard_state = self.node.raft.hard_state();
            // A sole voter is elected within one step: its new term is not on disk yet, and learners must not hear of
            // it before.
            let new_promise = (hard_state.term, hard_state.vote) != (self.durable.term, self.durable.vote);
            let mut later = ready.take_messages();
            if !new_promise {
                later.drain(..).for_each(|message| send(outgoing(&message)));
            }
            if !ready.snapshot().is_empty() {
                self.install(ready.snapshot().clone(), &hard_state)?;
            }
            if new_promise || !ready.entries().is_empty() {
                self.persist(&hard_state, ready.entries())?;
            }
            later.extend(ready.take_persisted_messages());
            for read in ready.take_read_states() {
                self.note_read(&read.request_ctx, read.index);
            }
            let mut committed = ready.take_committed_entries();
            let mut light = self.node.advance_append(ready);
            later.extend(light.take_messages());
            later.into_iter().for_each(|message| send(outgoing(&message)));
            committed.extend(light.take_committed_entries());
            for entry in committed {
                self.apply(&entry);
            }
            self.node.advance_apply_to(self.applied);
        }
        self.finish_reads();
        self.compact_if_due()
    }

    /// Writes a received snapshot. The machine takes it first: one that it cannot read must not reach the disk.
    fn install(
        &mut self,
        snapshot: raft_proto::eraftpb::Snapshot,
        hard_state: &HardState,
    ) -> Result<(), Failure> {
        let metadata = snapshot.get_metadata().clone();
        if !snapshot.data.is_empty() {
            let restored = Recent::decode(&snapshot.data)
                .and_then(|(recent, state)| self.machine.restore(state).map(|()| recent));
            self.recent = restored.map_err(|error| {
                let failure = Failure::Unreadable { reason: error.to_string() };
                self.poison(failure.clone());
                failure
            })?;
        }
        let result = self.disk.replace(snapshot::FILE, &snapshot::encode(&snapshot));
        self.written(snapshot::FILE, result)?;
        let result = self.file.begin_again(&mut self.disk, (metadata.index, metadata.term), hard_state, &[]);
        self.written(log::FILE, result)?;
        self.durable = hard_state.clone();
        self.compact_bytes = self.file.bytes();
        self.applied = metadata.index;
        self.members = metadata.get_conf_state().clone();
        self.node.mut_store().begin_at(snapshot);
        self.done.restored = true;
        Ok(())
    }

    fn persist(&mut self, hard_state: &HardState, entries: &[Entry]) -> Result<(), Failure> {
        let result = self.file.append(&mut self.disk, hard_state, entries);
        self.written(log::FILE, result)?;
        self.durable = hard_state.clone();
        self.node.mut_store().extend(entries);
        Ok(())
    }

    fn apply(&mut self, entry: &Entry) {
        self.applied = entry.index;
        let id = entry.context.as_slice().try_into().map(u128::from_be_bytes).ok();
        if entry.get_entry_type() != EntryType::EntryNormal {
            let result = self.apply_membership(entry);
            self.done.memberships.push(MembershipApplied { index: entry.index, id, result });
            return;
        }
        // What has no id is the entry with which a leader begins its term.
        let Some(id) = id else { return };
        if self.recent.insert(id) {
            let output = self.machine.apply(entry.index, &entry.data);
            self.done.applied.push(Applied { index: entry.index, id, output });
        }
    }

    fn apply_membership(&mut self, entry: &Entry) -> Result<(), String> {
        let change = membership::decode(entry)?;
        self.members = self.node.apply_conf_change(&change).map_err(|error| error.to_string())?;
        // raft-rs lets a leader go on that is no voter any more, and then looks for it among the members.
        let raft = &mut self.node.raft;
        if !raft.promotable() && raft.state != StateRole::Follower {
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
        }
        Ok(())
    }

    fn note_read(&mut self, context: &[u8], index: u64) {
        let Ok(context) = <[u8; ID_BYTES]>::try_from(context).map(u128::from_be_bytes) else { return };
        if (context >> 64) == u128::from(self.node.raft.id) {
            // The lower half is what was asked with.
            self.reads.insert(context as u64, index);
        }
    }

    fn finish_reads(&mut self) {
        let applied = self.applied;
        let done = self.reads.extract_if(.., |_, index| *index <= applied);
        self.done.reads.extend(done.map(|(context, index)| ReadDone { context, index }));
    }

    fn compact_if_due(&mut self) -> Result<(), Failure> {
        let since = self.applied - self.node.store().snapshot.get_metadata().index;
        let is_large = self.file.bytes() > LOG_BYTES.max(2 * self.compact_bytes);
        let is_wanted = self.node.store().wants_newer.take();
        if since == 0 || (since < self.settings.compact_after_entries && !is_large && !is_wanted) {
            return Ok(());
        }
        let term =
            self.node.store().term_of(self.applied).expect("only entries before the last snapshot are cut");
        let data = self.recent.encode(&self.machine.snapshot());
        let taken = snapshot::new(self.applied, term, self.members.clone(), data);
        // The snapshot first: until the log is cut, too, the two overlap, which is what an open expects.
        let result = self.disk.replace(snapshot::FILE, &snapshot::encode(&taken));
        self.written(snapshot::FILE, result)?;
        self.node.mut_store().snapshot = taken;
        let cut = self.cut_index();
        self.node.mut_store().forget_to(cut);
        let store = self.node.store();
        let result = self.file.begin_again(&mut self.disk, store.base, &self.durable, &store.entries);
        self.written(log::FILE, result)?;
        self.compact_bytes = self.file.bytes();
        Ok(())
    }

    /// The last entry to forget: some stay for members that were away for a short time, unless they are large.
    fn cut_index(&self) -> u64 {
        let store = self.node.store();
        let least = self.applied.saturating_sub(self.settings.keep_entries).max(store.base.0);
        let mut bytes = 0;
        let kept = store.entries.iter().rev().take_while(|entry| {
            bytes += entry.encoded_len() as u64;
            entry.index > self.applied || (entry.index > least && bytes <= LOG_BYTES / 2)
        });
        store.last() - kept.count() as u64
    }
}

fn outgoing(message: &Message) -> Outgoing {
    Outgoing { to: message.to, bytes: message.encode_to_vec() }
}
