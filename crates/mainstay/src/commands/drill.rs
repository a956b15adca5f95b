//! `drill`: a planned fault with the user's word, measured by a client that writes, and compared with what was promised.

mod cut;
mod fault;
mod precheck;
mod report;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mainstay_core::{MemberId, Now};
use mainstay_member::Configuration;
use mainstay_member::control::DrillRequest;
use mainstay_member::roster;
use mainstay_member::status::Status;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{DrillFault, DrillOptions, DrillScope, HitOptions};
use crate::client::{self, Control};
use crate::output::println;
use crate::target::{self, Target};
use crate::writer::{Through, Writer};
use crate::{commands::switchover, configuration};
use fault::Fault;
use precheck::Before;
use report::Report;

pub(crate) use cut::{heal, heal_in_passing};
pub(crate) use fault::thaw;

/// Where the writer's rows go; the table is dropped at the end, and by the next drill.
const TABLE: &str = "mainstay_drill";
const WRITE_INTERVAL: Duration = Duration::from_millis(10);
/// The default of how long a cut lasts beside the lease: the others fail over, and the one that is cut off is seen to be silent.
const BESIDE_LEASE: Duration = Duration::from_secs(12);
/// The answer to whoever has asked is on its way before the fault.
const ANSWERED: Duration = Duration::from_millis(300);
/// What writing is like before and after.
const BASELINE: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A server that is frozen is given up within seconds; whatever takes longer than this was not noticed.
const NOTICED_PATIENCE: Duration = Duration::from_secs(40);
const BACK_PATIENCE: Duration = Duration::from_secs(60);
/// The one that was hit starts again, is rewound or cloned, and catches up.
const WHOLE_PATIENCE: Duration = Duration::from_secs(120);

/// What is to be done to whom.
pub(crate) struct Plan {
    pub(crate) fault: DrillFault,
    pub(crate) scope: DrillScope,
    /// The member that is hit; for a switchover the one that is to take over, if one was named.
    pub(crate) member: Option<MemberId>,
    pub(crate) goal: Option<Duration>,
    /// How long a cut lasts, and a freeze on another machine.
    pub(crate) length: Option<Duration>,
    pub(crate) json: bool,
}

impl Plan {
    /// A cut must last for longer than the lease, or nothing follows from it.
    fn length(&self, configuration: &Configuration) -> Duration {
        self.length.unwrap_or(configuration.lease + BESIDE_LEASE)
    }
}

pub(crate) async fn run(options: &DrillOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let plan = Plan {
        fault: options.fault,
        scope: options.scope,
        member: options.member.clone(),
        goal: options.goal,
        length: options.length,
        json: options.shared.json,
    };
    carry_out(&configuration, &plan, options.yes).await
}

/// Checks, asks, does it, measures.
pub(crate) async fn carry_out(configuration: &Configuration, plan: &Plan, yes: bool) -> Result<ExitCode> {
    let status = Control::of(configuration).status().await?;
    let before = precheck::check(configuration, plan, &status)?;
    if !yes {
        ask(configuration, &before)?;
    }
    let targets = targets(configuration)?;
    let writer = start_writing(targets).await?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminates = signal(SignalKind::terminate())?;
    let mut fault = Fault::default();
    let measured = tokio::select! {
        measured = measure(configuration, plan, &before, &writer, &mut fault) => measured,
        _ = interrupts.recv() => Err(anyhow::anyhow!("interrupted; what was frozen goes on")),
        _ = terminates.recv() => Err(anyhow::anyhow!("terminated; what was frozen goes on")),
    };
    fault.undo();
    let removed = writer.remove().await;
    let report = measured?;
    removed.with_context(|| format!("table {TABLE} was not removed; the next drill does"))?;
    report.show(plan.json)
}

/// The cluster's name, typed: nobody types that by habit.
fn ask(configuration: &Configuration, before: &Before) -> Result<()> {
    crate::output::part(&format!(
        "{}\nType the cluster's name ({}) to go on: ",
        before.announcement, configuration.cluster
    ));
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    if line.trim() != configuration.cluster {
        bail!("that is not the cluster's name; nothing was done (scripts give --yes)");
    }
    Ok(())
}

/// The application on every data member.
fn targets(configuration: &Configuration) -> Result<Vec<Target>> {
    let tls = target::authority(configuration)?;
    let mut targets = Vec::new();
    let roster = roster::load(configuration)?;
    for (member, row) in &roster {
        if row.postgres.is_none() {
            continue;
        }
        targets.extend(Target::application(configuration, &roster, member, &tls)?);
    }
    if targets.is_empty() {
        bail!(
            "a drill writes as the application: give [bootstrap] role and password_file in the configuration"
        );
    }
    Ok(targets)
}

async fn start_writing(targets: Vec<Target>) -> Result<Writer> {
    // What an interrupted drill has left would be counted.
    let writer = Writer::start(targets.clone(), Through::Postgres, TABLE, WRITE_INTERVAL).await?;
    writer.remove().await?;
    Writer::start(targets, Through::Postgres, TABLE, WRITE_INTERVAL).await
}

