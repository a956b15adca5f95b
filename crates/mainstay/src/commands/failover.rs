//! `failover`: another primary, whether the present one can be asked or not; with `--accept-data-loss` also without proof.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mainstay_core::MemberId;
use mainstay_member::Configuration;
use mainstay_member::control::operate::{AcceptedLoss, FailoverRequest, OperateAnswer};
use mainstay_member::operation::Holding;
use mainstay_member::status::Status;

use super::reinit::confirm;
use super::status::bytes_words;
use crate::cli::operate::FailoverOptions;
use crate::client::{self, Control};
use crate::configuration;
use crate::output::println;

/// Until the new primary lets applications in.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) async fn run(options: &FailoverOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let status = client::any_status(&configuration).await?;
    client::check_majority(&status)?;
    if !options.shared.json && !status.operation.holdings.is_empty() {
        println!("{}", table(&status.operation.holdings).trim_end());
    }
    let accept = if options.accept_data_loss { Some(accept(options, &status)?) } else { None };
    let asked = Instant::now();
    let request = FailoverRequest { to: options.to.clone(), accept };
    let answer: OperateAnswer = Control::of(&configuration).post("/v1/failover", &request).await?;
    let status = wait(&configuration, &answer).await?;
    let primary = status.primary.as_ref().map_or("nobody", MemberId::as_str);
    if options.shared.json {
        let text = serde_json::json!({
            "from": answer.primary, "primary": status.primary, "epoch": status.epoch,
            "milliseconds": asked.elapsed().as_millis() as u64, "forced": options.accept_data_loss,
        });
        println!("{text}");
    } else {
        println!(
            "{primary} is the primary of epoch {}, after {:.2} s",
            status.epoch,
            asked.elapsed().as_secs_f64()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The member to go on with, as it is shown, once an operator has typed the cluster's name.
fn accept(options: &FailoverOptions, status: &Status) -> Result<AcceptedLoss> {
    if let Some(primary) = &status.primary {
        bail!(
            "{primary} is the primary: nothing has to be lost; ask for another one without --accept-data-loss"
        );
    }
    let holdings = &status.operation.holdings;
    if let Some(proven) = holdings.iter().find(|holding| holding.proven && options.to.is_none()) {
        bail!(
            "{0} holds every acknowledged commit: nothing has to be lost; mainstay failover --to {0}",
            proven.member
        );
    }
    let chosen = match &options.to {
        Some(to) => {
            let holding = holdings.iter().find(|holding| holding.member == *to);
            holding.with_context(|| {
                format!("{to} is no data member of this cluster, or the record has no epoch that ended")
            })?
        }
        None => holdings
            .iter()
            .filter(|holding| holding.may_be_forced)
            .min_by_key(|holding| (holding.behind_bytes, holding.member.clone()))
            .with_context(|| format!("no member can be promoted: {}", status.reason))?,
    };
    let (Some(incarnation), Some(end), true) = (chosen.incarnation, chosen.end, chosen.may_be_forced) else {
        let why = chosen.why.clone().unwrap_or_default();
        bail!("{} cannot be promoted, whatever is accepted: {why}", chosen.member);
    };
    let question = format!(
        "{} would become the primary as it is, with its WAL up to {end}.\n{}.\nCommits that were acknowledged and are not in it are LOST to the cluster: members that hold more have it undone, and keep\nthat WAL in their directory `diverged`.",
        chosen.member, chosen.missing
    );
    confirm(&question, "the name of the cluster", &status.cluster, options.confirm.as_deref())?;
    Ok(AcceptedLoss {
        member: chosen.member.clone(),
        epoch: chosen.epoch,
        incarnation,
        end,
        missing_bytes: chosen.missing.bytes,
    })
}

/// Waits until another epoch is open and lets applications in, or it is said why not.
async fn wait(configuration: &Configuration, answer: &OperateAnswer) -> Result<Status> {
    let asked = Instant::now();
    loop {
        match client::any_status(configuration).await {
            Ok(status) if status.epoch > answer.epoch && status.writable => return Ok(status),
            Ok(status) if answer.id.is_some() && given_up(&status) == answer.id => {
                let why = status.cancelled_switchover.map(|given_up| given_up.why).unwrap_or_default();
                bail!("the failover was given up: {why}; the primary goes on");
            }
            Ok(status) if asked.elapsed() > PATIENCE => {
                bail!("no other primary lets applications in after {PATIENCE:?}: {}", status.reason)
            }
            Err(error) if asked.elapsed() > PATIENCE => return Err(error),
            _ => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

fn given_up(status: &Status) -> Option<u64> {
    status.cancelled_switchover.as_ref().map(|given_up| given_up.id)
}

/// What each data member is known to hold.
fn table(holdings: &[Holding]) -> String {
    let mut text = String::from("member  WAL ends at       timeline     behind  heard      proven\n");
    for holding in holdings {
        let end = holding.end.map_or_else(|| "not reported".to_owned(), |end| end.to_string());
        let timeline = holding.timeline.map_or_else(|| "-".to_owned(), |timeline| timeline.to_string());
        let behind = holding.behind_bytes.map_or_else(|| "-".to_owned(), bytes_words);
        let heard = match holding.heard_ms {
            None => "never".to_owned(),
            Some(ms) if ms < 2_000 => "now".to_owned(),
            Some(ms) => format!("{} s ago", ms / 1_000),
        };
        let proven = if holding.proven { "yes" } else { "no" };
        let _ = writeln!(
            text,
            "{:<7} {end:<17} {timeline:>8} {behind:>10}  {heard:<10} {proven}",
            holding.member.as_str()
        );
        if let Some(why) = &holding.why {
            let _ = writeln!(text, "        {why}");
        }
    }
    text
}
