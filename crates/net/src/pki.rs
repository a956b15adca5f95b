//! The cluster's certificate authority and what it issues: certificates for members and for PostgreSQL.
//!
//! Validity is wide on purpose. Members do not look at dates at all (see [`crate::tls`]), but libpq does, and
//! an outage because a machine's clock or a calendar was wrong would be our doing: certificates begin in 2020,
//! whenever they are issued. So the beginning does not tell the age, and whether a certificate is due for renewal
//! follows from what is left of its life alone ([`needs_renewal`]).
//!
//! Private keys are made where they are used and never travel: [`request`] makes a key with a certificate signing
//! request (PKCS #10), and the machine that holds the CA answers with a certificate ([`ClusterCa::sign_member`]).
//! Names and usages are the CA's decision; of a request only the key is taken, once it has proven to be held.
//!
//! A renewal keeps the key ([`request_for_key`], [`replace_certificate`]): only one file changes, in one rename, so a
//! reader gets a pair that matches whenever it comes. A new key changes two files; see [`replace_pair`].

mod facts;
mod files;
mod shown;

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use mainstay_core::MemberId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SerialNumber, date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};

pub use facts::{CertificateFacts, FactsError, Purpose, Renewal, Wanted, needs_renewal};
pub use files::{
    WriteError, replace_certificate, replace_pair, settle_pair, write_certificate, write_private_key,
};
pub use shown::{common_name, server_end_point};

use crate::fingerprint::KeyFingerprint;

const CA_COMMON_NAME: &str = "Mainstay cluster CA";
const YEAR: Duration = Duration::from_secs(31_556_952);
const CA_YEARS: u32 = 30;

/// How long certificates of members and of users of the API are valid: 10 years. Members do not look at the dates,
/// and a user of the API has nobody who would renew.
pub const LONG_LIFETIME: Duration = YEAR.saturating_mul(10);

