//! What the member answers: everything to its own machine over a Unix socket, reading only over TCP.
//!
//! Every route stands in one of the two tables below, or in the one of [`health`]. Each verb that changes something has a file of its own in
//! `control/`; what it refuses is a [`Refuse`], which both interfaces answer in the same form.

mod caller;
mod certificates;
mod clients;
mod configuration;
mod drill;
mod forward;
mod health;
mod input;
mod logs;
mod members;
pub mod operate;
mod read;
mod refuse;
mod reload;
mod remote;
mod restart;
mod routes;
mod sql_roles;
mod sql_routes;
pub mod sql_status;
mod switchover;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use mainstay_core::record::Record;
use mainstay_store::Snapshot;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::configuration::Configuration;
use crate::configure::Configure;
use crate::explain::Explanations;
use crate::guard_link::GuardState;
use crate::heartbeat::Heartbeat;
use crate::inventory::Inventory;
use crate::lease::LeaseState;
use crate::machinery::Machinery;
use crate::metrics::Openings;
use crate::network::Links;
use crate::observe::Sql;
use crate::propose::Proposer;
use crate::reach::Reacher;
use crate::record_machine::RecordMachine;
use crate::sql_proxy::operator::Operator;
use crate::status::{Status, WITHOUT_MAJORITY};
use crate::verify::{self, Program};

pub(crate) use caller::Callers;
pub use clients::{AddClient, ClientRow, RemoveClient, SQL_PROXY};
pub use configuration::{ConfigAnswer, ConfigChange, ConfigChanged, TuneAnswer, TunedParameter};
pub use drill::DrillRequest;
pub(crate) use forward::Forwarded;
pub use logs::MOST_LOG_ENTRIES;
pub use members::{InviteAnswer, InviteRequest, LeaveRequest, OpenInvitation, RevokeRequest};
pub use refuse::{Refusal, Refuse};
use remote::Remote;
pub use restart::{RestartAnswer, RestartCancel, RestartRequest};
use routes::Routes;
pub use switchover::{SwitchoverAnswer, SwitchoverRequest};

/// What the reading answers are made from. Nothing can be changed with it.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) status: watch::Receiver<Arc<Status>>,
    pub(crate) lease: watch::Receiver<LeaseState>,
    pub(crate) guard: watch::Receiver<GuardState>,
    pub(crate) record: watch::Receiver<Arc<Record>>,
    pub(crate) sql: watch::Receiver<Sql>,
    pub(crate) inventory: watch::Receiver<Inventory>,
    pub(crate) openings: Arc<Mutex<Openings>>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) reacher: Arc<Reacher>,
    pub(crate) verified: verify::Seen,
    pub(crate) sql_proxy: Operator,
    /// How long a lease is.
    pub(crate) lease_length: Duration,
    /// The certificate of the cluster's CA.
    pub(crate) authority: PathBuf,
}

/// What the answers on the control socket are made from.
#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) seen: Seen,
    pub(crate) explanations: Arc<Mutex<Explanations>>,
    pub(crate) proposer: Proposer,
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) machinery: Arc<Machinery>,
    pub(crate) configure: Configure,
    pub(crate) links: Links,
    pub(crate) forwarded: Forwarded,
    /// How well this member knows the record.
    pub(crate) store: watch::Receiver<Arc<Snapshot<RecordMachine>>>,
    pub(crate) hit: Program,
}

/// Over TCP, without a password: nothing secret, nothing that changes anything.
fn public_routes() -> Routes<Seen> {
    Routes::new()
        .get("/metrics", read::metrics)
        .get("/status", read::public_status)
        .get("/v1/status", read::public_status)
        .get("/v1/reach", read::reach)
        .get("/v1/certificates/authority", read::authority)
}

/// On the control socket, for those whom [`Callers`] lets in.
fn private_routes() -> Routes<Control> {
    Routes::new()
        .get("/metrics", read::own_metrics)
        .get("/v1/status", read::full_status)
        .get("/v1/explain", read::explain)
        .get("/v1/verify", read::verified)
        .get("/v1/logs", logs::logs)
        .get("/v1/invitations", members::invitations)
        .post("/v1/members/invite", members::invite)
        .post("/v1/members/revoke", members::revoke)
        .post("/v1/members/leave", members::leave)
        .get("/v1/certificates", certificates::show)
        .post("/v1/certificates/renew", certificates::renew)
        .get("/v1/certificates/key", certificates::key)
        .post("/v1/certificates/rotate-key", certificates::rotate_key)
        .post("/v1/switchover", switchover::switchover)
        .post("/v1/switchover/scheduled", operate::schedule)
        .post("/v1/failover", operate::failover)
        .post("/v1/drill", drill::drill)
        .post("/v1/pause", operate::pause)
        .post("/v1/resume", operate::resume)
        .post("/v1/maintenance", operate::maintenance)
        .post("/v1/reinit", operate::reinit)
        .get("/v1/clients", clients::list)
        .post("/v1/clients/add", clients::add)
        .post("/v1/clients/remove", clients::remove)
        .get("/v1/config", configuration::show)
        .get("/v1/config/tune", configuration::tune)
        .post("/v1/config", configuration::change)
        .post("/v1/restart", restart::restart)
        .post("/v1/restart/cancel", restart::cancel)
        .post("/v1/reload", reload::reload)
        .get(sql_routes::PATH, sql_routes::routes)
        .get(sql_roles::PATH, sql_roles::roles)
        .get("/v1/sql/status", sql_status::status)
        .post("/v1/sql/order", sql_status::order)
        .get("/v1/on/{member}/{*path}", forward::on)
        .post("/v1/on/{member}/{*path}", forward::on)
}

