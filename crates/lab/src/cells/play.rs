//! One cell: sessions get into their states, the fault hits, somebody takes over, everything heals.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mainstay_core::Now;

use super::form::{Form, SLOW_SECONDS};
use super::judge::{self, Verdict};
use super::record::{Record, Role};
use super::session::{self, Place};
use super::stage::{Part, Stage};
use super::{CellFault, SQL_PATIENCE};
use crate::cluster::Cluster;
use crate::fault::{self, Fault};
use crate::files::{Site, application_password};
use crate::process::Kind;
use crate::{clock, control, heal, interrupt, sql};

const READY_PATIENCE: Duration = Duration::from_secs(20);
/// A member without a lease of its own is taken over from after some five seconds, on a busy machine later.
const STANDS_PATIENCE: Duration = Duration::from_secs(20);
const WHOLE_PATIENCE: Duration = Duration::from_secs(45);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long a link is cut that nobody takes over for: shorter than anything that sleeps.
const LINK_CUT: Duration = Duration::from_secs(3);
/// So long sessions go on after everything was healed.
const AFTERWARDS: Duration = Duration::from_millis(500);
/// Rows of one cell; more than it can write.
const ROWS: i64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) fault: CellFault,
    pub(super) form: Form,
    pub(super) number: i64,
    pub(super) bar: Duration,
}

/// What became of a cell.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) cell: Cell,
    pub(super) sessions: usize,
    pub(super) verdict: Verdict,
    /// Since the fault.
    pub(super) stands_after: Option<Duration>,
    pub(super) took: Duration,
    /// Whether the next cell can be played.
    pub(super) is_whole: bool,
    /// Why it could not be played to its end.
    pub(super) broken: Option<String>,
}

impl Outcome {
    pub(super) fn violations(&self) -> Vec<String> {
        self.verdict.violations.iter().chain(&self.broken).cloned().collect()
    }
}

/// Who is who before the fault.
struct Cast {
    primary: String,
    standbys: Vec<String>,
    epoch: u64,
}

/// What the story has shown.
struct Told {
    records: Vec<Record>,
    struck_at: Now,
    stands_at: Option<Now>,
}

pub(super) fn play(cluster: &mut Cluster, cell: Cell) -> Outcome {
    let begun = clock::now();
    let mut outcome = Outcome {
        cell,
        sessions: 0,
        verdict: Verdict::default(),
        stands_after: None,
        took: Duration::ZERO,
        is_whole: false,
        broken: None,
    };
    if let Err(error) = story(cluster, cell, &mut outcome) {
        outcome.broken = Some(format!("{error:#}"));
    }
    let healed = heal::everything(cluster).and_then(|()| start_the_dead(cluster));
    outcome.is_whole = healed.and_then(|()| cluster.wait_whole(WHOLE_PATIENCE)).is_ok();
    outcome.took = clock::now().since(begun);
    outcome
}

fn story(cluster: &mut Cluster, cell: Cell, outcome: &mut Outcome) -> Result<()> {
    cluster.wait_whole(WHOLE_PATIENCE)?;
    let status = cluster.status().context("nobody answers")?;
    let primary = status.primary.context("there is no primary")?.to_string();
    let others = cluster.data_members().map(|member| member.name().to_owned());
    let standbys = others.filter(|name| *name != primary).collect();
    let cast = Cast { primary, standbys, epoch: status.epoch };
    let first_row = cell.number * ROWS;
    let stage = Stage::new(first_row);
    let told = sessions_and_fault(cluster, cell, &cast, &stage)?;
    outcome.sessions = told.records.len();
    outcome.stands_after = told.stands_at.map(|at| at.since(told.struck_at));
    outcome.verdict = judge::answers((cell.fault, cell.form), &told.records, told.stands_at, cell.bar);
    cluster.wait_whole(WHOLE_PATIENCE).context("after the fault")?;
    judge::rows(&mut outcome.verdict, &told.records, &rows(cluster, first_row)?);
    let epoch = cluster.status().context("nobody answers")?.epoch;
    if cell.fault == CellFault::CutLink {
        ensure!(epoch == cast.epoch, "a link between two members was cut, and there was a failover");
    } else {
        ensure!(epoch == cast.epoch + 1, "there were {} failovers", epoch - cast.epoch);
    }
    Ok(())
}

fn sessions_and_fault(cluster: &mut Cluster, cell: Cell, cast: &Cast, stage: &Stage) -> Result<Told> {
    let places = places(cluster, cell.fault, cast)?;
    let sites: Vec<Site> = cluster.data_members().map(|member| member.site.clone()).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let cast_of_roles = places.iter().flat_map(|place| Role::ALL.map(|role| (place, role)));
        let sessions: Vec<ScopedJoinHandle<'_, Record>> = cast_of_roles
            .map(|(place, role)| scope.spawn(move || session::run(stage, place, cell.form, role)))
            .collect();
        let looks_for_another = cell.fault != CellFault::CutLink;
        if looks_for_another {
            for site in sites.iter().filter(|site| site.name.as_str() != cast.primary) {
                let is_over = &is_over;
                scope.spawn(move || watch(site, cast.epoch, stage, is_over));
            }
        }
        let struck = strike_and_heal(cluster, cell.fault, cast, stage, sessions.len());
        // Whatever has happened: nobody waits for what does not come any more.
        is_over.store(true, Ordering::Relaxed);
        if stage.part() < Part::Stands {
            stage.enter(Part::Stands);
        }
        stage.enter(Part::Over);
        let records = sessions.into_iter().map(|session| session.join().expect("a session does not panic"));
        let records: Vec<Record> = records.collect();
        match struck {
            Ok(struck_at) => Ok(Told { records, struck_at, stands_at: stage.stands_at() }),
            Err(error) => {
                let complaints = records.iter().flat_map(|record| {
                    record
                        .complaints
                        .iter()
                        .map(|text| format!("{} through {}: {text}", record.role.words(), record.proxy))
                });
                let all: Vec<String> = complaints.collect();
                Err(if all.is_empty() { error } else { error.context(all.join("; ")) })
            }
        }
    })
}

