//! Who a peer is: the key that the cluster's record has for it, and nothing else.
//!
//! Both ends show a certificate, TLS 1.3 proves that they hold its private key, and the fingerprint of that key
//! must be the one in the [`Allowlist`]. Dates, names and chains of certificates are deliberately not consulted:
//! a wrong clock or a forgotten renewal must not cut a member off from its cluster, and a pinned key is stronger
//! than a chain, since it leaves no authority that could vouch for a second key. For the same reason a removed
//! member is out as soon as the allowlist changes: sessions cannot be resumed, and open connections are closed.
//!
//! The one exception is a machine that wants to join: it knows no member's key yet, only that of the cluster's CA,
//! and shows no certificate of its own. See [`crate::join`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use mainstay_core::MemberId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme,
};
use tokio::sync::watch;

use crate::fingerprint::{FingerprintError, KeyFingerprint};

pub(crate) mod joining;

pub use joining::WrongAuthority;

/// Why there is no identity or no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the member's certificate cannot be read as PEM")]
    Certificate(#[source] pem::Error),
    #[error("the member's certificate file holds no certificate")]
    NoCertificate,
    #[error("the member's private key cannot be read as PEM")]
    Key(#[source] pem::Error),
    #[error("the member's private key and certificate do not belong together or are of an unknown kind")]
    Pair(#[source] rustls::Error),
    #[error("the member's certificate has no readable key")]
    Fingerprint(#[source] FingerprintError),
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    #[error("the cluster CA's certificate cannot be read as PEM")]
    Authority(#[source] pem::Error),
    #[error("the member's certificate and the cluster CA's certificate do not belong together")]
    NotIssued(#[source] WrongAuthority),
}

/// A key that is not the one expected. It ends the handshake and stands in the local log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongKey {
    #[error(
        "key {0} is no member's: if it should be, compare it with the fingerprints in the cluster's record"
    )]
    Unknown(KeyFingerprint),
    #[error("{0} is not in the cluster's record")]
    NotInRecord(MemberId),
    #[error(
        "key {presented} is not that of {peer}, which is {expected}: does the address belong to another machine?"
    )]
    Other { peer: MemberId, expected: KeyFingerprint, presented: KeyFingerprint },
}

impl WrongKey {
    /// Finds the verdict of our verifier in the error that a handshake ended with.
    pub(crate) fn within(error: &std::io::Error) -> Option<WrongKey> {
        verdict_within(error)
    }
}

fn verdict_within<V: Clone + std::error::Error + 'static>(error: &std::io::Error) -> Option<V> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref().cloned(),
        _ => None,
    }
}

/// A member's keys: one, or two while it changes from one to the other.
type Keys = BTreeMap<MemberId, BTreeSet<KeyFingerprint>>;

/// The members' keys, as the record has them. Clones are handles to the same list, usable from any thread.
#[derive(Clone, Debug)]
pub struct Allowlist {
    entries: Arc<watch::Sender<Keys>>,
    /// Of members that the cluster has gone on without: heard just long enough to be told.
    left_behind: Arc<RwLock<BTreeSet<KeyFingerprint>>>,
}

impl Allowlist {
    /// A member that is named twice has two keys, each of which is accepted.
    pub fn new(entries: impl IntoIterator<Item = (MemberId, KeyFingerprint)>) -> Allowlist {
        Allowlist { entries: Arc::new(watch::Sender::new(by_member(entries))), left_behind: Arc::default() }
    }

    /// Whom to tell that the cluster has gone on without them. None of them is let in.
    pub fn leave_behind(&self, keys: BTreeSet<KeyFingerprint>) {
        *self.left_behind.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    pub(crate) fn is_left_behind(&self, fingerprint: KeyFingerprint) -> bool {
        let left_behind = self.left_behind.read().unwrap_or_else(PoisonError::into_inner);
        left_behind.contains(&fingerprint) && self.member_of(fingerprint).is_none()
    }

    /// Puts another list in place. Connections of members whose key is gone or changed are closed at once.
    pub fn replace(&self, entries: impl IntoIterator<Item = (MemberId, KeyFingerprint)>) {
        let entries = by_member(entries);
        self.entries.send_if_modified(|current| {
            let changed = *current != entries;
            *current = entries;
            changed
        });
    }

    /// The keys that are accepted as this member's; none: it is no member.
    pub fn fingerprints_of(&self, member: &MemberId) -> BTreeSet<KeyFingerprint> {
        self.entries.borrow().get(member).cloned().unwrap_or_default()
    }

    /// Whose key this is. A key that stands in the list twice is nobody's: it would not say who is there.
    pub fn member_of(&self, fingerprint: KeyFingerprint) -> Option<MemberId> {
        let entries = self.entries.borrow();
        let mut owners =
            entries.iter().filter(|(_, keys)| keys.contains(&fingerprint)).map(|(member, _)| member);
        owners.next().filter(|_| owners.next().is_none()).cloned()
    }

    /// Waits until `member` no longer has this key; returns at once if it has not now.
    pub async fn revoked(&self, member: &MemberId, fingerprint: KeyFingerprint) {
        let mut entries = self.entries.subscribe();
        // It fails only when the sender is gone, and `self` keeps it.
        let has = |entries: &Keys| entries.get(member).is_some_and(|keys| keys.contains(&fingerprint));
        let _ = entries.wait_for(|entries| !has(entries)).await;
    }
}

fn by_member(entries: impl IntoIterator<Item = (MemberId, KeyFingerprint)>) -> Keys {
    let mut keys = Keys::new();
    for (member, key) in entries {
        keys.entry(member).or_default().insert(key);
    }
    keys
}

/// This member's own certificate and private key. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    fingerprint: KeyFingerprint,
}

