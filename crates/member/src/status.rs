//! What `status --json` prints: a stable schema that scripts rely on. Fields are only ever added.

mod addresses;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use mainstay_core::record::Kind;
use mainstay_core::view::MemberState;
use mainstay_core::{Epoch, Incarnation, Lsn, MemberId, Timeline};
use serde::{Deserialize, Serialize};

use crate::operation::OperationStatus;
pub use addresses::AddressStatus;
pub(crate) use addresses::OwnAddress;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub cluster: String,
    /// The member that answers.
    pub member: MemberId,
    /// When it answered, by its machine's clock, in milliseconds since 1970: for people only.
    #[serde(default)]
    pub now_unix_ms: u64,
    pub epoch: Epoch,
    /// `unfounded`, `granted`, `open` or `ended`.
    pub phase: String,
    pub primary: Option<MemberId>,
    /// Whether applications are let in by the primary, as far as this member knows.
    pub writable: bool,
    pub endpoints: Endpoints,
    pub members: Vec<MemberStatus>,
    pub lease: Option<LeaseStatus>,
    /// What would be lost if the primary's machine died now, in bytes of WAL; 0 with synchronous standbys.
    pub at_risk_bytes: u64,
    /// How many of the standbys with `sync` must flush a commit before it is acknowledged; 0 if the primary alone does.
    #[serde(default)]
    pub acknowledgements: u32,
    /// What PostgreSQL on the primary is to say in this parameter, as the record has it.
    #[serde(default)]
    pub synchronous_standby_names: String,
    /// Whether the member that answers leads the replicated log.
    #[serde(default)]
    pub leads: bool,
    /// The newest switchover that was given up, if one was.
    pub cancelled_switchover: Option<CancelledSwitchover>,
    /// The number of the cluster's configuration; see `mainstay config history`.
    #[serde(default)]
    pub configuration: u64,
    /// The restart that is under way.
    #[serde(default)]
    pub restart: Option<RestartStatus>,
    /// How the newest one ended.
    #[serde(default)]
    pub ended_restart: Option<EndedRestart>,
    /// The member that leads the store, if this one knows.
    pub store_leader: Option<MemberId>,
    /// What the primary found when it last verified the cluster on its schedule; `null` if it has not.
    #[serde(default)]
    pub verified: Option<VerifyStatus>,
    /// The virtual addresses that any member's file has.
    #[serde(default)]
    pub addresses: Vec<AddressStatus>,
    /// Why things are as they are, in a sentence.
    pub reason: String,
    /// What needs a person, if anything.
    pub warnings: Vec<String>,
    /// What operators have asked for that is not done yet; while there is no primary, what everybody holds.
    #[serde(default)]
    pub operation: OperationStatus,
}

/// A voter that was heard so lately is there: members tell each other something four times a second.
const HEARD_MS: u64 = 2_000;

/// What can be done without a majority.
pub const WITHOUT_MAJORITY: &str =
    "start the voters that are missing; if a majority is lost for good: mainstay recover --from-this-member";

impl Status {
    /// Why nothing can be decided, as far as the member that answers hears; `None` if it hears a majority of the voters.
    pub fn without_majority(&self) -> Option<String> {
        let is_heard = |row: &MemberStatus| {
            row.name == self.member || row.heard_ms.is_some_and(|heard_ms| heard_ms < HEARD_MS)
        };
        let (heard, missing): (Vec<_>, Vec<_>) =
            self.members.iter().filter(|row| row.votes).partition(|row| is_heard(row));
        if heard.len() > missing.len() || heard.is_empty() && missing.is_empty() {
            return None;
        }
        let names: Vec<&str> = missing.iter().map(|row| row.name.as_str()).collect();
        let (heard, all) = (heard.len(), heard.len() + missing.len());
        let names = names.join(" and ");
        Some(format!(
            "no majority: {names} not heard, {heard} of {all} voters left, so nothing can be decided"
        ))
    }
}

/// A switchover that did not happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelledSwitchover {
    pub id: u64,
    pub why: String,
}

