//! Letting a new machine in: what it asks over the members' port, and what a member answers.
//!
//! The machine makes its keys itself and sends requests for certificates. While it asks it listens on the addresses that it
//! wants to have, so that a port that a firewall keeps closed is named before anything is changed. That exactly one of two
//! machines with the same token gets in is settled by the record.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::MemberId;
use mainstay_core::record::{Applied, Command, Invitation, Joining, Kind, Member, OnCrash, Record};
use mainstay_net::pki::{ClusterCa, SERVER_LIFETIME};
use mainstay_net::probe::Reachability;
use mainstay_net::{JoinToken, Joins, KeyFingerprint, probe};
use mainstay_store::RaftStore;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::clock;
use crate::configuration::Configuration;
use crate::machinery::failed;
use crate::propose::Proposer;
use crate::reach::{self, Reach, Service};
use crate::record_machine::RecordMachine;
use crate::roster::{self, Roster};

/// How long a port of the new machine may take to answer: it listens already.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// How long the request may take to reach the record.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);
/// The first names that are given: m2, m3, …
const NAMES: std::ops::Range<u32> = 2..1_000;

/// Invitations that `init` has made before there was a record, in the state directory.
pub const FIRST_INVITATIONS: &str = "first-invitations.json";

/// What a machine that wants to join sends, in JSON.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token with its secret.
    pub token: String,
    /// `None`: the invitation's, or the next free one.
    pub member: Option<MemberId>,
    pub kind: Kind,
    /// Where the other members will reach it.
    pub address: SocketAddr,
    /// `None` for a witness.
    pub postgres: Option<SocketAddr>,
    pub http: SocketAddr,
    pub priority: u32,
    /// The major version of the PostgreSQL programs found; `None` for a witness.
    pub postgresql_major: Option<u32>,
    /// PKCS #10, for the member's own key.
    pub certificate_request: String,
    /// PKCS #10, for the key of its PostgreSQL; `None` for a witness.
    pub server_certificate_request: Option<String>,
    /// Under which names clients reach its PostgreSQL, beside its name and address.
    pub server_names: Vec<String>,
    /// Nobody is let in yet: the ports are looked at, and the answer is a [`CheckAnswer`].
    #[serde(default)]
    pub check_only: bool,
}

/// What a machine must be able to reach before it is let in, in JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CheckAnswer {
    /// What it will be called.
    pub member: Option<MemberId>,
    /// The other members' ports, as the member that was asked reaches them: what it reaches and the new machine does not is
    /// closed by something in between, and what neither reaches is down.
    pub ports: Vec<Reach>,
}

/// What the machine needs to be a member, in JSON. It holds secrets: it is read by that machine alone.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinAnswer {
    pub cluster: String,
    pub member: MemberId,
    pub raft_id: u64,
    pub lease_ms: u64,
    pub on_crash: OnCrash,
    pub members: Roster,
    pub authority_pem: String,
    /// A data member may let others in, too.
    pub authority_key_pem: Option<String>,
    pub certificate_pem: String,
    pub server_certificate_pem: Option<String>,
    pub replication_password: Option<String>,
    pub application: Option<ApplicationLogin>,
    /// The lines of `pg_hba.conf` for applications, as on the member that was asked.
    pub hba: Vec<String>,
}

/// So that `psql` works on the new machine as on the others.
#[derive(Clone, Serialize, Deserialize)]
pub struct ApplicationLogin {
    pub database: String,
    pub role: String,
    pub password: String,
}

/// The private key of the cluster's CA, on members that may let others in.
pub fn authority_key(configuration: &Configuration) -> PathBuf {
    configuration.tls.authority.with_file_name("ca.key")
}

/// The CA, if this member has its key.
pub(crate) fn authority(configuration: &Configuration) -> Result<ClusterCa, String> {
    let (certificate, key) = (&configuration.tls.authority, authority_key(configuration));
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    if !key.exists() {
        return Err(format!(
            "{} has not the key of the cluster's CA; ask a data member that has {}",
            configuration.me,
            key.display()
        ));
    }
    ClusterCa::load(&configuration.cluster, &read(certificate)?, &read(&key)?)
        .map_err(|error| failed(error).0)
}

