//! Going on with this member alone, when a majority of the voters is lost for good. It is done while Mainstay is stopped.
//!
//! Whether it may be is decided by [`mainstay_core::record::Record::recover`] on the facts that are gathered here; the one step that
//! changes something is the exchange of the consensus directory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::MemberId;
use mainstay_core::lineage::Extent;
use mainstay_core::record::{CannotRecover, Record, Recovery, Survivor};
use mainstay_core::view::Directory;
use mainstay_net::Hail;
use mainstay_postgres::directory::{self, DirectoryState};
use mainstay_postgres::layout::Layout;
use mainstay_postgres::tools::Tools;
use mainstay_postgres::{history, wal_end};
use mainstay_store::{Held, RecoverError as StoreError};

use crate::aftermath::stop_what_is_left;
use crate::configuration::Configuration;
use crate::machinery::{blocking, failed};
use crate::record_machine::RecordMachine;
use crate::roster::{self, Roster};
use crate::start::{endpoint, tools_and_layout};

/// Reading a whole checkpoint's worth of WAL from a slow disk.
const SCAN_PATIENCE: Duration = Duration::from_secs(300);

/// Why a member does not go on alone. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Cannot(#[from] CannotRecover),
    #[error("{0}")]
    Failed(String),
}

/// Everything is looked at, and nothing is changed yet. No member can start here while this is held.
pub struct Prepared {
    configuration: Configuration,
    layout: Layout,
    held: Held<RecordMachine>,
    recovery: Recovery,
    /// What came of calling each of the others.
    pub called: Vec<(MemberId, String)>,
}

/// Looks at this machine and calls the others, twice, with a lease in between: whoever held one then holds none.
pub async fn prepare(configuration: &Configuration) -> Result<Prepared, RecoverError> {
    let consensus = configuration.directory.join("consensus");
    let held = match mainstay_store::hold(&consensus, &configuration.cluster, RecordMachine::default()) {
        Ok(held) => held,
        Err(StoreError::InUse(_)) => return Err(CannotRecover::Runs.into()),
        Err(error) => return Err(unable(error)),
    };
    let record = Arc::clone(&held.machine().record);
    let (tools, layout) = tools_and_layout(configuration).await.map_err(unable)?;
    // The member is gone, which held is the proof of: what it has left has no lease to go on with.
    let left = match stop_what_is_left(configuration).await {
        Ok(_) => is_left(configuration).map_err(unable)?,
        Err(error) => return Err(unable(error)),
    };
    let (directory, extent) = match &tools {
        Some(tools) if !left => look(tools, &layout).await?,
        _ => (Directory::Unknown, None),
    };
    let (reached, called) = call(configuration, &record).await?;
    let member = configuration.me.clone();
    let survivor = Survivor { member, directory, extent, runs: false, left, reached };
    let recovery = record.recover(&survivor)?;
    Ok(Prepared { configuration: configuration.clone(), layout, held, recovery, called })
}

impl Prepared {
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Entries of the log that were not known to be agreed; they are taken as agreed.
    pub fn uncommitted(&self) -> u64 {
        self.held.uncommitted()
    }

    /// Does it. Answers where the old consensus directory is kept.
    pub async fn carry_out(self) -> Result<std::path::PathBuf, RecoverError> {
        let Prepared { configuration, layout, held, recovery, .. } = self;
        let roster = roster::of_record(&recovery.record, &configuration, &Roster::new());
        let raft_id = recovery.record.members[&configuration.me].raft_id;
        let machine = RecordMachine { record: Arc::new(recovery.record), too_old: None };
        let access = layout.private_access();
        let done = blocking(move || {
            let kept = held.begin_anew(raft_id, &machine).map_err(|error| failed(error).0)?;
            // Killed before this, the member reads the record at its start and writes the roster itself.
            roster::keep(&configuration.directory, &roster, access).map_err(|error| failed(error).0)?;
            Ok(kept)
        });
        done.await.map_err(|error| RecoverError::Failed(error.to_string()))?.map_err(RecoverError::Failed)
    }
}

fn is_left(configuration: &Configuration) -> std::io::Result<bool> {
    let data = &configuration.postgresql.data_directory;
    if !data.exists() {
        return Ok(false);
    }
    Ok(!mainstay_guard::leftovers(data)?.is_empty())
}

async fn look(tools: &Tools, layout: &Layout) -> Result<(Directory, Option<Extent>), RecoverError> {
    let found = directory::inspect(tools, layout).await.map_err(unable)?;
    let directory = match found {
        DirectoryState::Absent | DirectoryState::Empty => Directory::Absent,
        DirectoryState::HalfChanged(mark) => {
            Directory::Marked { operation: format!("{:?}", mark.operation).to_lowercase() }
        }
        DirectoryState::Damaged(why) => Directory::Marked { operation: why },
        DirectoryState::Foreign(why) => Directory::Foreign { why },
        DirectoryState::Valid { control, incarnation } => {
            Directory::Valid { incarnation, system_identifier: control.system_identifier }
        }
    };
    if !matches!(directory, Directory::Valid { .. }) {
        return Ok((directory, None));
    }
    let end = wal_end::wal_end(tools, layout, None, SCAN_PATIENCE).await;
    let end = end.map_err(unable)?;
    let history = history::read(&layout.pg_wal(), end.timeline).map_err(unable)?;
    Ok((directory, Some(Extent { history, end: end.end })))
}

/// Who answers, and what came of calling each.
async fn call(
    configuration: &Configuration,
    record: &Record,
) -> Result<(BTreeSet<MemberId>, Vec<(MemberId, String)>), RecoverError> {
    // A member that has changed its key since that record answers with one that only the newest roster has.
    let kept = roster::load(configuration).map_err(unable)?;
    let roster = roster::of_record(record, configuration, &kept);
    let others: Roster = roster
        .iter()
        .filter(|(name, _)| **name != configuration.me)
        .map(|(n, r)| (n.clone(), r.clone()))
        .collect();
    let endpoint = endpoint(configuration, &roster).map_err(unable)?;
    let mut reached = BTreeSet::new();
    let mut called = Vec::new();
    for round in 0..2 {
        if round > 0 && !others.is_empty() {
            tokio::time::sleep(configuration.lease).await;
        }
        called.clear();
        for (name, row) in &others {
            match endpoint.hail(name, row.address).await {
                Hail::Answers => {
                    reached.insert(name.clone());
                    called.push((name.clone(), "answers".to_owned()));
                }
                Hail::Silent(why) => called.push((name.clone(), why)),
            }
        }
    }
    Ok((reached, called))
}

fn unable(error: impl std::error::Error) -> RecoverError {
    RecoverError::Failed(failed(error).0)
}
