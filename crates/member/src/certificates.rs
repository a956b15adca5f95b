//! PostgreSQL's certificate, renewed before anybody has to think of it.
//!
//! On every member that has the cluster CA's key. PostgreSQL reads the new one at a reload: sessions go on, nothing is
//! restarted, and no part of a failover looks at it. Where the key is not, `status` warns while there is time.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mainstay_net::pki::{self, CertificateFacts, ClusterCa, Renewal, SERVER_LIFETIME, Wanted, needs_renewal};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::configuration::Configuration;
use crate::machinery::{Machinery, blocking, failed};
use crate::start::install_certificates;

const INTERVAL: Duration = Duration::from_secs(3600);
/// Under which the warnings stand.
const SUBJECT: &str = "certificates";

/// One certificate file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// `server`, `member` or `authority`.
    pub purpose: String,
    pub path: PathBuf,
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub not_after_unix_s: u64,
    /// Whole days; 0 once it has expired.
    pub days_left: u64,
    /// Why it should be renewed, if it should.
    pub renewal: Option<String>,
}

/// What `certificates show` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatesStatus {
    pub certificates: Vec<CertificateStatus>,
    /// Whether this member can renew by itself.
    pub has_authority_key: bool,
}

/// Looks for ever: at once, then every hour.
pub(crate) async fn run(machinery: Arc<Machinery>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if let Err(why) = look(&machinery, false).await {
            warn!("{why}");
            machinery.note(SUBJECT, vec![why]);
        }
    }
}

/// Renews PostgreSQL's certificate, whatever is left of it.
pub(crate) async fn renew_now(machinery: &Machinery) -> Result<CertificateStatus, String> {
    look(machinery, true).await
}

/// Renews PostgreSQL's certificate if that is due, or in any case.
async fn look(machinery: &Machinery, forced: bool) -> Result<CertificateStatus, String> {
    let configuration = machinery.configuration.clone();
    let due = {
        let configuration = configuration.clone();
        blocking(move || server_status(&configuration)).await.map_err(|error| error.to_string())??
    };
    if due.renewal.is_none() && !forced {
        machinery.note(SUBJECT, Vec::new());
        return Ok(due);
    }
    let why = due.renewal.clone().unwrap_or_else(|| "somebody asked for it".to_owned());
    let layout = machinery.layout.clone();
    let renewed = machinery
        .write(move || {
            renew(&configuration).and_then(|()| {
                install_certificates(&configuration, &layout).map_err(|error| failed(error).0)?;
                server_status(&configuration)
            })
        })
        .await
        .map_err(|error| error.to_string())?;
    let renewed =
        renewed.map_err(|error| format!("PostgreSQL's certificate is to be renewed ({why}): {error}"))?;
    // Without a server there is nobody to tell: it reads the new one when it starts.
    if let Ok(guard) = machinery.guard()
        && let Err(error) = guard.reload().await
    {
        info!("PostgreSQL reads its new certificate when it starts: {error}");
    }
    info!(days = renewed.days_left, "PostgreSQL's certificate was renewed: {why}");
    machinery.note(SUBJECT, Vec::new());
    Ok(renewed)
}

/// The names that PostgreSQL's certificate of this member must have.
pub fn server_names(configuration: &Configuration) -> Vec<String> {
    let own = configuration.own_row();
    let mut names = vec![configuration.me.to_string()];
    names.extend(own.postgres.map(|address| address.ip().to_string()));
    names.extend(configuration.server_names.iter().cloned());
    names.extend(configuration.addresses.iter().map(|rule| rule.address.to_string()));
    names.sort();
    names.dedup();
    names
}

/// Where the CA's private key is on the members that have it.
pub fn authority_key(configuration: &Configuration) -> PathBuf {
    configuration.directory.join("tls/ca.key")
}

/// What the files of this member say. Needs no running member.
pub fn status(configuration: &Configuration) -> Result<CertificatesStatus, String> {
    let tls = &configuration.tls;
    let plain = |purpose: &str, path: &Path| {
        let (_, facts) = read(path)?;
        Ok::<_, String>(told(purpose, path, &facts, None))
    };
    let mut certificates = Vec::new();
    if configuration.own_row().postgres.is_some() {
        certificates.push(server_status(configuration)?);
    }
    certificates.push(plain("member", &tls.certificate)?);
    certificates.push(plain("authority", &tls.authority)?);
    Ok(CertificatesStatus { certificates, has_authority_key: authority_key(configuration).exists() })
}

fn server_status(configuration: &Configuration) -> Result<CertificateStatus, String> {
    let path = &configuration.tls.server_certificate;
    let (text, facts) = read(path)?;
    let authority_pem = text_of(&configuration.tls.authority)?;
    let names = server_names(configuration);
    let wanted = Wanted { authority_pem: &authority_pem, names: &names, lifetime: SERVER_LIFETIME };
    let mut renewal = needs_renewal(&text, &wanted, SystemTime::now());
    // A name too many does no harm, and a CA of somebody else's may have its reasons.
    if let Some(Renewal::Names { missing, .. }) = &renewal
        && missing.is_empty()
        && !authority_key(configuration).exists()
    {
        renewal = None;
    }
    Ok(told("server", path, &facts, renewal.map(|renewal| renewal.to_string())))
}

fn told(purpose: &str, path: &Path, facts: &CertificateFacts, renewal: Option<String>) -> CertificateStatus {
    let left = facts.not_after.duration_since(SystemTime::now()).unwrap_or_default();
    let since = facts.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    CertificateStatus {
        purpose: purpose.to_owned(),
        path: path.to_owned(),
        names: facts.names.iter().cloned().collect(),
        not_after_unix_s: since.as_secs(),
        days_left: left.as_secs() / 86_400,
        renewal,
    }
}

fn read(path: &Path) -> Result<(String, CertificateFacts), String> {
    let text = text_of(path)?;
    let facts = CertificateFacts::read(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((text, facts))
}

fn text_of(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// Issues and puts in place. The key stays, so that one file changes, in one rename.
fn renew(configuration: &Configuration) -> Result<(), String> {
    let tls = &configuration.tls;
    let ca = load_authority(configuration)?;
    let request = pki::request_for_key(&text_of(&tls.server_key)?).map_err(|error| failed(error).0)?;
    let certificate = ca
        .sign_postgres_server(&server_names(configuration), SERVER_LIFETIME, &request)
        .map_err(|error| failed(error).0)?;
    pki::replace_certificate(&tls.server_certificate, &certificate).map_err(|error| failed(error).0)
}

/// The cluster's CA, if its key is on this machine and nobody else can read it.
pub(crate) fn load_authority(configuration: &Configuration) -> Result<ClusterCa, String> {
    let key_file = authority_key(configuration);
    let shown = key_file.display();
    let metadata = std::fs::metadata(&key_file).map_err(|_| {
        format!("this member has no {shown}; bring it from where it is kept, and take it away again")
    })?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!("{shown} is readable by others; run: chmod 600 {shown}"));
    }
    let certificate = text_of(&configuration.tls.authority)?;
    ClusterCa::load(&configuration.cluster, &certificate, &text_of(&key_file)?)
        .map_err(|error| failed(error).0)
}
