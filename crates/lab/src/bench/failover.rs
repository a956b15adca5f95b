//! Five faults under load, again and again, interleaved: how long nobody can write, and what becomes of the old primary.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::table::{median, render, worst};
use super::{LOOK_INTERVAL, Options, PAUSE, steady_client};
use crate::check::{self, Verdict};
use crate::cluster::Cluster;
use crate::fault::{self, Fault};
use crate::files::{Plan, Site};
use crate::journal::{self, Rejoin, Rung};
use crate::pgbench::{self, Load, Pgbench};
use crate::{clock, failure, heal, interrupt, sql, suite};

/// How long writes may stay away before the bench gives up.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
/// How long the old primary may take to come back; a copy of a large database takes its time.
const REJOIN_PATIENCE: Duration = Duration::from_secs(300);
const SQL_PATIENCE: Duration = Duration::from_secs(120);
/// Of pgbench, about 15 MB per unit of scale.
const SCALE_PER_GB: u32 = 68;
const USUAL_SCALE: u32 = 10;
/// Rows of about 1 kB that only the cut-off primary gets, in the bench with a large database.
const DIVERGED_ROWS: u32 = 20_000;
/// With a large database, more than this part of it moved by a rewind, beside the WAL there is, is too much.
const MOST_REWOUND: f64 = 0.1;

/// What is done to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    PostmasterKilled,
    MemberKilled,
    MemberCutOff,
    PostgresFrozen,
    Switchover,
}

impl Event {
    pub const ALL: [Event; 5] = [
        Event::PostmasterKilled,
        Event::MemberKilled,
        Event::MemberCutOff,
        Event::PostgresFrozen,
        Event::Switchover,
    ];

    pub fn parse(word: &str) -> Result<Event> {
        let found = Event::ALL.into_iter().find(|event| event.to_string() == word);
        let known = Event::ALL.map(|event| event.to_string());
        found.with_context(|| format!("`{word}` is no event; there are {}", known.join(", ")))
    }

    fn fault(self) -> Option<Fault> {
        match self {
            Event::PostmasterKilled => Some(Fault::KillPostmaster),
            Event::MemberKilled => Some(Fault::KillMachine),
            Event::MemberCutOff => Some(Fault::LinkDown),
            Event::PostgresFrozen => Some(Fault::StopPostgres),
            Event::Switchover => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Event::PostmasterKilled => "postmaster-killed",
            Event::MemberKilled => "member-killed",
            Event::MemberCutOff => "member-cut-off",
            Event::PostgresFrozen => "postgres-frozen",
            Event::Switchover => "switchover",
        })
    }
}

/// What one event cost.
#[derive(Clone, Debug)]
struct Sample {
    event: Event,
    run: u32,
    gap: Duration,
    verdict: Verdict,
    /// From the moment when the old primary could come back.
    standby_again: Duration,
    rejoin: Option<Rejoin>,
    /// What the new primary's `pg_wal` held: pg_rewind copies all of it, whatever the database's size.
    wal_bytes: u64,
    /// How long the new primary acknowledged alone.
    alone: Duration,
}

/// What to play beside the shared options.
#[derive(Clone, Debug)]
pub struct Series {
    pub runs: u32,
    pub events: Vec<Event>,
    /// The size of the database in GB; `None`: about 150 MB.
    pub big_gb: Option<u32>,
}

/// Plays the series; fails if anything was lost or duplicated, or a rewind moved too much.
pub fn run(options: &Options, series: &Series) -> Result<()> {
    let mut cluster = Cluster::create(options.index, &options.binary, &Plan::new(options.members))?;
    let scale = series.big_gb.map_or(USUAL_SCALE, |gb| gb * SCALE_PER_GB);
    initialise(&mut cluster, scale)?;
    let size_bytes = size(&cluster)?;
    println!(
        "{} members, database of {:.0} MB, 8 clients of pgbench",
        options.members,
        size_bytes as f64 / 1e6
    );
    let mut samples = Vec::new();
    for run in 1..=series.runs {
        for event in &series.events {
            let sample = match one(&mut cluster, *event, run, series.big_gb.is_some()) {
                Ok(sample) => sample,
                Err(error) => {
                    let place = failure::keep(&cluster, &format!("bench-{event}"))?;
                    return Err(error.context(format!("{event}, run {run}; see {}", place.display())));
                }
            };
            tell(&sample, size_bytes, options)?;
            samples.push(sample);
        }
    }
    println!("\n{}", summary(&samples, &series.events));
    judge(&samples, series, size_bytes)
}

