//! The options of `config`, `restart` and `reload`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use mainstay_core::MemberId;

use super::{ConfigOptions, SharedOptions};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Show what is configured for the cluster
    #[command(after_help = "Example: mainstay config show --effective")]
    Show(ShowOptions),
    /// Change it in an editor ($VISUAL, $EDITOR or vi)
    #[command(after_help = "Example: EDITOR=nano mainstay config edit")]
    Edit(ChangeOptions),
    /// Set parameters
    #[command(
        after_help = "Example: mainstay config set work_mem=16MB\n         mainstay config set max_connections=50 --restart --yes"
    )]
    Set(SetOptions),
    /// Set parameters no longer: Mainstay's or PostgreSQL's default holds again
    #[command(after_help = "Example: mainstay config unset work_mem")]
    Unset(UnsetOptions),
    /// Show the last changes
    #[command(after_help = "Example: mainstay config history")]
    History(SharedOptions),
    /// Go back to what an earlier change has made; 0 is nothing at all
    #[command(after_help = "Example: mainstay config rollback 3")]
    Rollback(RollbackOptions),
    /// Check a member's own file (mainstay.toml) without using it
    #[command(after_help = "Example: mainstay config check /etc/mainstay/mainstay.toml")]
    Check(CheckOptions),
    /// Turn another program's configuration into Mainstay's
    #[command(subcommand)]
    Import(ImportVerb),
    /// Show values for memory, WAL and checkpoints that fit this machine, with their reasons
    #[command(
        after_help = "Example: mainstay config tune\n         mainstay config tune --member m2 --apply"
    )]
    Tune(TuneOptions),
}

#[derive(Debug, Args)]
pub(crate) struct ReloadOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// Whose file, by default this machine's
    pub(crate) member: Option<MemberId>,
}

#[derive(Debug, Args)]
pub(crate) struct ShowOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// The member whose values are shown, with --effective; without it the one of this machine
    pub(crate) member: Option<MemberId>,
    /// Show what the member ends up with, and where each value comes from
    #[arg(long)]
    pub(crate) effective: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ChangeOptions {
    #[command(flatten)]
    pub(crate) config: ConfigOptions,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Restart PostgreSQL where the change needs it, member by member
    #[arg(long)]
    pub(crate) restart: bool,
    /// Print JSON; needs --yes
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// For one member alone
    #[arg(long, value_name = "MEMBER", conflicts_with = "role")]
    pub(crate) member: Option<MemberId>,
    /// For the primary or the standbys alone
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: Option<RoleName>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RoleName {
    Primary,
    Standby,
}

#[derive(Debug, Args)]
pub(crate) struct SetOptions {
    /// What to set
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = assignment)]
    pub(crate) values: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) change: ChangeOptions,
}

#[derive(Debug, Args)]
pub(crate) struct UnsetOptions {
    /// What to set no longer
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) change: ChangeOptions,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackOptions {
    /// The number of the change, see `config history`
    #[arg(value_name = "NUMBER")]
    pub(crate) serial: u64,
    #[command(flatten)]
    pub(crate) change: ChangeOptions,
}

#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    /// The file
    #[arg(value_name = "FILE", default_value = "/etc/mainstay/mainstay.toml")]
    pub(crate) file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImportVerb {
    /// Print the table [sql_proxy] that does what PgBouncer does, and what has to be done by hand
    #[command(after_help = "Example: mainstay config import pgbouncer /etc/pgbouncer/pgbouncer.ini")]
    Pgbouncer(ImportOptions),
}

#[derive(Debug, Args)]
pub(crate) struct ImportOptions {
    /// PgBouncer's own file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Write the table to a new file
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TuneOptions {
    /// Whose machine, by default this one
    #[arg(long, value_name = "MEMBER")]
    pub(crate) member: Option<MemberId>,
    /// Set them for this member
    #[arg(long)]
    pub(crate) apply: bool,
    #[command(flatten)]
    pub(crate) change: ChangeOptions,
}

#[derive(Debug, Args)]
pub(crate) struct RestartOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// The members whose PostgreSQL is restarted, one after the other
    #[arg(value_name = "MEMBER")]
    pub(crate) members: Vec<MemberId>,
    /// Those whose parameters wait for a restart, in the order that PostgreSQL needs
    #[arg(long, conflicts_with = "members")]
    pub(crate) pending: bool,
    /// The primary where it is, instead of a switchover before
    #[arg(long)]
    pub(crate) in_place: bool,
    /// Watch the restart that is under way
    #[arg(long, conflicts_with_all = ["members", "pending", "in_place", "cancel"])]
    pub(crate) follow: bool,
    /// Give up the restart that is under way; a member that is being restarted still is
    #[arg(long, conflicts_with_all = ["members", "pending", "in_place"])]
    pub(crate) cancel: bool,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        }
        _ => Err("write NAME=VALUE, for example work_mem=16MB".to_owned()),
    }
}
