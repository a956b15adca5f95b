//! The data directory: what is in it, whether it may be started, and how it is changed without ever being mistaken
//! for whole while it is not.
//!
//! Two things outside PGDATA tell: the *mark* `state/changing.json` exists from before the first change until after
//! the last, and the *incarnation* is recorded beside PGDATA and in it. They disagree if a hand replaced the one.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use mainstay_core::{Incarnation, MemberId};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::auto_conf;
use crate::blocking::blocking;
use crate::control::{self, Control, ControlError};
use crate::durable::{self, FileError};
use crate::history::{self, HistoryError};
use crate::layout::{Layout, LayoutError};
use crate::processes;
use crate::tools::{Tools, ToolsError};

mod adopted;
mod mark;
mod wipe;

pub use adopted::{Adoptable, adoptable};
pub use mark::Mark;

use mark::{Identity, identity_path, mark_path, read_identity, read_mark, write_json};

/// The file in PGDATA that names its incarnation. Clones and rewinds bring the source's along.
pub const INCARNATION_FILE: &str = "mainstay.incarnation";

/// Why a directory could not be inspected or changed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("{path} is left alone, since {reason}: move it away, or tell Mainstay to")]
    Foreign { path: PathBuf, reason: String },
    #[error("{operation:?} does not apply to {path}, which is {state}")]
    NotApplicable { operation: Operation, path: PathBuf, state: &'static str },
    #[error("{operation:?} of {path} did not complete: clone it before it is started")]
    HalfChanged { operation: Operation, path: PathBuf },
    #[error("PostgreSQL (process {pid}) runs in {path}: stop it first")]
    Running { path: PathBuf, pid: i32 },
    #[error("{path} came out with system identifier {found} instead of {wanted}: it is another cluster's")]
    SystemIdentifier { path: PathBuf, found: u64, wanted: u64 },
    #[error("{path} is not empty after it was cleared: remove what is left")]
    NotCleared { path: PathBuf },
    #[error("an earlier run's processes are still at work in {path}")]
    Leftovers {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// A change of a whole directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Initdb,
    Clone,
    Rewind,
    Restore,
    /// A directory that a person has had before is taken over: nothing is ever removed from it.
    Adopt,
    /// The mark is there, but cannot be read.
    Unknown,
}

/// What is in the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryState {
    Absent,
    Empty,
    /// Not ours: never started, changed or removed without a person's word.
    Foreign(String),
    /// A change was begun and did not complete: never started. Clone it, or go on with what was begun.
    HalfChanged(Mark),
    /// Ours, but unusable: never started. Clone it.
    Damaged(String),
    Valid {
        control: Control,
        incarnation: Incarnation,
    },
}

impl DirectoryState {
    fn name(&self) -> &'static str {
        match self {
            DirectoryState::Absent => "absent",
            DirectoryState::Empty => "empty",
            DirectoryState::Foreign(_) => "not Mainstay's",
            DirectoryState::HalfChanged(_) => "half changed",
            DirectoryState::Damaged(_) => "damaged",
            DirectoryState::Valid { .. } => "in use",
        }
    }
}

/// Looks at the data directory. Changes nothing; PostgreSQL may run.
pub async fn inspect(tools: &Tools, layout: &Layout) -> Result<DirectoryState, DirectoryError> {
    let (glance, major) = (layout.clone(), tools.version().major);
    let identity = match blocking(move || glance_at(&glance, major)).await? {
        Ok(identity) => identity,
        Err(state) => return Ok(state),
    };
    let control = match control::read(tools, layout).await {
        Ok(control) => control,
        Err(ControlError::Tool(ToolsError::Failed { message, .. })) => {
            return Ok(DirectoryState::Damaged(message));
        }
        Err(damaged @ (ControlError::Damaged | ControlError::Line(_))) => {
            return Ok(DirectoryState::Damaged(damaged.to_string()));
        }
        Err(other) => return Err(other.into()),
    };
    if control.system_identifier != identity.system_identifier {
        let (found, recorded) = (control.system_identifier, identity.system_identifier);
        let reason =
            format!("its system identifier is {found}, but {recorded} is recorded: it was replaced by hand");
        return Ok(DirectoryState::Foreign(reason));
    }
    Ok(DirectoryState::Valid { control, incarnation: identity.incarnation })
}

