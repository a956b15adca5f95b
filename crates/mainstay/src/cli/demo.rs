//! The demo.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use mainstay_core::MemberId;

use super::DrillFault;
use crate::commands::verify::known_check;
use crate::configuration::length_of_time;

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoOptions {
    #[command(subcommand)]
    pub(crate) verb: Option<DemoVerb>,
    /// Return when the cluster is ready, and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    /// How many members
    #[arg(long, default_value = "3", value_name = "1|2|3|5", value_parser = member_count)]
    pub(crate) members: u16,
    /// PostgreSQL listens on N+1, N+2, …; members on N+21, …; HTTP on N+41, …
    #[arg(long, default_value_t = 5500, value_name = "N", value_parser = clap::value_parser!(u16).range(1024..=65400))]
    pub(crate) port_base: u16,
    /// Where the demo lives; a directory of its own, made anew
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

fn member_count(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(count @ (1 | 2 | 3 | 5)) => Ok(count),
        _ => Err("a demo has 1, 2, 3 or 5 members".to_owned()),
    }
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DemoVerb {
    /// Show the cluster
    Status {
        /// Go on showing, every second
        #[arg(long)]
        watch: bool,
    },
    /// Open psql on the primary
    Psql {
        /// Arguments for psql
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Print the connection URLs
    Urls,
    /// Kill a member whole, as if its machine had died, and watch what happens
    Kill {
        /// The member to kill
        member: MemberId,
    },
    /// Stop a member cleanly; without a name stop and remove the demo
    Stop {
        /// The member to stop; without it all of them
        member: Option<MemberId>,
    },
    /// Start a member that was stopped or killed
    Start {
        /// The member to start
        member: MemberId,
    },
    /// Stop every process of a member in its tracks (SIGSTOP)
    Freeze {
        /// The member to freeze
        member: MemberId,
    },
    /// Let a frozen member go on (SIGCONT)
    Thaw {
        /// The frozen member
        member: MemberId,
    },
    /// Make another member the primary
    Switchover {
        /// The member to become the primary; without it the best standby
        #[arg(long, value_name = "MEMBER")]
        to: Option<MemberId>,
    },
    /// Check the whole cluster from outside
    Verify {
        /// Run these checks only
        #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = known_check)]
        only: Vec<String>,
    },
    /// Cause a fault on purpose, and measure it
    Drill {
        /// What to do
        fault: DrillFault,
        /// Whom to hit, by default the primary; with `switchover`: who takes over
        #[arg(long, value_name = "MEMBER")]
        member: Option<MemberId>,
        /// How long writes may be away; by default the lease and a second
        #[arg(long, value_name = "TIME", value_parser = length_of_time)]
        goal: Option<Duration>,
    },
    /// Show the last decisions of every member
    Explain {
        /// How many decisions of each member
        #[arg(long, default_value_t = 20, value_name = "N")]
        last: usize,
    },
}
