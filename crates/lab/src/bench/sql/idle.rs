//! What a client costs a proxy that has logged in, has asked something once, and does nothing since.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mainstay_pgwire::frame::{self, push, push_string};
use mainstay_pgwire::scram::ClientExchange;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::bench::idle::memory;
use crate::files::{self, APPLICATION, Site};
use crate::interrupt;

const PATIENCE: Duration = Duration::from_secs(20);
/// Its pools, threads and tables are there then.
const FIRST: u32 = 50;
/// For what is freed late.
const SETTLE: Duration = Duration::from_secs(2);

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// Clients of one address, who all have the same password.
pub(super) struct Idle {
    address: SocketAddr,
    password: String,
    tls: Option<Arc<ClientConfig>>,
}

impl Idle {
    pub(super) fn new(site: &Site, cluster: &str, port: u16, is_encrypted: bool) -> Result<Idle> {
        let authority = site.directory.join("postgresql").join("authority.crt");
        Ok(Idle {
            address: SocketAddr::from((site.address, port)),
            password: files::application_password(cluster),
            tls: is_encrypted.then(|| tls(&authority)).transpose()?,
        })
    }

    /// How many bytes of memory the process has for each of so many.
    pub(super) fn measure(&self, pid: i32, clients: u32) -> Result<u64> {
        raise_descriptors(clients)?;
        let mut all = Vec::new();
        let mut before = 0;
        for number in 0..FIRST + clients {
            interrupt::check()?;
            if number == FIRST {
                interrupt::pause(SETTLE)?;
                (before, _) = memory(pid)?;
            }
            let client = self.connect(number).with_context(|| format!("client {number} does not get in"))?;
            all.push(client);
        }
        interrupt::pause(SETTLE)?;
        let (after, _) = memory(pid)?;
        drop(all);
        Ok(after.saturating_sub(before) / u64::from(clients.max(1)))
    }

    fn connect(&self, number: u32) -> Result<Box<dyn ReadWrite>> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream: Box<dyn ReadWrite> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                /// `SSLRequest`: its length and its code.
                const REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
                stream.write_all(&REQUEST)?;
                let mut answer = [0];
                stream.read_exact(&mut answer)?;
                ensure!(answer == *b"S", "no TLS is offered");
                let name = ServerName::from(self.address.ip());
                Box::new(StreamOwned::new(ClientConnection::new(Arc::clone(config), name)?, stream))
            }
        };
        log_in(&mut *stream, &self.password, number)?;
        let mut question = Vec::new();
        push(&mut question, b'Q', |out| push_string(out, "SELECT 1"));
        stream.write_all(&question)?;
        while next(&mut *stream)?.0 != b'Z' {}
        Ok(stream)
    }
}

fn tls(authority: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(authority);
    roots.add(certificate.with_context(|| format!("cannot read {}", authority.display()))?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn log_in(stream: &mut dyn ReadWrite, password: &str, number: u32) -> Result<()> {
    let mut packet = vec![0, 0, 0, 0, 0, 3, 0, 0];
    for word in ["user", APPLICATION, "database", APPLICATION, "application_name", "idle"] {
        push_string(&mut packet, word);
    }
    packet.push(0);
    let length = u32::try_from(packet.len())?;
    packet[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&packet)?;
    let mut exchange = ClientExchange::with_password(password, &format!("idle{number}"));
    loop {
        let (kind, body) = next(stream)?;
        let mut answer = Vec::new();
        match (kind, body.get(..4)) {
            (b'E', _) => bail!("{}", String::from_utf8_lossy(&body)),
            (b'R', Some([0, 0, 0, 10])) => push(&mut answer, b'p', |out| {
                let first = exchange.client_first();
                push_string(out, "SCRAM-SHA-256");
                out.extend_from_slice(&u32::try_from(first.len()).unwrap_or(0).to_be_bytes());
                out.extend_from_slice(&first);
            }),
            (b'R', Some([0, 0, 0, 11])) => {
                let last = exchange.server_first(&body[4..])?;
                push(&mut answer, b'p', |out| out.extend_from_slice(&last));
            }
            (b'Z', _) => return Ok(()),
            _ => {}
        }
        stream.write_all(&answer)?;
    }
}

fn next(stream: &mut dyn ReadWrite) -> Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let header = frame::header(&head)?.context("a whole header")?;
    let mut body = vec![0; header.total - head.len()];
    stream.read_exact(&mut body)?;
    Ok((header.kind, body))
}

fn raise_descriptors(clients: u32) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        most > u64::from(clients + FIRST) + 100,
        "{clients} clients need as many open files, and {most} are allowed; raise the limit (ulimit -Hn)"
    );
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(())
}
