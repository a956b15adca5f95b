//! Playing many scenarios: equal ones share a cluster while it is healthy, and each has one line of outcome.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::cluster::Cluster;
use crate::network::{self, Index};
use crate::scenario::{Scenario, parse, play};
use crate::{clock, disk, failure, interrupt};

/// CI that hangs tells nobody why.
const CI_LIMIT: Duration = Duration::from_secs(600);
/// A cluster that is shared must be whole before the next story.
const WHOLE_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Options {
    pub index: Index,
    pub binary: PathBuf,
    /// Names, or beginnings of names; none: all.
    pub only: Vec<String>,
    pub ci: bool,
    /// Leave the cluster of a failure, or the last one, running.
    pub keep: bool,
    pub slack: f64,
    /// A JSON line for each scenario.
    pub out: Option<PathBuf>,
}

/// What became of one scenario.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Passed { figures: Vec<String> },
    Failed { why: String },
    Skipped { why: String },
}

/// The scenarios of the lab, by name.
pub fn all() -> Result<Vec<Scenario>> {
    read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios")))
}

/// Those of any directory.
pub fn read(directory: &Path) -> Result<Vec<Scenario>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "scenario"));
    paths.sort();
    paths.iter().map(|path| Ok(parse::read(path)?)).collect()
}

/// Plays what `options` choose; fails if one failed, or in CI if one was skipped that could have been played.
pub fn run(options: &Options) -> Result<()> {
    let scenarios = chosen(all()?, options)?;
    if let Err(error) = network::possible() {
        println!("skipped: {} scenarios: {error:#}", scenarios.len());
        return Ok(());
    }
    let begun = clock::now();
    let mut cluster = None;
    let (mut failed, mut skipped) = (0, 0);
    for scenario in &scenarios {
        interrupt::check()?;
        if options.ci && clock::now().since(begun) > CI_LIMIT {
            bail!("not done within {CI_LIMIT:?}; the next would be {}", scenario.name);
        }
        let started = clock::now();
        let outcome = one(&mut cluster, scenario, options);
        interrupt::check()?;
        match &outcome {
            Outcome::Passed { .. } => {}
            Outcome::Failed { .. } => failed += 1,
            Outcome::Skipped { .. } => skipped += 1,
        }
        tell(scenario, &outcome, clock::now().since(started), options)?;
        if failed > 0 && options.keep {
            bail!("{} failed, and its cluster is kept", scenario.name);
        }
    }
    if let Some(cluster) = &mut cluster {
        cluster.keep = options.keep;
    }
    drop(cluster);
    let passed = scenarios.len() - failed - skipped;
    println!(
        "lab: {passed} passed, {failed} failed, {skipped} skipped, in {:.0} s",
        clock::now().since(begun).as_secs_f64()
    );
    if failed > 0 {
        bail!("{failed} scenarios failed; logs and decisions are in {}", failure::directory().display());
    }
    if options.ci && skipped > 0 {
        bail!("{skipped} scenarios were skipped, although this machine has network namespaces");
    }
    Ok(())
}

/// Those asked for, equal clusters together.
fn chosen(all: Vec<Scenario>, options: &Options) -> Result<Vec<Scenario>> {
    for name in &options.only {
        if !all.iter().any(|scenario| scenario.name.starts_with(name.as_str())) {
            let known: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
            bail!("there is no scenario {name}; there are {}", known.join(", "));
        }
    }
    let is_chosen = |scenario: &Scenario| {
        let named = options.only.iter().any(|name| scenario.name.starts_with(name.as_str()));
        (options.only.is_empty() || named) && (!options.ci || scenario.in_ci)
    };
    let mut groups: Vec<Vec<Scenario>> = Vec::new();
    for scenario in all.into_iter().filter(is_chosen) {
        match groups.iter_mut().find(|group| group[0].plan == scenario.plan) {
            Some(group) => group.push(scenario),
            None => groups.push(vec![scenario]),
        }
    }
    Ok(groups.into_iter().flatten().collect())
}

