//! The API over the network: TLS with a certificate that clients of PostgreSQL know already, and who the caller is.
//!
//! A client proves itself by a certificate of the cluster's CA or by a token. What either may do is for the caller of this
//! module to decide; here it is only read, and compared without telling by the time it takes how much of it was right.

use std::fmt;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::fingerprint::KeyFingerprint;
use crate::tls::{TlsError, provider};

/// The first byte of every connection that speaks TLS; no request of HTTP begins so.
pub const TLS_FIRST_BYTE: u8 = 0x16;

/// What every token begins with, so that scanners of leaked secrets know it.
const PREFIX: &str = "mainstay_";
const SECRET: usize = 32;

/// A secret word of a client. Its text is shown once and stored nowhere but with the client.
pub struct ApiToken([u8; SECRET]);

impl ApiToken {
    /// `None` if the operating system gives no random numbers.
    pub fn create() -> Option<ApiToken> {
        let mut secret = [0; SECRET];
        SystemRandom::new().fill(&mut secret).ok()?;
        Some(ApiToken(secret))
    }

    /// The word itself, **secret**.
    pub fn text(&self) -> String {
        format!("{PREFIX}{}", hexadecimal(&self.0))
    }

    /// What may be kept of it.
    pub fn sha256(&self) -> String {
        token_sha256(&self.text())
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken")
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What may be kept of a token, in lower-case hexadecimal digits.
pub fn token_sha256(text: &str) -> String {
    hexadecimal(digest(&SHA256, text.as_bytes()).as_ref())
}

/// Whose token this is, among names with the SHA-256 of their tokens. All are compared, each to its end.
pub fn owner_of_token<'a>(
    presented: &str,
    known: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<&'a str> {
    let presented = token_sha256(presented);
    let mut owner = None;
    for (name, sha256) in known {
        if is_equal(presented.as_bytes(), sha256.as_bytes()) {
            owner = Some(name);
        }
    }
    owner
}

fn is_equal(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |differing, (a, b)| std::hint::black_box(differing | (a ^ b)));
    a.len() == b.len() && differing == 0
}

/// Accepts TLS on the API's port, with or without a client's certificate.
#[derive(Clone)]
pub struct ApiAcceptor {
    acceptor: TlsAcceptor,
}

/// A certificate that the CA has issued to a client and that is valid now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub key: KeyFingerprint,
}

impl ApiAcceptor {
    /// All three in PEM; the certificate may be followed by others. Clients' certificates must be of `authority_pem`.
    pub fn new(certificate_pem: &str, key_pem: &str, authority_pem: &str) -> Result<ApiAcceptor, TlsError> {
        let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(TlsError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(TlsError::Key)?;
        let authority =
            CertificateDer::from_pem_slice(authority_pem.as_bytes()).map_err(TlsError::Authority)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(TlsError::Setup)?;
        let provider = Arc::new(provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Setup)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(TlsError::Pair)?;
        // A client that is dismissed is out at its next request, and a resumed session shows no certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(ApiAcceptor { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// The handshake, which the caller bounds in time.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<(TlsStream<TcpStream>, Option<ClientCertificate>)> {
        let stream = self.acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let key = shown.and_then(|certificate| KeyFingerprint::of_certificate(certificate).ok());
        Ok((stream, key.map(|key| ClientCertificate { key })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash_alone() {
        let (ann, ben) = (ApiToken::create().unwrap(), ApiToken::create().unwrap());
        let known = [("ann", ann.sha256()), ("ben", ben.sha256())];
        let owner = |text: &str| {
            owner_of_token(text, known.iter().map(|(name, sha256)| (*name, sha256.as_str())))
                .map(str::to_owned)
        };
        assert_eq!(owner(&ann.text()).as_deref(), Some("ann"));
        assert_eq!(owner(&ben.text()).as_deref(), Some("ben"));
        let mut nearly = ann.text();
        nearly.pop();
        for wrong in [nearly, ann.sha256(), String::new(), format!("{} ", ann.text())] {
            assert_eq!(owner(&wrong), None);
        }
        assert!(!format!("{ann:?}").contains(&ann.text()[9..20]));
    }

    #[test]
    fn what_is_shorter_or_longer_is_not_equal() {
        assert!(is_equal(b"ab", b"ab"));
        assert!(!is_equal(b"ab", b"abc") && !is_equal(b"abc", b"ab") && !is_equal(b"ab", b"ac"));
    }
}
