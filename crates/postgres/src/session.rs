//! SQL over the Unix socket as Mainstay's own role.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mainstay_core::Lsn;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

use crate::layout::Layout;
use crate::upstream::ADMINISTRATION_ROLE;

mod observation;
mod probe;
mod roles;
mod settings;
mod statements;

pub use observation::{Observation, Slot, Walreceiver, Walsender};
pub use probe::{Probe, fresh_probe};
pub use roles::LoginRole;
pub use settings::{Setting, Settings};

/// The server ends a statement first; only one that is stuck altogether is left to our own clock.
const GRACE: Duration = Duration::from_millis(500);

/// Why a statement had no result.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("cannot connect to PostgreSQL through {socket_dir}")]
    Connect {
        socket_dir: PathBuf,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("PostgreSQL did not answer within {timeout:?}: {what}")]
    Timeout { what: &'static str, timeout: Duration },
    #[error("PostgreSQL refused: {what}")]
    Statement {
        what: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("PostgreSQL's answer is not understood: {what}: {answer}")]
    Answer { what: &'static str, answer: String },
}

impl SessionError {
    fn has_code(&self, wanted: &SqlState) -> bool {
        matches!(self, SessionError::Statement { source, .. } if source.code() == Some(wanted))
    }
}

/// Where the local server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub socket_dir: PathBuf,
    pub port: u16,
}

impl Server {
    pub fn new(layout: &Layout, port: u16) -> Server {
        Server { socket_dir: layout.socket_dir(), port }
    }

    fn configuration(&self, statement_timeout: Duration) -> Config {
        let mut configuration = self.plain_configuration();
        // Our own transactions write nothing that a voter must hold, so they never wait for one.
        let options = format!(
            "-c statement_timeout={} -c lock_timeout={0} -c synchronous_commit=local -c search_path=pg_catalog \
             -c default_transaction_read_only=off -c idle_session_timeout=0 -c jit=off",
            statement_timeout.as_millis().max(1)
        );
        configuration.options(options);
        configuration
    }

    /// Without settings of our own.
    fn plain_configuration(&self) -> Config {
        let mut configuration = Config::new();
        configuration
            .host_path(&self.socket_dir)
            .port(self.port)
            .user(ADMINISTRATION_ROLE)
            .dbname("postgres")
            .application_name("mainstay");
        configuration
    }
}

/// What the checkpointer is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpointer {
    pub pid: i32,
    /// `CheckpointerMain` and `CheckpointWriteDelay` are sleep; `None` is work.
    pub wait_event: Option<String>,
}

/// One connection. After a [`SessionError::Timeout`] it is of no more use: drop it.
#[derive(Debug)]
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
    statement_timeout: Duration,
    /// Each statement is prepared at its first use.
    prepared: Mutex<HashMap<&'static str, Statement>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A stopped server would keep the connection's task waiting for ever.
        self.connection.abort();
    }
}

impl Session {
    /// Connects within `connect_timeout`; each statement may then take `statement_timeout`.
    pub async fn connect(
        server: &Server,
        connect_timeout: Duration,
        statement_timeout: Duration,
    ) -> Result<Session, SessionError> {
        Session::connect_as(
            server,
            &server.configuration(statement_timeout),
            connect_timeout,
            statement_timeout,
        )
        .await
    }

    async fn connect_as(
        server: &Server,
        configuration: &Config,
        connect_timeout: Duration,
        statement_timeout: Duration,
    ) -> Result<Session, SessionError> {
        let connecting = tokio::time::timeout(connect_timeout, configuration.connect(NoTls)).await;
        let (client, connection) = connecting
            .map_err(|_| SessionError::Timeout { what: "connecting", timeout: connect_timeout })?
            .map_err(|source| SessionError::Connect { socket_dir: server.socket_dir.clone(), source })?;
        let connection = tokio::spawn(async move {
            // A lost connection is told to each statement that waits on it.
            let _ = connection.await;
        });
        Ok(Session { client, connection, statement_timeout, prepared: Mutex::default() })
    }

    /// Whether the server has ended the connection.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Reads the server's whole replication state in one round trip (two the first time).
    ///
    /// Fails if the server leaves recovery in just this moment; the next call succeeds.
    pub async fn observe(&self) -> Result<Observation, SessionError> {
        const WHAT: &str = "reading the replication state";
        let row = self.row(WHAT, observation::QUERY, &[]).await?;
        let text: String = column(&row, WHAT)?;
        observation::parse(&text).ok_or(SessionError::Answer { what: WHAT, answer: text })
    }

