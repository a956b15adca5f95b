//! What the member and the guard say to each other: one JSON object per line over a Unix stream socket.
//!
//! A guard outlives the member that started it and may talk with a newer one, so this is a published format: a new field
//! needs a default, and anything that an old guard would misunderstand needs a new [`PROTOCOL`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The version of this protocol, said in `hello`.
pub const PROTOCOL: u32 = 1;

/// A process id as the kernel and PostgreSQL write it.
pub type Pid = i32;

/// The socket's name in the guard's directory.
pub(crate) const SOCKET_NAME: &str = "guard.sock";
pub(crate) const LOCK_NAME: &str = "guard.lock";
pub(crate) const PID_NAME: &str = "guard.pid";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RequestLine {
    pub(crate) id: u64,
    pub(crate) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    Hello { protocol: u32, generation: u64, role: Role },
    Start(Box<Start>),
    Arm { epoch: u64, deadline_ns: u64 },
    Open { epoch: u64, history_dummies: Vec<String> },
    Stop { mode: StopMode, kill_after_ms: u64 },
    Kill,
    Reload,
    Terminate { pids: Vec<Pid> },
    Status,
    Quit { kill: bool },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    Reply { id: u64, reply: Box<Reply> },
    Refused { id: u64, refusal: Refusal },
    Event(Event),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// To `hello` and `status`.
    Status(Status),
    Started {
        pid: Pid,
    },
    Armed {
        deadline_ns: u64,
    },
    /// To `stop` and `kill`. `empty`: there was nothing to end, and no event will follow.
    Ending {
        empty: bool,
    },
    Terminated {
        signalled: Vec<Pid>,
    },
    Done,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// All requests, and the events.
    Control,
    /// `arm` and `status` only and no events: renewals do not queue behind anything.
    Arm,
}

/// How PostgreSQL is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopMode {
    /// SIGINT: sessions are ended, a shutdown checkpoint is written and sent to the standbys.
    Fast,
}

/// A server to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The `postgres` program, absolute.
    pub program: PathBuf,
    /// Without the program's own name.
    pub arguments: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub environment: BTreeMap<String, String>,
    /// Standard output and error are appended to it. It is opened as `user` and made with mode 0600.
    pub log_file: PathBuf,
    /// Absent: the guard's own user.
    pub user: Option<RunAs>,
}

/// The user that PostgreSQL runs as, already looked up: the guard asks no directory service, since that can hang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
    /// All groups, as `initgroups` would set them.
    pub groups: Vec<u32>,
}

/// Where the guard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing is left of any server: one may be started, the data directory may be changed.
    Empty,
    /// Forked, not yet `postgres`.
    Starting,
    Running,
    /// Asked to stop; killed when its time is over.
    Stopping,
    /// Killed; something is left.
    Ending,
}

/// Why a server is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The postmaster ended by itself, or could not be started.
    Exited,
    /// `stop`, within its time.
    Stopped,
    /// `kill`, or `stop` past its time.
    Killed,
    /// The lease ran out.
    Deadline,
    /// It was left by an earlier guard.
    Leftovers,
}

/// How the postmaster ended: one of the two is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub pid: Pid,
    /// The exit code.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    Exited(Exit),
    Empty { cause: Cause, last_epoch_opened: Option<u64> },
    Superseded { generation: u64 },
}

/// The whole state of the guard, so that a member that missed an event misses nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub guard_pid: Pid,
    /// The newest generation seen.
    pub generation: Option<u64>,
    /// `CLOCK_BOOTTIME` in nanoseconds at the time of this answer.
    pub now_ns: u64,
    pub phase: Phase,
    pub postmaster: Option<Pid>,
    /// The newest epoch that was armed, also when it is void.
    pub armed: Option<ArmedStatus>,
    /// The epoch that the living server was opened under.
    pub opened: Option<u64>,
    pub last_epoch_opened: Option<u64>,
    /// How the last postmaster ended that had become one.
    pub last_exit: Option<Exit>,
    /// Why the guard is empty, when it is.
    pub last_cause: Option<Cause>,
    /// In phase `ending` only: what is still there.
    pub remaining: Vec<Remaining>,
    /// The cgroup that the server lives in. Absent: ended process by process.
    pub cgroup: Option<PathBuf>,
    /// Protections that the kernel denied, each with its remedy.
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmedStatus {
    pub epoch: u64,
    /// On `CLOCK_BOOTTIME`.
    pub deadline_ns: u64,
    /// The deadline has passed: this epoch opens nothing any more.
    pub void: bool,
}

