//! Restarts of PostgreSQL, member by member.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use mainstay_core::MemberId;
use mainstay_core::record::{Applied, Command, Kind};
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::input::Asked;
use super::{Control, Refuse};
use crate::status::Role;

/// How long a request may take to reach the record.
const RECORD_PATIENCE: Duration = Duration::from_secs(2);

/// What `restart` asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartRequest {
    /// Whose PostgreSQL; empty: of those whose parameters wait for it.
    #[serde(default)]
    pub members: BTreeSet<MemberId>,
    /// The primary where it is, without a switchover.
    #[serde(default)]
    pub in_place: bool,
}

/// The request stands in the record; `status` shows how far it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct RestartAnswer {
    pub id: u64,
}

/// Which restart is to be given up.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartCancel {
    pub id: u64,
}

pub(super) async fn restart(
    State(control): State<Control>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Asked(request): Asked<RestartRequest>,
) -> Result<(StatusCode, Json<RestartAnswer>), Refuse> {
    let status = control.seen.status.borrow().clone();
    for name in &request.members {
        let row = status.members.iter().find(|row| row.name == *name);
        let row = row.ok_or_else(|| Refuse::no_such_member(name, &status))?;
        if row.kind == Kind::Witness {
            return Err(Refuse::precondition(format!("{name} is a witness and runs no PostgreSQL"))
                .remedy("name a member with data"));
        }
        if matches!(row.role, Role::Unknown | Role::Stopped) {
            return Err(Refuse::conflict(format!("{name} is not heard"))
                .remedy("start it: its PostgreSQL begins with what is configured by then"));
        }
    }
    if status.primary.is_none() {
        return Err(Refuse::conflict(format!("there is no primary: {}", status.reason)));
    }
    let id = crate::clock::now().0;
    let by = format!("{} at {}", caller.name(), status.member);
    let RestartRequest { members, in_place } = request;
    let command = Command::RequestRestart { id, members, in_place, by };
    match control.proposer.propose(&command, RECORD_PATIENCE).await? {
        Applied::Done | Applied::Already => Ok((StatusCode::ACCEPTED, Json(RestartAnswer { id }))),
        Applied::Refused(refusal) => Err(Refuse::conflict(refusal.to_string())),
    }
}

/// A member that is being restarted at the moment is; no other one follows.
pub(super) async fn cancel(
    State(control): State<Control>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Asked(request): Asked<RestartCancel>,
) -> Result<Json<RestartAnswer>, Refuse> {
    let id = request.id;
    let command = Command::EndRestart { id, why: Some(format!("given up by {}", caller.name())) };
    match control.proposer.propose(&command, RECORD_PATIENCE).await? {
        Applied::Done => Ok(Json(RestartAnswer { id })),
        Applied::Already => Err(Refuse::conflict("no such restart is under way")),
        Applied::Refused(refusal) => Err(Refuse::conflict(refusal.to_string())),
    }
}
