//! `GET /v1/sql/routes`: where a SQL proxy beside this member sends applications, and for how long that may be relied upon.
//!
//! A proxy that has asked at `t` sends writes until `t + lease_ms` and then holds them. Fencing does not rest on that: the
//! guard ends a primary whose lease has run out, whoever still talks to it. It keeps a proxy beside a member that is cut
//! off from going on with a primary that may be none any more. So the time is reckoned short:
//!
//! - **On the holder of the lease** it is what is left of the lease, by the lease's own thread.
//! - **Elsewhere** it is the shorter of two. One is what was left of the lease by the primary's own word, less the age of
//!   that word. The other is the usable length of a lease less the time since this member last heard of the leader of the
//!   replicated log, or, leading it, of a majority: a member that is heard by nobody does not learn that the epoch has ended.
//!   It is nothing where no majority of the voters is heard at all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use mainstay_core::lease::usable;
use mainstay_core::record::Kind;
use mainstay_core::view::Lease;
use mainstay_core::{MemberId, Now};
use mainstay_net::routes::{Route, Routes};
use serde::Deserialize;
use tokio::time::Instant;

use super::caller::Caller;
use super::input::Parameters;
use super::{Control, Refuse, health};
use crate::clock;
use crate::status::{MemberStatus, Role, Status};

/// The path.
pub(super) const PATH: &str = "/v1/sql/routes";
/// Whoever waits longer asks again: a proxy then notices that the member has gone.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A waiting question is answered after this part of what `lease_ms` would have said. The time counts from the asking, so
/// a longer wait would use up what it waits for.
const PART_OF_LEASE: u32 = 4;
/// Written by the loop ten times a second: what is older says nothing of now.
const STATUS_FRESH: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoutesQuery {
    /// The version that the proxy has.
    version: Option<u64>,
    /// How long to wait for another one.
    wait_ms: Option<u64>,
}

