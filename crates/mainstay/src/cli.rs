//! The command line: verb first, every verb with an example.

mod certificates;
mod client;
mod config;
mod demo;
pub(crate) mod logs;
mod members;
pub(crate) mod operate;
mod shared;
mod sql;
mod sql_proxy;
mod vip;

use std::{path::PathBuf, time::Duration};

use crate::commands::verify::known_check;
use crate::configuration::length_of_time;
pub(crate) use certificates::CertificatesVerb;
use clap::{Args, Parser, Subcommand, ValueEnum};
pub(crate) use client::{ClientOptions, ClientVerb};
pub(crate) use config::{
    ChangeOptions, CheckOptions, ConfigVerb, ImportOptions, ImportVerb, Place, ReloadOptions, RestartOptions,
    RoleName, ShowOptions,
};
pub(crate) use demo::{DemoOptions, DemoVerb};
use logs::{LogsOptions, SupportOptions};
use mainstay_core::MemberId;
pub(crate) use members::{
    InitOptions, JoinOptions, LeaveOptions, MemberOptions, MemberVerb, UninstallOptions,
};
use operate::{FailoverOptions, MaintenanceOptions, PauseOptions, RecoverOptions, ReinitOptions};
pub(crate) use operate::{HealOptions, HitOptions, ThawOptions};
pub(crate) use shared::{ConfigOptions, SharedByVerbs, SharedOptions};
pub(crate) use sql::{SqlOrderOptions, SqlStatusOptions, SqlVerb};
pub(crate) use sql_proxy::SqlProxyOptions;
pub(crate) use vip::VipVerb;

