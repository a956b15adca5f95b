//! `run`: one member in the foreground.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mainstay_member::{Finish, Program, Programs, notify};

use super::drill;
use crate::cli::RunOptions;
use crate::{configuration, logging};

/// The member left alone and wants to be started anew: "try again", as sysexits.h has it.
pub(super) const LEFT: u8 = 75;

/// A service manager starts a member again at once, so that one that crashes is back before its lease ends. One that
/// cannot run at all holds itself back instead, so that it is tried for ever without filling the log.
const HOLD_BACK: Duration = Duration::from_secs(3);

pub(crate) async fn run(options: &RunOptions) -> Result<ExitCode> {
    let outcome = run_member(options).await;
    if let Err(error) = &outcome
        && notify::is_supervised()
    {
        notify::say(&format!("not running: {error:#}"));
        tokio::time::sleep(HOLD_BACK).await;
    }
    match outcome? {
        Finish::Stopped => Ok(ExitCode::SUCCESS),
        Finish::Left => Ok(ExitCode::from(LEFT)),
    }
}

async fn run_member(options: &RunOptions) -> Result<Finish> {
    let configuration = configuration::load(&options.config.config)?;
    logging::start(options.log_level, options.log_json, &configuration.directory)?;
    end_on_panic();
    let file = options.config.config.clone();
    let reload = Arc::new(move || configuration::load(&file).map_err(|error| error.to_string()));
    let programs = programs(&options.config.config)?;
    drill::heal_in_passing();
    Ok(mainstay_member::run(configuration, reload, programs).await?)
}

/// This program, asked to verify and to cause faults. Its path is looked up now: once an upgrade has replaced the file, the new
/// one is run.
fn programs(config: &Path) -> Result<Programs> {
    let (program, config) = (std::env::current_exe()?, std::path::absolute(config)?);
    let with = |words: &[&str]| {
        let words = words.iter().map(OsString::from);
        let arguments = words.chain([OsString::from("--config"), config.clone().into_os_string()]).collect();
        Program { program: program.clone(), arguments }
    };
    Ok(Programs { verify: with(&["verify", "--json", "--ends-with-input"]), hit: with(&["hit"]) })
}

/// A member of which one thread is gone would go on with the others, and take over no more. Its guard keeps the deadline, and
/// whoever supervises the member starts it anew.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
