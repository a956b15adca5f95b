//! What `init` asks: every question has a default, and a line of why.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use mainstay_core::MemberId;
use mainstay_member::Configuration;
use mainstay_postgres::adopt::Examination;

use crate::cli::InitOptions;
use crate::setup::{self, Ask};
use crate::tune::Tuned;

/// Everything that is written down.
pub(crate) struct Answers {
    pub(crate) cluster: String,
    pub(crate) member: MemberId,
    pub(crate) directory: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) postgres: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) database: Option<String>,
    pub(crate) role: String,
    /// Networks whose machines may connect with a password.
    pub(crate) allow: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) lease: String,
    pub(crate) tokens: u8,
    /// `None`: the machine is not looked at.
    pub(crate) tuned: Option<Tuned>,
    pub(crate) is_to_start: bool,
}

impl Answers {
    /// What stands in a draft already.
    pub(super) fn of(configuration: &Configuration, options: &InitOptions) -> Answers {
        let own = configuration.own_row();
        let bootstrap = &configuration.bootstrap;
        Answers {
            cluster: configuration.cluster.clone(),
            member: configuration.me.clone(),
            directory: configuration.directory.clone(),
            address: own.address,
            postgres: own.postgres.unwrap_or(own.address),
            http: own.http,
            database: bootstrap.database.clone(),
            role: bootstrap.role.clone().unwrap_or_default(),
            allow: Vec::new(),
            names: configuration.server_names.clone(),
            lease: options.lease.clone(),
            tokens: options.tokens,
            tuned: None,
            is_to_start: options.start,
        }
    }

    /// Asks what is not given. What is adopted has its databases and its lines of `pg_hba.conf` already.
    pub(super) fn gather(options: &InitOptions, adopted: Option<&Examination>, ask: &Ask) -> Result<Answers> {
        let cluster = ask.text(
            "Name of the cluster",
            "members of clusters with other names refuse each other",
            options.cluster.as_deref(),
            "main",
        )?;
        let member = ask.text(
            "Name of this member",
            "it stands in status, in PostgreSQL's slots and in logs, and cannot be changed",
            options.member.as_ref().map(MemberId::as_str),
            "m1",
        )?;
        let own = setup::own_address(None).map(|address| address.to_string()).unwrap_or_default();
        let address = ask.text(
            "Address of this machine",
            "where the other members and your applications reach it",
            options.address.map(|address| address.to_string()).as_deref(),
            &own,
        )?;
        let address: IpAddr = address
            .parse()
            .with_context(|| format!("{address:?} is no IP address; give one with --address 10.0.0.1"))?;
        if address.is_unspecified() {
            bail!("{address} is no address that other machines can reach; give this machine's own");
        }
        let database = match adopted {
            Some(_) => None,
            None => Some(ask.text(
                "Database for the application",
                "it is made with a role of the same name that owns it; `-` for none",
                options.database.as_deref(),
                "app",
            )?),
        };
        let database = database.filter(|name| name != "-");
        let role = options.role.clone().or_else(|| database.clone()).unwrap_or_default();
        let network = setup::network_of(address);
        let allow = match options.allow.as_slice() {
            [] if adopted.is_some() => Vec::new(),
            [] => vec![ask.text(
                "Network of the application servers",
                "machines in it may connect to PostgreSQL, with a password and TLS",
                None,
                &network,
            )?],
            given => given.to_vec(),
        };
        let postgres_port = options.postgres_port.or(adopted.map(|seen| seen.port)).unwrap_or(5432);
        let directory = std::path::absolute(&options.directory)?;
        Ok(Answers {
            cluster,
            member: MemberId::new(&member)?,
            // What was adopted runs as it did.
            tuned: (!options.no_tune && adopted.is_none()).then(|| Tuned::here(&directory.join("data"))),
            is_to_start: options.start,
            directory,
            address: SocketAddr::new(address, options.port),
            postgres: SocketAddr::new(address, postgres_port),
            http: SocketAddr::new(address, options.http_port),
            database,
            role,
            allow,
            names: options.server_name.clone(),
            lease: options.lease.clone(),
            tokens: options.tokens,
        })
    }

    /// What stands in the certificate of its PostgreSQL.
    pub(super) fn server_names(&self) -> Vec<String> {
        let mut names = vec![self.member.to_string(), self.address.ip().to_string()];
        for name in &self.names {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    pub(super) fn ports(&self) -> [(u16, &'static str); 3] {
        [
            (self.address.port(), "members"),
            (self.postgres.port(), "PostgreSQL"),
            (self.http.port(), "health checks"),
        ]
    }
}
