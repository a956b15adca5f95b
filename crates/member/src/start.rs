//! Starting a member: everything is checked before anything is changed, and every part is wired to the others.

mod ending;
mod error;
mod files;
mod signals;
mod wiring;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use mainstay_consensus::Identity as RaftIdentity;
use mainstay_core::record::{Command, Kind};
use mainstay_net::{CallService, Endpoint, Server};
use mainstay_postgres::layout::Layout;
use mainstay_postgres::tools::{RunAs, Tools};
use mainstay_store::{RaftOptions, RaftStore};
use nix::unistd::geteuid;
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::configuration::Configuration;
use crate::configure::{Configure, Reload};
use crate::control::{self, Callers, Control, Forwarded, Seen};
use crate::explain::Explanations;
use crate::facts::Facts;
use crate::guard_link::{self, GuardState};
use crate::heartbeat::Heartbeat;
use crate::hooks::Hook;
use crate::join::Desk;
use crate::lease::LeaseThread;
use crate::machinery::Machinery;
use crate::main_loop::{Addresses, Event, MainLoop, UnderWay, Watched};
use crate::network::{self, Links, Receivers};
use crate::own_key::OwnKey;
use crate::promise::Promises;
use crate::propose::Proposer;
use crate::record_machine::RecordMachine;
use crate::roster::{self, Roster};
use crate::status::Status;
use crate::verify::Programs;
use crate::{
    certificates, databases, health, inventory, log_rotation, notify, observe, sql_proxy, verify, vip,
};
pub use error::MemberError;
pub(crate) use files::{endpoint, install_certificates};
use files::{first_invitations, refuse_if_left_behind, write_passfile, write_pid};

/// Commands that other members carry here, at once.
const MOST_CALLS: usize = 16;

struct Paths {
    consensus: PathBuf,
    guard: PathBuf,
}

fn paths(configuration: &Configuration) -> Paths {
    Paths {
        consensus: configuration.directory.join("consensus"),
        guard: configuration.directory.join("guard"),
    }
}

/// Makes a new member: its directories, and its vote in the new cluster that the configuration describes.
pub async fn create(configuration: &Configuration) -> Result<(), MemberError> {
    let layout = tools_and_layout(configuration).await?.1;
    layout.create(crate::machinery::port(configuration))?;
    let Command::Create { members, .. } = configuration.create_command() else {
        unreachable!("create_command makes a Create")
    };
    let own = &members[&configuration.me];
    let ids = |votes: bool| {
        members.values().filter(|row| row.votes == votes).map(|row| row.raft_id).collect::<Vec<_>>()
    };
    let identity = RaftIdentity { cluster_id: configuration.cluster.clone(), raft_id: own.raft_id };
    mainstay_store::create(&paths(configuration).consensus, &identity, &ids(true), &ids(false))
        .map_err(|error| MemberError::Store(crate::machinery::failed(error).0))
}

/// A witness needs none of PostgreSQL's programs, nor its user.
pub(crate) async fn tools_and_layout(
    configuration: &Configuration,
) -> Result<(Option<Tools>, Layout), MemberError> {
    let postgresql = &configuration.postgresql;
    if configuration.own_row().kind == Kind::Witness {
        let layout = Layout::new(&configuration.directory, Some(&postgresql.data_directory), None, None)?;
        return Ok((None, layout));
    }
    let run_as = if geteuid().is_root() { Some(RunAs::of_user(&postgresql.user)?) } else { None };
    let data_major = std::fs::read_to_string(postgresql.data_directory.join("PG_VERSION")).ok();
    let data_major = data_major.and_then(|text| text.trim().parse().ok());
    let tools = Tools::find(postgresql.bin_dir.as_deref(), data_major, run_as.clone()).await?;
    let layout = Layout::new(&configuration.directory, Some(&postgresql.data_directory), None, run_as)?;
    Ok((Some(tools), layout))
}

/// How a member that was told to end has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// PostgreSQL is stopped too.
    Stopped,
    /// The member left alone, to be started anew: PostgreSQL goes on until its lease ends.
    Left,
}

/// Runs the member until it is told to stop.
///
/// `reload` reads its file again, when it is told to; `programs` is what it runs of its own program.
pub async fn run(
    configuration: Configuration,
    reload: Reload,
    programs: Programs,
) -> Result<Finish, MemberError> {
    let (tools, layout) = tools_and_layout(&configuration).await?;
    refuse_if_left_behind(&layout)?;
    let roster = roster::load(&configuration)?;
    let endpoint = endpoint(&configuration, &roster)?;
    let places = paths(&configuration);
    if !places.consensus.is_dir() {
        return Err(MemberError::NotCreated { path: places.consensus });
    }
    // Both are refused to a second process of this member, before it has changed anything.
    let server = endpoint.listen(configuration.own_row().address)?;
    let options = RaftOptions::new(places.consensus.clone(), configuration.cluster.clone());
    let (store, outgoing) = mainstay_store::start(options, RecordMachine::default())
        .map_err(|error| MemberError::Store(crate::machinery::failed(error).0))?;
    layout.create(crate::machinery::port(&configuration))?;
    if tools.is_some() {
        install_certificates(&configuration, &layout)?;
        write_passfile(&configuration, &layout)?;
        mainstay_postgres::hba::write_ident(&layout)
            .map_err(|error| MemberError::Store(error.to_string()))?;
    }
    let promises = Promises::new(&layout.state_dir(), layout.private_access());
    promises.settle()?;
    let lease =
        LeaseThread::start(endpoint.clone(), promises.clone(), configuration.lease, places.guard.clone())
            .map_err(MemberError::Thread)?;
    write_pid(&layout)?;
    let member = Member {
        configuration,
        roster: Arc::new(roster),
        tools,
        layout,
        endpoint,
        promises,
        store,
        lease,
        guard_directory: places.guard,
        programs,
    };
    member.run(server, outgoing, reload).await
}

