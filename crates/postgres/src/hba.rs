//! `pg_hba.conf` and `pg_ident.conf`: who gets in. The lines for applications are the gate.

use nix::unistd::{User, geteuid};

use crate::durable::{self, FileError};
use crate::layout::Layout;
use crate::upstream::{ADMINISTRATION_ROLE, REPLICATION_ROLE};

/// The map from operating-system users to Mainstay's role.
const PEER_MAP: &str = "mainstay";

/// The line for applications where none is configured.
pub const DEFAULT_APPLICATION_LINE: &str = "host all all all scram-sha-256";

/// The line for a SQL proxy on the same machine. Everybody there reaches the socket, so it asks for a password as the
/// network does: `peer` would let in whoever is called like a role.
pub const PROXY_LINE: &str = "local all all scram-sha-256";

/// The lines for applications, and behind them, so that the operator's own come first, the one for a proxy on this machine.
pub fn with_proxy(mut application_lines: Vec<String>) -> Vec<String> {
    if application_lines.is_empty() {
        application_lines.push(DEFAULT_APPLICATION_LINE.to_owned());
    }
    application_lines.push(PROXY_LINE.to_owned());
    application_lines
}

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

/// Whether this is a file of ours with the gate open, whichever lines it has.
pub fn is_open(written: &str) -> bool {
    written.contains("\n# Applications\n")
}

/// Writes `pg_hba.conf` with other lines for applications, durably, the gate left as it is. Returns whether it changed.
pub fn rewrite_hba(layout: &Layout, application_lines: &[String]) -> Result<bool, HbaError> {
    let present = durable::read(&layout.hba_file())?.unwrap_or_default();
    let present = String::from_utf8_lossy(&present);
    if !is_open(&present) {
        return Ok(false);
    }
    write_hba(layout, Gate::Open, application_lines)
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
    "bsd",
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
    let fields = match fields(line) {
        Ok(fields) => fields,
        Err(why) => return refused(why),
    };
    let address_fields = match fields.first().map(String::as_str) {
        Some("local") => 0,
        Some("host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc") => {
            let has_mask = fields.get(3).is_some_and(|address| address.parse::<std::net::IpAddr>().is_ok());
            1 + usize::from(has_mask)
        }
        _ => return refused("it must begin with local, host, hostssl or hostnossl"),
    };
    match fields.get(3 + address_fields).map(String::as_str) {
        Some(method) if METHODS.contains(&method) => Ok(()),
        Some(method) => {
            refused(&format!("{method:?} is no method; use scram-sha-256, or one of PostgreSQL's others"))
        }
        None if address_fields == 0 => refused("it must say: local DATABASE USER METHOD"),
        None => refused("it must say: host DATABASE USER ADDRESS METHOD"),
    }
}

/// The fields of a line as PostgreSQL's `next_token` and `next_field_expand` (hba.c) find them, with their quotes, the blanks
/// behind a list's commas and the comment left out. Fails for a quote that is not closed.
pub(crate) fn fields(line: &str) -> Result<Vec<String>, &'static str> {
    let mut fields: Vec<String> = Vec::new();
    let (mut is_quoted, mut goes_on) = (false, false);
    for c in line.chars() {
        match c {
            '#' if !is_quoted => break,
            c if c.is_whitespace() && !is_quoted => {
                // Behind a comma the list goes on.
                goes_on = goes_on && fields.last().is_some_and(|field| field.ends_with(','));
            }
            c => {
                if c == '"' {
                    is_quoted = !is_quoted;
                }
                match fields.last_mut() {
                    Some(field) if goes_on => field.push(c),
                    _ => fields.push(c.to_string()),
                }
                goes_on = true;
            }
        }
    }
    if is_quoted { Err("a quote is not closed") } else { Ok(fields) }
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
    fn a_proxy_on_the_machine_comes_behind_the_operators_lines() {
        let lines = with_proxy(vec!["local all boss peer".to_owned()]);
        let text = render_hba(Gate::Open, &lines).unwrap();
        let applications = text.split_once("# Applications\n").unwrap().1;
        assert_eq!(applications, format!("local all boss peer\n{PROXY_LINE}\n"));
        let default = render_hba(Gate::Open, &with_proxy(Vec::new())).unwrap();
        assert!(default.ends_with(&format!("{DEFAULT_APPLICATION_LINE}\n{PROXY_LINE}\n")), "{default}");
        assert!(!render_hba(Gate::Shut, &lines).unwrap().contains(PROXY_LINE));
        assert_eq!(check_line(PROXY_LINE), Ok(()));
    }

    #[test]
    fn lists_quotes_masks_and_comments_are_understood() {
        for good in [
            "host a, b, c u 10.0.0.0/8 md5 # why",
            "host \"my db\" \"a, b\" 10.0.0.1 255.255.255.255 scram-sha-256",
            "local all all peer map=x",
            "hostssl all all .example.org cert clientcert=verify-full",
        ] {
            assert_eq!(check_line(good), Ok(()));
        }
        for bad in ["host \"my db all 10.0.0.0/8 md5", "local \"a b\" all guess", "host a, b 10.0.0.0/8 md5"]
        {
            assert!(check_line(bad).is_err(), "{bad}");
        }
        assert_eq!(fields("host a, b  u\t# x").unwrap(), ["host", "a,b", "u"]);
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
