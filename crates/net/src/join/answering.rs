//! The member's side: a few join connections at once, each bounded in everything that a stranger can stretch.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::server::{StartHandshake, TlsStream};
use tracing::debug;

use super::{MAXIMUM_ANSWER, MAXIMUM_REQUEST, PROTOCOL};
use crate::dial::one_line;
use crate::frame::{self, FrameError, FrameReader};
use crate::hello::kind;
use crate::server::{Warnings, chain};
use crate::socket::Socket;
use crate::tls::{Identity, TlsError, joining};

/// From accepting to the whole request. A machine that joins needs some milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A joining is a rare thing, done by hand. Members have connections of their own kind, so whoever fills these
/// places keeps no member out.
const MAXIMUM_JOINS: usize = 8;

/// Committing a new member takes a few round trips; while the cluster elects a leader, some seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Before each refusal. Nobody guesses 128 bits; it only keeps a program that tries from making work.
const REFUSAL_DELAY: Duration = Duration::from_millis(500);

/// For the other end to take the answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

type Answering = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send>>;
type Handler = Arc<dyn Fn(SocketAddr, Vec<u8>) -> Answering + Send + Sync>;

/// How this member answers machines that want to join. Give it to [`crate::Server::answer_joins`].
#[derive(Clone)]
pub struct Joins {
    authority_pem: String,
    handler: Handler,
    answer_within: Duration,
}

impl Joins {
    /// `authority_pem` is the certificate of the cluster's CA, which has issued the member's own certificate.
    ///
    /// `handler` gets the address that the machine is seen under and its request, at most [`MAXIMUM_REQUEST`] bytes
    /// that anybody may have written. It returns the answer, at most [`MAXIMUM_ANSWER`] bytes, or the reason for a
    /// refusal, which a person reads: one line without a secret. It runs to its end also when the other end has gone.
    pub fn new<H, F>(authority_pem: &str, handler: H) -> Joins
    where
        H: Fn(SocketAddr, Vec<u8>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Vec<u8>, String>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |address, request| Box::pin(handler(address, request)));
        Joins { authority_pem: authority_pem.to_owned(), handler, answer_within: ANSWER_TIMEOUT }
    }

    /// How long the handler may take, 30 s if this is not called. Then it is dropped, and the machine is told.
    pub fn answer_within(mut self, limit: Duration) -> Joins {
        self.answer_within = limit;
        self
    }
}

impl fmt::Debug for Joins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joins").field("answer_within", &self.answer_within).finish_non_exhaustive()
    }
}

/// Whether a client has come to join: it offers this protocol and no other.
pub(crate) fn is_join(start: &StartHandshake<Socket>) -> bool {
    let hello = start.client_hello();
    hello.alpn().is_some_and(|mut offered| offered.next() == Some(PROTOCOL) && offered.next().is_none())
}

/// Why a join connection ended without an answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no request within {} ms", REQUEST_TIMEOUT.as_millis())]
    TimedOut,
    #[error("no request")]
    NoRequest(#[source] FrameError),
    #[error("refused: {0}")]
    Refused(String),
    #[error("the answer did not arrive")]
    NotTaken(#[source] FrameError),
}

/// Whoever is being served at the moment.
pub(crate) struct Desk {
    service: Option<Service>,
    seats: Vec<Seat>,
    serving: JoinSet<(SocketAddr, Result<(), Failure>)>,
    warnings: Warnings,
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    joins: Joins,
    config: Arc<ServerConfig>,
}

impl Service {
    pub(crate) fn new(joins: Joins, identity: &Identity) -> Result<Service, TlsError> {
        let config = joining::server_config(identity, &joins.authority_pem)?;
        Ok(Service { joins, config })
    }
}

struct Seat {
    task: AbortHandle,
    /// Set as soon as the whole request is there.
    has_asked: Arc<AtomicBool>,
}

impl Desk {
    pub(crate) fn new(service: Option<Service>) -> Desk {
        Desk { service, seats: Vec::new(), serving: JoinSet::new(), warnings: Warnings::default() }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.service.is_some()
    }

    /// Serves one more, if there is a place for it; otherwise the connection is closed, and the machine tries again.
    pub(crate) fn admit(&mut self, start: StartHandshake<Socket>, address: SocketAddr, accepted: Instant) {
        let Some(service) = self.service.clone() else { return };
        if !self.make_room() {
            debug!(%address, "a join connection is turned away: {MAXIMUM_JOINS} are being answered");
            return;
        }
        let has_asked = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&has_asked);
        let serving = async move { (address, serve(service, start, address, accepted, &asked).await) };
        self.seats.push(Seat { task: self.serving.spawn(serving), has_asked });
    }

    /// Those who have not asked yet have to go first, the oldest of them before the others: it is who dawdles.
    fn make_room(&mut self) -> bool {
        self.seats.retain(|seat| !seat.task.is_finished());
        if self.seats.len() < MAXIMUM_JOINS {
            return true;
        }
        match self.seats.iter().position(|seat| !seat.has_asked.load(Ordering::Relaxed)) {
            Some(dawdler) => {
                self.seats.remove(dawdler).task.abort();
                true
            }
            None => false,
        }
    }

    /// Waits until one has been served; `None` if there is none at the moment.
    pub(crate) async fn served(&mut self) -> Option<()> {
        match self.serving.join_next().await? {
            Ok((address, Err(failure @ Failure::Refused(_)))) => {
                let text = one_line(failure.to_string().as_bytes());
                self.warnings.warn(&format!("a machine at {address} that wants to join was {text}"));
            }
            Ok((address, Err(failure))) => {
                debug!(%address, error = %chain(&failure), "a join connection came to nothing");
            }
            Ok((_, Ok(()))) => {}
            Err(error) if error.is_panic() => {
                self.warnings.warn(&format!("a join connection failed: {error}"))
            }
            Err(_) => {} // Made room for a newer one.
        }
        Some(())
    }
}

