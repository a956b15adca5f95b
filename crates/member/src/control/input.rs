//! What comes with a request, read so that whatever is wrong with it is a [`Refuse`].

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::Refuse;

/// The JSON in the body. Let the type deny unknown fields: the answer then names the known ones.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Asked<T> {
    type Rejection = Refuse;

    async fn from_request(request: Request, state: &S) -> Result<Asked<T>, Refuse> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Asked(body)),
            Err(rejection) => Err(Refuse::bad_input(innermost(&rejection))),
        }
    }
}

/// What stands behind the `?`. Let the type deny unknown fields.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Refuse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Parameters<T>, Refuse> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Parameters(parameters)),
            Err(rejection) => Err(Refuse::bad_input(innermost(&rejection))),
        }
    }
}

/// The outer errors say only that something could not be read.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
