//! `psql`: a shell on the primary, with the credentials of this machine.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::cli::PsqlOptions;
use crate::{client, configuration};

pub(crate) async fn run(options: &PsqlOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config.config)?;
    let status = client::any_status(&configuration).await?;
    client::check_majority(&status)?;
    if !status.writable {
        bail!("there is no primary to connect to: {}; see: mainstay status", status.reason);
    }
    exec(&status.endpoints.rw, configuration.bootstrap.password.as_deref(), &options.arguments)
}

/// Becomes psql; returns only if that fails. Other members tell a URL without the password.
pub(crate) fn exec(url: &str, password: Option<&str>, arguments: &[String]) -> Result<ExitCode> {
    let mut command = Command::new("psql");
    command.arg(url).args(arguments);
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    Err(command.exec()).context("cannot run psql; install PostgreSQL's client package")
}
