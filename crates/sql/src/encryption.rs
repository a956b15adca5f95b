//! TLS on both sides: the certificate that clients are shown and the CA that theirs are held to, read again when they change, and
//! the CA that servers are held to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use mainstay_net::pki;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// How clients are encrypted, as the files are now.
pub(crate) struct Encryption {
    certificate: PathBuf,
    key: PathBuf,
    /// `client_tls_ca_file`.
    clients: RwLock<Option<PathBuf>>,
    present: RwLock<Arc<Acceptor>>,
}

/// For one handshake.
pub(crate) struct Acceptor {
    stamp: Stamp,
    pub(crate) tls: TlsAcceptor,
    /// What both sides know of the certificate that is shown: `tls-server-end-point`.
    pub(crate) binding: Option<Vec<u8>>,
}

/// What PostgreSQL is called where a client names what it speaks (ALPN).
pub(crate) const PROTOCOL: &[u8] = b"postgresql";

/// Which files they were.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    certificate: Option<SystemTime>,
    clients: Option<(PathBuf, Option<SystemTime>)>,
}

impl Encryption {
    /// Without a look at the clients' CA: that is for [`Encryption::renew`].
    pub(crate) fn read(certificate: &Path, key: &Path) -> io::Result<Arc<Encryption>> {
        let stamp = Stamp { certificate: changed(certificate), clients: None };
        Ok(Arc::new(Encryption {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            clients: RwLock::default(),
            present: RwLock::new(Arc::new(Acceptor::read(certificate, key, stamp)?)),
        }))
    }

    pub(crate) fn acceptor(&self) -> Arc<Acceptor> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the next [`Encryption::renew`] on clients' certificates are held to this CA.
    pub(crate) fn set_clients(&self, authority: Option<&Path>) {
        *self.clients.write().unwrap_or_else(PoisonError::into_inner) = authority.map(Path::to_owned);
    }

    /// Reads the files again if they have changed. Returns whether they had.
    pub(crate) fn renew(&self) -> io::Result<bool> {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner).clone();
        let clients = clients.map(|path| (path.clone(), changed(&path)));
        let stamp = Stamp { certificate: changed(&self.certificate), clients };
        if self.acceptor().stamp == stamp {
            return Ok(false);
        }
        let new = Acceptor::read(&self.certificate, &self.key, stamp)?;
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(true)
    }
}

impl Acceptor {
    fn read(certificate: &Path, key: &Path, stamp: Stamp) -> io::Result<Acceptor> {
        let shown = load(certificate, key)?;
        let binding = shown.0.cert.first().and_then(|certificate| pki::server_end_point(certificate));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = match &stamp.clients {
            None => builder.with_no_client_auth(),
            Some((path, _)) => {
                let roots = Arc::new(authorities(path).map_err(|error| {
                    io::Error::new(error.kind(), format!("client_tls_ca_file {}: {error}", path.display()))
                })?);
                // Whoever has none may come all the same; `hba` asks for one.
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(io::Error::other)?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(shown));
        if stamp.clients.is_some() {
            // A session that is resumed would not be asked for its certificate again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        let tls = TlsAcceptor::from(Arc::new(config));
        Ok(Acceptor { stamp, tls, binding })
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// The same for whatever name a client asks: libpq may ask for an address.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn load(certificate: &Path, key: &Path) -> io::Result<Shown> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).map_err(io::Error::other)?.collect();
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(io::Error::other)?;
    Ok(Shown(Arc::new(CertifiedKey::new(chain.map_err(io::Error::other)?, key))))
}

fn authorities(path: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    Ok(roots)
}

/// Servers must show a certificate of this authority, for their address.
pub(crate) fn dialler(authority: &Path) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(authorities(authority)?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