/// The parts of a member that are made before anything is wired.
struct Member {
    configuration: Configuration,
    roster: Arc<Roster>,
    tools: Option<Tools>,
    layout: Layout,
    endpoint: Endpoint,
    promises: Promises,
    store: RaftStore<RecordMachine>,
    lease: LeaseThread,
    guard_directory: PathBuf,
    programs: Programs,
}

impl Member {
    async fn run(
        self,
        server: Server,
        outgoing: mpsc::Receiver<mainstay_consensus::Outgoing>,
        reload: Reload,
    ) -> Result<Finish, MemberError> {
        let (events, queue) = mpsc::unbounded_channel();
        let (guard, guard_seen) = wiring::guard_state();
        let (poke, poked) = mpsc::channel(1);
        let (record, record_seen) = watch::channel(Arc::default());
        let (roster, roster_seen) = watch::channel(Arc::clone(&self.roster));
        let (incarnation, incarnation_seen) = watch::channel(None);
        let machinery = Arc::new(Machinery::new(
            self.configuration.clone(),
            self.tools.clone(),
            self.layout.clone(),
            self.promises.clone(),
            guard_seen.clone(),
            poke,
            record_seen,
            roster_seen,
            incarnation_seen,
            self.store.clone(),
            OwnKey::new(self.endpoint.clone(), &self.configuration),
        ));
        let (links, forwarded) = (Links::new(self.endpoint.clone(), &self.roster), Forwarded::default());
        network::start(&links, self.with_desk(server)?, outgoing, self.receivers(&events, &forwarded));
        let (wanted, wanted_seen) = watch::channel(observe::Wanted::default());
        let (sql, sql_seen) = watch::channel(observe::Sql::default());
        let (signs, signs_seen) = watch::channel(health::Signs::default());
        if self.tools.is_some() {
            self.keep_guard(&guard, poked);
            self.look_after_postgresql(&machinery, wanted_seen, sql, signs);
        }
        let (explanations, facts) = (Arc::default(), self.facts()?);
        let (status, status_seen) = wiring::first_status(&self.configuration, &facts);
        let heartbeat = Heartbeat::new();
        let configure = Configure::start(Arc::clone(&machinery), reload).await;
        let watched = self.watched(&machinery, guard_seen, sql_seen, signs_seen, &configure);
        self.look_after_applications(&machinery, &status_seen);
        self.look_after_companions(&machinery);
        let seen = self.seen(status_seen.clone(), &machinery, &watched, &heartbeat);
        let (verified, hook) =
            (seen.verified.clone(), Hook::start(&self.configuration, self.layout.run_as().cloned()));
        let control = self.control(seen, &explanations, &machinery, configure, (links.clone(), forwarded));
        self.answer(control, &events).await?;
        let main_loop = MainLoop {
            constants: wiring::constants(self.tools.as_ref(), &self.layout),
            run_lane: wiring::lane("work", &machinery, &events, Event::Run)?,
            upkeep_lane: wiring::lane("upkeep", &machinery, &events, Event::Upkeep)?,
            machinery: Arc::clone(&machinery),
            store: self.store.clone(),
            proposer: Proposer::new(self.store.clone()),
            lease: self.lease.clone(),
            links,
            facts,
            memory: mainstay_core::decide::Memory::default(),
            events,
            wanted,
            record,
            roster,
            incarnation,
            status,
            heartbeat,
            explanations,
            first_invitations: first_invitations(&self.layout)?,
            under_way: UnderWay::default(),
            addresses: Addresses::new(crate::clock::now(), &self.configuration),
            hook,
            verified,
        };
        info!(member = %main_loop.facts.me, cluster = self.configuration.cluster, "started");
        notify::ready(status_seen);
        self.end(main_loop.run(watched, queue).await, &machinery, &guard).await
    }

    fn keep_guard(&self, guard: &Arc<watch::Sender<GuardState>>, poked: mpsc::Receiver<()>) {
        let place = wiring::guard_place(&self.configuration, &self.layout, &self.guard_directory);
        tokio::spawn(guard_link::keep(place, Arc::clone(guard), poked, self.lease.clone()));
    }

