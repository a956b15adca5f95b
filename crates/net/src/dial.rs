//! One attempt to reach a peer: TCP, TLS, hello.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use mainstay_core::MemberId;
use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::endpoint::Endpoint;
use crate::fingerprint::KeyFingerprint;
use crate::frame::{self, FrameError, FrameReader, MAXIMUM_PAYLOAD};
use crate::hello::{Channel, Hello, MAXIMUM_HELLO, kind};
use crate::socket;
use crate::tls::{TlsError, WrongKey};

/// On a network between members a SYN is answered in milliseconds. While packets vanish, an attempt that waits
/// longer only delays the next one: the kernel itself would repeat the SYN after 1 s at the soonest.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// TLS and hello are two round trips, a few milliseconds of work at the peer, and its queue.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a peer was not reached. With its sources it makes the line that `status` shows.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{0} is not in the cluster's record")]
    NotInRecord(MemberId),
    #[error("TLS cannot be set up")]
    Setup(#[source] TlsError),
    #[error("cannot connect to {address}: see that Mainstay runs there and that no firewall is in between")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{address} did not answer within {} ms: see that the machine is up and reachable", .limit.as_millis())]
    TimedOut { address: SocketAddr, limit: Duration },
    #[error("what listens on {address} is not the member")]
    WrongKey { address: SocketAddr, source: WrongKey },
    #[error(
        "{address} does not accept this member's key: see that its fingerprint is in the cluster's record"
    )]
    KeyRefused { address: SocketAddr },
    #[error("no TLS connection to {address}: see that it is Mainstay that listens there")]
    Tls { address: SocketAddr, source: io::Error },
    #[error("{address} refused the connection: {reason}")]
    Refused { address: SocketAddr, reason: String },
    #[error("{address} has told this member to stop: {reason}")]
    LeftBehind { address: SocketAddr, reason: String },
    #[error("{address} broke off the hello")]
    Hello { address: SocketAddr, source: FrameError },
    #[error("{address} answered the hello with something else: run the same release on all members")]
    Confused { address: SocketAddr },
}

/// A connection over which the peer has said welcome.
pub(crate) struct Dialled {
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) frames: FrameReader,
    /// The key that the peer has proven to have.
    pub(crate) fingerprint: KeyFingerprint,
}

pub(crate) async fn dial(
    endpoint: &Endpoint,
    peer: &MemberId,
    address: SocketAddr,
    channel: Channel,
) -> Result<Dialled, DialError> {
    if endpoint.allowlist().fingerprints_of(peer).is_empty() {
        return Err(DialError::NotInRecord(peer.clone()));
    }
    let config = endpoint.client_config(peer).map_err(DialError::Setup)?;
    let timed_out = |limit| move |_| DialError::TimedOut { address, limit };

    let connecting =
        timeout(CONNECT_TIMEOUT, socket::connect(address)).await.map_err(timed_out(CONNECT_TIMEOUT))?;
    let stream = connecting.map_err(|source| DialError::Connect { address, source })?;
    let greeting = async {
        let name = ServerName::IpAddress(address.ip().into());
        let handshake = TlsConnector::from(config).connect(name, stream).await;
        let mut stream = handshake.map_err(|error| tls_error(address, error))?;
        // If the list has changed since it was judged, `revoked` sees it.
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let fingerprint = shown.and_then(|certificate| KeyFingerprint::of_certificate(certificate).ok());
        let fingerprint = fingerprint.ok_or_else(|| tls_error(address, io::ErrorKind::InvalidData.into()))?;
        let hello = Hello::new(endpoint.cluster(), endpoint.member(), channel);
        let frames = greet(&mut stream, &hello, address).await?;
        Ok(Dialled { stream, frames, fingerprint })
    };
    timeout(HELLO_TIMEOUT, greeting).await.map_err(timed_out(HELLO_TIMEOUT))?
}

async fn greet(
    stream: &mut TlsStream<TcpStream>,
    hello: &Hello,
    address: SocketAddr,
) -> Result<FrameReader, DialError> {
    let mut bytes = BytesMut::new();
    frame::append(&mut bytes, kind::HELLO, &[&hello.to_json()])
        .map_err(|source| DialError::Hello { address, source })?;
    let mut frames = FrameReader::new(MAXIMUM_HELLO);
    // In TLS 1.3 the listener judges our key only after our handshake is done: its verdict comes here, and it
    // may be there to be read when the listener is already gone and writing fails. So only reading decides.
    if stream.write_all(&bytes).await.is_ok() {
        let _ = stream.flush().await;
    }
    let answer = frames.read(stream, HELLO_TIMEOUT).await.map_err(|error| match error {
        FrameError::Io(error) => tls_error(address, error),
        source => DialError::Hello { address, source },
    })?;
    let answer = answer.ok_or(DialError::Hello { address, source: FrameError::Torn })?;
    match answer.kind {
        kind::WELCOME => {
            frames.set_maximum(MAXIMUM_PAYLOAD);
            Ok(frames)
        }
        kind::LEFT_BEHIND => Err(DialError::LeftBehind { address, reason: one_line(&answer.payload) }),
        kind::REFUSED => Err(DialError::Refused { address, reason: one_line(&answer.payload) }),
        _ => Err(DialError::Confused { address }),
    }
}

fn tls_error(address: SocketAddr, error: io::Error) -> DialError {
    if let Some(source) = WrongKey::within(&error) {
        return DialError::WrongKey { address, source };
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        // The alert that rustls makes of our verifier's verdict.
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateUnknown)) => {
            DialError::KeyRefused { address }
        }
        _ => DialError::Tls { address, source: error },
    }
}

/// A peer's text, fit for a log line: one line, no control characters, at most 500 characters.
pub(crate) fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}
