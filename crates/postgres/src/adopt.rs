//! Takes over a data directory that was there before Mainstay: without a dump, without moving a file.
//!
//! [`examine`] changes nothing and says what stands in the way, what will be done, and what of the old configuration
//! becomes Mainstay's. [`take_over`] then needs the server stopped. The old configuration files stay as they are; what is
//! emptied (`postgresql.auto.conf`) is kept in the member's directory below `adopted/`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::blocking::blocking;
use crate::control::{self, ClusterState, Control};
use crate::directory::{Adoptable, adoptable};
use crate::durable::FileError;
use crate::layout::{Layout, LayoutError};
use crate::tools::{RunAs, Tools, Version};

mod carry;
mod debian;
mod files;
mod findings;
mod settings;
mod sql;
mod take_over;

pub use carry::{Carried, Left};
pub use debian::{DEBIAN_ROOT, DebianCluster};
pub use files::{Running, Slot, Tablespace};
pub use findings::{Finding, Severity};
pub use settings::Setting;
pub use sql::SqlLook;
pub use take_over::{AdoptError, Adopted, Consent, TakeOver, adopted_dir, take_over};

/// What is to be looked at.
#[derive(Clone, Debug)]
pub struct ExamineOptions<'a> {
    /// The data directory, absolute.
    pub data: &'a Path,
    /// The member's own directory, absolute; it need not exist yet.
    pub root: &'a Path,
    /// Where PostgreSQL's programs are; `None`: looked for.
    pub bin_dir: Option<&'a Path>,
    /// The system user that PostgreSQL is to run as; `None`: whoever owns the data.
    pub user: Option<&'a str>,
    /// Usually [`DEBIAN_ROOT`].
    pub debian_root: &'a Path,
}

/// Everything that is known of a directory that may be adopted. Made by [`examine`].
#[derive(Clone, Debug, Serialize)]
pub struct Examination {
    pub data: PathBuf,
    /// It is this member's already.
    pub is_adopted: bool,
    /// The system user that owns the data.
    pub owner: String,
    /// What `PG_VERSION` says.
    pub major: Option<u32>,
    /// The programs that were found for it, such as 15.18.
    pub programs: Option<String>,
    pub running: Option<Running>,
    pub system_identifier: Option<u64>,
    pub data_checksums: Option<bool>,
    pub size_bytes: u64,
    pub free_bytes: u64,
    pub tablespaces: Vec<Tablespace>,
    /// Where `pg_wal` leads to, if it is a link.
    pub wal_directory: Option<PathBuf>,
    pub slots: Vec<Slot>,
    pub configuration_file: PathBuf,
    pub hba_file: PathBuf,
    pub debian: Option<DebianCluster>,
    /// The systemd unit that the running server belongs to.
    pub unit: Option<String>,
    /// What the running server says, if it lets us in.
    pub sql: Option<SqlLook>,
    /// The port that it listens on, or is configured for.
    pub port: u16,
    pub carried: Carried,
    /// The worst first.
    pub findings: Vec<Finding>,
}

impl Examination {
    /// What stands in the way.
    pub fn obstacles(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Obstacle)
    }

    pub fn is_adoptable(&self) -> bool {
        self.obstacles().next().is_none()
    }
}

/// What is looked at and told in findings only.
#[derive(Debug)]
pub(crate) struct Facts {
    tools_error: Option<String>,
    owner_error: Option<String>,
    control: Option<Control>,
    control_error: Option<String>,
    adoptable: Adoptable,
    files: files::Files,
    settings: settings::Settings,
    sql_error: Option<String>,
}

