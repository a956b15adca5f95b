//! Which parameters are written for this member, and when.
//!
//! Mainstay's defaults give way to those in the member's own file, these to the record's shared values, these to those of the
//! member's role, these to its own in the record, and all of them to the parameters in its own file. What is written was checked by the installed PostgreSQL before, off the failover's
//! path: a piece of work writes what was last accepted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use mainstay_core::record::ParameterSet;
use mainstay_postgres::configuration::{self, Held, ServerSettings, StreamFrom};
use mainstay_postgres::control;
use mainstay_postgres::durable::{self, Access, FileError};
use mainstay_postgres::hba::{self, Gate};
use mainstay_postgres::layout::Layout;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use tracing::{debug, warn};

use super::{GENERATION, Machinery, WorkError, blocking, failed, port};
use crate::configuration::Configuration;

const FILE: &str = "parameters.json";

type Values = BTreeMap<String, String>;

/// What of the member's own file can change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FilePart {
    pub(crate) parameters: Values,
    pub(crate) defaults: Values,
    pub(crate) hba: Vec<String>,
}

impl FilePart {
    pub(crate) fn of(configuration: &Configuration) -> FilePart {
        let postgresql = &configuration.postgresql;
        FilePart {
            parameters: postgresql.parameters.clone(),
            defaults: postgresql.defaults.clone(),
            hba: postgresql.hba.clone(),
        }
    }
}

/// The part of the record that the installed PostgreSQL takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) serial: u64,
    pub(crate) set: ParameterSet,
}

/// The number of the configuration that a cluster is founded with.
pub(crate) const FIRST: u64 = 1;

impl Accepted {
    fn read(path: &Path) -> Option<Accepted> {
        serde_json::from_slice(&durable::read(path).ok()??).ok()
    }

    /// What a member keeps below `state`; nothing, if it has accepted nothing yet.
    pub(crate) fn kept(state: &Path) -> Accepted {
        Accepted::read(&state.join(FILE)).unwrap_or_default()
    }

    /// Kept below `state` before there is a record, which gets it as its first configuration. What is there already stays.
    pub(crate) fn keep_first(set: ParameterSet, state: &Path, access: Access) -> Result<(), FileError> {
        let path = state.join(FILE);
        if Accepted::read(&path).is_none() {
            let text = serde_json::to_vec(&Accepted { serial: FIRST, set }).expect("representable in JSON");
            durable::write(&path, &text, access)?;
        }
        Ok(())
    }
}

/// What is wanted, and what `pg_control` allows.
pub(super) struct WantedParameters {
    accepted: Mutex<Arc<Accepted>>,
    file: Mutex<Arc<FilePart>>,
    /// What no standby of this data may have less of.
    least: Mutex<BTreeMap<&'static str, u64>>,
    path: PathBuf,
    access: Access,
}

