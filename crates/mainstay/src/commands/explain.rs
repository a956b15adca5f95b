//! `explain`: why the member did what it did.

use std::process::ExitCode;

use anyhow::Result;
use mainstay_member::explain::Explanation;

use crate::cli::ExplainOptions;
use crate::client::Control;
use crate::configuration;
use crate::output::println;

pub(crate) async fn run(options: &ExplainOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config.config)?;
    let control = Control::on(&configuration, options.member.as_ref());
    let explanations: Vec<Explanation> = control.explain(options.last).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&explanations)?);
        return Ok(ExitCode::SUCCESS);
    }
    for explanation in &explanations {
        print_one(explanation);
    }
    Ok(ExitCode::SUCCESS)
}

/// One line per sentence, the first with the time of day (UTC) and the epoch.
pub(crate) fn print_one(explanation: &Explanation) {
    let day_ms = explanation.at_unix_ms % 86_400_000;
    let (hours, minutes) = (day_ms / 3_600_000, day_ms / 60_000 % 60);
    let (seconds, ms) = (day_ms / 1_000 % 60, day_ms % 1_000);
    let mut sentences = explanation.because.iter();
    let first = sentences.next().map_or("nothing to do", String::as_str);
    println!("{hours:02}:{minutes:02}:{seconds:02}.{ms:03} epoch {:>3}  {first}", explanation.epoch);
    for sentence in sentences {
        println!("{:24}{sentence}", "");
    }
}
