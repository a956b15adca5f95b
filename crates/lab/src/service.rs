//! What an operator asks of the service manager, and what a package does when it is upgraded.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::cluster::Cluster;
use crate::process;
use crate::scenario::ServiceVerb;
use crate::supervisor::Supervisor;
use crate::{clock, interrupt};

const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// A stop may take the unit's TimeoutStopSec twice: once for the member, once for what it has left.
const STOP_PATIENCE: Duration = Duration::from_secs(70);
const UPGRADE_PATIENCE: Duration = Duration::from_secs(20);

/// Does it to one member, to its end.
pub fn perform(cluster: &Cluster, verb: ServiceVerb, name: &str) -> Result<()> {
    let member = cluster.member(name)?;
    let supervisor = member.supervisor.as_ref();
    let supervisor =
        supervisor.with_context(|| format!("{name} is not supervised; write `cluster N supervised`"))?;
    match verb {
        ServiceVerb::Stop => {
            supervisor.stop();
            wait(STOP_PATIENCE, &format!("the service of {name} is stopped"), || supervisor.seen().dead)
        }
        ServiceVerb::Upgrade => {
            member.install(&cluster.binary)?;
            if member.runs_what_is_installed() {
                bail!("{name} runs the new program before it was told to");
            }
            let before = supervisor.seen();
            let main = before.main.with_context(|| format!("{name} does not run"))?;
            process::signal([main], Signal::SIGUSR1)?;
            let is_up = || is_up_again(supervisor, before.ends.len());
            wait(UPGRADE_PATIENCE, &format!("the new program of {name} is ready"), is_up)?;
            if !member.runs_what_is_installed() {
                bail!("{name} still runs the old program");
            }
            Ok(())
        }
    }
}

/// Another process of the service is ready, after one end that counts as a success.
fn is_up_again(supervisor: &Supervisor, ends_before: usize) -> bool {
    let seen = supervisor.seen();
    let ended_well = seen.ends.get(ends_before).is_some_and(|end| end == "success");
    ended_well && seen.ready_at.is_some()
}

fn wait(patience: Duration, what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let deadline = clock::now().plus(patience);
    let found = interrupt::wait_until(deadline, LOOK_INTERVAL, || is_so().then_some(()))?;
    found.with_context(|| format!("not within {patience:?}: {what}"))
}