fn locked<T: Clone>(mutex: &Mutex<T>) -> T {
    mutex.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl WantedParameters {
    pub(super) fn new(configuration: &Configuration, layout: &Layout) -> WantedParameters {
        let path = layout.state_dir().join(FILE);
        WantedParameters {
            accepted: Mutex::new(Arc::new(Accepted::read(&path).unwrap_or_default())),
            file: Mutex::new(Arc::new(FilePart::of(configuration))),
            least: Mutex::default(),
            path,
            access: layout.private_access(),
        }
    }
}

/// What a member in this role would be configured with, by the record and its own file.
pub(crate) fn merged(
    accepted: &Accepted,
    file: &FilePart,
    me: &mainstay_core::MemberId,
    is_primary: bool,
) -> Values {
    let mut parameters = file.defaults.clone();
    parameters.extend(accepted.set.of(me, is_primary));
    parameters.extend(file.parameters.clone());
    parameters
}

impl Machinery {
    pub(crate) fn accepted(&self) -> Arc<Accepted> {
        locked(&self.wanted.accepted)
    }

    pub(crate) fn file_part(&self) -> Arc<FilePart> {
        locked(&self.wanted.file)
    }

    pub(crate) fn least(&self) -> BTreeMap<&'static str, u64> {
        locked(&self.wanted.least)
    }

    /// From now on the file says this.
    pub(crate) fn set_file_part(&self, file: FilePart) {
        *self.wanted.file.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(file);
    }

    /// From now on the record's configuration is this; kept, so that a member that is started anew begins with it.
    pub(crate) async fn accept(&self, accepted: Accepted) -> Result<(), WorkError> {
        let text = serde_json::to_vec(&accepted).map_err(failed)?;
        let (path, access) = (self.wanted.path.clone(), self.wanted.access);
        blocking(move || durable::write(&path, &text, access)).await?.map_err(failed)?;
        *self.wanted.accepted.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(accepted);
        Ok(())
    }

    /// Whether the record says that this member is the primary, or is to be.
    pub(crate) fn is_to_be_primary(&self) -> bool {
        self.record.borrow().tenure().is_some_and(|tenure| tenure.holder == *self.me())
    }

    /// What is wanted here now, in its role.
    pub(crate) fn wanted_parameters(&self) -> Values {
        merged(&self.accepted(), &self.file_part(), self.me(), self.is_to_be_primary())
    }

    /// What waits because no standby may have less than its primary.
    pub(crate) fn held(&self) -> Vec<Held> {
        configuration::hold(&mut self.wanted_parameters(), &self.least())
    }

    /// Looks at `pg_control`; where it cannot be read, what it said before holds.
    pub(crate) async fn look_at_least(&self) {
        let Ok(tools) = self.tools() else { return };
        match control::read(tools, &self.layout).await {
            Ok(control) => {
                *self.wanted.least.lock().unwrap_or_else(PoisonError::into_inner) = control.least;
            }
            Err(error) => debug!("pg_control was not read: {}", failed(error)),
        }
    }

    pub(crate) fn server_settings(
        &self,
        names: String,
        upstream: Option<StreamFrom>,
        parameters: Values,
    ) -> ServerSettings {
        ServerSettings {
            port: port(&self.configuration),
            listen_addresses: listen_addresses(&self.configuration),
            tls: true,
            synchronous_standby_names: names,
            upstream,
            parameters,
        }
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn numbered(&self, hold: bool) -> (Values, u64) {
        let mut parameters = self.wanted_parameters();
        if hold {
            configuration::hold(&mut parameters, &self.least());
        }
        let generation = self.next_generation();
        parameters.insert(GENERATION.to_owned(), generation.to_string());
        (parameters, generation)
    }

    /// The settings of a standby that streams from nobody. Nobody else writes PostgreSQL's files while the guard is kept.
    pub(crate) async fn sealed_settings(&self) -> (ServerSettings, OwnedMutexGuard<()>) {
        let files = self.one_writer().await;
        let (parameters, generation) = self.numbered(true);
        self.work_generation.store(generation, Ordering::Relaxed);
        (self.server_settings(self.standby_names(), None, parameters), files)
    }

    /// Writes `postgresql.conf`; answers the number that shows when it was read.
    pub(crate) async fn write_configuration(
        &self,
        names: String,
        upstream: Option<StreamFrom>,
    ) -> Result<u64, WorkError> {
        let files = self.one_writer().await;
        let (parameters, generation) = self.numbered(true);
        self.work_generation.store(generation, Ordering::Relaxed);
        let settings = self.server_settings(names, upstream, parameters);
        let (layout, version) = (self.layout.clone(), self.tools()?.version());
        let write = move || {
            let _files = files;
            configuration::write(&layout, version, &settings)
        };
        blocking(write).await?.map_err(failed)?;
        Ok(generation)
    }

    /// Writes the values that wait, for a server that is down and about to note them.
    pub(crate) async fn write_without_holding(&self) -> Result<(), WorkError> {
        self.rewrite(false).await.map(|_| ())
    }

    /// Brings the operator's part of PostgreSQL's files up to date. Answers the number that shows when it was read, if anything
    /// has changed.
    pub(crate) async fn rewrite(&self, hold: bool) -> Result<Option<u64>, WorkError> {
        let files = self.one_writer().await;
        let (parameters, generation) = self.numbered(hold);
        let (layout, version, lines) = (self.layout.clone(), self.tools()?.version(), self.hba_lines());
        let write = move || {
            let _files = files;
            let parameters = configuration::rewrite_parameters(&layout, version, &parameters, GENERATION);
            let hba = hba::rewrite_hba(&layout, &lines);
            Ok::<_, WorkError>((parameters.map_err(failed)?, hba.map_err(failed)?))
        };
        Ok(match blocking(write).await?? {
            (false, false) => None,
            // Nothing in postgresql.conf shows that pg_hba.conf was read.
            (false, true) => Some(0),
            (true, _) => Some(generation),
        })
    }

    /// The lines for applications: those of the member's own file first, then the cluster's.
    pub(crate) fn hba_lines(&self) -> Vec<String> {
        let lines = self.file_part().hba.iter().chain(&self.accepted().set.hba).cloned().collect();
        match &self.configuration.sql_proxy {
            Some(_) => hba::with_proxy(lines),
            None => lines,
        }
    }

    pub(crate) async fn write_gate(&self, gate: Gate) -> Result<(), WorkError> {
        let layout = self.layout.clone();
        let files = self.one_writer().await;
        let lines = self.hba_lines();
        let write = move || {
            let _files = files;
            hba::write_hba(&layout, gate, &lines)
        };
        blocking(write).await?.map_err(failed)?;
        Ok(())
    }

    /// Whether no piece of work has written a configuration after this one.
    pub(crate) fn is_newest(&self, generation: u64) -> bool {
        self.work_generation.load(Ordering::Relaxed) == generation
    }

    /// Whether the gate on disk is open.
    pub(crate) fn gate_is_open(&self) -> bool {
        match std::fs::read_to_string(self.layout.hba_file()) {
            Ok(written) => hba::is_open(&written),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    warn!("pg_hba.conf cannot be read: {error}");
                }
                false
            }
        }
    }
}

/// The member's own address; where virtual ones may come and go, all of their family: PostgreSQL listens on none that is not there
/// when it starts.
fn listen_addresses(configuration: &Configuration) -> Vec<String> {
    let rules = &configuration.addresses;
    let family = |is_ipv6: bool| rules.iter().any(|rule| rule.address.is_ipv6() == is_ipv6);
    let (all_v4, all_v6) = (family(false).then_some("0.0.0.0"), family(true).then_some("::"));
    let own = configuration.own_row().postgres.map(|address| address.ip());
    let own = own.filter(|ip| if ip.is_ipv6() { all_v6.is_none() } else { all_v4.is_none() });
    own.map(|ip| ip.to_string())
        .into_iter()
        .chain([all_v4, all_v6].into_iter().flatten().map(str::to_owned))
        .collect()
}
