//! What an operator does to a running cluster.

use clap::Args;
use mainstay_core::MemberId;

use super::{ConfigOptions, DrillFault, DrillScope, SharedOptions};

#[derive(Debug, Args)]
pub(crate) struct FailoverOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// The member to become the primary; without it the best one
    #[arg(long, value_name = "MEMBER")]
    pub(crate) to: Option<MemberId>,
    /// Go on with a member that is not proven to hold every acknowledged commit; asks
    #[arg(long)]
    pub(crate) accept_data_loss: bool,
    /// Answers the question beforehand: the name of the cluster
    #[arg(long, value_name = "CLUSTER", requires = "accept_data_loss")]
    pub(crate) confirm: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverOptions {
    #[command(flatten)]
    pub(crate) config: ConfigOptions,
    /// Go on with this machine's member as the only one; said in full, so that nobody means another
    #[arg(long, required = true)]
    pub(crate) from_this_member: bool,
    /// Do not ask for the cluster's name
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print JSON; needs --yes to change something
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PauseOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// Resume by itself then: `30m`, `14:30` or `2026-12-01T14:30:00Z`
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct MaintenanceOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// The member that somebody works on
    pub(crate) member: MemberId,
    /// The work is done
    #[arg(long, conflicts_with = "until")]
    pub(crate) off: bool,
    /// End by itself then: `30m`, `14:30` or `2026-12-01T14:30:00Z`
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ReinitOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// The standby whose data is thrown away
    pub(crate) member: MemberId,
    /// Answers the question beforehand: the name of the member
    #[arg(long, value_name = "MEMBER")]
    pub(crate) confirm: Option<String>,
    /// Return at once, and let it go on
    #[arg(long)]
    pub(crate) detach: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ThawOptions {
    /// The process that was frozen
    #[arg(long)]
    pub(crate) pid: i32,
    /// When it was started, so that no other is meant
    #[arg(long)]
    pub(crate) started: u64,
    /// After how many milliseconds it goes on
    #[arg(long)]
    pub(crate) after_ms: u64,
}

#[derive(Debug, Args)]
pub(crate) struct HitOptions {
    /// What to do
    pub(crate) fault: DrillFault,
    #[command(flatten)]
    pub(crate) config: ConfigOptions,
    /// What `kill` kills
    #[arg(long, value_enum, default_value = "postgresql")]
    pub(crate) scope: DrillScope,
    /// How long it lasts, in milliseconds
    #[arg(long)]
    pub(crate) for_ms: u64,
}

#[derive(Debug, Args)]
pub(crate) struct HealOptions {
    /// After how many milliseconds
    #[arg(long)]
    pub(crate) after_ms: u64,
}
