//! HTTP over the network: reading for everybody in plain text, everything over TLS for clients that the record knows.
//!
//! One port for both: the first byte of a connection tells TLS from HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use mainstay_core::record::{ClientProof, Operation, Record};
use mainstay_net::api::{ApiAcceptor, ClientCertificate, TLS_FIRST_BYTE, owner_of_token};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info};

use super::caller::Caller;
use super::clients::SQL_PROXY;
use super::{Control, Refuse, sql_roles, sql_routes};
use crate::configuration::Configuration;

/// Balancers and monitors open a handful; whoever opens more does not use up the member's descriptors.
const MOST_CONNECTIONS: usize = 512;
/// For the first byte, TLS and a request's head, each.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// When the process or the machine has run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is served over the network.
#[derive(Clone)]
pub(super) struct Remote {
    /// Over plain HTTP.
    plain: Router,
    /// Over TLS, each request checked by [`Gate`].
    secured: Router,
    files: Arc<Files>,
}

impl Remote {
    pub(super) fn new(
        plain: Router,
        private: Router,
        public_paths: Vec<&'static str>,
        control: &Control,
    ) -> Remote {
        let gate = Gate { record: control.seen.record.clone(), public_paths: Arc::new(public_paths) };
        Remote {
            plain,
            secured: private.layer(from_fn_with_state(gate, check)),
            files: Arc::new(Files::of(&control.configuration)),
        }
    }

    /// Accepts for ever.
    pub(super) async fn serve(self, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("never closed");
            match listener.accept().await {
                Ok((stream, from)) => {
                    let remote = self.clone();
                    tokio::spawn(async move {
                        remote.take(stream, from).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    debug!(%error, "no HTTP connection was accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn take(self, stream: TcpStream, from: SocketAddr) {
        let mut first = [0];
        let peeked = tokio::time::timeout(HEAD_PATIENCE, stream.peek(&mut first)).await;
        match peeked {
            Ok(Ok(1)) if first[0] == TLS_FIRST_BYTE => self.take_tls(stream, from).await,
            Ok(Ok(1)) => talk(stream, self.plain, None).await,
            _ => debug!(%from, "an HTTP connection without a request"),
        }
    }

    async fn take_tls(self, stream: TcpStream, from: SocketAddr) {
        let files = Arc::clone(&self.files);
        let acceptor = match crate::machinery::blocking(move || files.acceptor()).await {
            Ok(Ok(acceptor)) => acceptor,
            // A witness has no certificate for it. Anybody can make us say this, so it is not said loudly.
            Ok(Err(why)) => return debug!("the API is not offered over TLS: {why}"),
            Err(error) => return debug!(%error, "interrupted"),
        };
        match tokio::time::timeout(HEAD_PATIENCE, acceptor.accept(stream)).await {
            Ok(Ok((stream, certificate))) => {
                talk(stream, self.secured, Some(Peer { from, certificate })).await;
            }
            Ok(Err(error)) => debug!(%from, %error, "no TLS handshake for the API"),
            Err(_) => debug!(%from, "no TLS handshake for the API in time"),
        }
    }
}

/// The other end of a TLS connection.
#[derive(Clone, Copy)]
struct Peer {
    from: SocketAddr,
    certificate: Option<ClientCertificate>,
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, peer: Option<Peer>) {
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let router = TowerToHyperService::new(router.clone());
        async move { hyper::service::Service::call(&router, request).await as Result<Response, Infallible> }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "an HTTP connection ended");
    }
}

/// What the TLS side is made from. Read for each connection, so that a certificate that was renewed is shown at once.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
}

impl Files {
    fn of(configuration: &Configuration) -> Files {
        let tls = &configuration.tls;
        Files {
            certificate: tls.server_certificate.clone(),
            key: tls.server_key.clone(),
            authority: tls.authority.clone(),
        }
    }

    fn acceptor(&self) -> Result<ApiAcceptor, String> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        ApiAcceptor::new(&read(&self.certificate)?, &read(&self.key)?, &read(&self.authority)?)
            .map_err(|error| crate::machinery::failed(error).0)
    }
}

/// Lets in whom the record names.
#[derive(Clone)]
struct Gate {
    record: watch::Receiver<Arc<Record>>,
    /// What everybody may read, here as in plain text.
    public_paths: Arc<Vec<&'static str>>,
}

impl Gate {
    fn judge(&self, request: &Request) -> Result<Option<String>, Refuse> {
        let peer = request.extensions().get::<Peer>().copied();
        let certificate = peer.and_then(|peer| peer.certificate);
        let bearer = request.headers().get(header::AUTHORIZATION);
        let record = self.record.borrow().clone();
        match identify(&record.operation, certificate, bearer.map(|value| value.as_bytes())) {
            Ok(name) => Ok(Some(name)),
            Err(_) if self.is_public(request) => Ok(None),
            Err(refuse) => Err(refuse),
        }
    }

