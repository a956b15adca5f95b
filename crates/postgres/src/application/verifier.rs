//! Whether a stored SCRAM verifier is that of a password.

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use ring::hmac;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Whether `stored` (`SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`) was made from `password`.
///
/// The exchange of RFC 5802 is played through with the client of `postgres-protocol`, which prepares the password as
/// PostgreSQL does and accepts a server only if it knows the server key.
pub(super) fn is_of(stored: &str, password: &str) -> bool {
    judge(stored, password).unwrap_or(false)
}

fn judge(stored: &str, password: &str) -> Option<bool> {
    let (parameters, keys) = stored.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
    let (iterations, salt) = parameters.split_once(':')?;
    let server_key = STANDARD.decode(keys.split_once(':')?.1).ok()?;
    let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
    let first = String::from_utf8(client.message().to_vec()).ok()?;
    let bare = first.strip_prefix("n,,")?.to_owned();
    let nonce = bare.strip_prefix("n=,r=")?;
    let server_first = format!("r={nonce}mainstay,s={salt},i={iterations}");
    client.update(server_first.as_bytes()).ok()?;
    let last = String::from_utf8(client.message().to_vec()).ok()?;
    let without_proof = last.rsplit_once(",p=")?.0;
    let message = format!("{bare},{server_first},{without_proof}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &server_key), message.as_bytes());
    let server_last = format!("v={}", STANDARD.encode(signature.as_ref()));
    Some(client.finish(server_last.as_bytes()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::is_of;
    use postgres_protocol::password::scram_sha_256;

    #[test]
    fn a_verifier_is_of_its_password_only() {
        for password in ["swordfish", "pä:ss'wörd", " "] {
            let stored = scram_sha_256(password.as_bytes());
            assert!(is_of(&stored, password));
            assert!(!is_of(&stored, "another"));
        }
        assert!(!is_of("md5d41d8cd98f00b204e9800998ecf8427e", "x"));
        assert!(!is_of("SCRAM-SHA-256$4096:c2FsdA==$x", "x"));
    }
}
