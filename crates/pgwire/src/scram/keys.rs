//! The arithmetic of RFC 5802, section 3, and the key that an exchange yields.

use ring::{digest, hmac, pbkdf2};
use std::fmt;
use std::num::NonZeroU32;

/// SHA-256 has 32 bytes.
pub(super) const KEY_LEN: usize = 32;

/// What proves to a server that its user knows the password; worth the password to whoever also sees the verifier.
///
/// An exchange yields it, and the proxy signs in to PostgreSQL with it. Comparing two takes the same time wherever they
/// differ.
#[derive(Clone)]
pub struct ClientKey([u8; KEY_LEN]);

impl ClientKey {
    pub(super) fn of_salted(salted: &[u8; KEY_LEN]) -> ClientKey {
        ClientKey(mac(salted, &[b"Client Key"]))
    }

    /// What the client claims by its proof.
    pub(super) fn of_proof(proof: &[u8; KEY_LEN], signature: &[u8; KEY_LEN]) -> ClientKey {
        ClientKey(xor(proof, signature))
    }

    pub(super) fn proof(&self, signature: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
        xor(&self.0, signature)
    }

    /// What the server stores of it.
    pub(super) fn stored(&self) -> [u8; KEY_LEN] {
        array(digest::digest(&digest::SHA256, &self.0).as_ref())
    }
}

impl PartialEq for ClientKey {
    fn eq(&self, other: &ClientKey) -> bool {
        is_same(&self.0, &other.0)
    }
}

impl Eq for ClientKey {}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey(…)")
    }
}

/// The key of the server, by which it proves that it holds the verifier.
pub(super) fn server_key(salted: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
    mac(salted, &[b"Server Key"])
}

/// The password with salt, after `iterations` rounds; none counts as one.
pub(super) fn salted(normalised: &[u8], salt: &[u8], iterations: u32) -> [u8; KEY_LEN] {
    let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    let mut out = [0; KEY_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, normalised, &mut out);
    out
}

/// The password as PostgreSQL hashes it: prepared by SASLprep (RFC 4013), or as it is where that refuses it.
///
/// SASLprep makes an empty password of one of soft hyphens only; PostgreSQL counts that as refused, so it does here.
pub(super) fn normalised(password: &str) -> Vec<u8> {
    match stringprep::saslprep(password) {
        Ok(prepared) if !prepared.is_empty() => prepared.as_bytes().to_vec(),
        _ => password.as_bytes().to_vec(),
    }
}

/// HMAC-SHA-256 of the parts, one after the other.
pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_LEN] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    array(context.sign().as_ref())
}

/// Whether two values are the same, in a time that does not tell where they differ.
///
/// ring promises that only for the tags of HMAC, so the tags of both are compared; equal tags mean equal values.
pub(super) fn is_same(left: &[u8], right: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"mainstay compares");
    hmac::verify(&key, left, hmac::sign(&key, right).as_ref()).is_ok()
}

fn xor(left: &[u8; KEY_LEN], right: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
    std::array::from_fn(|at| left[at] ^ right[at])
}

fn array(bytes: &[u8]) -> [u8; KEY_LEN] {
    bytes.try_into().expect("SHA-256 has 32 bytes")
}
