//! Short SQL statements on one member.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

use crate::files::{self, APPLICATION, POSTGRES_PORT, SQL_PROXY_PORT, Site};

/// The role that may everything, on a member's own socket.
const ADMINISTRATION_ROLE: &str = "mainstay";

/// Until the machine has taken the connection; the greeting may wait for a primary.
const PROXY_CONNECT_PATIENCE: Duration = Duration::from_secs(1);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("without threads and sockets the lab can do nothing at all")
});

/// The runtime of everything that is not a client of its own.
pub fn runtime() -> &'static Runtime {
    &RUNTIME
}

/// An application's connection through the network.
pub fn application(site: &Site) -> Config {
    to_port(site, POSTGRES_PORT)
}

fn to_port(site: &Site, port: u16) -> Config {
    let mut config = Config::new();
    config.hostaddr(site.address.into()).port(port).user(APPLICATION).dbname(APPLICATION);
    config.host(site.address.to_string());
    config
}

/// An application's connection through the network to a member's SQL proxy, which asks for the password.
pub fn through_proxy(site: &Site, cluster: &str) -> Config {
    let mut config = to_port(site, SQL_PROXY_PORT);
    config.connect_timeout(PROXY_CONNECT_PATIENCE).password(files::application_password(cluster));
    config
}

/// The administrator's connection through the member's own socket, which is there when the network is not.
pub fn administration(site: &Site) -> Config {
    let mut config = Config::new();
    config.host_path(site.directory.join("run")).port(POSTGRES_PORT);
    config.user(ADMINISTRATION_ROLE).dbname(APPLICATION);
    config
}

/// Runs one statement; answers its rows as texts, a NULL as an empty one.
pub fn query(config: &Config, statement: &str, patience: Duration) -> Result<Vec<Vec<String>>> {
    let work = async {
        let (client, connection) = config.connect(NoTls).await?;
        let driver = tokio::spawn(connection);
        let messages = client.simple_query(statement).await;
        driver.abort();
        messages
    };
    let messages = runtime()
        .block_on(async { tokio::time::timeout(patience, work).await })
        .with_context(|| format!("no answer within {patience:?} to: {statement}"))?
        .with_context(|| format!("failed: {statement}"))?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}