/// The outer `Result` is a failure to look; the inner one an early verdict.
fn glance_at(layout: &Layout, major: u32) -> Result<Result<Identity, DirectoryState>, FileError> {
    let data = layout.data();
    if let Some(mark) = read_mark(layout)? {
        let is_replaced = mark
            .directory_inode
            .is_some_and(|inode| inode_unless_empty(data).is_some_and(|found| found != inode));
        return Ok(Err(match is_replaced {
            true => {
                DirectoryState::Foreign("it was replaced by hand while Mainstay was changing it".to_owned())
            }
            // It holds what nobody else has: never cleared for a clone.
            false if mark.operation == Operation::Adopt => {
                DirectoryState::Foreign(adopted::INTERRUPTED.to_owned())
            }
            false => DirectoryState::HalfChanged(mark),
        }));
    }
    let foreign = |reason: &str| Ok(Err(DirectoryState::Foreign(reason.to_owned())));
    let mut entries = match std::fs::read_dir(data) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Err(DirectoryState::Absent)),
        Err(e) => return Err(FileError::new("list", data, e)),
    };
    if entries.next().is_none() {
        return Ok(Err(DirectoryState::Empty));
    }
    let Some(version) = durable::read(&data.join("PG_VERSION"))? else {
        return foreign("it is not empty and holds no PostgreSQL data");
    };
    let version = String::from_utf8_lossy(&version).trim().to_owned();
    if version != major.to_string() {
        let reason = format!("it was made by PostgreSQL {version}, but the programs are of version {major}");
        return Ok(Err(DirectoryState::Foreign(reason)));
    }
    let owner = std::fs::metadata(data).map_err(|e| FileError::new("look at", data, e))?.uid();
    if owner != layout.server_uid() {
        return foreign("it belongs to another user than the one that PostgreSQL runs as");
    }
    let recorded = read_identity(&identity_path(layout))?;
    let inside = read_identity(&data.join(INCARNATION_FILE))?;
    match (recorded, inside) {
        (Some(recorded), Some(inside)) if recorded == inside => Ok(Ok(recorded)),
        (Some(_), Some(_)) => foreign("its incarnation is not the recorded one: it was replaced by hand"),
        (Some(_), None) => foreign("it has no incarnation, though one is recorded: it was replaced by hand"),
        (None, _) => foreign("it was not made by this member"),
    }
}

/// Work on files that is called off goes on to its end: what is begun next on the directory waits for that.
async fn one_at_a_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    static CHANGING: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);
    let changing = Arc::clone(&CHANGING).lock_owned().await;
    blocking(move || {
        let _changing = changing;
        work()
    })
    .await
}

/// A change of the directory that has begun: until [`Change::complete`] the directory is never started.
#[derive(Debug)]
pub struct Change {
    tools: Tools,
    layout: Layout,
}

