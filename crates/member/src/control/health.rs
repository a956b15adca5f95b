//! What load balancers ask: 200 with a reason, or 503 with one.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::Seen;
use crate::status::{Role, Status};

fn own_role(status: &Status) -> Role {
    status.members.iter().find(|row| row.name == status.member).map_or(Role::Unknown, |row| row.role)
}

/// 200 with a reason, or 503 with one.
fn verdict(is_so: bool, status: &Status) -> Response {
    let code = if is_so { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{}\n", status.reason)).into_response()
}

/// 200 on the primary that holds the lease and lets applications in.
pub(super) async fn primary(State(seen): State<Seen>) -> Response {
    let status = seen.status.borrow().clone();
    verdict(own_role(&status) == Role::Primary && status.writable, &status)
}

/// 200 on a standby that streams.
pub(super) async fn replica(State(seen): State<Seen>) -> Response {
    let status = seen.status.borrow().clone();
    verdict(own_role(&status) == Role::Standby, &status)
}

/// 200 where PostgreSQL serves, as primary or standby; on a witness where the member works.
pub(super) async fn health(State(seen): State<Seen>) -> Response {
    let status = seen.status.borrow().clone();
    verdict(matches!(own_role(&status), Role::Primary | Role::Standby | Role::Witness), &status)
}
