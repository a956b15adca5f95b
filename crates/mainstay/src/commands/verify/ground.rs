//! What the checks stand on: the configuration, what each member answers, and connections to their PostgreSQL.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use mainstay_core::MemberId;
use mainstay_core::record::Kind;
use mainstay_member::Configuration;
use mainstay_member::roster::{self, Roster};
use mainstay_member::status::{MemberStatus, Role, Status};
use mainstay_postgres::client_tls::VerifyFull;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::row::Written;
use crate::client::{self, Control};
use crate::target::{self, Target};

/// How long a member is waited for: a busy one answers within milliseconds, one behind a closed port never.
const ASK_PATIENCE: Duration = Duration::from_millis(1500);
/// How long PostgreSQL is waited for, with TLS and SCRAM.
pub(super) const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// What `pg_stat_activity` shows.
pub(super) const PURPOSE: &str = "mainstay verify";

/// What a member answered over HTTP, and when.
pub(super) struct Heard {
    pub(super) status: Status,
    /// How far its clock is before ours, in milliseconds, and how exactly that is known.
    pub(super) clock_ahead_ms: i64,
    pub(super) uncertain_ms: i64,
}

pub(super) struct Ground {
    pub(super) configuration: Configuration,
    /// The members as this machine knows them.
    pub(super) roster: Roster,
    /// The cluster as this machine's member sees it, else as another does.
    pub(super) status: Option<Status>,
    /// Why this machine's member does not answer, if it does not.
    pub(super) local_failure: Option<String>,
    /// Each member's own answer.
    pub(super) heard: BTreeMap<MemberId, Result<Heard, String>>,
    tls: Result<VerifyFull, String>,
    /// One connection to each data member, made when it is first asked for: logging in costs both ends some effort.
    clients: BTreeMap<MemberId, OnceCell<Result<Client, String>>>,
    /// The row that several checks look at; written once.
    row: OnceCell<Result<Written, String>>,
}

impl Ground {
    /// Asks everybody, all at once.
    pub(super) async fn survey(configuration: Configuration) -> Result<Ground> {
        let roster = roster::load(&configuration)?;
        let local = Control::of(&configuration).status().await;
        let mut asked = JoinSet::new();
        for (name, row) in roster.clone() {
            asked.spawn(async move { (name, hear(row.http).await) });
        }
        let mut heard = BTreeMap::new();
        while let Some(answer) = asked.join_next().await {
            if let Ok((name, answer)) = answer {
                heard.insert(name, answer.map_err(|error| format!("{error:#}")));
            }
        }
        let (local, local_failure) = match local {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let newest = heard.values().filter_map(|heard| heard.as_ref().ok()).map(|heard| &heard.status);
        let newest = newest.max_by_key(|status| (status.epoch, status.writable)).cloned();
        let tls = target::authority(&configuration).map_err(|error| format!("{error:#}"));
        let clients = roster.keys().map(|name| (name.clone(), OnceCell::new())).collect();
        let (status, row) = (local.or(newest), OnceCell::new());
        Ok(Ground { status, local_failure, configuration, roster, heard, tls, clients, row })
    }

    pub(super) fn data_members(&self) -> impl Iterator<Item = &MemberId> {
        self.roster.iter().filter(|(_, row)| row.kind == Kind::Data).map(|(name, _)| name)
    }

    /// Data members but the primary.
    pub(super) fn standbys(&self) -> Vec<&MemberId> {
        let primary = self.primary();
        self.data_members().filter(|name| Some(*name) != primary).collect()
    }

    pub(super) fn primary(&self) -> Option<&MemberId> {
        self.status.as_ref()?.primary.as_ref()
    }

    /// The primary, or why there is none.
    pub(super) fn require_primary(&self) -> Result<&MemberId> {
        match &self.status {
            Some(status) => {
                status.primary.as_ref().with_context(|| format!("there is no primary: {}", status.reason))
            }
            None => bail!("no member answers"),
        }
    }

    /// What is known of one member: in its own words, else in those of another.
    pub(super) fn row(&self, member: &MemberId) -> Option<&MemberStatus> {
        let find = |status: &'_ Status| status.members.iter().position(|row| row.name == *member);
        let own = self.heard.get(member).and_then(|heard| heard.as_ref().ok()).map(|heard| &heard.status);
        let status = own.or(self.status.as_ref())?;
        find(status).map(|place| &status.members[place])
    }

    pub(super) fn role(&self, member: &MemberId) -> Role {
        self.row(member).map_or(Role::Unknown, |row| row.role)
    }

    pub(super) fn tls(&self) -> Result<&VerifyFull> {
        self.tls.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// A connection to `member` as the role that replicates: it is let in everywhere, also while the gate is shut. All
    /// checks share it, so no transaction may be begun on it.
    pub(super) async fn sql(&self, member: &MemberId) -> Result<&Client> {
        let cell = self.clients.get(member).with_context(|| format!("there is no member {member}"))?;
        let connect = async || self.connect(member).await.map_err(|error| format!("{error:#}"));
        cell.get_or_init(connect).await.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    async fn connect(&self, member: &MemberId) -> Result<Client> {
        let target = Target::replication(&self.configuration, &self.roster, member, self.tls()?)?;
        let client = target.connect(PURPOSE, CONNECT_PATIENCE).await?;
        client.batch_execute("SET statement_timeout = '3s'; SET lock_timeout = '3s'").await?;
        Ok(client)
    }

    /// The row on the primary, written when it is first asked for.
    pub(super) async fn written(&self) -> &Result<Written, String> {
        let write = async || Written::write(self).await.map_err(|error| format!("{error:#}"));
        self.row.get_or_init(write).await
    }

    /// Removes what the checks have made.
    pub(super) async fn clean(&self) -> Result<()> {
        match self.row.get() {
            Some(Ok(written)) => written.remove().await,
            _ => Ok(()),
        }
    }
}

async fn hear(address: Option<std::net::SocketAddr>) -> Result<Heard> {
    let address = address.context("where it answers over HTTP is not known")?;
    let (asked, asked_ms) = (Instant::now(), unix_ms());
    let status: Status = client::public(address, "/v1/status", ASK_PATIENCE).await?;
    let round_trip_ms = i64::try_from(asked.elapsed().as_millis()).unwrap_or(i64::MAX);
    let middle = asked_ms + round_trip_ms / 2;
    let theirs = i64::try_from(status.now_unix_ms).unwrap_or(i64::MAX);
    Ok(Heard { clock_ahead_ms: theirs - middle, uncertain_ms: round_trip_ms / 2 + 1, status })
}

pub(super) fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