/// libpq connection URLs. With a password only in a demo; elsewhere `passfile` names the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoints {
    pub rw: String,
    pub ro: String,
    pub members: BTreeMap<MemberId, String>,
    /// The same through the members' SQL proxies; `None` while nobody is known to have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_rw: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_ro: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Primary,
    Standby,
    Witness,
    Starting,
    Rejoining,
    Stopped,
    Unknown,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Standby => "standby",
            Role::Witness => "witness",
            Role::Starting => "starting",
            Role::Rejoining => "rejoining",
            Role::Stopped => "stopped",
            Role::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    pub name: MemberId,
    pub kind: Kind,
    pub role: Role,
    /// Whether it votes in the store and for the lease.
    pub votes: bool,
    /// Whether it is being taken out of the cluster.
    #[serde(default)]
    pub leaving: bool,
    /// Where the other members reach it.
    pub address: SocketAddr,
    /// Read-only HTTP.
    pub http: Option<SocketAddr>,
    pub epoch: Option<Epoch>,
    pub timeline: Option<Timeline>,
    /// How far the standby is behind the primary; `null` where that is not known.
    pub lag_bytes: Option<u64>,
    /// Whether its flush counts towards acknowledging a commit.
    pub sync: bool,
    pub pid: Option<u32>,
    pub guard_pid: Option<u32>,
    pub postgres: Option<PostgresStatus>,
    /// Which life of its data directory it has.
    #[serde(default)]
    pub incarnation: Option<Incarnation>,
    /// Whether it is neither promoted nor counted.
    #[serde(default)]
    pub maintenance: bool,
    /// How far a clone or a rewind is.
    #[serde(default)]
    pub progress: Option<ProgressStatus>,
    /// Parameters that its PostgreSQL does not run with yet.
    #[serde(default)]
    pub pending_restart: Vec<PendingParameter>,
    /// What somebody has set by `ALTER SYSTEM`, or by hand in its file.
    #[serde(default)]
    pub altered: Vec<AlteredParameter>,
    /// The number of the cluster's configuration that it uses.
    #[serde(default)]
    pub configuration: Option<u64>,
    /// What it is about, in its own words.
    pub reason: Option<String>,
    /// How long ago it was heard, in milliseconds; 0 for the member that answers.
    pub heard_ms: Option<u64>,
    /// The version of Mainstay that it runs.
    #[serde(default)]
    pub version: Option<String>,
    /// What PostgreSQL may still write, in bytes, on the fullest of its file systems, and the size of that one.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    #[serde(default)]
    pub total_bytes: Option<u64>,
    /// For how long its disk has not finished a small write, in milliseconds; `null` if none waits.
    #[serde(default)]
    pub write_waits_ms: Option<u64>,
    /// Its SQL proxy; `null` if it is to run none, or is not heard.
    #[serde(default)]
    pub sql_proxy: Option<SqlProxyStatus>,
}

/// The SQL proxy that a member keeps running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlProxyStatus {
    /// `null` while it does not run.
    pub pid: Option<u32>,
    /// Where clients on other machines reach it, for the primary; `null` if it listens for its own machine only.
    #[serde(default)]
    pub address: Option<SocketAddr>,
    /// The same for the standbys; `null` also if it does not take clients of these.
    #[serde(default)]
    pub address_readonly: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresStatus {
    pub pid: Option<u32>,
    pub address: Option<SocketAddr>,
    pub port: u16,
    pub socket_dir: PathBuf,
    pub data_dir: PathBuf,
    pub version: String,
}

/// How far a clone or a rewind is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressStatus {
    pub done_bytes: u64,
    /// An estimate, which may grow; 0 until it is known.
    pub total_bytes: u64,
    /// How long it will still take, at the speed so far.
    pub seconds_left: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseStatus {
    pub epoch: Epoch,
    pub holder: MemberId,
    pub length_ms: u64,
    /// How long the holder may go on without another renewal; known to the holder only.
    pub remaining_ms: Option<u64>,
}

/// The newest run of `verify` on the primary's schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyStatus {
    /// When it began, by the primary's clock, in milliseconds since 1970.
    pub at_unix_ms: u64,
    pub ok: bool,
    /// How many checks have failed.
    pub failures: u64,
    /// Their names, each with the member that it is about; not all of very many.
    pub failed: Vec<String>,
}

/// A parameter that PostgreSQL does not run with yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingParameter {
    pub name: String,
    pub running: String,
    /// `None`: PostgreSQL's default.
    pub wanted: Option<String>,
    /// What has to happen first.
    pub waits_for: String,
}

/// A parameter from `postgresql.auto.conf`, which overrides Mainstay's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlteredParameter {
    pub name: String,
    pub value: String,
}

/// Restarts of PostgreSQL that were asked for and are not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartStatus {
    pub id: u64,
    pub by: String,
    /// Whose PostgreSQL is being restarted.
    pub turn: Option<MemberId>,
    /// Who has had a turn.
    pub done: Vec<MemberId>,
    /// What it waits for, as the primary sees it.
    pub waits_for: Option<String>,
}

