//! `completions`: what a shell needs to complete this command line.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::cli::{Cli, CompletionsOptions};

pub(crate) fn run(options: &CompletionsOptions) -> Result<ExitCode> {
    // Into memory first: the generators give up hard on a pipe that is closed.
    let mut text = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "mainstay", &mut text);
    let text = String::from_utf8(text).context("the completions are not UTF-8")?;
    crate::output::part(&text);
    Ok(ExitCode::SUCCESS)
}
