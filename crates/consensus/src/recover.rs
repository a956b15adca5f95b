//! Beginning anew from what one replica holds, when a majority of the others is lost for good.
//!
//! What was acknowledged by a majority is in the log of each of its members, but a follower may not know yet that it was. So
//! **everything in the log counts, committed or not**: what may have been agreed is taken as agreed. That it is safe to go on
//! from it at all nobody here can know; whoever calls this vouches for it.

use raft_proto::eraftpb::{ConfState, EntryType};

use crate::disk::Disk;
use crate::identity::{self, CreateError, Identity};
use crate::machine::Machine;
use crate::recent::Recent;
use crate::replica::{OpenError, read_identity, read_log};
use crate::{log, snapshot};

/// What a directory holds. It is only read.
#[derive(Debug)]
pub struct Survey<M> {
    /// The replica's own Raft id.
    pub raft_id: u64,
    /// The machine after the last entry in the log.
    pub machine: M,
    /// The last entry's index, and the newest term that this replica knows of.
    pub last: (u64, u64),
    /// How many of the entries were not known to be committed.
    pub uncommitted: u64,
}

/// Reads a directory; `machine` is the machine's beginning.
///
/// # Errors
/// As opening it: a directory that is damaged or was retired is not begun anew from.
pub fn survey<M: Machine>(
    disk: &impl Disk,
    mut machine: M,
    cluster_id: &str,
) -> Result<Survey<M>, OpenError> {
    let written = read_identity(disk, cluster_id)?;
    let raft_id = written.identity.raft_id;
    let (log, _) = read_log(disk, raft_id, written.members)?;
    let mut recent = Recent::default();
    if !log.snapshot.data.is_empty() {
        let (ids, state) = Recent::decode(&log.snapshot.data).map_err(OpenError::Restore)?;
        machine.restore(state).map_err(OpenError::Restore)?;
        recent = ids;
    }
    let from = log.snapshot.get_metadata().index;
    for entry in log.entries.iter().filter(|entry| entry.index > from) {
        let id = entry.context.as_slice().try_into().map(u128::from_be_bytes).ok();
        // What has no id is the entry with which a leader begins its term; members follow from the machine's state.
        if entry.get_entry_type() == EntryType::EntryNormal
            && let Some(id) = id
            && recent.insert(id)
        {
            machine.apply(entry.index, &entry.data);
        }
    }
    let (index, term) = (log.last(), log.hard_state.term);
    Ok(Survey {
        raft_id,
        machine,
        last: (index, term),
        uncommitted: index.saturating_sub(log.hard_state.commit),
    })
}

/// Fills an empty directory: a replica that is the only voter, with `machine` as its state, after everything that `survey` has
/// seen. Its `identity` must have a Raft id that was never given before: then no message of the old members is for it.
///
/// # Errors
/// Refuses a directory with anything in it, and a Raft id that was used.
pub fn begin_anew<M: Machine>(
    disk: &mut impl Disk,
    identity: &Identity,
    survey: &Survey<M>,
    machine: &M,
) -> Result<(), CreateError> {
    let invalid = |reason: String| CreateError::Invalid { reason };
    if identity.raft_id == survey.raft_id {
        return Err(invalid(format!("Raft id {} was used before", identity.raft_id)));
    }
    if let Some(file) = disk.list().map_err(CreateError::Disk)?.into_iter().next() {
        return Err(CreateError::Exists { file });
    }
    let state = machine.snapshot();
    let members = ConfState::from(([identity.raft_id], []));
    let (index, term) = (survey.last.0 + 1, survey.last.1 + 1);
    let first = snapshot::new(index, term, members.clone(), Recent::default().encode(&state));
    disk.replace(snapshot::FILE, &snapshot::encode(&first)).map_err(CreateError::Disk)?;
    disk.replace(log::FILE, &log::unused(identity.raft_id, (index, term))).map_err(CreateError::Disk)?;
    // The identity last, as ever: a directory with one has had all the rest.
    disk.replace(identity::FILE, &identity::encode(identity, members)?).map_err(CreateError::Disk)
}
