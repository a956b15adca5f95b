//! The guard in front of raft-rs: which messages may be stepped.
//!
//! raft-rs trusts its peers: a message that no correct peer sends can make it panic (an index beyond the log, an
//! unknown kind of entry, an empty proposal) or, worse, count what was never stored. Everything that comes from a
//! peer passes here first. What is checked of a message depends on whether raft-rs would act on it, so this module
//! repeats the few rules of terms and roles that decide this.

use prost::Message as _;
use raft::StateRole;
use raft_proto::eraftpb::{Entry, EntryType, Message, MessageType};

use crate::failure::Failure;
use crate::{PROPOSAL_BYTES_MAX, membership, snapshot};

/// Indexes, terms and ids are below this, so that no sum of two overflows.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// Bytes of a proposal's id, and of a read's context.
pub(crate) const ID_BYTES: usize = 16;

/// What this replica knows, as far as a message can contradict it.
pub(crate) struct View<'a> {
    pub(crate) raft_id: u64,
    pub(crate) term: u64,
    pub(crate) role: StateRole,
    pub(crate) commit: u64,
    pub(crate) last_index: u64,
    /// The term of the entry at the commit index.
    pub(crate) commit_term: u64,
    /// Whether an id belongs to the membership.
    pub(crate) is_member: &'a dyn Fn(u64) -> bool,
}

/// What to do with a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Raft may have it.
    Step,
    /// Nothing for us, or nothing any more.
    Ignore,
    /// No correct peer sends it.
    Invalid(&'static str),
    /// It proves that this replica, or another one, has lost what it promised.
    Poison(Failure),
}

/// Decodes a message.
pub(crate) fn decode(bytes: &[u8]) -> Result<Message, prost::DecodeError> {
    Message::decode(bytes)
}

/// Judges a message that the transport received from `from`.
pub(crate) fn judge(message: &Message, from: u64, view: &View<'_>) -> Verdict {
    let Some(kind) = MessageType::from_i32(message.msg_type) else {
        return Verdict::Invalid("of an unknown kind");
    };
    if message.to != view.raft_id {
        return Verdict::Ignore;
    }
    if message.from != from || from == 0 || from == view.raft_id {
        return Verdict::Invalid("with a sender that is not the peer");
    }
    let numbers = [
        from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
    ];
    if numbers.iter().any(|number| *number > NUMBER_MAX) || message.request_snapshot != 0 {
        return Verdict::Invalid("with an impossible number");
    }
    use MessageType::*;
    match kind {
        MsgHup | MsgBeat | MsgUnreachable | MsgSnapStatus | MsgCheckQuorum => {
            Verdict::Invalid("that is local to its sender")
        }
        // A member that wants to hand over leadership is the leader itself; nobody asks another one for it.
        MsgTransferLeader => Verdict::Ignore,
        MsgPropose | MsgReadIndex => request(kind, message, view),
        _ if message.term == 0 => Verdict::Invalid("without a term"),
        MsgAppend | MsgHeartbeat | MsgSnapshot => from_leader(kind, message, view),
        MsgAppendResponse => append_response(message, view),
        MsgRequestVoteResponse => vote_response(message, view),
        MsgHeartbeatResponse | MsgRequestPreVoteResponse if !(view.is_member)(from) => Verdict::Ignore,
        MsgReadIndexResp if message.entries.len() != 1 => Verdict::Invalid("with no single context"),
        MsgReadIndexResp | MsgHeartbeatResponse | MsgRequestPreVoteResponse => Verdict::Step,
        // Votes are granted to members that this one does not know yet: it may lag behind a change of membership.
        MsgRequestVote | MsgRequestPreVote | MsgTimeoutNow => Verdict::Step,
    }
}

/// Proposals and reads that a follower forwards to its leader.
fn request(kind: MessageType, message: &Message, view: &View<'_>) -> Verdict {
    if message.term != 0 {
        return Verdict::Invalid("that is forwarded with a term");
    }
    let valid = match kind {
        MessageType::MsgReadIndex => message.entries.len() == 1 && message.entries[0].data.len() == ID_BYTES,
        _ => !message.entries.is_empty() && message.entries.iter().all(is_proposal),
    };
    if !valid {
        return Verdict::Invalid("with a malformed proposal or read");
    }
    // Not forwarded a second time: with stale ideas of who leads it could go in circles.
    if view.role != StateRole::Leader || !(view.is_member)(message.from) {
        return Verdict::Ignore;
    }
    Verdict::Step
}