pub(super) async fn routes(
    State(control): State<Control>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Parameters(query): Parameters<RoutesQuery>,
) -> Result<Json<Routes>, Refuse> {
    let wait = Duration::from_millis(query.wait_ms.unwrap_or(0));
    if wait > LONGEST_WAIT {
        return Err(Refuse::bad_input(format!("wait_ms={} is too long", wait.as_millis()))
            .remedy("wait for at most 5000 ms, and ask again"));
    }
    let mut until = Instant::now() + wait;
    let seen = &control.seen;
    let (mut status, mut lease, mut guard) = (seen.status.clone(), seen.lease.clone(), seen.guard.clone());
    loop {
        // Marked as seen before the look: what changes during it wakes the wait at once.
        status.mark_unchanged();
        lease.mark_unchanged();
        guard.mark_unchanged();
        let routes = Known::of(&control, &caller).routes();
        if query.version != Some(routes.version) || Instant::now() >= until {
            return Ok(Json(routes));
        }
        if routes.primary.is_some() {
            until = until.min(Instant::now() + Duration::from_millis(routes.lease_ms) / PART_OF_LEASE);
        }
        tokio::select! {
            Ok(()) = status.changed() => {}
            Ok(()) = lease.changed() => {}
            Ok(()) = guard.changed() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

/// What the answer is made from.
struct Known {
    now: Now,
    /// What the main loop said last, and how long ago.
    status: Arc<Status>,
    status_age: Duration,
    /// What `/primary` would answer here.
    is_primary: Result<(), String>,
    /// From the lease's own thread.
    held: Option<Lease>,
    /// When this member last heard of the leader of the replicated log or, leading it, of a majority; 0 for never.
    leader_seen: Now,
    lease_length: Duration,
    /// Whether whoever asks is on this machine.
    is_here: bool,
}

impl Known {
    fn of(control: &Control, caller: &Caller) -> Known {
        let is_here = matches!(caller, Caller::Local { .. });
        let seen = &control.seen;
        let is_primary = health::is_primary(seen);
        let status = seen.status.borrow().clone();
        let held = seen.lease.borrow().held;
        let leader_seen = Now(control.store.borrow().leader_seen);
        // The clock is read last: what is taken from it is never older than what it is compared with.
        let now = clock::now();
        let (status_age, lease_length) = (seen.heartbeat.age(now), seen.lease_length);
        Known { now, status, status_age, is_primary, held, leader_seen, lease_length, is_here }
    }

    fn routes(&self) -> Routes {
        let status = &self.status;
        let (primary, reason) = match self.primary() {
            Ok(route) => (Some(route), String::new()),
            Err(why) => (None, why),
        };
        let lease = if primary.is_some() { self.lease() } else { Duration::ZERO };
        let is_loop_alive = self.status_age < STATUS_FRESH;
        let standbys = status.members.iter().filter(|row| is_loop_alive && self.lets_readers_in(row));
        let mut routes = Routes {
            version: 0,
            cluster: status.cluster.clone(),
            epoch: status.epoch.0,
            primary,
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            standbys: standbys.filter_map(|row| self.route(row)).collect(),
            apis: status
                .members
                .iter()
                .filter(|row| row.kind == Kind::Data)
                .filter_map(|row| row.http)
                .collect(),
            proxies: status.members.iter().filter_map(|row| self.proxy(row)).collect(),
            reason,
        };
        routes.version = version(&routes);
        routes
    }

    fn row(&self, member: &MemberId) -> Option<&MemberStatus> {
        self.status.members.iter().find(|row| row.name == *member)
    }

    /// The primary that lets applications in, as far as this member knows; otherwise why there is none.
    fn primary(&self) -> Result<Route, String> {
        let status = &self.status;
        let primary = match &status.primary {
            Some(primary) if status.phase == "open" => primary,
            _ => return Err(self.why_not(None)),
        };
        if *primary == status.member {
            self.is_primary.clone()?;
        } else if self.status_age >= STATUS_FRESH {
            let silent = self.status_age.as_secs();
            return Err(format!("the main loop of {} has not turned for {silent} s", status.member));
        } else if !status.writable {
            return Err(self.why_not(Some(primary)));
        }
        if self.lease() < Duration::from_millis(1) {
            let epoch = status.epoch;
            return Err(status.without_majority().unwrap_or_else(|| {
                format!(
                    "{} does not know whether {primary} still holds the lease of epoch {epoch}",
                    status.member
                )
            }));
        }
        self.row(primary).and_then(|row| self.route(row)).ok_or_else(|| self.why_not(Some(primary)))
    }

    fn why_not(&self, primary: Option<&MemberId>) -> String {
        let status = &self.status;
        let said = primary.and_then(|primary| self.row(primary)).map(|row| row.reason.as_deref());
        match (status.without_majority(), primary, said.flatten()) {
            (Some(why), _, _) => why,
            (None, Some(primary), Some(why)) => format!("{primary} lets no applications in: {why}"),
            (None, Some(primary), None) => format!("the primary {primary} is not heard"),
            (None, None, _) if status.reason.is_empty() => "nothing is known yet".to_owned(),
            (None, None, _) => status.reason.clone(),
        }
    }

    /// See the head of this file.
    fn lease(&self) -> Duration {
        let status = &self.status;
        if status.primary.as_ref() == Some(&status.member) {
            let held = self.held.filter(|lease| lease.epoch == status.epoch);
            return held.map_or(Duration::ZERO, |lease| self.now.until(lease.deadline));
        }
        if self.leader_seen == Now(0) || status.without_majority().is_some() {
            return Duration::ZERO;
        }
        let by_log = usable(self.lease_length).saturating_sub(self.now.since(self.leader_seen));
        let said = status.lease.as_ref().and_then(|lease| lease.remaining_ms).map(Duration::from_millis);
        let primary = status.primary.as_ref().and_then(|primary| self.row(primary));
        let heard = primary.and_then(|row| row.heard_ms).map(Duration::from_millis);
        match (said, heard) {
            (Some(said), Some(heard)) => by_log.min(said.saturating_sub(heard + self.status_age)),
            _ => Duration::ZERO,
        }
    }

    /// A standby lets readers in as long as it streams. One of an older epoch may follow a primary that is none any more.
    fn lets_readers_in(&self, row: &MemberStatus) -> bool {
        row.role == Role::Standby && !row.maintenance && !row.leaving && row.epoch == Some(self.status.epoch)
    }

    /// Not the one that asks: that is on this machine, if it asks from it.
    fn proxy(&self, row: &MemberStatus) -> Option<SocketAddr> {
        let is_own = self.is_here && row.name == self.status.member;
        let proxy = row.sql_proxy.as_ref().filter(|_| !is_own)?;
        proxy.pid.and(proxy.address.or(proxy.address_readonly))
    }

    fn route(&self, row: &MemberStatus) -> Option<Route> {
        let postgres = row.postgres.as_ref()?;
        let address = postgres.address?;
        let is_own = self.is_here && row.name == self.status.member;
        let is_primary = row.role == Role::Primary;
        Some(Route {
            member: row.name.to_string(),
            host: address.ip(),
            port: address.port(),
            socket_dir: is_own.then(|| postgres.socket_dir.clone()),
            lag_bytes: if is_primary { Some(0) } else { row.lag_bytes },
            is_sync: row.sync && !is_primary,
        })
    }
}

/// Of everything but the times and the lags.
fn version(routes: &Routes) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (&routes.cluster, routes.epoch, &routes.reason, &routes.apis, &routes.proxies).hash(&mut hasher);
    for (place, route) in
        routes.primary.iter().map(|route| (0, route)).chain(routes.standbys.iter().map(|route| (1, route)))
    {
        (place, &route.member, route.host, route.port, &route.socket_dir, route.is_sync).hash(&mut hasher);
    }
    // JSON readers of other languages have 53 bits for a number.
    hasher.finish() >> 11
}

#[cfg(test)]
mod tests;