async fn serve(
    service: Service,
    start: StartHandshake<Socket>,
    address: SocketAddr,
    accepted: Instant,
    has_asked: &AtomicBool,
) -> Result<(), Failure> {
    let Service { joins, config } = service;
    let requested = timeout_at(accepted + REQUEST_TIMEOUT, read_request(start, config)).await;
    let (mut stream, request) = requested.unwrap_or(Err(Failure::TimedOut))?;
    has_asked.store(true, Ordering::Relaxed);
    let answer = match request {
        Some(request) => answer(&joins, address, request).await,
        None => Err("the first frame is no request to join: run the same release on all machines".to_owned()),
    };
    match answer {
        Ok(answer) => say(&mut stream, kind::JOIN_ANSWER, &answer).await,
        Err(reason) => {
            sleep(REFUSAL_DELAY).await;
            let reason = one_line(reason.as_bytes());
            say(&mut stream, kind::REFUSED, reason.as_bytes()).await?;
            Err(Failure::Refused(reason))
        }
    }
}

/// The request, or `None` if what came is something else.
async fn read_request(
    start: StartHandshake<Socket>,
    config: Arc<ServerConfig>,
) -> Result<(TlsStream<Socket>, Option<Vec<u8>>), Failure> {
    let handshake = start.into_stream(config).await;
    let mut stream = handshake.map_err(|error| Failure::NoRequest(FrameError::Io(error)))?;
    let frame = FrameReader::new(MAXIMUM_REQUEST).read(&mut stream, REQUEST_TIMEOUT).await;
    let frame = frame.and_then(|frame| frame.ok_or(FrameError::Torn)).map_err(Failure::NoRequest)?;
    Ok((stream, (frame.kind == kind::JOIN_REQUEST).then(|| frame.payload.to_vec())))
}

/// The handler's word. It runs in a task of its own, so that a panic ends neither this connection nor the listener.
async fn answer(joins: &Joins, address: SocketAddr, request: Vec<u8>) -> Result<Vec<u8>, String> {
    let handler = Arc::clone(&joins.handler);
    // A set, because it ends its task when this connection is ended.
    let mut task = JoinSet::new();
    task.spawn(async move { handler(address, request).await });
    match timeout(joins.answer_within, task.join_next()).await {
        Ok(Some(Ok(Ok(answer)))) if answer.len() > MAXIMUM_ANSWER => {
            Err(format!("the answer has {} bytes, over the limit of {MAXIMUM_ANSWER}", answer.len()))
        }
        Ok(Some(Ok(answer))) => answer,
        Ok(_) => Err("the member failed while it answered: its log says why".to_owned()),
        Err(_) => Err(format!(
            "the member found no answer within {} s: look at `mainstay status` there, and at the member list before another try",
            joins.answer_within.as_secs_f32()
        )),
    }
}

async fn say(stream: &mut TlsStream<Socket>, kind: u8, payload: &[u8]) -> Result<(), Failure> {
    let saying = async {
        let mut bytes = BytesMut::new();
        frame::append(&mut bytes, kind, &[payload])?;
        stream.write_all(&bytes).await?;
        // A clean end, so that what was said is not lost in a reset.
        stream.shutdown().await?;
        Ok(())
    };
    timeout(WRITE_TIMEOUT, saying)
        .await
        .unwrap_or(Err(FrameError::Silent(WRITE_TIMEOUT)))
        .map_err(Failure::NotTaken)
}
