//! A planned change of the primary.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mainstay_core::MemberId;
use mainstay_core::record::{Applied, Command, Kind};
use serde::{Deserialize, Serialize};

use super::input::Asked;
use super::{Control, Refuse};
use crate::status::{Role, Status};

/// What `switchover` asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchoverRequest {
    /// `None`: the best standby.
    pub to: Option<MemberId>,
}

/// What came of it: the request stands in the record, and `status` shows when it is done.
#[derive(Debug, Serialize, Deserialize)]
pub struct SwitchoverAnswer {
    pub id: u64,
    pub epoch: u64,
    pub from: MemberId,
}

/// How long a request may take to reach the record.
const RECORD_PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn switchover(
    State(control): State<Control>,
    Asked(request): Asked<SwitchoverRequest>,
) -> Result<(StatusCode, Json<SwitchoverAnswer>), Refuse> {
    let status = control.seen.status.borrow().clone();
    let from = check(&status, request.to.as_ref())?;
    let (id, epoch) = (crate::clock::now().0, status.epoch);
    let command = Command::RequestSwitchover { id, epoch, to: request.to };
    match control.proposer.propose(&command, RECORD_PATIENCE).await? {
        Applied::Done | Applied::Already => {
            Ok((StatusCode::ACCEPTED, Json(SwitchoverAnswer { id, epoch: epoch.0, from })))
        }
        Applied::Refused(refusal) => Err(Refuse::conflict(refusal.to_string())),
    }
}

/// Refuses what cannot be, as far as this member knows; answers who would be switched from.
fn check(status: &Status, to: Option<&MemberId>) -> Result<MemberId, Refuse> {
    let row = |name: &MemberId| status.members.iter().find(|row| row.name == *name);
    if let Some(to) = to {
        let row = row(to).ok_or_else(|| Refuse::no_such_member(to, status))?;
        if row.kind == Kind::Witness {
            return Err(Refuse::precondition(format!("{to} is a witness and has no data"))
                .remedy("name a member with data"));
        }
        if status.primary.as_ref() == Some(to) {
            return Err(Refuse::conflict(format!("{to} is the primary already")));
        }
    }
    if status.members.iter().filter(|row| row.kind == Kind::Data).count() < 2 {
        return Err(Refuse::precondition("there is no other member with data to switch over to")
            .remedy("let one join first"));
    }
    let Some(from) = status.primary.clone() else {
        return Err(Refuse::conflict(format!("there is no primary to switch from: {}", status.reason)));
    };
    let Some(to) = to else { return Ok(from) };
    let role = row(to).map_or(Role::Unknown, |row| row.role);
    if role != Role::Standby {
        return Err(Refuse::conflict(format!("{to} is {}", role.as_str()))
            .remedy("a switchover needs a standby that streams"));
    }
    Ok(from)
}
