//! Commands on their way into the record.

use std::time::Duration;

use mainstay_core::record::{Applied, Command};
use mainstay_store::{ProposeError, RaftStore};

use crate::clock;
use crate::record_machine::{RecordMachine, encode};

/// Proposes commands; cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposer {
    store: RaftStore<RecordMachine>,
}

impl Proposer {
    pub(crate) fn new(store: RaftStore<RecordMachine>) -> Proposer {
        Proposer { store }
    }

    /// Proposes `command` and waits until it is applied here. After an error it may still be applied later.
    pub(crate) async fn propose(
        &self,
        command: &Command,
        patience: Duration,
    ) -> Result<Applied, ProposeError> {
        let mut command = command.clone();
        if let Command::Open { at_unix_ms, .. } = &mut command {
            *at_unix_ms = clock::unix_ms();
        }
        self.store.propose(encode(&command), patience).await
    }
}