/// Whose proxies have clients: those that live on, and for a cut-off one, from inside, its own.
fn places(cluster: &Cluster, fault: CellFault, cast: &Cast) -> Result<Vec<Place>> {
    let proxies: Vec<&String> = match fault {
        CellFault::KillMember | CellFault::Freeze => cast.standbys.iter().collect(),
        CellFault::CutLink => cast.standbys.iter().rev().take(1).collect(),
        CellFault::KillPostmaster | CellFault::CutMinority | CellFault::Switchover => {
            cast.standbys.iter().chain([&cast.primary]).collect()
        }
    };
    let place = |name: &String| {
        let member = cluster.member(name)?;
        let is_inside = fault == CellFault::CutMinority && *name == cast.primary;
        Ok(Place {
            proxy: name.clone(),
            address: member.site.address,
            password: application_password(&cluster.name()),
            namespace: is_inside.then(|| PathBuf::from(format!("/run/netns/{}", member.namespace))),
        })
    };
    proxies.into_iter().map(place).collect()
}

/// Tells when this member is the primary of a later epoch, and takes statements.
fn watch(site: &Site, epoch: u64, stage: &Stage, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) && stage.stands_at().is_none() {
        let is_it = control::status(&site.control_socket()).is_ok_and(|status| {
            status.epoch > epoch && status.writable && status.primary.as_ref() == Some(&site.name)
        });
        if is_it {
            return stage.stands(clock::now());
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Answers when the fault hit.
fn strike_and_heal(
    cluster: &mut Cluster,
    fault: CellFault,
    cast: &Cast,
    stage: &Stage,
    sessions: usize,
) -> Result<Now> {
    if !stage.wait_ready(sessions, READY_PATIENCE) {
        bail!("not every session gets into its state within {READY_PATIENCE:?}");
    }
    wait_for_sleepers(cluster, cast, sessions / Role::ALL.len())?;
    let (primary, last) =
        (cast.primary.clone(), cast.standbys.last().context("there is no standby")?.clone());
    let struck_at = clock::now();
    match fault {
        CellFault::KillPostmaster => fault::perform(cluster, Fault::KillPostmaster, &[primary])?,
        CellFault::KillMember => fault::perform(cluster, Fault::KillMachine, &[primary])?,
        CellFault::Freeze => fault::perform(cluster, Fault::StopMachine, &[primary])?,
        CellFault::CutLink => fault::perform(cluster, Fault::CutLink, &[primary, last])?,
        CellFault::CutMinority => fault::perform(cluster, Fault::LinkDown, &[primary])?,
        CellFault::Switchover => {
            stage.enter(Part::Struck);
            cluster.switch_over(&last)?;
        }
    }
    stage.enter(Part::Struck);
    if fault == CellFault::CutLink {
        interrupt::pause(LINK_CUT)?;
        heal::everything(cluster)?;
        stage.stands(clock::now());
    } else {
        let deadline = struck_at.plus(STANDS_PATIENCE);
        let stands = interrupt::wait_until(deadline, LOOK_INTERVAL, || stage.stands_at())?;
        stands.with_context(|| format!("nobody takes over within {STANDS_PATIENCE:?}"))?;
        interrupt::pause(AFTERWARDS)?;
        heal::everything(cluster)?;
        start_the_dead(cluster)?;
    }
    interrupt::pause(AFTERWARDS)?;
    Ok(struck_at)
}

/// What is to be under way when the fault hits has arrived at the primary.
fn wait_for_sleepers(cluster: &Cluster, cast: &Cast, proxies: usize) -> Result<()> {
    let site = &cluster.member(&cast.primary)?.site;
    let wanted = proxies * Role::ALL.iter().filter(|role| role.sleeps()).count();
    let question = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let deadline = clock::now().plus(Duration::from_secs(u64::from(SLOW_SECONDS)));
    let all = interrupt::wait_until(deadline, LOOK_INTERVAL, || {
        let rows = sql::query(&sql::administration(site), question, SQL_PATIENCE).ok()?;
        (rows.first()?.first()?.parse::<usize>().ok()? >= wanted).then_some(())
    })?;
    all.with_context(|| format!("{wanted} statements were to be under way at {}", cast.primary))
}

fn start_the_dead(cluster: &mut Cluster) -> Result<()> {
    let is_dead = |member: &&crate::member::Member| member.process(Kind::Member).is_none();
    let dead: Vec<String> =
        cluster.members.iter().filter(is_dead).map(|member| member.name().to_owned()).collect();
    dead.iter().try_for_each(|name| cluster.start_member(name))
}

/// How often each row of the cell is there.
fn rows(cluster: &Cluster, first: i64) -> Result<BTreeMap<i64, i64>> {
    let primary = cluster.primary().context("nobody is the primary: the rows cannot be looked up")?;
    let statement = format!(
        "SELECT id, count(*) FROM (SELECT id FROM cell_writes UNION ALL SELECT id FROM cell_slow_commits) AS written \
         WHERE id >= {first} AND id < {} GROUP BY id",
        first + ROWS
    );
    let rows = sql::query(&sql::application(&primary.site), &statement, SQL_PATIENCE)?;
    let pair = |row: Vec<String>| match row.as_slice() {
        [id, count] => Ok((id.parse()?, count.parse()?)),
        _ => bail!("the tables answer another form"),
    };
    rows.into_iter().map(pair).collect()
}
