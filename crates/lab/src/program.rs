//! Calling the system's programs, with errors that say what was called and what it said.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Where Debian keeps `ip`, `mkfs.xfs` and their like; not every caller's PATH has it.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", PATH).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

/// Runs a program to its end; answers what it printed.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    finish(command(program, arguments), program, arguments, "")
}

/// The same with a text on its standard input.
pub fn feed(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = command(program, arguments);
    command.stdin(Stdio::piped());
    finish(command, program, arguments, input)
}

/// Runs a program whose failure does not matter: clearing away what may not be there.
pub fn try_run(program: &str, arguments: &[&str]) -> bool {
    let mut command = command(program, arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn finish(mut command: Command, program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let shown = || format!("{program} {}", arguments.join(" "));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run `{}`; is it installed?", shown()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("cannot write to `{}`", shown()))?;
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for `{}`", shown()))?;
    if !output.status.success() {
        // A check that fails says so on its standard output.
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        let said = String::from_utf8_lossy(said);
        bail!("`{}` failed ({}): {}{}", shown(), output.status, said.trim(), first_line(input));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What was fed, for an error message.
fn first_line(input: &str) -> String {
    input.lines().next().map(|line| format!(" (given: {line} …)")).unwrap_or_default()
}
