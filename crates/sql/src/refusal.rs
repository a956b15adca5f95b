//! What clients are told, each with its SQLSTATE, its cause and its remedy.
//!
//! The codes are chosen for what frameworks do with them: 40001 is run again by those that retry serialization failures,
//! class 08 and 57P0x make pools drop the connection. `08P01` and `58000`, which other proxies send for a lost server, are
//! for violations of the protocol and broken machines; here they are only sent for the former.

use std::net::IpAddr;

use mainstay_pgwire::backend::Report;

use crate::pool::PoolKey;

/// The transaction is gone, and certainly left nothing behind.
pub(crate) fn rolled_back(why: &str) -> Report {
    Report::error("40001", "the transaction was rolled back by a failover; it is safe to retry it")
        .detail(format!("The connection to the primary ended before the transaction was committed: {why}."))
        .hint("Run the transaction again, from its beginning.")
}

/// What was under way may or may not have been committed.
pub(crate) fn unknown(why: &str) -> Report {
    Report::error("08007", "the connection to the primary was lost while a commit was under way; whether it took effect is not known")
        .detail(format!("The connection ended before the server answered: {why}."))
        .hint("Look whether the change is there before it is made again.")
}

/// Nothing was sent: nobody is there to take it.
pub(crate) fn no_primary(waited_ms: u128, why: &str) -> Report {
    let why = if why.is_empty() { "no primary is known" } else { why };
    Report::error("57P03", "there is no primary that takes statements at the moment; nothing was executed")
        .detail(format!("Waited {waited_ms} ms. {why}"))
        .hint("Try again; `mainstay status` on a member shows what is the matter.")
}

/// An administrator has halted the database.
pub(crate) fn paused(waited_ms: u128, database: &str) -> Report {
    Report::error("57P03", format!("database \"{database}\" is paused; nothing was executed"))
        .detail(format!("Waited {waited_ms} ms. An administrator has paused it on the SQL proxy's console."))
        .hint("Try again when it goes on: RESUME in database mainstay.")
}

/// In the words of PostgreSQL, for the same.
pub(crate) fn disabled(database: &str) -> Report {
    Report::fatal("55000", format!("database \"{database}\" is not currently accepting connections"))
        .detail("An administrator has disabled it on the SQL proxy's console.")
        .hint("ENABLE in database mainstay lets clients in again.")
}

/// All server connections are busy, and a limit allows no more of them.
pub(crate) fn pool_is_full(waited_ms: u128, setting: &str) -> Report {
    Report::error("53300", "all server connections of the pool are in use; nothing was executed")
        .detail(format!("Waited {waited_ms} ms; {setting} allows no more of them."))
        .hint(format!(
            "Raise {setting} of [sql_proxy], or end transactions sooner; SHOW POOLS in database mainstay tells who waits."
        ))
}

/// One database or user has as many clients as it may have.
pub(crate) fn too_many_clients_of(setting: &str, most: usize) -> Report {
    Report::fatal("53300", format!("client connections exceeded ({setting})"))
        .detail(format!("{setting} is {most}."))
        .hint(format!("Raise {setting} of [sql_proxy], or let applications keep fewer connections."))
}

pub(crate) fn too_many_clients(most: usize) -> Report {
    Report::fatal("53300", "sorry, too many clients already")
        .detail(format!("max_client_conn is {most}."))
        .hint("Raise max_client_conn of [sql_proxy], or let applications keep fewer connections.")
}

/// No rule lets it in, or one refuses it. Said before a password is asked for, as PostgreSQL does.
pub(crate) fn not_admitted(key: &PoolKey, address: Option<IpAddr>, is_encrypted: bool) -> Report {
    let from =
        address.map_or_else(|| "an unknown address".to_owned(), |address| address.to_canonical().to_string());
    let how = if is_encrypted { "with" } else { "without" };
    let text = format!(
        "no rule lets user \"{}\" into database \"{}\" from {from}, {how} encryption",
        key.user, key.database
    );
    Report::fatal("28000", text).hint("See hba in [sql_proxy]: the first rule that fits decides.")
}

/// A rule asks for a certificate: before the password, in the words of PostgreSQL.
pub(crate) fn no_client_certificate() -> Report {
    Report::fatal("28000", "connection requires a valid client certificate").hint(
        "Give the client a certificate of the CA in client_tls_ca_file (sslcert and sslkey); a rule of hba in [sql_proxy] asks for it.",
    )
}

pub(crate) fn other_client_certificate(name: &str, user: &str) -> Report {
    Report::fatal("28000", format!("certificate authentication failed for user \"{user}\""))
        .detail(format!("The certificate's common name is \"{name}\"."))
        .hint("A rule of hba in [sql_proxy] says clientcert=verify-full: the common name must be the role's.")
}

/// The client's session held something that cannot be had on another server.
pub(crate) fn session_lost(what: &str) -> Report {
    Report::fatal("57P01", "the session ended with its server, because it cannot be restored on another one")
        .detail(format!("It had {what}."))
        .hint("Connect again.")
}

pub(crate) fn shutting_down() -> Report {
    Report::fatal("57P01", "terminating connection because the proxy is shutting down").hint("Connect again.")
}

pub(crate) fn killed(why: &str) -> Report {
    Report::fatal("57P01", format!("terminating connection: {why}"))
}

/// A message that PostgreSQL would not take either.
pub(crate) fn protocol_violation(what: impl std::fmt::Display) -> Report {
    Report::fatal("08P01", format!("protocol violation: {what}"))
}
