//! PostgreSQL servers, gone without a trace when dropped.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use mainstay_net::routes::{Role, Route};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, geteuid};

use crate::wire::Wire;

pub(crate) const LONG: Duration = Duration::from_secs(30);
pub(crate) const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// Waits for a condition, and fails if it does not come true.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory below the system's temporary one, removed at the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mainstay-sql-{}-{count}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        if let Some(user) = owner() {
            chown(&path, Some(user.uid), Some(user.gid)).unwrap();
        }
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// PostgreSQL refuses to run as root.
fn owner() -> Option<User> {
    geteuid().is_root().then(|| User::from_name("postgres").unwrap().expect("a user postgres"))
}

fn command(program: &str) -> Command {
    let mut command = Command::new(Path::new(PROGRAMS).join(program));
    if let Some(user) = owner() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A port that nobody listens on, below those that the kernel gives to outgoing connections.
pub(crate) fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 15_000..32_000;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = std::process::id() * 101 + COUNT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(PORTS.start + step % (PORTS.end - PORTS.start)).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A server. Dropped, it is killed with all its processes.
pub(crate) struct Postgres {
    pub(crate) port: u16,
    pub(crate) pid: i32,
    child: Mutex<Child>,
    watchdog: Child,
    pub(crate) scratch: Scratch,
}

const CONFIGURATION: &str = "
listen_addresses = '127.0.0.1'
shared_buffers = '16MB'
fsync = off
autovacuum = off
max_connections = 60
password_encryption = 'scram-sha-256'
timezone = 'UTC'
log_statement = 'all'
log_line_prefix = '%m [%p] '
max_prepared_transactions = 2
wal_level = logical
hot_standby_feedback = on
";

const ACCESS: &str = "
local all postgres trust
local replication postgres trust
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
";

const ROLES: &str = "
CREATE ROLE app LOGIN REPLICATION PASSWORD 'secret';
CREATE ROLE boss LOGIN SUPERUSER PASSWORD 'boss';
CREATE ROLE expired LOGIN PASSWORD 'secret' VALID UNTIL '2001-01-01';
CREATE ROLE silent LOGIN;
CREATE ROLE other;
GRANT other TO app;
SET password_encryption = 'md5';
CREATE ROLE old LOGIN PASSWORD 'secret';
";

/// A new cluster that tests copy. It lives as long as any test uses it.
fn template() -> Arc<Scratch> {
    static TEMPLATE: Mutex<Weak<Scratch>> = Mutex::new(Weak::new());
    let mut known = TEMPLATE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(template) = known.upgrade() {
        return template;
    }
    let scratch = Arc::new(Scratch::new());
    let data = scratch.0.join("data");
    run(command("initdb")
        .args(["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "-D"])
        .arg(&data));
    std::fs::write(data.join("pg_hba.conf"), ACCESS).unwrap();
    let configuration = data.join("postgresql.conf");
    std::fs::write(configuration, CONFIGURATION).unwrap();
    *known = Arc::downgrade(&scratch);
    scratch
}

impl Postgres {
    /// One that tests share. It lives as long as any test uses it.
    pub(crate) fn shared() -> Arc<Postgres> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut known = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(postgres) = known.upgrade() {
            return postgres;
        }
        let postgres = Arc::new(Postgres::new());
        *known = Arc::downgrade(&postgres);
        postgres
    }

    /// One of the test's own.
    pub(crate) fn new() -> Postgres {
        let template = template();
        let scratch = Scratch::new();
        run(Command::new("cp")
            .args(["-a", "--reflink=auto", "-T"])
            .args([template.0.join("data"), scratch.0.join("data")]));
        let postgres = Postgres::start(scratch);
        let mut admin = postgres.admin();
        for statement in ROLES.split(';').filter(|statement| !statement.trim().is_empty()) {
            admin.ok(statement);
        }
        admin.ok("CREATE DATABASE app OWNER app");
        postgres
    }

    /// A standby of this one.
    pub(crate) fn standby(&self) -> Postgres {
        let scratch = Scratch::new();
        let mut backup = command("pg_basebackup");
        backup.args(["-U", "postgres", "-R", "--checkpoint=fast", "--no-sync", "-X", "stream", "-h"]);
        backup.arg(&self.scratch.0).args(["-p", &self.port.to_string(), "-D"]).arg(scratch.0.join("data"));
        run(&mut backup);
        Postgres::start(scratch)
    }

    fn start(scratch: Scratch) -> Postgres {
        let port = free_port();
        let log = std::fs::File::create(scratch.0.join("log")).unwrap();
        let mut command = command("postgres");
        command.arg("-D").arg(scratch.0.join("data")).args(["-p", &port.to_string(), "-k"]).arg(&scratch.0);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let pid = child.id().try_into().unwrap();
        let watchdog = watchdog(&scratch.0);
        let postgres = Postgres { port, pid, child: Mutex::new(child), watchdog, scratch };
        wait_for("PostgreSQL to be ready", || postgres.try_admin().is_ok());
        postgres
    }

    /// A superuser's session, straight to the server.
    pub(crate) fn admin(&self) -> Wire {
        self.try_admin().unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    fn try_admin(&self) -> Result<Wire, crate::wire::Failure> {
        self.admin_of("postgres")
    }

    /// The superuser in another database.
    pub(crate) fn admin_of(&self, database: &str) -> Result<Wire, crate::wire::Failure> {
        let path = self.scratch.0.join(format!(".s.PGSQL.{}", self.port));
        Wire::unix(&path, &[("user", "postgres"), ("database", database)])
    }

    pub(crate) fn route(&self, member: &str) -> Route {
        Route {
            member: member.to_owned(),
            host: Ipv4Addr::LOCALHOST.into(),
            port: self.port,
            socket_dir: None,
            lag_bytes: Some(0),
            is_sync: true,
        }
    }

    /// Everybody who may log in, as a member reads it.
    pub(crate) fn roles(&self) -> Option<Vec<Role>> {
        let rows = self.try_admin().ok()?.query(
            "SELECT rolname, rolpassword, rolsuper, (extract(epoch FROM rolvaliduntil) * 1000)::bigint \
             FROM pg_authid WHERE rolcanlogin",
        );
        let role = |row: Vec<Option<String>>| Role {
            name: row[0].clone().unwrap(),
            verifier: row[1].clone(),
            is_superuser: row[2].as_deref() == Some("t"),
            valid_until_unix_ms: row[3].as_deref().map(|text| text.parse().unwrap()),
        };
        Some(rows.ok()?.into_iter().map(role).collect())
    }

    pub(crate) fn promote(&self) {
        assert_eq!(self.admin().one("SELECT pg_promote(true, 30)"), "t");
    }

    /// Waits until this standby has replayed what `primary` has written.
    pub(crate) fn catch_up(&self, primary: &Postgres) {
        let target = primary.admin().one("SELECT pg_current_wal_flush_lsn()");
        let mut admin = self.admin();
        let question = format!("SELECT pg_last_wal_replay_lsn() >= '{target}'");
        wait_for("the standby to catch up", || admin.one(&question) == "t");
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.0.join("log")).unwrap_or_default()
    }

    /// Sends a signal to every process of the server.
    pub(crate) fn signal_all(&self, signal: Signal) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// SIGKILL of all processes at once, as when the machine fails.
    pub(crate) fn crash(&self) {
        self.signal_all(Signal::SIGSTOP);
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        wait_for("the server's processes to end", || {
            self.signal_all(Signal::SIGKILL);
            let _ = child.try_wait();
            self.processes().is_empty()
        });
        let _ = child.wait();
    }

    /// The server's processes: PostgreSQL changes into its directory.
    fn processes(&self) -> Vec<i32> {
        let Ok(wanted) = std::fs::metadata(self.scratch.0.join("data")) else { return vec![self.pid] };
        let pids = std::fs::read_dir("/proc").unwrap();
        let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let is_ours = |pid: &i32| {
            let is_in_data = std::fs::metadata(format!("/proc/{pid}/cwd"))
                .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()));
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            is_in_data && stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
        };
        pids.filter(is_ours).collect()
    }
}

/// Ends the server of `directory` when this process ends, and removes it: a thread that outlives the tests may hold the last of it,
/// and nothing is dropped then. Its standard input tells it.
fn watchdog(directory: &std::path::Path) -> Child {
    const WATCH: &str = "read -r _; pid=$(head -n 1 \"$0/data/postmaster.pid\") && kill -QUIT \"$pid\" || exit; \
                         while kill -0 \"$pid\"; do sleep 0.1; done; rm -rf \"$0\"";
    let mut command = Command::new("sh");
    command.args(["-c", WATCH]).arg(directory).stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A fast end removes shared memory as well. Whoever does not end is killed.
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        if matches!(child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGQUIT);
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if matches!(child.try_wait(), Ok(None)) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let deadline = Instant::now() + LONG;
        while !self.processes().is_empty() && Instant::now() < deadline {
            self.signal_all(Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
        let text = std::fs::read_to_string(self.scratch.0.join("data/postmaster.pid")).unwrap_or_default();
        if let Some(id) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            let _ = Command::new("ipcrm").args(["-m", id]).stderr(Stdio::null()).status();
        }
    }
}