/// Looks at a directory and, if one runs in it, at its server. Changes nothing.
pub async fn examine(options: &ExamineOptions<'_>) -> Result<Examination, AdoptError> {
    let data = options.data.to_owned();
    let debian_root = options.debian_root.to_owned();
    let files = blocking(move || files::Files::look(&data, &debian_root)).await?;
    let owner = files.owner_name();
    let (run_as, owner_error) = run_as(options, &files, &owner);
    let (tools, tools_error) = match (&run_as, files.major) {
        (Ok(run_as), Some(major)) => match Tools::find(options.bin_dir, Some(major), run_as.clone()).await {
            Ok(tools) => (Some(tools), None),
            Err(error) => (None, Some(error.to_string())),
        },
        _ => (None, None),
    };
    let layout = Layout::new(options.root, Some(options.data), None, run_as.ok().flatten())?;
    let mut facts = Facts {
        tools_error,
        owner_error,
        control: None,
        control_error: None,
        adoptable: adoptable(&layout)?,
        settings: files.settings()?,
        files,
        sql_error: None,
    };
    let mut sql = None;
    if let Some(tools) = &tools {
        // Run from where the user may always be: the member's own directory need not exist yet.
        match control::read_in(tools, Path::new("/"), layout.data()).await {
            Ok(control) => facts.control = Some(control),
            Err(error) => facts.control_error = Some(with_causes(&error)),
        }
        if let Some(running) = &facts.files.running {
            match sql::look(tools, running, &owner).await {
                Ok(look) => sql = Some(look),
                Err(error) => facts.sql_error = Some(error),
            }
        }
    }
    Ok(examination(options, owner, tools.map(|tools| tools.version()), facts, sql)?)
}

fn examination(
    options: &ExamineOptions<'_>,
    owner: String,
    version: Option<Version>,
    facts: Facts,
    sql: Option<SqlLook>,
) -> Result<Examination, FileError> {
    let files = &facts.files;
    let mut carried = Carried::default();
    carried.parameters(&facts.settings);
    let hba_file = files.hba_file(&facts.settings);
    carried.hba(&hba_file)?;
    let configured = facts.settings.get("port").and_then(|port| port.parse().ok());
    let running_port = files.running.as_ref().map(|running| running.port);
    let mut examination = Examination {
        data: options.data.to_owned(),
        is_adopted: facts.adoptable == Adoptable::Done,
        owner,
        major: files.major,
        programs: version.map(|version| version.to_string()),
        running: files.running.clone(),
        system_identifier: facts.control.as_ref().map(|control| control.system_identifier),
        data_checksums: facts.control.as_ref().map(|control| control.data_checksums),
        size_bytes: files.size_bytes,
        free_bytes: files.free_bytes,
        tablespaces: files.tablespaces.clone(),
        wal_directory: files.wal_directory.clone(),
        slots: files.slots.clone(),
        configuration_file: files.configuration_file.clone(),
        hba_file,
        debian: files.debian.clone(),
        unit: files.unit.clone(),
        sql,
        port: running_port.or(configured).unwrap_or(5432),
        carried,
        findings: Vec::new(),
    };
    examination.findings = findings::all(&examination, &facts);
    Ok(examination)
}

/// Whom PostgreSQL runs as, and what is wrong with that.
fn run_as(
    options: &ExamineOptions<'_>,
    files: &files::Files,
    owner: &str,
) -> (Result<Option<RunAs>, ()>, Option<String>) {
    let wanted = options.user.unwrap_or(owner);
    if files.major.is_none() {
        return (Err(()), None);
    }
    if !nix::unistd::geteuid().is_root() {
        let own = nix::unistd::geteuid().as_raw() == files.owner_uid;
        let error = format!("it belongs to {owner}, and this program runs as another user: run it as root");
        return if own { (Ok(None), None) } else { (Err(()), Some(error)) };
    }
    match RunAs::of_user(wanted) {
        Ok(user) if user.uid == files.owner_uid => (Ok(Some(user)), None),
        Ok(_) => {
            let error = format!(
                "it belongs to {owner}, but PostgreSQL is to run as {wanted}: set `user = {owner:?}` in [postgresql], or run `chown -R {wanted} {}`",
                options.data.display()
            );
            (Err(()), Some(error))
        }
        Err(error) => (Err(()), Some(error.to_string())),
    }
}

pub(crate) fn is_clean(control: &Control) -> bool {
    control.state == ClusterState::ShutDown
}

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl From<LayoutError> for AdoptError {
    fn from(error: LayoutError) -> AdoptError {
        AdoptError::Layout(error)
    }
}
