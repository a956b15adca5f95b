//! Which ports of the other members this machine reaches: what a firewall may have closed.

use std::net::SocketAddr;
use std::time::Duration;

use mainstay_core::MemberId;
use mainstay_net::probe::{Reachability, probe};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::status::Status;

/// Between members a connection takes milliseconds; a firewall that drops packets is noticed by this.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// Whoever asks more often gets the answer before: nobody can make a member knock at others all the time.
const KEPT: Duration = Duration::from_secs(1);

/// What listens at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// The other members.
    Member,
    Postgresql,
    Http,
}

impl Service {
    pub fn as_str(self) -> &'static str {
        match self {
            Service::Member => "member",
            Service::Postgresql => "PostgreSQL",
            Service::Http => "HTTP",
        }
    }
}

/// Why a port was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// The machine answers that nobody listens, or a firewall does in its name.
    Refused,
    /// No answer in time: packets are dropped, or the machine is off.
    Silent,
    /// There is no way to that network.
    Unroutable,
    /// The machine that looked could not try: its own firewall, or it lacks something.
    NotTried,
}

/// One port of one member, as seen from the machine that looked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    pub member: MemberId,
    pub service: Service,
    pub address: SocketAddr,
    /// `null`: reached.
    pub obstacle: Option<Obstacle>,
}

/// Looks, at most once a second, and keeps the answer for whoever else asks meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Reacher {
    newest: Mutex<Option<(Instant, Vec<Reach>)>>,
}

impl Reacher {
    /// The ports of all other members that `status` names.
    pub(crate) async fn look(&self, status: &Status) -> Vec<Reach> {
        let mut newest = self.newest.lock().await;
        if let Some((at, kept)) = &*newest
            && at.elapsed() < KEPT
        {
            return kept.clone();
        }
        let others = status.members.iter().filter(|row| row.name != status.member);
        let ports = others.flat_map(|row| {
            let postgres = row.postgres.as_ref().and_then(|postgres| postgres.address);
            let services = [
                (Service::Member, Some(row.address)),
                (Service::Postgresql, postgres),
                (Service::Http, row.http),
            ];
            services.into_iter().filter_map(|(service, address)| Some((row.name.clone(), service, address?)))
        });
        let seen = look(ports.collect()).await;
        *newest = Some((Instant::now(), seen.clone()));
        seen
    }
}

/// Connects to each of `ports`, all at once, and hangs up. Takes a second at most.
pub async fn look(ports: Vec<(MemberId, Service, SocketAddr)>) -> Vec<Reach> {
    let mut asked = JoinSet::new();
    for (member, service, address) in ports {
        asked.spawn(async move { Reach { member, service, address, obstacle: obstacle(address).await } });
    }
    let mut seen = Vec::new();
    while let Some(answer) = asked.join_next().await {
        seen.extend(answer);
    }
    seen.sort_by(|a, b| (&a.member, a.service).cmp(&(&b.member, b.service)));
    seen
}

async fn obstacle(address: SocketAddr) -> Option<Obstacle> {
    match probe(address, CONNECT_PATIENCE).await {
        Reachability::Open => None,
        Reachability::Refused => Some(Obstacle::Refused),
        Reachability::NoAnswer => Some(Obstacle::Silent),
        Reachability::NoRoute => Some(Obstacle::Unroutable),
        Reachability::NotTried(_) => Some(Obstacle::NotTried),
    }
}
