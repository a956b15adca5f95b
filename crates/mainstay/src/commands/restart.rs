//! `restart`: asks, and shows how far it is. It goes on without this command.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mainstay_core::MemberId;
use mainstay_member::Configuration;
use mainstay_member::control::{RestartAnswer, RestartCancel, RestartRequest};

use crate::cli::RestartOptions;
use crate::client::{self, Control};
use crate::configuration;
use crate::output::println;

const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// During a switchover nobody may answer for a while.
const SILENCE_PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn run(options: &RestartOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let control = Control::of(&configuration);
    if options.follow || options.cancel {
        let status = client::any_status(&configuration).await?;
        let id = status.restart.context("no restart is under way")?.id;
        if options.cancel {
            let answer: RestartAnswer = control.post("/v1/restart/cancel", &RestartCancel { id }).await?;
            let text =
                if options.shared.json { serde_json::to_string(&answer)? } else { "given up".to_owned() };
            println!("{text}");
            return Ok(ExitCode::SUCCESS);
        }
        return follow(&configuration, id, options.shared.json).await;
    }
    if options.members.is_empty() && !options.pending {
        bail!("name the members whose PostgreSQL is to be restarted, or say --pending");
    }
    let members = options.members.iter().cloned().collect();
    let request = RestartRequest { members, in_place: options.in_place };
    let answer: RestartAnswer = control.post("/v1/restart", &request).await?;
    follow(&configuration, answer.id, options.shared.json).await
}

/// Restarts what waits for it, after a change.
pub(crate) async fn pending(configuration: &Configuration, json: bool) -> Result<ExitCode> {
    let request = RestartRequest { members: [].into(), in_place: false };
    let answer: RestartAnswer = Control::of(configuration).post("/v1/restart", &request).await?;
    follow(configuration, answer.id, json).await
}

async fn follow(configuration: &Configuration, id: u64, json: bool) -> Result<ExitCode> {
    let began = Instant::now();
    let (mut heard, mut shown) = (Instant::now(), String::new());
    loop {
        let status = match client::any_status(configuration).await {
            Ok(status) => status,
            Err(_) if heard.elapsed() < SILENCE_PATIENCE => {
                tokio::time::sleep(LOOK_INTERVAL).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        heard = Instant::now();
        if let Some(ended) = status.ended_restart.as_ref().filter(|ended| ended.id == id) {
            let took = began.elapsed();
            if let Some(why) = &ended.why {
                bail!("the restart was given up: {why}");
            }
            let names: Vec<&str> = ended.done.iter().map(MemberId::as_str).collect();
            if json {
                let milliseconds = took.as_millis() as u64;
                println!(
                    "{}",
                    serde_json::json!({ "id": id, "restarted": names, "milliseconds": milliseconds })
                );
            } else if names.is_empty() {
                println!("no PostgreSQL had anything to be restarted for");
            } else {
                println!("restarted: {}, in {:.1} s", names.join(", "), took.as_secs_f64());
            }
            return Ok(ExitCode::SUCCESS);
        }
        let line = match status.restart.as_ref().filter(|restart| restart.id == id) {
            Some(restart) => match (&restart.turn, &restart.waits_for) {
                (Some(member), _) => format!("restarting PostgreSQL of {member}"),
                (None, Some(what)) => format!("waiting: {what}"),
                (None, None) => String::new(),
            },
            None => String::new(),
        };
        if !json && !line.is_empty() && line != shown {
            println!("{line}");
            shown = line;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