    /// Creates a physical slot that keeps WAL from this moment. Returns `false` if it was there.
    pub async fn create_slot(&self, name: &str) -> Result<bool, SessionError> {
        const SQL: &str = "SELECT 'x' FROM pg_create_physical_replication_slot($1, true)";
        match self.row("creating a replication slot", SQL, &[&name]).await {
            Ok(_) => Ok(true),
            Err(error) if error.has_code(&SqlState::DUPLICATE_OBJECT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves an unused physical slot forward to `position`, or as far as the server has got. Returns whether it moved.
    pub async fn advance_slot(&self, name: &str, position: Lsn) -> Result<bool, SessionError> {
        const SQL: &str = "SELECT 'x' FROM (
                SELECT slot_name, least($2::text::pg_lsn, CASE WHEN pg_is_in_recovery()
                    THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END) AS target
                FROM pg_replication_slots
                WHERE slot_name = $1 AND slot_type = 'physical' AND active_pid IS NULL
                    AND restart_lsn < $2::text::pg_lsn OFFSET 0
            ) slot, LATERAL pg_replication_slot_advance(slot.slot_name, slot.target)
            WHERE (SELECT restart_lsn FROM pg_replication_slots s WHERE s.slot_name = $1) < slot.target";
        let row = self.rows("advancing a replication slot", SQL, &[&name, &position.to_string()]).await?;
        Ok(!row.is_empty())
    }

    /// Drops a slot that nobody uses. Returns `false` if there is none.
    pub async fn drop_slot(&self, name: &str) -> Result<bool, SessionError> {
        const SQL: &str = "SELECT pg_drop_replication_slot($1)::text";
        match self.rows("dropping a replication slot", SQL, &[&name]).await {
            Ok(_) => Ok(true),
            Err(error) if error.has_code(&SqlState::UNDEFINED_OBJECT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends backends. Returns how many there were; it does not wait until they are gone.
    pub async fn terminate_backends(&self, pids: &[i32]) -> Result<u64, SessionError> {
        const SQL: &str =
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid))::text FROM unnest($1::int[]) AS pid";
        self.number("ending backends", SQL, &[&pids]).await
    }

    /// Ends all sessions of applications but `spared`: also those that replicate logically, since they can write.
    /// Returns how many there were; it does not wait until they are gone.
    ///
    /// Connections that have not authenticated yet are not among them: see [`crate::children::ChildKind`].
    pub async fn terminate_application_sessions(&self, spared: &[i32]) -> Result<u64, SessionError> {
        const SQL: &str =
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid))::text FROM pg_stat_activity
            WHERE backend_type IN ('client backend', 'walsender')
                AND usename NOT IN ('mainstay', 'mainstay_replication') AND pid <> ALL ($1::int[])";
        self.number("ending the applications' sessions", SQL, &[&spared]).await
    }

    /// How many sessions of applications are in a transaction.
    pub async fn applications_in_transaction(&self) -> Result<u64, SessionError> {
        const SQL: &str = "SELECT count(*)::text FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND xact_start IS NOT NULL
                AND usename NOT IN ('mainstay', 'mainstay_replication')";
        self.number("counting the applications' transactions", SQL, &[]).await
    }

    /// Writes a record of its own to the WAL, flushed here, and returns a position up to which a voter must have
    /// flushed to hold everything before this call.
    pub async fn emit_wal_message(&self) -> Result<Lsn, SessionError> {
        // Transactional, since nothing would flush the other kind on an idle server; it costs one transaction id.
        const SQL: &str = "SELECT pg_logical_emit_message(true, 'mainstay', '')::text";
        self.parsed("writing a WAL message", SQL, &[]).await
    }

    pub async fn checkpointer(&self) -> Result<Option<Checkpointer>, SessionError> {
        const WHAT: &str = "looking at the checkpointer";
        const SQL: &str = "SELECT pid, wait_event FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
        let rows = self.rows(WHAT, SQL, &[]).await?;
        let read = |row: &Row| match (row.try_get(0), row.try_get(1)) {
            (Ok(pid), Ok(wait_event)) => Ok(Checkpointer { pid, wait_event }),
            _ => Err(SessionError::Answer { what: WHAT, answer: format!("{row:?}") }),
        };
        rows.first().map(read).transpose()
    }

    /// Lets a paused standby replay again; on a primary it does nothing.
    pub async fn resume_replay(&self) -> Result<(), SessionError> {
        const SQL: &str = "SELECT pg_wal_replay_resume()::text WHERE pg_is_in_recovery()";
        self.rows("resuming replay", SQL, &[]).await.map(|_| ())
    }

    /// The first transaction id, with its epoch, that no completed transaction has.
    ///
    /// While no session but Mainstay's is in, none below it will ever be given out again on this timeline.
    pub async fn next_xid(&self) -> Result<u64, SessionError> {
        const SQL: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
        self.number("reading the next transaction id", SQL, &[]).await
    }

    /// Where the oldest WAL segment begins that is still there; it lists a directory, so not for every tick.
    pub async fn oldest_wal(&self) -> Result<Lsn, SessionError> {
        const SQL: &str = "SELECT ('0/0'::pg_lsn + min(
                ('x' || substr(name, 9, 8))::bit(32)::bigint::numeric * 4294967296
                + ('x' || substr(name, 17, 8))::bit(32)::bigint::numeric
                    * pg_size_bytes(current_setting('wal_segment_size'))))::text
            FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'";
        self.parsed("looking for the oldest WAL", SQL, &[]).await
    }

    /// Where a recovery of this server would begin: the redo position of its last checkpoint or restartpoint.
    pub async fn redo_position(&self) -> Result<Lsn, SessionError> {
        const SQL: &str = "SELECT redo_lsn::text FROM pg_control_checkpoint()";
        self.parsed("looking at the last checkpoint", SQL, &[]).await
    }

    async fn number(
        &self,
        what: &'static str,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, SessionError> {
        self.parsed(what, sql, parameters).await
    }

    /// The one column of the one row, which the statement gives as text.
    async fn parsed<T: std::str::FromStr>(
        &self,
        what: &'static str,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<T, SessionError> {
        let row = self.row(what, sql, parameters).await?;
        let text: String = column(&row, what)?;
        text.parse().map_err(|_| SessionError::Answer { what, answer: text })
    }

    async fn row(
        &self,
        what: &'static str,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, SessionError> {
        let statement = self.prepare(what, sql).await?;
        self.bounded(what, self.client.query_one(&statement, parameters)).await
    }

    async fn rows(
        &self,
        what: &'static str,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, SessionError> {
        let statement = self.prepare(what, sql).await?;
        self.bounded(what, self.client.query(&statement, parameters)).await
    }

    async fn prepare(&self, what: &'static str, sql: &'static str) -> Result<Statement, SessionError> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.bounded(what, self.client.prepare(sql)).await?;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(sql, statement.clone());
        Ok(statement)
    }

    async fn bounded<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, SessionError> {
        let timeout = self.statement_timeout + GRACE;
        match tokio::time::timeout(timeout, work).await {
            Err(_) => Err(SessionError::Timeout { what, timeout }),
            Ok(result) => result.map_err(|source| SessionError::Statement { what, source }),
        }
    }
}

fn column(row: &Row, what: &'static str) -> Result<String, SessionError> {
    row.try_get(0).map_err(|_| SessionError::Answer { what, answer: format!("{row:?}") })
}

/// Runs CHECKPOINT on a connection of its own, so that nothing waits behind it.
pub async fn checkpoint(server: &Server, timeout: Duration) -> Result<(), SessionError> {
    let session = Session::connect(server, timeout, timeout).await?;
    session.bounded("running a checkpoint", session.client.batch_execute("CHECKPOINT")).await
}

/// What a connection made after this call sees as the parameter's value: the postmaster has read it by then.
pub async fn fresh_setting(
    server: &Server,
    parameter: &str,
    timeout: Duration,
) -> Result<String, SessionError> {
    // Settings of our own session would hide the server's.
    let session = Session::connect_as(server, &server.plain_configuration(), timeout, timeout).await?;
    let row = session.row("reading a parameter", "SELECT current_setting($1)", &[&parameter]).await?;
    column(&row, "reading a parameter")
}
