//! The record as the store's state machine: commands and snapshots are JSON, each with the version of its format.

use std::sync::Arc;

use mainstay_consensus::{Machine, RestoreError};
use mainstay_core::record::{Applied, Command, FORMAT, Record, Refusal};
use serde::{Deserialize, Serialize};
use tracing::error;

/// The version of the commands' format in the log.
const COMMAND_FORMAT: u32 = 1;

/// The record as applied here. Shared, so that a snapshot of it costs nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordMachine {
    pub(crate) record: Arc<Record>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    format: u32,
    command: Command,
}

/// A command as it stands in the log.
pub(crate) fn encode(command: &Command) -> Vec<u8> {
    let entry = Entry { format: COMMAND_FORMAT, command: command.clone() };
    serde_json::to_vec(&entry).expect("commands are representable in JSON")
}

impl Machine for RecordMachine {
    type Output = Applied;

    /// An entry that cannot be read changes nothing, on any member alike.
    fn apply(&mut self, index: u64, data: &[u8]) -> Applied {
        match serde_json::from_slice::<Entry>(data) {
            Ok(entry) if entry.format == COMMAND_FORMAT => {
                Arc::make_mut(&mut self.record).apply(entry.command)
            }
            Ok(entry) => {
                error!(
                    index,
                    format = entry.format,
                    "a command of a newer format was passed over; upgrade this member"
                );
                Applied::Refused(Refusal::Unreadable)
            }
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
