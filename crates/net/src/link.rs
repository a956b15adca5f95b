//! A link keeps one connection to one peer for one channel, for as long as it lives.
//!
//! It notices a broken network by silence: it pings twice a second, and a peer that says nothing for 1.5 s is
//! dialled anew. Waiting for TCP instead would cost many seconds after a partition has healed, because TCP
//! doubles the time between its retransmissions; a new connection begins with short ones.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use mainstay_core::MemberId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

mod pace;

use self::pace::{Backoff, Patience};
use crate::dial::{DialError, Dialled, dial, one_line};
use crate::endpoint::Endpoint;
use crate::frame::{self, Frame, FrameError, FrameReader};
use crate::hello::{Channel, kind};
use crate::incoming::{ConnectionError, Membership};
use crate::outbox::Outbox;
use crate::rpc::CallError;
use crate::server::chain;

const PING_INTERVAL: Duration = Duration::from_millis(500);

/// Three pings unanswered.
const SILENCE: Duration = Duration::from_millis(1_500);

/// A connection that lasted this long was a good one: the next attempts start afresh.
const SETTLED: Duration = Duration::from_secs(1);

/// An attempt younger than this is not begun anew on a hint: hints may come in quick succession.
const YOUNG: Duration = Duration::from_millis(100);

/// At most one warning of an outage in this time, for a link that comes and goes.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A handle to a link; the last one dropped ends it.
#[derive(Clone, Debug)]
pub struct Link {
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    peer: MemberId,
    address: SocketAddr,
    channel: Channel,
    outbox: Outbox,
    hint: Notify,
    connected: watch::Sender<bool>,
    last_error: Mutex<Option<String>>,
}

/// A link at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    pub peer: MemberId,
    pub address: SocketAddr,
    pub channel: Channel,
    pub connected: bool,
    /// Why the newest connection ended, or why none came about; kept when the next attempt succeeds.
    pub last_error: Option<String>,
    /// Messages that were never sent: the queue was full, or they had waited too long.
    pub dropped: u64,
}

/// Why a link is down.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the connection to {address} was lost")]
    Lost { address: SocketAddr, source: ConnectionError },
    #[error("{0} closed the connection")]
    Closed(SocketAddr),
}

impl Link {
    pub(crate) fn start(endpoint: Endpoint, peer: MemberId, address: SocketAddr, channel: Channel) -> Link {
        let shared = Arc::new(Shared {
            endpoint,
            peer,
            address,
            channel,
            outbox: Outbox::new(),
            hint: Notify::new(),
            connected: watch::Sender::new(false),
            last_error: Mutex::default(),
        });
        let task = tokio::spawn(keep_connected(Arc::clone(&shared)));
        Link { shared, _task: Arc::new(Task(task)) }
    }

    /// Sends a message that wants no answer. It never waits: the message is queued, and when the queue is full
    /// (1,024 messages or 32 MiB) the oldest one is dropped. Messages that found no connection within
    /// 1 s are dropped as well. Fails only when the message is over 16 MiB.
    pub fn send(&self, message: &[u8]) -> Result<(), FrameError> {
        self.shared.outbox.push_message(message)
    }

    /// Tells the link that the peer is probably back, for example because it has just connected to us: the
    /// next attempt is made at once, instead of one that hangs or has not begun.
    pub fn peer_is_probably_back(&self) {
        self.shared.hint.notify_one();
    }

    pub fn peer(&self) -> &MemberId {
        &self.shared.peer
    }

    /// Whether the peer has said welcome, and all its changes.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.shared.connected.subscribe()
    }

    pub fn status(&self) -> LinkStatus {
        let shared = &self.shared;
        LinkStatus {
            peer: shared.peer.clone(),
            address: shared.address,
            channel: shared.channel,
            connected: *shared.connected.borrow(),
            last_error: shared.last_error().clone(),
            dropped: shared.outbox.dropped(),
        }
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.shared.outbox
    }
}

impl Shared {
    fn last_error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, error: &LinkError) {
        *self.last_error() = Some(chain(error));
    }

    fn set_connected(&self, connected: bool) {
        if connected {
            self.outbox.set_online();
        } else {
            self.outbox.set_offline();
        }
        self.connected.send_replace(connected);
    }
}

/// Says that the link is down, also when its task is aborted or its runtime ends.
struct Online<'a>(&'a Shared);

impl<'a> Online<'a> {
    fn new(shared: &'a Shared) -> Online<'a> {
        shared.set_connected(true);
        Online(shared)
    }
}

impl Drop for Online<'_> {
    fn drop(&mut self) {
        self.0.set_connected(false);
    }
}

