//! `uninstall`: takes the member off this machine. The data goes only when that is asked for, twice.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::cli::UninstallOptions;
use crate::client::Control;
use crate::commands::service;
use crate::configuration;
use crate::output::println;
use crate::setup::Ask;

/// What of the member's directory is not data.
const OURS: &[&str] = &[
    "consensus",
    "state",
    "guard",
    "sql-proxy",
    "vip",
    "postgresql",
    "tls",
    "log",
    "run",
    "control.sock",
    "replication.password",
    "app.password",
    "application.pgpass",
];

pub(crate) async fn run(options: &UninstallOptions) -> Result<ExitCode> {
    let config = &options.shared.config;
    let configuration = configuration::load(config)?;
    let ask = Ask::new(false);
    let me = &configuration.me;
    if let Ok(status) = Control::of(&configuration).status().await {
        let others = status.members.iter().any(|row| row.name != *me);
        let what =
            if others { "take it out of the cluster with `mainstay leave`, or stop it" } else { "stop it" };
        bail!("{me} runs; {what} first");
    }
    let data = &configuration.postgresql.data_directory;
    let left = mainstay_guard::leftovers(data).unwrap_or_default();
    if !left.is_empty() {
        bail!("PostgreSQL still runs in {} (process {}); stop the member first", data.display(), left[0]);
    }
    let proxy = mainstay_member::sql_proxy::lock_file(&configuration);
    if let Ok(Some(pid)) = mainstay_guard::Companion::pid_of(&proxy) {
        bail!("the SQL proxy of {me} still runs (process {pid}); stop the member first");
    }
    let question = format!("{me} is taken off this machine: keys, state and configuration are removed");
    if !ask.confirm(&question, me.as_str(), options.yes)? {
        bail!("nothing was changed");
    }
    let mut with_data = options.remove_data;
    if with_data {
        let question = format!("ALL DATA in {} is removed, for good", data.display());
        with_data = ask.confirm(&question, "remove", options.yes_remove_data)?;
        if !with_data {
            bail!("nothing was changed");
        }
    }
    // Not before: what is refused stops nothing.
    service::disable()?;
    for name in OURS {
        remove(&configuration.directory.join(name))?;
    }
    if with_data {
        remove(data)?;
        remove(&configuration.directory.join("diverged"))?;
        // Fails where something else lies in it, which then stays.
        let _ = std::fs::remove_dir(&configuration.directory);
    }
    remove(config)?;
    if options.shared.json {
        println!("{}", json!({ "member": me, "data_removed": with_data, "data": data }));
    } else if with_data {
        println!("{me} and its data are removed from this machine");
    } else {
        println!("{me} is removed from this machine; its data is left in {}", data.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(path: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}
