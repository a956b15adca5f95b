//! Why a replica has stopped taking part.

use std::io;

/// The reason for which a replica is poisoned: it answers nothing, votes for nobody and applies nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A write found no space.
    #[error("no space left for the consensus file `{file}`; free space, the member votes again by itself")]
    NoSpace {
        /// The file of the consensus directory.
        file: &'static str,
    },
    /// A write or a sync failed for another reason.
    #[error(
        "cannot write the consensus file `{file}` ({reason}); check the disk, the member votes again by itself \
         once a write succeeds"
    )]
    Disk {
        /// The file of the consensus directory.
        file: &'static str,
        /// What the system said.
        reason: String,
    },
    /// A peer holds a promise of this member that its directory does not know of: an old copy of the directory
    /// came back, or the disk lost what it had acknowledged.
    #[error(
        "the consensus directory is older than what this member has promised ({evidence}); it must rejoin under a \
         new Raft id"
    )]
    Reverted {
        /// What showed it.
        evidence: String,
    },
    /// The leader's log contradicts what this member knows to be committed: other members have lost what they
    /// had acknowledged.
    #[error(
        "the cluster's log contradicts what this member knows to be committed ({evidence}); other members have lost \
         acknowledged entries: compare the members, then let the wrong ones rejoin under a new Raft id"
    )]
    Diverged {
        /// What showed it.
        evidence: String,
    },
    /// A snapshot from the leader cannot be read by this version.
    #[error("{reason}; run the same version of the program on all members")]
    Unreadable {
        /// What the machine said.
        reason: String,
    },
}

impl Failure {
    /// The failure that an error while writing `file` stands for.
    pub(crate) fn of_write(file: &'static str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { file },
            _ => Self::Disk { file, reason: error.to_string() },
        }
    }

    /// Whether opening the directory again can bring the member back without a human hand.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::Disk { .. })
    }

    /// Whether this directory must never vote again, also after a restart.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Reverted { .. } | Self::Diverged { .. })
    }
}
