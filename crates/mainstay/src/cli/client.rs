//! Who may use the API from another machine.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct ClientOptions {
    /// The configuration file of a member on this machine
    #[arg(
        long,
        env = "MAINSTAY_CONFIG",
        default_value = "/etc/mainstay/mainstay.toml",
        value_name = "FILE",
        global = true
    )]
    pub(crate) config: PathBuf,
    #[command(subcommand)]
    pub(crate) verb: ClientVerb,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClientVerb {
    /// Show who may use the API from another machine
    #[command(after_help = "Example: mainstay client list --json")]
    List,
    /// Let somebody in, by a token or a certificate that is written into a file
    #[command(
        after_help = "Example: mainstay client add grafana --out grafana.token\n         mainstay client add deploy --certificate --out deploy"
    )]
    Add {
        /// Under which name it is shown, and dismissed
        name: String,
        /// A key and a certificate of the cluster's CA, instead of a token: written to FILE.key and FILE.pem
        #[arg(long)]
        certificate: bool,
        /// A new file for it, with mode 0600; by default NAME.token, or NAME.key and NAME.pem, here
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