/// Keeps a PostgreSQL-backed application up on three machines, or on two and a witness.
#[derive(Debug, Parser)]
#[command(
    name = "mainstay",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done; 1 understood, but not carried out, or a check has failed: one line on standard error, or the\nreport, says why; 2 the command line is wrong; 75 `run` alone: the member left PostgreSQL running and wants to be\nstarted again."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a cluster of real members on this machine, on loopback only
    #[command(after_help = "Example: mainstay demo --members 3\n         mainstay demo kill m1")]
    Demo(DemoOptions),
    /// Make the first member of a new cluster on this machine
    #[command(
        after_help = "Asks what is not given; with --yes, or without a terminal, the defaults stand.\nExample: mainstay init --cluster shop --address 10.0.0.1 --start\n         mainstay init --adopt /var/lib/postgresql/15/main --start"
    )]
    Init(InitOptions),
    /// Make this machine a member of a cluster that is there
    #[command(
        after_help = "Example: mainstay join TOKEN@10.0.0.1 --start\n         mainstay join --witness TOKEN@10.0.0.1"
    )]
    Join(JoinOptions),
    /// Show, invite, replace and remove members
    #[command(after_help = "Example: mainstay member list\n         mainstay member invite --witness")]
    Member(MemberOptions),
    /// Take this machine's member out of the cluster; its data stays on its disk
    #[command(after_help = "Example: mainstay leave --yes")]
    Leave(LeaveOptions),
    /// Take a stopped member off this machine: keys, state, configuration; data only when asked for
    #[command(after_help = "Example: mainstay uninstall --yes")]
    Uninstall(UninstallOptions),
    /// Make a new member's directory: once, before its first `run`
    #[command(
        after_help = "Example: mainstay create --config /etc/mainstay/mainstay.toml\n         mainstay create --adopt --yes"
    )]
    Create(CreateOptions),
    /// Run this member in the foreground
    #[command(
        after_help = "Signals: SIGTERM and SIGINT stop PostgreSQL and the member; SIGUSR1 ends the member alone with\nexit code 75, PostgreSQL goes on until the lease ends.\nUnder a service manager (NOTIFY_SOCKET, WATCHDOG_USEC) it says when it is ready, alive and stopping.\nExample: mainstay run --config /etc/mainstay/mainstay.toml"
    )]
    Run(RunOptions),
    /// Show the cluster as this member sees it
    #[command(after_help = "Example: mainstay status --watch")]
    Status(StatusOptions),
    /// Show the last decisions, each with the facts behind it
    #[command(after_help = "Example: mainstay explain --last 50\n         mainstay explain --member m2")]
    Explain(ExplainOptions),
    /// Decide again on a view from `explain --json`, offline
    #[command(
        after_help = "Example: mainstay explain --json > views.json; mainstay decide --view views.json"
    )]
    Decide(DecideOptions),
    /// Make another member the primary, without losing anything
    #[command(after_help = "Example: mainstay switchover --to m2")]
    Switchover(SwitchoverOptions),
    /// Show a member's certificates, renew its PostgreSQL's, or change its key
    #[command(
        after_help = "Example: mainstay certificates show\n         mainstay certificates renew --member m2"
    )]
    #[command(subcommand)]
    Certificates(CertificatesVerb),
    /// Show, let in and dismiss who may use the API from another machine
    #[command(after_help = "Example: mainstay client add grafana\n         mainstay client list")]
    Client(ClientOptions),
    /// Check the whole cluster from outside: writes, reads, TLS, sync set, ports, disks and more
    #[command(
        after_help = "Exit code 1 if a check fails.\nExample: mainstay verify --only ports,tls-clients"
    )]
    Verify(VerifyOptions),
    /// Cause a fault on purpose, and measure how long writes are away and whether anything is lost
    #[command(
        after_help = "Exit code 1 if the goal is missed, a row is lost, or the cluster does not become whole.\nExample: mainstay drill kill --goal 5s"
    )]
    Drill(DrillOptions),
    /// Make another member the primary, also if the present one is hung or gone
    #[command(after_help = "Example: mainstay failover --to m2")]
    Failover(FailoverOptions),
    /// Go on with this member alone, when a majority of the voters is lost for good; Mainstay must be stopped here
    #[command(
        after_help = "Says what is known to be lost and what is not known, and asks for the cluster's name.\nExample: systemctl stop mainstay && mainstay recover --from-this-member"
    )]
    Recover(RecoverOptions),
    /// Promote nobody and start no PostgreSQL by itself, until `resume`; leases and fencing go on
    #[command(after_help = "Example: mainstay pause --until 30m")]
    Pause(PauseOptions),
    /// End a pause
    #[command(after_help = "Example: mainstay resume")]
    Resume(SharedOptions),
    /// Leave one member to somebody's hands: not promoted, not counted, drained
    #[command(
        after_help = "Example: mainstay maintenance m2 --until 2h\n         mainstay maintenance m2 --off"
    )]
    Maintenance(MaintenanceOptions),
    /// Throw a standby's data away and copy it anew
    #[command(after_help = "Example: mainstay reinit m3")]
    Reinit(ReinitOptions),
    /// Show and change PostgreSQL's configuration, for the whole cluster
    #[command(subcommand, after_help = "Example: mainstay config show")]
    Config(ConfigVerb),
    /// Restart PostgreSQL, member by member, without stopping the cluster
    #[command(after_help = "Example: mainstay restart --pending\n         mainstay restart m2")]
    Restart(RestartOptions),
    /// Let a member read its own file again: what can change at once changes, the rest is named
    #[command(after_help = "Example: mainstay reload\n         mainstay reload m2")]
    Reload(ReloadOptions),
    /// Show how a member's SQL proxy does, and halt it for a while
    #[command(subcommand, after_help = "Example: mainstay sql status\n         mainstay sql pause app")]
    Sql(SqlVerb),
    /// Show the virtual addresses
    #[command(subcommand, after_help = "Example: mainstay vip status")]
    Vip(VipVerb),
    /// Show what Mainstay and PostgreSQL have logged on all members, by time
    #[command(
        after_help = "Also while members are down: they are named on standard error.\nExample: mainstay logs --since 10m\n         mainstay logs m2 --follow"
    )]
    Logs(LogsOptions),
    /// Gather what whoever helps needs to see into one file, without secrets
    #[command(after_help = "Example: mainstay support --output bundle.tar.gz")]
    Support(SupportOptions),
    /// Open psql on the primary
    #[command(after_help = "Example: mainstay psql -- -c 'SELECT now()'")]
    Psql(PsqlOptions),
    /// Print what a shell needs to complete this command line
    #[command(
        after_help = "Example: mainstay completions bash > /etc/bash_completion.d/mainstay\nDebian's package has them already."
    )]
    Completions(CompletionsOptions),
    /// Write a manual page for each command
    #[command(hide = true, after_help = "Example: mainstay man --dir /usr/local/share/man/man1")]
    Man(ManOptions),
    /// End what a member that was stopped has left behind; run by the service manager
    #[command(
        hide = true,
        after_help = "Does nothing unless SERVICE_RESULT and EXIT_STATUS, see systemd.exec(5), say that the member was to stop.\nExample: ExecStopPost=/usr/bin/mainstay after-stop"
    )]
    AfterStop(ConfigOptions),
    /// The process that owns PostgreSQL; started by the member
    #[command(
        hide = true,
        after_help = "Example: mainstay guard --directory /var/lib/mainstay/guard --data-directory /var/lib/mainstay/data"
    )]
    Guard(GuardOptions),
    /// Run a SQL proxy on an application's machine; beside a member, the member itself starts one
    #[command(
        after_help = "The word is written on a member's machine: mainstay client add app1 --sql-proxy\nExample: mainstay sql-proxy --join TOKEN@10.0.0.1:7480\n         mainstay sql-proxy --alone"
    )]
    SqlProxy(SqlProxyOptions),
    /// Lets go on what a drill has frozen; started by the drill
    #[command(hide = true, after_help = "Example: mainstay thaw --pid 4711 --started 1 --after-ms 5000")]
    Thaw(ThawOptions),
    /// Causes a fault on this machine; started by the member, for a drill on another one
    #[command(hide = true, after_help = "Example: mainstay hit cut --for-ms 15000")]
    Hit(HitOptions),
    /// Takes back what a drill has cut; started by the drill
    #[command(hide = true, after_help = "Example: mainstay heal --after-ms 20000")]
    Heal(HealOptions),
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsOptions {
    /// For which shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManOptions {
    /// Where to write them; made if it is missing
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CreateOptions {
    #[command(flatten)]
    pub(crate) config: ConfigOptions,
    /// Take over the data that is in `data_directory` already: first a report, nothing is changed without --yes
    #[arg(long)]
    pub(crate) adopt: bool,
    /// Agree that the running server is restarted, and that Debian starts it no more
    #[arg(long, requires = "adopt")]
    pub(crate) yes: bool,
    /// Print the report as JSON
    #[arg(long, requires = "adopt")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) config: ConfigOptions,
    /// Log as one JSON object per line
    #[arg(long)]
    pub(crate) log_json: bool,
    /// What to log: error, warn, info, debug or trace
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub(crate) log_level: tracing::level_filters::LevelFilter,
}

#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// Go on showing, every second
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainOptions {
    #[command(flatten)]
    pub(crate) config: ConfigOptions,
    /// Print JSON, with the view behind each decision
    #[arg(long)]
    pub(crate) json: bool,
    /// How many decisions
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) last: usize,
    /// Whose, by default this machine's member's
    #[arg(long, value_name = "MEMBER")]
    pub(crate) member: Option<MemberId>,
}

