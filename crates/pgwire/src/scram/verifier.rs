//! What a server stores instead of a password.

use super::keys::{self, ClientKey, KEY_LEN};
use super::{SCRAM_SHA_256, attributes};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// PostgreSQL's defaults for a new password: `scram_iterations`, and the length of the salt in bytes.
const DEFAULT_ITERATIONS: u32 = 4096;
const DEFAULT_SALT_LEN: usize = 16;

/// What a server stores instead of a password: enough to check one, and to prove that the server knows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Rounds of PBKDF2, at least one.
    pub iterations: u32,
    /// Told to every client that asks.
    pub salt: Vec<u8>,
    /// The hash of the client's key.
    pub stored_key: [u8; 32],
    /// By which the server proves that it holds this verifier.
    pub server_key: [u8; 32],
}

impl Verifier {
    /// Of `pg_authid.rolpassword`: `SCRAM-SHA-256$4096:salt$stored:server`, in base64. `None` for any other kind of password.
    pub fn parse(text: &str) -> Option<Verifier> {
        let text = text.strip_prefix(SCRAM_SHA_256)?.strip_prefix('$')?;
        let (salting, keys) = text.split_once('$')?;
        let (iterations, salt) = salting.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        // PostgreSQL counts iterations in an int.
        let iterations =
            attributes::positive(iterations.as_bytes()).filter(|it| i32::try_from(*it).is_ok())?;
        let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?;
        let key = |text| STANDARD.decode(text).ok()?.try_into().ok();
        Some(Verifier { iterations, salt, stored_key: key(stored_key)?, server_key: key(server_key)? })
    }

    /// Of a password, as `CREATE ROLE … PASSWORD` makes it. No iterations count as one.
    pub fn from_password(password: &str, salt: &[u8], iterations: u32) -> Verifier {
        let iterations = iterations.max(1);
        let salted = keys::salted(&keys::normalised(password), salt, iterations);
        let stored_key = ClientKey::of_salted(&salted).stored();
        Verifier { iterations, salt: salt.to_vec(), stored_key, server_key: keys::server_key(&salted) }
    }

    /// A stand-in for a user that does not exist, so that a stranger cannot find out who does: it looks as a real one does,
    /// and the same each time. It lets nobody in, since nobody knows what hashes to its stored key.
    ///
    /// `secret` must be the same for all proxies of a cluster and known to nobody else: who knows it can tell stand-ins from
    /// real ones.
    pub fn unknown(name: &str, secret: &[u8]) -> Verifier {
        let part = |label: &[u8]| keys::mac(secret, &[label, name.as_bytes()]);
        Verifier {
            iterations: DEFAULT_ITERATIONS,
            salt: part(b"salt\0")[..DEFAULT_SALT_LEN].to_vec(),
            stored_key: part(b"stored\0"),
            server_key: part(b"server\0"),
        }
    }

    /// As PostgreSQL stores it in `pg_authid.rolpassword`.
    pub fn text(&self) -> String {
        let [salt, stored, server] =
            [self.salt.as_slice(), &self.stored_key, &self.server_key].map(|bytes| STANDARD.encode(bytes));
        format!("{SCRAM_SHA_256}${}:{salt}${stored}:{server}", self.iterations)
    }

    /// Whether the key is of the password of this verifier; in constant time.
    pub fn accepts(&self, key: &ClientKey) -> bool {
        keys::is_same(&key.stored(), &self.stored_key)
    }

    pub(super) fn signature(&self, authenticated: &[&[u8]]) -> [u8; KEY_LEN] {
        keys::mac(&self.server_key, authenticated)
    }
}

impl fmt::Debug for Verifier {
    /// Without the keys: passwords can be guessed against them, and the server be impersonated.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}
