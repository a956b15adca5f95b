//! Frames: a 4-byte big-endian length of the payload, one byte for its kind, the payload.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest payload between established peers: 16 MiB.
pub const MAXIMUM_PAYLOAD: usize = 16 * 1024 * 1024;

/// Length and kind.
pub(crate) const HEADER: usize = 5;

/// How much room is made for one read: TLS hands out records of at most this size. It is also all that a peer
/// can make us reserve by announcing a long frame: memory grows with the bytes that really arrive.
const READ_ROOM: usize = 16 * 1024;

/// One frame, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub payload: Bytes,
}

/// Why no frame could be read or written. After a read error the connection is of no more use,
/// except after [`FrameError::Silent`].
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {length} bytes is over the limit of {maximum} bytes")]
    TooLong { length: usize, maximum: usize },
    #[error("the connection ended in the middle of a frame")]
    Torn,
    #[error("nothing was received for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
}

/// Appends one frame to `buffer`; the payload is the concatenation of `parts`, at most [`MAXIMUM_PAYLOAD`] bytes.
pub fn append(buffer: &mut BytesMut, kind: u8, parts: &[&[u8]]) -> Result<(), FrameError> {
    let length = parts.iter().map(|part| part.len()).sum();
    if length > MAXIMUM_PAYLOAD {
        return Err(FrameError::TooLong { length, maximum: MAXIMUM_PAYLOAD });
    }
    buffer.reserve(HEADER + length);
    buffer.extend_from_slice(&u32::try_from(length).expect("the limit is below 4 GiB").to_be_bytes());
    buffer.extend_from_slice(&[kind]);
    parts.iter().for_each(|part| buffer.extend_from_slice(part));
    Ok(())
}

/// Cuts the bytes of a connection into frames.
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    maximum: usize,
}

impl FrameReader {
    /// Refuses payloads longer than `maximum` bytes.
    pub fn new(maximum: usize) -> FrameReader {
        FrameReader { buffer: BytesMut::new(), maximum }
    }

    /// Changes the limit, when a peer has proven who it is.
    pub fn set_maximum(&mut self, maximum: usize) {
        self.maximum = maximum;
    }

    /// The next frame that has arrived whole already.
    pub fn buffered(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [length @ .., kind] = *header;
        let length = u32::from_be_bytes(length) as usize;
        if length > self.maximum {
            return Err(FrameError::TooLong { length, maximum: self.maximum });
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Ok(Some(Frame { kind, payload: self.buffer.split_to(length).freeze() }))
    }

    fn end(&self) -> Result<Option<Frame>, FrameError> {
        if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Torn) }
    }

    /// The next frame; `None` when the peer has closed the connection between two frames.
    ///
    /// Fails with [`FrameError::Silent`] when not a single byte came for as long as `silence`; it may then be
    /// called again. Cancellation safe: what has arrived stays in the buffer.
    pub async fn read<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        silence: Duration,
    ) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_ROOM);
            let read = tokio::time::timeout(silence, reader.read_buf(&mut self.buffer)).await;
            match read.map_err(|_| FrameError::Silent(silence))? {
                Ok(1..) => {}
                // The latter is TLS without its goodbye, as from a process that was killed. Since every frame
                // tells its length, nothing can be cut off unnoticed.
                Ok(0) => return self.end(),
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return self.end(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
