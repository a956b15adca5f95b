//! The listener: accepts connections, finds out who is there, and hands the members' connections on.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use mainstay_core::MemberId;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::{StartHandshake, TlsStream};
use tracing::{debug, warn};

use crate::dial::one_line;
use crate::endpoint::Endpoint;
use crate::fingerprint::KeyFingerprint;
use crate::frame::{self, FrameError, FrameReader, MAXIMUM_PAYLOAD};
use crate::hello::{Hello, MAXIMUM_HELLO, Refusal, kind};
use crate::incoming::{Incoming, Membership};
use crate::join::{self, Desk, Joins};
use crate::socket::{self, Socket};
use crate::tls::{TlsError, WrongKey};

/// From accepting to the answered hello. Members need some milliseconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections whose other end is not known yet. When there are more, the oldest has to go: a member's
/// handshake is over in milliseconds, so the oldest is somebody who dawdles, and who cannot lock members out.
const MAXIMUM_HANDSHAKES: usize = 64;

/// Connections of one member. Three are the rule; the rest is for half-open ones that were replaced. It keeps a
/// member that has gone wild from using up the descriptors that the others need.
const MAXIMUM_CONNECTIONS: usize = 32;

const BACKLOG: u32 = 1024;

/// How long accepting pauses when the process or the machine has run out of something, such as descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// At most one line about strangers in this time: anybody can make us write them.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Why this member cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{0} is in use by another process: end it, or give this member another port")]
    InUse(SocketAddr),
    #[error("this machine has no address {}: correct this member's address, or bring its interface up", .0.ip())]
    NoSuchAddress(SocketAddr),
    #[error("cannot listen on {address}")]
    Io { address: SocketAddr, source: io::Error },
}

/// A bound listener. Nothing is accepted before [`Server::run`].
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    listener: TcpListener,
    address: SocketAddr,
    joins: Option<join::Service>,
}

