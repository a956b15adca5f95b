//! What a link has still to send, and the calls that wait for an answer.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::frame::{self, FrameError, HEADER, MAXIMUM_PAYLOAD};
use crate::hello::kind;
use crate::rpc::CallError;

/// Bounds of the queue. Raft sends some tens of messages in a second, so a full queue means a peer that
/// does not keep up; two frames of the greatest size fit.
pub(crate) const MAXIMUM_FRAMES: usize = 1024;
const MAXIMUM_BYTES: usize = 2 * MAXIMUM_PAYLOAD + 1024;

/// A message that waited longer is not worth sending: Raft has sent a newer one meanwhile, and when a
/// partition heals the new ones must not queue behind the old.
const MESSAGE_LIFE: Duration = Duration::from_secs(1);

/// How much goes into one write, unless a single frame is longer.
const BATCH_BYTES: usize = 256 * 1024;

/// Where in a frame the number of a call is.
const CALL_NUMBER: Range<usize> = HEADER..HEADER + size_of::<u64>();

type Answer = Result<Bytes, CallError>;

#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    work: Notify,
}

#[derive(Debug, Default)]
struct State {
    online: bool,
    queue: VecDeque<Queued>,
    /// Invariant: the length of all frames in `queue`.
    queued_bytes: usize,
    pending: HashMap<u64, oneshot::Sender<Answer>>,
    last_call: u64,
    dropped: u64,
}

#[derive(Debug)]
struct Queued {
    frame: BytesMut,
    /// The call that this frame asks; `None` for a message.
    call: Option<u64>,
    since: Instant,
}

impl Outbox {
    pub(crate) fn new() -> Outbox {
        Outbox { state: Mutex::default(), work: Notify::new() }
    }

    /// Nothing that holds the lock can panic half-way, so a poisoned state is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message, at the cost of the oldest ones if there is no room. It waits for a connection.
    pub(crate) fn push_message(&self, payload: &[u8]) -> Result<(), FrameError> {
        let mut frame = BytesMut::new();
        frame::append(&mut frame, kind::MESSAGE, &[payload])?;
        let mut state = self.lock();
        while !state.has_room_for(frame.len()) {
            state.pop();
            state.dropped += 1;
        }
        state.push(frame, None);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Queues a call, and tells its number and where its answer will arrive.
    pub(crate) fn push_call(
        &self,
        method: &str,
        body: &[u8],
    ) -> Result<(u64, oneshot::Receiver<Answer>), CallError> {
        let method_length = u8::try_from(method.len()).map_err(|_| {
            CallError::Refused(format!("the method's name has {} bytes, over 255", method.len()))
        })?;
        // Encoded before the lock is taken: it may be long. The number is filled in below.
        let mut frame = BytesMut::new();
        let parts =
            [&[0; CALL_NUMBER.end - CALL_NUMBER.start], &[method_length][..], method.as_bytes(), body];
        frame::append(&mut frame, kind::CALL, &parts)
            .map_err(|error| CallError::Refused(error.to_string()))?;
        let mut state = self.lock();
        if !state.online {
            return Err(CallError::NotConnected);
        }
        // The newest is refused here, since the older ones have callers that still wait.
        if !state.has_room_for(frame.len()) || state.pending.len() >= MAXIMUM_FRAMES {
            return Err(CallError::Refused("too many calls are waiting for this peer".to_owned()));
        }
        let (sender, receiver) = oneshot::channel();
        state.last_call += 1;
        let call = state.last_call;
        frame[CALL_NUMBER].copy_from_slice(&call.to_be_bytes());
        state.pending.insert(call, sender);
        state.push(frame, Some(call));
        drop(state);
        self.work.notify_one();
        Ok((call, receiver))
    }

    /// Hands an answer to its caller; late ones, which nobody waits for, are dropped.
    pub(crate) fn answer(&self, call: u64, answer: Answer) {
        let waiting = self.lock().pending.remove(&call);
        if let Some(sender) = waiting {
            let _ = sender.send(answer);
        }
    }

    /// The caller no longer waits.
    pub(crate) fn forget(&self, call: u64) {
        self.lock().pending.remove(&call);
    }

    pub(crate) fn set_online(&self) {
        self.lock().online = true;
        self.work.notify_one();
    }

    /// From here calls fail at once, and those under way end as closed. Messages may wait for the next connection.
    pub(crate) fn set_offline(&self) {
        let mut state = self.lock();
        state.online = false;
        let pending = std::mem::take(&mut state.pending);
        state.queue.retain(|queued| queued.call.is_none());
        state.queued_bytes = state.queue.iter().map(|queued| queued.frame.len()).sum();
        drop(state);
        // Dropping the senders tells the callers.
        drop(pending);
    }

    /// Waits until something may be there to be sent.
    pub(crate) async fn work(&self) {
        self.work.notified().await;
    }

    /// Moves frames into `batch`, except stale messages and calls that nobody waits for any more.
    pub(crate) fn take(&self, batch: &mut BytesMut) {
        let mut state = self.lock();
        while let Some(first) = state.queue.front() {
            if !batch.is_empty() && batch.len() + first.frame.len() > BATCH_BYTES {
                return;
            }
            let Some(queued) = state.pop_only() else { return };
            match queued.call {
                Some(call) if state.pending.contains_key(&call) => batch.unsplit(queued.frame),
                Some(_) => {}
                None if queued.since.elapsed() <= MESSAGE_LIFE => batch.unsplit(queued.frame),
                None => state.dropped += 1,
            }
        }
    }

    /// How many messages were dropped because of a full queue or their age.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().dropped
    }
}

