//! `run`: one member in the foreground.

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::RunOptions;
use crate::{configuration, logging};

pub(crate) async fn run(options: &RunOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config.config)?;
    logging::start(options.log_level, options.log_json)?;
    end_on_panic();
    mainstay_member::run(configuration).await?;
    Ok(ExitCode::SUCCESS)
}

/// A member of which one thread is gone would go on with the others, and take over no more. Its guard keeps the deadline, and
/// whoever supervises the member starts it anew.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
