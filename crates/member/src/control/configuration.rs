//! PostgreSQL's parameters for the whole cluster: looked at, judged, changed.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use mainstay_core::MemberId;
use mainstay_core::record::{Applied, Command, ParameterChange, ParameterSet};
use mainstay_postgres::configuration;
use mainstay_postgres::sizing::{self, Machine};
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::input::Asked;
use super::{Control, Refuse};
use crate::configure::{Judged, judge};
use crate::status::AlteredParameter;

const RECORD_PATIENCE: Duration = Duration::from_secs(2);

/// What `config show` and `config history` are made from.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConfigAnswer {
    /// The member that answers.
    pub member: MemberId,
    /// The number of the newest change.
    pub serial: u64,
    pub set: ParameterSet,
    /// The newest changes, the oldest first.
    pub history: Vec<ParameterChange>,
    /// What the answering member's own file says, over all of that.
    pub file: BTreeMap<String, String>,
    /// What it says where nobody says otherwise, over Mainstay's defaults.
    #[serde(default)]
    pub file_defaults: BTreeMap<String, String>,
    pub file_hba: Vec<String>,
    /// What Mainstay sets where nobody says otherwise.
    pub defaults: BTreeMap<String, String>,
    /// What it sets in any case.
    pub fixed: BTreeMap<String, String>,
    /// The answering member's parameters that come from `postgresql.auto.conf`.
    pub altered: Vec<AlteredParameter>,
    pub is_primary: bool,
}

/// A change: the whole new set, and what it was made from.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigChange {
    /// The number of the configuration that the change was made from.
    pub serial: u64,
    pub set: ParameterSet,
    /// Judge it, and change nothing.
    #[serde(default)]
    pub check_only: bool,
}

/// What a change did, or would do.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConfigChanged {
    pub serial: u64,
    #[serde(flatten)]
    pub judged: Judged,
}

pub(super) async fn show(State(control): State<Control>) -> Json<ConfigAnswer> {
    let machinery = &control.configure.machinery;
    let record = control.seen.record.borrow().clone();
    let file = machinery.file_part();
    let text = |(name, value): (&'static str, &'static str)| (name.to_owned(), value.to_owned());
    Json(ConfigAnswer {
        member: machinery.me().clone(),
        serial: record.parameters.serial,
        set: record.parameters.set.clone(),
        history: record.parameters.history.iter().cloned().collect(),
        file: file.parameters.clone(),
        file_defaults: file.defaults.clone(),
        file_hba: file.hba.clone(),
        defaults: configuration::own_defaults().map(text).collect(),
        fixed: machinery
            .tools()
            .map(|tools| configuration::own_fixed(tools.version()).map(text).collect())
            .unwrap_or_default(),
        altered: control.configure.seen.borrow().altered.clone(),
        is_primary: machinery.is_to_be_primary(),
    })
}

pub(super) async fn change(
    State(control): State<Control>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Asked(request): Asked<ConfigChange>,
) -> Result<Json<ConfigChanged>, Refuse> {
    let record = control.seen.record.borrow().clone();
    let ConfigChange { serial, set, check_only } = request;
    if let Some(stranger) = set.members.keys().find(|member| !record.members.contains_key(*member)) {
        return Err(Refuse::no_such_member(stranger, &control.seen.status.borrow()));
    }
    let judged = judge(&control.configure, &record, &set).await.map_err(Refuse::bad_input)?;
    // Tried on a copy first, so that the dry run refuses what the record would.
    let by = format!("{} at {}", caller.name(), control.configure.machinery.me());
    let at_unix_ms = crate::clock::unix_ms();
    let command = Command::ChangeParameters { serial, set, by, at_unix_ms };
    let applied = match check_only {
        true => mainstay_core::record::Record::clone(&record).apply(command),
        false => control.proposer.propose(&command, RECORD_PATIENCE).await?,
    };
    match applied {
        Applied::Done => Ok(Json(ConfigChanged { serial: serial + 1, judged })),
        Applied::Already => Ok(Json(ConfigChanged { serial: record.parameters.serial, judged })),
        Applied::Refused(refusal) => Err(Refuse::conflict(refusal.to_string())),
    }
}

/// What `config tune` shows.
#[derive(Debug, Serialize, Deserialize)]
pub struct TuneAnswer {
    pub member: MemberId,
    pub memory_bytes: u64,
    pub cores: u32,
    pub disk_bytes: u64,
    pub parameters: Vec<TunedParameter>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct TunedParameter {
    pub name: String,
    pub value: String,
    pub reason: String,
    /// What is configured now; `None`: PostgreSQL's default.
    pub now: Option<String>,
}

pub(super) async fn tune(State(control): State<Control>) -> Json<TuneAnswer> {
    let machinery = &control.configure.machinery;
    let machine = Machine::here(machinery.layout.data());
    let wanted = machinery.wanted_parameters();
    let default =
        |name: &str| configuration::own_defaults().find(|(own, _)| *own == name).map(|(_, value)| value);
    let now = |name: &str| wanted.get(name).cloned().or_else(|| default(name).map(str::to_owned));
    let connections = now("max_connections").and_then(|value| value.parse().ok()).unwrap_or(100);
    let tuned = sizing::sizes(&machine, connections).into_iter().map(|sized| TunedParameter {
        now: now(sized.name),
        name: sized.name.to_owned(),
        value: sized.value,
        reason: sized.reason,
    });
    Json(TuneAnswer {
        member: machinery.me().clone(),
        memory_bytes: machine.memory_bytes,
        cores: machine.cores,
        disk_bytes: machine.disk_bytes,
        parameters: tuned.collect(),
    })
}