impl Change {
    /// Marks the directory, durably, after checking that it is ours to change, and that nothing is at work in it.
    pub async fn begin(
        tools: &Tools,
        layout: &Layout,
        operation: Operation,
        source: Option<&MemberId>,
    ) -> Result<Change, DirectoryError> {
        if operation == Operation::Adopt {
            adopted::check(layout, tools.version().major)?;
        } else {
            check_applicable(layout, operation, &inspect(tools, layout).await?)?;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (source, since_unix_s) = (source.cloned(), since.as_secs());
        let change = Change { tools: tools.clone(), layout: layout.clone() };
        let layout = layout.clone();
        one_at_a_time(move || {
            end_processes(&layout)?;
            layout.create_data_directories()?;
            let directory_inode = inode(layout.data());
            let mark = Mark { operation, source, since_unix_s, directory_inode };
            write_json(&mark_path(&layout), &mark, layout.private_access())?;
            Ok::<(), DirectoryError>(())
        })
        .await?;
        Ok(change)
    }

    /// Empties the directory with its tablespaces and WAL, and removes the shared memory of its dead server.
    pub async fn wipe(&self) -> Result<(), DirectoryError> {
        let (layout, major) = (self.layout.clone(), self.tools.version().major);
        one_at_a_time(move || {
            end_processes(&layout)?;
            wipe::wipe(&layout, major)
        })
        .await
    }

    /// Takes the mark away again, for a change that has not touched the directory.
    pub async fn abandon(self) -> Result<(), DirectoryError> {
        one_at_a_time(move || durable::remove(&mark_path(&self.layout))).await?;
        Ok(())
    }

    /// Ends the change: settles what the copy brought along, gives the directory a new incarnation and removes the
    /// mark. The directory can then be started as a standby.
    ///
    /// `system_identifier` is the cluster's, if there is one already.
    pub async fn complete(self, system_identifier: Option<u64>) -> Result<Incarnation, DirectoryError> {
        let control = control::read(&self.tools, &self.layout).await?;
        let found = control.system_identifier;
        if let Some(wanted) = system_identifier.filter(|wanted| *wanted != found) {
            return Err(DirectoryError::SystemIdentifier {
                path: self.layout.data().to_owned(),
                found,
                wanted,
            });
        }
        one_at_a_time(move || settle(&self.layout, found)).await
    }
}

/// Makes the directory startable: `standby.signal` in place, dummies and overrides away. Idempotent, for use before
/// every start. Refuses a directory with the mark, and one that a server runs in.
pub fn prepare_start(layout: &Layout) -> Result<(), DirectoryError> {
    if let Some(mark) = read_mark(layout)? {
        let (operation, path) = (mark.operation, layout.data().to_owned());
        if operation == Operation::Adopt {
            return Err(DirectoryError::Foreign { path, reason: adopted::INTERRUPTED.to_owned() });
        }
        return Err(DirectoryError::HalfChanged { operation, path });
    }
    end_processes(layout)?;
    make_standby(layout)
}

fn make_standby(layout: &Layout) -> Result<(), DirectoryError> {
    let data = layout.data();
    durable::write(&data.join("standby.signal"), b"", layout.server_access())?;
    // It would make the start something else than that of a standby.
    durable::remove(&data.join("recovery.signal"))?;
    let removed = history::remove_dummies(&layout.pg_wal())?;
    if !removed.is_empty() {
        tracing::info!(count = removed.len(), "removed reserved timeline numbers that were never used");
    }
    auto_conf::forbid_alter_system(layout)?;
    for name in auto_conf::remove_overrides(layout)? {
        tracing::warn!(parameter = name, "removed from postgresql.auto.conf: Mainstay sets it");
    }
    Ok(())
}

/// Renames the data directory aside, whatever it holds, and returns where it is now. For a person's explicit word.
pub fn move_aside(layout: &Layout) -> Result<PathBuf, DirectoryError> {
    end_processes(layout)?;
    let data = layout.data();
    let name = data.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free = (1u32..).map(|n| data.with_file_name(format!("{name}.aside-{n}"))).find(|path| !path.exists());
    let aside = free.expect("there are fewer directories than numbers");
    std::fs::rename(data, &aside).map_err(|e| FileError::new("move aside", data, e))?;
    durable::sync_directory(data.parent().unwrap_or(Path::new("/")))?;
    durable::remove(&identity_path(layout))?;
    durable::remove(&mark_path(layout))?;
    layout.create_data_directories()?;
    Ok(aside)
}

fn check_applicable(
    layout: &Layout,
    operation: Operation,
    state: &DirectoryState,
) -> Result<(), DirectoryError> {
    use DirectoryState as State;
    let path = layout.data().to_owned();
    if let State::Foreign(reason) = state {
        return Err(DirectoryError::Foreign { path, reason: reason.clone() });
    }
    let applicable = match operation {
        // Never over data: a directory that was being cloned belongs to a cluster that has data.
        Operation::Initdb => match state {
            State::Absent | State::Empty => true,
            State::HalfChanged(mark) => mark.operation == Operation::Initdb,
            _ => false,
        },
        Operation::Rewind => matches!(state, State::Valid { .. }),
        _ => true,
    };
    if applicable {
        Ok(())
    } else {
        Err(DirectoryError::NotApplicable { operation, path, state: state.name() })
    }
}

fn end_processes(layout: &Layout) -> Result<(), DirectoryError> {
    let path = || layout.data().to_owned();
    let leftovers = processes::end_leftovers(layout.root(), layout.data());
    leftovers.map_err(|source| DirectoryError::Leftovers { path: path(), source })?;
    match processes::servers(layout.data()).first() {
        Some(server) => Err(DirectoryError::Running { path: path(), pid: server.pid }),
        None => Ok(()),
    }
}

fn settle(layout: &Layout, system_identifier: u64) -> Result<Incarnation, DirectoryError> {
    make_standby(layout)?;
    let incarnation = new_incarnation()?;
    let identity = Identity { incarnation, system_identifier };
    write_json(&layout.data().join(INCARNATION_FILE), &identity, layout.server_access())?;
    write_json(&identity_path(layout), &identity, layout.private_access())?;
    durable::remove(&mark_path(layout))?;
    Ok(incarnation)
}

fn new_incarnation() -> Result<Incarnation, FileError> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 4];
    std::fs::File::open(source)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|e| FileError::new("read", source, e))?;
    Ok(Incarnation(u32::from_ne_bytes(bytes)))
}

fn inode(directory: &Path) -> Option<u64> {
    std::fs::metadata(directory).ok().map(|metadata| metadata.ino())
}

/// An empty directory holds nothing that could be lost, whoever has made it.
fn inode_unless_empty(directory: &Path) -> Option<u64> {
    let is_empty = std::fs::read_dir(directory).ok()?.next().is_none();
    if is_empty { None } else { inode(directory) }
}
