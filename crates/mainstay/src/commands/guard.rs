//! The guard's process: no runtime, one thread.

use std::process::ExitCode;

use anyhow::Result;
use mainstay_guard::Options;

use crate::cli::GuardOptions;

pub(crate) fn run(options: &GuardOptions) -> Result<ExitCode> {
    mainstay_guard::run(Options::new(options.directory.clone(), options.data_directory.clone()))?;
    Ok(ExitCode::SUCCESS)
}
