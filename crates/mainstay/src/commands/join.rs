//! `join`: this machine becomes a member of a cluster that is there already.
//!
//! Every step can be repeated: keys that are there are kept, so a machine whose answer was lost asks again as the same one.
//! The configuration file comes last; with it the member is there.

mod files;

pub(crate) use files::keys;

use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mainstay_core::record::Kind;
use mainstay_member::Configuration;
use mainstay_member::join::{CheckAnswer, JoinAnswer, JoinRequest, not_reached};
use mainstay_member::reach::Reach;
use mainstay_member::status::Role;
use mainstay_net::join::{self, Host};
use mainstay_net::{Invitation, probe};
use mainstay_postgres::tools::{RunAs, Tools};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cli::JoinOptions;
use crate::client::Control;
use crate::commands::{service, status::bytes_words};
use crate::configuration;
use crate::output::println;
use crate::setup;
use crate::tune::Tuned;

/// The members ask each other and write to their disks.
const ANSWER_PATIENCE: Duration = Duration::from_secs(40);
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) async fn run(options: &JoinOptions) -> Result<ExitCode> {
    let begun = Instant::now();
    let config = &options.shared.config;
    if config.exists() {
        bail!("{} exists already: this machine is a member; see: mainstay status", config.display());
    }
    let invitation: Invitation = options.invitation.parse()?;
    let target = resolve(&invitation)?;
    let plan = plan(options, target).await?;
    // As long as the cluster looks whether it can reach them, something must listen there.
    let listeners = listen(&plan)?;
    say(options, &format!("asking {target} to let this machine in"));
    let check = JoinRequest {
        token: invitation.token.text(),
        member: options.member.clone(),
        kind: plan.kind,
        address: plan.address,
        postgres: plan.postgres,
        http: plan.http,
        priority: options.priority,
        postgresql_major: plan.postgresql_major,
        certificate_request: String::new(),
        server_certificate_request: None,
        server_names: options.server_name.clone(),
        check_only: true,
    };
    let closed = check_ports(ask(&invitation, target, &check).await?).await?;
    let keys = files::keys(&plan.directory, plan.kind)?;
    let request = JoinRequest {
        certificate_request: keys.member_request,
        server_certificate_request: keys.server_request,
        check_only: false,
        ..check
    };
    let answer: JoinAnswer = ask(&invitation, target, &request).await?;
    drop(listeners);
    files::write(&plan, &answer, config, &options.server_name)?;
    say(options, &format!("{} is a member of the cluster {}", answer.member, answer.cluster));
    for line in &closed {
        say(options, &format!("! {line}"));
    }
    let started = service::start_if_wanted(options.start, config)?;
    if started && !options.no_wait {
        follow(&configuration::load(config)?, options).await?;
    }
    report(options, &answer, &plan, started, &closed, begun);
    Ok(ExitCode::SUCCESS)
}

fn say(options: &JoinOptions, line: &str) {
    if !options.shared.json {
        println!("{line}");
    }
}

/// What this machine will be.
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) directory: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) postgres: Option<SocketAddr>,
    pub(crate) http: SocketAddr,
    postgresql_major: Option<u32>,
    /// `None` for a witness, or if the machine is not to be looked at.
    pub(crate) tuned: Option<Tuned>,
}

/// Where an invitation leads to.
pub(crate) fn resolve(invitation: &Invitation) -> Result<SocketAddr> {
    match &invitation.host {
        Host::Address(address) => Ok(SocketAddr::new(*address, invitation.port)),
        Host::Name(name) => (name.as_str(), invitation.port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut found| found.next())
            .with_context(|| format!("{name} cannot be resolved; give the member's IP address")),
    }
}

async fn plan(options: &JoinOptions, target: SocketAddr) -> Result<Plan> {
    let kind = if options.witness { Kind::Witness } else { Kind::Data };
    let own: IpAddr = match options.address {
        Some(address) => address,
        None => setup::own_address(Some(target))
            .context("this machine has no address towards the cluster; give one with --address")?,
    };
    let postgresql_major = match kind {
        Kind::Witness => None,
        Kind::Data => Some(postgresql_major(options).await?),
    };
    let directory = std::path::absolute(&options.directory)?;
    let is_tuned = kind == Kind::Data && !options.no_tune;
    let plan = Plan {
        kind,
        tuned: is_tuned.then(|| Tuned::here(&directory.join("data"))),
        directory,
        address: SocketAddr::new(own, options.port),
        postgres: (kind == Kind::Data).then(|| SocketAddr::new(own, options.postgres_port)),
        http: SocketAddr::new(own, options.http_port),
        postgresql_major,
    };
    let data = plan.directory.join("data");
    let is_empty = std::fs::read_dir(&data).map(|mut entries| entries.next().is_none()).unwrap_or(true);
    if !is_empty {
        bail!("{} is not empty; a new member gets its data from the cluster: move it away", data.display());
    }
    Ok(plan)
}

