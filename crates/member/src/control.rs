//! What the member answers: everything to its own machine over a Unix socket, reading only over TCP.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use mainstay_core::MemberId;
use mainstay_core::record::{Applied, Command};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::explain::{Explanation, Explanations};
use crate::metrics;
use crate::propose::Proposer;
use crate::status::{Role, Status};

/// What the answers are made from.
#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) status: watch::Receiver<Arc<Status>>,
    pub(crate) explanations: Arc<Mutex<Explanations>>,
    pub(crate) proposer: Proposer,
}

/// Why the control interface cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("cannot listen on {address} for HTTP: {source}; is another program using the port?")]
    Http { address: SocketAddr, source: std::io::Error },
    #[error("cannot listen on the control socket {path}: {source}")]
    Socket { path: String, source: std::io::Error },
}

/// Offers both interfaces; they are served until the runtime ends.
pub(crate) async fn serve(control: Control, http: SocketAddr, socket: &Path) -> Result<(), ControlError> {
    let failed = |source| ControlError::Http { address: http, source };
    let listener = TcpListener::bind(http).await.map_err(failed)?;
    let failed = |source| ControlError::Socket { path: socket.display().to_string(), source };
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let local = UnixListener::bind(socket).map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let public = reading().with_state(control.clone());
    let private = reading()
        .route("/v1/status", get(full_status))
        .route("/v1/explain", get(explain))
        .route("/v1/switchover", post(switchover))
        .with_state(control);
    tokio::spawn(async move { axum::serve(listener, public).await });
    tokio::spawn(async move { axum::serve(local, private).await });
    Ok(())
}

fn reading() -> Router<Control> {
    Router::new()
        .route("/primary", get(primary))
        .route("/replica", get(replica))
        .route("/health", get(health))
        .route("/metrics", get(show_metrics))
        .route("/status", get(public_status))
}

fn own_role(status: &Status) -> Role {
    status.members.iter().find(|row| row.name == status.member).map_or(Role::Unknown, |row| row.role)
}

/// 200 with a reason, or 503 with one.
fn verdict(is_so: bool, status: &Status) -> Response {
    let code = if is_so { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{}\n", status.reason)).into_response()
}

/// 200 on the primary that holds the lease and lets applications in.
async fn primary(State(control): State<Control>) -> Response {
    let status = control.status.borrow().clone();
    verdict(own_role(&status) == Role::Primary && status.writable, &status)
}

/// 200 on a standby that streams.
async fn replica(State(control): State<Control>) -> Response {
    let status = control.status.borrow().clone();
    verdict(own_role(&status) == Role::Standby, &status)
}

/// 200 where PostgreSQL serves, as primary or standby; on a witness where the member works.
async fn health(State(control): State<Control>) -> Response {
    let status = control.status.borrow().clone();
    verdict(matches!(own_role(&status), Role::Primary | Role::Standby | Role::Witness), &status)
}

async fn show_metrics(State(control): State<Control>) -> Response {
    let status = control.status.borrow().clone();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render(&status)).into_response()
}

/// The status without passwords, for the other members' command line too.
async fn public_status(State(control): State<Control>) -> Json<Status> {
    let mut status = Status::clone(&control.status.borrow());
    status.endpoints = status.endpoints.without_passwords();
    Json(status)
}

async fn full_status(State(control): State<Control>) -> Json<Status> {
    Json(Status::clone(&control.status.borrow()))
}

#[derive(Deserialize)]
struct ExplainQuery {
    last: Option<usize>,
}

async fn explain(
    State(control): State<Control>,
    Query(query): Query<ExplainQuery>,
) -> Json<Vec<Explanation>> {
    let explanations = control.explanations.lock().unwrap_or_else(PoisonError::into_inner);
    Json(explanations.last(query.last.unwrap_or(20)))
}

/// What `switchover` asks for.
#[derive(Debug, Serialize, Deserialize)]
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

async fn switchover(State(control): State<Control>, Json(request): Json<SwitchoverRequest>) -> Response {
    let refuse = |code: StatusCode, why: String| (code, why).into_response();
    let status = control.status.borrow().clone();
    let Some(from) = status.primary.clone() else {
        return refuse(
            StatusCode::CONFLICT,
            format!("there is no primary to switch from: {}", status.reason),
        );
    };
    if let Some(to) = &request.to {
        let known: Vec<&str> = status.members.iter().map(|row| row.name.as_str()).collect();
        if !known.contains(&to.as_str()) {
            return refuse(
                StatusCode::NOT_FOUND,
                format!("there is no member {to}; there are {}", known.join(", ")),
            );
        }
        if *to == from {
            return refuse(StatusCode::CONFLICT, format!("{to} is the primary already"));
        }
        let role = status.members.iter().find(|row| row.name == *to).map(|row| row.role);
        if role != Some(Role::Standby) {
            let role = role.map_or("unknown", Role::as_str);
            return refuse(
                StatusCode::CONFLICT,
                format!("{to} is {role}; a switchover needs a standby that streams"),
            );
        }
    }
    let (id, epoch) = (crate::clock::now().0, status.epoch);
    let command = Command::RequestSwitchover { id, epoch, to: request.to };
    match control.proposer.propose(&command, RECORD_PATIENCE).await {
        Ok(Applied::Done | Applied::Already) => {
            (StatusCode::ACCEPTED, Json(SwitchoverAnswer { id, epoch: epoch.0, from })).into_response()
        }
        Ok(Applied::Refused(refusal)) => refuse(StatusCode::CONFLICT, refusal.to_string()),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
