//! One change: judged, shown, asked about, made.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

use anyhow::{Result, bail};
use mainstay_core::record::ParameterSet;
use mainstay_member::Configuration;
use mainstay_member::control::{ConfigAnswer, ConfigChange, ConfigChanged};

use super::text;
use crate::cli::ChangeOptions;
use crate::client::Control;
use crate::commands::restart;
use crate::output::{part, println};

pub(super) async fn change(
    configuration: &Configuration,
    before: &ConfigAnswer,
    set: ParameterSet,
    options: &ChangeOptions,
) -> Result<ExitCode> {
    let control = Control::of(configuration);
    let diff = text::difference(&before.set, &set);
    if diff.is_empty() {
        if options.json {
            println!("{}", serde_json::json!({ "serial": before.serial, "changed": [] }));
        } else {
            println!("nothing to change: that is how it is configured");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut request = ConfigChange { serial: before.serial, set, check_only: true };
    let judged: ConfigChanged = control.post("/v1/config", &request).await?;
    if !options.json {
        show(&diff, &judged);
    }
    if !options.yes && !asked(options)? {
        println!("nothing was changed");
        return Ok(ExitCode::FAILURE);
    }
    request.check_only = false;
    let changed: ConfigChanged = control.post("/v1/config", &request).await?;
    let restarts = options.restart && !changed.judged.restart.is_empty();
    if options.json {
        println!(
            "{}",
            serde_json::json!({ "serial": changed.serial, "changed": diff, "restart": changed.judged.restart,
            "plan": changed.judged.plan, "notes": changed.judged.notes })
        );
    } else {
        println!("changed: configuration {}", changed.serial);
        if !changed.judged.restart.is_empty() && !restarts {
            println!("to carry out the restart: mainstay restart --pending");
        }
    }
    if restarts { restart::pending(configuration, options.json).await } else { Ok(ExitCode::SUCCESS) }
}

fn show(diff: &[String], changed: &ConfigChanged) {
    for line in diff {
        println!("{line}");
    }
    let judged = &changed.judged;
    if !judged.restart.is_empty() {
        println!("takes a restart of PostgreSQL: {}", judged.restart.join(", "));
    }
    for line in judged.plan.iter().chain(&judged.notes) {
        println!("  {line}");
    }
}

fn asked(options: &ChangeOptions) -> Result<bool> {
    let stdin = std::io::stdin();
    if options.json || !stdin.is_terminal() {
        bail!("nobody can be asked here: look at the change with `mainstay config show`, and say --yes");
    }
    part("Make this change? [y/N] ");
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
