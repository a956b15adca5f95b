//! The files that a member writes anew at each start.

use mainstay_postgres::layout::Layout;

use super::MemberError;
use crate::configuration::Configuration;

/// PostgreSQL reads its certificate from files of its own, which its user may read.
pub(super) fn install_certificates(
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