impl State {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.queue.len() < MAXIMUM_FRAMES && self.queued_bytes + bytes <= MAXIMUM_BYTES
    }

    fn push(&mut self, frame: BytesMut, call: Option<u64>) {
        self.queued_bytes += frame.len();
        self.queue.push_back(Queued { frame, call, since: Instant::now() });
    }

    fn pop_only(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queued_bytes -= queued.frame.len();
        Some(queued)
    }

    /// Drops the oldest frame; a call's caller learns it as a closed connection.
    fn pop(&mut self) {
        if let Some(call) = self.pop_only().and_then(|queued| queued.call) {
            self.pending.remove(&call);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameReader;

    async fn taken(outbox: &Outbox) -> Vec<frame::Frame> {
        let mut batch = BytesMut::new();
        outbox.take(&mut batch);
        let mut frames = FrameReader::new(MAXIMUM_PAYLOAD);
        let mut bytes = &batch[..];
        let mut all = Vec::new();
        while let Some(frame) = frames.read(&mut bytes, Duration::from_secs(1)).await.unwrap() {
            all.push(frame);
        }
        all
    }

    #[tokio::test]
    async fn a_full_queue_drops_the_oldest_messages() {
        let outbox = Outbox::new();
        for number in 0..MAXIMUM_FRAMES + 10 {
            outbox.push_message(&number.to_be_bytes()).unwrap();
        }
        assert_eq!(outbox.dropped(), 10);
        let frames = taken(&outbox).await;
        assert_eq!(frames.len(), MAXIMUM_FRAMES);
        assert_eq!(frames[0].payload[..], 10_usize.to_be_bytes());
    }

    #[tokio::test]
    async fn the_queue_is_bounded_in_bytes_too() {
        let outbox = Outbox::new();
        let large = vec![0; MAXIMUM_PAYLOAD];
        for _ in 0..5 {
            outbox.push_message(&large).unwrap();
        }
        assert_eq!(outbox.dropped(), 3);
        assert!(outbox.push_message(&vec![0; MAXIMUM_PAYLOAD + 1]).is_err());
        assert_eq!(
            (taken(&outbox).await.len(), taken(&outbox).await.len(), taken(&outbox).await.len()),
            (1, 1, 0)
        );
        assert_eq!(outbox.lock().queued_bytes, 0);
    }

    #[tokio::test]
    async fn stale_messages_are_not_sent() {
        let outbox = Outbox::new();
        outbox.push_message(b"old").unwrap();
        outbox.lock().queue[0].since -= MESSAGE_LIFE + Duration::from_millis(1);
        outbox.push_message(b"new").unwrap();
        let frames = taken(&outbox).await;
        assert_eq!((frames.len(), &frames[0].payload[..], outbox.dropped()), (1, &b"new"[..], 1));
    }

    #[tokio::test]
    async fn calls_live_only_while_online_and_waited_for() {
        let outbox = Outbox::new();
        assert_eq!(outbox.push_call("m", b"").unwrap_err(), CallError::NotConnected);
        outbox.set_online();
        let (given_up, _receiver) = outbox.push_call("m", b"a").unwrap();
        let (answered, receiver) = outbox.push_call("m", b"b").unwrap();
        outbox.forget(given_up);
        let frames = taken(&outbox).await;
        assert_eq!(frames.len(), 1, "only the call that is waited for is sent");
        assert_eq!(frames[0].payload[..], [&answered.to_be_bytes()[..], b"\x01mb"].concat());
        outbox.answer(given_up, Ok(Bytes::new()));
        outbox.answer(answered, Ok(Bytes::from_static(b"yes")));
        assert_eq!(receiver.await.unwrap().unwrap(), "yes");

        let (_, mut receiver) = outbox.push_call("m", b"c").unwrap();
        outbox.push_message(b"stays").unwrap();
        outbox.set_offline();
        assert_eq!(receiver.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        assert_eq!(taken(&outbox).await.len(), 1);
        assert_eq!(outbox.lock().queued_bytes, 0);
    }

    #[tokio::test]
    async fn calls_are_bounded_by_refusing_the_newest() {
        let outbox = Outbox::new();
        outbox.set_online();
        let waiting: Vec<_> = (0..MAXIMUM_FRAMES).map(|_| outbox.push_call("m", b"").unwrap()).collect();
        assert!(matches!(outbox.push_call("m", b"").unwrap_err(), CallError::Refused(_)));
        assert_eq!(taken(&outbox).await.len(), waiting.len());
        assert!(matches!(outbox.push_call("m", b"").unwrap_err(), CallError::Refused(_)));
        outbox.answer(waiting[0].0, Ok(Bytes::new()));
        outbox.push_call("m", b"").unwrap();
        assert!(matches!(outbox.push_call(&"m".repeat(256), b"").unwrap_err(), CallError::Refused(_)));
    }
}
