//! What every piece of work on the local server needs, and the few steps that they share.

mod parameters;
mod postmaster;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_core::record::{Kind, Record};
use mainstay_core::sync::{SyncSet, Voter};
use mainstay_core::{Epoch, Incarnation, MemberId};
use mainstay_guard::{GuardClient, RunAs, Start};
use mainstay_postgres::configuration::{self, StreamFrom};
use mainstay_postgres::layout::Layout;
use mainstay_postgres::session::{self, Server, Session, SessionError};
use mainstay_postgres::tools::Tools;
use mainstay_postgres::upstream::{Upstream, application_name, slot_name};
use mainstay_store::RaftStore;
use tokio::sync::{mpsc, watch};

pub(crate) use postmaster::Postmaster;

use crate::clock;
use crate::configuration::Configuration;
use crate::guard_link::GuardState;
use crate::handing_over::HandingOver;
use crate::own_key::OwnKey;
use crate::progress::Headway;
use crate::promise::Promises;
use crate::record_machine::RecordMachine;
use crate::roster::Roster;
use crate::sql_proxy::SqlProxy;
use crate::vip::Addresses;

pub(crate) use parameters::{Accepted, FIRST, FilePart, merged};

/// A statement of ours that takes longer has hung.
pub(crate) const STATEMENT_PATIENCE: Duration = Duration::from_secs(5);
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// How often something that changes within milliseconds is looked at.
pub(crate) const QUICK_LOOK: Duration = Duration::from_millis(3);

/// Counts the configurations written: a fresh connection that shows the number proves that the postmaster has read it,
/// and `pg_hba.conf` with it.
const GENERATION: &str = "mainstay.generation";

/// Why a piece of work failed: a sentence for people. What follows is decided from the facts alone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WorkError(pub(crate) String);

/// Turns any error into a sentence with all its causes.
pub(crate) fn failed(error: impl std::error::Error) -> WorkError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    WorkError(text)
}

pub(crate) struct Machinery {
    pub(crate) configuration: Configuration,
    /// PostgreSQL's programs; a witness has none.
    tools: Option<Tools>,
    pub(crate) layout: Layout,
    pub(crate) server: Server,
    pub(crate) promises: Promises,
    pub(crate) guard: watch::Receiver<GuardState>,
    /// Asks the guard's state to be read at once.
    pub(crate) poke_guard: mpsc::Sender<()>,
    pub(crate) record: watch::Receiver<Arc<Record>>,
    pub(crate) roster: watch::Receiver<Arc<Roster>>,
    /// Of the data directory as it was last looked at; `None` if it is not whole.
    pub(crate) incarnation: watch::Receiver<Option<Incarnation>>,
    pub(crate) progress: Headway,
    pub(crate) handing_over: HandingOver,
    pub(crate) sql_proxy: SqlProxy,
    pub(crate) vip: Addresses,
    pub(crate) own_key: Arc<OwnKey>,
    generation: AtomicU64,
    /// The newest generation that a piece of work has written; those that change parameters alone are not counted.
    work_generation: AtomicU64,
    /// How often the primary verifies the cluster, as the member's file says.
    pub(crate) verify_every: watch::Sender<Option<Duration>>,
    wanted: parameters::WantedParameters,
    store: RaftStore<RecordMachine>,
    /// Two lanes write PostgreSQL's files, and what is called off may still be writing: one at a time, in order.
    files: Arc<tokio::sync::Mutex<()>>,
    /// What people should know from work that nothing is decided on, by its subject.
    notes: Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>,
}

/// How long a majority may take to confirm the record.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);
/// A recovery that shows no progress for so long is stuck, or its postmaster is stopped.
const READY_PATIENCE: Duration = Duration::from_secs(60);

