//! `maintenance`: one member is left to somebody's hands.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mainstay_core::MemberId;
use mainstay_member::Configuration;
use mainstay_member::control::operate::{MaintenanceRequest, OperateAnswer};
use mainstay_member::status::Status;

use super::pause::{asker, until_words};
use crate::cli::operate::MaintenanceOptions;
use crate::client::{self, Control};
use crate::output::println;
use crate::{configuration, when};

/// A switchover away from the member, and the change of the sync set.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) async fn run(options: &MaintenanceOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let member = &options.member;
    let until_unix_ms = options.until.as_deref().map(when::parse).transpose()?;
    let by = asker(&configuration);
    let request = MaintenanceRequest { member: member.clone(), off: options.off, by, until_unix_ms };
    let answer: OperateAnswer = Control::of(&configuration).post("/v1/maintenance", &request).await?;
    if options.off {
        if options.shared.json {
            println!(
                "{}",
                serde_json::json!({ "member": member, "maintenance": false, "changed": answer.changed })
            );
        } else if answer.changed {
            println!("{member} is at work again: it catches up, and then counts as before");
        } else {
            println!("{member} was not in maintenance");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let status = wait_until_left_alone(&configuration, member).await?;
    if options.shared.json {
        let text = serde_json::json!({
            "member": member, "maintenance": true, "until_unix_ms": until_unix_ms, "primary": status.primary,
        });
        println!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let until = until_words(until_unix_ms);
    println!(
        "{member} is in maintenance{until}: it is not promoted, commits do not wait for it, and balancers are told to leave it"
    );
    println!(
        "a PostgreSQL that is stopped there stays stopped; end it with: mainstay maintenance {member} --off"
    );
    if !status.members.iter().any(|row| row.sync) {
        println!(
            "! no other standby acknowledges commits: if the primary's machine died now, nobody could take over"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// It is not the primary and no commit waits for it.
async fn wait_until_left_alone(configuration: &Configuration, member: &MemberId) -> Result<Status> {
    let asked = Instant::now();
    loop {
        let status = client::any_status(configuration).await?;
        let counts = status.members.iter().any(|row| row.name == *member && row.sync);
        let another = status.primary.as_ref().is_some_and(|primary| primary != member);
        if another && status.writable && !counts {
            return Ok(status);
        }
        if asked.elapsed() > PATIENCE {
            bail!(
                "{member} is marked for maintenance, but the cluster still rests on it: {}; look at: mainstay status",
                status.reason
            );
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
