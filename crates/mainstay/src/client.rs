//! The command line's end of the control interfaces: the local socket, and the others' read-only HTTP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hyper::body::{Body, Buf, Bytes};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use mainstay_core::MemberId;
use mainstay_member::Configuration;
use mainstay_member::control::Refusal;
use mainstay_member::explain::Explanation;
use mainstay_member::logs::Logs;
use mainstay_member::roster;
use mainstay_member::status::{Status, WITHOUT_MAJORITY};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// A member that lives answers from memory, within milliseconds.
const PATIENCE: Duration = Duration::from_millis(300);
/// Views are large, and a busy machine takes its time to write them.
const EXPLAIN_PATIENCE: Duration = Duration::from_secs(3);
/// A request that changes something waits for the record.
const CHANGE_PATIENCE: Duration = Duration::from_secs(15);

/// The control socket of one member on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    socket: PathBuf,
    /// Before each path: which member is to answer, if it is another one.
    on: String,
}

impl Control {
    pub(crate) fn of(configuration: &Configuration) -> Control {
        Control { socket: configuration.control_socket(), on: String::new() }
    }

    /// The same for `member`, whom this machine's member asks.
    pub(crate) fn on(configuration: &Configuration, member: Option<&MemberId>) -> Control {
        let other = member.filter(|member| **member != configuration.me);
        let on = other.map_or_else(String::new, |member| format!("/v1/on/{member}"));
        Control { on, ..Control::of(configuration) }
    }

    pub(crate) async fn status(&self) -> Result<Status> {
        self.get("/v1/status").await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = Request::get(self.path(path)).body(String::new())?;
        let patience = if self.on.is_empty() { PATIENCE } else { CHANGE_PATIENCE };
        self.ask(request, patience).await
    }

    /// The last `count` decisions.
    pub(crate) async fn explain(&self, count: usize) -> Result<Vec<Explanation>> {
        let request = Request::get(self.path(&format!("/v1/explain?last={count}"))).body(String::new())?;
        let patience = if self.on.is_empty() { EXPLAIN_PATIENCE } else { CHANGE_PATIENCE };
        self.ask(request, patience).await
    }

    /// What was logged, for the parameters of `/v1/logs`.
    pub(crate) async fn logs(&self, parameters: &str) -> Result<Logs> {
        let request = Request::get(self.path(&format!("/v1/logs?{parameters}"))).body(String::new())?;
        self.ask(request, if self.on.is_empty() { EXPLAIN_PATIENCE } else { CHANGE_PATIENCE }).await
    }

    /// Asks for a change. A refusal of the member is the error's text.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T> {
        let request = Request::post(self.path(path))
            .header("content-type", "application/json")
            .body(serde_json::to_string(body)?)?;
        self.ask(request, CHANGE_PATIENCE).await
    }

    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.on)
    }

    async fn ask<T: DeserializeOwned>(&self, request: Request<String>, patience: Duration) -> Result<T> {
        let exchange = async {
            let stream =
                UnixStream::connect(&self.socket).await.map_err(|error| self.not_connected(error))?;
            exchange(stream, request).await
        };
        let answer = tokio::time::timeout(patience, exchange).await;
        let (status, body) = answer
            .with_context(|| format!("no answer on {} within {patience:?}", self.socket.display()))??;
        if !status.is_success() {
            return Err(refused(&body));
        }
        Ok(serde_json::from_slice(&body)?)
    }

    fn not_connected(&self, error: std::io::Error) -> anyhow::Error {
        let socket = self.socket.display();
        let why = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                format!("{socket} is for root and the users of the member and of PostgreSQL; use sudo")
            }
            _ => format!("no member answers on {socket}; is it running? start it with: mainstay run"),
        };
        anyhow::Error::new(error).context(why)
    }
}

/// One line of what a member refuses, with the remedy.
fn refused(body: &[u8]) -> anyhow::Error {
    match Refusal::from_json(body) {
        Some(refusal) => anyhow!("{refusal}"),
        None => anyhow!("{}", String::from_utf8_lossy(body).trim()),
    }
}

/// What any member says over read-only HTTP.
pub(crate) async fn public_status(address: SocketAddr) -> Result<Status> {
    public(address, "/v1/status", PATIENCE).await
}

/// The text that any member answers to `path` over read-only HTTP, within `patience`.
pub(crate) async fn public_text(address: SocketAddr, path: &str, patience: Duration) -> Result<String> {
    Ok(String::from_utf8(public_bytes(address, path, patience).await?.to_vec())?)
}

/// What any member answers to `path` over read-only HTTP, within `patience`.
pub(crate) async fn public<T: DeserializeOwned>(
    address: SocketAddr,
    path: &str,
    patience: Duration,
) -> Result<T> {
    Ok(serde_json::from_slice(&public_bytes(address, path, patience).await?)?)
}

async fn public_bytes(address: SocketAddr, path: &str, patience: Duration) -> Result<Bytes> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        exchange(stream, Request::get(path).header("host", address.to_string()).body(String::new())?).await
    };
    let (status, body) = tokio::time::timeout(patience, exchange).await.context("no answer in time")??;
    if !status.is_success() {
        bail!("{address} answers {path} with {status}");
    }
    Ok(body)
}

/// The status from this machine's member, or else from the first other one that answers: within a second in all.
pub(crate) async fn any_status(configuration: &Configuration) -> Result<Status> {
    let local = match Control::of(configuration).status().await {
        Ok(status) => return Ok(status),
        Err(error) => error,
    };
    // Whoever has joined since the file was written is in the newest roster only.
    let roster = roster::load(configuration)?;
    let others = roster.into_iter().filter(|(name, _)| *name != configuration.me);
    let mut asked = tokio::task::JoinSet::new();
    for http in others.filter_map(|(_, row)| row.http) {
        asked.spawn(public_status(http));
    }
    while let Some(answer) = asked.join_next().await {
        if let Ok(Ok(mut status)) = answer {
            status.warnings.push(format!("the member of this machine does not answer: {local:#}"));
            return Ok(status);
        }
    }
    Err(local.context("no member of the cluster answers"))
}

/// Without a majority nothing can be decided; the line says what can be done.
pub(crate) fn check_majority(status: &Status) -> Result<()> {
    match status.without_majority() {
        Some(why) => bail!("{why}; {WITHOUT_MAJORITY}"),
        None => Ok(()),
    }
}

async fn exchange<S>(stream: S, request: Request<String>) -> Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = collect(response.into_body()).await?;
    driver.abort();
    Ok((status, body))
}

async fn collect(body: hyper::body::Incoming) -> Result<Bytes> {
    let mut body = std::pin::pin!(body);
    let mut collected = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            collected.extend_from_slice(data.chunk());
        }
    }
    Ok(Bytes::from(collected))
}

/// Where a member's configuration file is in its directory, for programs that made it.
pub(crate) fn configuration_file(member_directory: &Path) -> PathBuf {
    member_directory.join("mainstay.toml")
}
