//! A fault on purpose, asked for on another machine, where it is measured.
//!
//! A process of its own causes it: one that is to kill this member, or to cut its machine off, must outlive it.

use std::process::Stdio;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tracing::warn;

use super::caller::Caller;
use super::input::Asked;
use super::{Control, Refuse};
use crate::machinery::blocking;

/// It asks this member for its status and looks at some processes.
const READY_PATIENCE: Duration = Duration::from_secs(5);
/// No fault lasts longer, whatever is asked for.
const LONGEST_MS: u64 = 60_000;
/// One line, or the beginning of it.
const MOST_WORDS: u64 = 4 << 10;

/// Which fault, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillRequest {
    /// `kill`, `freeze` or `cut`.
    pub fault: String,
    /// `postgresql` or `member`: what is killed.
    pub scope: String,
    /// How long a freeze or a cut lasts: 1,000 to 60,000.
    pub for_ms: u64,
}

pub(super) async fn drill(
    State(control): State<Control>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Asked(request): Asked<DrillRequest>,
) -> Result<Json<DrillRequest>, Refuse> {
    caller.may_drill()?;
    let DrillRequest { fault, scope, for_ms } = &request;
    let known = ["kill", "freeze", "cut"].contains(&fault.as_str());
    if !known || !["postgresql", "member"].contains(&scope.as_str()) {
        return Err(Refuse::bad_input(format!("there is no fault {fault:?} of {scope:?}"))
            .remedy("ask for kill, freeze or cut, of postgresql or member"));
    }
    if !(1_000..=LONGEST_MS).contains(for_ms) {
        return Err(Refuse::bad_input(format!("for_ms {for_ms} is not between 1000 and {LONGEST_MS}")));
    }
    let mut command = Command::new(&control.hit.program);
    command.args(&control.hit.arguments).args([fault, "--scope", scope, "--for-ms", &for_ms.to_string()]);
    // In a group of its own, and not killed with anything of this member: it outlives it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    warn!(by = caller.name(), "a drill: {fault} of {scope}");
    let failed = |why: String| Refuse::failed(format!("the drill cannot be started: {why}"));
    let child = blocking(move || command.spawn()).await.map_err(|error| failed(error.to_string()))?;
    let child = child.map_err(|error| failed(error.to_string()))?;
    let mut unready = Unready(Some(child));
    match tokio::time::timeout(READY_PATIENCE, ready(&mut unready)).await {
        Ok(Ok(())) => {
            // Nobody kills it any more: whatever it does, it has to undo.
            unready.0 = None;
            Ok(Json(request))
        }
        Ok(Err(why)) => Err(Refuse::conflict(why)),
        Err(_) => Err(failed(format!("it is not ready within {READY_PATIENCE:?}"))),
    }
}

/// One that has not said yet that it begins. It is killed with this, also if whoever asked is gone: a fault that comes late, or
/// that nobody measures, is none that was asked for.
struct Unready(Option<Child>);

impl Drop for Unready {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself.
            let _ = child.start_kill();
        }
    }
}

/// Waits until it says that it begins; else why it does not.
async fn ready(unready: &mut Unready) -> Result<(), String> {
    let Some(child) = &mut unready.0 else { return Ok(()) };
    if first_line(child.stdout.take()).await == "ready" {
        return Ok(());
    }
    let why = first_line(child.stderr.take()).await;
    let why = why.strip_prefix("mainstay: ").unwrap_or(&why);
    Err(if why.is_empty() { "the drill has ended without a word".to_owned() } else { why.to_owned() })
}

async fn first_line(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut line = String::new();
    if let Some(from) = from {
        // What cannot be read is not `ready`.
        let _ = BufReader::new(from.take(MOST_WORDS)).read_line(&mut line).await;
    }
    line.trim().to_owned()
}
