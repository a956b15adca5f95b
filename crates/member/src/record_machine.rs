//! The record as the store's state machine: commands and snapshots are JSON, each with the version of its format.
//!
//! A command of a newer format is proposed only once every member has said that it reads it. A member that meets one
//! nevertheless (an older release was installed again) applies nothing more: what it would show is not what was agreed.

use std::sync::Arc;

use mainstay_consensus::{Machine, RestoreError};
use mainstay_core::record::{Applied, Command, FORMAT, Record, Refusal};
use serde::{Deserialize, Serialize};
use tracing::error;

/// The record as applied here. Shared, so that a snapshot of it costs nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordMachine {
    pub(crate) record: Arc<Record>,
    /// Why nothing more is applied here, if so.
    pub(crate) too_old: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    format: u32,
    command: Command,
}

/// What of an entry any release can read.
#[derive(Deserialize)]
struct EntryFormat {
    format: u32,
}

/// A command as it stands in the log.
pub(crate) fn encode(command: &Command) -> Vec<u8> {
    let entry = Entry { format: command.format(), command: command.clone() };
    serde_json::to_vec(&entry).expect("commands are representable in JSON")
}

impl Machine for RecordMachine {
    type Output = Applied;

    /// An entry that cannot be read changes nothing, on any member alike.
    fn apply(&mut self, index: u64, data: &[u8]) -> Applied {
        if self.too_old.is_some() {
            return Applied::Refused(Refusal::Unreadable);
        }
        if let Ok(EntryFormat { format }) = serde_json::from_slice(data)
            && format > FORMAT
        {
            let why = format!(
                "the cluster's log holds an entry of format {format}, and this release reads up to {FORMAT}: upgrade this member"
            );
            error!(index, "{why}");
            self.too_old = Some(why);
            return Applied::Refused(Refusal::Unreadable);
        }
        match serde_json::from_slice::<Entry>(data) {
            Ok(entry) => Arc::make_mut(&mut self.record).apply(entry.command),
            Err(source) => {
                error!(index, %source, "a command that cannot be read was passed over");
                Applied::Refused(Refusal::Unreadable)
            }
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        serde_json::to_vec(&*self.record).expect("the record is representable in JSON")
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let record: Record =
            serde_json::from_slice(snapshot).map_err(|error| RestoreError(error.to_string()))?;
        if record.format > FORMAT {
            return Err(RestoreError(format!(
                "its format is {}, this program knows {FORMAT}",
                record.format
            )));
        }
        self.record = Arc::new(record);
        Ok(())
    }
}
