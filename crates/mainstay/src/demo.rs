//! `demo`: a cluster of real members on this machine, on loopback only, and the verbs to play with it.
//!
//! Every member is the same program, started the same way, as in production; the demo only writes their files,
//! starts and ends their processes, and looks.

mod check;
mod create;
mod kill;
mod place;
mod processes;
mod run;
mod steps;
mod verbs;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{DemoOptions, DemoVerb, DrillScope};
use crate::commands::drill::Plan;
use place::Place;

/// Where a demo lives unless `--dir` says otherwise: PostgreSQL's user must be able to reach it.
const DEFAULT_DIRECTORY: &str = "/var/tmp/mainstay-demo";

/// Where the demo's client writes its rows.
const WRITER_TABLE: &str = "demo_rows";

pub(crate) async fn run(options: DemoOptions) -> Result<ExitCode> {
    let directory = options.dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DIRECTORY));
    let directory = std::path::absolute(directory)?;
    match options.verb {
        None => run::run(&options, &directory).await,
        Some(verb) => {
            let place = Place::open(&directory)?;
            carry_out(verb, &place, options.json).await
        }
    }
}

async fn carry_out(verb: DemoVerb, place: &Place, json: bool) -> Result<ExitCode> {
    match verb {
        DemoVerb::Status { watch } => verbs::status(place, watch, json).await,
        DemoVerb::Psql { arguments } => verbs::psql(place, &arguments).await,
        DemoVerb::Urls => verbs::urls(place, json).await,
        DemoVerb::Kill { member } => kill::run(place, place.member(&member)?).await,
        DemoVerb::Stop { member: Some(member) } => verbs::stop_one(place, place.member(&member)?).await,
        DemoVerb::Stop { member: None } => verbs::stop_all(place).await,
        DemoVerb::Start { member } => verbs::start(place, place.member(&member)?).await,
        DemoVerb::Freeze { member } => verbs::freeze(place, place.member(&member)?),
        DemoVerb::Thaw { member } => verbs::thaw(place, place.member(&member)?),
        DemoVerb::Switchover { to } => verbs::switchover(place, to, json).await,
        DemoVerb::Verify { only } => verbs::verify(place, &only, json).await,
        DemoVerb::Drill { fault, member, goal } => {
            let scope = DrillScope::Postgresql;
            verbs::drill(place, Plan { fault, scope, member, goal, length: None, json }).await
        }
        DemoVerb::Explain { last } => verbs::explain(place, last, json).await,
    }
}