    fn is_public(&self, request: &Request) -> bool {
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
        reads && self.public_paths.contains(&request.uri().path())
    }
}

/// The client's name.
fn identify(
    operation: &Operation,
    certificate: Option<ClientCertificate>,
    authorization: Option<&[u8]>,
) -> Result<String, Refuse> {
    if let Some(authorization) = authorization {
        let word = std::str::from_utf8(authorization).ok().and_then(|text| text.split_once(' '));
        let Some((_, token)) = word.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
            return Err(Refuse::unauthorized("the Authorization header is not understood")
                .remedy("send: Authorization: Bearer TOKEN"));
        };
        let known = |of_proxies: bool| {
            operation.clients.iter().filter_map(move |(name, client)| match &client.proof {
                ClientProof::Token { sha256 } if name.starts_with(SQL_PROXY) == of_proxies => {
                    Some((name.as_str(), sha256.as_str()))
                }
                _ => None,
            })
        };
        let token = token.trim();
        let owner = owner_of_token(token, known(false))
            .or_else(|| owner_of_token(&format!("{SQL_PROXY}{token}"), known(true)));
        return owner.map(str::to_owned).ok_or_else(|| {
            Refuse::unauthorized("no client has this token, or not any more")
                .remedy("make another on a member's machine: mainstay client add NAME")
        });
    }
    let Some(certificate) = certificate else {
        return Err(Refuse::unauthorized("this needs a token or a client's certificate")
            .remedy("make one on a member's machine: mainstay client add NAME"));
    };
    let shown = certificate.key.to_string();
    let of_key = |client: &ClientProof| matches!(client, ClientProof::Certificate { key } if *key == shown);
    let owner = operation.clients.iter().find(|(_, client)| of_key(&client.proof));
    owner.map(|(name, _)| name.clone()).ok_or_else(|| {
        Refuse::forbidden(format!("the certificate is the cluster's, but no client has its key {shown}"))
            .remedy("see who has: mainstay client list")
    })
}

/// What a SQL proxy on another machine needs, and no more.
fn is_for_proxies(request: &Request) -> bool {
    request.method() == Method::GET && [sql_routes::PATH, sql_roles::PATH].contains(&request.uri().path())
}

async fn check(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let from = request.extensions().get::<Peer>().map(|peer| peer.from);
    let name = match gate.judge(&request) {
        Ok(name) => name,
        Err(refuse) => {
            debug!(?from, path = request.uri().path(), ?refuse, "refused");
            return refuse.into_response();
        }
    };
    if let Some(proxy) = name.as_deref().and_then(|name| name.strip_prefix(SQL_PROXY)) {
        let name = format!("SQL proxy {proxy}");
        if !is_for_proxies(&request) && !gate.is_public(&request) {
            debug!(?from, path = request.uri().path(), name, "refused");
            let refuse =
                Refuse::forbidden(format!("{name} may read the routes and who may log in, and nothing else"));
            return refuse.remedy("let somebody in for the rest: mainstay client add NAME").into_response();
        }
        request.extensions_mut().insert(ConnectInfo(Caller::SqlProxy { name }));
        return next.run(request).await;
    }
    let who = name.map_or_else(|| "nobody".to_owned(), |name| format!("client {name}"));
    if request.method() != Method::GET {
        info!(client = who, ?from, path = request.uri().path(), "asked over the network");
    }
    request.extensions_mut().insert(ConnectInfo(Caller::Client { name: who }));
    next.run(request).await
}

#[cfg(test)]
mod tests;
