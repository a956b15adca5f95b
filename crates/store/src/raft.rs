//! The store on Raft: handles, and the thread that they talk to.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use mainstay_consensus::{CreateError, Identity, Machine, MembershipChange, OpenError, Outgoing, Settings};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout_at;

use crate::disk::FileDisk;
use crate::store::{ProposeError, ReadError, Snapshot, Store};

mod requests;
mod runtime;

use requests::{Request, Ticket};

/// Messages that wait for the links; a full queue means that they do not keep up, and Raft repeats what matters.
const OUTGOING_QUEUE: usize = 1024;
/// Requests that wait for the thread. As many are only there when its disk hangs.
const REQUEST_QUEUE: usize = 4096;
/// Of them messages from peers: less, so that a hanging disk leaves room for requests of this process.
const MESSAGE_QUEUE: usize = 1024;

/// How this member takes part.
#[derive(Debug, Clone)]
pub struct RaftOptions {
    /// The consensus directory.
    pub directory: PathBuf,
    /// The cluster that it must belong to.
    pub cluster_id: String,
    /// Raft's times, and when the log is cut.
    pub settings: Settings,
    /// The length of a tick.
    pub tick: Duration,
}

impl RaftOptions {
    /// Ticks of 50 ms and [`Settings::default`].
    pub fn new(directory: PathBuf, cluster_id: String) -> Self {
        Self { directory, cluster_id, settings: Settings::default(), tick: Duration::from_millis(50) }
    }
}

/// Why the store did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be locked.
    #[error("cannot use the consensus directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no usable replica in the directory.
    #[error("cannot open the consensus directory {path}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The system gives no thread or no random number.
    #[error("cannot start the consensus thread")]
    Thread(#[source] io::Error),
}

/// Why a change of membership did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// It was not proposed.
    #[error(transparent)]
    Refused(mainstay_consensus::ProposeError),
    /// It was agreed upon and was not possible any more.
    #[error("the change of membership was not possible: {0}")]
    Rejected(String),
    /// This member does not take part. It was not proposed.
    #[error("the change of membership was not proposed: {0}")]
    Failed(String),
    /// It is unknown whether it happens; look at the members.
    #[error("no answer in time: it is unknown whether the membership changes")]
    TimedOut,
    /// The store has stopped.
    #[error("the store has stopped: it is unknown whether the membership changes")]
    Stopped,
}

/// Makes a consensus directory: the one explicit act that gives this member a vote. See
/// [`mainstay_consensus::create`] for `voters` and `learners`.
///
/// # Errors
/// Refuses when the directory holds a replica already.
pub fn create(
    directory: &Path,
    identity: &Identity,
    voters: &[u64],
    learners: &[u64],
) -> Result<(), CreateError> {
    FileDisk::create_directory(directory).map_err(CreateError::Disk)?;
    let mut disk = FileDisk::open(directory).map_err(CreateError::Disk)?;
    mainstay_consensus::create(&mut disk, identity, voters, learners)
}

/// Opens the consensus directory and starts the thread. `machine` is the machine's beginning. The messages that
/// come out of the receiver are for the links; what the links receive goes to [`RaftStore::step`].
///
/// # Errors
/// See [`StartError`].
pub fn start<M>(
    options: RaftOptions,
    machine: M,
) -> Result<(RaftStore<M>, mpsc::Receiver<Outgoing>), StartError>
where
    M: Machine + Clone + Send + Sync + 'static,
    M::Output: Send,
{
    let (requests, inbox) = std::sync::mpsc::sync_channel(REQUEST_QUEUE);
    let (outgoing, messages) = mpsc::channel(OUTGOING_QUEUE);
    let waiting = Arc::new(AtomicUsize::new(0));
    let ends = runtime::Ends { inbox, outgoing, waiting: Arc::clone(&waiting) };
    let (runtime, watch) = runtime::Runtime::open(options, machine, ends)?;
    std::thread::Builder::new()
        .name("consensus".to_owned())
        .spawn(|| runtime.run())
        .map_err(StartError::Thread)?;
    let ids = Ids { nonce: random().map_err(StartError::Thread)?, next: AtomicU64::new(0) };
    Ok((RaftStore { requests, watch, waiting, ids: Arc::new(ids) }, messages))
}

/// A handle of the store at this member. The thread ends with the last handle, or by [`RaftStore::stop`].
pub struct RaftStore<M: Machine> {
    requests: SyncSender<Request<M>>,
    watch: watch::Receiver<Arc<Snapshot<M>>>,
    /// Messages from peers that wait in `requests`.
    waiting: Arc<AtomicUsize>,
    ids: Arc<Ids>,
}

