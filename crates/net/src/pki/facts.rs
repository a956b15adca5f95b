//! What a certificate says, and whether it is time for another one.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use crate::fingerprint::{FingerprintError, KeyFingerprint};

/// Why a certificate could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    #[error("this is not a certificate in PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("this is not an X.509 certificate that can be read: {0}")]
    Certificate(String),
    #[error("the certificate has no readable key")]
    Fingerprint(#[source] FingerprintError),
}

/// Whom a certificate is for, by its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The CA itself.
    Authority,
    /// Both ends of connections between members.
    Member,
    /// A server, as PostgreSQL is.
    Server,
    /// A client, as a user of the API is.
    Client,
    /// None of these, and not made by Mainstay.
    Other,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Purpose::Authority => "authority",
            Purpose::Member => "member",
            Purpose::Server => "server",
            Purpose::Client => "client",
            Purpose::Other => "other",
        })
    }
}

/// What is written in a certificate. Whether it is true, reading it does not tell: see [`needs_renewal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    pub not_before: SystemTime,
    /// The last moment at which it is valid.
    pub not_after: SystemTime,
    /// The DNS names, in lower case, and the IP addresses that it is for.
    pub names: BTreeSet<String>,
    /// The subject's common name: the member's, or the user's. Empty if there is none.
    pub common_name: String,
    /// The issuer's whole name, as `O=shop, CN=Mainstay cluster CA`.
    pub issuer: String,
    /// Lower-case hexadecimal digits.
    pub serial: String,
    pub purpose: Purpose,
    /// Of the key that is certified.
    pub fingerprint: KeyFingerprint,
}

impl CertificateFacts {
    /// Reads the first certificate of a PEM text.
    pub fn read(certificate_pem: &str) -> Result<CertificateFacts, FactsError> {
        let der = der(certificate_pem)?;
        let certificate = parse(&der)?;
        let common_name = certificate.subject().iter_common_name().next();
        Ok(CertificateFacts {
            not_before: time(certificate.validity().not_before),
            not_after: time(certificate.validity().not_after),
            names: names(&certificate),
            common_name: common_name.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned(),
            issuer: certificate.issuer().to_string(),
            serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            purpose: purpose(&certificate),
            fingerprint: KeyFingerprint::of_certificate(&der).map_err(FactsError::Fingerprint)?,
        })
    }
}

fn der(certificate_pem: &str) -> Result<CertificateDer<'static>, FactsError> {
    CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(FactsError::Pem)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, FactsError> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der)
        .map_err(|error| FactsError::Certificate(error.to_string()))?;
    Ok(certificate)
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
}

/// A name as it is compared: addresses in one way of writing, DNS names in lower case.
fn canonical(name: &str) -> String {
    name.parse::<IpAddr>().map_or_else(|_| name.to_ascii_lowercase(), |address| address.to_string())
}

/// Names of other kinds are left out: Mainstay issues none, and PostgreSQL's clients look at none.
fn names(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(canonical(name)),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn purpose(certificate: &X509Certificate<'_>) -> Purpose {
    if certificate.is_ca() {
        return Purpose::Authority;
    }
    let usages = certificate.extended_key_usage().ok().flatten().map(|extension| extension.value);
    match usages.map(|usages| (usages.server_auth, usages.client_auth)) {
        Some((true, true)) => Purpose::Member,
        Some((true, false)) => Purpose::Server,
        Some((false, true)) => Purpose::Client,
        _ => Purpose::Other,
    }
}

/// What a certificate should be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The certificate of the cluster's CA.
    pub authority_pem: &'a str,
    /// The DNS names and IP addresses that it should be for; order and case do not matter. Empty for members.
    pub names: &'a [String],
    /// How long a new one would be valid: [`super::SERVER_LIFETIME`], or what the configuration says.
    pub lifetime: Duration,
}

/// Why a certificate should be renewed, for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Renewal {
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("the certificate of the cluster's CA cannot be read: {0}")]
    AuthorityUnreadable(String),
    #[error("the cluster's CA has not issued it")]
    OtherAuthority,
    /// The names that it lacks, and those that it should not have.
    #[error("its names have changed{}", Renewal::difference(.missing, .surplus))]
    Names { missing: Vec<String>, surplus: Vec<String> },
    #[error("{} days of its life are left", .0.as_secs() / 86_400)]
    Due(Duration),
    #[error("it has expired")]
    Expired,
}

impl Renewal {
    fn difference(missing: &[String], surplus: &[String]) -> String {
        let part = |word: &str, names: &[String]| match names {
            [] => String::new(),
            names => format!("; {word}: {}", names.join(", ")),
        };
        part("new", missing) + &part("no longer", surplus)
    }
}

/// Whether a certificate should be renewed at the time `now`, and why.
///
/// It should when another CA has issued it, when it is for other names than the wanted ones, and when less than a third
/// of its life is left. All certificates begin in 2020, so its life is taken to be that of a new one, or what lies
/// between its dates if that is less.
pub fn needs_renewal(certificate_pem: &str, wanted: &Wanted<'_>, now: SystemTime) -> Option<Renewal> {
    let facts = match CertificateFacts::read(certificate_pem) {
        Ok(facts) => facts,
        Err(error) => return Some(Renewal::Unreadable(error.to_string())),
    };
    match is_issued_by(certificate_pem, wanted.authority_pem) {
        Ok(true) => {}
        Ok(false) => return Some(Renewal::OtherAuthority),
        Err(error) => return Some(Renewal::AuthorityUnreadable(error.to_string())),
    }
    let names: BTreeSet<String> = wanted.names.iter().map(|name| canonical(name)).collect();
    if names != facts.names {
        let missing = names.difference(&facts.names).cloned().collect();
        let surplus = facts.names.difference(&names).cloned().collect();
        return Some(Renewal::Names { missing, surplus });
    }
    let Ok(left) = facts.not_after.duration_since(now) else { return Some(Renewal::Expired) };
    let between = facts.not_after.duration_since(facts.not_before).unwrap_or_default();
    (left < wanted.lifetime.min(between) / 3).then_some(Renewal::Due(left))
}

/// By the issuer's name and by the signature. Dates are not looked at.
fn is_issued_by(certificate_pem: &str, authority_pem: &str) -> Result<bool, FactsError> {
    let (certificate, authority) = (der(certificate_pem)?, der(authority_pem)?);
    let (certificate, authority) = (parse(&certificate)?, parse(&authority)?);
    Ok(certificate.issuer().as_raw() == authority.subject().as_raw()
        && certificate.verify_signature(Some(authority.public_key())).is_ok())
}

#[cfg(test)]
mod tests;