async fn measure(
    configuration: &Configuration,
    plan: &Plan,
    before: &Before,
    writer: &Writer,
    fault: &mut Fault,
) -> Result<Report> {
    tokio::time::sleep(BASELINE).await;
    let errors_before = errors(writer);
    let at = mainstay_member::now();
    let mut asked = None;
    match plan.fault {
        _ if before.elsewhere => order(configuration, plan, before).await?,
        DrillFault::Cut => unreachable!("refused where it would be measured"),
        DrillFault::Kill => fault.kill(configuration, plan.scope, before)?,
        DrillFault::Freeze => fault.freeze(before)?,
        DrillFault::Switchover => {
            let control = Control::of(configuration);
            asked = Some(switchover::ask(&control, plan.member.clone()).await?);
        }
    }
    if !plan.json {
        println!("  0.00 s  {}", before.done);
    }
    match asked {
        Some(answer) => {
            switchover::wait(&answer, async || status(configuration).await).await?;
        }
        None if before.hits_primary => wait_noticed(configuration, before, writer, errors_before).await?,
        None => {}
    }
    let back = wait_back(writer, at).await?;
    fault.undo();
    if !plan.json {
        println!("{:>6.2} s  writes are acknowledged", back.since(at).as_secs_f64());
    }
    let whole = wait_whole(configuration, plan, before, at).await?;
    if let (Some(whole), false) = (whole, plan.json) {
        println!("{:>6.2} s  every standby streams and acknowledges", whole.as_secs_f64());
    }
    tokio::time::sleep(BASELINE).await;
    let checked = writer.check().await?;
    let status = status(configuration).await?;
    Ok(Report::new(configuration, plan, before, &status, at, writer, checked, whole))
}

/// The member of another machine is asked to do it there.
async fn order(configuration: &Configuration, plan: &Plan, before: &Before) -> Result<()> {
    let for_ms = u64::try_from(plan.length(configuration).as_millis()).unwrap_or(u64::MAX);
    let (fault, scope) = (plan.fault.as_str().to_owned(), plan.scope.as_str().to_owned());
    let control = Control::on(configuration, before.hit.as_ref());
    let _: DrillRequest = control.post("/v1/drill", &DrillRequest { fault, scope, for_ms }).await?;
    Ok(())
}

/// The hidden verb: what another machine has asked for. The checks are made again, by the one that is hit.
pub(crate) async fn hit(options: &HitOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config.config)?;
    let length = Duration::from_millis(options.for_ms);
    let (fault, scope) = (options.fault, options.scope);
    let member = Some(configuration.me.clone());
    let plan = Plan { fault, scope, member, goal: None, length: Some(length), json: true };
    let status = Control::of(&configuration).status().await?;
    let before = precheck::ordered(&configuration, &plan, &status)?;
    let addresses = match fault {
        DrillFault::Cut => cut::addresses(&configuration)?,
        _ => BTreeSet::new(),
    };
    println!("ready");
    tokio::time::sleep(ANSWERED).await;
    let mut hitting = Fault::default();
    match fault {
        DrillFault::Kill => hitting.kill(&configuration, scope, &before)?,
        DrillFault::Freeze => {
            hitting.freeze(&before)?;
            tokio::time::sleep(length).await;
        }
        DrillFault::Cut => tokio::task::spawn_blocking(move || cut::cut(&addresses, length)).await??,
        DrillFault::Switchover => bail!("a switchover is asked for with: mainstay switchover"),
    }
    hitting.undo();
    Ok(ExitCode::SUCCESS)
}

fn errors(writer: &Writer) -> u64 {
    let tally = writer.tally();
    tally.failed + tally.unknown
}

/// From this machine's member, else from another.
async fn status(configuration: &Configuration) -> Result<Status> {
    client::any_status(configuration).await
}

/// Waits until the writer has met the fault, or the cluster has acted on it. A server that is frozen serves those whom it
/// has let in until it is given up.
async fn wait_noticed(
    configuration: &Configuration,
    before: &Before,
    writer: &Writer,
    errors_before: u64,
) -> Result<()> {
    let begun = tokio::time::Instant::now();
    while errors(writer) == errors_before {
        if status(configuration).await.is_ok_and(|status| status.epoch > before.epoch) {
            return Ok(());
        }
        if begun.elapsed() > NOTICED_PATIENCE {
            bail!(
                "{} s later nobody has noticed; see why with: mainstay explain",
                NOTICED_PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// The first acknowledgement from now on.
async fn wait_back(writer: &Writer, at: Now) -> Result<Now> {
    let (begun, from) = (tokio::time::Instant::now(), mainstay_member::now().max(at));
    loop {
        let newest = writer.tally().acknowledged.values().copied().filter(|time| *time >= from).min();
        if let Some(newest) = newest {
            return Ok(newest);
        }
        if begun.elapsed() > BACK_PATIENCE {
            bail!(
                "writes did not come back within {} s; see why with: mainstay status",
                BACK_PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Until every data member streams and acknowledges again, also the one that was hit, as another server than before.
async fn wait_whole(
    configuration: &Configuration,
    plan: &Plan,
    before: &Before,
    at: Now,
) -> Result<Option<Duration>> {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < WHOLE_PATIENCE {
        if let Ok(status) = status(configuration).await {
            let hit = status.members.iter().find(|row| Some(&row.name) == before.hit.as_ref());
            let pid = hit.and_then(|row| row.postgres.as_ref()).and_then(|postgres| postgres.pid);
            // A standby that was frozen or cut off goes on as the same server.
            let passes = matches!(plan.fault, DrillFault::Freeze | DrillFault::Cut) && !before.hits_primary;
            let over = mainstay_member::now().since(at) > plan.length(configuration) + ANSWERED;
            let is_another = match plan.fault {
                DrillFault::Switchover => status.epoch > before.epoch,
                _ if passes => over || !before.elsewhere,
                _ => pid.is_some() && pid != before.pid,
            };
            if is_another && precheck::whole(&status).is_ok() {
                return Ok(Some(mainstay_member::now().since(at)));
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(None)
}
