//! `cargo xtask fuzz`: every parser of strangers' bytes, under a coverage-guided fuzzer.
//!
//! The fuzzer is LLVM's libFuzzer. Its marks are asked of the compiler by flags that the stable one takes too, so that neither
//! a nightly compiler nor cargo-fuzz is needed.

use crate::ci::Running;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// What the targets of `fuzz/src` are called there.
const TARGETS: &[&str] = &[
    "frames",
    "startup",
    "answers",
    "scram-server",
    "scram-client",
    "verifier",
    "sql-text",
    "options",
    "settings",
];

/// What cargo-fuzz passes, without a sanitizer: there is no unsafe code to be watched, and it would take a nightly compiler.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// With a triple of its own, cargo keeps the marks out of build scripts and of what runs while compiling.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// In CI, all targets together. Longer runs are for a person: `cargo xtask fuzz --seconds 3600`.
const CI_SECONDS: u64 = 18;

/// No message that these read is longer, but for rows, of which a short one shows the same.
const MOST_BYTES: u32 = 4096;

pub(crate) fn ci(workspace: &Workspace, running: &mut Running) -> Result<()> {
    running.run(&mut workspace.cargo(&["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]))?;
    all(workspace, running, CI_SECONDS, TARGETS)
}

/// `--seconds N` for all targets together, and the targets' names; all if none is named.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let (mut seconds, mut named) = (90, Vec::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            let value = arguments.next().context("--seconds wants a number; say `--seconds 60`")?;
            seconds = value.parse().with_context(|| format!("{value:?} is no number of seconds"))?;
        } else if let Some(target) = TARGETS.iter().find(|target| *target == argument) {
            named.push(*target);
        } else {
            bail!("there is no target `{argument}`; the targets are {}", TARGETS.join(", "));
        }
    }
    let limit = std::time::Duration::from_secs(seconds + 15 * 60);
    let named = if named.is_empty() { TARGETS } else { &named };
    all(workspace, &mut Running::new(limit), seconds, named)
}

fn all(workspace: &Workspace, running: &mut Running, seconds: u64, targets: &[&str]) -> Result<()> {
    let program = build(workspace, running)?;
    let each = (seconds / targets.len() as u64).max(1);
    let home = workspace.target.join("fuzz");
    for target in targets {
        let corpus = home.join("corpus").join(target);
        std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        let log_path = home.join(format!("{target}.log"));
        let log = std::fs::File::create(&log_path).context("cannot write the fuzzer's log")?;
        let mut command = Command::new(&program);
        command
            .current_dir(&home)
            .env("MAINSTAY_FUZZ_TARGET", target)
            .env("MAINSTAY_FUZZ_SEEDS", &corpus)
            .arg(format!("-max_total_time={each}"))
            .arg(format!("-max_len={MOST_BYTES}"))
            .args(["-timeout=5", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=1"])
            .arg(format!("-artifact_prefix={target}-"))
            .arg(&corpus);
        let outcome = running.run_into(&mut command, &log);
        let said = std::fs::read_to_string(&log_path).unwrap_or_default();
        outcome.with_context(|| {
            format!(
                "the fuzz target `{target}` has found something; it is named at the end of {}",
                log_path.display()
            )
        })?;
        println!(
            "fuzz: {target}: {} inputs in {each} s",
            stat(&said, "number_of_executed_units").unwrap_or("?")
        );
    }
    Ok(())
}

/// A line `stat::name: value` at the end of libFuzzer's log.
fn stat<'a>(log: &'a str, name: &str) -> Option<&'a str> {
    log.lines()
        .find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn build(workspace: &Workspace, running: &mut Running) -> Result<PathBuf> {
    let directory = workspace.target.join("fuzz/build");
    let arguments =
        ["--release", "--locked", "--quiet", "--manifest-path", "fuzz/Cargo.toml", "--target", TRIPLE];
    let mut command = workspace.cargo(&[&["build"][..], &arguments].concat());
    command.arg("--target-dir").arg(&directory).env("RUSTFLAGS", FLAGS);
    running.run(&mut command)?;
    Ok(directory.join(TRIPLE).join("release/mainstay-fuzz"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_target_is_refused() {
        let workspace = Workspace::find().unwrap();
        let error = run(&workspace, &["frame".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("`frame`") && error.contains("frames"), "{error}");
    }

    #[test]
    fn the_program_knows_the_same_targets() {
        let workspace = Workspace::find().unwrap();
        let files = workspace.files().unwrap();
        let sources: String = files
            .iter()
            .filter(|file| file.path.starts_with("fuzz/src/"))
            .map(|file| file.text.as_str())
            .collect();
        let names = sources.split("Target = Target {").skip(1).map(|rest| rest.split('"').nth(1).unwrap());
        assert_eq!(names.collect::<Vec<_>>(), TARGETS);
    }

    #[test]
    fn a_stat_is_read() {
        assert_eq!(stat("a\nstat::number_of_executed_units: 12\n", "number_of_executed_units"), Some("12"));
    }
}