/// A process that was killed and is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    pub pid: Pid,
    /// As in `/proc/PID/stat`; `D` waits for a device and dies when that answers.
    pub state: char,
}

/// Why the guard does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    #[error(
        "this guard speaks protocol {supported}, not {asked}; stop PostgreSQL and the guard, then start both anew"
    )]
    Protocol { asked: u32, supported: u32 },
    #[error("the first request on a connection must be hello, and only that")]
    Greeting,
    #[error("a member of generation {newest} owns this guard; generation {asked} is older and must exit")]
    OlderGeneration { asked: u64, newest: u64 },
    #[error("a connection of role arm may only arm and ask for the status")]
    Role,
    #[error("the request is not understood: {error}")]
    Malformed { error: String },
    #[error("something of a server is there (phase {phase:?}); wait for the event empty")]
    NotEmpty { phase: Phase },
    #[error("this guard is about to quit; start another when it is gone")]
    Quitting,
    #[error("no server is running")]
    NotRunning,
    #[error("epoch {asked} is older than epoch {newest}, which was armed already")]
    OlderEpoch { asked: u64, newest: u64 },
    #[error("epoch {epoch} ran out and is void; a newer epoch must be granted")]
    VoidEpoch { epoch: u64 },
    #[error("the server opened under epoch {opened} is still there; end it before epoch {asked} is armed")]
    OpenedUnderOlder { opened: u64, asked: u64 },
    #[error("the deadline {deadline_ns} ns has passed, it is {now_ns} ns since boot; ask for a newer grant")]
    DeadlinePassed { deadline_ns: u64, now_ns: u64 },
    #[error(
        "the deadline {deadline_ns} ns is more than an hour after {now_ns} ns since boot; is it on CLOCK_BOOTTIME?"
    )]
    DeadlineTooFar { deadline_ns: u64, now_ns: u64 },
    #[error("epoch {asked} is not armed (armed: {armed:?})")]
    NotArmed { asked: u64, armed: Option<u64> },
    #[error("a server was already opened under epoch {epoch}; each opening needs a new epoch")]
    AlreadyOpened { epoch: u64 },
    #[error("{path} is missing: the server would be writable without a lease; create it, then start")]
    NoStandbySignal { path: PathBuf },
    #[error("{name:?} is not the name of a timeline history file")]
    HistoryName { name: String },
    #[error("{path} is a real timeline history, not a placeholder; the timeline must be above it")]
    HistoryExists { path: PathBuf },
    #[error("cannot {step} {path}: {error}")]
    File { step: String, path: PathBuf, error: String },
    #[error("cannot start {program}: {step}: {error}")]
    StartFailed { program: PathBuf, step: String, error: String },
}

impl RunAs {
    /// Looks a user and all its groups up. It may ask a directory service and block: not for the renewal path.
    ///
    /// # Errors
    /// `NotFound` if there is no such user, else what the lookup answered.
    pub fn named(user: &str) -> std::io::Result<RunAs> {
        let not_found =
            || std::io::Error::new(std::io::ErrorKind::NotFound, format!("there is no user {user:?}"));
        let name = std::ffi::CString::new(user).map_err(|_| not_found())?;
        let found = nix::unistd::User::from_name(user)?.ok_or_else(not_found)?;
        let groups = nix::unistd::getgrouplist(&name, found.gid)?;
        Ok(RunAs {
            uid: found.uid.as_raw(),
            gid: found.gid.as_raw(),
            groups: groups.iter().map(|group| group.as_raw()).collect(),
        })
    }
}
