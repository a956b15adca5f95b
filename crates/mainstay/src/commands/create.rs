//! `create`: the one explicit act that makes a new member.

use std::process::ExitCode;

use anyhow::{Result, bail};
use mainstay_core::record::Kind;

use crate::cli::CreateOptions;
use crate::commands::adopt;
use crate::configuration;
use crate::output::println;

pub(crate) async fn run(options: &CreateOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config.config)?;
    if configuration.members.values().all(|row| row.kind == Kind::Witness) {
        bail!("no member is of kind \"data\"; a witness alone is no cluster: let it join one");
    }
    if options.adopt {
        adopt::adopt(&configuration, options.yes, options.json).await?;
    }
    mainstay_member::create(&configuration).await?;
    if !options.json {
        println!(
            "{} is ready; start it with: mainstay run --config {}",
            configuration.me,
            options.config.config.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}
