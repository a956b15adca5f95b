//! The service that runs the member, where systemd is there to run it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

const UNIT: &str = "mainstay.service";
/// What the unit runs the member with.
const UNIT_CONFIGURATION: &str = "/etc/mainstay/mainstay.toml";

/// Whether systemd runs this machine (sd_booted(3)).
fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Fails if the service is to be started, and cannot be.
pub(crate) fn check_start(wanted: bool, config: &Path) -> Result<()> {
    if !wanted {
        return Ok(());
    }
    if !has_systemd() {
        bail!("systemd does not run this machine; start the member with: {}", how_to_start(config));
    }
    if config != Path::new(UNIT_CONFIGURATION) {
        bail!("the service reads {UNIT_CONFIGURATION}; start the member with: {}", how_to_start(config));
    }
    Ok(())
}

/// Enables and starts the service, if that was asked for. Answers whether it was started.
pub(crate) fn start_if_wanted(wanted: bool, config: &Path) -> Result<bool> {
    if wanted {
        check_start(wanted, config)?;
        systemctl(&["enable", "--now", UNIT])?;
    }
    Ok(wanted)
}

/// Stops the service and keeps it from starting again, where there is one.
pub(crate) fn disable() -> Result<bool> {
    if !has_systemd() || !Path::new(UNIT_CONFIGURATION).exists() {
        return Ok(false);
    }
    systemctl(&["disable", "--now", UNIT])?;
    Ok(true)
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("systemctl")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot run systemctl")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("systemctl {} failed: {}", arguments.join(" "), said.lines().next().unwrap_or_default());
    }
    Ok(())
}

/// What an operator types.
pub(crate) fn how_to_start(config: &Path) -> String {
    if has_systemd() && config == Path::new(UNIT_CONFIGURATION) {
        return "systemctl enable --now mainstay".to_owned();
    }
    format!("mainstay run --config {}", config.display())
}