/// How long a PostgreSQL server's certificate is valid: 13 months, of which the last third is for renewing it. Some
/// clients mistrust what is valid for longer.
pub const SERVER_LIFETIME: Duration = Duration::from_secs(395 * 86_400);

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cluster name {0:?} does not fit into a certificate: 1 to 64 bytes")]
    ClusterName(String),
    #[error("{0:?} is neither an IP address nor a DNS name")]
    SubjectName(String),
    #[error("{0:?} is no name for a client's certificate: 1 to 64 bytes")]
    ClientName(String),
    #[error("a PostgreSQL server certificate needs at least one DNS name or IP address")]
    NoSubjectName,
    #[error("the operating system gave no random numbers")]
    Random,
    #[error("cannot make the certificate")]
    Issue(#[source] rcgen::Error),
    #[error("the request for a certificate cannot be read, or is not signed with its own key")]
    Request(#[source] rcgen::Error),
    #[error("the request for a certificate has a key of another kind than ECDSA P-256")]
    RequestKey,
    #[error("the private key cannot be read")]
    Key(#[source] rcgen::Error),
    #[error("the CA's private key cannot be read")]
    CaKey(#[source] rcgen::Error),
    #[error("the CA's certificate cannot be read as PEM")]
    CaPem(#[source] rustls::pki_types::pem::Error),
    #[error("the CA's certificate cannot be read")]
    CaCertificate(#[source] webpki::Error),
    #[error(
        "the CA's certificate is not that of cluster {cluster:?} with this private key: give the pair that belongs together"
    )]
    CaMismatch { cluster: String },
}

/// A certificate with its private key, both in PEM. It has no `Debug`, so that the key reaches no log.
pub struct Issued {
    pub certificate_pem: String,
    /// PKCS #8. Store it with [`write_private_key`].
    pub key_pem: String,
}

/// The certificate authority of one cluster. It has no `Debug`, so that its key reaches no log.
pub struct ClusterCa {
    params: CertificateParams,
    key: KeyPair,
    certificate_pem: String,
}

impl ClusterCa {
    /// Makes a new key and a self-signed certificate, valid from 2020 until 30 years from now.
    ///
    /// `cluster` is 1 to 64 bytes long.
    pub fn create(cluster: &str) -> Result<ClusterCa, PkiError> {
        let params = ca_params(cluster)?;
        let key = KeyPair::generate().map_err(PkiError::Issue)?;
        let certificate_pem = params.self_signed(&key).map_err(PkiError::Issue)?.pem();
        Ok(ClusterCa { params, key, certificate_pem })
    }

    /// Takes up a CA that [`ClusterCa::create`] made for the same cluster.
    pub fn load(cluster: &str, certificate_pem: &str, key_pem: &str) -> Result<ClusterCa, PkiError> {
        let params = ca_params(cluster)?;
        let key = KeyPair::from_pem(key_pem).map_err(PkiError::CaKey)?;
        // A certificate issued under another subject or key than the CA's would only fail at the clients,
        // much later. A second certificate made from the same name and key must agree in both.
        let given = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(PkiError::CaPem)?;
        let given = webpki::anchor_from_trusted_cert(&given).map_err(PkiError::CaCertificate)?;
        let made = params.self_signed(&key).map_err(PkiError::Issue)?;
        let made = webpki::anchor_from_trusted_cert(made.der()).map_err(PkiError::CaCertificate)?;
        if given.subject != made.subject || given.subject_public_key_info != made.subject_public_key_info {
            return Err(PkiError::CaMismatch { cluster: cluster.to_owned() });
        }
        Ok(ClusterCa { params, key, certificate_pem: certificate_pem.to_owned() })
    }

    /// The CA's certificate, which clients of PostgreSQL take as `sslrootcert`.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's private key (PKCS #8). Store it with [`write_private_key`].
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The fingerprint of the CA's key, by which a machine that joins knows the cluster.
    pub fn fingerprint(&self) -> KeyFingerprint {
        KeyFingerprint::of_public_key_info(&self.key.subject_public_key_info())
    }

    /// A new key (ECDSA P-256) and certificate for a member, for both ends of a connection, valid for 10 years.
    pub fn issue_member(&self, member: &MemberId) -> Result<Issued, PkiError> {
        issued(|key| self.certify(Subject::member(member), LONG_LIFETIME, key))
    }

    /// The same for a key that another machine has made: returns the certificate.
    pub fn sign_member(&self, member: &MemberId, request_pem: &str) -> Result<String, PkiError> {
        self.certify(Subject::member(member), LONG_LIFETIME, &requested_key(request_pem)?)
    }

    /// A new key (ECDSA P-256) and certificate for a PostgreSQL server, valid for `lifetime` from now: as a rule
    /// [`SERVER_LIFETIME`].
    ///
    /// `names` are the DNS names (no wildcards) and IP addresses under which clients reach it, at least one.
    pub fn issue_postgres_server<N: AsRef<str>>(
        &self,
        names: &[N],
        lifetime: Duration,
    ) -> Result<Issued, PkiError> {
        let subject = Subject::postgres_server(names)?;
        issued(|key| self.certify(subject, lifetime, key))
    }

    /// The same for a key that another machine has made, or that is kept: returns the certificate.
    pub fn sign_postgres_server<N: AsRef<str>>(
        &self,
        names: &[N],
        lifetime: Duration,
        request_pem: &str,
    ) -> Result<String, PkiError> {
        self.certify(Subject::postgres_server(names)?, lifetime, &requested_key(request_pem)?)
    }

    /// A new key (ECDSA P-256) and certificate for a user of the API, valid for 10 years.
    ///
    /// `name` is 1 to 64 bytes long. It opens no connection between members: those are for keys in the record.
    pub fn issue_client(&self, name: &str) -> Result<Issued, PkiError> {
        if !(1..=64).contains(&name.len()) {
            return Err(PkiError::ClientName(name.to_owned()));
        }
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issued(|key| {
            self.certify(Subject { common_name: name, usages, names: Vec::new() }, LONG_LIFETIME, key)
        })
    }

    fn certify(
        &self,
        subject: Subject<'_>,
        lifetime: Duration,
        key: &impl PublicKeyData,
    ) -> Result<String, PkiError> {
        let mut params = params(lifetime)?;
        params.distinguished_name = self.params.distinguished_name.clone();
        params.distinguished_name.push(DnType::CommonName, subject.common_name);
        params.subject_alt_names = subject.names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = subject.usages;
        let issuer = Issuer::from_params(&self.params, &self.key);
        Ok(params.signed_by(key, &issuer).map_err(PkiError::Issue)?.pem())
    }
}

/// What a certificate says of the holder of its key.
struct Subject<'a> {
    common_name: &'a str,
    usages: Vec<ExtendedKeyUsagePurpose>,
    names: Vec<SanType>,
}

impl Subject<'_> {
    fn member(member: &MemberId) -> Subject<'_> {
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Subject { common_name: member.as_str(), usages, names: Vec::new() }
    }

    fn postgres_server<N: AsRef<str>>(names: &[N]) -> Result<Subject<'static>, PkiError> {
        if names.is_empty() {
            return Err(PkiError::NoSubjectName);
        }
        let names = names.iter().map(|name| subject_name(name.as_ref())).collect::<Result<Vec<_>, _>>()?;
        // libpq takes the names from the extension; the common name is for people.
        Ok(Subject { common_name: "PostgreSQL", usages: vec![ExtendedKeyUsagePurpose::ServerAuth], names })
    }
}

