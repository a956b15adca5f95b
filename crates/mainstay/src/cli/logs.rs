//! The options of `logs` and `support`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mainstay_core::MemberId;

use super::{ConfigOptions, SharedOptions};
use crate::commands::logs::MOST_ENTRIES;
use crate::configuration::length_of_time;

#[derive(Debug, Args)]
pub(crate) struct LogsOptions {
    #[command(flatten)]
    pub(crate) config: ConfigOptions,
    /// Only what this member has logged
    #[arg(value_name = "MEMBER")]
    pub(crate) member: Option<MemberId>,
    /// Go on showing what is logged
    #[arg(long)]
    pub(crate) follow: bool,
    /// Nothing older: `90s`, `10m` or `2h`
    #[arg(long, value_name = "TIME", value_parser = length_of_time)]
    pub(crate) since: Option<Duration>,
    /// How many entries at most, the newest; without it 100, or with --since all that are kept
    #[arg(long, value_name = "N", value_parser = entries)]
    pub(crate) last: Option<usize>,
    /// Print one JSON object per entry
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SupportOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// The file; without it one in the current directory, named by cluster, member and time
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

fn entries(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MOST_ENTRIES).contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is no number from 1 to {MOST_ENTRIES}")),
    }
}
