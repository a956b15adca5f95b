//! Asks the member beside us, or any where there is none, where statements go, and who may log in.
//!
//! What was said last stays good while the member restarts, until the lease of which it told has run out.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use mainstay_net::routes::{Roles, Routes};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

use crate::routing::Told;
use crate::source::Source;
use crate::worker;

/// How long the member lets a question about the routes wait for news. The lease counts from the question, so it is short
/// beside the shortest lease.
const LONG_POLL: Duration = Duration::from_millis(250);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
const ROLES_INTERVAL: Duration = Duration::from_secs(10);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same where there is another member to ask: before the cluster has replaced a primary that is gone.
const PATIENCE_WITH_ONE: Duration = Duration::from_secs(1);
const MOST_BYTES: usize = 16 << 20;

/// Asks; cheap to clone.
#[derive(Clone)]
pub(crate) struct Feed {
    source: Source,
    /// For members that are asked over the network.
    tls: Option<Arc<ClientConfig>>,
}

impl Feed {
    pub(crate) fn new(source: Source, tls: Option<Arc<ClientConfig>>) -> Feed {
        Feed { source, tls }
    }

    /// Publishes what the member says of the routes, for ever.
    pub(crate) async fn routes(&self, publish: watch::Sender<Option<Told>>) {
        let mut trouble = None;
        loop {
            if let Err(error) = self.ask_routes(&publish, &mut trouble).await
                && trouble.as_ref() != Some(&error.to_string())
            {
                warn!(%error, "a member does not answer the SQL proxy; the last word counts until its lease ends");
                trouble = Some(error.to_string());
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// What one member says now.
    pub(crate) async fn routes_once(&self) -> io::Result<Routes> {
        let mut connection = self.open().await?;
        self.get(&mut connection, "/v1/sql/routes").await
    }

    /// Asks on one connection, again and again, as long as it is of use.
    async fn ask_routes(
        &self,
        publish: &watch::Sender<Option<Told>>,
        trouble: &mut Option<String>,
    ) -> io::Result<()> {
        let mut connection = self.open().await?;
        let mut version = None;
        loop {
            let asked = Instant::now();
            let path = match version {
                Some(version) => {
                    format!("/v1/sql/routes?version={version}&wait_ms={}", LONG_POLL.as_millis())
                }
                None => "/v1/sql/routes".to_owned(),
            };
            let routes: Routes = self.get(&mut connection, &path).await?;
            if trouble.take().is_some() {
                info!("a member answers again");
            }
            version = Some(routes.version);
            let has_primary = routes.primary.is_some();
            if let Source::Cluster(cluster) = &self.source
                && let Err(error) = cluster.learn(&routes.apis)
            {
                warn!(%error, "where the members are is not kept for the next start");
            }
            publish.send_replace(Some(Told { routes, asked }));
            // It may be the one that is cut off.
            if !has_primary && self.pass_over(connection.member) {
                return Ok(());
            }
        }
    }

    /// Publishes who may log in, at intervals and when somebody asks.
    pub(crate) async fn roles(&self, publish: watch::Sender<worker::Roles>, wanted: Arc<Notify>) {
        loop {
            let patience = match self.ask_roles().await {
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

    async fn ask_roles(&self) -> io::Result<Roles> {
        let mut connection = self.open().await?;
        self.get(&mut connection, "/v1/sql/roles").await
    }

    async fn open(&self) -> io::Result<Asking> {
        match &self.source {
            Source::Member(socket) => {
                Asking::over(UnixStream::connect(socket).await?, None, String::new()).await
            }
            Source::Cluster(cluster) => {
                let member = cluster.first().ok_or_else(|| io::Error::other("no member is known"))?;
                let connected = self.connect(member, cluster.token());
                let connected = tokio::time::timeout(PATIENCE_WITH_ONE, connected).await;
                let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                connected.map_err(|error| {
                    self.pass_over(Some(member));
                    io::Error::other(format!("{member}: {error}"))
                })
            }
        }
    }

    async fn connect(&self, member: SocketAddr, token: &str) -> io::Result<Asking> {
        let tls = self.tls.as_ref().ok_or_else(|| io::Error::other("the cluster's CA is not known"))?;
        let stream = TcpStream::connect(member).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(member.ip());
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
        Asking::over(stream, Some(member), format!("Bearer {token}")).await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, asking: &mut Asking, path: &str) -> io::Result<T> {
        let patience = if asking.member.is_some() { PATIENCE_WITH_ONE } else { PATIENCE };
        let answer = tokio::time::timeout(patience, asking.get(path)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        answer.map_err(|error| match asking.member {
            Some(member) => {
                self.pass_over(Some(member));
                io::Error::other(format!("{member}: {error}"))
            }
            None => error,
        })
    }

    /// Another one is asked next; false if there is none.
    fn pass_over(&self, member: Option<SocketAddr>) -> bool {
        match (&self.source, member) {
            (Source::Cluster(cluster), Some(member)) => {
                cluster.pass_over(member);
                true
            }
            _ => false,
        }
    }
}

/// Has the member on this machine read its file, and tell us what of it is ours. Answers what the member says.
pub(crate) async fn ask_reload(socket: &Path) -> io::Result<serde_json::Value> {
    let mut asking = Asking::over(UnixStream::connect(socket).await?, None, String::new()).await?;
    let answer = tokio::time::timeout(PATIENCE, asking.ask(Method::POST, "/v1/reload", "null"));
    answer.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A connection to a member.
struct Asking {
    sender: http1::SendRequest<Full<Bytes>>,
    task: tokio::task::JoinHandle<hyper::Result<()>>,
    /// Who it is, if it is not the one on this machine.
    member: Option<SocketAddr>,
    /// The header `Authorization`, if there is to be one.
    authorization: String,
}

impl Asking {
    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        member: Option<SocketAddr>,
        authorization: String,
    ) -> io::Result<Asking> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Asking { sender, task: tokio::spawn(connection), member, authorization })
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
        let mut request = Request::builder().method(method).uri(path).header("host", "mainstay");
        request = request.header("content-type", "application/json");
        if !self.authorization.is_empty() {
            request = request.header("authorization", &self.authorization);
        }
        let body = Full::new(Bytes::from_static(body.as_bytes()));
        let request = request.body(body).map_err(io::Error::other)?;
        let response = self.sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body).into_owned();
            return Err(io::Error::other(format!("{status}: {text}")));
        }
        serde_json::from_slice(&body).map_err(io::Error::other)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}
