//! The server's side: the proxy towards an application.

use super::attributes::{self, Attributes};
use super::keys::{self, ClientKey};
use super::{BINDING_TYPE, Mechanism, ScramError, Verifier};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

const CLIENT_FIRST: &str = "client-first-message";
const CLIENT_FINAL: &str = "client-final-message";

/// One login of an application.
pub struct ServerExchange {
    verifier: Verifier,
    mechanism: Mechanism,
    binding: Option<Vec<u8>>,
    nonce: String,
    begun: Option<Begun>,
}

/// What the second half needs of the first.
struct Begun {
    client_first_bare: Vec<u8>,
    server_first: Vec<u8>,
    /// The client's and ours.
    nonce: Vec<u8>,
    /// What the client must repeat in base64: its header, and the data of the channel.
    binding_input: Vec<u8>,
}

impl ServerExchange {
    /// `mechanism` is the one that the client chose, `binding` the data of `tls-server-end-point` if the connection is TLS and
    /// SCRAM-SHA-256-PLUS was offered. `nonce` is printable without commas, at most 256 bytes, and never used before.
    pub fn new(
        verifier: Verifier,
        mechanism: Mechanism,
        binding: Option<Vec<u8>>,
        nonce: &str,
    ) -> ServerExchange {
        ServerExchange { verifier, mechanism, binding, nonce: nonce.to_owned(), begun: None }
    }

    /// Takes the client-first-message; the answer is the server-first-message.
    ///
    /// # Errors
    /// The message is malformed or asks for what is not supported, or its channel binding contradicts what was offered.
    pub fn client_first(&mut self, message: &[u8]) -> Result<Vec<u8>, ScramError> {
        if self.begun.is_some() {
            return Err(ScramError::OutOfOrder { message: CLIENT_FIRST });
        }
        attributes::check_own_nonce(&self.nonce)?;
        let mut attributes = Attributes::of_client(CLIENT_FIRST, message)?;
        let flag = attributes.field()?;
        let data = self.check_flag(&attributes, flag)?;
        match attributes.field()? {
            [] => {}
            [b'a', b'=', ..] => return Err(ScramError::AuthorizationIdentity),
            _ => {
                return Err(
                    attributes.malformed("an authorization identity is the only thing that may stand there")
                );
            }
        }
        let client_first_bare = attributes.rest().to_vec();
        if client_first_bare.starts_with(b"m=") {
            return Err(ScramError::Extension);
        }
        // PostgreSQL ignores the name here: the one in the startup packet counts, and libpq sends none.
        attributes.value(b'n')?;
        let mut nonce = attributes.nonce()?.to_vec();
        while attributes.end().is_err() {
            attributes.any()?;
        }
        nonce.extend_from_slice(self.nonce.as_bytes());
        let mut server_first = [b"r=", nonce.as_slice()].concat();
        let salt = STANDARD.encode(&self.verifier.salt);
        server_first.extend_from_slice(format!(",s={salt},i={}", self.verifier.iterations).as_bytes());
        let binding_input = [flag, b",,", data].concat();
        let answer = server_first.clone();
        self.begun = Some(Begun { client_first_bare, server_first, nonce, binding_input });
        Ok(answer)
    }

    /// Refuses what contradicts the offer; else the data of the channel that the client must repeat.
    fn check_flag(&self, attributes: &Attributes<'_>, flag: &[u8]) -> Result<&[u8], ScramError> {
        match (self.mechanism, self.binding.as_deref(), flag) {
            (Mechanism::ScramSha256Plus, None, _) => Err(ScramError::NotOffered),
            (Mechanism::ScramSha256Plus, Some(data), [b'p', b'=', kind @ ..]) => {
                if kind == BINDING_TYPE.as_bytes() { Ok(data) } else { Err(ScramError::BindingType) }
            }
            (Mechanism::ScramSha256Plus, Some(_), b"n" | b"y") => Err(ScramError::BindingMissing),
            (Mechanism::ScramSha256, _, [b'p', b'=', ..]) => Err(ScramError::BindingUnasked),
            (Mechanism::ScramSha256, Some(_), b"y") => Err(ScramError::BindingDowngraded),
            (Mechanism::ScramSha256, None, b"y") | (Mechanism::ScramSha256, _, b"n") => Ok(b""),
            _ => Err(attributes.malformed("its channel-binding flag is none of n, y and p=")),
        }
    }

    /// Takes the client-final-message; the answer is the server-final-message, and the key of the user who is now proven.
    ///
    /// # Errors
    /// [`ScramError::WrongProof`] for a wrong password and for a user that does not exist; else the message is malformed, of
    /// another exchange or of another channel.
    pub fn client_final(self, message: &[u8]) -> Result<(Vec<u8>, ClientKey), ScramError> {
        let Some(begun) = self.begun else { return Err(ScramError::OutOfOrder { message: CLIENT_FINAL }) };
        let mut attributes = Attributes::of_client(CLIENT_FINAL, message)?;
        if attributes.value(b'c')? != STANDARD.encode(&begun.binding_input).as_bytes() {
            return Err(ScramError::BindingDiffers);
        }
        let nonce = attributes.nonce()?;
        let proof = loop {
            let before_len = message.len() - attributes.rest().len();
            let (letter, value) = attributes.any()?;
            if letter == b'p' {
                // The comma before the proof belongs to neither part.
                break (value, &message[..before_len - 1]);
            }
        };
        let (proof, without_proof) = proof;
        let proof = STANDARD.decode(proof).ok().and_then(|proof| proof.try_into().ok());
        let proof = proof.ok_or_else(|| attributes.malformed("its proof is not 32 bytes in base64"))?;
        attributes.end()?;
        if nonce != begun.nonce {
            return Err(ScramError::NonceDiffers { message: CLIENT_FINAL });
        }
        let authenticated: [&[u8]; 5] =
            [&begun.client_first_bare, b",", &begun.server_first, b",", without_proof];
        let key = ClientKey::of_proof(&proof, &keys::mac(&self.verifier.stored_key, &authenticated));
        if !self.verifier.accepts(&key) {
            return Err(ScramError::WrongProof);
        }
        let signature = STANDARD.encode(self.verifier.signature(&authenticated));
        Ok((format!("v={signature}").into_bytes(), key))
    }
}

impl fmt::Debug for ServerExchange {
    /// Without what was said: it holds nonces, and all of them together let passwords be guessed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerExchange").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}
