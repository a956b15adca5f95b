//! Clients that come through the members' SQL proxies: which they use, and what these have promised them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio_postgres::Config;

use super::Target;
use super::play::Player;
use crate::client::Through;
use crate::clock;
use crate::cluster::Cluster;
use crate::files::{self, SQL_PROXY_PORT, Site};
use crate::member::Member;
use crate::pgbench::{self, Pgbench};
use crate::process::Kind;
use crate::sql;
use crate::tally::Outcome;

/// On the lab's network a listener answers at once.
const CONNECT_PATIENCE: Duration = Duration::from_millis(200);

pub(super) fn through(cluster: &Cluster) -> Through {
    match (cluster.plan.sql_proxy, cluster.plan.vip) {
        (true, _) => Through::SqlProxy,
        (false, true) => Through::VirtualAddress,
        (false, false) => Through::Postgres,
    }
}

/// Through proxies those of the standbys come first: what happens to the primary's machine then happens to a server of
/// theirs, and not to themselves. The gap client and pgbench begin with different ones.
pub(super) fn gap_servers(cluster: &Cluster) -> Vec<Config> {
    if let Some(site) = by_virtual_address(cluster) {
        let name = cluster.name();
        return vec![if cluster.plan.sql_proxy {
            sql::through_proxy(&site, &name)
        } else {
            sql::application(&site)
        }];
    }
    let mut members: Vec<&Member> = cluster.data_members().collect();
    if cluster.plan.sql_proxy {
        members.reverse();
        put_primary_last(cluster, &mut members);
    }
    cluster.ways(members.into_iter())
}

/// What libpq is told.
pub(super) fn pgbench_servers(cluster: &Cluster) -> String {
    let mut members: Vec<&Member> = cluster.data_members().collect();
    if cluster.plan.sql_proxy {
        put_primary_last(cluster, &mut members);
    }
    let by_virtual_address = by_virtual_address(cluster);
    let sites: Vec<&Site> = match &by_virtual_address {
        Some(site) => vec![site],
        None => members.iter().map(|member| &member.site).collect(),
    };
    match cluster.plan.sql_proxy {
        true => pgbench::through_proxies(&sites, &cluster.name()),
        false => pgbench::direct(&sites),
    }
}

/// Whoever has the address, if there is one.
fn by_virtual_address(cluster: &Cluster) -> Option<Site> {
    let site = &cluster.data_members().next()?.site;
    cluster.plan.vip.then(|| Site { address: files::virtual_address(site.address), ..site.clone() })
}

fn put_primary_last(cluster: &Cluster, members: &mut [&Member]) {
    let primary = cluster.primary().map(Member::name);
    members.sort_by_key(|member| Some(member.name()) == primary);
}

impl Player<'_> {
    pub(super) fn only_errors(&mut self, codes: &[String]) -> Result<()> {
        let since = self.before.as_ref().context("nothing has happened yet")?.at;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let history = self.client.history();
        let after = history.attempts.iter().filter(|attempt| attempt.ended > since);
        for attempt in after.filter(|attempt| attempt.outcome != Outcome::Acknowledged) {
            let (code, error) = (attempt.code.as_deref(), attempt.error.as_deref().unwrap_or_default());
            let is_allowed = code.is_some_and(|code| codes.iter().any(|allowed| allowed == code));
            ensure!(is_allowed, "row {} met {code:?}: {error}", attempt.id);
            *counts.entry(code.unwrap_or_default().to_owned()).or_default() += 1;
        }
        let complaints = self.pgbench.as_ref().map_or_else(Vec::new, Pgbench::complaints);
        // The last one sums the others up.
        for complaint in complaints.iter().filter(|line| !line.contains("Run was aborted")) {
            let code = pgbench::code_of(complaint);
            let is_allowed = code.is_some_and(|code| codes.iter().any(|allowed| allowed == code));
            ensure!(is_allowed, "pgbench says: {complaint}");
            *counts.entry(code.unwrap_or_default().to_owned()).or_default() += 1;
        }
        let shown: Vec<String> = counts.iter().map(|(code, count)| format!("{count} x {code}")).collect();
        let shown = if shown.is_empty() { "no errors".to_owned() } else { shown.join(", ") };
        self.figures.push(format!("clients saw {shown}"));
        Ok(())
    }

    pub(super) fn connections_kept(&mut self) -> Result<()> {
        let since = self.before.as_ref().context("nothing has happened yet")?.at;
        let history = self.client.history();
        let again = history.connected.iter().filter(|at| **at > since).count();
        ensure!(again == 0, "the client has connected {again} times since the first event");
        self.figures.push("connections kept".to_owned());
        Ok(())
    }

    /// That of before the event has no listener any more: it was killed, and the kernel closed what it had.
    pub(super) fn sql_proxy_runs(&mut self, of: &Target, within: Duration) -> Result<()> {
        let name = self.one(of)?;
        let address = SocketAddr::from((self.cluster.member(&name)?.site.address, SQL_PROXY_PORT));
        let runs = |player: &Player<'_>| {
            let member = player.cluster.member(&name);
            TcpStream::connect_timeout(&address, CONNECT_PATIENCE).is_ok()
                && member.is_ok_and(|member| member.process(Kind::SqlProxy).is_some())
        };
        self.wait(within, &format!("the SQL proxy of {name} takes connections"), runs)?;
        let took = clock::now().since(self.mark).as_secs_f64();
        self.figures.push(format!("SQL proxy of {name} back after {took:.2} s"));
        Ok(())
    }
}