async fn postgresql_major(options: &JoinOptions) -> Result<u32> {
    let run_as = if nix::unistd::geteuid().is_root() { Some(RunAs::of_user("postgres")?) } else { None };
    let tools = Tools::find(options.bin_dir.as_deref(), None, run_as).await?;
    Ok(tools.version().major)
}

fn listen(plan: &Plan) -> Result<Vec<TcpListener>> {
    let addresses = [Some(plan.address), plan.postgres, Some(plan.http)];
    addresses
        .into_iter()
        .flatten()
        .map(|address| {
            TcpListener::bind(address)
                .with_context(|| format!("{address} cannot be listened on; free it, or choose another port"))
        })
        .collect()
}

async fn ask<T: DeserializeOwned>(
    invitation: &Invitation,
    target: SocketAddr,
    request: &JoinRequest,
) -> Result<T> {
    let text = serde_json::to_vec(request)?;
    let answer = join::ask(target, invitation.token.authority(), &text, ANSWER_PATIENCE).await?;
    serde_json::from_slice(&answer)
        .context("the answer cannot be read; use the same release on both machines")
}

/// The other direction: fails if a port that the asked member reaches is closed to this machine; answers what neither reaches.
async fn check_ports(answer: CheckAnswer) -> Result<Vec<String>> {
    let Some(me) = answer.member else { return Ok(Vec::new()) };
    let mut down = Vec::new();
    for Reach { member, service, address, obstacle } in answer.ports {
        let found = probe(address, PROBE_PATIENCE).await;
        match obstacle {
            _ if found.is_open() => {}
            None => bail!(not_reached(&me, &member, service, address, &found)),
            Some(_) => down.push(format!("{member}'s {} port {address} does not answer", service.as_str())),
        }
    }
    Ok(down)
}

/// Shows how the clone gets on until the member streams.
async fn follow(configuration: &Configuration, options: &JoinOptions) -> Result<()> {
    let control = Control::of(configuration);
    let mut shown = String::new();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Ok(status) = control.status().await else { continue };
        let Some(row) = status.members.iter().find(|row| row.name == configuration.me) else { continue };
        let line = match row.lag_bytes {
            Some(lag) => format!("{}, {} behind", row.role.as_str(), bytes_words(lag)),
            None => format!("{}: {}", row.role.as_str(), row.reason.clone().unwrap_or_default()),
        };
        if line != shown {
            say(options, &line);
            shown = line;
        }
        if matches!(row.role, Role::Standby | Role::Witness) {
            return Ok(());
        }
    }
}

fn report(
    options: &JoinOptions,
    answer: &JoinAnswer,
    plan: &Plan,
    started: bool,
    closed: &[String],
    begun: Instant,
) {
    let config = &options.shared.config;
    if options.shared.json {
        let value = json!({
            "cluster": answer.cluster, "member": answer.member, "config": config, "started": started,
            "closed_ports": closed, "milliseconds": begun.elapsed().as_millis() as u64,
            "parameters": plan.tuned.as_ref().map(Tuned::json),
        });
        println!("{value}");
        return;
    }
    let own = &answer.members[&answer.member];
    let ports = [
        Some((own.address.port(), "members")),
        own.postgres.map(|address| (address.port(), "PostgreSQL")),
        own.http.map(|address| (address.port(), "health checks")),
    ];
    let ports: Vec<(u16, &str)> = ports.into_iter().flatten().collect();
    if let Some(tuned) = &plan.tuned {
        tuned.print();
    }
    println!("\nThese ports are to be open to the other members and to your applications (nftables):");
    for line in setup::firewall_lines(&ports) {
        println!("  {line}");
    }
    if !started {
        println!("Start this member with: {}", service::how_to_start(config));
    }
    println!("Watch it with: mainstay status --watch");
}
