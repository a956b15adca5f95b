//! TLS for machines that are no members yet: they know the key of the cluster's CA, and we know nothing of them.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};

use super::{Identity, TlsError, no_tls12, provider, refused, verdict_within};
use crate::fingerprint::KeyFingerprint;

/// Id-kp-serverAuth and id-kp-clientAuth (RFC 5280, 4.2.1.12) in DER.
const SERVER_AUTH: &[u8] = &[0x2B, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2B, 6, 1, 5, 5, 7, 3, 2];

/// Why a listener does not belong to the cluster whose CA is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongAuthority {
    #[error("it shows no certificate of a cluster's CA")]
    Missing,
    #[error("its cluster's CA has the key {presented}, not {expected}")]
    Other { expected: KeyFingerprint, presented: KeyFingerprint },
    #[error("its certificate is not one that the cluster's CA has issued to a member: {0}")]
    NotIssued(String),
}

impl WrongAuthority {
    pub(crate) fn within(error: &std::io::Error) -> Option<WrongAuthority> {
        verdict_within(error)
    }
}

/// Shows the member's certificate and that of the CA, and asks for none.
pub(crate) fn server_config(identity: &Identity, authority_pem: &str) -> Result<Arc<ServerConfig>, TlsError> {
    let authority = CertificateDer::from_pem_slice(authority_pem.as_bytes()).map_err(TlsError::Authority)?;
    let expected = KeyFingerprint::of_certificate(&authority).map_err(TlsError::Fingerprint)?;
    let member = identity.certified.end_entity_cert().map_err(TlsError::Setup)?.clone().into_owned();
    // A pair that no joining machine would accept is noticed here, where somebody can put it right.
    check_chain(&member, std::slice::from_ref(&authority), expected).map_err(TlsError::NotIssued)?;
    let certified = CertifiedKey::new(vec![member, authority], Arc::clone(&identity.certified.key));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![crate::join::PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

/// For a machine that knows the CA's key only.
pub(crate) fn client_config(authority: KeyFingerprint) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = AnyMemberOf { authority, algorithms: provider.signature_verification_algorithms };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = vec![crate::join::PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

/// Whether `leaf` is a member's certificate from the CA with the key `authority`, whose certificate is in `chain`.
/// Neither dates nor names are looked at.
pub(crate) fn check_chain(
    leaf: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
    authority: KeyFingerprint,
) -> Result<(), WrongAuthority> {
    let not_issued = |error: webpki::Error| WrongAuthority::NotIssued(error.to_string());
    let mut presented = None;
    let mut anchor = None;
    for certificate in chain {
        let Ok(fingerprint) = KeyFingerprint::of_certificate(certificate) else { continue };
        presented.get_or_insert(fingerprint);
        if fingerprint == authority {
            anchor = Some(webpki::anchor_from_trusted_cert(certificate).map_err(not_issued)?);
        }
    }
    let Some(anchor) = anchor else {
        return Err(match presented {
            Some(presented) => WrongAuthority::Other { expected: authority, presented },
            None => WrongAuthority::Missing,
        });
    };
    let leaf = webpki::EndEntityCert::try_from(leaf).map_err(not_issued)?;
    // The same CA issues certificates to PostgreSQL and to users of the API. Only members have both usages, so
    // nobody who was given one of the others can pass for a member and collect tokens.
    for usage in [SERVER_AUTH, CLIENT_AUTH] {
        check_issued(&leaf, &anchor, webpki::KeyUsage::required(usage)).map_err(not_issued)?;
    }
    Ok(())
}

/// `webpki` cannot leave the dates out, but it names the end that was missed, and asked for that very second it
/// judges the rest.
fn check_issued(
    leaf: &webpki::EndEntityCert<'_>,
    anchor: &rustls::pki_types::TrustAnchor<'_>,
    usage: webpki::KeyUsage,
) -> Result<(), webpki::Error> {
    let algorithms = provider().signature_verification_algorithms.all;
    let at = |time| {
        leaf.verify_for_usage(algorithms, std::slice::from_ref(anchor), &[], time, usage, None, None)
            .map(drop)
    };
    match at(UnixTime::now()) {
        Err(webpki::Error::CertExpired { not_after, .. }) => at(not_after),
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => at(not_before),
        verdict => verdict,
    }
}

/// The joining machine's view.
#[derive(Debug)]
struct AnyMemberOf {
    authority: KeyFingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyMemberOf {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        check_chain(certificate, chain, self.authority).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
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
