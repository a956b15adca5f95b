//! `cargo xtask ci`: every check and test, in one order, each with its time; the first failure ends it.

mod descendants;
mod namespaces;
mod running;

pub(crate) use running::Running;

use crate::workspace::Workspace;
use crate::{deny, fuzz, package, tidy};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// The longest that a whole run may take. CI that hangs tells nobody why. With the dependencies built it is a third of that; a
/// fresh clone builds them, and cargo-deny, first.
const LIMIT: Duration = Duration::from_secs(80 * 60);

struct Step {
    name: &'static str,
    /// What holds when it passed, in a few words.
    what: &'static str,
    action: Action,
}

enum Action {
    /// A call of cargo; its arguments hold no blanks.
    Cargo(&'static str),
    /// `cargo test`: at least one test must have run.
    Tests(&'static str),
    Call(fn(&Workspace, &mut Running) -> Result<()>),
}

/// In the order of their cost, except for the last.
///
/// - Cargo unifies features over the packages that are built together, and the simulation and the model check
///   switch on the core's `mutants`. So they never share a build with the binary. The tests build the very artefacts that
///   the binary needs, as long as no dependency of tests adds a feature to one of them.
/// - Clippy looks at the profile of the tests: what runs while compiling is built once then.
/// - A `Tests` step comes last, so that the output ends with the test runner's own words.
const STEPS: &[Step] = &[
    Step { name: "fmt", what: "formatted", action: Action::Cargo("fmt --all --check") },
    Step {
        name: "clippy",
        what: "no warning in any target",
        action: Action::Cargo("clippy --quiet --locked --release --workspace --all-targets -- -D warnings"),
    },
    Step { name: "tidy", what: "the house rules", action: Action::Call(|workspace, _| tidy::run(workspace)) },
    Step { name: "deny", what: "banned crates, licences, sources", action: Action::Call(deny::run) },
    Step { name: "fuzz", what: "parsers of strangers' bytes", action: Action::Call(fuzz::ci) },
    Step {
        name: "test",
        what: "every crate, with real PostgreSQL",
        action: Action::Tests(
            "test --locked --release --workspace --exclude mainstay-sim --exclude mainstay-model --exclude xtask",
        ),
    },
    Step {
        name: "build",
        what: "the programs, as shipped",
        action: Action::Call(|workspace, running| running.run(&mut workspace.build_programs())),
    },
    Step {
        name: "package",
        what: "Debian's package: installed, upgraded, removed, purged",
        action: Action::Call(package::check),
    },
    Step {
        name: "sim",
        what: "1,000 simulated clusters",
        action: Action::Cargo("run --quiet --locked --release -p mainstay-sim -- --seeds 1000"),
    },
    Step {
        name: "lab",
        what: "faults on real clusters in network namespaces",
        // What it claims of times is for a quiet machine; CI asks for half of that. Safety has no slack.
        action: Action::Call(|workspace, running| {
            running.run(workspace.program("mainstay-lab").args(["run", "--ci", "--slack", "2"]))
        }),
    },
    Step {
        name: "cells",
        what: "the SQL proxies' answers in a failover and a switchover",
        // The bar of 0.1 s is for a quiet machine, too. Safety has no slack.
        action: Action::Call(|workspace, running| {
            running.run(workspace.program("mainstay-lab").args(["cells", "--quick", "--slack", "10"]))
        }),
    },
    Step {
        name: "test-models",
        what: "the simulation, the model check, and these checks",
        action: Action::Tests("test --locked --release -p mainstay-sim -p mainstay-model -p xtask"),
    },
];

/// Runs all steps, or those `named`.
pub(crate) fn run(workspace: &Workspace, named: &[String]) -> Result<()> {
    if let Some(unknown) = named.iter().find(|name| STEPS.iter().all(|step| step.name != **name)) {
        let known: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        bail!("there is no step `{unknown}`; the steps are {}", known.join(", "));
    }
    let steps: Vec<&Step> =
        STEPS.iter().filter(|step| named.is_empty() || named.iter().any(|name| name == step.name)).collect();
    descendants::adopt().context("cannot become the parent of orphans")?;
    let mut running = Running::new(LIMIT);
    let mut times = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let is_last = index + 1 == steps.len();
        if is_last && !times.is_empty() {
            println!("\n{}", summary(&times, running.passed()));
        }
        println!("\n==> [{}/{}] {}: {}", index + 1, steps.len(), step.name, step.what);
        let begin = Instant::now();
        perform(step, workspace, &mut running).with_context(|| {
            let time = seconds(begin.elapsed());
            format!("step `{0}` failed after {time} (alone: cargo xtask ci {0})", step.name)
        })?;
        times.push((step.name, begin.elapsed()));
        if !(is_last && matches!(step.action, Action::Tests(_))) {
            println!("    {}: ok in {}", step.name, seconds(begin.elapsed()));
        }
    }
    Ok(())
}

/// One step, and nothing left behind by it.
fn perform(step: &Step, workspace: &Workspace, running: &mut Running) -> Result<()> {
    let before = namespaces::all()?;
    let passed = running.passed();
    let outcome = match step.action {
        Action::Call(function) => function(workspace, running),
        Action::Cargo(line) => running.run(&mut workspace.cargo(&words(line))),
        // Two: a test with PostgreSQL is several busy processes already, and CI has two cores.
        Action::Tests(line) => {
            running.run(workspace.cargo(&words(line)).env("RUST_TEST_THREADS", "2")).and_then(|()| {
                anyhow::ensure!(running.passed() > passed, "not one test ran");
                Ok(())
            })
        }
    };
    let processes = descendants::end_leftovers();
    let namespaces = namespaces::all()?.into_iter().filter(|name| !before.contains(name));
    let left: Vec<String> = processes.into_iter().chain(namespaces).collect();
    // The first cause is what a reader needs; what lies about after a failure may just follow from it.
    outcome?;
    anyhow::ensure!(left.is_empty(), "left behind: {}; the test that made it must end it", left.join(", "));
    Ok(())
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

fn summary(times: &[(&str, Duration)], passed: usize) -> String {
    let total = times.iter().map(|(_, time)| *time).sum();
    let each: Vec<String> = times.iter().map(|(name, time)| format!("{name} {}", seconds(*time))).collect();
    format!(
        "ci: steps ok: {}, tests passed: {passed}, in {}: {}",
        times.len(),
        seconds(total),
        each.join(", ")
    )
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_is_one_of_tests() {
        assert!(matches!(STEPS.last().map(|step| &step.action), Some(Action::Tests(_))));
    }

    #[test]
    fn a_step_that_does_not_exist_is_refused() {
        let workspace = Workspace::find().unwrap();
        let error = run(&workspace, &["clipy".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("`clipy`") && error.contains("clippy"), "{error}");
    }

    #[test]
    fn the_summary_names_each_step() {
        let times = [("fmt", Duration::from_millis(1500)), ("tidy", Duration::from_millis(500))];
        assert_eq!(summary(&times, 7), "ci: steps ok: 2, tests passed: 7, in 2.0 s: fmt 1.5 s, tidy 0.5 s");
    }
}
