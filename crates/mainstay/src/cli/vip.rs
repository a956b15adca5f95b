//! `vip` and its verbs.

use clap::Subcommand;

use super::{ConfigOptions, SharedOptions};

#[derive(Debug, Subcommand)]
pub(crate) enum VipVerb {
    /// Which member has which virtual address, since when, and how long nobody had it when it moved last
    #[command(after_help = "Example: mainstay vip status")]
    Status(SharedOptions),
    /// The process that holds this machine's addresses; started by the member
    #[command(hide = true, after_help = "Example: mainstay vip hold --config /etc/mainstay/mainstay.toml")]
    Hold(ConfigOptions),
}
