//! A cluster as an operator makes it: `init` on the first machine, `join` with a printed token on each further one, and `run` on
//! each, all in their own namespaces. What is typed is counted.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mainstay_core::Now;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::{clock, interrupt};

/// initdb and the first opening, on a busy machine.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How a cluster was made.
#[derive(Debug)]
pub struct Founding {
    pub begun: Now,
    /// How many lines have been typed. Under systemd `--start` saves every second one.
    pub commands: u32,
    /// How many members there are to be.
    pub members: usize,
    /// For the next machines.
    tokens: Vec<String>,
}

/// Makes the first member, and lets the plan's others join one after the other.
pub fn found(cluster: &mut Cluster) -> Result<()> {
    let begun = clock::now();
    let names: Vec<String> = cluster.members.iter().map(|member| member.name().to_owned()).collect();
    let (first, others) = names.split_first().context("a cluster has a first member")?;
    let made = init(cluster, first)?;
    let texts = made["tokens"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let tokens = texts.rev().map(str::to_owned).collect();
    cluster.founding = Some(Founding { begun, commands: 1, members: 1, tokens });
    run(cluster, first)?;
    let deadline = clock::now().plus(OPEN_PATIENCE);
    interrupt::wait_until(deadline, LOOK_INTERVAL, || cluster.primary().map(|_| ()))?
        .with_context(|| format!("{first} is not open within {OPEN_PATIENCE:?}"))?;
    for name in others.iter().take(usize::from(cluster.plan.data_members - 1)) {
        let token = next_token(cluster)?;
        join(cluster, name, &token)?;
    }
    Ok(())
}

fn init(cluster: &Cluster, name: &str) -> Result<Value> {
    let site = &cluster.member(name)?.site;
    let network = cluster.network.index().network();
    let (cluster_name, address) = (cluster.name(), site.address.to_string());
    let directory = site.directory.display().to_string();
    let words = ["init", "--yes", "--json", "--cluster", &cluster_name, "--member", name];
    let places = ["--address", &address, "--directory", &directory, "--allow", &network];
    let answer = cluster.command(name, &[&words[..], &places].concat())?;
    // The lab's clients know no TLS, and are not asked for a password.
    let file = site.configuration_file();
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let let_in = text.replacen("hba = [", &format!("hba = [\"host all all {network} trust\", "), 1);
    ensure!(let_in != text, "{} has no line of pg_hba.conf", file.display());
    fs::write(&file, let_in).with_context(|| format!("cannot write {}", file.display()))?;
    serde_json::from_str(&answer).context("init answers another form")
}

/// A token that `init` has printed and nobody has used yet.
pub fn next_token(cluster: &Cluster) -> Result<String> {
    let founding = cluster.founding.as_ref().context("only a cluster that is `founded` has tokens")?;
    founding.tokens.last().cloned().context("no token is left; `init` has printed two")
}

/// What is typed on a new machine: the token is used up only if it gets in.
pub fn join(cluster: &mut Cluster, name: &str, token: &str) -> Result<()> {
    let directory = cluster.member(name)?.site.directory.display().to_string();
    typed(cluster);
    cluster.command(name, &["join", token, "--member", name, "--directory", &directory, "--json"])?;
    if let Some(founding) = &mut cluster.founding {
        founding.tokens.retain(|open| open != token);
        founding.members += 1;
    }
    run(cluster, name)
}

/// The dead member's place is another machine's: one command on any member, and a join.
pub fn replace(cluster: &mut Cluster, old: &str, new: &str) -> Result<()> {
    let through = cluster.primary().context("there is no primary to ask")?.name().to_owned();
    typed(cluster);
    let answer = cluster.command(&through, &["member", "replace", old, "--json"])?;
    let answer: Value = serde_json::from_str(&answer).context("member replace answers another form")?;
    let token = answer["join"].as_str().context("member replace has printed no token")?.to_owned();
    join(cluster, new, &token)?;
    if let Some(founding) = &mut cluster.founding {
        founding.members -= 1;
    }
    Ok(())
}

fn run(cluster: &mut Cluster, name: &str) -> Result<()> {
    typed(cluster);
    cluster.start_member(name)
}

fn typed(cluster: &mut Cluster) {
    if let Some(founding) = &mut cluster.founding {
        founding.commands += 1;
    }
}
