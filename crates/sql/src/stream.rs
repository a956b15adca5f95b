//! One socket, plain or encrypted, with what could not be written yet.

mod local;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub(crate) use local::LocalSocket;

/// The kinds of sockets on either side. Encrypted ones are boxed: most are not, and all idle ones are kept.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(LocalSocket),
    Accepted(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    Dialled(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Stream {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, &mut buffer),
            Stream::Unix(stream) => return stream.poll_read(context, buffer.initialize_unfilled()),
            Stream::Accepted(stream) => Pin::new(&mut **stream).poll_read(context, &mut buffer),
            Stream::Dialled(stream) => Pin::new(&mut **stream).poll_read(context, &mut buffer),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => stream.poll_write(context, bytes),
            Stream::Accepted(stream) => Pin::new(&mut **stream).poll_write(context, bytes),
            Stream::Dialled(stream) => Pin::new(&mut **stream).poll_write(context, bytes),
        }
    }

    /// What TLS has encrypted and not sent yet.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())),
            Stream::Accepted(stream) => Pin::new(&mut **stream).poll_flush(context),
            Stream::Dialled(stream) => Pin::new(&mut **stream).poll_flush(context),
        }
    }

    /// Whether a read may find something; if not, the task is woken when it may. What TLS holds back is not known without one.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        let ready = match self {
            Stream::Tcp(stream) => stream.poll_read_ready(context),
            Stream::Unix(stream) => return stream.poll_readable(context),
            Stream::Accepted(_) | Stream::Dialled(_) => return Poll::Ready(()),
        };
        ready.map(drop)
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
            Stream::Accepted(stream) => stream.get_ref().0.as_raw_fd(),
            Stream::Dialled(stream) => stream.get_ref().0.as_raw_fd(),
        }
    }

    /// Where the other side is, if it has an address.
    pub(crate) fn peer(&self) -> Option<IpAddr> {
        let address = match self {
            Stream::Tcp(stream) => stream.peer_addr(),
            Stream::Accepted(stream) => stream.get_ref().0.peer_addr(),
            Stream::Dialled(stream) => stream.get_ref().0.peer_addr(),
            Stream::Unix(_) => return None,
        };
        address.ok().map(|address| address.ip())
    }

    /// The common name of the certificate that the client has shown and that was verified; empty if it has none.
    pub(crate) fn client_name(&self) -> Option<String> {
        let Stream::Accepted(stream) = self else { return None };
        let certificate = stream.get_ref().1.peer_certificates()?.first()?;
        Some(mainstay_net::pki::common_name(certificate).unwrap_or_default())
    }

    /// What the client has named as what it speaks, in its handshake.
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        let Stream::Accepted(stream) = self else { return None };
        stream.get_ref().1.alpn_protocol()
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Stream::Accepted(_) | Stream::Dialled(_))
    }
}

/// A socket and its two buffers, which hold nothing, and take no memory, while nothing is under way.
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    /// What was read and is no whole message yet, or not to be looked at yet.
    pub(crate) rest: Vec<u8>,
    /// What is to be written, from `sent` on.
    pending: Vec<u8>,
    sent: usize,
    is_flushed: bool,
}

/// A buffer larger than this is given back when it is empty: one large value must not be paid for until the connection ends.
const KEPT_CAPACITY: usize = 4096;

impl Connection {
    pub(crate) fn new(stream: Stream) -> Connection {
        Connection { stream, rest: Vec::new(), pending: Vec::new(), sent: 0, is_flushed: true }
    }

    /// Reads into `buffer`. `Ok(0)` is the end.
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_read(context, buffer)
    }

    /// Whether a read may find something; if not, the task is woken when it may.
    #[inline]
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_readable(context)
    }

    /// Whether something waits until the other side reads.
    pub(crate) fn is_clogged(&self) -> bool {
        self.sent < self.pending.len() || !self.is_flushed
    }

    /// Writes what is pending.
    pub(crate) fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.pending.len() {
            let written = ready!(self.stream.poll_write(context, &self.pending[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.pending.clear();
        self.sent = 0;
        if self.pending.capacity() > KEPT_CAPACITY {
            self.pending = Vec::new();
        }
        if !self.is_flushed {
            ready!(self.stream.poll_flush(context))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes as much as can be written now and keeps the rest.
    pub(crate) fn send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.is_flushed = !self.stream.is_encrypted();
        let mut at = 0;
        if self.pending.is_empty() {
            while at < bytes.len() {
                match self.stream.poll_write(context, &bytes[at..])? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(written) => at += written,
                    Poll::Pending => break,
                }
            }
        }
        self.pending.extend_from_slice(&bytes[at..]);
        match self.poll_drain(context) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Keeps what is to be written, for [`Connection::flush`].
    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.is_flushed = false;
        self.pending.extend_from_slice(bytes);
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_drain(context)).await
    }

    /// Takes the next `total` bytes out of what was read, reading as much as is needed for it. For login and for the
    /// proxy's own questions, where nothing else is under way.
    pub(crate) async fn take(&mut self, total: usize) -> io::Result<Vec<u8>> {
        let mut chunk = [0; 2048];
        while self.rest.len() < total {
            let read = std::future::poll_fn(|context| self.stream.poll_read(context, &mut chunk)).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.rest.extend_from_slice(&chunk[..read]);
        }
        let taken = self.rest.drain(..total).collect();
        self.give_back();
        Ok(taken)
    }

    /// Waits until the other side has gone. What it says meanwhile is kept.
    pub(crate) async fn gone(&mut self) {
        let mut chunk = [0; 256];
        loop {
            match std::future::poll_fn(|context| self.stream.poll_read(context, &mut chunk)).await {
                Ok(read) if read > 0 && self.rest.len() < KEPT_CAPACITY => {
                    self.rest.extend_from_slice(&chunk[..read]);
                }
                _ => return,
            }
        }
    }

    /// Gives memory back that is not used.
    pub(crate) fn give_back(&mut self) {
        if self.rest.is_empty() && self.rest.capacity() > 0 {
            self.rest = Vec::new();
        }
    }
}
