//! The SQL proxy beside PgBouncer: both before the same PostgreSQL, read-only pgbench through one and then through the other.
//!
//! The runs of a pair follow each other at once and change places from round to round, so that what else the machine does
//! hits both alike. Both reach PostgreSQL by its Unix socket and ask their clients for a SCRAM password.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::table::{median, render};
use super::{LOOK_INTERVAL, Options};
use crate::cluster::Cluster;
use crate::files::{APPLICATION, POSTGRES_PORT, Plan, SQL_PROXY_PORT, Site};
use crate::member::Member;
use crate::pgbench::{self, Mode};
use crate::process::Kind;
use crate::{clock, interrupt, network, program, sql, suite};

/// Of pgbench, about 15 MB per unit: all of it stays in memory, so that the proxies are what is measured.
const SCALE: u32 = 10;
const POOL_SIZE: u32 = 20;
/// Clients that do nothing but connect.
const STORM: u32 = 16;
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";
const SETSID: &str = "/usr/bin/setsid";
const PGBOUNCER_PORT: u16 = 6532;
const START_PATIENCE: Duration = Duration::from_secs(10);
const SQL_PATIENCE: Duration = Duration::from_secs(10);
/// From which version on PgBouncer knows prepared statements where transactions share connections.
const PGBOUNCER_PREPARES: (u32, u32) = (1, 21);
/// Clock ticks of process times, as in the bench `idle`.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Series {
    pub rounds: u32,
    /// How long each run takes.
    pub seconds: u32,
    pub clients: Vec<u32>,
}

/// What pgbench does in the runs of one cell.
#[derive(Clone, Copy, Debug)]
struct Load {
    mode: Mode,
    clients: u32,
    /// Whether there is a new connection, with its login, for each transaction.
    connects: bool,
    is_encrypted: bool,
}

impl Load {
    fn name(&self) -> String {
        let connects = if self.connects { " -C" } else { "" };
        let encrypted = if self.is_encrypted { ", TLS" } else { "" };
        format!("{}{connects} -c {}{encrypted}", self.mode.word(), self.clients)
    }
}

/// All cells: statements, then logins.
fn loads(clients: &[u32]) -> Vec<Load> {
    let of =
        |mode| move |clients: &u32| Load { mode, clients: *clients, connects: false, is_encrypted: false };
    let statements = [Mode::Simple, Mode::Extended, Mode::Prepared].map(|mode| clients.iter().map(of(mode)));
    let storm = |is_encrypted| Load { mode: Mode::Simple, clients: STORM, connects: true, is_encrypted };
    statements.into_iter().flatten().chain([storm(false), storm(true)]).collect()
}

/// One of the two that are compared.
struct Subject {
    name: &'static str,
    conninfo: String,
    pid: i32,
}

/// One run of pgbench.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    tps: f64,
    /// CPU seconds of the proxy per 100 000 transactions.
    user: f64,
    system: f64,
}

pub fn run(options: &Options, series: &Series) -> Result<()> {
    let plan = Plan { sql_proxy: true, ..Plan::new(1) };
    let mut cluster = Cluster::create(options.index, &options.binary, &plan)?;
    let sites: Vec<Site> = cluster.data_members().map(|member| member.site.clone()).collect();
    pgbench::initialise(&sites.iter().collect::<Vec<_>>(), SCALE)?;
    cluster.has_pgbench = true;
    let member = cluster.data_members().next().context("the cluster has a member")?;
    let proxy = member.process(Kind::SqlProxy).context("no SQL proxy runs")?.pid;
    let through = |port| pgbench::through(&[&member.site], port, &cluster.name());
    let mut subjects = vec![Subject { name: "mainstay", conninfo: through(SQL_PROXY_PORT), pid: proxy }];
    let bouncer = Bouncer::start(member, cluster.base())?;
    if let Some(bouncer) = &bouncer {
        let pid = bouncer.child.id().cast_signed();
        subjects.push(Subject { name: "pgbouncer", conninfo: through(PGBOUNCER_PORT), pid });
    }
    let mut rows = Vec::new();
    let mut ratios = Vec::new();
    for load in loads(&series.clients) {
        let is_able = bouncer
            .as_ref()
            .is_none_or(|bouncer| load.mode != Mode::Prepared || bouncer.version >= PGBOUNCER_PREPARES);
        let compared = if is_able { subjects.as_slice() } else { &subjects[..1] };
        let runs = cell(compared, load, series)?;
        let ratio = ratio(&runs);
        if !load.connects {
            ratios.extend(ratio);
        }
        tell(options, load, compared, &runs, ratio)?;
        rows.push(row(load, &runs, ratio));
    }
    let headings = [
        "cell",
        "mainstay tps",
        "pgbouncer tps",
        "ratio",
        "mainstay CPU user+system",
        "pgbouncer CPU user+system",
    ];
    println!("{}", render(&headings, &rows));
    println!(
        "CPU in seconds per 100 000 transactions. Medians of {} runs of {} s.",
        series.rounds, series.seconds
    );
    if let Some(mean) = geometric_mean(&ratios) {
        println!("Geometric mean of the ratios of {} cells without -C: {mean:.2}", ratios.len());
    }
    Ok(())
}

