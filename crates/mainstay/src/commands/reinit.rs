//! `reinit`: a standby throws its data away and copies the primary's anew.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mainstay_core::{Incarnation, MemberId};
use mainstay_member::Configuration;
use mainstay_member::control::operate::{OperateAnswer, ReinitRequest};
use mainstay_member::status::{MemberStatus, ProgressStatus, Role, Status};

use super::status::bytes_words;
use crate::cli::operate::ReinitOptions;
use crate::client::{self, Control};
use crate::configuration;
use crate::output::{self, println};

const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// A copy that shows nothing new for so long is left to itself.
const SILENT_PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn run(options: &ReinitOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let member = &options.member;
    let status = client::any_status(&configuration).await?;
    let before = row(&status, member).and_then(|row| row.incarnation);
    if row(&status, member).is_some() && status.primary.as_ref() != Some(member) {
        let question = format!(
            "All data of {member} is thrown away, and copied anew from {}. WAL that only {member} has is kept in its directory `diverged`.",
            status.primary.as_ref().map_or("the primary", MemberId::as_str)
        );
        confirm(&question, "the name of the member", member.as_str(), options.confirm.as_deref())?;
    }
    let request = ReinitRequest { member: member.clone() };
    let _: OperateAnswer = Control::of(&configuration).post("/v1/reinit", &request).await?;
    if !options.detach {
        wait(&configuration, member, before, options.shared.json).await?;
    }
    if options.shared.json {
        println!("{}", serde_json::json!({ "member": member, "copied": !options.detach }));
    } else if options.detach {
        println!("{member} is to be copied anew; watch it with: mainstay status --watch");
    } else {
        println!("{member} was copied anew and follows the primary");
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks, and fails unless exactly `wanted` is answered, or was given beforehand.
pub(crate) fn confirm(question: &str, what: &str, wanted: &str, given: Option<&str>) -> Result<()> {
    let answer = match given {
        Some(given) => given.to_owned(),
        None if std::io::stdin().is_terminal() => {
            println!("{question}");
            output::part(&format!("Type {what} ({wanted}) to go on: "));
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).context("cannot read the answer")?;
            line
        }
        None => bail!(
            "nothing is done without {what}, and nobody can be asked here; give it with: --confirm {wanted}"
        ),
    };
    if answer.trim() != wanted {
        bail!("{:?} is not {what}, {wanted}: nothing was done", answer.trim());
    }
    Ok(())
}

fn row<'a>(status: &'a Status, member: &MemberId) -> Option<&'a MemberStatus> {
    status.members.iter().find(|row| row.name == *member)
}

async fn wait(
    configuration: &Configuration,
    member: &MemberId,
    before: Option<Incarnation>,
    quiet: bool,
) -> Result<()> {
    let (mut shown, mut changed_at) = (String::new(), Instant::now());
    let terminal = std::io::stdout().is_terminal();
    loop {
        let status = client::any_status(configuration).await.ok();
        let own = status.as_ref().and_then(|status| row(status, member));
        let other_life = own.is_some_and(|row| row.incarnation.is_some() && row.incarnation != before);
        if other_life && own.is_some_and(|row| row.role == Role::Standby) {
            if terminal && !quiet {
                println!("");
            }
            return Ok(());
        }
        let words = own.map_or_else(|| format!("{member} is not heard"), words);
        if words != shown {
            changed_at = Instant::now();
            match (quiet, terminal) {
                (true, _) => {}
                (false, true) => output::part(&format!("\r\x1b[K{words}")),
                (false, false) => println!("{words}"),
            }
            shown = words;
        }
        if changed_at.elapsed() > SILENT_PATIENCE {
            bail!(
                "nothing new for {SILENT_PATIENCE:?} ({shown}); it goes on by itself: mainstay status --watch"
            );
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn words(row: &MemberStatus) -> String {
    match &row.progress {
        Some(progress) => progress_words(progress),
        None => row.reason.clone().unwrap_or_else(|| row.role.as_str().to_owned()),
    }
}

/// `1200 MB of 4800 MB (25 %), about 90 s left`.
pub(crate) fn progress_words(progress: &ProgressStatus) -> String {
    let done = bytes_words(progress.done_bytes);
    if progress.total_bytes == 0 {
        return format!("{done} copied");
    }
    let percent = u128::from(progress.done_bytes) * 100 / u128::from(progress.total_bytes);
    let left = progress.seconds_left.map_or_else(String::new, |left| format!(", about {left} s left"));
    format!("{done} of {} ({} %){left}", bytes_words(progress.total_bytes), percent.min(100))
}
