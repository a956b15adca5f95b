//! What the member asks the SQL proxy beside it, and orders it to do, over the proxy's own socket.

use std::path::PathBuf;
use std::time::Duration;

use mainstay_net::sql_status::SqlStatus;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::configuration::Configuration;

/// A proxy answers at once, unless it waits for transactions. Less than members wait for each other's answers.
const PATIENCE: Duration = Duration::from_secs(10);
const MOST_BYTES: u64 = 64 << 20;

/// The member's end. Nothing is kept open: orders are rare.
#[derive(Clone, Debug, Default)]
pub(crate) struct Operator {
    /// `None`: this member has no proxy.
    socket: Option<PathBuf>,
}

/// What an order is answered with.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Done(String),
    Failed(String),
    Reloaded { changed: Vec<String>, restart: Vec<String> },
}

impl Operator {
    pub(crate) fn of(configuration: &Configuration) -> Operator {
        Operator { socket: configuration.sql_proxy.as_ref().map(|_| super::operator_socket(configuration)) }
    }

    pub(crate) async fn status(&self) -> Result<SqlStatus, String> {
        self.ask("STATUS").await
    }

    pub(crate) async fn order(&self, line: &str) -> Result<Answer, String> {
        self.ask(line).await
    }

    async fn ask<T: DeserializeOwned>(&self, line: &str) -> Result<T, String> {
        let Some(socket) = &self.socket else {
            return Err("this member has no SQL proxy: its mainstay.toml has no table [sql_proxy]".to_owned());
        };
        let exchange = async {
            let mut stream = UnixStream::connect(socket).await?;
            stream.write_all(format!("{line}\n").as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(MOST_BYTES).read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = timeout(PATIENCE, exchange).await;
        let answer = answer.map_err(|_| format!("the SQL proxy has not done it within {PATIENCE:?}"))?;
        let answer = answer.map_err(|error| format!("the SQL proxy does not answer: {error}"))?;
        serde_json::from_slice(&answer)
            .map_err(|error| format!("what the SQL proxy answers cannot be read: {error}"))
    }
}
