//! What connects the parts of a member: channels and lanes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay_guard::SpawnGuard;
use mainstay_postgres::layout::Layout;
use mainstay_postgres::tools::Tools;
use tokio::sync::{mpsc, watch};

use super::MemberError;
use crate::configuration::Configuration;
use crate::facts::Facts;
use crate::guard_link::{GuardPlace, GuardState};
use crate::machinery::Machinery;
use crate::main_loop::Event;
use crate::report::Constants;
use crate::status::Status;
use crate::work::Lane;

pub(super) fn guard_state() -> (Arc<watch::Sender<GuardState>>, watch::Receiver<GuardState>) {
    let (guard, seen) = watch::channel(GuardState::default());
    (Arc::new(guard), seen)
}

pub(super) fn first_status(
    configuration: &Configuration,
    facts: &Facts,
) -> (watch::Sender<Arc<Status>>, watch::Receiver<Arc<Status>>) {
    watch::channel(Arc::new(crate::report::first(configuration, facts)))
}

pub(super) fn lane(
    name: &str,
    machinery: &Arc<Machinery>,
    events: &mpsc::UnboundedSender<Event>,
    wrap: fn(crate::work::Finished) -> Event,
) -> Result<Lane, MemberError> {
    let (finished, mut queue) = mpsc::unbounded_channel();
    let events = events.clone();
    tokio::spawn(async move {
        while let Some(finished) = queue.recv().await {
            if events.send(wrap(finished)).is_err() {
                return;
            }
        }
    });
    Lane::start(name, Arc::clone(machinery), finished).map_err(MemberError::Thread)
}

pub(super) fn guard_place(configuration: &Configuration, layout: &Layout, directory: &Path) -> GuardPlace {
    let text = |path: &Path| path.display().to_string();
    GuardPlace {
        directory: directory.to_owned(),
        data_directory: layout.data().to_owned(),
        spawn: SpawnGuard {
            program: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("mainstay")),
            arguments: vec![
                "guard".to_owned(),
                "--directory".to_owned(),
                text(directory),
                "--data-directory".to_owned(),
                text(layout.data()),
            ],
            log_file: configuration.directory.join("log").join("guard.log"),
        },
    }
}

/// What does not change while the member runs.
pub(super) fn constants(tools: Option<&Tools>, layout: &Layout) -> Constants {
    Constants {
        version: tools.map(|tools| tools.version().to_string()).unwrap_or_default(),
        socket_dir: layout.socket_dir(),
        data_dir: layout.data().to_owned(),
    }
}
