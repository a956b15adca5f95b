//! Calls over a link, and how they are answered.
//!
//! The rpc channel answers with asynchronous handlers, many at a time. The lease channel answers with a plain
//! function straight from the reading task: a renewal must wait for nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use mainstay_core::MemberId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::error;

use crate::frame::{self, Frame, FrameError, FrameReader};
use crate::hello::kind;
use crate::incoming::{ConnectionError, Incoming, SILENCE};
use crate::link::Link;
use crate::outbox::Outbox;

/// Answers and pongs that wait to be written on one connection.
const ANSWER_QUEUE: usize = 64;

/// Why a call has no answer. Except after [`CallError::NotConnected`] it may have been carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("the link is down")]
    NotConnected,
    #[error("no answer came in time")]
    TimedOut,
    /// The peer's handler said no, or the call was too large or one too many.
    #[error("the call was refused: {0}")]
    Refused(String),
    #[error("the connection was lost before the answer came")]
    Closed,
}

impl Link {
    /// Calls a method of the peer, and waits for its answer for at most `timeout`. `method` has at most 255 bytes;
    /// body and answer have at most 16 MiB.
    ///
    /// It fails at once while the link is down. Giving up waiting is safe: a late answer is dropped. Works from any
    /// Tokio runtime.
    pub async fn call(&self, method: &str, body: &[u8], timeout: Duration) -> Result<Bytes, CallError> {
        let (call, answer) = self.outbox().push_call(method, body)?;
        let _waiting = Waiting { outbox: self.outbox(), call };
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallError::Closed),
            Err(_) => Err(CallError::TimedOut),
        }
    }
}

/// Forgets the call in whichever way the waiting ends.
struct Waiting<'a> {
    outbox: &'a Outbox,
    call: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.outbox.forget(self.call);
    }
}

/// Answers calls on the rpc channel.
pub trait CallHandler: Send + Sync + 'static {
    /// Answers one call. The error is for people and goes to the caller as [`CallError::Refused`].
    ///
    /// Calls run at the same time and are carried to their end also when the caller has gone.
    fn handle(
        &self,
        from: MemberId,
        method: &str,
        body: Bytes,
    ) -> impl Future<Output = Result<Vec<u8>, String>> + Send;
}

/// A handler with a limit on how many calls it carries out at once, over all connections. Cheap to clone.
#[derive(Debug)]
pub struct CallService<H> {
    handler: Arc<H>,
    permits: Arc<Semaphore>,
}

impl<H> Clone for CallService<H> {
    fn clone(&self) -> Self {
        CallService { handler: Arc::clone(&self.handler), permits: Arc::clone(&self.permits) }
    }
}

impl<H: CallHandler> CallService<H> {
    /// Calls over the limit are refused, so that a handler that hangs takes nothing else with it.
    pub fn new(handler: H, maximum_calls: usize) -> CallService<H> {
        CallService { handler: Arc::new(handler), permits: Arc::new(Semaphore::new(maximum_calls)) }
    }
}

impl Incoming {
    /// Serves the rpc channel until the peer closes the connection.
    pub async fn serve_calls<H: CallHandler>(self, service: &CallService<H>) -> Result<(), ConnectionError> {
        let Incoming { from, stream, frames, membership, permit: _permit, .. } = self;
        let (reader, writer) = tokio::io::split(stream);
        let (answers, queue) = mpsc::channel(ANSWER_QUEUE);
        tokio::select! {
            biased;
            () = membership.revoked() => Err(ConnectionError::Removed),
            ended = read_calls(service, &from, reader, frames, answers) => ended,
            ended = write_answers(writer, queue) => ended.map_err(|error| FrameError::Io(error).into()),
        }
    }

