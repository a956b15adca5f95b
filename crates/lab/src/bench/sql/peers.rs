//! The peers that the SQL proxy is measured beside, each a process on the member's machine.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{LOOK_INTERVAL, Load, POOL_SIZE};
use crate::files::{APPLICATION, POSTGRES_PORT, Site};
use crate::member::Member;
use crate::pgbench::Mode;
use crate::{clock, interrupt, network, program, sql};

const SETSID: &str = "/usr/bin/setsid";
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";
const PGBOUNCER_PORT: u16 = 6532;
const HAPROXY: &str = "/usr/sbin/haproxy";
const HAPROXY_PORT: u16 = 6533;
const START_PATIENCE: Duration = Duration::from_secs(10);
const SQL_PATIENCE: Duration = Duration::from_secs(10);
/// From which version on PgBouncer knows prepared statements where transactions share connections.
const PGBOUNCER_PREPARES: (u32, u32) = (1, 21);
/// HAProxy has a server for each client, and PostgreSQL has no room for more than about a hundred.
const HAPROXY_MOST_CLIENTS: u32 = 64;

/// It ends when dropped.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) port: u16,
    child: Child,
    prepares: bool,
    most_clients: u32,
}

impl Peer {
    /// Those that are installed.
    pub(super) fn start_all(member: &Member, base: &Path) -> Result<Vec<Peer>> {
        let mut peers = Vec::new();
        for (program, start) in [(PGBOUNCER, pgbouncer as fn(&Member, &Path) -> _), (HAPROXY, haproxy)] {
            if Path::new(program).exists() {
                peers.push(start(member, base)?);
            } else {
                eprintln!("{program} is not installed: the SQL proxy is measured without it");
            }
        }
        Ok(peers)
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(super) fn pools(&self) -> bool {
        self.most_clients == u32::MAX
    }

    pub(super) fn is_able(&self, load: Load) -> bool {
        load.clients <= self.most_clients && (load.mode != Mode::Prepared || self.prepares)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pgbouncer(member: &Member, base: &Path) -> Result<Peer> {
    let said = program::run(PGBOUNCER, &["--version"])?;
    let version = version(&said).with_context(|| format!("no version of PgBouncer: {said}"))?;
    let (file, users) = (base.join("pgbouncer.ini"), base.join("pgbouncer.users"));
    write(&users, &format!("\"{APPLICATION}\" \"{}\"\n", verifier(&member.site)?))?;
    write(&file, &configuration(&member.site, &users))?;
    let file = file.display().to_string();
    // Root it does not want to be.
    let child = spawn(member, PGBOUNCER_PORT, &[PGBOUNCER, "-q", "-u", "postgres", &file])?;
    let prepares = version >= PGBOUNCER_PREPARES;
    Ok(Peer { name: "pgbouncer", port: PGBOUNCER_PORT, child, prepares, most_clients: u32::MAX })
}

/// One thread that passes bytes on, as it is set up before PostgreSQL.
fn haproxy(member: &Member, base: &Path) -> Result<Peer> {
    let file = base.join("haproxy.cfg");
    let address = member.site.address;
    let text = format!(
        "global\n  nbthread 1\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen postgresql\n  bind {address}:{HAPROXY_PORT}\n  server primary {address}:{POSTGRES_PORT}\n"
    );
    write(&file, &text)?;
    let file = file.display().to_string();
    let child = spawn(member, HAPROXY_PORT, &[HAPROXY, "-db", "-q", "-f", &file])?;
    let most_clients = HAPROXY_MOST_CLIENTS;
    Ok(Peer { name: "haproxy", port: HAPROXY_PORT, child, prepares: true, most_clients })
}

/// A session of its own, as the SQL proxy has one: the kernel shares the CPUs out among sessions first. It becomes the same
/// process, whose CPU time is looked at.
fn spawn(member: &Member, port: u16, words: &[&str]) -> Result<Child> {
    let mut command = network::inside(&member.namespace, Path::new(SETSID));
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context("cannot run nsenter; install util-linux")?;
    let address = SocketAddr::from((member.site.address, port));
    let deadline = clock::now().plus(START_PATIENCE);
    let up = interrupt::wait_until(deadline, LOOK_INTERVAL, || TcpStream::connect(address).ok());
    if !matches!(up, Ok(Some(_))) || !matches!(child.try_wait(), Ok(None)) {
        let _ = child.kill();
        let _ = child.wait();
        up?;
        bail!("it does not come up; try: {}", words.join(" "));
    }
    Ok(child)
}

/// Its files are read after it has become PostgreSQL's user.
fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    Ok(())
}

fn verifier(site: &Site) -> Result<String> {
    let statement = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{APPLICATION}'");
    let rows = sql::query(&sql::administration(site), &statement, SQL_PATIENCE)?;
    rows.into_iter().flatten().next().context("the application's role has no password")
}

fn configuration(site: &Site, users: &Path) -> String {
    let most = 100_000;
    // PostgreSQL's own, which its user can read.
    let of_postgres = |name: &str| site.directory.join("postgresql").join(name);
    let certificate = (of_postgres("server.crt"), of_postgres("server.key"));
    format!(
        "[databases]\n* = host={} port={POSTGRES_PORT}\n\n[pgbouncer]\nlisten_addr = {}\nlisten_port = {PGBOUNCER_PORT}\n\
         unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\n\
         default_pool_size = {POOL_SIZE}\nmax_client_conn = {most}\n\
         client_tls_sslmode = allow\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n",
        site.directory.join("run").display(),
        site.address,
        users.display(),
        certificate.0.display(),
        certificate.1.display()
    )
}

/// `PgBouncer 1.18.0`
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.lines().next()?.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_read() {
        assert_eq!(super::version("PgBouncer 1.18.0\nlibevent 2.1.12-stable\n"), Some((1, 18)));
    }
}
