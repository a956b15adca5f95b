//! `switchover`: asks, waits until it is done, or says why it was not.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mainstay_core::MemberId;
use mainstay_member::control::operate::{OperateAnswer, ScheduleRequest};
use mainstay_member::control::{SwitchoverAnswer, SwitchoverRequest};
use mainstay_member::operation::words;
use mainstay_member::status::Status;

use crate::cli::SwitchoverOptions;
use crate::client::{self, Control};
use crate::output::println;
use crate::{configuration, when};

/// A switchover that has not happened by then is given up by the cluster itself.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

pub(crate) async fn run(options: &SwitchoverOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let control = Control::of(&configuration);
    if options.at.is_some() || options.cancel {
        return schedule(&control, options).await;
    }
    let asked = Instant::now();
    let answer = ask(&control, options.to.clone()).await?;
    if !options.shared.json {
        let to = options.to.as_ref().map_or_else(|| "the best standby".to_owned(), ToString::to_string);
        println!("switching over from {} to {to}; nothing acknowledged is lost", answer.from);
    }
    let status = wait(&answer, async || client::any_status(&configuration).await).await?;
    report(&answer, &status, asked.elapsed(), options.shared.json)
}

/// Writes it down for later, or takes it back.
async fn schedule(control: &Control, options: &SwitchoverOptions) -> Result<ExitCode> {
    let due_unix_ms = options.at.as_deref().map(when::parse).transpose()?;
    let request = ScheduleRequest { due_unix_ms, to: options.to.clone() };
    let answer: OperateAnswer = control.post("/v1/switchover/scheduled", &request).await?;
    let to = options.to.as_ref().map_or("the best standby", MemberId::as_str);
    match due_unix_ms {
        _ if options.shared.json => {
            println!(
                "{}",
                serde_json::json!({ "id": answer.id, "due_unix_ms": due_unix_ms, "to": options.to })
            );
        }
        Some(due) => println!(
            "a switchover to {to} is due at {}; take it back with: mainstay switchover --cancel",
            words(due)
        ),
        None => println!("the scheduled switchover is taken back"),
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn ask(control: &Control, to: Option<MemberId>) -> Result<SwitchoverAnswer> {
    control.post("/v1/switchover", &SwitchoverRequest { to }).await
}

/// Waits until another epoch is open and lets applications in.
pub(crate) async fn wait(
    answer: &SwitchoverAnswer,
    status: impl AsyncFn() -> Result<Status>,
) -> Result<Status> {
    let asked = Instant::now();
    loop {
        match status().await {
            Ok(status) if status.epoch.0 > answer.epoch && status.writable => return Ok(status),
            Ok(status)
                if status.cancelled_switchover.as_ref().is_some_and(|given_up| given_up.id == answer.id) =>
            {
                let why = status.cancelled_switchover.map(|given_up| given_up.why).unwrap_or_default();
                bail!("the switchover was given up: {why}; {} goes on as the primary", answer.from)
            }
            Ok(status) if asked.elapsed() > PATIENCE => {
                bail!("the switchover did not happen within {PATIENCE:?}: {}", status.reason)
            }
            Err(error) if asked.elapsed() > PATIENCE => return Err(error),
            _ => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

pub(crate) fn report(
    answer: &SwitchoverAnswer,
    status: &Status,
    took: Duration,
    json: bool,
) -> Result<ExitCode> {
    let primary = status.primary.as_ref().map_or("nobody", MemberId::as_str);
    if json {
        let text = serde_json::json!({
            "from": answer.from, "primary": status.primary, "epoch": status.epoch, "milliseconds": took.as_millis() as u64,
        });
        println!("{text}");
    } else {
        println!("{primary} is the primary of epoch {}, after {:.2} s", status.epoch, took.as_secs_f64());
    }
    Ok(if primary == answer.from.as_str() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