    /// A witness has no PostgreSQL to look at or to probe.
    fn look_after_postgresql(
        &self,
        machinery: &Arc<Machinery>,
        wanted: watch::Receiver<observe::Wanted>,
        sql: watch::Sender<observe::Sql>,
        signs: watch::Sender<health::Signs>,
    ) {
        tokio::spawn(log_rotation::run(self.layout.log_file()));
        tokio::spawn(observe::run(Arc::clone(machinery), wanted, sql));
        tokio::spawn(health::run(Arc::clone(machinery), signs));
    }

    /// What applications need of this member's PostgreSQL, beside the server itself.
    fn look_after_applications(&self, machinery: &Arc<Machinery>, status: &watch::Receiver<Arc<Status>>) {
        if self.tools.is_some() {
            tokio::spawn(certificates::run(Arc::clone(machinery)));
            tokio::spawn(databases::run(Arc::clone(machinery), status.clone()));
        }
    }

    /// A witness may have a SQL proxy too. Those from before are ended where there are to be none any more.
    fn look_after_companions(&self, machinery: &Arc<Machinery>) {
        tokio::spawn(log_rotation::run(sql_proxy::log_file(&self.configuration)));
        tokio::spawn(sql_proxy::keep(Arc::clone(machinery)));
        tokio::spawn(log_rotation::run(vip::log_file(&self.configuration)));
        tokio::spawn(vip::keep(Arc::clone(machinery), self.lease.state()));
    }

    /// Machines that want to join are answered too.
    fn with_desk(&self, mut server: Server) -> Result<Server, MemberError> {
        let desk = Desk {
            configuration: Arc::new(self.configuration.clone()),
            proposer: Proposer::new(self.store.clone()),
            store: self.store.clone(),
            postgresql_major: self.tools.as_ref().map(|tools| tools.version().major),
        };
        let path = self.configuration.tls.authority.clone();
        let joins = desk.joins().map_err(|source| MemberError::Read { path: path.clone(), source })?;
        // Keys that were made by hand need no CA; then nobody can be let in by a token.
        if let Err(error) = server.answer_joins(joins) {
            let error = crate::machinery::failed(error);
            info!("no machine can join through this member: {}: {error}", path.display());
        }
        Ok(server)
    }

    fn receivers(&self, events: &mpsc::UnboundedSender<Event>, forwarded: &Forwarded) -> Receivers {
        Receivers {
            store: self.store.clone(),
            lease: self.lease.clone(),
            events: events.clone(),
            calls: CallService::new(forwarded.clone(), MOST_CALLS),
        }
    }

    fn facts(&self) -> Result<Facts, MemberError> {
        let sealed = self.promises.sealed()?;
        Ok(Facts::new(self.configuration.me.clone(), Arc::clone(&self.roster), sealed))
    }

    /// What whoever asks is answered from.
    fn seen(
        &self,
        status: watch::Receiver<Arc<Status>>,
        machinery: &Machinery,
        watched: &Watched,
        heartbeat: &Heartbeat,
    ) -> Seen {
        let every = machinery.verify_every.subscribe();
        let verified = verify::start(self.programs.verify.clone(), every, status.clone());
        Seen {
            status,
            lease: watched.lease.clone(),
            guard: watched.guard.clone(),
            record: machinery.record.clone(),
            sql: watched.sql.clone(),
            inventory: inventory::start(self.configuration.clone()),
            openings: Arc::default(),
            heartbeat: heartbeat.clone(),
            reacher: Arc::default(),
            verified,
            sql_proxy: crate::sql_proxy::operator::Operator::of(&self.configuration),
            lease_length: self.configuration.lease,
            authority: self.configuration.tls.authority.clone(),
        }
    }

    fn watched(
        &self,
        machinery: &Machinery,
        guard: watch::Receiver<GuardState>,
        sql: watch::Receiver<observe::Sql>,
        health: watch::Receiver<health::Signs>,
        configure: &Configure,
    ) -> Watched {
        Watched {
            record: self.store.watch(),
            guard,
            sql,
            health,
            lease: self.lease.state(),
            configured: configure.seen.clone(),
            left_behind: self.endpoint.left_behind_by(),
            handing_over: machinery.handing_over.watch(),
            addresses: machinery.vip.watch(),
        }
    }

    fn control(
        &self,
        seen: Seen,
        explanations: &Arc<Mutex<Explanations>>,
        machinery: &Arc<Machinery>,
        configure: Configure,
        (links, forwarded): (Links, Forwarded),
    ) -> Control {
        Control {
            seen,
            explanations: Arc::clone(explanations),
            proposer: Proposer::new(self.store.clone()),
            configuration: Arc::new(self.configuration.clone()),
            machinery: Arc::clone(machinery),
            configure,
            links,
            forwarded,
            store: self.store.watch(),
            hit: self.programs.hit.clone(),
        }
    }

    async fn answer(
        &self,
        control: Control,
        events: &mpsc::UnboundedSender<Event>,
    ) -> Result<(), MemberError> {
        signals::listen(events, control.configure.asks.clone()).map_err(MemberError::Thread)?;
        let (http, socket) = (self.configuration.own_row().http, self.configuration.control_socket());
        control::serve(control, http, &socket, Callers::new(self.layout.run_as())).await?;
        Ok(())
    }
}
