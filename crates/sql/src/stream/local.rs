//! A Unix socket that is woken when there is something to be read, and by nothing else.
//!
//! The kernel tells whoever waits on a Unix socket also that the other side has read: it can be written to again. tokio's own
//! type asks for both, so every query would wake us once for nothing, a third of all wakings. Here the word that it can be
//! written to is asked for while something could not be written.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) struct LocalSocket {
    socket: AsyncFd<UnixStream>,
    /// The same socket, while it is full.
    full: Option<AsyncFd<UnixStream>>,
}

impl LocalSocket {
    pub(crate) async fn connect(path: &Path) -> io::Result<LocalSocket> {
        let stream = tokio::net::UnixStream::connect(path).await?;
        let socket = watch(stream.into_std()?, Interest::READABLE)?;
        Ok(LocalSocket { socket, full: None })
    }

    pub(super) fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(context))?;
            let mut socket = self.socket.get_ref();
            match socket.read(buffer) {
                Ok(read) => {
                    // Less than there was room for is all that there was; what comes later wakes us again.
                    if 0 < read && read < buffer.len() {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_read_ready(context).map(drop)
    }

    pub(super) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut socket = self.socket.get_ref();
            match socket.write(bytes) {
                Ok(written) => {
                    self.full = None;
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Poll::Ready(Err(error)),
            }
            let full = match &self.full {
                Some(full) => full,
                None => {
                    let same = self.socket.get_ref().try_clone()?;
                    self.full.insert(watch(same, Interest::WRITABLE)?)
                }
            };
            // Told that it can be written to, and found that it cannot: to be told again.
            ready!(full.poll_write_ready(context))?.clear_ready();
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for types that do not own their descriptor, and std's socket does"
)]
fn watch(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(socket, interest)
}

impl AsRawFd for LocalSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