/// Answers machines that want to join.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) proposer: Proposer,
    pub(crate) store: RaftStore<RecordMachine>,
    pub(crate) postgresql_major: Option<u32>,
}

impl Desk {
    pub(crate) fn joins(self) -> Result<Joins, std::io::Error> {
        let authority = std::fs::read_to_string(&self.configuration.tls.authority)?;
        Ok(Joins::new(&authority, move |from, request| {
            let desk = self.clone();
            async move { desk.answer(from, &request).await }
        }))
    }

    async fn answer(&self, from: SocketAddr, request: &[u8]) -> Result<Vec<u8>, String> {
        let request: JoinRequest = serde_json::from_slice(request).map_err(|error| {
            format!("the request cannot be read ({error}); use the same release on both machines")
        })?;
        let token: JoinToken = request.token.parse().map_err(|error| failed(error).0)?;
        let ca = authority(&self.configuration)?;
        if token.authority() != ca.fingerprint() {
            return Err("the token is for another cluster".to_owned());
        }
        self.check(&request)?;
        let record = self.record();
        let invitation = record.membership.invitations.iter().find(|open| open.id == token.id());
        let reserved = invitation.and_then(|open| open.used_by.clone().or_else(|| open.member.clone()));
        let member = request.member.clone().or(reserved).or_else(|| free_name(&record));
        let member = member.ok_or("there is no free name; give one with --member")?;
        self.check_ports(&member, &request).await?;
        if request.check_only {
            let answer = self.ports_to_reach(&record, invitation, &token, member).await;
            return Ok(serde_json::to_vec(&answer).expect("an answer is representable in JSON"));
        }
        let certificate_pem =
            ca.sign_member(&member, &request.certificate_request).map_err(|error| failed(error).0)?;
        let key = KeyFingerprint::of_certificate_pem(&certificate_pem).map_err(|error| failed(error).0)?;
        self.join(&token, &member, &request, key).await?;
        info!(%member, from = %from.ip(), "a new member has joined");
        let answer = self.welcome(&member, &request, &ca, certificate_pem)?;
        Ok(serde_json::to_vec(&answer).expect("an answer is representable in JSON"))
    }

    fn record(&self) -> Arc<Record> {
        Arc::clone(&self.store.watch().borrow().machine.record)
    }

    /// What no record is needed for.
    fn check(&self, request: &JoinRequest) -> Result<(), String> {
        let major = self.postgresql_major;
        match (request.kind, request.postgresql_major, request.postgres) {
            (Kind::Witness, _, None) => Ok(()),
            (Kind::Witness, _, Some(_)) => Err("a witness runs no PostgreSQL".to_owned()),
            (Kind::Data, Some(theirs), Some(_)) if major.is_none_or(|ours| ours == theirs) => Ok(()),
            (Kind::Data, Some(theirs), Some(_)) => Err(format!(
                "PostgreSQL {theirs} is installed there and {} here; install the same major version",
                major.unwrap_or_default()
            )),
            (Kind::Data, _, _) => Err("a data member needs PostgreSQL and an address for it".to_owned()),
        }
    }

    /// The new machine listens while it asks: what does not answer is closed by something in between.
    async fn check_ports(&self, member: &MemberId, request: &JoinRequest) -> Result<(), String> {
        for (service, address) in ports(request.address, request.postgres, Some(request.http)) {
            let found = probe(address, PROBE_PATIENCE).await;
            if !found.is_open() {
                return Err(not_reached(&self.configuration.me, member, service, address, &found));
            }
        }
        Ok(())
    }

    /// A stranger is not told who the members are: without the token's secret the list is empty, and the request to join is refused.
    async fn ports_to_reach(
        &self,
        record: &Record,
        invitation: Option<&Invitation>,
        token: &JoinToken,
        member: MemberId,
    ) -> CheckAnswer {
        let known = invitation.filter(|open| open.secret_sha256 == token.secret_sha256());
        let Some(invitation) = known else { return CheckAnswer::default() };
        let roster = roster::of_record(record, &self.configuration, &Roster::new());
        let stays = |name: &MemberId, row: &Member| {
            *name != member && !row.leaving && invitation.replaces.as_ref() != Some(name)
        };
        let others = roster.iter().filter(|(name, row)| stays(name, row));
        let asked = others.flat_map(|(name, row)| {
            let ports = ports(row.address, row.postgres, row.http);
            ports.map(|(service, address)| (name.clone(), service, address))
        });
        CheckAnswer { member: Some(member.clone()), ports: reach::look(asked.collect()).await }
    }

