//! The project's own commands: `cargo xtask ci` is what CI runs, `cargo xtask fix` is its mutating twin.
//!
//! Nothing of Mainstay is linked in, so that this builds in seconds; what needs a crate of the workspace runs as a
//! program of its own.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its caller")]

mod ci;
mod deny;
mod fuzz;
mod package;
mod tidy;
mod workspace;

use anyhow::{Context, Result, bail};
use std::process::{Command, ExitCode};
use workspace::{Workspace, shown};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  ci [STEP...]   all checks and tests, or only the steps named; changes no file outside target/
  fix            format, and apply what clippy can repair by itself
  tidy           the house rules that no compiler knows (STYLE.md)
  fuzz [...]     parsers of strangers' bytes under a fuzzer, e.g. --seconds 600 sql-text
  compat DRIVER  a driver's own test suite, directly and through the SQL proxy (docs/compatibility.md)
  sim [...]      the seeded simulation, e.g. --seeds 100, or --seed 7 --trace
  lab [...]      faults on real clusters in network namespaces (root), e.g. --only postmaster-killed
  cells [...]    every fault with every form of the protocol through the SQL proxies (root), e.g. --form pipelined
  bench [...]    measurements on real clusters: failover, idle, sql, starve
  package [...]  Debian's package, in target/package; --fast --binary PATH for one to try";

/// Commands that are programs of the workspace, with their first argument, run with whatever arguments follow.
const PROGRAMS: &[(&str, &str, Option<&str>)] = &[
    ("sim", "mainstay-sim", None),
    ("lab", "mainstay-lab", Some("run")),
    ("cells", "mainstay-lab", Some("cells")),
    ("bench", "mainstay-lab", Some("bench")),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((command, rest)) = arguments.split_first() else { bail!("which command?\n{USAGE}") };
    if matches!(command.as_str(), "help" | "--help" | "-h") {
        println!("{USAGE}");
        return Ok(());
    }
    let workspace = Workspace::find()?;
    if let Some((_, package, first)) = PROGRAMS.iter().find(|(name, _, _)| name == command) {
        if *package == "mainstay-lab" {
            finish(workspace.build_programs().arg("--quiet"))?;
            return finish(workspace.program(package).args(first).args(rest));
        }
        let mut program = workspace.cargo(&["run", "--release", "--locked", "--quiet", "--package", package]);
        return finish(program.arg("--").args(first).args(rest));
    }
    match command.as_str() {
        "ci" => ci::run(&workspace, rest),
        "package" => package::run(&workspace, rest),
        "compat" => finish(Command::new("scripts/compat").current_dir(&workspace.root).args(rest)),
        "fuzz" => fuzz::run(&workspace, rest),
        "fix" => fix(&workspace),
        "tidy" => tidy::run(&workspace),
        other => bail!("there is no command `{other}`\n{USAGE}"),
    }
}

fn fix(workspace: &Workspace) -> Result<()> {
    finish(&mut workspace.cargo(&["fmt", "--all"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"];
    finish(&mut workspace.cargo(&clippy))
}

/// Runs a command with the caller's own terminal and insists on its success.
fn finish(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", shown(command));
    }
    Ok(())
}
