//! The status that people and scripts read, put together from what this member knows.

mod addresses;

use std::time::Duration;

use mainstay_core::action::Job;
use mainstay_core::decide::Decision;
use mainstay_core::reason::Reason;
use mainstay_core::record::{Kind, Phase, Record};
use mainstay_core::sync::SyncSet;
use mainstay_core::view::{MemberState, PEER_FRESH, PeerServer, Server, View};
use mainstay_core::{Lsn, MemberId, Now};

use crate::configuration::Configuration;
use crate::facts::Facts;
use crate::machinery::port;
use crate::operation;
use crate::roster::Roster;
use crate::status::{
    CancelledSwitchover, Card, EndedRestart, Endpoints, LeaseStatus, MemberStatus, PostgresStatus,
    RestartStatus, Role, SqlProxyStatus, Status,
};

/// How long it is shown that something was overridden.
const OVERRIDDEN_SHOWN: Duration = Duration::from_secs(600);

/// Programs of one member that do not change while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Constants {
    pub(crate) version: String,
    pub(crate) socket_dir: std::path::PathBuf,
    pub(crate) data_dir: std::path::PathBuf,
}

/// What this member says of itself for people.
pub(crate) fn card(
    configuration: &Configuration,
    constants: &Constants,
    facts: &Facts,
    view: &View,
    decision: &Decision,
) -> Card {
    let running = view.running();
    let status = facts.guard.status.as_ref();
    let is_data = configuration.own_row().kind == Kind::Data;
    let primary = running.and_then(|running| running.primary.as_ref());
    let timeline = primary
        .and_then(|primary| primary.history.last())
        .map(|fork| fork.timeline)
        .or_else(|| running.and_then(|running| running.streaming).map(|streaming| streaming.timeline));
    let mut warnings: Vec<String> = status.map(|status| status.warnings.clone()).unwrap_or_default();
    warnings.extend(facts.guard.error.clone());
    warnings.extend(facts.store_failure.clone());
    warnings.extend(overridden(facts, view.now));
    warnings.extend(facts.configured.errors.iter().cloned());
    Card {
        pid: std::process::id(),
        guard_pid: status.map(|status| status.guard_pid.unsigned_abs()),
        postgres: is_data.then(|| PostgresStatus {
            pid: status.and_then(|status| status.postmaster).map(i32::unsigned_abs),
            address: configuration.own_row().postgres,
            port: port(configuration),
            socket_dir: constants.socket_dir.clone(),
            data_dir: constants.data_dir.clone(),
            version: constants.version.clone(),
        }),
        role: Some(role(view, is_data)),
        timeline,
        inserted: primary.map(|primary| primary.inserted),
        gate_open: view.gate_open,
        reason: reason(view, decision),
        warnings,
        progress: None,
        sql_proxy: None,
        verified: None,
        addresses: Vec::new(),
        lease_remaining_ms: view
            .lease
            .filter(|_| view.holds_lease())
            .map(|lease| milliseconds(view.now.until(lease.deadline))),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        free_bytes: facts.disk.free_bytes,
        total_bytes: facts.disk.total_bytes,
        write_waits_ms: facts.health.write_waits_since.map(|since| milliseconds(view.now.since(since))),
        pending_restart: facts.configured.pending.clone(),
        altered: facts.configured.altered.clone(),
        configuration: is_data.then_some(facts.configured.serial),
        restart_waits_for: decision.reasons.iter().find_map(|reason| match reason {
            Reason::RestartWaits { what } => Some(what.clone()),
            _ => None,
        }),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The first table says what a member is; of a primary that lets nobody in, the last one says why.
fn reason(view: &View, decision: &Decision) -> String {
    let shut = matches!(decision.reasons.first(), Some(Reason::Primary { .. })) && !view.gate_open;
    let reason = if shut { decision.reasons.last() } else { decision.reasons.first() };
    reason.map(ToString::to_string).unwrap_or_default()
}

/// Somebody should know that commits may have been acknowledged with less than was promised.
fn overridden(facts: &Facts, now: Now) -> Option<String> {
    let (at, names) = facts.sql.overridden.as_ref()?;
    let ago = now.since(*at);
    (ago < OVERRIDDEN_SHOWN).then(|| {
        format!(
            "postgresql.auto.conf had set {} here {} s ago; Mainstay sets it, and took it back",
            names.join(", "),
            ago.as_secs()
        )
    })
}

fn role(view: &View, is_data: bool) -> Role {
    if !is_data {
        return Role::Witness;
    }
    let rejoining = matches!(view.job, Some(Job::Rewind { .. } | Job::Clone { .. }));
    match &view.server {
        _ if rejoining => Role::Rejoining,
        Server::Running(running) if running.opened.is_some() && running.primary.is_some() => Role::Primary,
        Server::Running(running) if running.streaming.is_some() => Role::Standby,
        Server::Running(_) => Role::Starting,
        Server::Down { .. } | Server::Ending => Role::Starting,
        Server::Unknown => Role::Unknown,
    }
}

/// The whole cluster as this member sees it.
pub(crate) fn status(
    configuration: &Configuration,
    facts: &Facts,
    view: &View,
    own: (&MemberState, &Card),
) -> Status {
    let (record, (own_state, own_card)) = (&view.record, own);
    let primary = record.primary().cloned();
    let primary_card = primary.as_ref().and_then(|primary| {
        if *primary == view.me {
            Some(own_card)
        } else {
            fresh(facts, view.now, primary).map(|(_, card)| card)
        }
    });
    let inserted = primary_card.and_then(|card| card.inserted);
    let members = facts
        .roster
        .keys()
        .map(|name| {
            if *name == view.me {
                member(facts, view, name, Some((Some(0), own_state, own_card)), inserted)
            } else {
                let peer = facts.peer_card(name).map(|(heard_at, state, card)| {
                    let ago = u64::try_from(view.now.since(heard_at).as_millis()).unwrap_or(u64::MAX);
                    (Some(ago), state, card)
                });
                member(facts, view, name, peer, inserted)
            }
        })
        .collect();
    let tenure = record.tenure();
    let operation = operation::status(facts, view, own_card);
    let mut warnings = operation::warnings(&operation);
    warnings.extend(own_card.warnings.clone());
    Status {
        cluster: configuration.cluster.clone(),
        member: view.me.clone(),
        now_unix_ms: 0,
        epoch: record.epoch,
        phase: match record.phase {
            Phase::Unfounded => "unfounded",
            Phase::Granted => "granted",
            Phase::Open => "open",
            Phase::Ended { .. } => "ended",
        }
        .to_owned(),
        writable: primary_card.is_some_and(|card| card.gate_open && card.lease_remaining_ms.is_some()),
        primary,
        endpoints: endpoints(configuration, &facts.roster, &proxies(facts, view, own_card)),
        members,
        lease: tenure.map(|tenure| LeaseStatus {
            epoch: tenure.epoch,
            holder: tenure.holder.clone(),
            length_ms: record.settings.lease_ms,
            remaining_ms: primary_card.and_then(|card| card.lease_remaining_ms),
        }),
        at_risk_bytes: at_risk(facts, view, own_state, inserted),
        acknowledgements: tenure.map_or(0, |tenure| tenure.sync.k),
        synchronous_standby_names: tenure
            .map(|tenure| crate::machinery::Machinery::names(&tenure.names))
            .unwrap_or_default(),
        leads: facts.leads,
        cancelled_switchover: cancelled_switchover(record),
        configuration: record.parameters.serial,
        restart: restart(record, primary_card),
        ended_restart: ended_restart(record),
        store_leader: facts.leader.and_then(|leader| {
            record.members.iter().find(|(_, row)| row.raft_id == leader).map(|(name, _)| name.clone())
        }),
        verified: primary_card.and_then(|card| card.verified.clone()),
        addresses: addresses::addresses(facts, view, own_card),
        reason: no_majority(facts, view).unwrap_or_else(|| own_card.reason.clone()),
        warnings,
        operation,
    }
}

fn cancelled_switchover(record: &Record) -> Option<CancelledSwitchover> {
    let cancelled = record.cancelled.as_ref()?;
    Some(CancelledSwitchover { id: cancelled.id, why: cancelled.why.clone() })
}

fn ended_restart(record: &Record) -> Option<EndedRestart> {
    let ended = record.restarts.ended.as_ref()?;
    let done = ended.done.iter().cloned().collect();
    Some(EndedRestart { id: ended.id, done, why: ended.why.clone() })
}

fn restart(record: &Record, primary_card: Option<&Card>) -> Option<RestartStatus> {
    record.restarts.wanted.as_ref().map(|restart| RestartStatus {
        id: restart.id,
        by: restart.by.clone(),
        turn: restart.turn.as_ref().map(|turn| turn.member.clone()),
        done: restart.done.keys().cloned().collect(),
        waits_for: primary_card.and_then(|card| card.restart_waits_for.clone()),
    })
}

/// What stands above every other reason: too few voters are heard for anything to be decided.
fn no_majority(facts: &Facts, view: &View) -> Option<String> {
    let is_heard = |name: &&MemberId| **name == view.me || fresh(facts, view.now, name).is_some();
    let (heard, silent): (Vec<&MemberId>, Vec<&MemberId>) = view.record.voters().partition(is_heard);
    let founded = !view.record.members.is_empty();
    if !founded || heard.len() >= view.record.majority() {
        return None;
    }
    let names =
        |members: &[&MemberId]| members.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" and ");
    let heard_words = if heard.is_empty() { "none".to_owned() } else { format!("only {}", names(&heard)) };
    Some(format!(
        "{heard_words} of {} voters is heard, not {}: nothing can be decided until a majority is back",
        heard.len() + silent.len(),
        names(&silent)
    ))
}

fn fresh<'a>(facts: &'a Facts, now: Now, member: &MemberId) -> Option<(&'a MemberState, &'a Card)> {
    let (heard_at, state, card) = facts.peer_card(member)?;
    (now.since(heard_at) < PEER_FRESH * 2).then_some((state, card))
}

