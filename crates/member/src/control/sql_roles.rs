//! `GET /v1/sql/roles`: who may log in, with what a password is checked by, for a SQL proxy beside this member.
//!
//! A verifier is a secret: with a dictionary and time a weak password is found from it. So it is answered on the control
//! socket, to those whom that lets in, and to other members, who have all of it in their data directories anyway. It is
//! never answered in plain text, nor to clients of the API, whatever they may do else.

use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use mainstay_core::MemberId;
use mainstay_core::record::Kind;
use mainstay_net::routes::{Role as LoginRole, Roles};
use tracing::debug;

use super::caller::Caller;
use super::{Control, Refusal, Refuse, forward};
use crate::machinery::{WorkError, failed};
use crate::status::{MemberStatus, Role};

/// The path, as it is carried to another member.
pub(super) const PATH: &str = "/v1/sql/roles";
/// For each PostgreSQL, which reads a small table; a proxy that asks waits for 5 s.
const PATIENCE: Duration = Duration::from_secs(2);
/// Members tell each other something four times a second: whoever is silent for longer is not worth waiting for.
const HEARD_MS: u64 = 2_000;

pub(super) async fn roles(
    State(control): State<Control>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Result<Json<Roles>, Refuse> {
    caller.reads_verifiers()?;
    let why = match tokio::time::timeout(PATIENCE, local(&control)).await {
        Ok(Ok(roles)) => return Ok(Json(roles)),
        Ok(Err(error)) => error.0,
        Err(_) => format!("PostgreSQL has not answered within {} s", PATIENCE.as_secs()),
    };
    let me = &control.configuration.me;
    if let Caller::Member { .. } = caller {
        // Carried once: two members without PostgreSQL would ask each other for ever.
        return Err(unavailable(&format!("{me}: {why}")));
    }
    let mut whys = vec![format!("{me}: {why}")];
    for member in others(&control) {
        match ask(&control, &member, &caller).await {
            Ok(roles) => return Ok(Json(roles)),
            Err(why) => whys.push(format!("{member}: {why}")),
        }
    }
    Err(unavailable(&whys.join("; ")))
}

fn unavailable(why: &str) -> Refuse {
    Refuse::unavailable(format!("no PostgreSQL says who may log in: {why}"))
        .remedy("see why with `mainstay status`, and ask again")
}

async fn local(control: &Control) -> Result<Roles, WorkError> {
    let machinery = &control.machinery;
    machinery.tools()?;
    let session = machinery.session().await?;
    let roles = session.login_roles().await.map_err(failed)?;
    let role = |role: mainstay_postgres::session::LoginRole| LoginRole {
        name: role.name,
        verifier: role.verifier,
        is_superuser: role.is_superuser,
        valid_until_unix_ms: role.valid_until_unix_ms,
    };
    Ok(Roles { roles: roles.into_iter().map(role).collect() })
}

/// Whom to ask: the primary first, then who follows it, then the rest.
fn others(control: &Control) -> Vec<MemberId> {
    let status = control.seen.status.borrow().clone();
    let is_asked = |row: &&MemberStatus| {
        let is_heard = row.heard_ms.is_some_and(|heard_ms| heard_ms < HEARD_MS);
        row.kind == Kind::Data && row.name != status.member && is_heard
    };
    let mut rows: Vec<&MemberStatus> = status.members.iter().filter(is_asked).collect();
    rows.sort_by_key(|row| match row.role {
        Role::Primary => 0,
        Role::Standby => 1,
        _ => 2,
    });
    rows.into_iter().map(|row| row.name.clone()).collect()
}

async fn ask(control: &Control, member: &MemberId, caller: &Caller) -> Result<Roles, String> {
    let asked = tokio::time::timeout(PATIENCE, forward::get(control, member, PATH, caller)).await;
    let (status, body) = match asked {
        Ok(Ok(answered)) => answered,
        Ok(Err(refuse)) => return Err(refuse.message().to_owned()),
        Err(_) => return Err(format!("it has not answered within {} s", PATIENCE.as_secs())),
    };
    if status != StatusCode::OK {
        let refusal = Refusal::from_json(body.as_bytes());
        debug!(%member, %status, "the roles are not had from there");
        return Err(refusal.map_or_else(|| format!("it answers {status}"), |refusal| refusal.message));
    }
    serde_json::from_str(&body).map_err(|error| format!("what it answers cannot be read: {error}"))
}
