//! The options of the verbs that make, change and remove members.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use mainstay_core::MemberId;

use super::{SharedByVerbs, SharedOptions};

#[derive(Debug, Args)]
pub(crate) struct InitOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// The name of the cluster
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// The name of this member
    #[arg(long, value_name = "NAME")]
    pub(crate) member: Option<MemberId>,
    /// Where the other members reach this machine
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    /// The port for the other members
    #[arg(long, default_value_t = 7400, value_name = "N")]
    pub(crate) port: u16,
    /// The port of PostgreSQL; without it 5432, or that of the server that is adopted
    #[arg(long, value_name = "N")]
    pub(crate) postgres_port: Option<u16>,
    /// The port for health checks
    #[arg(long, default_value_t = 7480, value_name = "N")]
    pub(crate) http_port: u16,
    /// Where keys, state and data go
    #[arg(long, default_value = "/var/lib/mainstay", value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Take over the server whose data directory this is, instead of making an empty one: first a report, nothing is changed without your word
    #[arg(long, value_name = "PGDATA", conflicts_with_all = ["database", "role"])]
    pub(crate) adopt: Option<PathBuf>,
    /// A database to make for the application; `-` for none
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// The role that owns it; without it one of the same name
    #[arg(long, value_name = "NAME")]
    pub(crate) role: Option<String>,
    /// A network whose machines may connect to PostgreSQL; may be given several times
    #[arg(long, value_name = "NETWORK")]
    pub(crate) allow: Vec<String>,
    /// Another name or address under which clients reach this PostgreSQL; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Vec<String>,
    /// How long a primary may go on without a majority
    #[arg(long, default_value = "3s", value_name = "TIME")]
    pub(crate) lease: String,
    /// How many tokens for further members to make at once
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=8))]
    pub(crate) tokens: u8,
    /// Leave memory, WAL and checkpoints at defaults that fit any machine
    #[arg(long)]
    pub(crate) no_tune: bool,
    /// Start the service
    #[arg(long)]
    pub(crate) start: bool,
    /// Ask nothing; agree that a server that is adopted is stopped, and that Debian starts it no more
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct JoinOptions {
    /// What `init` or `member invite` has printed: TOKEN@HOST or TOKEN@HOST:PORT
    #[arg(value_name = "TOKEN@HOST")]
    pub(crate) invitation: String,
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// Vote only: no PostgreSQL, fits on an application machine
    #[arg(long)]
    pub(crate) witness: bool,
    /// The name of this member; without it the next free one
    #[arg(long, value_name = "NAME")]
    pub(crate) member: Option<MemberId>,
    /// Where the other members reach this machine; without it the address towards the cluster
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    /// The port for the other members
    #[arg(long, default_value_t = 7400, value_name = "N")]
    pub(crate) port: u16,
    /// The port of PostgreSQL
    #[arg(long, default_value_t = 5432, value_name = "N")]
    pub(crate) postgres_port: u16,
    /// The port for health checks
    #[arg(long, default_value_t = 7480, value_name = "N")]
    pub(crate) http_port: u16,
    /// Where keys, state and data go
    #[arg(long, default_value = "/var/lib/mainstay", value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Where PostgreSQL's programs are; without it they are looked for
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Among equals the highest is promoted
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) priority: u32,
    /// Another name or address under which clients reach this PostgreSQL; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Vec<String>,
    /// Leave memory, WAL and checkpoints at defaults that fit any machine
    #[arg(long)]
    pub(crate) no_tune: bool,
    /// Start the service, and show how the copy of the data gets on
    #[arg(long)]
    pub(crate) start: bool,
    /// Do not wait for the copy
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MemberOptions {
    #[command(flatten)]
    pub(crate) shared: SharedByVerbs,
    #[command(subcommand)]
    pub(crate) verb: MemberVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberVerb {
    /// Show the members, and the open invitations
    #[command(after_help = "Example: mainstay member list --json")]
    List,
    /// Print a token that lets one machine join, once
    #[command(after_help = "Example: mainstay member invite --witness")]
    Invite {
        /// For a witness: it votes and runs no PostgreSQL
        #[arg(long)]
        witness: bool,
        /// The only name that may join by it
        #[arg(long, value_name = "NAME")]
        member: Option<MemberId>,
        /// How long it is valid, in hours
        #[arg(long, default_value_t = 24, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=720))]
        valid_hours: u64,
    },
    /// Make an invitation useless, by its eight letters
    #[command(after_help = "Example: mainstay member revoke 1a2b3c4d")]
    Revoke {
        /// As `member list` shows it
        id: String,
    },
    /// Print a token for the machine that takes a member's place
    #[command(after_help = "Example: mainstay member replace m3")]
    Replace {
        /// The member that leaves as the new one joins
        member: MemberId,
    },
    /// Take a member out of the cluster, alive or dead
    #[command(after_help = "Example: mainstay member remove m3 --yes")]
    Remove {
        /// The member that is to leave
        member: MemberId,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LeaveOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// Remove the data, too; asked for a second time
    #[arg(long)]
    pub(crate) remove_data: bool,
    /// Do not ask whether to take the member off this machine
    #[arg(long)]
    pub(crate) yes: bool,
    /// Do not ask the second time: the data is removed for good
    #[arg(long, requires = "remove_data")]
    pub(crate) yes_remove_data: bool,
}
