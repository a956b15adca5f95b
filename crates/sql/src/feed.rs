//! Asks the member beside us where statements go, and who may log in.
//!
//! What was said last stays good while the member restarts, until the lease of which it told has run out.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use mainstay_net::routes::{Roles, Routes};
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::routing::Told;
use crate::worker;

/// How long the member lets a question about the routes wait for news. The lease counts from the question, so it is short
/// beside the shortest lease.
const LONG_POLL: Duration = Duration::from_millis(250);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
const ROLES_INTERVAL: Duration = Duration::from_secs(10);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_BYTES: usize = 16 << 20;

/// Publishes what the member says of the routes, for ever.
pub(crate) async fn routes(socket: &Path, publish: watch::Sender<Option<Told>>) {
    let mut version = None;
    let mut trouble = None;
    loop {
        if let Err(error) = ask_routes(socket, &publish, &mut version, &mut trouble).await
            && trouble.as_ref() != Some(&error.to_string())
        {
            warn!(%error, "the member beside the SQL proxy does not answer; its last word counts until its lease ends");
            trouble = Some(error.to_string());
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Asks on one connection, again and again.
async fn ask_routes(
    socket: &Path,
    publish: &watch::Sender<Option<Told>>,
    version: &mut Option<u64>,
    trouble: &mut Option<String>,
) -> io::Result<()> {
    let mut connection = Asking::open(socket).await?;
    loop {
        let asked = Instant::now();
        let path = match version {
            Some(version) => format!("/v1/sql/routes?version={version}&wait_ms={}", LONG_POLL.as_millis()),
            None => "/v1/sql/routes".to_owned(),
        };
        let routes: Routes = connection.get(&path).await?;
        if trouble.take().is_some() {
            info!("the member answers again");
        }
        *version = Some(routes.version);
        publish.send_replace(Some(Told { routes, asked }));
    }
}

/// Publishes who may log in, at intervals and when somebody asks.
pub(crate) async fn roles(socket: &Path, publish: watch::Sender<worker::Roles>, wanted: Arc<Notify>) {
    loop {
        let patience = match ask_roles(socket).await {
            Ok(roles) => {
                let roles: BTreeMap<_, _> =
                    roles.roles.into_iter().map(|role| (role.name.clone(), role)).collect();
                publish.send_replace(Some(Arc::new(roles)));
                ROLES_INTERVAL
            }
            Err(_) if publish.borrow().is_none() => RETRY_INTERVAL,
            Err(_) => ROLES_INTERVAL / 10,
        };
        tokio::select! {
            () = tokio::time::sleep(patience) => {}
            // Whoever makes up names must not have PostgreSQL asked without end.
            () = wanted.notified() => tokio::time::sleep(RETRY_INTERVAL).await,
        }
    }
}

async fn ask_roles(socket: &Path) -> io::Result<Roles> {
    Asking::open(socket).await?.get("/v1/sql/roles").await
}

/// Has the member read its file, and tell us what of it is ours. Answers what the member says.
pub(crate) async fn ask_reload(socket: &Path) -> io::Result<serde_json::Value> {
    Asking::open(socket).await?.ask(Method::POST, "/v1/reload", "null").await
}

/// A connection to the control socket.
struct Asking {
    sender: http1::SendRequest<Full<Bytes>>,
    task: tokio::task::JoinHandle<hyper::Result<()>>,
}

impl Asking {
    async fn open(socket: &Path) -> io::Result<Asking> {
        let stream = UnixStream::connect(socket).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Asking { sender, task: tokio::spawn(connection) })
    }

    async fn get<T: serde::de::DeserializeOwned>(&mut self, path: &str) -> io::Result<T> {
        self.ask(Method::GET, path, "").await
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: &'static str,
    ) -> io::Result<T> {
        let request = Request::builder().method(method).uri(path).header("host", "mainstay");
        let request = request.header("content-type", "application/json");
        let request =
            request.body(Full::new(Bytes::from_static(body.as_bytes()))).map_err(io::Error::other)?;
        let answer = async {
            let response = self.sender.send_request(request).await.map_err(io::Error::other)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
            let body = body.map_err(io::Error::other)?.to_bytes();
            if !status.is_success() {
                let text = String::from_utf8_lossy(&body).into_owned();
                return Err(io::Error::other(format!("{status}: {text}")));
            }
            serde_json::from_slice(&body).map_err(io::Error::other)
        };
        tokio::time::timeout(PATIENCE, answer).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}