impl Machinery {
    #[allow(clippy::too_many_arguments, reason = "made once, in one place")]
    pub(crate) fn new(
        configuration: Configuration,
        tools: Option<Tools>,
        layout: Layout,
        promises: Promises,
        guard: watch::Receiver<GuardState>,
        poke_guard: mpsc::Sender<()>,
        record: watch::Receiver<Arc<Record>>,
        roster: watch::Receiver<Arc<Roster>>,
        incarnation: watch::Receiver<Option<Incarnation>>,
        store: RaftStore<RecordMachine>,
        own_key: OwnKey,
    ) -> Machinery {
        let server = Server::new(&layout, port(&configuration));
        let wanted = parameters::WantedParameters::new(&configuration, &layout);
        // Boot time goes on over restarts of this process, so no number is given twice to one postmaster.
        let generation = AtomicU64::new(clock::now().0 / 1_000_000);
        let verify_every = watch::Sender::new(configuration.verify_every);
        Machinery {
            configuration,
            tools,
            layout,
            server,
            promises,
            guard,
            poke_guard,
            record,
            roster,
            incarnation,
            progress: Headway::default(),
            handing_over: HandingOver::default(),
            sql_proxy: SqlProxy::default(),
            vip: Addresses::default(),
            own_key: Arc::new(own_key),
            generation,
            work_generation: AtomicU64::new(0),
            verify_every,
            wanted,
            store,
            files: Arc::default(),
            notes: Arc::default(),
        }
    }