#[derive(Debug, Args)]
pub(crate) struct DecideOptions {
    /// A view, or what `explain --json` printed; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) view: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SwitchoverOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// The member to become the primary; without it the best standby
    #[arg(long, value_name = "MEMBER")]
    pub(crate) to: Option<MemberId>,
    /// Do it then, once: `30m`, `14:30` or `2026-12-01T14:30:00Z`
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// Take the scheduled switchover back
    #[arg(long, conflicts_with_all = ["at", "to"])]
    pub(crate) cancel: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// Run these checks only
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = known_check)]
    pub(crate) only: Vec<String>,
    /// List the checks
    #[arg(long)]
    pub(crate) list: bool,
    /// End when standard input does; for the member, which runs it on a schedule
    #[arg(long, hide = true)]
    pub(crate) ends_with_input: bool,
}

/// What a drill does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DrillFault {
    /// kill -9 of PostgreSQL, or of the whole member
    Kill,
    /// SIGSTOP to PostgreSQL's postmaster
    Freeze,
    /// No network between the member's machine and the other members
    Cut,
    /// A planned change of the primary
    Switchover,
}

impl DrillFault {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            DrillFault::Kill => "kill",
            DrillFault::Freeze => "freeze",
            DrillFault::Cut => "cut",
            DrillFault::Switchover => "switchover",
        }
    }
}

/// What of a member is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DrillScope {
    /// PostgreSQL alone
    Postgresql,
    /// PostgreSQL, its guard and the member, as if the machine had lost power
    Member,
}

impl DrillScope {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            DrillScope::Postgresql => "postgresql",
            DrillScope::Member => "member",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DrillOptions {
    /// What to do
    pub(crate) fault: DrillFault,
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// Whom to hit, by default the primary; with `switchover`: who takes over
    #[arg(long, value_name = "MEMBER")]
    pub(crate) member: Option<MemberId>,
    /// What `kill` kills
    #[arg(long, value_enum, default_value = "postgresql")]
    pub(crate) scope: DrillScope,
    /// How long writes may be away; by default the lease and a second
    #[arg(long, value_name = "TIME", value_parser = length_of_time)]
    pub(crate) goal: Option<Duration>,
    /// How long `cut` lasts, and `freeze` on another machine; by default the lease and 12 seconds
    #[arg(long = "for", value_name = "TIME", value_parser = length_of_time)]
    pub(crate) length: Option<Duration>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PsqlOptions {
    #[command(flatten)]
    pub(crate) config: ConfigOptions,
    /// Arguments for psql
    #[arg(last = true)]
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GuardOptions {
    /// The guard's own directory
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// PostgreSQL's data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) data_directory: PathBuf,
    /// Not used any more
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
}

#[cfg(test)]
mod tests;
