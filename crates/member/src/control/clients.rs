//! Who may use the API from another machine. Their secrets never come here: only what a token or a key is known by.

use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use mainstay_core::record::{ApiClient, Applied, ClientProof, Command, Operate};
use mainstay_net::KeyFingerprint;
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::input::Asked;
use super::{Control, Refuse};
use crate::clock;

/// How long a request may take to reach the record.
const RECORD_PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_NAME: usize = 64;
/// With this before its name a client is a SQL proxy on another machine: it may read the routes and who may log in, and nothing
/// else. Of its token the record has the SHA-256 with this before it, so that a member of an older release, which does not know
/// that it may do less, does not know the token either.
pub const SQL_PROXY: &str = "sql-proxy/";

/// One client, as the record has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientRow {
    pub name: String,
    pub proof: ClientProof,
    /// Who let it in.
    pub by: String,
    pub since_unix_ms: u64,
}

/// Whom to let in, and by what it is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddClient {
    pub name: String,
    pub proof: ClientProof,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveClient {
    pub name: String,
}

pub(super) async fn list(
    State(control): State<Control>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Result<Json<Vec<ClientRow>>, Refuse> {
    caller.admits()?;
    let record = control.seen.record.borrow().clone();
    let row = |(name, client): (&String, &ApiClient)| ClientRow {
        name: name.clone(),
        proof: client.proof.clone(),
        by: client.by.clone(),
        since_unix_ms: client.since_unix_ms,
    };
    Ok(Json(record.operation.clients.iter().map(row).collect()))
}

pub(super) async fn add(
    State(control): State<Control>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Asked(request): Asked<AddClient>,
) -> Result<(StatusCode, Json<ClientRow>), Refuse> {
    caller.admits()?;
    check(&request)?;
    let by = format!("{} at {}", caller.name(), control.configuration.me);
    let AddClient { name, proof } = request;
    let client = ApiClient { proof: proof.clone(), by: by.clone(), since_unix_ms: clock::unix_ms() };
    let since_unix_ms = client.since_unix_ms;
    propose(&control, Operate::AdmitClient { name: name.clone(), client }).await?;
    Ok((StatusCode::CREATED, Json(ClientRow { name, proof, by, since_unix_ms })))
}

/// From now on it is refused, at every member that has the record.
pub(super) async fn remove(
    State(control): State<Control>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Asked(request): Asked<RemoveClient>,
) -> Result<Json<RemoveClient>, Refuse> {
    caller.admits()?;
    match propose(&control, Operate::DismissClient { name: request.name.clone() }).await? {
        Applied::Already => Err(Refuse::conflict(format!("there is no client {:?}", request.name))
            .remedy("see them with: mainstay client list")),
        _ => Ok(Json(request)),
    }
}

fn check(request: &AddClient) -> Result<(), Refuse> {
    let name = &request.name;
    let allowed = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.', '@'].contains(&c);
    let own = name.strip_prefix(SQL_PROXY).unwrap_or(name);
    if own.is_empty() || own.len() > LONGEST_NAME || !own.chars().all(allowed) {
        return Err(Refuse::bad_input(format!("{name:?} is no name for a client"))
            .remedy("take 1 to 64 letters, digits and -_.@"));
    }
    let is_known = match &request.proof {
        ClientProof::Token { sha256 } => {
            let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            sha256.len() == 64 && sha256.chars().all(digit)
        }
        ClientProof::Certificate { key } => key.parse::<KeyFingerprint>().is_ok(),
    };
    is_known.then_some(()).ok_or_else(|| {
        Refuse::bad_input(
            "the proof is neither a SHA-256 in 64 lower-case hexadecimal digits nor a key's fingerprint",
        )
    })
}

async fn propose(control: &Control, what: Operate) -> Result<Applied, Refuse> {
    match control.proposer.propose(&Command::Operate(what), RECORD_PATIENCE).await? {
        Applied::Refused(refusal) => Err(Refuse::conflict(refusal.to_string())),
        applied => Ok(applied),
    }
}
