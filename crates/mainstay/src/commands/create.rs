//! `create`: the one explicit act that makes a new member.

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::ConfigOptions;
use crate::configuration;
use crate::output::println;

pub(crate) async fn run(options: &ConfigOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config)?;
    mainstay_member::create(&configuration).await?;
    println!(
        "{} is ready; start it with: mainstay run --config {}",
        configuration.me,
        options.config.display()
    );
    Ok(ExitCode::SUCCESS)
}