/// All rounds of one cell: for each subject its runs, in their order.
fn cell(subjects: &[Subject], load: Load, series: &Series) -> Result<Vec<Vec<Run>>> {
    let mut runs = vec![Vec::new(); subjects.len()];
    for round in 0..series.rounds as usize {
        for turn in 0..subjects.len() {
            interrupt::check()?;
            let place = (round + turn) % subjects.len();
            runs[place].push(once(&subjects[place], load, series.seconds)?);
        }
    }
    Ok(runs)
}

fn once(subject: &Subject, load: Load, seconds: u32) -> Result<Run> {
    let before = times(subject.pid)?;
    let (clients, duration) = (load.clients.to_string(), seconds.to_string());
    // What stands last counts. The attribute would cost a question where the proxy does not tell it by itself.
    let sslmode = if load.is_encrypted { "require" } else { "disable" };
    let conninfo = format!("{} sslmode={sslmode} target_session_attrs=any", subject.conninfo);
    let mut arguments = vec!["-n", "-S", "-j", "1", "-c", &clients, "-T", &duration, "-M", load.mode.word()];
    if load.connects {
        arguments.push("-C");
    }
    arguments.push(&conninfo);
    let answer = program::run("pgbench", &arguments)?;
    let after = times(subject.pid)?;
    let (count, tps) = read(&answer).with_context(|| {
        format!("{clients} clients of {} did nothing in {seconds} s; give --seconds more", subject.name)
    })?;
    let per_100k = |ticks: u64| ticks as f64 / TICKS_PER_SECOND / (count / 100_000.0);
    Ok(Run { tps, user: per_100k(after.0 - before.0), system: per_100k(after.1 - before.1) })
}

/// The number of transactions and the rate, from what pgbench prints.
fn read(answer: &str) -> Option<(f64, f64)> {
    let after = |start: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix(start))?;
        line.split([' ', '/']).next()?.parse::<f64>().ok()
    };
    let count = after("number of transactions actually processed: ").filter(|count| *count > 0.0)?;
    Some((count, after("tps = ")?))
}

/// User and system time of a process, in ticks.
fn times(pid: i32) -> Result<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} has ended while it was measured"))?;
    let fields: Vec<&str> =
        stat.rsplit_once(") ").context("the kernel's words")?.1.split_whitespace().collect();
    let field = |place: usize| fields.get(place).and_then(|field| field.parse().ok()).unwrap_or(0);
    Ok((field(11), field(12)))
}

/// Of each pair, and of these the middle one; `None` without a partner.
fn ratio(runs: &[Vec<Run>]) -> Option<f64> {
    let [ours, theirs] = runs else { return None };
    median(&ours.iter().zip(theirs).map(|(ours, theirs)| ours.tps / theirs.tps).collect::<Vec<_>>())
}

fn geometric_mean(ratios: &[f64]) -> Option<f64> {
    let sum: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    (!ratios.is_empty()).then(|| (sum / ratios.len() as f64).exp())
}

fn middle(runs: &[Run], pick: fn(&Run) -> f64) -> Option<f64> {
    median(&runs.iter().map(pick).collect::<Vec<_>>())
}