async fn keep_connected(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    let mut reports = Reports::default();
    loop {
        let started = Instant::now();
        let error = match dial_or_hint(&shared, &mut backoff).await {
            Ok(dialled) => {
                reports.up(&shared);
                let error = carry(&shared, dialled).await;
                if started.elapsed() >= SETTLED {
                    backoff = Backoff::default();
                }
                error
            }
            Err(error) => {
                if let DialError::LeftBehind { reason, .. } = &error {
                    shared.endpoint.told_to_stop(&shared.peer, reason);
                }
                let error = error.into();
                shared.record(&error);
                error
            }
        };
        reports.down(&shared, &error);
        // Counted from the beginning of the attempt: one that has waited for its timeout has waited enough.
        tokio::select! {
            () = tokio::time::sleep_until(started + backoff.next_delay()) => {}
            () = shared.hint.notified() => backoff = Backoff::default(),
        }
    }
}

/// What the log says about a link: one line for each outage, not for each attempt, and not for each outage
/// either when they follow each other quickly.
#[derive(Debug, Default)]
struct Reports {
    said_up: Option<bool>,
    said_down_at: Option<Instant>,
}

impl Reports {
    fn up(&mut self, shared: &Shared) {
        if self.said_up != Some(true) {
            self.said_up = Some(true);
            info!(peer = %shared.peer, channel = %shared.channel, address = %shared.address, "link is up");
        }
    }

    fn down(&mut self, shared: &Shared, error: &LinkError) {
        let reason = chain(error);
        let recently = self.said_down_at.is_some_and(|at| at.elapsed() < REPORT_INTERVAL);
        if self.said_up == Some(false) || recently {
            debug!(peer = %shared.peer, channel = %shared.channel, %reason, "link is down");
            return;
        }
        self.said_up = Some(false);
        self.said_down_at = Some(Instant::now());
        warn!(peer = %shared.peer, channel = %shared.channel, %reason, "link is down");
    }
}

async fn dial_or_hint(shared: &Shared, backoff: &mut Backoff) -> Result<Dialled, DialError> {
    loop {
        let hint = async {
            tokio::time::sleep(YOUNG).await;
            shared.hint.notified().await;
        };
        tokio::select! {
            biased;
            dialled = dial(&shared.endpoint, &shared.peer, shared.address, shared.channel) => return dialled,
            () = hint => *backoff = Backoff::default(),
        }
    }
}

/// Uses a connection until it ends, and says why.
async fn carry(shared: &Shared, dialled: Dialled) -> LinkError {
    let membership = Membership {
        member: shared.peer.clone(),
        fingerprint: dialled.fingerprint,
        allowlist: shared.endpoint.allowlist().clone(),
    };
    let (reader, writer) = tokio::io::split(dialled.stream);
    let patience = Patience::new();
    let online = Online::new(shared);
    // Neither side is ever cancelled and begun again, so no frame is cut in two.
    let ended = tokio::select! {
        biased;
        () = membership.revoked() => Err(ConnectionError::Removed),
        ended = read_answers(&shared.outbox, reader, dialled.frames, &patience) => ended,
        ended = write_queue(&shared.outbox, writer, &patience) => ended.map_err(|error| FrameError::Io(error).into()),
    };
    let error = match ended {
        Ok(()) => LinkError::Closed(shared.address),
        Err(source) => LinkError::Lost { address: shared.address, source },
    };
    // Before anybody can see that the link is down.
    shared.record(&error);
    drop(online);
    error
}

async fn read_answers<R: AsyncRead + Unpin>(
    outbox: &Outbox,
    mut reader: R,
    mut frames: FrameReader,
    patience: &Patience,
) -> Result<(), ConnectionError> {
    loop {
        match frames.read(&mut reader, SILENCE).await {
            Ok(Some(frame)) => take_in(outbox, frame)?,
            Ok(None) => return Ok(()),
            Err(FrameError::Silent(_)) if patience.lasts() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn take_in(outbox: &Outbox, mut frame: Frame) -> Result<(), ConnectionError> {
    let kind = frame.kind;
    match kind {
        kind::PONG => {}
        kind::ANSWER | kind::FAILURE => {
            let call = frame.payload.try_get_u64().map_err(|_| ConnectionError::Malformed(kind))?;
            outbox.answer(
                call,
                match kind {
                    kind::ANSWER => Ok(frame.payload),
                    _ => Err(CallError::Refused(one_line(&frame.payload))),
                },
            );
        }
        other => return Err(ConnectionError::UnexpectedKind(other)),
    }
    Ok(())
}

/// Ends only with an error.
async fn write_queue<W: AsyncWrite + Unpin>(
    outbox: &Outbox,
    mut writer: W,
    patience: &Patience,
) -> std::io::Result<()> {
    let mut pings = tokio::time::interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut batch = BytesMut::new();
        tokio::select! {
            () = outbox.work() => {}
            _ = pings.tick() => frame::append(&mut batch, kind::PING, &[]).expect("it has no payload"),
        }
        loop {
            outbox.take(&mut batch);
            if batch.is_empty() {
                break;
            }
            patience.extend(batch.len());
            writer.write_all(&batch).await?;
            batch = BytesMut::new();
        }
        writer.flush().await?;
    }
}
