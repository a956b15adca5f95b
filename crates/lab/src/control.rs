//! What a member says of itself on its control socket: the JSON of `status` and of `explain`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mainstay_core::MemberId;
use mainstay_core::decide::Decision;
use mainstay_core::view::View;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A member that lives answers from memory; on a busy machine it may have to wait for a CPU.
const PATIENCE: Duration = Duration::from_millis(500);

/// Of `status --json` what the lab looks at.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub member: MemberId,
    pub epoch: u64,
    pub phase: String,
    pub primary: Option<MemberId>,
    pub writable: bool,
    pub members: Vec<Row>,
    pub at_risk_bytes: u64,
    #[serde(default)]
    pub leads: bool,
    pub reason: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    pub name: MemberId,
    pub kind: String,
    pub role: String,
    pub epoch: Option<u64>,
    pub timeline: Option<u64>,
    pub lag_bytes: Option<u64>,
    pub sync: bool,
    #[serde(default)]
    pub votes: bool,
    pub reason: Option<String>,
}

impl Status {
    /// Whether the member streams from the present primary and counts for commits.
    pub fn streams(&self, member: &MemberId) -> bool {
        let row = self.members.iter().find(|row| row.name == *member);
        row.is_some_and(|row| {
            row.role == "standby" && row.sync && row.lag_bytes.is_some() && row.epoch == Some(self.epoch)
        })
    }

    /// Whether it is open, and every other data member streams and counts.
    pub fn is_whole(&self) -> bool {
        let others =
            self.members.iter().filter(|row| row.kind == "data" && Some(&row.name) != self.primary.as_ref());
        self.writable && self.phase == "open" && others.into_iter().all(|row| self.streams(&row.name))
    }

    /// Whether that is so, and every one of `count` members votes.
    pub fn is_whole_with(&self, count: usize) -> bool {
        self.is_whole() && self.members.len() == count && self.members.iter().all(|row| row.votes)
    }

    /// Whether commits are acknowledged by the primary alone.
    pub fn is_alone(&self) -> bool {
        self.writable && self.members.iter().all(|row| !row.sync)
    }
}

/// One decision as `explain --json` prints it.
#[derive(Clone, Debug, Deserialize)]
pub struct Explanation {
    pub epoch: u64,
    pub because: Vec<String>,
    pub decision: Decision,
    pub view: View,
}

pub fn status(socket: &Path) -> Result<Status> {
    get(socket, "/v1/status")
}

/// The last decisions, the oldest first.
pub fn explain(socket: &Path, last: usize) -> Result<Vec<Explanation>> {
    get(socket, &format!("/v1/explain?last={last}"))
}

/// The same as text, for a person who looks for the cause of a failure.
pub fn explain_text(socket: &Path, last: usize) -> Result<String> {
    body(socket, &format!("/v1/explain?last={last}"))
}

fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T> {
    let body = body(socket, path)?;
    serde_json::from_str(&body).with_context(|| format!("{}{path} answers another form", socket.display()))
}

fn body(socket: &Path, path: &str) -> Result<String> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("{} is silent", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("{} does not answer", socket.display()))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an answer of HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("{}{path}: {status}: {}", socket.display(), body.trim());
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(rows: &str, primary: &str) -> Status {
        let text = format!(
            r#"{{"member": "m1", "epoch": 4, "phase": "open", "primary": {primary}, "writable": true, "members": [{rows}],
                "at_risk_bytes": 0, "reason": "", "more": 1}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn row(name: &str, role: &str, sync: bool, epoch: u64) -> String {
        format!(
            r#"{{"name": "{name}", "kind": "data", "role": "{role}", "epoch": {epoch}, "timeline": 1, "lag_bytes": 0, "sync": {sync}, "reason": null}}"#
        )
    }

    #[test]
    fn whole_means_that_every_standby_counts_in_this_epoch() {
        let of = |sync, epoch| [row("m1", "primary", false, 4), row("m2", "standby", sync, epoch)].join(",");
        assert!(status(&of(true, 4), r#""m1""#).is_whole());
        assert!(!status(&of(false, 4), r#""m1""#).is_whole());
        assert!(!status(&of(true, 3), r#""m1""#).is_whole());
        assert!(status(&of(false, 4), r#""m1""#).is_alone());
        assert!(!status(&of(true, 4), r#""m1""#).is_alone());
    }
}