fn issued(certify: impl FnOnce(&KeyPair) -> Result<String, PkiError>) -> Result<Issued, PkiError> {
    let key = KeyPair::generate().map_err(PkiError::Issue)?;
    Ok(Issued { certificate_pem: certify(&key)?, key_pem: key.serialize_pem() })
}

/// A new private key with the request for a certificate, both in PEM. It has no `Debug`, so that the key reaches no log.
pub struct Requested {
    /// PKCS #10. It may travel.
    pub request_pem: String,
    /// PKCS #8. Store it with [`write_private_key`].
    pub key_pem: String,
}

/// Makes a key (ECDSA P-256) on this machine, and asks for a certificate for it. What the certificate will say is for
/// the CA to decide, so the request says nothing.
pub fn request() -> Result<Requested, PkiError> {
    let key = KeyPair::generate().map_err(PkiError::Issue)?;
    Ok(Requested { request_pem: request_of(&key)?, key_pem: key.serialize_pem() })
}

/// Asks for another certificate for a key that is kept; returns the request.
pub fn request_for_key(key_pem: &str) -> Result<String, PkiError> {
    request_of(&KeyPair::from_pem(key_pem).map_err(PkiError::Key)?)
}

fn request_of(key: &KeyPair) -> Result<String, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(key).and_then(|request| request.pem()).map_err(PkiError::Request)
}

/// The key of a request that is signed with it: nobody gets a certificate for another's key.
fn requested_key(request_pem: &str) -> Result<rcgen::PublicKey, PkiError> {
    let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(PkiError::Request)?;
    if *request.public_key.algorithm() != PKCS_ECDSA_P256_SHA256 {
        return Err(PkiError::RequestKey);
    }
    Ok(request.public_key)
}

fn ca_params(cluster: &str) -> Result<CertificateParams, PkiError> {
    // X.520 bounds an organisation's name at 64.
    if !(1..=64).contains(&cluster.len()) {
        return Err(PkiError::ClusterName(cluster.to_owned()));
    }
    let mut params = params(YEAR * CA_YEARS)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, cluster);
    params.distinguished_name.push(DnType::CommonName, CA_COMMON_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(lifetime: Duration) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(1970, 1, 1) + (plausible_now() + lifetime);
    params.use_authority_key_identifier_extension = true;
    // Positive and 16 bytes long whatever comes: RFC 5280 allows 20 bytes and no negative numbers.
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| PkiError::Random)?;
    serial[0] = serial[0] & 0x7F | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// Time since 1970, brought between 2026 and 2100: a machine whose clock starts in 1970 must not issue
/// certificates that are long expired.
fn plausible_now() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.clamp(YEAR * 56, YEAR * 130)
}

/// Whether the name can stand in a server's certificate: a DNS name without wildcards, or an IP address.
pub fn check_server_name(name: &str) -> Result<(), PkiError> {
    subject_name(name).map(|_| ())
}

fn subject_name(name: &str) -> Result<SanType, PkiError> {
    let invalid = || PkiError::SubjectName(name.to_owned());
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    DnsName::try_from(name).map_err(|_| invalid())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| invalid())?))
}

#[cfg(test)]
mod tests;