impl Server {
    pub(crate) fn bind(endpoint: Endpoint, address: SocketAddr) -> Result<Server, BindError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(address),
            io::ErrorKind::AddrNotAvailable => BindError::NoSuchAddress(address),
            _ => BindError::Io { address, source },
        };
        let socket = socket::new_socket(address).map_err(failed)?;
        // Connections of our predecessor that are still in TIME_WAIT do not keep us from the port.
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(address).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Server { endpoint, listener, address, joins: None })
    }

    /// The address listened on, with the port that the system chose if it was left open.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Answers machines that want to join, too. Without it they are strangers like all others.
    ///
    /// Fails if the CA of `joins` has not issued the certificate of this member.
    pub fn answer_joins(&mut self, joins: Joins) -> Result<(), TlsError> {
        self.joins = Some(join::Service::new(joins, &self.endpoint.identity())?);
        Ok(())
    }

    /// Accepts connections for ever, and gives each member's to `handler` in a task of its own.
    ///
    /// Dropping this future ends the listener and all those tasks; connections that the handler has detached
    /// live on where they were attached.
    pub async fn run<H, F>(self, handler: H)
    where
        H: Fn(Incoming) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let permits = Permits::default();
        let mut handshakes = JoinSet::new();
        let mut oldest_first = VecDeque::<AbortHandle>::new();
        let mut connections = JoinSet::new();
        let mut warnings = Warnings::default();
        let mut desk = Desk::new(self.joins);
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, address)) => {
                        make_room(&mut oldest_first);
                        let accepted = Instant::now();
                        let greeting = greet(self.endpoint.clone(), stream, address, permits.clone(), desk.is_open());
                        let greeting = async move { (address, accepted, limited(greeting).await) };
                        oldest_first.push_back(handshakes.spawn(greeting));
                    }
                    Err(error) if is_of_one_connection(&error) => debug!(%error, "a connection was gone at once"),
                    Err(error) => {
                        warnings.warn(&format!("cannot accept connections on {}: {error}", self.address));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(greeted) = handshakes.join_next() => match greeted {
                    Ok((_, _, Ok(Greeted::Member(incoming)))) => {
                        connections.spawn(handler(*incoming));
                    }
                    Ok((address, accepted, Ok(Greeted::Joining(start)))) => desk.admit(*start, address, accepted),
                    Ok((address, _, Err(error))) => error.log(address, &mut warnings),
                    Err(error) if error.is_panic() => warnings.warn(&format!("a handshake failed: {error}")),
                    Err(_) => {} // Made room for a newer one.
                },
                Some(()) = desk.served() => {}
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// Linux passes what befell a new connection on as an error of `accept`; the next one may be in order. After
/// anything else, most of all a lack of descriptors, trying again at once would only burn time.
fn is_of_one_connection(error: &io::Error) -> bool {
    use nix::errno::Errno::*;
    let errno = error.raw_os_error().map(nix::errno::Errno::from_raw);
    matches!(errno, Some(ECONNABORTED | EPROTO | EPERM | ENETDOWN | ENETUNREACH | EHOSTDOWN | EHOSTUNREACH))
}

/// Ends the oldest handshakes until there is room for one more.
fn make_room(oldest_first: &mut VecDeque<AbortHandle>) {
    oldest_first.retain(|handshake| !handshake.is_finished());
    while oldest_first.len() >= MAXIMUM_HANDSHAKES {
        if let Some(oldest) = oldest_first.pop_front() {
            oldest.abort();
        }
    }
}

/// Who has come.
enum Greeted {
    Member(Box<Incoming>),
    /// Nobody yet: a machine that wants to join, after its first words of TLS.
    Joining(Box<StartHandshake<Socket>>),
}

async fn limited(greeting: impl Future<Output = Result<Greeted, GreetError>>) -> Result<Greeted, GreetError> {
    timeout(HANDSHAKE_TIMEOUT, greeting).await.unwrap_or(Err(GreetError::TimedOut))
}

/// How many connections each member may still have.
#[derive(Clone, Default)]
struct Permits {
    of_members: Arc<Mutex<HashMap<MemberId, Arc<Semaphore>>>>,
}

impl Permits {
    fn acquire(&self, member: &MemberId) -> Option<OwnedSemaphorePermit> {
        let mut of_members = self.of_members.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(MAXIMUM_CONNECTIONS));
        Arc::clone(of_members.entry(member.clone()).or_insert_with(new)).try_acquire_owned().ok()
    }
}

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
enum GreetError {
    #[error("no hello within {} ms", HANDSHAKE_TIMEOUT.as_millis())]
    TimedOut,
    #[error("no TLS handshake")]
    Tls(#[source] io::Error),
    #[error(transparent)]
    WrongKey(WrongKey),
    #[error("no hello")]
    Frame(#[from] FrameError),
    #[error("refused {from}: {refusal}")]
    Refused { from: MemberId, refusal: Refusal },
    #[error("a member that the cluster has gone on without, with key {0}, came back and was told to stop")]
    LeftBehind(KeyFingerprint),
}

impl GreetError {
    /// A key or a hello that is not right is something that the operator has to put right. Port scanners and
    /// health checks are not.
    fn log(&self, address: SocketAddr, warnings: &mut Warnings) {
        match self {
            GreetError::WrongKey(_) | GreetError::Refused { .. } | GreetError::LeftBehind(_) => {
                warnings
                    .warn(&format!("connection from {address}: {}", one_line(self.to_string().as_bytes())));
            }
            _ => debug!(%address, error = %chain(self), "connection came to nothing"),
        }
    }
}

/// TLS, then the hello and its answer. What the client offers in its first words decides only whether it has come
/// to join; whoever does not say so has to show a member's key.
async fn greet(
    endpoint: Endpoint,
    stream: TcpStream,
    address: SocketAddr,
    permits: Permits,
    answers_joins: bool,
) -> Result<Greeted, GreetError> {
    socket::prepare(&stream).map_err(GreetError::Tls)?;
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), Socket::Attached(stream));
    let start = acceptor.await.map_err(GreetError::Tls)?;
    if answers_joins && join::is_join(&start) {
        return Ok(Greeted::Joining(Box::new(start)));
    }
    let mut stream = start.into_stream(endpoint.server_config()).await.map_err(handshake_error)?;
    let fingerprint = shown_key(&stream)?;
    if endpoint.allowlist().is_left_behind(fingerprint) {
        let reason = format!("{} has gone on without this member", endpoint.member());
        say(&mut stream, kind::LEFT_BEHIND, &reason).await?;
        stream.shutdown().await.map_err(FrameError::Io)?;
        return Err(GreetError::LeftBehind(fingerprint));
    }
    let from = endpoint.allowlist().member_of(fingerprint);
    let from = from.ok_or(GreetError::WrongKey(WrongKey::Unknown(fingerprint)))?;

