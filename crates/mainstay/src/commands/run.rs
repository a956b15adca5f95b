//! `run`: one member in the foreground.

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::RunOptions;
use crate::{configuration, logging};

pub(crate) async fn run(options: &RunOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config.config)?;
    logging::start(options.log_level, options.log_json)?;
    mainstay_member::run(configuration).await?;
    Ok(ExitCode::SUCCESS)
}
