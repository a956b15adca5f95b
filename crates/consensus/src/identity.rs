//! Who this replica is: written once, by the one explicit act that makes a consensus directory.

use std::io;

use prost::Message as _;
use raft_proto::eraftpb::ConfState;

use crate::disk::Disk;
use crate::frame::{self, Fault};
use crate::log;
use crate::membership;

/// The identity's file.
pub(crate) const FILE: &str = "identity";
const KIND: u8 = b'i';
const VERSION: u16 = 1;

/// Whose replica a directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, any text that no other cluster has.
    pub cluster_id: String,
    /// The replica's Raft id: not 0, never used before in this cluster.
    pub raft_id: u64,
}

/// Why a directory was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There are files of a replica already.
    #[error(
        "the consensus directory already holds `{file}`; a member that is to begin anew needs an empty one"
    )]
    Exists {
        /// One of them.
        file: String,
    },
    /// The Raft id or the first members make no sense.
    #[error("cannot create the consensus directory: {reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// The disk failed.
    #[error("cannot write the consensus directory")]
    Disk(#[source] io::Error),
}

/// What the file holds. `members` is the membership before the first entry.
pub(crate) struct Written {
    pub(crate) identity: Identity,
    pub(crate) members: ConfState,
}

#[derive(Clone, PartialEq, prost::Message)]
struct IdentityFile {
    #[prost(string, tag = "1")]
    cluster_id: String,
    #[prost(uint64, tag = "2")]
    raft_id: u64,
    #[prost(message, optional, tag = "3")]
    members: Option<ConfState>,
}

/// Makes a consensus directory: the one explicit act that gives a member a vote. `voters` and `learners` are
/// the first members of a new cluster, the same at each of them; a member that joins a running cluster is
/// created without any and waits to be added.
///
/// # Errors
/// Refuses when the directory holds a replica already.
pub fn create(
    disk: &mut impl Disk,
    identity: &Identity,
    voters: &[u64],
    learners: &[u64],
) -> Result<(), CreateError> {
    let members = first_members(identity, voters, learners)?;
    if let Some(file) = disk.list().map_err(CreateError::Disk)?.into_iter().find(|file| file != log::FILE) {
        return Err(CreateError::Exists { file });
    }
    if let Some(bytes) = disk.read(log::FILE).map_err(CreateError::Disk)?
        && !log::is_unused(&bytes)
    {
        return Err(CreateError::Exists { file: log::FILE.to_owned() });
    }
    // The identity last and at once: a directory with an identity always has had a log, so a lost log cannot pass for
    // a new one.
    disk.replace(log::FILE, &log::unused(identity.raft_id, genesis(&members))).map_err(CreateError::Disk)?;
    disk.replace(FILE, &encode(identity, members)?).map_err(CreateError::Disk)
}

/// The content of the file.
pub(crate) fn encode(identity: &Identity, members: ConfState) -> Result<Vec<u8>, CreateError> {
    check_id(identity)?;
    let file = IdentityFile {
        cluster_id: identity.cluster_id.clone(),
        raft_id: identity.raft_id,
        members: Some(members),
    };
    let mut bytes = frame::preamble(KIND, VERSION);
    frame::push(&mut bytes, 0, &file.encode_to_vec());
    Ok(bytes)
}

fn check_id(identity: &Identity) -> Result<(), CreateError> {
    match (1..=crate::message::NUMBER_MAX).contains(&identity.raft_id) {
        true => Ok(()),
        false => Err(CreateError::Invalid { reason: format!("{} is no Raft id", identity.raft_id) }),
    }
}

/// The index and term before the first entry. A founding member begins at (1, 1), as if it had installed a
/// snapshot of the first membership, and one that joins at (0, 0), so that whoever joins always gets a
/// snapshot and with it the membership, which the entries alone would not tell.
pub(crate) fn genesis(members: &ConfState) -> (u64, u64) {
    if members.voters.is_empty() { (0, 0) } else { (1, 1) }
}

/// Reads the file.
pub(crate) fn load(bytes: &[u8]) -> Result<Written, Fault> {
    let damaged = Fault::Damaged { at: frame::PREAMBLE, what: "it cannot be decoded" };
    let payload = frame::single(bytes, KIND, VERSION)?;
    let file = IdentityFile::decode(payload).map_err(|_| damaged)?;
    let members = file.members.unwrap_or_default();
    if file.raft_id == 0 || (members != ConfState::default() && membership::check(&members).is_err()) {
        return Err(Fault::Damaged { at: frame::PREAMBLE, what: "it names no valid members" });
    }
    Ok(Written { identity: Identity { cluster_id: file.cluster_id, raft_id: file.raft_id }, members })
}

fn first_members(identity: &Identity, voters: &[u64], learners: &[u64]) -> Result<ConfState, CreateError> {
    let invalid = |reason: String| CreateError::Invalid { reason };
    check_id(identity)?;
    let members = ConfState::from((voters.iter().copied(), learners.iter().copied()));
    if voters.is_empty() && learners.is_empty() {
        return Ok(members);
    }
    membership::check(&members).map_err(invalid)?;
    if !membership::contains(&members, identity.raft_id) {
        return Err(invalid(format!(
            "Raft id {} is not among the first members; one that joins later is created without any",
            identity.raft_id
        )));
    }
    Ok(members)
}