    async fn join(
        &self,
        token: &JoinToken,
        member: &MemberId,
        request: &JoinRequest,
        key: KeyFingerprint,
    ) -> Result<(), String> {
        let row = Member {
            kind: request.kind,
            votes: false,
            raft_id: 0,
            address: request.address,
            postgres: request.postgres,
            key: key.to_string(),
            priority: request.priority,
            http: Some(request.http),
            leaving: false,
            next_key: None,
            key_serial: 0,
        };
        let joining = Joining {
            invitation: token.id(),
            secret_sha256: token.secret_sha256(),
            member: member.clone(),
            row,
            at_unix_ms: clock::unix_ms(),
        };
        match self.proposer.propose(&Command::Join(joining), RECORD_PATIENCE).await {
            Ok(Applied::Done | Applied::Already) => Ok(()),
            Ok(Applied::Refused(refusal)) => Err(refusal.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn welcome(
        &self,
        member: &MemberId,
        request: &JoinRequest,
        ca: &ClusterCa,
        certificate_pem: String,
    ) -> Result<JoinAnswer, String> {
        let record = self.record();
        let members = roster::of_record(&record, &self.configuration, &Roster::new());
        let row = members.get(member).ok_or("the record has lost the new member; try again")?;
        let is_data = request.kind == Kind::Data;
        let server_certificate_pem = match (&request.server_certificate_request, request.postgres) {
            (Some(asked), Some(postgres)) => {
                let address = postgres.ip().to_string();
                let own = [member.as_str(), address.as_str()];
                let names: Vec<&str> =
                    own.into_iter().chain(request.server_names.iter().map(String::as_str)).collect();
                let signed = ca.sign_postgres_server(&names, SERVER_LIFETIME, asked);
                Some(signed.map_err(|error| failed(error).0)?)
            }
            _ => None,
        };
        let bootstrap = &self.configuration.bootstrap;
        let application = match (&bootstrap.role, &bootstrap.password) {
            (Some(role), Some(password)) if is_data => Some(ApplicationLogin {
                database: bootstrap.database.clone().unwrap_or_else(|| role.clone()),
                role: role.clone(),
                password: password.clone(),
            }),
            _ => None,
        };
        let replication_password = self.configuration.postgresql.replication_password.clone();
        Ok(JoinAnswer {
            cluster: self.configuration.cluster.clone(),
            member: member.clone(),
            raft_id: row.raft_id,
            lease_ms: record.settings.lease_ms,
            on_crash: record.settings.on_crash,
            authority_pem: ca.certificate_pem().to_owned(),
            authority_key_pem: is_data.then(|| ca.key_pem()),
            certificate_pem,
            server_certificate_pem,
            replication_password: is_data.then_some(replication_password),
            application,
            hba: self.configuration.postgresql.hba.clone(),
            members,
        })
    }
}

fn ports(
    member: SocketAddr,
    postgres: Option<SocketAddr>,
    http: Option<SocketAddr>,
) -> impl Iterator<Item = (Service, SocketAddr)> {
    let all = [(Service::Member, Some(member)), (Service::Postgresql, postgres), (Service::Http, http)];
    all.into_iter().filter_map(|(service, address)| Some((service, address?)))
}

/// Which port is closed, in which direction, and what to do.
pub fn not_reached(
    from: &MemberId,
    to: &MemberId,
    service: Service,
    address: SocketAddr,
    found: &Reachability,
) -> String {
    let what = service.as_str();
    format!(
        "{from} cannot reach {to}'s {what} port {address}: {found}; open it in the firewall, or name another address; nothing was changed"
    )
}

fn free_name(record: &Record) -> Option<MemberId> {
    NAMES
        .filter_map(|number| MemberId::new(&format!("m{number}")).ok())
        .find(|name| !record.members.contains_key(name))
}
