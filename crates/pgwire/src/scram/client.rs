//! The client's side: the proxy towards PostgreSQL.

use super::ScramError;
use super::attributes::{self, Attributes};
use super::keys::{self, ClientKey, KEY_LEN};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

const SERVER_FIRST: &str = "server-first-message";
const SERVER_FINAL: &str = "server-final-message";

/// No channel binding and no authorization identity. The proxy's connections to PostgreSQL are authenticated by the pinned
/// key of the member where they are TLS, so the binding would prove nothing new.
const HEADER: &str = "n,,";

/// PostgreSQL's default is 4096. Each million costs a core about a second, and the server chooses the number.
const MAX_ITERATIONS: u32 = 1_000_000;

/// One login to PostgreSQL.
pub struct ClientExchange {
    secret: Secret,
    nonce: String,
    /// Empty, for PostgreSQL takes the name of the startup packet; only the RFC's example has one.
    pub(super) name: &'static str,
    /// What the server must say at the end, once it has said enough to know that.
    signature: Option<[u8; KEY_LEN]>,
}

/// What the login is done with.
enum Secret {
    Keys { client_key: ClientKey, server_key: [u8; KEY_LEN] },
    Password { normalised: Vec<u8> },
}

impl ClientExchange {
    /// With the key of an exchange in which the user proved the password, and the server's key of the user's verifier.
    /// `nonce` is printable without commas, at most 256 bytes, and never used before.
    pub fn with_key(client_key: ClientKey, server_key: [u8; 32], nonce: &str) -> ClientExchange {
        ClientExchange::new(Secret::Keys { client_key, server_key }, nonce)
    }

    /// With a password. `nonce` as in [`ClientExchange::with_key`].
    pub fn with_password(password: &str, nonce: &str) -> ClientExchange {
        ClientExchange::new(Secret::Password { normalised: keys::normalised(password) }, nonce)
    }

    fn new(secret: Secret, nonce: &str) -> ClientExchange {
        ClientExchange { secret, nonce: nonce.to_owned(), name: "", signature: None }
    }

    /// The client-first-message, for the mechanism SCRAM-SHA-256.
    pub fn client_first(&self) -> Vec<u8> {
        format!("{HEADER}{}", self.client_first_bare()).into_bytes()
    }

    fn client_first_bare(&self) -> String {
        format!("n={},r={}", self.name, self.nonce)
    }

    /// Takes the server-first-message; the answer is the client-final-message.
    ///
    /// # Errors
    /// The message is malformed, does not extend our nonce, or asks for more than a million iterations.
    pub fn server_first(&mut self, message: &[u8]) -> Result<Vec<u8>, ScramError> {
        if self.signature.is_some() {
            return Err(ScramError::OutOfOrder { message: SERVER_FIRST });
        }
        attributes::check_own_nonce(&self.nonce)?;
        let mut attributes = Attributes::of_server(SERVER_FIRST, message)?;
        let nonce = attributes.nonce()?;
        // A nonce that is only ours would let what was said in one exchange be said in another.
        if !nonce.starts_with(self.nonce.as_bytes()) || nonce.len() == self.nonce.len() {
            return Err(ScramError::NonceDiffers { message: SERVER_FIRST });
        }
        let salt = attributes.decoded(b's')?;
        let iterations = attributes::positive(attributes.value(b'i')?);
        let iterations = iterations.ok_or_else(|| attributes.malformed("its iterations are not a number"))?;
        attributes.end()?;
        if iterations > MAX_ITERATIONS {
            return Err(ScramError::TooManyIterations { limit: MAX_ITERATIONS });
        }

        let (client_key, server_key) = self.keys(&salt, iterations);
        let mut answer = format!("c={},r=", STANDARD.encode(HEADER)).into_bytes();
        answer.extend_from_slice(nonce);
        let first = self.client_first_bare();
        let authenticated: [&[u8]; 5] = [first.as_bytes(), b",", message, b",", &answer];
        let proof = client_key.proof(&keys::mac(&client_key.stored(), &authenticated));
        self.signature = Some(keys::mac(&server_key, &authenticated));
        answer.extend_from_slice(format!(",p={}", STANDARD.encode(proof)).as_bytes());
        Ok(answer)
    }

    fn keys(&self, salt: &[u8], iterations: u32) -> (ClientKey, [u8; KEY_LEN]) {
        match &self.secret {
            Secret::Keys { client_key, server_key } => (client_key.clone(), *server_key),
            Secret::Password { normalised } => {
                let salted = keys::salted(normalised, salt, iterations);
                (ClientKey::of_salted(&salted), keys::server_key(&salted))
            }
        }
    }

    /// Takes the server-final-message: the server must prove that it holds the user's verifier.
    ///
    /// # Errors
    /// [`ScramError::WrongSignature`] if it does not; else the message is malformed, or says why the server refuses.
    pub fn server_final(&self, message: &[u8]) -> Result<(), ScramError> {
        let Some(signature) = &self.signature else {
            return Err(ScramError::OutOfOrder { message: SERVER_FINAL });
        };
        let mut attributes = Attributes::of_server(SERVER_FINAL, message)?;
        if message.starts_with(b"e=") {
            return Err(ScramError::Refused { reason: attributes::shown(attributes.value(b'e')?) });
        }
        let said = attributes.decoded(b'v')?;
        attributes.end()?;
        if keys::is_same(&said, signature) { Ok(()) } else { Err(ScramError::WrongSignature) }
    }
}

impl fmt::Debug for ClientExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientExchange").field("answered", &self.signature.is_some()).finish_non_exhaustive()
    }
}
