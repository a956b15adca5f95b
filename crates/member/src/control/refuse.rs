//! What is answered when something is not done: one form for all of the API.

use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use mainstay_core::MemberId;
use mainstay_store::ProposeError;
use serde::{Deserialize, Serialize};

use crate::status::{Status, WITHOUT_MAJORITY};

/// Why something was not done, and what to do about it. Answered as `{"error": {"code", "message", "remedy"}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    status: StatusCode,
    refusal: Refusal,
}

/// The same as the client reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A word for programs: see the constructors of [`Refuse`].
    pub code: String,
    /// One sentence without its full stop: what is wrong, with its subject.
    pub message: String,
    /// What to do about it, if anything can be done.
    pub remedy: Option<String>,
}

/// The body of the answer.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    error: Refusal,
}

impl Refusal {
    /// Reads what a member has answered; `None` if that is no refusal.
    pub fn from_json(body: &[u8]) -> Option<Refusal> {
        serde_json::from_slice::<Body>(body).ok().map(|body| body.error)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.remedy {
            Some(remedy) => write!(f, "{}; {remedy}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl Refuse {
    fn new(status: StatusCode, code: &str, message: String) -> Refuse {
        Refuse { status, refusal: Refusal { code: code.to_owned(), message, remedy: None } }
    }

    /// 400 `bad_input`: the request cannot be understood, or asks for what cannot be.
    pub(crate) fn bad_input(message: impl Into<String>) -> Refuse {
        Refuse::new(StatusCode::BAD_REQUEST, "bad_input", message.into())
    }

    /// 401 `unauthorized`: nobody knows who asks.
    pub(crate) fn unauthorized(message: impl Into<String>) -> Refuse {
        Refuse::new(StatusCode::UNAUTHORIZED, "unauthorized", message.into())
    }

    /// 403 `forbidden`: not for this caller.
    pub(crate) fn forbidden(message: impl Into<String>) -> Refuse {
        Refuse::new(StatusCode::FORBIDDEN, "forbidden", message.into())
    }

    /// 404 `no_such_member`, naming those that there are.
    pub(crate) fn no_such_member(name: &MemberId, status: &Status) -> Refuse {
        let known: Vec<&str> = status.members.iter().map(|row| row.name.as_str()).collect();
        let message = format!("there is no member {name}; there are {}", known.join(", "));
        Refuse::new(StatusCode::NOT_FOUND, "no_such_member", message)
    }

    /// 409 `conflict`: not in the state that the cluster is in now; it may be possible later.
    pub(crate) fn conflict(message: impl Into<String>) -> Refuse {
        Refuse::new(StatusCode::CONFLICT, "conflict", message.into())
    }

    /// 412 `precondition_failed`: something must be done first.
    pub(crate) fn precondition(message: impl Into<String>) -> Refuse {
        Refuse::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", message.into())
    }

    /// 502 `not_reached`: the member that it is for does not answer.
    pub(crate) fn not_reached(message: impl Into<String>) -> Refuse {
        Refuse::new(StatusCode::BAD_GATEWAY, "not_reached", message.into())
    }

    /// 503 `no_majority`: the record cannot be changed now.
    pub(crate) fn no_majority(message: impl Into<String>) -> Refuse {
        Refuse::new(StatusCode::SERVICE_UNAVAILABLE, "no_majority", message.into())
    }

    /// 503 `unavailable`: what it would be read from does not answer now.
    pub(crate) fn unavailable(message: impl Into<String>) -> Refuse {
        Refuse::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message.into())
    }

    /// 500 `failed`: it was tried, and did not work.
    #[allow(dead_code, reason = "verbs that do something on this machine answer with it")]
    pub(crate) fn failed(message: impl Into<String>) -> Refuse {
        Refuse::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message.into())
    }

    /// What is wrong, without what to do about it.
    pub(crate) fn message(&self) -> &str {
        &self.refusal.message
    }

    /// Says what to do about it, as a clause that may follow a semicolon.
    #[must_use]
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Refuse {
        self.refusal.remedy = Some(remedy.into());
        self
    }
}

impl From<ProposeError> for Refuse {
    fn from(error: ProposeError) -> Refuse {
        let unknown = error.is_unknown();
        let refuse = Refuse::no_majority(error.to_string());
        match unknown {
            true => refuse.remedy("look at `mainstay status` before you ask again"),
            false => refuse.remedy(WITHOUT_MAJORITY),
        }
    }
}

impl IntoResponse for Refuse {
    fn into_response(self) -> Response {
        let unauthorized = self.status == StatusCode::UNAUTHORIZED;
        let mut response = (self.status, Json(Body { error: self.refusal })).into_response();
        if unauthorized {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// As [`unknown`], where `elsewhere` are paths that are answered over TLS alone.
pub(super) fn unknown_in_plain(router: Router, elsewhere: Vec<&'static str>) -> Router {
    let refuse = move |uri: Uri| {
        // What stands in braces is any part, or with a star all that follows.
        let matches = |known: &str| {
            let mut asked = uri.path().split('/');
            let same = known.split('/').all(|part| {
                part.starts_with("{*")
                    || asked.next().is_some_and(|word| part.starts_with('{') || part == word)
            });
            same && (known.contains("{*") || asked.next().is_none())
        };
        let refuse = match elsewhere.iter().any(|known| matches(known)) {
            true => Refuse::forbidden(format!("{} is not answered in plain text", uri.path()))
                .remedy("ask with https, as a client that was let in: mainstay client add NAME"),
            false => {
                Refuse::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {}", uri.path()))
            }
        };
        async move { refuse }
    };
    router.fallback(refuse).method_not_allowed_fallback(wrong_method)
}

/// Gives the router its answers for what it does not have: 404 `not_found`, 405 `wrong_method`.
pub(super) fn unknown(router: Router) -> Router {
    router
        .fallback(|uri: Uri| async move {
            let message = format!("there is nothing at {}", uri.path());
            Refuse::new(StatusCode::NOT_FOUND, "not_found", message)
        })
        .method_not_allowed_fallback(wrong_method)
}

async fn wrong_method(method: Method, uri: Uri) -> Refuse {
    let message = format!("{} cannot be asked with {method}", uri.path());
    Refuse::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
}
