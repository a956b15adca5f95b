//! What this member's certificates say, and a new one for PostgreSQL, now.

use axum::Json;
use axum::extract::State;
use mainstay_core::record::Kind;

use super::{Control, Refuse};
use crate::certificates::{self, CertificateStatus, CertificatesStatus};
use crate::machinery::blocking;

pub(super) async fn show(State(control): State<Control>) -> Result<Json<CertificatesStatus>, Refuse> {
    let configuration = control.configuration.clone();
    let read = blocking(move || certificates::status(&configuration)).await;
    read.map_err(|error| Refuse::failed(error.to_string()))?.map(Json).map_err(Refuse::failed)
}

pub(super) async fn renew(State(control): State<Control>) -> Result<Json<CertificateStatus>, Refuse> {
    if control.configuration.own_row().kind == Kind::Witness {
        return Err(Refuse::precondition("a witness runs no PostgreSQL").remedy("ask a member with data"));
    }
    certificates::renew_now(&control.machinery).await.map(Json).map_err(Refuse::precondition)
}
