//! A connection that a peer has made to us, after its key and its hello were accepted.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstay_core::MemberId;
use tokio::io::AsyncWriteExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;

use crate::fingerprint::KeyFingerprint;
use crate::frame::{self, Frame, FrameError, FrameReader};
use crate::hello::{Channel, kind};
use crate::socket::Socket;
use crate::tls::Allowlist;

/// Callers ping twice a second. One that is silent for this long has gone, and has connected anew if it could.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);

/// Why a connection ended, other than by the peer's closing it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("the member's key was removed from the cluster's record, or changed there")]
    Removed,
    #[error("a frame of kind {0} has no place on this channel")]
    UnexpectedKind(u8),
    #[error("a frame of kind {0} cannot be read")]
    Malformed(u8),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// An accepted connection. Hand it to the `serve_…` function of its channel; dropping it closes it.
///
/// Whichever serves it, it is closed at once when the peer's key leaves the allowlist.
#[derive(Debug)]
pub struct Incoming {
    pub(crate) from: MemberId,
    pub(crate) address: SocketAddr,
    pub(crate) channel: Channel,
    pub(crate) stream: TlsStream<Socket>,
    pub(crate) frames: FrameReader,
    pub(crate) membership: Membership,
    /// Counts this connection against its member's limit for as long as it lives.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// The key by which a peer was let in, and the list that must keep it.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) member: MemberId,
    pub(crate) fingerprint: KeyFingerprint,
    pub(crate) allowlist: Allowlist,
}

impl Membership {
    pub(crate) async fn revoked(&self) {
        self.allowlist.revoked(&self.member, self.fingerprint).await;
    }
}

/// A connection on its way to another runtime.
#[derive(Debug)]
pub struct Detached(Incoming);

impl Detached {
    /// Takes the connection into the current Tokio runtime; panics outside one.
    pub fn attach(mut self) -> io::Result<Incoming> {
        self.0.stream.get_mut().0.attach()?;
        Ok(self.0)
    }
}

impl Incoming {
    /// The peer that its key has named.
    pub fn from(&self) -> &MemberId {
        &self.from
    }

    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// The peer's address, as TCP has it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Frees the connection from the listener's runtime, to be served in another one.
    pub fn detach(mut self) -> io::Result<Detached> {
        self.stream.get_mut().0.detach()?;
        Ok(Detached(self))
    }

    /// Serves the raft channel: gives every message to `deliver`, which must not block, until the peer closes
    /// the connection.
    pub async fn serve_messages(self, mut deliver: impl FnMut(Bytes)) -> Result<(), ConnectionError> {
        self.respond(move |frame, _| match frame.kind {
            kind::MESSAGE => {
                deliver(frame.payload);
                Ok(())
            }
            other => Err(ConnectionError::UnexpectedKind(other)),
        })
        .await
    }

    /// Reads frames and answers each from the reading task itself: `on_frame` appends its answer, if any.
    /// Pings are answered here.
    pub(crate) async fn respond(
        mut self,
        on_frame: impl FnMut(Frame, &mut BytesMut) -> Result<(), ConnectionError>,
    ) -> Result<(), ConnectionError> {
        tokio::select! {
            biased;
            () = self.membership.revoked() => Err(ConnectionError::Removed),
            result = respond_until_closed(&mut self.stream, &mut self.frames, on_frame) => result,
        }
    }
}

async fn respond_until_closed(
    stream: &mut TlsStream<Socket>,
    frames: &mut FrameReader,
    mut on_frame: impl FnMut(Frame, &mut BytesMut) -> Result<(), ConnectionError>,
) -> Result<(), ConnectionError> {
    let mut answers = BytesMut::new();
    while let Some(frame) = frames.read(stream, SILENCE).await? {
        let mut next = Some(frame);
        // Frames that came together are answered together, with one write.
        while let Some(frame) = next {
            match frame.kind {
                kind::PING => frame::append(&mut answers, kind::PONG, &[])?,
                _ => on_frame(frame, &mut answers)?,
            }
            next = frames.buffered()?;
        }
        if !answers.is_empty() {
            stream.write_all(&answers).await.map_err(FrameError::Io)?;
            stream.flush().await.map_err(FrameError::Io)?;
            answers.clear();
        }
    }
    Ok(())
}
