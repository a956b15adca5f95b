//! Where a demo lives, and who is in it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mainstay_core::MemberId;
use mainstay_member::Configuration;
use mainstay_member::status::{Role, Status};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::processes;
use crate::client::{Control, configuration_file};
use crate::configuration;

/// The file that makes a directory a demo's.
const STATE_FILE: &str = "demo.json";

#[derive(Debug, Serialize, Deserialize)]
struct StateFile {
    members: Vec<MemberId>,
    port_base: u16,
}

/// A demo's directory.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) members: Vec<MemberPlace>,
}

/// One member of a demo.
#[derive(Clone, Debug)]
pub(super) struct MemberPlace {
    pub(super) name: MemberId,
    pub(super) directory: PathBuf,
}

impl MemberPlace {
    pub(super) fn configuration_file(&self) -> PathBuf {
        configuration_file(&self.directory)
    }

    pub(super) fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(super) fn configuration(&self) -> Result<Configuration> {
        Ok(configuration::load(&self.configuration_file())?)
    }

    pub(super) fn control(&self) -> Result<Control> {
        Ok(Control::of(&self.configuration()?))
    }
}

impl Place {
    /// How a verb is told that it means this demo: nothing for the usual directory.
    pub(super) fn flag(&self) -> String {
        if self.directory == Path::new(super::DEFAULT_DIRECTORY) {
            return String::new();
        }
        format!(" --dir {}", self.directory.display())
    }

    /// A new demo's directory. It must not be one already, and whatever is there is not touched.
    pub(super) fn make(directory: &Path, members: u16, port_base: u16) -> Result<Place> {
        let shown = directory.display();
        if directory.join(STATE_FILE).exists() {
            bail!(
                "a demo lives in {shown} already; end it with `./demo stop --dir {shown}`, or choose another --dir and --port-base"
            );
        }
        match std::fs::read_dir(directory).map(|mut entries| entries.next().is_none()) {
            Ok(false) => bail!("{shown} is not empty; choose another --dir"),
            Ok(true) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(directory).with_context(|| format!("cannot make {shown}"))?;
            }
            Err(error) => bail!("{shown} cannot be used: {error}; choose another --dir"),
        }
        let names: Vec<MemberId> =
            (1..=members).map(|n| MemberId::new(&format!("m{n}")).expect("a valid name")).collect();
        let state = StateFile { members: names.clone(), port_base };
        std::fs::write(directory.join(STATE_FILE), serde_json::to_vec_pretty(&state)?)
            .with_context(|| format!("cannot write into {shown}"))?;
        Ok(Place::with(directory, names))
    }

    /// The demo in `directory`.
    pub(super) fn open(directory: &Path) -> Result<Place> {
        let shown = directory.display();
        let text = std::fs::read(directory.join(STATE_FILE)).with_context(|| {
            format!("no demo lives in {shown}; start one with `./demo`, or name another with --dir")
        })?;
        let state: StateFile =
            serde_json::from_slice(&text).with_context(|| format!("{shown}/{STATE_FILE} is damaged"))?;
        Ok(Place::with(directory, state.members))
    }

    fn with(directory: &Path, names: Vec<MemberId>) -> Place {
        let member = |name: MemberId| MemberPlace { directory: directory.join(name.as_str()), name };
        Place { directory: directory.to_owned(), members: names.into_iter().map(member).collect() }
    }

    pub(super) fn member(&self, name: &MemberId) -> Result<&MemberPlace> {
        self.members.iter().find(|member| member.name == *name).with_context(|| {
            let names: Vec<&str> = self.members.iter().map(|member| member.name.as_str()).collect();
            format!("there is no member {name} in this demo; there are {}", names.join(", "))
        })
    }

    /// The status from the member that knows the newest epoch, with what is known of the processes here.
    pub(super) async fn status(&self) -> Result<Status> {
        let mut asked = JoinSet::new();
        for member in &self.members {
            let control = member.control()?;
            asked.spawn(async move { control.status().await });
        }
        let mut newest: Option<Status> = None;
        let mut failure = None;
        while let Some(answer) = asked.join_next().await {
            match answer? {
                Ok(status)
                    if newest.as_ref().is_none_or(|newest| {
                        (newest.epoch, newest.writable) < (status.epoch, status.writable)
                    }) =>
                {
                    newest = Some(status);
                }
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
        }
        let Some(mut status) = newest else {
            return Err(failure
                .unwrap_or_else(|| anyhow::anyhow!("the demo has no members"))
                .context("no member answers"));
        };
        for row in &mut status.members {
            let place = self.members.iter().find(|member| member.name == row.name);
            if place.is_some_and(|place| processes::member_pid(place).is_none()) {
                row.role = Role::Stopped;
                row.pid = None;
                row.guard_pid = None;
                if let Some(postgres) = &mut row.postgres {
                    postgres.pid = None;
                }
            }
        }
        Ok(status)
    }
}
