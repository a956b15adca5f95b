//! How a machine that is no member yet talks to a cluster: one request and one answer, over a connection of its own.
//!
//! The connection comes to the members' port, marked by the ALPN protocol [`PROTOCOL`]. The machine shows no
//! certificate, and accepts any listener that holds a certificate which the cluster's CA has issued to a member; it
//! knows the CA's key from the token. What is asked and answered is the business of the handler that
//! [`Joins`] is made with; here it is bytes. Everything else on the port is as strict as ever (see [`crate::tls`]).
//!
//! A request is never sent twice by itself: once it may have reached the cluster, only the answer ends the matter.

mod answering;
mod token;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use answering::Joins;
pub(crate) use answering::{Desk, Service, is_join};
pub use token::{DEFAULT_PORT, Host, Invitation, JoinToken, TokenError};

use crate::dial::one_line;
use crate::fingerprint::KeyFingerprint;
use crate::frame::{self, FrameError, FrameReader};
use crate::hello::kind;
use crate::probe::{self, Reachability};
use crate::tls::{TlsError, WrongAuthority, joining};

/// The ALPN protocol of join connections. Another version of what is said there gets another number.
pub const PROTOCOL: &[u8] = b"mainstay-join/1";

/// The longest request, in bytes: a name, addresses, a certificate request and a token are a few kilobytes.
pub const MAXIMUM_REQUEST: usize = 64 * 1024;

/// The longest answer, in bytes: certificates and the cluster's configuration.
pub const MAXIMUM_ANSWER: usize = 1024 * 1024;

/// Before the next attempt when the listener hung up before the request was sent, as it does when many join.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// Why a request to join got no answer.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("the request to join has {0} bytes, over the limit of {MAXIMUM_REQUEST}")]
    TooLong(usize),
    #[error("TLS cannot be set up")]
    Setup(#[source] TlsError),
    #[error("cannot connect to {address}: {found}")]
    Unreachable { address: SocketAddr, found: Reachability },
    #[error("what listens on {address} is not a member of the cluster that the token is for")]
    NotThisCluster { address: SocketAddr, source: WrongAuthority },
    #[error(
        "no TLS connection for joining with {address}: see that it is Mainstay that listens there, in the same release"
    )]
    Tls { address: SocketAddr, source: io::Error },
    /// The request was not sent.
    #[error("{address} hung up before the request was sent: it may have too many to answer; try again")]
    HungUp { address: SocketAddr },
    #[error("{address} refused: {reason}")]
    Refused { address: SocketAddr, reason: String },
    /// The request may have been carried out all the same.
    #[error(
        "{address} was asked to let this machine in and gave no answer: look at `mainstay member list` there before another try"
    )]
    NoAnswer { address: SocketAddr },
}

/// Asks a member on behalf of a machine that is none, and returns the answer. `limit` is for everything together.
///
/// `authority` is the fingerprint of the key of the cluster's CA, from the token.
pub async fn ask(
    address: SocketAddr,
    authority: KeyFingerprint,
    request: &[u8],
    limit: Duration,
) -> Result<Vec<u8>, JoinError> {
    if request.len() > MAXIMUM_REQUEST {
        return Err(JoinError::TooLong(request.len()));
    }
    let deadline = Instant::now() + limit;
    let config = joining::client_config(authority).map_err(JoinError::Setup)?;
    let connector = TlsConnector::from(config);
    let stream = loop {
        match open(&connector, address, deadline).await {
            Err(JoinError::HungUp { .. }) if Instant::now() + BUSY_PAUSE < deadline => {
                sleep(BUSY_PAUSE).await
            }
            opened => break opened?,
        }
    };
    let asked = timeout_at(deadline, exchange(stream, address, request)).await;
    asked.unwrap_or(Err(JoinError::NoAnswer { address }))
}

async fn open(
    connector: &TlsConnector,
    address: SocketAddr,
    deadline: Instant,
) -> Result<TlsStream<TcpStream>, JoinError> {
    let connected = probe::connect(address, deadline.saturating_duration_since(Instant::now())).await;
    let stream = connected.map_err(|found| JoinError::Unreachable { address, found })?;
    let name = ServerName::IpAddress(address.ip().into());
    let handshake = timeout_at(deadline, connector.connect(name, stream)).await;
    let unanswered = |_| JoinError::Tls { address, source: io::ErrorKind::TimedOut.into() };
    let stream = handshake.map_err(unanswered)?.map_err(|error| handshake_error(address, error))?;
    // A listener that knows nothing of joining may shake hands and mean something else.
    if stream.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
        let source = io::Error::new(io::ErrorKind::Unsupported, "it does not speak the protocol for joining");
        return Err(JoinError::Tls { address, source });
    }
    Ok(stream)
}

fn handshake_error(address: SocketAddr, error: io::Error) -> JoinError {
    if let Some(source) = WrongAuthority::within(&error) {
        return JoinError::NotThisCluster { address, source };
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            JoinError::HungUp { address }
        }
        _ => JoinError::Tls { address, source: error },
    }
}

async fn exchange(
    mut stream: TlsStream<TcpStream>,
    address: SocketAddr,
    request: &[u8],
) -> Result<Vec<u8>, JoinError> {
    let no_answer = |_: FrameError| JoinError::NoAnswer { address };
    let mut bytes = BytesMut::new();
    frame::append(&mut bytes, kind::JOIN_REQUEST, &[request]).map_err(no_answer)?;
    // A refusal may be there to be read when writing fails. So only reading decides.
    if stream.write_all(&bytes).await.is_ok() {
        let _ = stream.flush().await;
    }
    let mut frames = FrameReader::new(MAXIMUM_ANSWER);
    // The caller's limit ends it.
    let answer = frames.read(&mut stream, Duration::MAX).await.map_err(no_answer)?;
    let answer = answer.ok_or(JoinError::NoAnswer { address })?;
    match answer.kind {
        kind::JOIN_ANSWER => Ok(answer.payload.to_vec()),
        kind::REFUSED => Err(JoinError::Refused { address, reason: one_line(&answer.payload) }),
        _ => Err(JoinError::NoAnswer { address }),
    }
}