type Heard<'a> = (Option<u64>, &'a MemberState, &'a Card);

fn member(
    facts: &Facts,
    view: &View,
    name: &MemberId,
    heard: Option<Heard<'_>>,
    inserted: Option<Lsn>,
) -> MemberStatus {
    let row = &facts.roster[name];
    let is_fresh =
        heard.is_some_and(|(ago, _, _)| ago.is_some_and(|ago| u128::from(ago) < PEER_FRESH.as_millis() * 2));
    let known = heard.filter(|_| is_fresh);
    let role = known.and_then(|(_, _, card)| card.role).unwrap_or(Role::Unknown);
    let flushed = known.and_then(|(_, state, _)| state.streaming).map(|streaming| streaming.flushed);
    let tenure = view.record.base.as_ref().filter(|_| view.record.is_open());
    MemberStatus {
        name: name.clone(),
        kind: row.kind,
        role,
        votes: view.record.voters().any(|voter| voter == name),
        address: row.address,
        http: row.http,
        leaving: row.leaving,
        epoch: known.map(|(_, state, _)| state.epoch).filter(|epoch| epoch.0 > 0),
        timeline: known.and_then(|(_, _, card)| card.timeline),
        lag_bytes: flushed
            .zip(inserted)
            .filter(|_| role == Role::Standby)
            .map(|(flushed, inserted)| inserted.bytes_ahead_of(flushed)),
        sync: tenure.is_some_and(|tenure| counts(&tenure.sync, name, known.map(|(_, state, _)| state))),
        pid: known.map(|(_, _, card)| card.pid),
        guard_pid: known.and_then(|(_, _, card)| card.guard_pid),
        postgres: heard.and_then(|(_, _, card)| card.postgres.clone()),
        incarnation: known.and_then(|(_, state, _)| state.incarnation),
        maintenance: view.record.in_maintenance(name),
        progress: known.and_then(|(_, _, card)| card.progress.clone()),
        pending_restart: known.map(|(_, _, card)| card.pending_restart.clone()).unwrap_or_default(),
        altered: known.map(|(_, _, card)| card.altered.clone()).unwrap_or_default(),
        configuration: known.and_then(|(_, _, card)| card.configuration),
        reason: known.map(|(_, _, card)| card.reason.clone()),
        heard_ms: heard.and_then(|(ago, _, _)| ago),
        version: known.and_then(|(_, _, card)| card.version.clone()),
        free_bytes: known.and_then(|(_, _, card)| card.free_bytes),
        total_bytes: known.and_then(|(_, _, card)| card.total_bytes),
        write_waits_ms: known.and_then(|(_, _, card)| card.write_waits_ms),
        sql_proxy: known.and_then(|(_, _, card)| card.sql_proxy.clone()),
    }
}

