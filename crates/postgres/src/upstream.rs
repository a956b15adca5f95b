//! How this member reaches another one's PostgreSQL: for streaming, pg_basebackup and pg_rewind alike.

use std::net::IpAddr;
use std::path::Path;

use mainstay_core::{Incarnation, MemberId};

use crate::durable::{self, FileError};
use crate::layout::Layout;

/// The superuser role of Mainstay, admitted over the Unix socket only.
pub const ADMINISTRATION_ROLE: &str = "mainstay";

/// The role that streams, clones and rewinds.
pub const REPLICATION_ROLE: &str = "mainstay_replication";

/// A member's PostgreSQL as a source of WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its certificate must be for this name.
    pub member: MemberId,
    /// The connection goes to this address: no name is looked up on the way.
    pub address: IpAddr,
    pub port: u16,
}

impl Upstream {
    /// A libpq connection string without a password: that is in the passfile.
    ///
    /// The timeouts bound how long a half-open connection is waited for: 2 s to connect, 3 s for sent data.
    pub fn connection_string(
        &self,
        layout: &Layout,
        application_name: &str,
        database: Option<&str>,
    ) -> String {
        let mut parameters = vec![
            ("host", self.member.to_string()),
            ("hostaddr", self.address.to_string()),
            ("port", self.port.to_string()),
            ("user", REPLICATION_ROLE.to_owned()),
            ("application_name", application_name.to_owned()),
            ("sslmode", "verify-full".to_owned()),
            ("sslrootcert", layout.authority().display().to_string()),
            ("gssencmode", "disable".to_owned()),
            ("passfile", layout.passfile().display().to_string()),
            ("connect_timeout", "2".to_owned()),
            ("keepalives_idle", "2".to_owned()),
            ("keepalives_interval", "1".to_owned()),
            ("keepalives_count", "3".to_owned()),
            ("tcp_user_timeout", "3000".to_owned()),
        ];
        parameters.extend(database.map(|database| ("dbname", database.to_owned())));
        let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        let parts: Vec<String> =
            parameters.iter().map(|(key, value)| format!("{key}={}", quote(value))).collect();
        parts.join(" ")
    }
}

/// The name under which a member's walreceiver appears in `pg_stat_replication`, and in the names of the voters.
pub fn application_name(member: &MemberId, incarnation: Incarnation) -> String {
    format!("ms_{member}_{incarnation}")
}

/// Who a walsender of that name serves; `None` for a name that is not one of [`application_name`].
pub fn parse_application_name(name: &str) -> Option<(MemberId, Incarnation)> {
    let (member, incarnation) = name.strip_prefix("ms_")?.rsplit_once('_')?;
    Some((MemberId::new(member).ok()?, incarnation.parse().ok()?))
}

/// The name of the slot that every member keeps for `member`.
pub fn slot_name(member: &MemberId) -> String {
    format!("ms_{member}")
}

/// Writes the passfile, durably. libpq refuses one that others may read.
pub fn write_passfile(layout: &Layout, password: &str) -> Result<bool, FileError> {
    if password.chars().any(char::is_control) {
        let refused =
            std::io::Error::new(std::io::ErrorKind::InvalidInput, "the password has a control character");
        return Err(FileError::new("write", &layout.passfile(), refused));
    }
    let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
    let line = format!("*:*:*:{REPLICATION_ROLE}:{escaped}\n");
    durable::write(&layout.passfile(), line.as_bytes(), layout.server_access())
}

/// Whether `path` can stand in a connection string and in postgresql.conf.
pub(crate) fn is_plain_path(path: &Path) -> bool {
    path.to_str().is_some_and(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_string_quotes_its_values() {
        let layout = Layout::new(Path::new("/m/o'neill"), None, None, None).unwrap();
        let upstream = Upstream {
            member: MemberId::new("m2").unwrap(),
            address: "10.0.0.2".parse().unwrap(),
            port: 5432,
        };
        let text = upstream.connection_string(&layout, "ms_m1_0000002a", Some("postgres"));
        assert!(text.starts_with("host='m2' hostaddr='10.0.0.2' port='5432' user='mainstay_replication'"));
        assert!(text.contains("sslmode='verify-full' sslrootcert='/m/o\\'neill/postgresql/authority.crt'"));
        assert!(text.ends_with("dbname='postgres'"));
        assert!(!text.contains("password"));
    }

    #[test]
    fn names_carry_member_and_incarnation() {
        let member = MemberId::new("m2").unwrap();
        assert_eq!(application_name(&member, Incarnation(0x1a2b_3c4d)), "ms_m2_1a2b3c4d");
        assert_eq!(slot_name(&member), "ms_m2");
    }
}
