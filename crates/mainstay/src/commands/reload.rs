//! `reload`: the member reads its own file again.

use std::process::ExitCode;

use anyhow::Result;
use mainstay_member::ReloadAnswer;

use crate::cli::ReloadOptions;
use crate::client::Control;
use crate::configuration;
use crate::output::println;

pub(crate) async fn run(options: &ReloadOptions) -> Result<ExitCode> {
    // A file that is broken is refused here already; the member says the same.
    let configuration = configuration::load(&options.shared.config)?;
    let control = Control::on(&configuration, options.member.as_ref());
    let answer: ReloadAnswer = control.post("/v1/reload", &()).await?;
    if options.shared.json {
        println!("{}", serde_json::to_string(&answer)?);
    } else {
        println!("{answer}");
    }
    Ok(ExitCode::SUCCESS)
}