/// Whether it is a voter; another life of the data directory than the one that was counted is not, as far as it is known.
fn counts(sync: &SyncSet, name: &MemberId, state: Option<&MemberState>) -> bool {
    let said = state.and_then(|state| state.incarnation);
    sync.voters
        .iter()
        .any(|voter| voter.member == *name && said.is_none_or(|incarnation| incarnation == voter.incarnation))
}

/// With voters nothing acknowledged is at risk. Alone, whatever no standby has flushed.
fn at_risk(facts: &Facts, view: &View, own: &MemberState, inserted: Option<Lsn>) -> u64 {
    if view.record.sync().is_none_or(|sync| !sync.is_lone()) {
        return 0;
    }
    let Some(inserted) = inserted else { return 0 };
    let others = facts.peers.values().filter(|(heard_at, _)| view.now.since(*heard_at) < PEER_FRESH);
    let standbys = others.map(|(_, gossip)| &gossip.state).chain([own]);
    let following =
        standbys.filter(|state| state.server == PeerServer::Standby && state.epoch == view.record.epoch);
    let furthest = following.filter_map(|state| state.streaming).map(|streaming| streaming.flushed).max();
    inserted.bytes_ahead_of(furthest.unwrap_or(Lsn::ZERO))
}

/// The members' SQL proxies, also of those that are silent now: clients go on to the next.
fn proxies(facts: &Facts, view: &View, own: &Card) -> Vec<SqlProxyStatus> {
    let card = |name: &MemberId| match *name == view.me {
        true => Some(own),
        false => facts.peer_card(name).map(|(_, _, card)| card),
    };
    let stays = facts.roster.iter().filter(|(_, row)| !row.leaving);
    stays.filter_map(|(name, _)| card(name)?.sql_proxy.clone()).collect()
}

