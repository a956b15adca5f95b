//! The cluster's certificate authority and what it issues: certificates for members and for PostgreSQL.
//!
//! Validity is wide on purpose. Members do not look at dates at all (see [`crate::tls`]), but libpq does, and
//! an outage because a machine's clock or a calendar was wrong would be our doing: certificates begin in 2020.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mainstay_core::MemberId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};

const CA_COMMON_NAME: &str = "Mainstay cluster CA";
const YEAR: Duration = Duration::from_secs(31_556_952);
const CERTIFICATE_YEARS: u32 = 10;
const CA_YEARS: u32 = 30;

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

    /// A new key (ECDSA P-256) and certificate for a member, for both ends of a connection, valid for 10 years.
    pub fn issue_member(&self, member: &MemberId) -> Result<Issued, PkiError> {
        let both = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(member.as_str(), both, Vec::new())
    }

    /// A new key (ECDSA P-256) and certificate for a PostgreSQL server, valid for 10 years.
    ///
    /// `names` are the DNS names (no wildcards) and IP addresses under which clients reach it, at least one.
    pub fn issue_postgres_server(&self, names: &[&str]) -> Result<Issued, PkiError> {
        if names.is_empty() {
            return Err(PkiError::NoSubjectName);
        }
        let names = names.iter().map(|name| subject_name(name)).collect::<Result<Vec<_>, _>>()?;
        // libpq takes the names from the extension; the common name is for people.
        self.issue("PostgreSQL", vec![ExtendedKeyUsagePurpose::ServerAuth], names)
    }

    /// A new key (ECDSA P-256) and certificate for a user of the API, valid for 10 years.
    ///
    /// `name` is 1 to 64 bytes long. It opens no connection between members: those are for keys in the record.
    pub fn issue_client(&self, name: &str) -> Result<Issued, PkiError> {
        if !(1..=64).contains(&name.len()) {
            return Err(PkiError::ClientName(name.to_owned()));
        }
        self.issue(name, vec![ExtendedKeyUsagePurpose::ClientAuth], Vec::new())
    }

    fn issue(
        &self,
        common_name: &str,
        usages: Vec<ExtendedKeyUsagePurpose>,
        names: Vec<SanType>,
    ) -> Result<Issued, PkiError> {
        let mut params = params(CERTIFICATE_YEARS)?;
        params.distinguished_name = self.params.distinguished_name.clone();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        let key = KeyPair::generate().map_err(PkiError::Issue)?;
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).map_err(PkiError::Issue)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn ca_params(cluster: &str) -> Result<CertificateParams, PkiError> {
    // X.520 bounds an organisation's name at 64.
    if !(1..=64).contains(&cluster.len()) {
        return Err(PkiError::ClusterName(cluster.to_owned()));
    }
    let mut params = params(CA_YEARS)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, cluster);
    params.distinguished_name.push(DnType::CommonName, CA_COMMON_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(years: u32) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(1970, 1, 1) + (plausible_now() + YEAR * years);
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

fn subject_name(name: &str) -> Result<SanType, PkiError> {
    let invalid = || PkiError::SubjectName(name.to_owned());
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    DnsName::try_from(name).map_err(|_| invalid())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| invalid())?))
}

/// Why a key or certificate was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0} exists already: move it away first; keys are never overwritten")]
    Exists(PathBuf),
    #[error("cannot write {path}")]
    Io { path: PathBuf, source: io::Error },
}

/// Writes a private key into a new file that only its owner may read (0600). An existing file is never touched.
pub fn write_private_key(path: &Path, key_pem: &str) -> Result<(), WriteError> {
    write_new(path, key_pem, 0o600)
}

/// Writes a certificate into a new file that everybody may read (0644). An existing file is never touched.
pub fn write_certificate(path: &Path, certificate_pem: &str) -> Result<(), WriteError> {
    write_new(path, certificate_pem, 0o644)
}

/// After a crash at any point `path` is either absent or whole: the text is made durable under another name
/// first. `link`, unlike `rename`, fails if the name is taken.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), WriteError> {
    let failed = |source| WriteError::Io { path: path.to_owned(), source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| failed(io::Error::other("no random numbers")))?;
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(format!(".{:016x}.new", u64::from_ne_bytes(random)));
    let draft = directory.join(draft_name);

    let written = write_draft(&draft, text, mode).and_then(|()| std::fs::hard_link(&draft, path));
    // Also when writing failed: a draft holds a key. If it was never made, there is nothing to remove.
    let removed = std::fs::remove_file(&draft);
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => WriteError::Exists(path.to_owned()),
        _ => failed(source),
    })?;
    removed.map_err(failed)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn write_draft(draft: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode & 0o600).open(draft)?;
    // The umask may have taken bits away that the file is meant to have.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