/// Ids of proposals: this start's random number, then a counter.
struct Ids {
    nonce: u64,
    next: AtomicU64,
}

impl<M: Machine> Clone for RaftStore<M> {
    fn clone(&self) -> Self {
        Self {
            requests: self.requests.clone(),
            watch: self.watch.clone(),
            waiting: Arc::clone(&self.waiting),
            ids: Arc::clone(&self.ids),
        }
    }
}

impl<M: Machine> RaftStore<M> {
    /// See [`Store::watch`].
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot<M>>> {
        self.watch.clone()
    }

    /// See [`Store::propose`]. On a follower the proposal goes to the leader; if the leader changes meanwhile it is proposed
    /// again, and still applied once.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, data: Vec<u8>, timeout: Duration) -> Result<M::Output, ProposeError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let (reply, answer) = oneshot::channel();
        let ticket = Ticket::new();
        let request = Request::Propose { id: self.id(), data, ticket: ticket.clone(), reply };
        match self.requests.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(ProposeError::Failed("the consensus thread does not keep up".to_owned()));
            }
            Err(TrySendError::Disconnected(_)) => {
                return Err(ProposeError::Failed("the store has stopped".to_owned()));
            }
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) if ticket.give_up() => Err(ProposeError::Failed("the store has stopped".to_owned())),
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) if ticket.give_up() => Err(ProposeError::NoLeader),
            Err(_) => Err(ProposeError::TimedOut),
        }
    }

    /// See [`Store::linearize`].
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn linearize(&self, timeout: Duration) -> Result<u64, ReadError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let (reply, answer) = oneshot::channel();
        match self.requests.try_send(Request::Read { reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(ReadError::Failed("the consensus thread does not keep up".to_owned()));
            }
            Err(TrySendError::Disconnected(_)) => return Err(ReadError::Stopped),
        }
        match timeout_at(deadline, answer).await {
            Ok(result) => result.unwrap_or(Err(ReadError::Stopped)),
            Err(_) => Err(ReadError::TimedOut),
        }
    }

    /// Takes a message that a link received from the member with this Raft id. Never blocks; when the thread does not
    /// keep up, the message is dropped, as a network may.
    pub fn step(&self, from: u64, bytes: Vec<u8>) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MESSAGE_QUEUE
            || self.requests.try_send(Request::Step { from, bytes }).is_err()
        {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Changes the members; only the leader takes it. Done when the change begins to hold here; a change of several
    /// members holds alone once `status.voters_outgoing` is empty.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn propose_membership(
        &self,
        changes: Vec<MembershipChange>,
        timeout: Duration,
    ) -> Result<(), MembershipError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let (reply, answer) = oneshot::channel();
        let request = Request::Membership { id: self.id(), changes, reply };
        if self.requests.try_send(request).is_err() {
            return Err(MembershipError::Stopped);
        }
        match timeout_at(deadline, answer).await {
            Ok(result) => result.unwrap_or(Err(MembershipError::Stopped)),
            Err(_) => Err(MembershipError::TimedOut),
        }
    }

    /// As leader: asks the member with this Raft id to lead. Whether it does shows in [`RaftStore::watch`].
    pub fn transfer_leader(&self, to: u64) {
        // Should the queue be full, leadership simply stays; the caller watches anyway.
        let _ = self.requests.try_send(Request::Transfer { to });
    }

    /// Ends the thread and waits until the directory is free.
    pub async fn stop(&self) {
        let mut watch = self.watch.clone();
        while let Err(TrySendError::Full(_)) = self.requests.try_send(Request::Stop) {
            if watch.changed().await.is_err() {
                return;
            }
        }
        while watch.changed().await.is_ok() {}
    }

    fn id(&self) -> u128 {
        (u128::from(self.ids.nonce) << 64) | u128::from(self.ids.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl<M> Store<M> for RaftStore<M>
where
    M: Machine + Clone + Send + Sync + 'static,
    M::Output: Send,
{
    fn watch(&self) -> watch::Receiver<Arc<Snapshot<M>>> {
        self.watch()
    }

    async fn propose(&self, data: Vec<u8>, timeout: Duration) -> Result<M::Output, ProposeError> {
        self.propose(data, timeout).await
    }

    async fn linearize(&self, timeout: Duration) -> Result<u64, ReadError> {
        self.linearize(timeout).await
    }
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