fn endpoints(configuration: &Configuration, roster: &Roster, proxies: &[SqlProxyStatus]) -> Endpoints {
    let bootstrap = &configuration.bootstrap;
    let login = match (&bootstrap.role, &bootstrap.password) {
        (Some(role), Some(password)) if configuration.show_password => {
            format!("{}:{}@", in_url(role), in_url(password))
        }
        (Some(role), _) => format!("{}@", in_url(role)),
        (None, _) => String::new(),
    };
    let database = bootstrap.database.as_ref().or(bootstrap.role.as_ref());
    let database = database.map_or_else(|| "postgres".to_owned(), |database| in_url(database));
    let passfile =
        configuration.passfile().map(|path| format!("passfile={}", in_url(&path.to_string_lossy())));
    let data: Vec<(&MemberId, String)> = roster
        .iter()
        .filter(|(_, row)| !row.leaving)
        .filter_map(|(name, row)| row.postgres.map(|address| (name, address.to_string())))
        .collect();
    let hosts: Vec<&str> = data.iter().map(|(_, address)| address.as_str()).collect();
    let hosts = hosts.join(",");
    let url = |hosts: &str, options: &[&str]| {
        let options: Vec<&str> = options.iter().copied().chain(passfile.as_deref()).collect();
        let mark = if options.is_empty() { "" } else { "?" };
        format!("postgres://{login}{hosts}/{database}{mark}{}", options.join("&"))
    };
    // A proxy greets a client once there is a primary, so that a shorter time would give up on it during a failover.
    let through = |addresses: Vec<String>| {
        (!addresses.is_empty()).then(|| url(&addresses.join(","), &["connect_timeout=5"]))
    };
    let addresses = |which: fn(&SqlProxyStatus) -> Option<std::net::SocketAddr>| {
        proxies.iter().filter_map(which).map(|address| address.to_string()).collect()
    };
    Endpoints {
        sql_rw: through(addresses(|proxy| proxy.address)),
        sql_ro: through(addresses(|proxy| proxy.address_readonly)),
        rw: url(&hosts, &["target_session_attrs=read-write", "connect_timeout=2"]),
        ro: url(&hosts, &["target_session_attrs=prefer-standby", "connect_timeout=2"]),
        members: data.iter().map(|(name, address)| ((*name).clone(), url(address, &[]))).collect(),
    }
}

/// RFC 3986, section 2.1: what could mean something else in a URL is written by its number.
fn in_url(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The status before anything is known.
pub(crate) fn first(configuration: &Configuration, facts: &Facts) -> Status {
    let view = facts.view(None, None);
    status(configuration, facts, &view, (&MemberState::default(), &Card::default()))
}

#[cfg(test)]
mod tests {
    use super::in_url;

    #[test]
    fn what_means_something_in_a_url_is_encoded() {
        assert_eq!(in_url("/var/lib/main-stay/a.pgpass"), "/var/lib/main-stay/a.pgpass");
        assert_eq!(in_url("p@ss:w&rd é"), "p%40ss%3Aw%26rd%20%C3%A9");
    }
}