fn initialise(cluster: &mut Cluster, scale: u32) -> Result<()> {
    let sites: Vec<&Site> = cluster.data_members().map(|member| &member.site).collect();
    pgbench::initialise(&sites, scale)?;
    cluster.has_pgbench = true;
    cluster.wait_whole(REJOIN_PATIENCE)?;
    // The load is not to be part of what a rewind looks through: the primary's checkpoint first, then the standbys' own.
    let primary = cluster.primary().context("there is no primary")?;
    let standbys = cluster.data_members().filter(|member| member.name() != primary.name());
    for member in std::iter::once(primary).chain(standbys) {
        sql::query(&sql::administration(&member.site), "CHECKPOINT", REJOIN_PATIENCE)?;
    }
    Ok(())
}

fn size(cluster: &Cluster) -> Result<u64> {
    number(cluster, "SELECT sum(pg_database_size(oid)) FROM pg_database")
}

fn number(cluster: &Cluster, statement: &str) -> Result<u64> {
    let primary = cluster.primary().context("there is no primary")?;
    let rows = sql::query(&sql::administration(&primary.site), statement, SQL_PATIENCE)?;
    let number = rows.first().and_then(|row| row.first()).context("no number came back")?;
    Ok(number.parse()?)
}

fn one(cluster: &mut Cluster, event: Event, run: u32, diverge: bool) -> Result<Sample> {
    cluster.wait_whole(REJOIN_PATIENCE)?;
    let sites: Vec<&Site> = cluster.data_members().map(|member| &member.site).collect();
    let mut load = Pgbench::start(pgbench::direct(&sites), &Load::default())?;
    let mut client = steady_client(cluster)?;
    let primary = cluster.primary().context("there is no primary")?;
    let (old, log) = (primary.name().to_owned(), primary.site.log());
    let log_length = journal::length(&log);
    let mark = clock::now();
    match event.fault() {
        Some(fault) => fault::perform(cluster, fault, std::slice::from_ref(&old))?,
        None => {
            let names = cluster.data_members().map(|member| member.name().to_owned());
            let to =
                names.filter(|name| *name != old).nth(run as usize % 2).context("there is no standby")?;
            cluster.switch_over(&to)?;
        }
    }
    if diverge && event == Event::MemberCutOff {
        write_alone(cluster, &old)?;
    }
    let deadline = mark.plus(WRITE_PATIENCE);
    let back = interrupt::wait_until(deadline, LOOK_INTERVAL, || {
        let newest = client.history().newest_acknowledged()?;
        let changed = cluster.primary().is_some_and(|member| member.name() != old);
        (changed && clock::now().since(newest) < PAUSE).then_some(())
    })?;
    if back.is_none() {
        let newest = client.history().attempts.last().and_then(|attempt| attempt.error.clone());
        bail!("no writes within {WRITE_PATIENCE:?}: {}", newest.unwrap_or_default());
    }
    let wal_bytes = number(cluster, "SELECT sum(size) FROM pg_ls_waldir()")?;
    let may_return = clock::now();
    heal::everything(cluster)?;
    if event == Event::MemberKilled {
        cluster.start_member(&old)?;
    }
    let (standby_again, alone) = await_standby(cluster, &old)?;
    load.stop();
    let history = client.stop();
    let gap = history.longest_gap(mark).context("the client wrote nothing")?.length();
    let verdict = check::rows(cluster, client.number, &history)?;
    check::same_everywhere(cluster)?;
    let returned =
        if event == Event::PostmasterKilled || event == Event::Switchover { mark } else { may_return };
    Ok(Sample {
        event,
        run,
        gap,
        verdict,
        standby_again: standby_again.since(returned),
        rejoin: journal::rejoin(&journal::since(&log, log_length)),
        wal_bytes,
        alone,
    })
}

/// What nobody else has: it is on the old primary's disk only, and has to be undone.
fn write_alone(cluster: &Cluster, old: &str) -> Result<()> {
    let site = &cluster.member(old)?.site;
    let statement = format!(
        "SET synchronous_commit = local; CREATE TABLE alone AS \
         SELECT n, repeat('x', 1000) AS filler FROM generate_series(1, {DIVERGED_ROWS}) AS n"
    );
    sql::query(&sql::administration(site), &statement, SQL_PATIENCE).map(|_| ())
}

/// When the old primary streamed again, and how long the new one has been alone until then.
fn await_standby(cluster: &Cluster, old: &str) -> Result<(mainstay_core::Now, Duration)> {
    let name = cluster.member(old)?.site.name.clone();
    let deadline = clock::now().plus(REJOIN_PATIENCE);
    let mut alone = Duration::ZERO;
    let mut last = clock::now();
    let found = interrupt::wait_until(deadline, LOOK_INTERVAL, || {
        let status = cluster.status()?;
        let now = clock::now();
        if status.is_alone() {
            alone += now.since(last);
        }
        last = now;
        (status.streams(&name) && status.is_whole()).then_some(now)
    })?;
    Ok((found.with_context(|| format!("{old} does not stream again within {REJOIN_PATIENCE:?}"))?, alone))
}