fn is_proposal(entry: &Entry) -> bool {
    let kind_is_valid = match EntryType::from_i32(entry.entry_type) {
        Some(EntryType::EntryNormal) => true,
        Some(EntryType::EntryConfChangeV2) => {
            membership::decode(entry).is_ok_and(|change| !change.changes.is_empty())
        }
        _ => false,
    };
    kind_is_valid && entry.context.len() == ID_BYTES && entry.data.len() <= PROPOSAL_BYTES_MAX
}

/// Messages that only a leader sends.
fn from_leader(kind: MessageType, message: &Message, view: &View<'_>) -> Verdict {
    let well_formed = match kind {
        MessageType::MsgAppend => check_append(message),
        MessageType::MsgSnapshot => check_snapshot(message),
        _ => Ok(()),
    };
    if let Err(why) = well_formed {
        return Verdict::Invalid(why);
    }
    // Raft acts on it only as a follower of that term; a leader of an older one is told so.
    let acts = message.term > view.term || (message.term == view.term && view.role != StateRole::Leader);
    if !acts {
        return Verdict::Step;
    }
    match kind {
        MessageType::MsgHeartbeat if message.commit > view.last_index => Verdict::Poison(Failure::Reverted {
            evidence: format!(
                "member {} knows that it stored entry {}, its log ends at {}",
                message.from, message.commit, view.last_index
            ),
        }),
        MessageType::MsgAppend => agrees(message.from, message.index, message.log_term, view),
        MessageType::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            agrees(message.from, metadata.index, metadata.term, view)
        }
        _ => Verdict::Step,
    }
}

fn agrees(from: u64, index: u64, term: u64, view: &View<'_>) -> Verdict {
    if index == view.commit && term != view.commit_term {
        return Verdict::Poison(Failure::Diverged {
            evidence: format!("entry {index} has term {term} at member {from}, {} here", view.commit_term),
        });
    }
    Verdict::Step
}

fn check_append(message: &Message) -> Result<(), &'static str> {
    // The log begins after a snapshot at index 1 at the earliest, so there is always an entry before the first.
    if message.index == 0 || message.log_term == 0 {
        return Err("that appends to nothing");
    }
    let mut before = (message.index, message.log_term);
    for entry in &message.entries {
        if entry.index != before.0 + 1 || entry.term < before.1 {
            return Err("with entries out of order");
        }
        if EntryType::from_i32(entry.entry_type).is_none() {
            return Err("with an entry of an unknown kind");
        }
        before = (entry.index, entry.term);
    }
    if before.0 > NUMBER_MAX || before.1 > message.term {
        return Err("with an entry of a later term than its own");
    }
    Ok(())
}

fn check_snapshot(message: &Message) -> Result<(), &'static str> {
    let snapshot = message.get_snapshot();
    let metadata = snapshot.get_metadata();
    if snapshot::check(snapshot).is_err() || metadata.index > NUMBER_MAX || metadata.term > message.term {
        return Err("with an impossible snapshot");
    }
    Ok(())
}

fn append_response(message: &Message, view: &View<'_>) -> Verdict {
    if !(view.is_member)(message.from) {
        return Verdict::Ignore;
    }
    let counts = message.term == view.term && view.role == StateRole::Leader;
    if counts && !message.reject && message.index > view.last_index {
        return Verdict::Poison(Failure::Reverted {
            evidence: format!(
                "member {} has entry {} committed or stored, the log of this leader ends at {}",
                message.from, message.index, view.last_index
            ),
        });
    }
    Verdict::Step
}

fn vote_response(message: &Message, view: &View<'_>) -> Verdict {
    if !(view.is_member)(message.from) {
        return Verdict::Ignore;
    }
    // A granted vote bears the term for which it was asked, and that term was stored before it was asked for.
    if !message.reject && message.term > view.term {
        return Verdict::Poison(Failure::Reverted {
            evidence: format!(
                "member {} was asked for its vote in term {}, the last known term is {}",
                message.from, message.term, view.term
            ),
        });
    }
    Verdict::Step
}
