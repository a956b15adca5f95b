//! Who belongs to the cluster: invitations, and members that leave.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mainstay_core::MemberId;
use mainstay_core::record::{Applied, Command, Invitation, Kind};
use mainstay_net::JoinToken;
use serde::{Deserialize, Serialize};

use super::input::Asked;
use super::{Control, Refuse};
use crate::{clock, join};

/// How long a request may take to reach the record.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);
/// 1 minute to 30 days.
const VALID_S: std::ops::RangeInclusive<u64> = 60..=30 * 86_400;

/// What `member invite` and `member replace` ask for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    pub kind: Kind,
    /// The only name that may join by it.
    pub member: Option<MemberId>,
    /// The member that leaves as the new one joins.
    pub replaces: Option<MemberId>,
    pub valid_s: u64,
}

/// The token is shown once: the record has only a hash of its secret.
#[derive(Debug, Serialize, Deserialize)]
pub struct InviteAnswer {
    /// Eight letters and digits, no secret.
    pub id: String,
    pub token: String,
    /// Where the new machine finds the member that was asked: `TOKEN@` this.
    pub at: std::net::SocketAddr,
    pub expires_at_unix_ms: u64,
}

/// What `member list` shows beside the status.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenInvitation {
    pub id: String,
    pub kind: Kind,
    pub member: Option<MemberId>,
    pub replaces: Option<MemberId>,
    pub expires_at_unix_ms: u64,
}

pub(super) async fn invite(
    State(control): State<Control>,
    Asked(request): Asked<InviteRequest>,
) -> Result<(StatusCode, Json<InviteAnswer>), Refuse> {
    if !VALID_S.contains(&request.valid_s) {
        return Err(Refuse::bad_input("a token is valid for 1 minute to 30 days"));
    }
    let status = control.seen.status.borrow().clone();
    if let Some(old) = &request.replaces
        && !status.members.iter().any(|row| row.name == *old)
    {
        return Err(Refuse::no_such_member(old, &status));
    }
    if let Some(taken) =
        request.member.as_ref().filter(|name| status.members.iter().any(|row| row.name == **name))
    {
        return Err(Refuse::conflict(format!("{taken} is a member already")).remedy(format!(
            "choose another name, or let a machine take its place: mainstay member replace {taken}"
        )));
    }
    let ca = join::authority(&control.configuration).map_err(Refuse::precondition)?;
    let token = JoinToken::create(ca.fingerprint()).map_err(|error| Refuse::failed(error.to_string()))?;
    let now = clock::unix_ms();
    let invitation = Invitation {
        id: token.id(),
        secret_sha256: token.secret_sha256(),
        kind: request.kind,
        member: request.member,
        replaces: request.replaces,
        expires_at_unix_ms: now.saturating_add(request.valid_s * 1_000),
        used_by: None,
    };
    let expires_at_unix_ms = invitation.expires_at_unix_ms;
    let command = Command::Invite { invitation, at_unix_ms: now };
    propose(&control, command).await?;
    let answer = InviteAnswer {
        id: token.id(),
        token: token.text(),
        at: control.configuration.own_row().address,
        expires_at_unix_ms,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(super) async fn invitations(State(control): State<Control>) -> Json<Vec<OpenInvitation>> {
    let record = control.seen.record.borrow().clone();
    let now = clock::unix_ms();
    let open = record
        .membership
        .invitations
        .iter()
        .filter(|invitation| invitation.used_by.is_none() && invitation.expires_at_unix_ms > now);
    let shown = open.map(|invitation| OpenInvitation {
        id: invitation.id.clone(),
        kind: invitation.kind,
        member: invitation.member.clone(),
        replaces: invitation.replaces.clone(),
        expires_at_unix_ms: invitation.expires_at_unix_ms,
    });
    Json(shown.collect())
}

/// What `member revoke` asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    pub id: String,
}

pub(super) async fn revoke(
    State(control): State<Control>,
    Asked(request): Asked<RevokeRequest>,
) -> Result<Json<RevokeRequest>, Refuse> {
    let record = control.seen.record.borrow().clone();
    if !record.membership.invitations.iter().any(|open| open.id == request.id) {
        return Err(Refuse::conflict(format!("there is no invitation {}", request.id))
            .remedy("see them with: mainstay member list"));
    }
    propose(&control, Command::Revoke { id: request.id.clone() }).await?;
    Ok(Json(request))
}

/// What `member remove` and `leave` ask for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaveRequest {
    pub member: MemberId,
}

/// It is accepted; `status` shows the member until it is gone.
pub(super) async fn leave(
    State(control): State<Control>,
    Asked(request): Asked<LeaveRequest>,
) -> Result<(StatusCode, Json<LeaveRequest>), Refuse> {
    let status = control.seen.status.borrow().clone();
    if !status.members.iter().any(|row| row.name == request.member) {
        return Err(Refuse::no_such_member(&request.member, &status));
    }
    propose(&control, Command::Leave { member: request.member.clone() }).await?;
    Ok((StatusCode::ACCEPTED, Json(request)))
}

async fn propose(control: &Control, command: Command) -> Result<(), Refuse> {
    match control.proposer.propose(&command, RECORD_PATIENCE).await? {
        Applied::Done | Applied::Already => Ok(()),
        Applied::Refused(refusal) => Err(Refuse::conflict(refusal.to_string())),
    }
}
