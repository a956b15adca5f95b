//! What one member is told: checked, complete, with every path absolute.
//!
//! The file that it comes from, its syntax and its error messages are the business of the program.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mainstay_core::MemberId;
use mainstay_core::record::{Command, Kind, Member, OnCrash, Settings};
use mainstay_postgres::application::WantedDatabase;
use mainstay_vip::Rule;

use crate::hooks::Hooks;

#[derive(Clone, Debug)]
pub struct Configuration {
    /// The file that it stands in, absolute.
    pub file: PathBuf,
    /// The name of the cluster, part of every handshake between members.
    pub cluster: String,
    pub me: MemberId,
    /// Everything of this member lies below it.
    pub directory: PathBuf,
    pub tls: Tls,
    pub postgresql: Postgresql,
    /// Names, beside the member's own and its address, that PostgreSQL's certificate is for.
    pub server_names: Vec<String>,
    pub bootstrap: Bootstrap,
    /// What applications need, made and kept so by the primary.
    pub databases: Vec<WantedDatabase>,
    pub lease: Duration,
    pub on_crash: OnCrash,
    pub members: BTreeMap<MemberId, MemberRow>,
    /// Programs that are told of a change of role.
    pub hooks: Hooks,
    /// Virtual addresses that this machine may hold.
    pub addresses: Vec<Rule>,
    /// What its SQL proxy is told; `None`: it runs none.
    pub sql_proxy: Option<SqlProxy>,
    /// How often the primary verifies the cluster; `None`: not by itself.
    pub verify_every: Option<Duration>,
    /// Only a demo shows the application's password in its URLs.
    pub show_password: bool,
}

/// PEM files.
#[derive(Clone, Debug)]
pub struct Tls {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// What PostgreSQL shows to its clients.
    pub server_certificate: PathBuf,
    pub server_key: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Postgresql {
    /// Where `postgres` and its tools are; `None`: looked for.
    pub bin_dir: Option<PathBuf>,
    pub data_directory: PathBuf,
    /// The system user that PostgreSQL runs as when this program is root.
    pub user: String,
    /// Lines of `pg_hba.conf` for applications.
    pub hba: Vec<String>,
    pub parameters: BTreeMap<String, String>,
    /// What fits this machine where nobody says otherwise: the cluster's configuration goes over it.
    pub defaults: BTreeMap<String, String>,
    /// The password of the role that replicates.
    pub replication_password: String,
}

/// The SQL proxy beside the member, a process of its own that reads its settings from the same file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlProxy {
    /// All settings, as it reads them when they are changed while it runs.
    pub settings: String,
    /// What of them only a new process takes: one that runs with others is started anew.
    pub identity: String,
    /// Where it takes clients of the primary.
    pub listen: SocketAddr,
    /// Where it takes clients of the standbys, if it does.
    pub listen_readonly: Option<SocketAddr>,
}

/// What the very first data directory gets.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub database: Option<String>,
    pub role: Option<String>,
    pub password: Option<String>,
}

#[derive(Clone, Debug)]
pub struct MemberRow {
    pub kind: Kind,
    /// Where the other members reach it.
    pub address: SocketAddr,
    pub postgres: Option<SocketAddr>,
    /// Read-only HTTP.
    pub http: SocketAddr,
    pub key: String,
    pub priority: u32,
}

impl Configuration {
    pub fn own_row(&self) -> &MemberRow {
        self.members.get(&self.me).expect("checked when the configuration was made: the member has a row")
    }

    /// The first command of a new cluster: who it is.
    pub fn create_command(&self) -> Command {
        let founder = self.founder();
        let alone = self.members.len() == 2;
        let row = |(place, (name, row)): (usize, (&MemberId, &MemberRow))| {
            let member = Member {
                kind: row.kind,
                // Two voters are less available than one: the second votes once there is a third.
                votes: !alone || Some(name) == founder.as_ref(),
                raft_id: place as u64 + 1,
                address: row.address,
                postgres: row.postgres,
                key: row.key.clone(),
                priority: row.priority,
                http: Some(row.http),
                leaving: false,
                next_key: None,
                key_serial: 0,
            };
            (name.clone(), member)
        };
        let lease_ms = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX);
        Command::Create {
            cluster: self.cluster.clone(),
            settings: Settings { lease_ms, on_crash: self.on_crash },
            members: self.members.iter().enumerate().map(row).collect(),
        }
    }

    fn founder(&self) -> Option<MemberId> {
        let data = self.members.iter().filter(|(_, row)| row.kind == Kind::Data);
        data.min_by_key(|(name, row)| (std::cmp::Reverse(row.priority), (*name).clone()))
            .map(|(name, _)| name.clone())
    }
}

impl Configuration {
    /// The Unix socket on which this member answers its own machine.
    pub fn control_socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// The application's password for libpq on this machine, unless a demo shows it.
    pub fn passfile(&self) -> Option<PathBuf> {
        let wanted =
            !self.show_password && self.bootstrap.role.is_some() && self.bootstrap.password.is_some();
        wanted.then(|| self.directory.join("application.pgpass"))
    }
}