fn one(cluster: &mut Option<Cluster>, scenario: &Scenario, options: &Options) -> Outcome {
    if scenario.plan.disk_mib.is_some()
        && let Err(error) = disk::possible()
    {
        return Outcome::Skipped { why: format!("{error:#}") };
    }
    let reusable = cluster.as_ref().is_some_and(|cluster| {
        cluster.plan == scenario.plan
            // A founding is a story of its own.
            && !scenario.plan.founded
            && cluster.outstanding.is_empty()
            && cluster.wait_whole(WHOLE_PATIENCE).is_ok()
    });
    if !reusable {
        // The old one goes first: both have the same names.
        *cluster = None;
        match Cluster::create(options.index, &options.binary, &scenario.plan) {
            Ok(created) => *cluster = Some(created),
            Err(error) => return Outcome::Failed { why: format!("{error:#}") },
        }
    }
    let Some(present) = cluster else { return Outcome::Failed { why: "there is no cluster".to_owned() } };
    match play::play(present, scenario, options.slack) {
        Ok(figures) => Outcome::Passed { figures },
        Err(broken) => {
            if interrupt::check().is_ok() {
                eprintln!("\n=== {}: {broken}", scenario.name);
                let kept = failure::keep(present, &scenario.name).and_then(|place| {
                    fs::write(place.join("client.txt"), &broken.client)?;
                    Ok(place)
                });
                match kept {
                    Ok(place) => eprintln!("=== everything is in {}\n", place.display()),
                    Err(error) => eprintln!("=== {error:#}\n"),
                }
            }
            present.keep = options.keep;
            *cluster = None;
            Outcome::Failed { why: broken.to_string() }
        }
    }
}

fn tell(scenario: &Scenario, outcome: &Outcome, took: Duration, options: &Options) -> Result<()> {
    let (word, text) = match outcome {
        Outcome::Passed { figures } => ("ok", figures.join(", ")),
        Outcome::Failed { why } => ("FAILED", why.clone()),
        Outcome::Skipped { why } => ("skipped", why.clone()),
    };
    println!("{word:<7} {:<28} {:>6.1} s  {text}", scenario.name, took.as_secs_f64());
    let Some(path) = &options.out else { return Ok(()) };
    let figures = match outcome {
        Outcome::Passed { figures } => figures.clone(),
        _ => Vec::new(),
    };
    let line = json!({
        "scenario": scenario.name,
        "outcome": word.to_lowercase(),
        "seconds": took.as_secs_f64(),
        "figures": figures,
        "error": match outcome { Outcome::Passed { .. } => None, _ => Some(text) },
    });
    append(path, &line)
}

/// Adds a JSON line to a file.
pub fn append(path: &Path, line: &serde_json::Value) -> Result<()> {
    let file = fs::OpenOptions::new().create(true).append(true).open(path);
    let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{line}").with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shipped is understood, and CI plays some of it.
    #[test]
    fn every_scenario_of_the_lab_can_be_read() {
        let all = all().expect("they are well written");
        assert!(all.len() >= 20, "{} scenarios", all.len());
        assert!(all.iter().any(|scenario| scenario.in_ci));
        for scenario in &all {
            let lines = fs::read_to_string(&scenario.path).unwrap().lines().count();
            assert!(lines <= 30, "{} has {lines} lines; a story has at most 30", scenario.path);
        }
    }

    #[test]
    fn scenarios_are_chosen_by_name_and_grouped_by_cluster() {
        let scenario = |name: &str, members: u8| {
            let text = format!("# Why.\ncluster {members}\nexpect lost 0, duplicated 0\n");
            parse::parse(name, name, &text).unwrap()
        };
        let all = || vec![scenario("a", 3), scenario("b", 5), scenario("ab", 3)];
        let options = |only: &[&str]| Options {
            index: Index::new(0).unwrap(),
            binary: PathBuf::new(),
            only: only.iter().map(|name| (*name).to_owned()).collect(),
            ci: false,
            keep: false,
            slack: 1.0,
            out: None,
        };
        let names = |options: &Options| {
            let chosen = chosen(all(), options).unwrap();
            chosen.into_iter().map(|scenario| scenario.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&options(&[])), ["a", "ab", "b"]);
        assert_eq!(names(&options(&["b"])), ["b"]);
        let error = chosen(all(), &options(&["x"])).unwrap_err().to_string();
        assert!(error.contains("there are a, b, ab"), "{error}");
    }
}