    /// Reads the record once more, so that a majority has confirmed it, and fails if this directory is one of the voters of its
    /// sync set or another epoch has begun: what it holds may be the proof of an acknowledged commit.
    pub(crate) async fn is_replaceable(&self, epoch: Epoch) -> Result<(), WorkError> {
        self.store.linearize(RECORD_PATIENCE).await.map_err(failed)?;
        let record = Arc::clone(&self.store.watch().borrow().machine.record);
        if record.epoch != epoch {
            return Err(WorkError(format!("epoch {epoch} is not the newest any more")));
        }
        let own = *self.incarnation.borrow();
        let votes = |voter: &Voter| voter.member == *self.me() && Some(voter.incarnation) == own;
        match record.sync() {
            Some(sync) if sync.voters.iter().any(votes) => {
                Err(WorkError("as a voter of the sync set this directory is not replaced".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Held while a file that two tasks write is written.
    pub(crate) async fn one_writer(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.files).lock_owned().await
    }

    /// Writes one of PostgreSQL's files, after everything that writes one already.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        let files = self.one_writer().await;
        blocking(move || {
            let _files = files;
            write()
        })
        .await
    }

    pub(crate) fn tools(&self) -> Result<&Tools, WorkError> {
        self.tools.as_ref().ok_or_else(|| WorkError("a witness runs no PostgreSQL".to_owned()))
    }

    /// Replaces the warnings of `subject`.
    pub(crate) fn note(&self, subject: &'static str, warnings: Vec<String>) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).insert(subject, warnings);
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect()
    }

    pub(crate) fn me(&self) -> &MemberId {
        &self.configuration.me
    }

    pub(crate) fn incarnation(&self) -> Result<Incarnation, WorkError> {
        self.incarnation.borrow().ok_or_else(|| WorkError("the data directory is not whole".to_owned()))
    }

    pub(crate) fn guard(&self) -> Result<GuardClient, WorkError> {
        self.guard.borrow().client.clone().ok_or_else(|| WorkError("there is no guard".to_owned()))
    }

    pub(crate) fn read_guard_again(&self) {
        // Full means that a request is waiting already.
        let _ = self.poke_guard.try_send(());
    }

    pub(crate) async fn session(&self) -> Result<Session, WorkError> {
        Session::connect(&self.server, CONNECT_PATIENCE, STATEMENT_PATIENCE).await.map_err(failed)
    }

    pub(crate) fn standby_names(&self) -> String {
        idle_standby_names(self.roster.borrow().values().filter(|row| row.kind == Kind::Data).count())
    }

    pub(crate) fn names(sync: &SyncSet) -> String {
        let name = |voter: &Voter| application_name(&voter.member, voter.incarnation);
        configuration::names(sync.k as usize, &sync.voters.iter().map(name).collect::<Vec<_>>())
    }

    /// Reloads, and waits until connections are made under the configuration `generation` or a later one.
    pub(crate) async fn reload(&self, generation: u64) -> Result<(), WorkError> {
        self.guard()?.reload().await.map_err(failed)?;
        let deadline = clock::now().plus(STATEMENT_PATIENCE);
        loop {
            match session::fresh_setting(&self.server, GENERATION, CONNECT_PATIENCE).await {
                Ok(shown) if shown.parse::<u64>().is_ok_and(|shown| shown >= generation) => return Ok(()),
                Err(error) if clock::now() > deadline => return Err(failed(error)),
                Ok(shown) if clock::now() > deadline => {
                    return Err(WorkError(format!(
                        "PostgreSQL still shows configuration {shown}, not {generation}"
                    )));
                }
                _ => tokio::time::sleep(QUICK_LOOK).await,
            }
        }
    }

    /// Where the primary of `epoch` is, if the record still says so, and the names under which this member streams.
    pub(crate) fn source(&self, member: &MemberId, epoch: Epoch) -> Result<Upstream, WorkError> {
        let record = self.record.borrow().clone();
        let current = record.is_open() && record.epoch == epoch && record.primary() == Some(member);
        let row = record.members.get(member).and_then(|row| row.postgres);
        match row {
            Some(address) if current => {
                Ok(Upstream { member: member.clone(), address: address.ip(), port: address.port() })
            }
            _ => Err(WorkError(format!("{member} is no longer the primary of epoch {epoch}"))),
        }
    }

    pub(crate) fn stream_from(&self, upstream: Upstream, incarnation: Incarnation) -> StreamFrom {
        let me = self.me();
        StreamFrom { upstream, application_name: application_name(me, incarnation), slot: slot_name(me) }
    }

    /// Starts the postmaster as a standby, on the configuration as it is on disk.
    pub(crate) async fn start(&self) -> Result<(), WorkError> {
        let layout = self.layout.clone();
        blocking(move || mainstay_postgres::directory::prepare_start(&layout)).await?.map_err(failed)?;
        let user = self.layout.run_as().map(|user| RunAs {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        });
        let text = |path: std::path::PathBuf| path.display().to_string();
        let start = Start {
            program: self.tools()?.path("postgres"),
            arguments: vec![
                "-D".to_owned(),
                text(self.layout.data().to_owned()),
                "-c".to_owned(),
                format!("config_file={}", text(self.layout.configuration_file())),
            ],
            environment: [("LC_ALL", "C.UTF-8"), ("TZ", "UTC")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            log_file: self.layout.log_file(),
            user,
        };
        self.guard()?.start(start).await.map_err(failed)?;
        self.read_guard_again();
        Ok(())
    }

    /// Waits until the server answers SQL, for as long as its processes' titles, which name what is replayed, change.
    pub(crate) async fn wait_ready(&self) -> Result<Session, WorkError> {
        let (mut titles, mut changed_at) = (Vec::new(), clock::now());
        loop {
            let now = clock::now();
            let seen = self.guard()?.children().await.map_err(failed)?;
            let seen: Vec<String> = seen.into_iter().map(|child| child.title).collect();
            if seen != titles {
                (titles, changed_at) = (seen, now);
            }
            if now.since(changed_at) > READY_PATIENCE {
                return Err(WorkError("PostgreSQL does not become ready".to_owned()));
            }
            match Session::connect(&self.server, CONNECT_PATIENCE, STATEMENT_PATIENCE).await {
                Ok(session) => return Ok(session),
                Err(error @ SessionError::Connect { .. }) => {
                    if self.guard()?.status().await.map_err(failed)?.postmaster.is_none() {
                        return Err(failed(error));
                    }
                    tokio::time::sleep(QUICK_LOOK).await;
                }
                Err(SessionError::Timeout { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Ends the server and waits until nothing is left of it.
    pub(crate) async fn end_server(&self) -> Result<(), WorkError> {
        let guard = self.guard()?;
        if !guard.kill().await.map_err(failed)? {
            self.wait_empty().await?;
        }
        Ok(())
    }

    pub(crate) async fn wait_empty(&self) -> Result<(), WorkError> {
        loop {
            let status = self.guard()?.status().await.map_err(failed)?;
            if status.phase == mainstay_guard::Phase::Empty {
                self.read_guard_again();
                return Ok(());
            }
            tokio::time::sleep(QUICK_LOOK).await;
        }
    }
}

/// The names while this server is nobody's primary: with others in the cluster, a name that nobody has, so that a
/// server promoted by an outside hand acknowledges nothing.
pub(crate) fn idle_standby_names(data_members: usize) -> String {
    match data_members {
        0 | 1 => String::new(),
        _ => configuration::names(1, &["ms_nobody".to_owned()]),
    }
}

pub(crate) fn port(configuration: &Configuration) -> u16 {
    configuration.own_row().postgres.map_or(5432, |address| address.port())
}

/// Runs what waits for a disk, on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| WorkError("the work was interrupted".to_owned()))
}
