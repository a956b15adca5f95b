//! The databases and roles of applications, made as they are wanted and changed where they differ.
//!
//! Nothing is ever dropped, and nothing that the operator has not named is touched: what differs and is not changed is
//! reported. Passwords reach the server as SCRAM verifiers only, so that none stands in a statement or a log.

use std::time::Duration;

use postgres_protocol::password::scram_sha_256;
use serde::{Deserialize, Serialize};

use crate::session::{Server, Session, SessionError};
use crate::upstream::{ADMINISTRATION_ROLE, REPLICATION_ROLE};

mod apply;
mod verifier;

/// A database that is wanted, with the roles that use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedDatabase {
    pub name: String,
    pub owner: WantedRole,
    pub extensions: Vec<String>,
    /// Both count only when the database is made: they cannot be changed later.
    pub encoding: Option<String>,
    pub locale: Option<String>,
    /// Roles beside the owner.
    pub roles: Vec<(WantedRole, Access)>,
    /// From where its roles come, as `pg_hba.conf` names it: a network, or `all`.
    pub networks: Vec<String>,
}

/// A role that logs in.
#[derive(Clone, PartialEq, Eq)]
pub struct WantedRole {
    pub name: String,
    /// `None` leaves the password as it is; a role without one cannot log in by password.
    pub password: Option<String>,
}

impl std::fmt::Debug for WantedRole {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WantedRole").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a role beside the owner may do with the owner's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// What was done, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What was made or changed, a sentence each.
    pub done: Vec<String>,
    /// What differs from what is wanted and was left, with what to do.
    pub left: Vec<String>,
}

impl Report {
    /// Whether everything is as it is wanted.
    pub fn is_settled(&self) -> bool {
        self.left.is_empty()
    }
}

/// Why databases and roles were not made as wanted.
#[derive(Debug, thiserror::Error)]
pub enum ApplicationError {
    #[error("{what} {name:?} cannot be used: {why}")]
    Wanted { what: &'static str, name: String, why: &'static str },
    #[error("database {database:?} is not as it is wanted")]
    Session {
        database: String,
        #[source]
        source: SessionError,
    },
}

/// Names end up in `pg_hba.conf` and in statements, which have bounds of their own. PostgreSQL cuts longer names off.
const NAME_BYTES: usize = 63;

/// Checks what can be checked without a server.
pub fn check(wanted: &[WantedDatabase]) -> Result<(), ApplicationError> {
    let mut databases: Vec<&str> = Vec::new();
    let mut roles: Vec<&WantedRole> = Vec::new();
    for database in wanted {
        check_name("database", &database.name)?;
        let refused =
            |why| Err(ApplicationError::Wanted { what: "database", name: database.name.clone(), why });
        if ["template0", "template1"].contains(&database.name.as_str()) {
            return refused("it is PostgreSQL's template");
        }
        if databases.contains(&database.name.as_str()) {
            return refused("it is named twice");
        }
        databases.push(&database.name);
        for role in std::iter::once(&database.owner).chain(database.roles.iter().map(|(role, _)| role)) {
            check_role(role)?;
            // One role may use several databases, but has one password.
            let other = roles.iter().find(|other| other.name == role.name && other.password != role.password);
            if other.is_some() {
                let (what, name) = ("role", role.name.clone());
                return Err(ApplicationError::Wanted { what, name, why: "it is given two passwords" });
            }
            roles.push(role);
        }
        if database.roles.iter().any(|(role, _)| role.name == database.owner.name) {
            return refused("its owner is named again among its roles");
        }
        for extension in &database.extensions {
            check_name("extension", extension)?;
        }
    }
    Ok(())
}

fn check_role(role: &WantedRole) -> Result<(), ApplicationError> {
    check_name("role", &role.name)?;
    let refused = |why| Err(ApplicationError::Wanted { what: "role", name: role.name.clone(), why });
    if [ADMINISTRATION_ROLE, REPLICATION_ROLE].contains(&role.name.as_str()) {
        return refused("it is Mainstay's own");
    }
    if role.name.starts_with("pg_") || ["public", "none"].contains(&role.name.as_str()) {
        return refused("PostgreSQL reserves the name");
    }
    match &role.password {
        Some(password) if password.is_empty() || password.chars().any(char::is_control) => {
            refused("its password is empty, or has a control character")
        }
        _ => Ok(()),
    }
}

