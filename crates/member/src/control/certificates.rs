//! What this member's certificates say, and a new one for PostgreSQL, now.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use mainstay_core::record::Kind;

use super::{Control, Refuse};
use crate::certificates::{self, CertificateStatus, CertificatesStatus};
use crate::machinery::blocking;
use crate::own_key::{KEYS_CHANGE, KeyStatus};

pub(super) async fn show(State(control): State<Control>) -> Result<Json<CertificatesStatus>, Refuse> {
    let configuration = control.configuration.clone();
    let read = blocking(move || certificates::status(&configuration)).await;
    read.map_err(|error| Refuse::failed(error.to_string()))?.map(Json).map_err(Refuse::failed)
}

/// Which key this member shows, and how far a change of it is.
pub(super) async fn key(State(control): State<Control>) -> Json<KeyStatus> {
    Json(control.machinery.own_key.status())
}

/// The rest follows by itself, from what the record and the others say.
pub(super) async fn rotate_key(State(control): State<Control>) -> Result<Json<KeyStatus>, Refuse> {
    if control.seen.record.borrow().format < KEYS_CHANGE {
        return Err(Refuse::precondition("not every member runs a release that knows of changed keys")
            .remedy("upgrade all members, and ask again"));
    }
    let (own, configuration) = (Arc::clone(&control.machinery.own_key), Arc::clone(&control.configuration));
    let made = blocking(move || own.make(&configuration)).await;
    made.map_err(|error| Refuse::failed(error.to_string()))?.map_err(Refuse::precondition)?;
    Ok(Json(control.machinery.own_key.status()))
}

pub(super) async fn renew(State(control): State<Control>) -> Result<Json<CertificateStatus>, Refuse> {
    if control.configuration.own_row().kind == Kind::Witness {
        return Err(Refuse::precondition("a witness runs no PostgreSQL").remedy("ask a member with data"));
    }
    certificates::renew_now(&control.machinery).await.map(Json).map_err(Refuse::precondition)
}