    /// Serves the lease channel until the peer closes the connection. `answer` must not block; the method's
    /// name is not looked at.
    pub async fn serve_lease(
        self,
        answer: impl Fn(&MemberId, &[u8]) -> Vec<u8>,
    ) -> Result<(), ConnectionError> {
        let from = self.from.clone();
        self.respond(|frame, answers| {
            let call = Call::read(frame)?;
            let text = answer(&from, &call.body);
            Ok(frame::append(answers, kind::ANSWER, &[&call.number.to_be_bytes(), &text])?)
        })
        .await
    }
}

/// A call as it arrived.
struct Call {
    number: u64,
    method: Bytes,
    body: Bytes,
}

impl Call {
    fn read(frame: Frame) -> Result<Call, ConnectionError> {
        if frame.kind != kind::CALL {
            return Err(ConnectionError::UnexpectedKind(frame.kind));
        }
        let malformed = ConnectionError::Malformed(frame.kind);
        let mut body = frame.payload;
        let (Ok(number), Ok(length)) = (body.try_get_u64(), body.try_get_u8()) else { return Err(malformed) };
        let length = usize::from(length);
        if body.len() < length {
            return Err(malformed);
        }
        let method = body.split_to(length);
        Ok(Call { number, method, body })
    }
}

async fn read_calls<H: CallHandler, R: AsyncRead + Unpin>(
    service: &CallService<H>,
    from: &MemberId,
    mut reader: R,
    mut frames: FrameReader,
    answers: mpsc::Sender<BytesMut>,
) -> Result<(), ConnectionError> {
    while let Some(frame) = frames.read(&mut reader, SILENCE).await? {
        if frame.kind == kind::PING {
            let mut pong = BytesMut::new();
            frame::append(&mut pong, kind::PONG, &[])?;
            // With a full queue the caller hears from us anyway.
            let _ = answers.try_send(pong);
            continue;
        }
        let call = Call::read(frame)?;
        match Arc::clone(&service.permits).try_acquire_owned() {
            Ok(permit) => {
                tokio::spawn(carry_out(service.clone(), from.clone(), call, permit, answers.clone()));
            }
            // Waiting for a permit here would leave the pings unanswered.
            Err(_) => {
                let _ = answers
                    .try_send(encode(call.number, Err("too many calls are being carried out".to_owned())));
            }
        }
    }
    Ok(())
}

async fn carry_out<H: CallHandler>(
    service: CallService<H>,
    from: MemberId,
    call: Call,
    permit: OwnedSemaphorePermit,
    answers: mpsc::Sender<BytesMut>,
) {
    let result = match std::str::from_utf8(&call.method) {
        Ok(method) => service.handler.handle(from, method, call.body).await,
        Err(_) => Err("the method's name is not UTF-8".to_owned()),
    };
    // It fails when the caller has gone. Until it is queued the answer counts against the limit, so that a
    // caller that reads nothing cannot make us pile up answers.
    let _ = answers.send(encode(call.number, result)).await;
    drop(permit);
}

fn encode(call: u64, result: Result<Vec<u8>, String>) -> BytesMut {
    let number = call.to_be_bytes();
    let mut bytes = BytesMut::new();
    let appended = match &result {
        Ok(answer) => frame::append(&mut bytes, kind::ANSWER, &[&number, answer]),
        Err(reason) => frame::append(&mut bytes, kind::FAILURE, &[&number, reason.as_bytes()]),
    };
    if let Err(reason) = appended {
        error!(%reason, "an answer to a call is too large to be sent");
        let reason = format!("the answer cannot be sent: {reason}");
        frame::append(&mut bytes, kind::FAILURE, &[&number, reason.as_bytes()]).expect("a short text fits");
    }
    bytes
}

/// Ends only with an error.
async fn write_answers<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut queue: mpsc::Receiver<BytesMut>,
) -> std::io::Result<()> {
    loop {
        // The other side of the select holds a sender, so the queue never ends before the connection.
        let Some(mut batch) = queue.recv().await else { return Ok(()) };
        while let Ok(more) = queue.try_recv() {
            batch.unsplit(more);
        }
        writer.write_all(&batch).await?;
        writer.flush().await?;
    }
}
