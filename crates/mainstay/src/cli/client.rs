//! Who may use the API from another machine.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::SharedByVerbs;

#[derive(Debug, Args)]
pub(crate) struct ClientOptions {
    #[command(flatten)]
    pub(crate) shared: SharedByVerbs,
    #[command(subcommand)]
    pub(crate) verb: ClientVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClientVerb {
    /// Show who may use the API from another machine
    #[command(after_help = "Example: mainstay client list --json")]
    List,
    /// Let somebody in, by a token or a certificate that is written into a file
    #[command(
        after_help = "Example: mainstay client add grafana --out grafana.token\n         mainstay client add deploy --certificate --out deploy\n         mainstay client add app1 --sql-proxy"
    )]
    Add {
        /// Under which name it is shown, and dismissed
        name: String,
        /// A key and a certificate of the cluster's CA, instead of a token: written to FILE.key and FILE.pem
        #[arg(long)]
        certificate: bool,
        /// For a SQL proxy on an application's machine: it learns where statements go and who may log in, and nothing else
        #[arg(long, conflicts_with = "certificate")]
        sql_proxy: bool,
        /// A new file for it, with mode 0600; by default NAME.token, or NAME.key and NAME.pem, or NAME.join, here
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Refuse somebody from now on
    #[command(after_help = "Example: mainstay client remove grafana")]
    Remove {
        /// As `client list` shows it
        name: String,
    },
}
