//! What a machine keeps: small state files, the data directory, and the disk's own troubles.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_core::sync::SyncSet;
use mainstay_core::view::Upstream;
use mainstay_core::{Epoch, Incarnation, Lsn, MemberId, Now, Timeline};

use crate::queue::{MICROSECOND, Time};
use crate::random::Random;
use crate::wal::{Branch, Tip};

/// What a fsync takes at most on a disk that is well.
pub(crate) const SYNC_MAX: Time = 3_000 * MICROSECOND;

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// Since when it completes nothing.
    pub(crate) stalled_since: Option<Time>,
    /// The same by the machine's clock.
    pub(crate) stalled_at: Now,
    pub(crate) full: bool,
    /// A fsync takes up to this.
    pub(crate) sync_max: Time,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk { stalled_since: None, stalled_at: Now(0), full: false, sync_max: SYNC_MAX }
    }
}

impl Disk {
    pub(crate) fn sync_time(&self, random: &mut Random) -> Time {
        random.between(200 * MICROSECOND, self.sync_max)
    }
}

/// Which sessions of applications `pg_hba.conf` lets in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hba {
    /// Reads on a standby.
    #[default]
    Standby,
    /// None: the gate is shut.
    Shut,
    /// All: the gate is open.
    Open,
}

/// The member's state files and PostgreSQL's configuration. All of it is durable: a step that writes one waits for the fsync.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// Never to stream from this epoch or an older one.
    pub(crate) sealed: Epoch,
    /// Never to answer a renewal of this epoch or an older one.
    pub(crate) promised: Epoch,
    /// The members, each with its replica of the log, as far as this one knows.
    pub(crate) roster: BTreeMap<MemberId, u64>,
    /// The newest change of the voters that this member knows of.
    pub(crate) serial: u64,
    /// Whom the directory follows, as promised.
    pub(crate) upstream: Option<Upstream>,
    /// `primary_conninfo` and the passfile.
    pub(crate) conninfo: Option<Upstream>,
    pub(crate) names: SyncSet,
    pub(crate) hba: Hba,
    /// The change of the data directory that was begun and not finished.
    pub(crate) mark: Option<&'static str>,
}

/// The data directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    /// `None`: there is none, or an empty one.
    pub(crate) content: Option<Content>,
}

#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) incarnation: Incarnation,
    pub(crate) system_identifier: u64,
    /// The WAL in the page cache: what a scan sees.
    pub(crate) written: Tip,
    /// The WAL that survives a loss of power.
    pub(crate) durable: Tip,
    /// The timeline that `pg_control` names: that of the last checkpoint.
    pub(crate) control: Branch,
    /// The timelines that have a history file here, real or empty.
    pub(crate) histories: BTreeSet<Timeline>,
    /// The oldest WAL still there.
    pub(crate) kept_from: Lsn,
    /// A clone or rewind stopped half-way, or WAL of another history was written over it: it holds no state that ever was.
    pub(crate) garbage: bool,
}

impl Content {
    pub(crate) fn new(
        incarnation: Incarnation,
        system_identifier: u64,
        tip: Tip,
        control: Branch,
    ) -> Content {
        Content {
            incarnation,
            system_identifier,
            written: tip,
            durable: tip,
            control,
            histories: BTreeSet::new(),
            kept_from: Lsn::ZERO,
            garbage: false,
        }
    }
}