/// Every route as method and path, with whether it is served over TCP and on the control socket.
pub fn routes() -> Vec<ListedRoute> {
    let health = health::routes().listed().into_iter().map(|route| (route, true, true));
    let public = public_routes().listed().into_iter().map(|route| (route, true, false));
    let private = private_routes().listed().into_iter().map(|route| (route, false, true));
    let mut routes: Vec<ListedRoute> = Vec::new();
    for ((method, path), http, socket) in health.chain(public).chain(private) {
        match routes.iter_mut().find(|route| route.method == method && route.path == path) {
            Some(known) => {
                known.http |= http;
                known.socket |= socket;
            }
            None => routes.push(ListedRoute { method, path, http, socket }),
        }
    }
    routes
}

/// One row of [`routes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedRoute {
    /// `GET` stands for `HEAD` too; a route for load balancers answers `OPTIONS` as well.
    pub method: &'static str,
    pub path: &'static str,
    /// Whether it is answered over TCP.
    pub http: bool,
    /// Whether it is answered on the control socket.
    pub socket: bool,
}

/// Why the control interface cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("cannot listen on {address} for HTTP: {source}; is another program using the port?")]
    Http { address: SocketAddr, source: std::io::Error },
    #[error("cannot listen on the control socket {path}: {source}")]
    Socket { path: String, source: std::io::Error },
}

/// Offers both interfaces; they are served until the runtime ends.
pub(crate) async fn serve(
    control: Control,
    http: SocketAddr,
    socket: &Path,
    callers: Callers,
) -> Result<(), ControlError> {
    let failed = |source| ControlError::Http { address: http, source };
    let listener = TcpListener::bind(http).await.map_err(failed)?;
    let failed = |source| ControlError::Socket { path: socket.display().to_string(), source };
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let local = UnixListener::bind(socket).map_err(failed)?;
    callers.open(socket).map_err(failed)?;
    control.forwarded.offer(private_router(control.clone()));
    tokio::spawn(remote(&control).serve(listener));
    let private = callers.guard(private_router(control));
    tokio::spawn(async move {
        axum::serve(local, private.into_make_service_with_connect_info::<caller::Caller>()).await
    });
    Ok(())
}

/// What is offered over the network: reading in plain text, everything over TLS.
fn remote(control: &Control) -> Remote {
    let plain = public_router(control.seen.clone());
    Remote::new(plain, private_router(control.clone()), public_paths(), control)
}

fn public_router(seen: Seen) -> Router {
    let public = public_paths();
    let private = private_routes().listed().into_iter().map(|(_, path)| path);
    let elsewhere = private.filter(|path| !public.contains(path)).collect();
    let router = health::routes().router(seen.clone()).merge(public_routes().router(seen));
    refuse::unknown_in_plain(router, elsewhere)
}

fn public_paths() -> Vec<&'static str> {
    let listed = health::routes().listed().into_iter().chain(public_routes().listed());
    listed.map(|(_, path)| path).collect()
}

fn private_router(control: Control) -> Router {
    let health = health::routes().router(control.seen.clone());
    let majority = from_fn_with_state(control.seen.status.clone(), needs_majority);
    refuse::unknown(health.merge(private_routes().router(control)).layer(majority))
}

/// What needs no word of the record: files of one machine, and what is carried elsewhere.
const WITHOUT_RECORD: [&str; 3] = ["/v1/reload", "/v1/certificates/renew", "/v1/on/"];

/// A change that nobody can agree to is refused at once, instead of after a wait.
async fn needs_majority(
    State(status): State<watch::Receiver<Arc<Status>>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let changes = request.method() == Method::POST && path.starts_with("/v1/");
    let needs = changes && !WITHOUT_RECORD.iter().any(|known| path.starts_with(known));
    let why = if needs { status.borrow().without_majority() } else { None };
    match why {
        Some(why) => Refuse::no_majority(why).remedy(WITHOUT_MAJORITY).into_response(),
        None => next.run(request).await,
    }
}