impl Identity {
    /// From a certificate, which may be followed by others, and its private key, both in PEM.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Identity, TlsError> {
        let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(TlsError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(TlsError::Key)?;
        let first = chain.first().ok_or(TlsError::NoCertificate)?;
        let fingerprint = KeyFingerprint::of_certificate(first).map_err(TlsError::Fingerprint)?;
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(TlsError::Pair)?;
        Ok(Identity { certified: Arc::new(certified), fingerprint })
    }

    /// What the record must have for this member.
    pub fn fingerprint(&self) -> KeyFingerprint {
        self.fingerprint
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.fingerprint).finish()
    }
}

/// Named in each configuration and never installed for the whole process.
pub(crate) fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

pub(crate) fn server_config(
    identity: &Identity,
    allowlist: &Allowlist,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier =
        AnyMember { allowlist: allowlist.clone(), algorithms: provider.signature_verification_algorithms };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.certified))));
    // A resumed session would carry the verdict of an older allowlist.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For dialling `peer` and nobody else.
pub(crate) fn client_config(
    identity: &Identity,
    allowlist: &Allowlist,
    peer: &MemberId,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = ThisMember {
        peer: peer.clone(),
        allowlist: allowlist.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.certified))));
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

fn refused(verdict: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(verdict))).into()
}

fn fingerprint(certificate: &CertificateDer<'_>) -> Result<KeyFingerprint, rustls::Error> {
    KeyFingerprint::of_certificate(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

/// Never reached: both configurations name TLS 1.3 as the only version.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General("members speak TLS 1.3 only".to_owned()))
}

/// The listener's view: whoever holds a key from the list.
#[derive(Debug)]
struct AnyMember {
    allowlist: Allowlist,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyMember {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let presented = fingerprint(certificate)?;
        match self.allowlist.member_of(presented) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            // Who is told to go must hear it from a connection that proves who says so.
            None if self.allowlist.is_left_behind(presented) => Ok(ClientCertVerified::assertion()),
            None => Err(refused(WrongKey::Unknown(presented))),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The caller's view: the one member that was dialled.
#[derive(Debug)]
struct ThisMember {
    peer: MemberId,
    allowlist: Allowlist,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ThisMember {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = fingerprint(certificate)?;
        let known = self.allowlist.fingerprints_of(&self.peer);
        match known.first().copied() {
            _ if known.contains(&presented) => Ok(ServerCertVerified::assertion()),
            Some(expected) => Err(refused(WrongKey::Other { peer: self.peer.clone(), expected, presented })),
            None => Err(refused(WrongKey::NotInRecord(self.peer.clone()))),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint_of(byte: char) -> KeyFingerprint {
        format!("sha256:{}", byte.to_string().repeat(64)).parse().unwrap()
    }

    fn member(name: &str) -> MemberId {
        MemberId::new(name).unwrap()
    }

    #[test]
    fn a_key_that_two_members_share_names_neither() {
        let (a, b) = (fingerprint_of('a'), fingerprint_of('b'));
        let allowlist = Allowlist::new([(member("m1"), a), (member("m2"), b)]);
        assert_eq!(allowlist.member_of(a), Some(member("m1")));
        allowlist.replace([(member("m1"), a), (member("m2"), a)]);
        assert_eq!(allowlist.member_of(a), None);
        assert_eq!(allowlist.member_of(b), None);
    }

    #[tokio::test]
    async fn a_key_is_revoked_when_it_is_removed_or_changed() {
        let (a, b) = (fingerprint_of('a'), fingerprint_of('b'));
        for after in [vec![], vec![(member("m1"), b)]] {
            let allowlist = Allowlist::new([(member("m1"), a)]);
            let (handle, m1) = (allowlist.clone(), member("m1"));
            let waiting = tokio::spawn(async move { handle.revoked(&m1, a).await });
            tokio::task::yield_now().await;
            // Another key beside it revokes nothing.
            allowlist.replace([(member("m1"), a), (member("m1"), fingerprint_of('c')), (member("m2"), b)]);
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            allowlist.replace(after);
            tokio::time::timeout(std::time::Duration::from_secs(5), waiting).await.unwrap().unwrap();
        }
    }
}
