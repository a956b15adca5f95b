//! `psql`: a shell on the primary, with the credentials of this machine.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cli::PsqlOptions;
use crate::{client, configuration};

pub(crate) async fn run(options: &PsqlOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config.config)?;
    let status = client::any_status(&configuration).await?;
    client::check_majority(&status)?;
    if status.primary.is_none() {
        anyhow::bail!("there is no primary to connect to: {}; see: mainstay status", status.reason);
    }
    exec(&status.endpoints.rw, &options.arguments)
}

/// Becomes psql; returns only if that fails.
pub(crate) fn exec(url: &str, arguments: &[String]) -> Result<ExitCode> {
    let error = Command::new("psql").arg(url).args(arguments).exec();
    Err(error).context("cannot run psql; install PostgreSQL's client package")
}
