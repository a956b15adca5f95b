//! `sql` and its verbs.

use clap::{Args, Subcommand};
use mainstay_core::MemberId;

use super::SharedOptions;

#[derive(Debug, Subcommand)]
pub(crate) enum SqlVerb {
    /// Who is connected, who waits, how fast it goes, and whether writes are held
    #[command(after_help = "Example: mainstay sql status --member m2")]
    Status(SqlStatusOptions),
    /// Let the servers go as their transactions end, and new work wait; gives up after 10 s
    #[command(after_help = "Example: mainstay sql pause app")]
    Pause(SqlOrderOptions),
    /// Go on
    #[command(after_help = "Example: mainstay sql resume app")]
    Resume(SqlOrderOptions),
    /// Open all server connections anew, each when its transaction has ended
    #[command(after_help = "Example: mainstay sql reconnect")]
    Reconnect(SqlOrderOptions),
}

#[derive(Debug, Args)]
pub(crate) struct SqlStatusOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// Whose proxy, by default this machine's
    #[arg(long, value_name = "MEMBER")]
    pub(crate) member: Option<MemberId>,
}

#[derive(Debug, Args)]
pub(crate) struct SqlOrderOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// Whose proxy, by default this machine's
    #[arg(long, value_name = "MEMBER")]
    pub(crate) member: Option<MemberId>,
    /// A database, `NAME@ro` for its readers alone; by default all
    pub(crate) database: Option<String>,
}