fn row(load: Load, runs: &[Vec<Run>], ratio: Option<f64>) -> Vec<String> {
    let figure = |place: usize, pick: fn(&Run) -> f64| runs.get(place).and_then(|runs| middle(runs, pick));
    let tps = |place| figure(place, |run| run.tps).map_or_else(|| "-".to_owned(), |tps| format!("{tps:.0}"));
    let cpu = |place| {
        let (user, system) = (figure(place, |run| run.user), figure(place, |run| run.system));
        user.zip(system).map_or_else(|| "-".to_owned(), |(user, system)| format!("{user:.2} + {system:.2}"))
    };
    let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    vec![load.name(), tps(0), tps(1), ratio, cpu(0), cpu(1)]
}

fn tell(
    options: &Options,
    load: Load,
    subjects: &[Subject],
    runs: &[Vec<Run>],
    ratio: Option<f64>,
) -> Result<()> {
    eprintln!("{}", row(load, runs, ratio).join("  "));
    let Some(path) = &options.out else { return Ok(()) };
    for (subject, runs) in subjects.iter().zip(runs) {
        let all = |pick: fn(&Run) -> f64| runs.iter().map(pick).collect::<Vec<f64>>();
        let line = json!({
            "bench": "sql", "proxy": subject.name, "mode": load.mode.word(), "clients": load.clients,
            "connects": load.connects, "is_encrypted": load.is_encrypted, "ratio": ratio,
            "tps": all(|run| run.tps), "user_seconds_per_100k": all(|run| run.user),
            "system_seconds_per_100k": all(|run| run.system),
        });
        suite::append(path, &line)?;
    }
    Ok(())
}

/// A PgBouncer on the member's machine; it ends when dropped.
struct Bouncer {
    child: Child,
    version: (u32, u32),
}

impl Bouncer {
    /// `None`: none is installed.
    fn start(member: &Member, base: &Path) -> Result<Option<Bouncer>> {
        if !Path::new(PGBOUNCER).exists() {
            eprintln!("PgBouncer is not installed: the SQL proxy is measured alone");
            return Ok(None);
        }
        let said = program::run(PGBOUNCER, &["--version"])?;
        let version = version(&said).with_context(|| format!("no version of PgBouncer: {said}"))?;
        let (file, users) = (base.join("pgbouncer.ini"), base.join("pgbouncer.users"));
        write(&users, &format!("\"{APPLICATION}\" \"{}\"\n", verifier(&member.site)?))?;
        write(&file, &configuration(&member.site, &users))?;
        // A session of its own, as the SQL proxy has one: the kernel shares the CPUs out among sessions first. It becomes the
        // same process, whose CPU time is looked at.
        let mut command = network::inside(&member.namespace, Path::new(SETSID));
        // Root it does not want to be.
        command.args([PGBOUNCER, "-q", "-u", "postgres"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("cannot run nsenter; install util-linux")?;
        let mut bouncer = Bouncer { child, version };
        let address = SocketAddr::from((member.site.address, PGBOUNCER_PORT));
        let deadline = clock::now().plus(START_PATIENCE);
        let up = interrupt::wait_until(deadline, LOOK_INTERVAL, || TcpStream::connect(address).ok())?;
        if up.is_none() || !matches!(bouncer.child.try_wait(), Ok(None)) {
            bail!("PgBouncer does not come up; try: {PGBOUNCER} -u postgres {}", file.display());
        }
        Ok(Some(bouncer))
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    let most = 1_000;
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
    use super::*;

    #[test]
    fn figures_of_pgbench_are_read() {
        let answer = "transaction type: <builtin: select only>\nnumber of transactions actually processed: 51234\n\
                      latency average = 0.097 ms\ntps = 10246.812 (without initial connection time)\n";
        assert_eq!(read(answer), Some((51_234.0, 10_246.812)));
        assert_eq!(read("number of transactions actually processed: 5/5\n"), None);
        assert_eq!(version("PgBouncer 1.18.0\nlibevent 2.1.12-stable\n"), Some((1, 18)));
    }

    #[test]
    fn ratios_are_of_pairs() {
        let run = |tps| Run { tps, user: 0.0, system: 0.0 };
        let runs = [vec![run(2.0), run(30.0), run(9.0)], vec![run(1.0), run(10.0), run(3.0)]];
        assert_eq!(ratio(&runs), Some(3.0));
        assert_eq!(ratio(&runs[..1]), None);
        assert!(geometric_mean(&[0.5, 2.0]).is_some_and(|mean| (mean - 1.0).abs() < 1e-9));
        assert_eq!(geometric_mean(&[]), None);
    }
}
