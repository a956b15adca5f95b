//! The options that most verbs have.

use std::path::PathBuf;

use clap::Args;

#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigOptions {
    /// The configuration file of a member on this machine
    #[arg(long, env = "MAINSTAY_CONFIG", default_value = "/etc/mainstay/mainstay.toml", value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// What almost every verb takes.
#[derive(Debug, Args)]
pub(crate) struct SharedOptions {
    /// The configuration file of a member on this machine
    #[arg(long, env = "MAINSTAY_CONFIG", default_value = "/etc/mainstay/mainstay.toml", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The same for a verb that has verbs of its own: before or behind those.
#[derive(Debug, Args)]
pub(crate) struct SharedByVerbs {
    /// The configuration file of a member on this machine
    #[arg(
        long,
        env = "MAINSTAY_CONFIG",
        default_value = "/etc/mainstay/mainstay.toml",
        value_name = "FILE",
        global = true
    )]
    pub(crate) config: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}