    let mut frames = FrameReader::new(MAXIMUM_HELLO);
    let frame = frames.read(&mut stream, HANDSHAKE_TIMEOUT).await?.ok_or(FrameError::Torn)?;
    let hello = if frame.kind == kind::HELLO { &frame.payload[..] } else { &[] };
    let checked = Hello::check(hello, &from, endpoint.member(), endpoint.cluster());
    let accepted = checked.and_then(|channel| match permits.acquire(&from) {
        Some(permit) => Ok((channel, permit)),
        None => Err(Refusal::TooMany { listener: endpoint.member().clone(), limit: MAXIMUM_CONNECTIONS }),
    });
    let (channel, permit) = match accepted {
        Ok(accepted) => accepted,
        Err(refusal) => {
            say(&mut stream, kind::REFUSED, &one_line(refusal.to_string().as_bytes())).await?;
            // A clean end, so that the refusal is not lost in a reset.
            stream.shutdown().await.map_err(FrameError::Io)?;
            return Err(GreetError::Refused { from, refusal });
        }
    };
    say(&mut stream, kind::WELCOME, "").await?;
    frames.set_maximum(MAXIMUM_PAYLOAD);
    let membership =
        Membership { member: from.clone(), fingerprint, allowlist: endpoint.allowlist().clone() };
    let incoming = Incoming { from, address, channel, stream, frames, membership, permit };
    Ok(Greeted::Member(Box::new(incoming)))
}

/// The key that the handshake has proven. The list may have changed since: then it is nobody's.
fn shown_key(stream: &TlsStream<Socket>) -> Result<KeyFingerprint, GreetError> {
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let fingerprint = certificate.and_then(|certificate| KeyFingerprint::of_certificate(certificate).ok());
    fingerprint.ok_or(GreetError::Tls(io::ErrorKind::InvalidData.into()))
}

async fn say(stream: &mut TlsStream<Socket>, kind: u8, text: &str) -> Result<(), FrameError> {
    let mut bytes = BytesMut::new();
    frame::append(&mut bytes, kind, &[text.as_bytes()])?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(())
}

fn handshake_error(error: io::Error) -> GreetError {
    match WrongKey::within(&error) {
        Some(wrong) => GreetError::WrongKey(wrong),
        None => GreetError::Tls(error),
    }
}

/// An error with its sources, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Warnings that anybody who reaches the port can cause.
#[derive(Default)]
pub(crate) struct Warnings {
    last: Option<Instant>,
    kept_back: u64,
}

impl Warnings {
    pub(crate) fn warn(&mut self, text: &str) {
        if self.last.is_some_and(|last| last.elapsed() < WARNING_INTERVAL) {
            self.kept_back += 1;
            debug!("{text}");
            return;
        }
        let kept_back = std::mem::take(&mut self.kept_back);
        self.last = Some(Instant::now());
        match kept_back {
            0 => warn!("{text}"),
            _ => warn!("{text} (and {kept_back} such warnings before)"),
        }
    }
}
