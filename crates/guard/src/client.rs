//! The member's side of the guard's socket.

pub(crate) mod armer;
mod children;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

pub use children::Child;

use crate::pidfd::PidFd;
use crate::protocol::{
    Cause, Event, Exit, Message, PID_NAME, PROTOCOL, Pid, Refusal, Reply, Request, RequestLine, Role,
    SOCKET_NAME, Start, Status, StopMode,
};

/// The guard answers within a millisecond; past this it is stopped or starved.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// For the requests that wait for a disk: a program that is read for the first time, files that are synced.
const DISK_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon a guard that is just starting is tried again.
const CONNECT_PAUSE: Duration = Duration::from_millis(5);
/// How soon a guard is started again that has ended at once, say because an earlier one was about to quit.
const SPAWN_PAUSE: Duration = Duration::from_millis(250);

/// Why a request to the guard came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the guard refused: {0}")]
    Refused(Refusal),
    #[error("the guard did not answer {request} within {timeout_ms} ms; it may or may not have done it")]
    Timeout { request: &'static str, timeout_ms: u64 },
    #[error("the connection to the guard ended")]
    Lost,
    #[error("the guard's answer to {request} is not understood; is it of another version?")]
    Answer { request: &'static str },
    #[error(
        "no guard answers in {directory} (process by its pid file: {pid:?}); look at its log, end a hanging one"
    )]
    NoGuard { directory: PathBuf, pid: Option<Pid>, source: io::Error },
    #[error("cannot start the guard {program}")]
    Spawn { program: PathBuf, source: io::Error },
    #[error("cannot watch the guard, process {pid}")]
    Watch { pid: Pid, source: io::Error },
    #[error("cannot look at the postmaster's children")]
    Children { source: io::Error },
}

/// What the guard, or its end, tells the member unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardEvent {
    /// The postmaster ended; the rest is being killed.
    Exited(Exit),
    /// Nothing is left of the server.
    Empty { cause: Cause, last_epoch_opened: Option<u64> },
    /// A newer member owns the guard: this one must go.
    Superseded { generation: u64 },
    /// The connection ended; no other event of it follows. The guard may well be alive and goes on with what is armed.
    Lost,
    /// The guard's process ended, and with it the postmaster. Backends may be left: see [`crate::kill_leftovers`].
    Died,
}

/// How a guard is started when none is there.
#[derive(Clone, Debug)]
pub struct SpawnGuard {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub log_file: PathBuf,
}

/// A member's connection to its guard. Clones share it; the last one that goes closes it.
#[derive(Clone, Debug)]
pub struct GuardClient {
    requests: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Arc<Mutex<Waiting>>,
    guard_pid: Pid,
}

#[derive(Debug, Default)]
struct Waiting {
    next_id: u64,
    answers: HashMap<u64, oneshot::Sender<Result<Reply, Refusal>>>,
    is_lost: bool,
}

type Events = mpsc::UnboundedReceiver<GuardEvent>;

