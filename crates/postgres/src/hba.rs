//! `pg_hba.conf` and `pg_ident.conf`: who gets in. The lines for applications are the gate.

use nix::unistd::{User, geteuid};

use crate::durable::{self, FileError};
use crate::layout::Layout;
use crate::upstream::{ADMINISTRATION_ROLE, REPLICATION_ROLE};

/// The map from operating-system users to Mainstay's role.
const PEER_MAP: &str = "mainstay";

/// The line for applications where none is configured.
pub const DEFAULT_APPLICATION_LINE: &str = "host all all all scram-sha-256";

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum HbaError {
    #[error("{0}")]
    Line(String),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Whether applications are let in. On a standby an open gate admits readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    Shut,
}

/// Renders `pg_hba.conf`. `application_lines` come last, in their order; none means [`DEFAULT_APPLICATION_LINE`].
pub fn render_hba(gate: Gate, application_lines: &[String]) -> Result<String, HbaError> {
    for line in application_lines {
        check_line(line).map_err(HbaError::Line)?;
    }
    let mut text = format!(
        "# Written by Mainstay: edits are lost.\n\
         local   all          {ADMINISTRATION_ROLE}              peer map={PEER_MAP}\n\
         local   all          {REPLICATION_ROLE}  reject\n\
         host    all          {ADMINISTRATION_ROLE}              all  reject\n\
         hostssl replication  {REPLICATION_ROLE}  all  scram-sha-256\n\
         # pg_rewind reads the source through this database.\n\
         hostssl postgres     {REPLICATION_ROLE}  all  scram-sha-256\n\
         host    replication  {REPLICATION_ROLE}  all  reject\n\
         host    all          {REPLICATION_ROLE}  all  reject\n"
    );
    match gate {
        Gate::Open if application_lines.is_empty() => {
            text.push_str("# Applications\n");
            text.push_str(DEFAULT_APPLICATION_LINE);
            text.push('\n');
        }
        Gate::Open => {
            text.push_str("# Applications\n");
            for line in application_lines {
                text.push_str(line.trim());
                text.push('\n');
            }
        }
        Gate::Shut => text.push_str(
            "# The gate is shut: applications are let in once the new timeline is safe.\n\
             local all all reject\n\
             host  all all 0.0.0.0/0 reject\n\
             host  all all ::/0 reject\n",
        ),
    }
    Ok(text)
}

/// Writes `pg_hba.conf`, durably. Returns whether it changed; PostgreSQL reads it at the next reload.
pub fn write_hba(layout: &Layout, gate: Gate, application_lines: &[String]) -> Result<bool, HbaError> {
    let text = render_hba(gate, application_lines)?;
    Ok(durable::write(&layout.hba_file(), text.as_bytes(), layout.configuration_access())?)
}

/// Writes `pg_ident.conf`: root, PostgreSQL's user and our own are Mainstay's role on the Unix socket.
pub fn write_ident(layout: &Layout) -> Result<bool, HbaError> {
    let own = User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
    let mut users: Vec<String> = vec!["root".to_owned()];
    users.extend(own);
    users.extend(layout.run_as().map(|user| user.name()));
    users.sort();
    users.dedup();
    let mut text = String::from("# Written by Mainstay: edits are lost.\n");
    for user in users {
        let quoted = user.replace('"', "\"\"");
        text.push_str(&format!("{PEER_MAP} \"{quoted}\" {ADMINISTRATION_ROLE}\n"));
    }
    Ok(durable::write(&layout.ident_file(), text.as_bytes(), layout.configuration_access())?)
}

const METHODS: &[&str] = &[
    "trust",
    "reject",
    "scram-sha-256",
    "md5",
    "password",
    "gss",
    "sspi",
    "ident",
    "peer",
    "pam",
    "ldap",
    "radius",
    "cert",
];

/// Whether PostgreSQL can read the line; if not, why, in one line. It reads no file that has a single bad one: nobody would
/// be let in.
///
/// The format is that of the PostgreSQL manual's chapter "The pg_hba.conf File", without includes.
pub fn check_line(line: &str) -> Result<(), String> {
    let refused = |why: &str| Err(format!("pg_hba line {line:?} is refused: {why}"));
    if line.chars().any(|c| c.is_control() && c != '\t') || line.trim_end().ends_with('\\') {
        return refused("it must be one line");
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let address_words = match words.first() {
        Some(&"local") => 0,
        Some(&("host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc")) => {
            let has_mask = words.get(3).is_some_and(|address| address.parse::<std::net::IpAddr>().is_ok());
            1 + usize::from(has_mask)
        }
        _ => return refused("it must begin with local, host, hostssl or hostnossl"),
    };
    // A quoted name may hold spaces; then the words cannot be counted like this.
    if line.contains('"') {
        return Ok(());
    }
    match words.get(3 + address_words) {
        Some(method) if METHODS.contains(method) => Ok(()),
        Some(method) => {
            refused(&format!("{method:?} is no method; use scram-sha-256, or one of PostgreSQL's others"))
        }
        None if address_words == 0 => refused("it must say: local DATABASE USER METHOD"),
        None => refused("it must say: host DATABASE USER ADDRESS METHOD"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_decides_about_the_last_lines_only() {
        let lines = ["hostssl app app 10.0.0.0/8 scram-sha-256".to_owned()];
        let open = render_hba(Gate::Open, &lines).unwrap();
        let shut = render_hba(Gate::Shut, &lines).unwrap();
        assert!(open.contains(&lines[0]) && !shut.contains(&lines[0]));
        assert!(!open.contains(DEFAULT_APPLICATION_LINE));
        assert!(render_hba(Gate::Open, &[]).unwrap().contains(DEFAULT_APPLICATION_LINE));
        let common = open.lines().zip(shut.lines()).take_while(|(a, b)| a == b).count();
        assert_eq!(common, 9, "Mainstay's own lines come first");
    }

    #[test]
    fn a_line_must_be_one_line_of_a_known_kind() {
        for bad in
            ["", "include /etc/x", "@file", "host all all all trust\nlocal all all trust", "host all all \\"]
        {
            assert!(render_hba(Gate::Open, &[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }
}