/// How the newest restart ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedRestart {
    pub id: u64,
    pub done: Vec<MemberId>,
    /// Why it was given up, if it was.
    pub why: Option<String>,
}

/// What a member tells the others for people to look at, beside what they decide on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Card {
    pub(crate) pid: u32,
    pub(crate) guard_pid: Option<u32>,
    pub(crate) postgres: Option<PostgresStatus>,
    pub(crate) role: Option<Role>,
    pub(crate) timeline: Option<Timeline>,
    /// Primary: the end of its WAL.
    pub(crate) inserted: Option<Lsn>,
    pub(crate) gate_open: bool,
    pub(crate) reason: String,
    pub(crate) warnings: Vec<String>,
    pub(crate) lease_remaining_ms: Option<u64>,
    #[serde(default)]
    pub(crate) version: Option<String>,
    #[serde(default)]
    pub(crate) free_bytes: Option<u64>,
    #[serde(default)]
    pub(crate) total_bytes: Option<u64>,
    #[serde(default)]
    pub(crate) write_waits_ms: Option<u64>,
    #[serde(default)]
    pub(crate) progress: Option<ProgressStatus>,
    /// Primary: what it found when it last verified the cluster.
    #[serde(default)]
    pub(crate) verified: Option<VerifyStatus>,
    #[serde(default)]
    pub(crate) pending_restart: Vec<PendingParameter>,
    #[serde(default)]
    pub(crate) altered: Vec<AlteredParameter>,
    #[serde(default)]
    pub(crate) configuration: Option<u64>,
    /// Primary: what a restart waits for.
    #[serde(default)]
    pub(crate) restart_waits_for: Option<String>,
    #[serde(default)]
    pub(crate) sql_proxy: Option<SqlProxyStatus>,
    #[serde(default)]
    pub(crate) addresses: Vec<OwnAddress>,
}

/// One message of gossip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Gossip {
    pub(crate) state: MemberState,
    pub(crate) card: Card,
}

impl Gossip {
    /// Whether what others decide on has changed, beside ages that change all the time, and positions unless somebody
    /// waits for them.
    pub(crate) fn differs(&self, newer: &Gossip, positions_count: bool) -> bool {
        let (old, new) = (&self.state, &newer.state);
        let timeline = |state: &MemberState| state.streaming.map(|streaming| streaming.timeline);
        old.incarnation != new.incarnation
            || old.server != new.server
            || old.epoch != new.epoch
            || timeline(old) != timeline(new)
            || positions_count && old.streaming != new.streaming
            || old.can_report != new.can_report
            || old.unfit != new.unfit
            || old.format != new.format
            || old.checkpointed != new.checkpointed
            || self.card.role != newer.card.role
            || self.card.gate_open != newer.card.gate_open
            || self.card.holds() != newer.card.holds()
    }
}

impl Card {
    /// The virtual addresses that are here.
    fn holds(&self) -> Vec<IpAddr> {
        self.addresses.iter().filter(|own| own.is_held).map(|own| own.address).collect()
    }
}

impl Endpoints {
    /// The same addresses without anybody's password.
    #[must_use]
    pub fn without_passwords(&self) -> Endpoints {
        Endpoints {
            rw: without_password(&self.rw),
            ro: without_password(&self.ro),
            members: self.members.iter().map(|(name, url)| (name.clone(), without_password(url))).collect(),
            sql_rw: self.sql_rw.as_deref().map(without_password),
            sql_ro: self.sql_ro.as_deref().map(without_password),
        }
    }
}

/// Takes what stands between the first `:` after `//` and the `@` out of a URL.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("//") else { return url.to_owned() };
    let Some((user, hosts)) = rest.split_once('@') else { return url.to_owned() };
    let user = user.split_once(':').map_or(user, |(name, _)| name);
    format!("{scheme}//{user}@{hosts}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_taken_out_of_urls() {
        assert_eq!(
            without_password("postgres://app:s3cr3t@10.0.0.1:5432/app?x=a:b"),
            "postgres://app@10.0.0.1:5432/app?x=a:b"
        );
        assert_eq!(without_password("postgres://app@10.0.0.1:5432/app"), "postgres://app@10.0.0.1:5432/app");
        assert_eq!(without_password("postgres://[::1]:5432/app"), "postgres://[::1]:5432/app");
    }
}
