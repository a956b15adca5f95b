//! The files that a member reads at each start, and those that it writes anew.

use std::path::PathBuf;

use mainstay_core::record::Invitation;
use mainstay_net::{Allowlist, Endpoint, Identity};
use mainstay_postgres::layout::Layout;

use super::MemberError;
use crate::configuration::Configuration;
use crate::promise::Promises;
use crate::roster::{self, Roster};

/// PostgreSQL reads its certificate from files of its own, which its user may read.
pub(crate) fn install_certificates(
    configuration: &Configuration,
    layout: &Layout,
) -> Result<(), MemberError> {
    let files = [
        (&configuration.tls.authority, layout.authority()),
        (&configuration.tls.server_certificate, layout.certificate()),
        (&configuration.tls.server_key, layout.key()),
    ];
    for (from, to) in files {
        let text = std::fs::read(from).map_err(|source| MemberError::Read { path: from.clone(), source })?;
        mainstay_postgres::durable::write(&to, &text, layout.server_access())
            .map_err(|error| MemberError::Store(crate::machinery::failed(error).0))?;
    }
    Ok(())
}

/// The application's password, so that `psql` on this machine needs none. libpq refuses a file that others may read.
pub(super) fn write_passfile(configuration: &Configuration, layout: &Layout) -> Result<(), MemberError> {
    let (Some(path), Some(role), Some(password)) =
        (configuration.passfile(), &configuration.bootstrap.role, &configuration.bootstrap.password)
    else {
        return Ok(());
    };
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    let line = format!("*:*:*:{}:{}\n", escaped(role), escaped(password));
    mainstay_postgres::durable::write(&path, line.as_bytes(), layout.private_access())
        .map(|_| ())
        .map_err(|error| MemberError::Store(crate::machinery::failed(error).0))
}

/// For people and for the demo; nothing is decided by it.
pub(super) fn write_pid(layout: &Layout) -> Result<(), MemberError> {
    let path = layout.state_dir().join("member.pid");
    std::fs::write(&path, format!("{}\n", std::process::id()))
        .map_err(|source| MemberError::Write { path, source })
}

/// Who this member is to the others: its key must be one that they know.
pub(crate) fn endpoint(configuration: &Configuration, roster: &Roster) -> Result<Endpoint, MemberError> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| MemberError::Read { path: path.clone(), source })
    };
    let bad = |why: String| MemberError::Certificate { path: configuration.tls.certificate.clone(), why };
    // A change of the key may have been interrupted.
    mainstay_net::pki::settle_pair(&configuration.tls.certificate, &configuration.tls.key)
        .map_err(|error| bad(crate::machinery::failed(error).0))?;
    let identity = Identity::from_pem(&read(&configuration.tls.certificate)?, &read(&configuration.tls.key)?)
        .map_err(|error| bad(crate::machinery::failed(error).0))?;
    // The file names the key that the member began with; the roster has what has become of that.
    let own = roster.get(&configuration.me);
    let shown = identity.fingerprint().to_string();
    let wanted = own.map_or(&configuration.own_row().key, |row| &row.key);
    if shown != *wanted && !own.is_some_and(|row| row.has_key(&shown)) {
        return Err(MemberError::WrongKey {
            path: configuration.tls.key.clone(),
            member: configuration.me.clone(),
            found: identity.fingerprint(),
            wanted: wanted.clone(),
        });
    }
    let allowlist = Allowlist::new(roster::keys(roster));
    Endpoint::new(configuration.me.clone(), &configuration.cluster, identity, allowlist)
        .map_err(|error| bad(crate::machinery::failed(error).0))
}

/// What `init` has left to be written into the record.
pub(super) fn first_invitations(layout: &Layout) -> Result<Vec<Invitation>, MemberError> {
    let path = layout.state_dir().join(crate::join::FIRST_INVITATIONS);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|source| MemberError::Read { path: path.clone(), source })?,
    };
    let damaged = |source: serde_json::Error| MemberError::Read { path, source: source.into() };
    serde_json::from_slice(&text).map_err(damaged)
}

/// A member that the cluster has gone on without does not come back as it was, whom ever it would meet first.
pub(super) fn refuse_if_left_behind(layout: &Layout) -> Result<(), MemberError> {
    let promises = Promises::new(&layout.state_dir(), layout.private_access());
    match promises.left_behind()? {
        Some(by) => Err(MemberError::LeftBehind { by, data: layout.data().to_owned() }),
        None => Ok(()),
    }
}
