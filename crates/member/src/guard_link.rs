//! The member's tie to its guard: it finds one or starts one, and says what it knows of the server's processes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::view::{Running, Server};
use mainstay_core::{Epoch, Now};
use mainstay_guard::{ClientError, GuardClient, GuardEvent, Phase, SpawnGuard, Status, kill_leftovers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::clock;
use crate::lease::LeaseThread;

/// How long a guard may take to answer or to start.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// The pause before a guard that could not be reached is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often the guard's whole state is asked for, beside its events.
const STATUS_INTERVAL: Duration = Duration::from_millis(1_000);

/// How long processes in the hands of a stalled disk are waited for before a new guard takes the waiting over.
const LEFTOVERS_PATIENCE: Duration = Duration::from_secs(5);

/// A guard that leaves so many requests of 2 s unanswered hangs.
const UNANSWERED: u32 = 2;

/// What is known of the guard and the processes that it owns.
#[derive(Clone, Debug, Default)]
pub(crate) struct GuardState {
    pub(crate) client: Option<GuardClient>,
    /// Counts the connections: a new number means another guard, or the same one anew.
    pub(crate) generation: u64,
    pub(crate) status: Option<Status>,
    /// When that was asked for.
    pub(crate) asked_at: Now,
    /// A newer process of this member owns the guard: this one must go.
    pub(crate) superseded: bool,
    pub(crate) error: Option<String>,
    /// The guard was told to go, and no other is wanted.
    pub(crate) dismissed: bool,
}

impl GuardState {
    /// The server's processes as the guard has them; what SQL says is added elsewhere.
    pub(crate) fn server(&self) -> Server {
        let Some(status) = &self.status else { return Server::Unknown };
        match status.phase {
            Phase::Empty => Server::Down { last_opened: status.last_epoch_opened.map(Epoch) },
            Phase::Ending => Server::Ending,
            Phase::Starting | Phase::Running | Phase::Stopping => Server::Running(Running {
                opened: status.opened.map(Epoch),
                ready: false,
                in_recovery: None,
                replayed: mainstay_core::Lsn::ZERO,
                streaming: None,
                primary: None,
            }),
        }
    }
}

/// Where the guard is and how one is started.
#[derive(Clone, Debug)]
pub(crate) struct GuardPlace {
    pub(crate) directory: PathBuf,
    pub(crate) data_directory: PathBuf,
    pub(crate) spawn: SpawnGuard,
}

/// Keeps a guard, for ever. `poke` asks for its state at once.
pub(crate) async fn keep(
    place: GuardPlace,
    state: Arc<watch::Sender<GuardState>>,
    mut poke: mpsc::Receiver<()>,
    lease: LeaseThread,
) {
    loop {
        let generation = clock::now().0;
        let connected =
            GuardClient::connect_or_spawn(&place.directory, &place.spawn, generation, CONNECT_PATIENCE).await;
        match connected {
            Ok((client, events, status)) => {
                info!(guard = client.guard_pid(), phase = ?status.phase, "connected to the guard");
                for warning in &status.warnings {
                    warn!("the guard is less protected than it could be: {warning}");
                }
                state.send_modify(|state| {
                    state.client = Some(client.clone());
                    state.generation = generation;
                    state.status = Some(status);
                    state.error = None;
                });
                lease.guard(generation);
                let died = follow(&client, events, &state, &mut poke).await;
                forget(&state);
                if died {
                    end_what_it_left(&place).await;
                }
            }
            Err(error) => {
                let superseded =
                    matches!(error, ClientError::Refused(mainstay_guard::Refusal::OlderGeneration { .. }));
                error!(%error, "no guard: PostgreSQL cannot be started or opened");
                state.send_modify(|state| {
                    state.superseded = superseded;
                    state.error = Some(error.to_string());
                });
            }
        }
        if state.borrow().superseded || state.borrow().dismissed || state.is_closed() {
            return;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

fn forget(state: &watch::Sender<GuardState>) {
    state.send_modify(|state| {
        state.client = None;
        state.status = None;
    });
}

/// Follows one guard until it is lost; answers whether its process has died.
async fn follow(
    client: &GuardClient,
    mut events: mpsc::UnboundedReceiver<GuardEvent>,
    state: &watch::Sender<GuardState>,
    poke: &mut mpsc::Receiver<()>,
) -> bool {
    let mut unanswered = 0;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            Some(()) = poke.recv() => None,
            () = tokio::time::sleep(STATUS_INTERVAL) => None,
        };
        match event {
            Some(GuardEvent::Died) if state.borrow().dismissed => return false,
            Some(GuardEvent::Died) => {
                error!("the guard has died; ending what it left of PostgreSQL");
                return true;
            }
            Some(GuardEvent::Lost) => return false,
            Some(GuardEvent::Superseded { .. }) => {
                state.send_modify(|state| state.superseded = true);
                return false;
            }
            Some(GuardEvent::Exited(exit)) => {
                warn!(?exit, "PostgreSQL's postmaster has ended");
                // Not empty until the guard says so; nothing else may be concluded from it.
                state.send_modify(|state| {
                    if let Some(status) = &mut state.status {
                        status.phase = Phase::Ending;
                        status.postmaster = None;
                    }
                });
            }
            Some(GuardEvent::Empty { .. }) | None => match asked(client).await {
                (asked_at, Ok(status)) => {
                    unanswered = 0;
                    state.send_modify(|state| (state.status, state.asked_at) = (Some(status), asked_at));
                }
                (_, Err(ClientError::Lost)) => return false,
                (_, Err(error)) => {
                    unanswered += 1;
                    warn!(%error, "the guard does not say what is running");
                    if unanswered >= UNANSWERED {
                        end_hanging(client);
                    }
                }
            },
        }
    }
}

async fn asked(client: &GuardClient) -> (Now, Result<Status, ClientError>) {
    (clock::now(), client.status().await)
}

/// A guard that is stopped or hangs ends nothing when the lease does. Its death ends the postmaster, and a new guard the
/// rest.
fn end_hanging(client: &GuardClient) {
    error!(guard = client.guard_pid(), "the guard hangs; ending it, and PostgreSQL with it");
    if let Err(error) = kill(Pid::from_raw(client.guard_pid()), Signal::SIGKILL) {
        error!(%error, "the guard cannot be ended");
    }
}

/// The postmaster dies with its guard, its backends may live on a little: they are ended before anything else.
async fn end_what_it_left(place: &GuardPlace) {
    let (directory, data_directory) = (place.directory.clone(), place.data_directory.clone());
    let ended =
        tokio::task::spawn_blocking(move || kill_leftovers(&directory, &data_directory, LEFTOVERS_PATIENCE))
            .await;
    match ended {
        Ok(Ok(_)) => info!("nothing is left of the PostgreSQL of the guard that died"),
        Ok(Err(error)) => {
            error!(%error, "PostgreSQL's processes are still there; the next guard goes on ending them")
        }
        Err(error) => error!(%error, "ending PostgreSQL's processes was interrupted"),
    }
}
