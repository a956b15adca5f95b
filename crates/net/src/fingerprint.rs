//! The name of a key: what the record writes down for each member.

use std::fmt;
use std::str::FromStr;

use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// SHA-256 over a key's SubjectPublicKeyInfo (DER), written `sha256:` and 64 lower-case hexadecimal digits.
///
/// The key is named, not the certificate, so that a certificate can be issued anew for the same key
/// without a change of the record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyFingerprint([u8; 32]);

/// Why there is no fingerprint.
#[derive(Debug, thiserror::Error)]
pub enum FingerprintError {
    #[error("{0:?} is not a key fingerprint: sha256: and 64 hexadecimal digits")]
    Text(String),
    #[error("this is not an X.509 certificate that can be read")]
    Certificate(#[source] webpki::Error),
    #[error("this is not a certificate in PEM")]
    CertificatePem(#[source] rustls::pki_types::pem::Error),
    #[error("this is not a private key in PEM (PKCS #8)")]
    KeyPem(#[source] rcgen::Error),
}

impl KeyFingerprint {
    const PREFIX: &str = "sha256:";

    /// The fingerprint of the key that a certificate (DER) certifies. Nothing else in it is looked at.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<KeyFingerprint, FingerprintError> {
        let parsed = webpki::EndEntityCert::try_from(certificate).map_err(FingerprintError::Certificate)?;
        Ok(KeyFingerprint::of_public_key_info(&parsed.subject_public_key_info()))
    }

    /// The same for the first certificate in a PEM text.
    pub fn of_certificate_pem(pem: &str) -> Result<KeyFingerprint, FingerprintError> {
        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(FingerprintError::CertificatePem)?;
        KeyFingerprint::of_certificate(&certificate)
    }

    /// The fingerprint of the public half of a private key in PEM (PKCS #8).
    pub fn of_private_key_pem(pem: &str) -> Result<KeyFingerprint, FingerprintError> {
        let key = rcgen::KeyPair::from_pem(pem).map_err(FingerprintError::KeyPem)?;
        Ok(KeyFingerprint::of_public_key_info(&key.subject_public_key_info()))
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> KeyFingerprint {
        KeyFingerprint(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn of_public_key_info(der: &[u8]) -> KeyFingerprint {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        KeyFingerprint(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KeyFingerprint::PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyFingerprint {
    type Err = FingerprintError;
    fn from_str(text: &str) -> Result<KeyFingerprint, FingerprintError> {
        let invalid = || FingerprintError::Text(text.to_owned());
        let digits = text.strip_prefix(KeyFingerprint::PREFIX).ok_or_else(invalid)?;
        // `from_str_radix` would take a sign, and slicing must not split a character.
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).map_err(|_| invalid())?;
        }
        Ok(KeyFingerprint(bytes))
    }
}

impl Serialize for KeyFingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyFingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeyFingerprint, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let fingerprint = KeyFingerprint::of_public_key_info(b"abc");
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(fingerprint.to_string(), text);
        assert_eq!(text.parse::<KeyFingerprint>().unwrap(), fingerprint);
        assert_eq!(text.to_uppercase().replace("SHA", "sha").parse::<KeyFingerprint>().unwrap(), fingerprint);
        assert_eq!(serde_json::to_string(&fingerprint).unwrap(), format!("{text:?}"));
        assert_eq!(serde_json::from_str::<KeyFingerprint>(&format!("{text:?}")).unwrap(), fingerprint);
    }

    #[test]
    fn other_texts_are_refused() {
        let valid = KeyFingerprint::of_public_key_info(b"abc").to_string();
        let signed = format!("sha256:{}", "+1".repeat(32));
        let wide = format!("sha256:{}", "ä".repeat(32));
        for bad in ["", "sha256:", &valid[..70], &valid[7..], &format!("{valid}0"), &signed, &wide] {
            assert!(bad.parse::<KeyFingerprint>().is_err(), "{bad:?}");
        }
    }
}
