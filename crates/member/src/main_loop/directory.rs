//! Looks at the data directory and what stands beside it.

use std::sync::Arc;

use mainstay_core::Epoch;
use mainstay_core::view::{Directory, Upstream};
use mainstay_postgres::directory::{self, DirectoryState};
use tracing::warn;

use super::{Event, MainLoop};
use crate::clock;
use crate::facts::incarnation_of;
use crate::machinery::{Machinery, blocking};

/// What a look at the data directory and the files beside it has found.
pub(crate) struct DirectoryLook {
    directory: Directory,
    upstream: Option<Upstream>,
    gate_open: bool,
}

impl MainLoop {
    pub(super) fn take_directory(&mut self, look: DirectoryLook) {
        if let Directory::Foreign { why } = &look.directory
            && self.facts.directory != look.directory
        {
            warn!("the data directory is left alone: {why}");
        }
        self.facts.directory = look.directory;
        self.incarnation.send_replace(self.facts.incarnation());
        self.facts.upstream = look.upstream;
        // Each opening shuts the gate first, so one found open by a member that has just started was opened for the
        // epoch that the server is open under.
        let opened = self.facts.guard.status.as_ref().and_then(|status| status.opened).map(Epoch);
        if !std::mem::replace(&mut self.under_way.gate_was_looked_at, true) && look.gate_open {
            self.facts.gate_open = opened;
        }
    }

    pub(super) fn look_at_directory(&mut self) {
        self.under_way.directory_at = clock::now();
        let (machinery, events) = (Arc::clone(&self.machinery), self.events.clone());
        tokio::spawn(async move {
            let Ok(tools) = machinery.tools() else {
                let look = DirectoryLook { directory: Directory::Absent, upstream: None, gate_open: false };
                let _ = events.send(Event::Directory(look));
                return;
            };
            let found = match directory::inspect(tools, &machinery.layout).await {
                Ok(DirectoryState::Absent | DirectoryState::Empty) => Directory::Absent,
                Ok(DirectoryState::HalfChanged(mark)) => {
                    Directory::Marked { operation: format!("{:?}", mark.operation).to_lowercase() }
                }
                Ok(DirectoryState::Damaged(why)) => Directory::Marked { operation: why },
                Ok(DirectoryState::Foreign(why)) => Directory::Foreign { why },
                Ok(DirectoryState::Valid { control, incarnation }) => {
                    Directory::Valid { incarnation, system_identifier: control.system_identifier }
                }
                Err(error) => {
                    warn!("the data directory cannot be looked at: {}", crate::machinery::failed(error));
                    return;
                }
            };
            let Ok(look) = blocking(move || look_beside(&machinery, found)).await else { return };
            let _ = events.send(Event::Directory(look));
        });
    }
}

/// Reads what stands beside the directory. Waits for the disk, so never on the loop.
fn look_beside(machinery: &Machinery, directory: Directory) -> DirectoryLook {
    let upstream = machinery.promises.upstream(incarnation_of(&directory)).unwrap_or_else(|error| {
        warn!("whom this member follows is not known: {error}");
        None
    });
    DirectoryLook { directory, upstream, gate_open: machinery.gate_is_open() }
}
