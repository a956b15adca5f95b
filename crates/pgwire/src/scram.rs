//! SCRAM-SHA-256 (RFC 5802, RFC 7677), both sides, as PostgreSQL speaks it.
//!
//! Towards an application the proxy is the server ([`ServerExchange`]), with the [`Verifier`] that PostgreSQL stores. An
//! exchange that succeeds yields the [`ClientKey`], with which the proxy then is the client of PostgreSQL
//! ([`ClientExchange`]). So the proxy signs in as the application's user and never sees a password.
//!
//! Where PostgreSQL differs from the RFC, PostgreSQL is followed: the name of the user comes from the startup packet, and a
//! password that SASLprep refuses is used as it is. Source: `src/backend/libpq/auth-scram.c`,
//! `src/interfaces/libpq/fe-auth-scram.c` and `src/common/scram-common.c` of PostgreSQL.

mod attributes;
mod client;
mod error;
mod keys;
mod server;
mod verifier;

#[cfg(test)]
mod tests;

pub use client::ClientExchange;
pub use error::ScramError;
pub use keys::ClientKey;
pub use server::ServerExchange;
pub use verifier::Verifier;

/// What `pg_authid.rolpassword` begins with, and the name of the mechanism without channel binding.
const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The only type of channel binding that PostgreSQL knows (RFC 5929, section 4).
const BINDING_TYPE: &str = "tls-server-end-point";

/// The SASL mechanism that a client chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Without channel binding.
    ScramSha256,
    /// With channel binding; may be offered over TLS only.
    ScramSha256Plus,
}

impl Mechanism {
    /// By the name in `SASLInitialResponse`; `None` for any other mechanism.
    pub fn parse(name: &str) -> Option<Mechanism> {
        [Mechanism::ScramSha256, Mechanism::ScramSha256Plus].into_iter().find(|it| it.name() == name)
    }

    /// The name as it is said in `AuthenticationSASL`.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha256 => SCRAM_SHA_256,
            Mechanism::ScramSha256Plus => SCRAM_SHA_256_PLUS,
        }
    }
}
