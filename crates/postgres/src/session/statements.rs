//! Statements that are made from what somebody has configured, and run once.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{Server, Session, SessionError};

impl Session {
    /// As [`Session::connect`], in another database.
    pub(crate) async fn connect_to(
        server: &Server,
        database: &str,
        connect_timeout: Duration,
        statement_timeout: Duration,
    ) -> Result<Session, SessionError> {
        let mut configuration = server.configuration(statement_timeout);
        configuration.dbname(database);
        Session::connect_as(server, &configuration, connect_timeout, statement_timeout).await
    }

    /// Runs statements without a result. They must hold no password: an erroneous one is printed to the log.
    pub(crate) async fn execute(&self, what: &'static str, sql: &str) -> Result<(), SessionError> {
        self.bounded(what, self.client.batch_execute(sql)).await
    }

    /// The rows of a query.
    pub(crate) async fn query(
        &self,
        what: &'static str,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, SessionError> {
        self.rows(what, sql, parameters).await
    }
}
