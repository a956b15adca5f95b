//! What can be read: status, metrics, and why the member did what it did.

use std::sync::PoisonError;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use mainstay_core::record::Kind;
use serde::{Deserialize, Serialize};

use super::input::Parameters;
use super::{Control, Refuse, Seen, health};
use crate::clock;
use crate::explain::Explanation;
use crate::metrics::{CONTENT_TYPE, Scrape};
use crate::reach::Reach;
use crate::status::Status;
use crate::verify::Verified;

const PROXY_PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn metrics(State(seen): State<Seen>) -> Response {
    // A proxy that does not answer is one that tells nothing: whoever scrapes waits for the rest.
    let asked = tokio::time::timeout(PROXY_PATIENCE, seen.sql_proxy.status()).await;
    let scrape = Scrape { sql_proxy: asked.ok().and_then(Result::ok), ..scrape(&seen) };
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], crate::metrics::render(&scrape)).into_response()
}

fn scrape(seen: &Seen) -> Scrape {
    let (status, record) = (seen.status.borrow().clone(), seen.record.borrow().clone());
    let (is_primary, is_live) = health::is_primary_and_live(seen);
    let guard = seen.guard.borrow().status.clone();
    let sql = seen.sql.borrow().clone();
    let own = status.members.iter().find(|row| row.name == status.member);
    let answers = guard.is_some_and(|guard| guard.postmaster.is_some() && guard.postmaster == sql.postmaster);
    let openings = seen.openings.lock().unwrap_or_else(PoisonError::into_inner).count(&record.ledger);
    let now = clock::now();
    let held =
        seen.lease.borrow().held.filter(|lease| record.tenure().is_some_and(|it| it.epoch == lease.epoch));
    Scrape {
        is_primary,
        is_live,
        loop_age: seen.heartbeat.age(now),
        lease_remaining: held.map(|lease| now.until(lease.deadline)),
        postgresql_is_up: own.filter(|row| row.kind == Kind::Data).map(|_| answers && sql.ready),
        slots: sql.slots,
        inventory: seen.inventory.borrow().clone(),
        verified: seen.verified.borrow().clone(),
        openings,
        sql_proxy: None,
        status,
        record,
    }
}

/// The same, on the control socket.
pub(super) async fn own_metrics(State(control): State<Control>) -> Response {
    metrics(State(control.seen)).await
}

/// The certificate of the cluster's CA, in PEM: no secret. Whoever has been told its key's fingerprint can tell that it is the one.
pub(super) async fn authority(State(seen): State<Seen>) -> Result<Response, Refuse> {
    let file = seen.authority.clone();
    let read = crate::machinery::blocking(move || std::fs::read_to_string(file)).await;
    let pem =
        read.map_err(|error| error.to_string()).and_then(|read| read.map_err(|error| error.to_string()));
    let pem =
        pem.map_err(|why| Refuse::unavailable(format!("the CA's certificate cannot be read: {why}")))?;
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], pem).into_response())
}

/// The status without passwords, for the other members' command line too.
pub(super) async fn public_status(State(seen): State<Seen>) -> Json<Status> {
    let mut status = Status::clone(&seen.status.borrow());
    status.endpoints = status.endpoints.without_passwords();
    status.now_unix_ms = crate::clock::unix_ms();
    Json(status)
}

/// Which ports of the other members this machine reaches.
pub(super) async fn reach(State(seen): State<Seen>) -> Json<Vec<Reach>> {
    let status = seen.status.borrow().clone();
    Json(seen.reacher.look(&status).await)
}

pub(super) async fn full_status(State(control): State<Control>) -> Json<Status> {
    let mut status = Status::clone(&control.seen.status.borrow());
    status.now_unix_ms = crate::clock::unix_ms();
    Json(status)
}

/// What the schedule has found here.
#[derive(Serialize)]
pub(super) struct VerifyAnswer {
    /// How often this member verifies the cluster while it is the primary; `null`: never.
    every_ms: Option<u64>,
    /// The newest run, on the primary.
    last: Option<Verified>,
}

pub(super) async fn verified(State(control): State<Control>) -> Json<VerifyAnswer> {
    let every = *control.machinery.verify_every.borrow();
    let every_ms = every.map(|every| u64::try_from(every.as_millis()).unwrap_or(u64::MAX));
    Json(VerifyAnswer { every_ms, last: control.seen.verified.borrow().as_deref().cloned() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainQuery {
    last: Option<usize>,
}

pub(super) async fn explain(
    State(control): State<Control>,
    Parameters(query): Parameters<ExplainQuery>,
) -> Json<Vec<Explanation>> {
    let explanations = control.explanations.lock().unwrap_or_else(PoisonError::into_inner);
    Json(explanations.last(query.last.unwrap_or(20)))
}