fn tell(sample: &Sample, size_bytes: u64, options: &Options) -> Result<()> {
    let rejoin = sample.rejoin.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
    println!(
        "{:<18} run {:>2}: gap {:.2} s, {}, standby again after {:.1} s by {rejoin} (WAL there: {:.0} MB), alone {:.1} s",
        sample.event.to_string(),
        sample.run,
        sample.gap.as_secs_f64(),
        sample.verdict,
        sample.standby_again.as_secs_f64(),
        sample.wal_bytes as f64 / 1e6,
        sample.alone.as_secs_f64()
    );
    let Some(path) = &options.out else { return Ok(()) };
    suite::append(
        path,
        &json!({
            "bench": "failover",
            "event": sample.event.to_string(),
            "run": sample.run,
            "members": options.members,
            "database_bytes": size_bytes,
            "gap_s": sample.gap.as_secs_f64(),
            "acknowledged": sample.verdict.acknowledged,
            "errors": sample.verdict.errors(),
            "lost": sample.verdict.lost.len(),
            "duplicated": sample.verdict.duplicated.len(),
            "failed_but_present": sample.verdict.failed_but_present,
            "unknown_and_present": sample.verdict.unknown_and_present,
            "standby_again_s": sample.standby_again.as_secs_f64(),
            "rung": sample.rejoin.as_ref().map(|rejoin| rejoin.rung.to_string()),
            "rung_bytes": sample.rejoin.as_ref().map(|rejoin| rejoin.bytes),
            "rung_s": sample.rejoin.as_ref().map(|rejoin| rejoin.seconds),
            "wal_bytes": sample.wal_bytes,
            "alone_s": sample.alone.as_secs_f64(),
        }),
    )
}

fn summary(samples: &[Sample], events: &[Event]) -> String {
    let headings = [
        "event",
        "runs",
        "gap median",
        "gap worst",
        "errors",
        "lost",
        "duplicated",
        "failed but present",
        "standby again",
        "worst",
        "alone",
    ];
    let row = |event: &Event| {
        let of: Vec<&Sample> = samples.iter().filter(|sample| sample.event == *event).collect();
        let seconds = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2} s"));
        let all = |value: fn(&Sample) -> Duration| -> Vec<f64> {
            of.iter().map(|sample| value(sample).as_secs_f64()).collect()
        };
        let sum = |value: fn(&Sample) -> usize| of.iter().map(|sample| value(sample)).sum::<usize>();
        let (gaps, again) = (all(|sample| sample.gap), all(|sample| sample.standby_again));
        vec![
            event.to_string(),
            of.len().to_string(),
            seconds(median(&gaps)),
            seconds(worst(&gaps)),
            sum(|sample| sample.verdict.errors()).to_string(),
            sum(|sample| sample.verdict.lost.len()).to_string(),
            sum(|sample| sample.verdict.duplicated.len()).to_string(),
            sum(|sample| sample.verdict.failed_but_present).to_string(),
            seconds(median(&again)),
            seconds(worst(&again)),
            seconds(worst(&all(|sample| sample.alone))),
        ]
    };
    render(&headings, &events.iter().map(row).collect::<Vec<_>>())
}

fn judge(samples: &[Sample], series: &Series, size_bytes: u64) -> Result<()> {
    let bad = samples.iter().filter(|sample| !sample.verdict.is_good()).count();
    ensure!(bad == 0, "{bad} runs lost or duplicated what was acknowledged");
    if series.big_gb.is_none() {
        return Ok(());
    }
    let most = size_bytes as f64 * MOST_REWOUND;
    for sample in samples {
        let Some(rejoin) = sample.rejoin.as_ref().filter(|rejoin| rejoin.rung == Rung::Rewind) else {
            continue;
        };
        let beside_wal = rejoin.bytes.saturating_sub(sample.wal_bytes) as f64;
        ensure!(
            beside_wal < most,
            "{rejoin}: {:.0} MB of it beside the WAL are more than {:.0} % of the database",
            beside_wal / 1e6,
            MOST_REWOUND * 100.0
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_known_by_its_word() {
        for event in Event::ALL {
            assert_eq!(Event::parse(&event.to_string()).unwrap(), event);
        }
        let error = Event::parse("flood").unwrap_err().to_string();
        assert!(error.contains("there are postmaster-killed, member-killed"), "{error}");
    }
}
