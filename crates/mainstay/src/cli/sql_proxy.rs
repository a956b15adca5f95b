//! A SQL proxy.

use std::path::PathBuf;

use clap::Args;

use super::ConfigOptions;

#[derive(Debug, Args)]
pub(crate) struct SqlProxyOptions {
    #[command(flatten)]
    pub(crate) shared: ConfigOptions,
    /// Belong to the cluster of this word from now on, and serve: what `mainstay client add NAME --sql-proxy` has written; `-` reads it
    #[arg(long, value_name = "TOKEN@HOST:PORT")]
    pub(crate) join: Option<String>,
    /// Serve without a member on this machine, as joined before
    #[arg(long, conflicts_with = "join")]
    pub(crate) alone: bool,
    /// Where such a proxy keeps what it knows of the cluster, and its settings
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/mainstay-sql-proxy")]
    pub(crate) directory: PathBuf,
    /// Who it becomes, if root has started it
    #[arg(long, value_name = "NAME", default_value = "nobody")]
    pub(crate) user: String,
    /// Join only
    #[arg(long, requires = "join")]
    pub(crate) no_start: bool,
}