impl GuardClient {
    /// Connects to the guard in `directory`, or starts one and connects to that, and says hello as `generation`. All of
    /// it takes at most `longest`.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with [`Refusal::OlderGeneration`] if a newer member is there; else there is no guard that
    /// answers and none could be started.
    pub async fn connect_or_spawn(
        directory: &Path,
        spawn: &SpawnGuard,
        generation: u64,
        longest: Duration,
    ) -> Result<(GuardClient, Events, Status), ClientError> {
        let give_up = Instant::now() + longest;
        let mut child: Option<std::process::Child> = None;
        let mut spawn_again = Instant::now();
        loop {
            let attempt = timeout_at(give_up, GuardClient::connect(directory, generation)).await;
            let error = match attempt {
                Ok(Ok(connected)) => {
                    reap_later(child);
                    return Ok(connected);
                }
                // There is a guard, and it has answered.
                Ok(Err(error @ (ClientError::Refused(_) | ClientError::Answer { .. }))) => {
                    reap_later(child);
                    return Err(error);
                }
                Ok(Err(error)) => error,
                Err(_) => no_guard(directory, io::ErrorKind::TimedOut.into()),
            };
            if Instant::now() >= give_up {
                reap_later(child);
                return Err(error);
            }
            if child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_)))) {
                child = None;
                spawn_again = Instant::now() + SPAWN_PAUSE;
            }
            let may_spawn = child.is_none() && Instant::now() >= spawn_again;
            if may_spawn && matches!(&error, ClientError::NoGuard { source, .. } if is_nobody(source)) {
                // If another guard is about to listen, ours sees its lock and quits, and we connect to that one.
                let spawned = crate::spawn(&spawn.program, &spawn.arguments, &spawn.log_file);
                child = Some(
                    spawned
                        .map_err(|source| ClientError::Spawn { program: spawn.program.clone(), source })?,
                );
            }
            sleep(CONNECT_PAUSE).await;
        }
    }

    /// Connects to a guard that is there.
    ///
    /// # Errors
    /// As for [`GuardClient::connect_or_spawn`].
    pub async fn connect(
        directory: &Path,
        generation: u64,
    ) -> Result<(GuardClient, Events, Status), ClientError> {
        let (stream, guard_pid) = open_stream(directory).await?;
        // Before hello: its answer then proves that the descriptor is of the guard and not of a later owner of the pid.
        let process =
            PidFd::open(guard_pid).map_err(|source| ClientError::Watch { pid: guard_pid, source })?;
        let process = process.ok_or(ClientError::Lost)?;
        let (requests, outgoing) = mpsc::unbounded_channel();
        let (events, event_receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let (reader, writer) = stream.into_split();
        tokio::spawn(write_requests(writer, outgoing));
        tokio::spawn(read_messages(reader, Arc::clone(&waiting), events.clone()));
        let client = GuardClient { requests, waiting, guard_pid };
        let hello = Request::Hello { protocol: PROTOCOL, generation, role: Role::Control };
        let Reply::Status(status) = client.call("hello", hello).await? else {
            return Err(ClientError::Answer { request: "hello" });
        };
        watch_for_death(process, events).map_err(|source| ClientError::Watch { pid: guard_pid, source })?;
        Ok((client, event_receiver, status))
    }

    /// The guard's process.
    pub fn guard_pid(&self) -> Pid {
        self.guard_pid
    }

    /// The whole state of the guard.
    pub async fn status(&self) -> Result<Status, ClientError> {
        match self.call("status", Request::Status).await? {
            Reply::Status(status) => Ok(status),
            _ => Err(ClientError::Answer { request: "status" }),
        }
    }

    /// Starts a server in the guard's data directory, as a standby; answers the postmaster's pid once it has become
    /// `postgres`. Refused unless nothing is left of the one before.
    pub async fn start(&self, start: Start) -> Result<Pid, ClientError> {
        match self.call("start", Request::Start(Box::new(start))).await? {
            Reply::Started { pid } => Ok(pid),
            _ => Err(ClientError::Answer { request: "start" }),
        }
    }

    /// Arms `epoch` until `deadline_ns` on `CLOCK_BOOTTIME`, or moves its deadline forward; answers the one that stands.
    pub async fn arm(&self, epoch: u64, deadline_ns: u64) -> Result<u64, ClientError> {
        match self.call("arm", Request::Arm { epoch, deadline_ns }).await? {
            Reply::Armed { deadline_ns } => Ok(deadline_ns),
            _ => Err(ClientError::Answer { request: "arm" }),
        }
    }

    /// Promotes the standby under `epoch`, which must be armed. `history_dummies` are the names of history files for the
    /// timeline numbers to skip. PostgreSQL must be so far that its startup process exists: at its start the postmaster
    /// removes an earlier promote file. It answers when PostgreSQL is told, not when it has done it.
    pub async fn open(&self, epoch: u64, history_dummies: Vec<String>) -> Result<(), ClientError> {
        self.done("open", Request::Open { epoch, history_dummies }).await
    }

    /// Asks PostgreSQL to stop, and kills it after `kill_after_ms`. True: nothing was there, and no event follows.
    pub async fn stop(&self, mode: StopMode, kill_after_ms: u64) -> Result<bool, ClientError> {
        self.ending("stop", Request::Stop { mode, kill_after_ms }).await
    }

    /// Kills the whole server at once. True: nothing was there, and no event follows.
    pub async fn kill(&self) -> Result<bool, ClientError> {
        self.ending("kill", Request::Kill).await
    }

    /// SIGHUP to the postmaster.
    pub async fn reload(&self) -> Result<(), ClientError> {
        self.done("reload", Request::Reload).await
    }

    /// SIGTERM to those of `pids` that are below the postmaster; answers which those were.
    pub async fn terminate(&self, pids: Vec<Pid>) -> Result<Vec<Pid>, ClientError> {
        match self.call("terminate", Request::Terminate { pids }).await? {
            Reply::Terminated { signalled } => Ok(signalled),
            _ => Err(ClientError::Answer { request: "terminate" }),
        }
    }

    /// Ends the guard, once nothing is left of the server; without `kill` only if nothing is there now.
    pub async fn quit(&self, kill: bool) -> Result<(), ClientError> {
        self.done("quit", Request::Quit { kill }).await
    }

    /// The postmaster's children with their titles; none while there is no postmaster.
    ///
    /// They are read in this process: reading a title waits for the process it is of, and the guard must not.
    pub async fn children(&self) -> Result<Vec<Child>, ClientError> {
        let Some(postmaster) = self.status().await?.postmaster else { return Ok(Vec::new()) };
        let reading = tokio::task::spawn_blocking(move || children::children_of(postmaster));
        match timeout(REQUEST_TIMEOUT, reading).await {
            Ok(Ok(read)) => read.map_err(|source| ClientError::Children { source }),
            Ok(Err(_)) => Err(ClientError::Children { source: io::ErrorKind::Interrupted.into() }),
            Err(_) => Err(timed_out("children", REQUEST_TIMEOUT)),
        }
    }

    async fn done(&self, name: &'static str, request: Request) -> Result<(), ClientError> {
        match self.call(name, request).await? {
            Reply::Done => Ok(()),
            _ => Err(ClientError::Answer { request: name }),
        }
    }

    async fn ending(&self, name: &'static str, request: Request) -> Result<bool, ClientError> {
        match self.call(name, request).await? {
            Reply::Ending { empty } => Ok(empty),
            _ => Err(ClientError::Answer { request: name }),
        }
    }

    async fn call(&self, name: &'static str, request: Request) -> Result<Reply, ClientError> {
        let longest = match request {
            Request::Start(_) | Request::Open { .. } => DISK_REQUEST_TIMEOUT,
            _ => REQUEST_TIMEOUT,
        };
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.is_lost {
                return Err(ClientError::Lost);
            }
            waiting.next_id += 1;
            let id = waiting.next_id;
            waiting.answers.insert(id, answer);
            id
        };
        self.requests.send(request_line(id, request)).map_err(|_| ClientError::Lost)?;
        match timeout(longest, answered).await {
            Ok(Ok(Ok(reply))) => Ok(reply),
            Ok(Ok(Err(refusal))) => Err(ClientError::Refused(refusal)),
            Ok(Err(_)) => Err(ClientError::Lost),
            Err(_) => {
                self.waiting.lock().unwrap_or_else(PoisonError::into_inner).answers.remove(&id);
                Err(timed_out(name, longest))
            }
        }
    }
}

