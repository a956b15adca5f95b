//! Where the command line connects to by SQL, as whom, and how.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use mainstay_core::MemberId;
use mainstay_member::Configuration;
use mainstay_member::roster::Roster;
use mainstay_postgres::client_tls::VerifyFull;
use mainstay_postgres::layout::Layout;
use mainstay_postgres::upstream::{ADMINISTRATION_ROLE, REPLICATION_ROLE};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};

/// One server, one role. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Target {
    configuration: Config,
    /// `None`: without TLS, on loopback or through a Unix socket.
    tls: Option<VerifyFull>,
}

impl Target {
    /// A libpq URL, without TLS: a demo's, on loopback.
    pub(crate) fn of_url(url: &str) -> Result<Target> {
        Ok(Target { configuration: url.parse().context("not a URL of PostgreSQL")?, tls: None })
    }

    /// The login and the database of a libpq URL, at another place.
    pub(crate) fn of_url_at(url: &str, address: SocketAddr) -> Result<Target> {
        let mut target = Target::of_url(url)?;
        let mut config = Config::new();
        config.host(address.ip().to_string()).port(address.port());
        if let Some(user) = target.configuration.get_user() {
            config.user(user);
        }
        if let Some(password) = target.configuration.get_password() {
            config.password(password);
        }
        if let Some(database) = target.configuration.get_dbname() {
            config.dbname(database);
        }
        target.configuration = config;
        Ok(target)
    }

    /// The superuser of Mainstay, through this machine's Unix socket.
    pub(crate) fn local(configuration: &Configuration) -> Result<Target> {
        let mut config = Config::new();
        let port = configuration.own_row().postgres.context("a witness has no PostgreSQL")?.port();
        config.host_path(socket_dir(configuration)?).port(port).user(ADMINISTRATION_ROLE).dbname("postgres");
        Ok(Target { configuration: config, tls: None })
    }

    /// The role that replicates, on `member`, by TLS to the member's name.
    pub(crate) fn replication(
        configuration: &Configuration,
        roster: &Roster,
        member: &MemberId,
        tls: &VerifyFull,
    ) -> Result<Target> {
        let mut target = Target::by_tls(roster, member, member.as_str(), tls)?;
        target.configuration.user(REPLICATION_ROLE).dbname("postgres");
        target.configuration.password(&configuration.postgresql.replication_password);
        Ok(target)
    }

    /// The application, on `member`, by TLS; `None` if the configuration has no role for it with its password.
    pub(crate) fn application(
        configuration: &Configuration,
        roster: &Roster,
        member: &MemberId,
        tls: &VerifyFull,
    ) -> Result<Option<Target>> {
        let bootstrap = &configuration.bootstrap;
        let (Some(role), Some(password)) = (&bootstrap.role, &bootstrap.password) else { return Ok(None) };
        let mut target = Target::by_tls(roster, member, member.as_str(), tls)?;
        let database = bootstrap.database.as_ref().unwrap_or(role);
        target.configuration.user(role).dbname(database).password(password);
        Ok(Some(target))
    }

    /// The same server and role, but its certificate must be for `name`.
    pub(crate) fn named(&self, roster: &Roster, member: &MemberId, name: &str) -> Result<Target> {
        let tls = self.tls.as_ref().context("there is no TLS to a name")?;
        let mut target = Target::by_tls(roster, member, name, tls)?;
        if let Some(user) = self.configuration.get_user() {
            target.configuration.user(user);
        }
        if let Some(password) = self.configuration.get_password() {
            target.configuration.password(password);
        }
        if let Some(database) = self.configuration.get_dbname() {
            target.configuration.dbname(database);
        }
        Ok(target)
    }

    fn by_tls(roster: &Roster, member: &MemberId, name: &str, tls: &VerifyFull) -> Result<Target> {
        let row = roster.get(member).with_context(|| format!("there is no member {member}"))?;
        let address = row.postgres.with_context(|| format!("{member} has no PostgreSQL"))?;
        let mut config = Config::new();
        config.host(name).hostaddr(address.ip()).port(address.port()).ssl_mode(SslMode::Require);
        Ok(Target { configuration: config, tls: Some(tls.clone()) })
    }

    /// As whom, for messages.
    pub(crate) fn user(&self) -> &str {
        self.configuration.get_user().unwrap_or("nobody")
    }

    /// Connects within `patience`. `purpose` is what `pg_stat_activity` shows.
    pub(crate) async fn connect(&self, purpose: &str, patience: Duration) -> Result<Client> {
        let mut configuration = self.configuration.clone();
        configuration.application_name(purpose);
        let connecting = async {
            match &self.tls {
                Some(tls) => {
                    let (client, connection) = configuration.connect(tls.clone()).await?;
                    tokio::spawn(connection);
                    anyhow::Ok(client)
                }
                None => {
                    let (client, connection) = configuration.connect(NoTls).await?;
                    tokio::spawn(connection);
                    Ok(client)
                }
            }
        };
        tokio::time::timeout(patience, connecting)
            .await
            .with_context(|| format!("no connection within {} s", patience.as_secs_f64()))?
    }

    /// Gives up the statement that `client` waits for.
    pub(crate) async fn cancel(&self, client: &Client) -> Result<()> {
        let token = client.cancel_token();
        match &self.tls {
            Some(tls) => token.cancel_query(tls.clone()).await?,
            None => token.cancel_query(NoTls).await?,
        }
        Ok(())
    }
}

/// TLS by the cluster's authority.
pub(crate) fn authority(configuration: &Configuration) -> Result<VerifyFull> {
    let path = &configuration.tls.authority;
    let pem = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    VerifyFull::new(&pem).with_context(|| path.display().to_string())
}

fn socket_dir(configuration: &Configuration) -> Result<PathBuf> {
    let data = &configuration.postgresql.data_directory;
    Ok(Layout::new(&configuration.directory, Some(data), None, None)?.socket_dir())
}
