//! Takes the directory over: stop, mark, Mainstay's roles through a server without sockets, identity.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_core::Incarnation;

use super::{Examination, ExamineOptions, Finding, examine};
use crate::blocking::blocking;
use crate::configuration::{self, ConfigurationError, ServerSettings};
use crate::control::{self, ControlError};
use crate::directory::{Change, DirectoryError, Operation};
use crate::durable::{self, FileError};
use crate::hba::{self, Gate, HbaError};
use crate::initdb;
use crate::layout::{Layout, LayoutError};
use crate::tools::{self, Tools, ToolsError};

/// A fast shutdown rolls back and writes a checkpoint; of much memory on slow disks that takes minutes.
const STOP_TIMEOUT: Duration = Duration::from_secs(3600);
/// A crashed directory is recovered first, which takes as long as its WAL since the last checkpoint.
const SINGLE_USER_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// Why a directory was not examined or adopted. Adopting can be tried again after any of these.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("{data} is not adopted: {}", told(.findings))]
    Refused { data: PathBuf, findings: Vec<Finding> },
    #[error("PostgreSQL (process {pid}) runs in {data}: agree to the restart, or stop it yourself")]
    Running { data: PathBuf, pid: i32 },
    #[error(
        "PostgreSQL in {data} was told to stop, and left {state} behind: start and stop it by its old means"
    )]
    NotStopped { data: PathBuf, state: &'static str },
    #[error("PostgreSQL in {data} does not stop")]
    Stop { data: PathBuf, source: ToolsError },
    #[error(
        "Mainstay's roles could not be made in {data}; nothing was changed, its old means start it as before"
    )]
    Roles { data: PathBuf, source: ToolsError },
    #[error("the replication password must not be empty, and must not contain line breaks")]
    Password,
    #[error(transparent)]
    Layout(LayoutError),
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Hba(#[from] HbaError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    File(#[from] FileError),
}

fn told(findings: &[Finding]) -> String {
    let texts: Vec<String> = findings
        .iter()
        .map(|finding| match &finding.remedy {
            Some(remedy) => format!("{} ({remedy})", finding.message),
            None => finding.message.clone(),
        })
        .collect();
    texts.join("; ")
}

/// What the operator has agreed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consent {
    /// Mainstay stops the running server.
    pub stop: bool,
    /// Mainstay sets Debian's `start.conf` to `disabled`.
    pub disable_start: bool,
}

/// How the directory is to run from now on.
#[derive(Clone, Copy)]
pub struct TakeOver<'a> {
    pub tools: &'a Tools,
    /// With the directory to adopt as its data directory.
    pub layout: &'a Layout,
    /// The new configuration, with what was carried over.
    pub settings: &'a ServerSettings,
    pub hba: &'a [String],
    pub replication_password: &'a str,
    pub consent: Consent,
    /// Usually [`super::DEBIAN_ROOT`].
    pub debian_root: &'a Path,
}

/// The directory as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    pub system_identifier: u64,
    pub incarnation: Incarnation,
}

/// Where the files that an adoption empties are kept.
pub fn adopted_dir(layout: &Layout) -> PathBuf {
    layout.root().join("adopted")
}

/// Makes the directory this member's: it then starts as any of Mainstay's, as a standby that is opened under a lease.
///
/// Until the end the old set-up's own means can still start it, except where the operator has agreed that they must not.
/// Interrupted anywhere, it can be called again and goes on.
pub async fn take_over(order: &TakeOver<'_>) -> Result<Adopted, AdoptError> {
    let statements = initdb::own_statements(order.replication_password).map_err(|_| AdoptError::Password)?;
    let (layout, tools) = (order.layout, order.tools);
    let seen = examine_again(order).await?;
    if let Some(running) = &seen.running {
        if !order.consent.stop {
            return Err(AdoptError::Running { data: layout.data().to_owned(), pid: running.pid });
        }
        stop(order).await?;
    }
    prepare(order).await?;
    let change = Change::begin(tools, layout, Operation::Adopt, None).await?;
    // Only an earlier attempt of ours has left it: a standby's was refused above.
    let signal = layout.data().join("standby.signal");
    blocking(move || durable::remove(&signal)).await?;
    let made = initdb::run_single_user(tools, layout, &statements, SINGLE_USER_TIMEOUT).await;
    if let Err(source) = made {
        change.abandon().await?;
        return Err(AdoptError::Roles { data: layout.data().to_owned(), source });
    }
    let (owned, debian) = (layout.clone(), seen.debian.filter(|_| order.consent.disable_start));
    blocking(move || {
        set_aside_overrides(&owned)?;
        debian.map_or(Ok(()), |debian| debian.disable())
    })
    .await?;
    let system_identifier = control::read(tools, layout).await?.system_identifier;
    let incarnation = change.complete(seen.system_identifier).await?;
    tracing::info!(data = %layout.data().display(), system_identifier, "adopted");
    Ok(Adopted { system_identifier, incarnation })
}

