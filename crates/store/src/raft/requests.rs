//! What the handles ask of the thread, and what waits there for an answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use mainstay_consensus::{Disk, Machine, MembershipChange, ProposeError as Refusal, Ready, Replica};
use tokio::sync::oneshot;

use super::MembershipError;
use crate::store::{ProposeError, ReadError};

/// A proposal without an answer is made again after so many ticks, in case it was lost on its way to the leader.
const REPEAT_TICKS: u32 = 10;

pub(super) enum Request<M: Machine> {
    Step {
        from: u64,
        bytes: Vec<u8>,
    },
    Propose {
        id: u128,
        data: Vec<u8>,
        ticket: Ticket,
        reply: oneshot::Sender<Result<M::Output, ProposeError>>,
    },
    Read {
        reply: oneshot::Sender<Result<u64, ReadError>>,
    },
    Membership {
        id: u128,
        changes: Vec<MembershipChange>,
        reply: oneshot::Sender<Result<(), MembershipError>>,
    },
    Transfer {
        to: u64,
    },
    Stop,
}

const WAITING: u8 = 0;
const PROPOSED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Whether a proposal was ever made. The proposer and the thread agree on it even when the time is up just as a leader
/// appears, so that "nothing was proposed" is never said in error.
#[derive(Clone)]
pub(super) struct Ticket(Arc<AtomicU8>);

impl Ticket {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(WAITING)))
    }

    /// The proposer waits no longer; true if it was not proposed, and it will not be from now on.
    pub(super) fn give_up(&self) -> bool {
        self.0.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Before proposing; false if the proposer has given up.
    fn take(&self) -> bool {
        self.0.compare_exchange(WAITING, PROPOSED, Ordering::AcqRel, Ordering::Acquire) != Err(GIVEN_UP)
    }

    /// After a refusal of what was proposed for the first time.
    fn put_back(&self) {
        let _ = self.0.compare_exchange(PROPOSED, WAITING, Ordering::AcqRel, Ordering::Acquire);
    }
}

struct Proposal<M: Machine> {
    data: Vec<u8>,
    ticket: Ticket,
    reply: oneshot::Sender<Result<M::Output, ProposeError>>,
    /// Ticks since it was proposed, `None` before.
    age: Option<u32>,
}

/// Everything that waits for an answer.
pub(super) struct Waiting<M: Machine> {
    proposals: BTreeMap<u128, Proposal<M>>,
    reads: BTreeMap<u64, oneshot::Sender<Result<u64, ReadError>>>,
    memberships: BTreeMap<u128, oneshot::Sender<Result<(), MembershipError>>>,
    next_read: u64,
}

impl<M: Machine> Waiting<M> {
    pub(super) fn new() -> Self {
        Self {
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            memberships: BTreeMap::new(),
            next_read: 0,
        }
    }

    pub(super) fn propose<D: Disk>(
        &mut self,
        replica: &mut Replica<D, M>,
        id: u128,
        data: Vec<u8>,
        ticket: Ticket,
        reply: oneshot::Sender<Result<M::Output, ProposeError>>,
    ) {
        let mut proposal = Proposal { data, ticket, reply, age: None };
        match proposal.make(replica, id) {
            Made::Keep => {
                self.proposals.insert(id, proposal);
            }
            Made::Drop => {}
            Made::Refuse(why) => answer(proposal.reply, Err(ProposeError::Failed(why))),
        }
    }

    pub(super) fn read<D: Disk>(
        &mut self,
        replica: &mut Replica<D, M>,
        reply: oneshot::Sender<Result<u64, ReadError>>,
    ) {
        self.next_read += 1;
        // Without a leader it is asked again at the next tick.
        let _ = replica.read_index(self.next_read);
        self.reads.insert(self.next_read, reply);
    }