fn check_name(what: &'static str, name: &str) -> Result<(), ApplicationError> {
    let refused = |why| Err(ApplicationError::Wanted { what, name: name.to_owned(), why });
    if name.is_empty() || name.len() > NAME_BYTES {
        refused("a name has 1 to 63 bytes")
    } else if name.chars().any(|c| c.is_control() || c == '"') {
        refused("a name has no quotes and no control characters")
    } else {
        Ok(())
    }
}

/// The lines of `pg_hba.conf` that let the wanted roles in: through TLS, with a password, from their networks.
pub fn hba_lines(wanted: &[WantedDatabase]) -> Vec<String> {
    let mut lines = Vec::new();
    for database in wanted {
        let roles = std::iter::once(&database.owner).chain(database.roles.iter().map(|(role, _)| role));
        for role in roles {
            for network in &database.networks {
                let (database, role) = (quote_identifier(&database.name), quote_identifier(&role.name));
                lines.push(format!("hostssl {database} {role} {network} scram-sha-256"));
            }
        }
    }
    lines
}

/// Makes databases and roles as wanted on the primary that `server` is. Idempotent: what is as wanted costs a look.
///
/// Each statement may take `timeout`.
pub async fn apply(
    server: &Server,
    wanted: &[WantedDatabase],
    timeout: Duration,
) -> Result<Report, ApplicationError> {
    check(wanted)?;
    let mut report = Report::default();
    let session = |database: &str, result: Result<Session, SessionError>| {
        result.map_err(|source| ApplicationError::Session { database: database.to_owned(), source })
    };
    let cluster = session("postgres", Session::connect(server, timeout, timeout).await)?;
    for database in wanted {
        let failed = |source| ApplicationError::Session { database: database.name.clone(), source };
        apply::roles(&cluster, database, &mut report).await.map_err(failed)?;
        apply::database(&cluster, database, &mut report).await.map_err(failed)?;
        let connected = Session::connect_to(server, &database.name, timeout, timeout).await;
        let inside = session(&database.name, connected)?;
        apply::inside(&inside, database, &mut report).await.map_err(failed)?;
    }
    Ok(report)
}

fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// No password and no verifier contains a quote that would end the literal early.
fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn verifier(password: &str) -> String {
    scram_sha_256(password.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> WantedRole {
        WantedRole { name: name.to_owned(), password: Some("secret".to_owned()) }
    }

    fn wanted() -> WantedDatabase {
        WantedDatabase {
            name: "shop".to_owned(),
            owner: role("shop"),
            extensions: Vec::new(),
            encoding: None,
            locale: None,
            roles: vec![(role("report"), Access::ReadOnly)],
            networks: vec!["10.0.0.0/8".to_owned(), "::1/128".to_owned()],
        }
    }

    #[test]
    fn lines_let_each_role_in_through_tls_only() {
        let lines = hba_lines(&[wanted()]);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], "hostssl \"shop\" \"shop\" 10.0.0.0/8 scram-sha-256");
        assert!(lines.iter().all(|line| crate::hba::check_line(line) == Ok(())), "{lines:?}");
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_done() {
        let refused = |change: fn(&mut WantedDatabase)| {
            let mut wanted = wanted();
            change(&mut wanted);
            check(&[wanted]).unwrap_err().to_string()
        };
        assert_eq!(check(&[wanted()]).map_err(|error| error.to_string()), Ok(()));
        assert!(refused(|w| w.owner.name = "mainstay".to_owned()).contains("Mainstay's own"));
        assert!(refused(|w| w.owner.name = "pg_app".to_owned()).contains("reserves"));
        assert!(refused(|w| w.name = "x".repeat(64)).contains("63"));
        assert!(refused(|w| w.roles[0].0.name = "shop".to_owned()).contains("again"));
        assert!(refused(|w| w.owner.password = Some("a\nb".to_owned())).contains("control"));
        assert!(check(&[wanted(), wanted()]).is_err());
    }

    #[test]
    fn a_password_is_not_shown() {
        assert!(!format!("{:?}", wanted()).contains("secret"));
    }
}
