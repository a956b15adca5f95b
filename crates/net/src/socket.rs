//! TCP sockets between members, and how one is carried from one runtime to another.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

/// An idle connection to a vanished machine is given up after 2 + 3 × 1 s, one with unacknowledged data after
/// 3 s. Both only back up the silence limits of `link` and `incoming`, which act sooner.
const KEEPALIVE_IDLE_S: u32 = 2;
const KEEPALIVE_INTERVAL_S: u32 = 1;
const KEEPALIVE_COUNT: u32 = 3;
const USER_TIMEOUT_MS: u32 = 3_000;

pub(crate) fn new_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// Sets what every connection between members needs. Before `connect` it bounds the connecting, too.
pub(crate) fn prepare<S: std::os::fd::AsFd>(socket: &S) -> io::Result<()> {
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(socket, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
    setsockopt(socket, sockopt::TcpUserTimeout, &USER_TIMEOUT_MS)?;
    Ok(())
}

pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = new_socket(address)?;
    prepare(&socket)?;
    socket.connect(address).await
}

/// A connection that can change runtimes. A Tokio socket belongs to the runtime that it was made in, and a
/// TLS stream cannot be taken apart and put together again; so the change happens beneath TLS.
#[derive(Debug)]
pub(crate) enum Socket {
    Attached(TcpStream),
    /// `None` after a failed change: the connection is lost.
    Detached(Option<std::net::TcpStream>),
}

impl Socket {
    pub(crate) fn detach(&mut self) -> io::Result<()> {
        match std::mem::replace(self, Socket::Detached(None)) {
            Socket::Attached(stream) => *self = Socket::Detached(Some(stream.into_std()?)),
            detached => *self = detached,
        }
        Ok(())
    }

    /// Panics outside a runtime's context; fails when no more sockets can be watched.
    pub(crate) fn attach(&mut self) -> io::Result<()> {
        match std::mem::replace(self, Socket::Detached(None)) {
            Socket::Detached(Some(stream)) => *self = Socket::Attached(TcpStream::from_std(stream)?),
            Socket::Detached(None) => return Err(detached()),
            attached => *self = attached,
        }
        Ok(())
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match self {
            Socket::Attached(stream) => Ok(Pin::new(stream)),
            Socket::Detached(_) => Err(detached()),
        }
    }
}

fn detached() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection is attached to no runtime")
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