    pub(super) fn change_membership<D: Disk>(
        &mut self,
        replica: &mut Replica<D, M>,
        id: u128,
        changes: &[MembershipChange],
        reply: oneshot::Sender<Result<(), MembershipError>>,
    ) {
        match replica.propose_membership(id, changes) {
            Ok(()) => {
                self.memberships.insert(id, reply);
            }
            Err(refusal) => answer(reply, Err(MembershipError::Refused(refusal))),
        }
    }

    /// Makes again what may have been lost, forgets what nobody waits for.
    pub(super) fn tick<D: Disk>(&mut self, replica: &mut Replica<D, M>) {
        self.reads.retain(|_, reply| !reply.is_closed());
        self.memberships.retain(|_, reply| !reply.is_closed());
        for context in self.reads.keys() {
            let _ = replica.read_index(*context);
        }
        for proposal in self.proposals.values_mut() {
            proposal.age = proposal.age.map(|age| age + 1);
        }
        self.make(replica, |age| age.is_none_or(|age| age >= REPEAT_TICKS));
    }

    /// There is another leader: whatever the last one did not finish is made again at once.
    pub(super) fn new_leader<D: Disk>(&mut self, replica: &mut Replica<D, M>) {
        for context in self.reads.keys() {
            let _ = replica.read_index(*context);
        }
        self.make(replica, |_| true);
    }

    fn make<D: Disk>(&mut self, replica: &mut Replica<D, M>, is_due: impl Fn(Option<u32>) -> bool) {
        self.proposals.retain(|id, proposal| {
            if proposal.reply.is_closed() {
                return false;
            }
            // A refusal of something that was proposed before says nothing about the first time.
            !is_due(proposal.age) || !matches!(proposal.make(replica, *id), Made::Drop)
        });
    }

    /// Hands out the answers.
    pub(super) fn finish(&mut self, ready: Ready<M::Output>, applied: u64) {
        for done in ready.applied {
            if let Some(proposal) = self.proposals.remove(&done.id) {
                answer(proposal.reply, Ok(done.output));
            }
        }
        for done in ready.memberships {
            if let Some(reply) = done.id.and_then(|id| self.memberships.remove(&id)) {
                answer(reply, done.result.map_err(MembershipError::Rejected));
            }
        }
        for done in ready.reads {
            if let Some(reply) = self.reads.remove(&done.context) {
                answer(reply, Ok(applied));
            }
        }
    }

    /// The replica takes part no longer. What was proposed stays: it may be applied, and then be seen here after all.
    pub(super) fn fail(&mut self, failure: &str) {
        for (_, reply) in std::mem::take(&mut self.reads) {
            answer(reply, Err(ReadError::Failed(failure.to_owned())));
        }
        for (_, proposal) in self.proposals.extract_if(.., |_, proposal| proposal.ticket.give_up()) {
            answer(proposal.reply, Err(ProposeError::Failed(failure.to_owned())));
        }
    }
}

enum Made {
    Keep,
    Drop,
    Refuse(String),
}

impl<M: Machine> Proposal<M> {
    fn make<D: Disk>(&mut self, replica: &mut Replica<D, M>, id: u128) -> Made {
        if !self.ticket.take() {
            return Made::Drop;
        }
        match replica.propose(id, self.data.clone()) {
            Ok(()) => {
                self.age = Some(0);
                Made::Keep
            }
            Err(refusal) if self.age.is_none() => {
                self.ticket.put_back();
                match refusal {
                    Refusal::NoLeader | Refusal::Busy | Refusal::NotLeader { .. } => Made::Keep,
                    refusal => Made::Refuse(refusal.to_string()),
                }
            }
            Err(_) => Made::Keep,
        }
    }
}

/// Nobody may be waiting any more, and then nobody needs the answer.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_used_or_given_up_but_not_both() {
        let ticket = Ticket::new();
        assert!(ticket.take() && ticket.take(), "a proposal may be made again");
        assert!(!ticket.give_up(), "its fate is unknown");
        ticket.put_back();
        assert!(ticket.give_up());
        assert!(!ticket.take() && !ticket.take(), "the proposer was told that it is not made");
    }
}