pub(crate) fn request_line(id: u64, request: Request) -> Vec<u8> {
    let line = serde_json::to_vec(&RequestLine { id, request });
    let mut line = line.expect("requests hold numbers, text and lists only, which JSON can always say");
    line.push(b'\n');
    line
}

pub(crate) fn timed_out(request: &'static str, longest: Duration) -> ClientError {
    ClientError::Timeout { request, timeout_ms: longest.as_millis() as u64 }
}

/// Connects, and answers the guard's pid with the stream.
pub(crate) async fn open_stream(directory: &Path) -> Result<(UnixStream, Pid), ClientError> {
    let stream = UnixStream::connect(directory.join(SOCKET_NAME)).await;
    let stream = stream.map_err(|source| no_guard(directory, source))?;
    // Of a listening socket the kernel answers the process that called listen: the guard.
    let peer = stream.peer_cred().map_err(|source| no_guard(directory, source))?;
    let pid = peer.pid().ok_or(ClientError::Lost)?;
    Ok((stream, pid))
}

fn no_guard(directory: &Path, source: io::Error) -> ClientError {
    let pid = fs::read_to_string(directory.join(PID_NAME)).ok().and_then(|text| text.trim().parse().ok());
    ClientError::NoGuard { directory: directory.to_owned(), pid, source }
}

/// Nobody listens, as opposed to somebody who does not answer.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Waits for our child on a thread of its own, for as long as the guard lives: a zombie would look like a living guard to
/// a person. The thread sleeps in the kernel and goes with the member.
fn reap_later(child: Option<std::process::Child>) {
    if let Some(mut child) = child {
        let reaper = std::thread::Builder::new().name("guard-reaper".to_owned()).stack_size(64 * 1024);
        // Without the thread the zombie stays until the member ends.
        let _ = reaper.spawn(move || child.wait());
    }
}

async fn write_requests(mut writer: OwnedWriteHalf, mut outgoing: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(line) = outgoing.recv().await {
        if writer.write_all(&line).await.is_err() {
            // The reader sees the end too and tells everybody.
            return;
        }
    }
}

async fn read_messages(
    reader: OwnedReadHalf,
    waiting: Arc<Mutex<Waiting>>,
    events: mpsc::UnboundedSender<GuardEvent>,
) {
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let (id, answer) = match serde_json::from_str(&line) {
            Ok(Message::Reply { id, reply }) => (id, Ok(*reply)),
            Ok(Message::Refused { id, refusal }) => (id, Err(refusal)),
            Ok(Message::Event(event)) => {
                // Nobody may be listening; requests go on all the same.
                let _ = events.send(event.into());
                continue;
            }
            Err(error) => {
                tracing::warn!("a line of the guard is not understood: {error}");
                continue;
            }
        };
        let asked = waiting.lock().unwrap_or_else(PoisonError::into_inner).answers.remove(&id);
        if let Some(asked) = asked {
            let _ = asked.send(answer);
        }
    }
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.is_lost = true;
    waiting.answers.clear();
    let _ = events.send(GuardEvent::Lost);
}

fn watch_for_death(process: PidFd, events: mpsc::UnboundedSender<GuardEvent>) -> io::Result<()> {
    let process = process.watch()?;
    tokio::spawn(async move {
        tokio::select! {
            _ = process.readable() => { let _ = events.send(GuardEvent::Died); }
            () = events.closed() => {}
        }
    });
    Ok(())
}

impl From<Event> for GuardEvent {
    fn from(event: Event) -> GuardEvent {
        match event {
            Event::Exited(exit) => GuardEvent::Exited(exit),
            Event::Empty { cause, last_epoch_opened } => GuardEvent::Empty { cause, last_epoch_opened },
            Event::Superseded { generation } => GuardEvent::Superseded { generation },
        }
    }
}