async fn examine_again(order: &TakeOver<'_>) -> Result<Examination, AdoptError> {
    let user = order.tools.run_as().map(crate::tools::RunAs::name);
    let bin_dir = order.tools.path("postgres").parent().map(Path::to_owned);
    let options = ExamineOptions {
        data: order.layout.data(),
        root: order.layout.root(),
        bin_dir: bin_dir.as_deref(),
        user: user.as_deref(),
        debian_root: order.debian_root,
    };
    let seen = examine(&options).await?;
    if seen.is_adoptable() {
        return Ok(seen);
    }
    Err(AdoptError::Refused { data: seen.data.clone(), findings: seen.obstacles().cloned().collect() })
}

/// A fast shutdown, as `pg_ctl` does it, and nothing but a clean end is accepted.
async fn stop(order: &TakeOver<'_>) -> Result<(), AdoptError> {
    let data = order.layout.data();
    let mut command = order.tools.command("pg_ctl", Path::new("/"));
    command.arg("stop").arg("-D").arg(data).args(["-m", "fast", "-w", "-s"]);
    command.args(["-t", &STOP_TIMEOUT.as_secs().to_string()]);
    let stopped = tools::run("pg_ctl", command, STOP_TIMEOUT + Duration::from_secs(10)).await;
    if let Err(source) = stopped {
        // An earlier attempt's stop has ended it before this one could.
        let owned = data.to_owned();
        if blocking(move || super::files::running(&owned)).await?.is_some() {
            return Err(AdoptError::Stop { data: data.to_owned(), source });
        }
    }
    let control = control::read_in(order.tools, Path::new("/"), data).await?;
    if !super::is_clean(&control) {
        return Err(AdoptError::NotStopped { data: data.to_owned(), state: control.state.as_str() });
    }
    Ok(())
}

/// Everything beside the data directory: its own files, and nothing of the old set-up, is written.
async fn prepare(order: &TakeOver<'_>) -> Result<(), AdoptError> {
    let (layout, settings, hba) = (order.layout.clone(), order.settings.clone(), order.hba.to_vec());
    let version = order.tools.version();
    blocking(move || {
        layout.create(settings.port).map_err(AdoptError::Layout)?;
        configuration::write(&layout, version, &settings)?;
        // A line that PostgreSQL could not read would show when the gate opens only.
        hba::render_hba(Gate::Open, &hba)?;
        hba::write_hba(&layout, Gate::Shut, &hba)?;
        hba::write_ident(&layout)?;
        Ok(())
    })
    .await
}

/// What `ALTER SYSTEM` has written was carried over, and would go on to override Mainstay's file: it is kept beside.
fn set_aside_overrides(layout: &Layout) -> Result<(), FileError> {
    const FILE: &str = "postgresql.auto.conf";
    let path = layout.data().join(FILE);
    let Some(text) = durable::read(&path)? else { return Ok(()) };
    let sets = String::from_utf8_lossy(&text).lines().any(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    });
    if !sets {
        return Ok(());
    }
    let directory = adopted_dir(layout);
    std::fs::create_dir_all(&directory).map_err(|e| FileError::new("create", &directory, e))?;
    durable::write(&directory.join(FILE), &text, layout.private_access())?;
    durable::sync_directory(layout.root())?;
    durable::write(&path, b"# Emptied by Mainstay, which carried it over.\n", layout.server_access())?;
    Ok(())
}
