//! `pause` and `resume`: nobody is promoted, and no PostgreSQL started, by itself.

use std::process::ExitCode;

use anyhow::Result;
use mainstay_member::Configuration;
use mainstay_member::control::operate::{OperateAnswer, PauseRequest};
use mainstay_member::operation::words;

use crate::cli::SharedOptions;
use crate::cli::operate::PauseOptions;
use crate::client::Control;
use crate::output::println;
use crate::{configuration, when};

/// Who asks, in words for people.
pub(crate) fn asker(configuration: &Configuration) -> String {
    let name = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty());
    let own = || nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    format!("{} at {}", name.or_else(own).unwrap_or_else(|| "somebody".to_owned()), configuration.me)
}

/// When something ends by itself, as it is said.
pub(crate) fn until_words(until_unix_ms: Option<u64>) -> String {
    until_unix_ms.map_or_else(String::new, |until| format!(" until {}", words(until)))
}

pub(crate) async fn pause(options: &PauseOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let until_unix_ms = options.until.as_deref().map(when::parse).transpose()?;
    let request = PauseRequest { by: asker(&configuration), until_unix_ms };
    let answer: OperateAnswer = Control::of(&configuration).post("/v1/pause", &request).await?;
    if options.shared.json {
        println!(
            "{}",
            serde_json::json!({ "paused": true, "until_unix_ms": until_unix_ms, "epoch": answer.epoch })
        );
    } else {
        println!(
            "paused{}: nobody is promoted and no PostgreSQL started by itself; leases and fencing go on",
            until_words(until_unix_ms)
        );
        println!("go on with: mainstay resume");
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn resume(options: &SharedOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config)?;
    let answer: OperateAnswer = Control::of(&configuration).post("/v1/resume", &()).await?;
    if options.json {
        println!(
            "{}",
            serde_json::json!({ "paused": false, "changed": answer.changed, "epoch": answer.epoch })
        );
    } else if answer.changed {
        println!("resumed: members are promoted and started by themselves again");
    } else {
        println!("the cluster was not paused");
    }
    Ok(ExitCode::SUCCESS)
}
