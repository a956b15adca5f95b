//! A request for another member: carried there over the members' network, and answered by its control interface.
//!
//! So a command can be given on whichever machine one is. A member is trusted with it: it holds a key of the record.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use mainstay_core::MemberId;
use mainstay_net::{CallError, CallHandler, Link};
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::{Control, Refuse};

/// The method of the call.
const METHOD: &str = "control";
/// TCP, TLS and the hello take milliseconds; a machine that is off never answers.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Less than a client waits, so that it learns who did not answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(12);
/// Requests and answers are JSON; a call carries no more than 16 MiB.
const MOST_BYTES: usize = 8 << 20;

/// What another member is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    method: String,
    path: String,
    body: String,
    /// Who asks, for people.
    by: String,
    /// Whether that is a client of the API, who may less.
    #[serde(default)]
    client: bool,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
struct Answered {
    status: u16,
    body: String,
}

/// Answers what other members carry here. There is nothing to answer with before the control interface stands.
#[derive(Clone, Default)]
pub(crate) struct Forwarded {
    router: Arc<OnceLock<Router>>,
}

impl Forwarded {
    pub(super) fn offer(&self, router: Router) {
        // It is offered once, when the member starts.
        let _ = self.router.set(router);
    }

    async fn answer(&self, from: &MemberId, body: &[u8]) -> Result<Answered, String> {
        let unreadable = |error: serde_json::Error| {
            format!("the request cannot be read ({error}); run the same release on all members")
        };
        let asked: Asked = serde_json::from_slice(body).map_err(unreadable)?;
        let router = self.router.get().ok_or("the member has just been started; ask again")?;
        let name = format!("{} at {from}", asked.by);
        let caller = if asked.client { Caller::Client { name } } else { Caller::Member { name } };
        let request = Request::builder()
            .method(asked.method.as_str())
            .uri(asked.path)
            .header(header::CONTENT_TYPE, "application/json")
            .extension(ConnectInfo(caller))
            .body(Body::from(asked.body))
            .map_err(|error| format!("the request cannot be read ({error})"))?;
        let response = dispatch(router.clone(), request).await;
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), MOST_BYTES).await.map_err(|error| error.to_string())?;
        Ok(Answered { status, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

impl CallHandler for Forwarded {
    async fn handle(&self, from: MemberId, method: &str, body: Bytes) -> Result<Vec<u8>, String> {
        if method != METHOD {
            return Err(format!("there is no call {method:?}; run the same release on all members"));
        }
        let answered = self.answer(&from, &body).await?;
        Ok(serde_json::to_vec(&answered).expect("a number and a text have a JSON form"))
    }
}

/// `/v1/on/MEMBER/PATH`: what that member answers to `/PATH`.
pub(super) async fn on(
    State(control): State<Control>,
    Path((member, path)): Path<(String, String)>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
) -> Result<Response, Refuse> {
    if path.starts_with("v1/on/") {
        return Err(Refuse::bad_input("a request is carried to one member").remedy("name it once"));
    }
    let status = control.seen.status.borrow().clone();
    let name = MemberId::new(&member).map_err(|error| Refuse::bad_input(error.to_string()))?;
    if !status.members.iter().any(|row| row.name == name) {
        return Err(Refuse::no_such_member(&name, &status));
    }
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().map_or_else(String::new, |query| format!("?{query}"));
    let path = format!("/{path}{query}");
    let body = to_bytes(body, MOST_BYTES).await.map_err(|error| Refuse::bad_input(error.to_string()))?;
    let body = String::from_utf8(body.into()).map_err(|_| Refuse::bad_input("the body is not UTF-8"))?;
    let client = matches!(caller, Caller::Client { .. });
    let asked = Asked { method: parts.method.to_string(), path, body, by: caller.name(), client };
    let answered = if name == status.member {
        let text = serde_json::to_vec(&asked).expect("four texts have a JSON form");
        control.forwarded.answer(&name, &text).await.map_err(Refuse::failed)?
    } else {
        let link = control.links.call_link(&name);
        let link = link.ok_or_else(|| Refuse::no_such_member(&name, &status))?;
        carry(&link, &name, &asked).await?
    };
    let status = StatusCode::from_u16(answered.status).unwrap_or(StatusCode::BAD_GATEWAY);
    Ok((status, [(header::CONTENT_TYPE, "application/json")], answered.body).into_response())
}

/// What `member` answers to a question for `path`, with the code of the answer.
pub(super) async fn get(
    control: &Control,
    member: &MemberId,
    path: &str,
    caller: &Caller,
) -> Result<(StatusCode, String), Refuse> {
    let status = control.seen.status.borrow().clone();
    let link = control.links.call_link(member).ok_or_else(|| Refuse::no_such_member(member, &status))?;
    let asked = Asked {
        method: "GET".to_owned(),
        path: path.to_owned(),
        body: String::new(),
        by: caller.name(),
        client: matches!(caller, Caller::Client { .. }),
    };
    let answered = carry(&link, member, &asked).await?;
    Ok((StatusCode::from_u16(answered.status).unwrap_or(StatusCode::BAD_GATEWAY), answered.body))
}

async fn carry(link: &Link, member: &MemberId, asked: &Asked) -> Result<Answered, Refuse> {
    let mut connected = link.connected();
    let up = async { connected.wait_for(|up| *up).await.is_ok() };
    if !tokio::time::timeout(CONNECT_PATIENCE, up).await.unwrap_or(false) {
        let why = link.status().last_error.unwrap_or_else(|| "it does not answer".to_owned());
        return Err(Refuse::not_reached(format!("{member} is not reached: {why}")).remedy(format!(
            "see that its machine is up and Mainstay runs there, or ask on {member} itself"
        )));
    }
    let body = serde_json::to_vec(asked).expect("four texts have a JSON form");
    match link.call(METHOD, &body, ANSWER_PATIENCE).await {
        Ok(answer) => serde_json::from_slice(&answer).map_err(|error| {
            Refuse::not_reached(format!("what {member} answers cannot be read: {error}"))
                .remedy("run the same release on all members")
        }),
        Err(CallError::Refused(why)) => Err(Refuse::conflict(format!("{member} refuses: {why}"))),
        Err(error) => Err(Refuse::not_reached(format!("{member} has not answered: {error}"))
            .remedy("whether it was done is not known; look at `mainstay status` before you ask again")),
    }
}

async fn dispatch(router: Router, request: Request) -> Response {
    match TowerToHyperService::new(router).call(request).await {
        Ok(response) => response,
        Err(error) => {
            let error: Infallible = error;
            match error {}
        }
    }
}
