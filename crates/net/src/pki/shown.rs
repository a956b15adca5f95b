//! What a login over TLS needs of a certificate that one of the two has shown.

use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Oid;
use x509_parser::oid_registry::{
    OID_PKCS1_MD5WITHRSAENC, OID_PKCS1_SHA1WITHRSA, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512,
};

/// The subject's first common name, of a certificate in DER; `None` if it has none that can be read.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    // One with a zero in it would end there for whoever compares it in C.
    name.as_str().ok().filter(|name| !name.contains('\0')).map(str::to_owned)
}

/// The channel binding `tls-server-end-point` (RFC 5929, section 4.1): the hash of the server's certificate, in DER, by the hash
/// function of its signature; SHA-256 for MD5 and SHA-1. `None` if the signature has no single one, as Ed25519's.
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(digest(hash(&parsed)?, certificate).as_ref().to_vec())
}

fn hash(certificate: &X509Certificate<'_>) -> Option<&'static Algorithm> {
    let is = |of: &[Oid<'_>]| of.contains(&certificate.signature_algorithm.algorithm);
    // MD5 and SHA-1 are too weak for it.
    let sha256 =
        [OID_SIG_ECDSA_WITH_SHA256, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA1WITHRSA, OID_PKCS1_MD5WITHRSAENC];
    if is(&sha256) {
        Some(&SHA256)
    } else if is(&[OID_SIG_ECDSA_WITH_SHA384, OID_PKCS1_SHA384WITHRSA]) {
        Some(&SHA384)
    } else if is(&[OID_SIG_ECDSA_WITH_SHA512, OID_PKCS1_SHA512WITHRSA]) {
        Some(&SHA512)
    } else {
        None
    }
}
