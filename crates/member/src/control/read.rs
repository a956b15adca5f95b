//! What can be read: status, metrics, and why the member did what it did.

use std::sync::PoisonError;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::input::Parameters;
use super::{Control, Seen};
use crate::explain::Explanation;
use crate::status::Status;

pub(super) async fn metrics(State(seen): State<Seen>) -> Response {
    let status = seen.status.borrow().clone();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], crate::metrics::render(&status)).into_response()
}

/// The same, on the control socket.
pub(super) async fn own_metrics(State(control): State<Control>) -> Response {
    metrics(State(control.seen)).await
}

/// The status without passwords, for the other members' command line too.
pub(super) async fn public_status(State(seen): State<Seen>) -> Json<Status> {
    let mut status = Status::clone(&seen.status.borrow());
    status.endpoints = status.endpoints.without_passwords();
    Json(status)
}

pub(super) async fn full_status(State(control): State<Control>) -> Json<Status> {
    Json(Status::clone(&control.seen.status.borrow()))
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
