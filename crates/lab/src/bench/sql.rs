//! The SQL proxy beside PgBouncer and HAProxy, all before the same PostgreSQL: read-only pgbench through one after the other.
//!
//! The runs of a round follow each other at once and change places from round to round, so that what else the machine does
//! hits all alike. The proxy and PgBouncer reach PostgreSQL by its Unix socket and ask their clients for a SCRAM password;
//! HAProxy passes bytes on over TCP, and a client has its server for as long as it is there.

mod idle;
mod peers;

use std::fs;

use anyhow::{Context, Result};
use serde_json::json;

use super::table::{median, render};
use super::{LOOK_INTERVAL, Options};
use crate::cluster::Cluster;
use crate::files::{Plan, SQL_PROXY_PORT, Site};
use crate::pgbench::{self, Mode};
use crate::process::Kind;
use crate::{interrupt, program, suite};
use idle::Idle;
use peers::Peer;

/// Of pgbench, about 15 MB per unit: all of it stays in memory, so that the proxies are what is measured.
const SCALE: u32 = 10;
const POOL_SIZE: u32 = 20;
/// Clients that do nothing but connect.
const STORM: u32 = 16;
/// How many of its clients pgbench has connected in a second, at least: that is done within the time of a run.
const CONNECTS_PER_SECOND: u32 = 100;
/// Clock ticks of process times, as in the bench `idle`.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Series {
    pub rounds: u32,
    /// How long each run takes.
    pub seconds: u32,
    pub clients: Vec<u32>,
    /// How many do nothing, for the memory that each takes; 0: that is not measured.
    pub idle_clients: u32,
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

/// One of those that are compared; the first is the SQL proxy.
struct Subject {
    name: &'static str,
    port: u16,
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
    let mut subjects = vec![Subject {
        name: "mainstay",
        port: SQL_PROXY_PORT,
        conninfo: through(SQL_PROXY_PORT),
        pid: proxy,
    }];
    let peers = Peer::start_all(member, cluster.base())?;
    for peer in &peers {
        subjects.push(Subject {
            name: peer.name,
            port: peer.port,
            conninfo: through(peer.port),
            pid: peer.pid(),
        });
    }
    let mut rows = Vec::new();
    let mut ratios = Vec::new();
    for load in loads(&series.clients) {
        let is_able = |place: usize| place == 0 || peers[place - 1].is_able(load);
        let runs = cell(&subjects, is_able, load, series)?;
        let ratio = ratio_to_best(&runs);
        if !load.connects {
            ratios.extend(ratio);
        }
        tell(options, load, &subjects, &runs, ratio)?;
        rows.push(row(load, &runs, ratio));
    }
    let of =
        |what: &str| subjects.iter().map(|subject| format!("{} {what}", subject.name)).collect::<Vec<_>>();
    let headings =
        [vec!["cell".to_owned()], of("tps"), vec!["ratio to the best".to_owned()], of("CPU")].concat();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    println!("{}", render(&headings, &rows));
    println!(
        "CPU, user and system, in seconds per 100 000 transactions. Medians of {} runs of {} s.",
        series.rounds, series.seconds
    );
    if let Some(mean) = geometric_mean(&ratios) {
        println!("Geometric mean of the ratios of {} cells without -C: {mean:.2}", ratios.len());
    }
    if series.idle_clients > 0 {
        // HAProxy would need a server for each.
        let poolers = subjects
            .iter()
            .filter(|subject| peers.iter().all(|peer| peer.port != subject.port || peer.pools()));
        memory(options, &member.site, &cluster.name(), poolers, series.idle_clients)?;
    }
    Ok(())
}

/// What clients cost that do nothing.
fn memory<'a>(
    options: &Options,
    site: &Site,
    cluster: &str,
    subjects: impl Iterator<Item = &'a Subject>,
    clients: u32,
) -> Result<()> {
    for subject in subjects {
        for is_encrypted in [false, true] {
            let bytes =
                Idle::new(site, cluster, subject.port, is_encrypted)?.measure(subject.pid, clients)?;
            let how = if is_encrypted { "with TLS" } else { "in plain text" };
            println!("{}: {bytes} bytes for each of {clients} idle clients {how}", subject.name);
            let Some(path) = &options.out else { continue };
            let line = json!({
                "bench": "sql-idle", "proxy": subject.name, "clients": clients, "is_encrypted": is_encrypted,
                "bytes_per_client": bytes,
            });
            suite::append(path, &line)?;
        }
    }
    Ok(())
}

/// All rounds of one cell: for each subject its runs, in their order; none for one that cannot do it.
fn cell(
    subjects: &[Subject],
    is_able: impl Fn(usize) -> bool,
    load: Load,
    series: &Series,
) -> Result<Vec<Vec<Run>>> {
    let mut runs = vec![Vec::new(); subjects.len()];
    for round in 0..series.rounds as usize {
        for turn in 0..subjects.len() {
            interrupt::check()?;
            let place = (round + turn) % subjects.len();
            if !is_able(place) {
                continue;
            }
            runs[place].push(once(&subjects[place], load, series.seconds)?);
        }
    }
    Ok(runs)
}

fn once(subject: &Subject, load: Load, seconds: u32) -> Result<Run> {
    let before = times(subject.pid)?;
    let duration = seconds + load.clients / CONNECTS_PER_SECOND;
    let (clients, duration) = (load.clients.to_string(), duration.to_string());
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

/// Of each pair with the same peer, and of these the middle one: to the peer to which it is the least. `None` without any.
fn ratio_to_best(runs: &[Vec<Run>]) -> Option<f64> {
    let (ours, peers) = runs.split_first()?;
    let ratio = |theirs: &Vec<Run>| {
        median(&ours.iter().zip(theirs).map(|(ours, theirs)| ours.tps / theirs.tps).collect::<Vec<_>>())
    };
    peers.iter().filter_map(ratio).min_by(f64::total_cmp)
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
    let all = 0..runs.len();
    [vec![load.name()], all.clone().map(tps).collect(), vec![ratio], all.map(cpu).collect()].concat()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_pgbench_are_read() {
        let answer = "transaction type: <builtin: select only>\nnumber of transactions actually processed: 51234\n\
                      latency average = 0.097 ms\ntps = 10246.812 (without initial connection time)\n";
        assert_eq!(read(answer), Some((51_234.0, 10_246.812)));
        assert_eq!(read("number of transactions actually processed: 5/5\n"), None);
    }

    #[test]
    fn ratios_are_of_pairs() {
        let run = |tps| Run { tps, user: 0.0, system: 0.0 };
        let runs = [
            vec![run(2.0), run(30.0), run(9.0)],
            vec![run(1.0), run(10.0), run(3.0)],
            vec![run(1.0); 3],
            vec![],
        ];
        assert_eq!(ratio_to_best(&runs), Some(3.0));
        assert_eq!(ratio_to_best(&runs[..1]), None);
        assert!(geometric_mean(&[0.5, 2.0]).is_some_and(|mean| (mean - 1.0).abs() < 1e-9));
        assert_eq!(geometric_mean(&[]), None);
    }
}
