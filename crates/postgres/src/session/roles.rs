//! Who may log in, and what a password is checked by.

use tokio_postgres::Row;

use super::{Session, SessionError};

/// A row of `pg_authid` that may log in.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginRole {
    pub name: String,
    /// `rolpassword`: `SCRAM-SHA-256$…`, `md5…`, or nothing. A secret.
    pub verifier: Option<String>,
    pub is_superuser: bool,
    /// In milliseconds since 1970; `None` for ever. 0 for a role that never was valid.
    pub valid_until_unix_ms: Option<i64>,
}

impl std::fmt::Debug for LoginRole {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LoginRole").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Session {
    /// Everybody who may log in, by name, but Mainstay's own roles. A standby answers too.
    pub async fn login_roles(&self) -> Result<Vec<LoginRole>, SessionError> {
        const WHAT: &str = "reading who may log in";
        const SQL: &str = "SELECT rolname::text, rolpassword, rolsuper, CASE
                WHEN rolvaliduntil = '-infinity' THEN 0
                WHEN isfinite(rolvaliduntil) THEN floor(extract(epoch FROM rolvaliduntil) * 1000)::bigint END
            FROM pg_authid
            WHERE rolcanlogin AND rolname NOT IN ('mainstay', 'mainstay_replication')
            ORDER BY rolname";
        let read = |row: &Row| {
            Ok(LoginRole {
                name: row.try_get(0)?,
                verifier: row.try_get(1)?,
                is_superuser: row.try_get(2)?,
                valid_until_unix_ms: row.try_get(3)?,
            })
        };
        let rows = self.rows(WHAT, SQL, &[]).await?;
        // The row is not shown: a verifier is in there.
        rows.iter()
            .map(read)
            .collect::<Result<_, tokio_postgres::Error>>()
            .map_err(|error| SessionError::Answer { what: WHAT, answer: error.to_string() })
    }
}
