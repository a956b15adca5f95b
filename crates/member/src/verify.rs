//! The whole cluster, verified on a schedule by its primary.
//!
//! The checks are this program's `verify`, run as a process of its own: whatever it waits for, or however it ends, nothing of
//! the member waits with it. One runs at a time, for a bounded time, and what it prints is read up to a limit. Whoever is no
//! longer the primary ends what runs and forgets what it has found, so that no old finding is shown beside the new primary's.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_core::MemberId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::clock;
use crate::machinery::blocking;
use crate::status::{Role, Status, VerifyStatus};

/// A program and the arguments that it is always given.
#[derive(Clone, Debug)]
pub struct Program {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

/// What a member runs of its own program, which it does not know.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Prints what `mainstay verify --json` does, and ends when its standard input does.
    ///
    /// That its input ends is how it learns that the member is gone, however that has died: the kernel closes the other end.
    pub verify: Program,
    /// Causes the fault that the arguments behind its own name, having said `ready`; see [`crate::control::DrillRequest`].
    pub hit: Program,
}

/// When it is run, and for how long at most.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// From becoming the primary to the first run: those that have to come back after a failover are given time.
    first: Duration,
    /// From a run with failures to the next, at most: so that what is mended is soon seen to be.
    again: Duration,
    /// All checks together end within 30 s.
    patience: Duration,
}

const PACE: Pace = Pace {
    first: Duration::from_secs(60),
    again: Duration::from_secs(300),
    patience: Duration::from_secs(60),
};

/// A report of five members is a hundred lines, of some hundred bytes each.
const MOST_OUTPUT: u64 = 1 << 20;
/// What is read of its complaints: the first line is shown.
const MOST_COMPLAINTS: u64 = 4 << 10;
/// What is gossiped of the names of failed checks.
const MOST_NAMES: usize = 32;

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Verified {
    /// When it began, in milliseconds since 1970.
    pub(crate) at_unix_ms: u64,
    pub(crate) ok: bool,
    /// Also if there is no report: then why there is none.
    pub(crate) failed: Vec<Failed>,
    /// As the program has printed it.
    pub(crate) report: serde_json::Value,
}

/// A check that has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failed {
    pub(crate) check: String,
    /// Whom it is about; `None`: the cluster.
    pub(crate) member: Option<MemberId>,
    pub(crate) finding: String,
    pub(crate) remedy: Option<String>,
}

impl Failed {
    fn name(&self) -> String {
        let member = self.member.as_ref().map(|member| format!(" {member}"));
        format!("{}{}", self.check, member.unwrap_or_default())
    }
}

/// What is read of a report.
#[derive(Deserialize)]
struct Report {
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    check: String,
    member: Option<MemberId>,
    outcome: String,
    finding: String,
    remedy: Option<String>,
}

impl Verified {
    fn of(at_unix_ms: u64, output: &[u8]) -> Result<Verified, String> {
        let unread = |error| format!("its report cannot be read: {error}");
        let report: serde_json::Value = serde_json::from_slice(output).map_err(unread)?;
        let read = Report::deserialize(&report).map_err(unread)?;
        let failed: Vec<Failed> = read
            .lines
            .into_iter()
            .filter(|line| line.outcome == "fail")
            .map(|Line { check, member, finding, remedy, .. }| Failed { check, member, finding, remedy })
            .collect();
        Ok(Verified { at_unix_ms, ok: failed.is_empty(), failed, report })
    }

    fn without_report(at_unix_ms: u64, why: String) -> Verified {
        let remedy = Some("see what `mainstay verify` says by hand".to_owned());
        let failed = vec![Failed { check: "verify".to_owned(), member: None, finding: why, remedy }];
        Verified { at_unix_ms, failed, ..Verified::default() }
    }

    /// What every member's status shows of it.
    pub(crate) fn in_short(&self) -> VerifyStatus {
        let names = self.failed.iter().map(Failed::name).take(MOST_NAMES);
        VerifyStatus {
            at_unix_ms: self.at_unix_ms,
            ok: self.ok,
            failures: self.failed.len() as u64,
            failed: names.collect(),
        }
    }
}

/// The newest run of this member, while it is the primary.
pub(crate) type Seen = watch::Receiver<Option<Arc<Verified>>>;

/// Verifies every `every` while `status` says that this member is the primary, for as long as the runtime lives.
pub(crate) fn start(
    verifier: Program,
    every: watch::Receiver<Option<Duration>>,
    status: watch::Receiver<Arc<Status>>,
) -> Seen {
    start_at(PACE, verifier, every, status)
}

fn start_at(
    pace: Pace,
    verifier: Program,
    every: watch::Receiver<Option<Duration>>,
    status: watch::Receiver<Arc<Status>>,
) -> Seen {
    let (publish, seen) = watch::channel(None);
    tokio::spawn(Schedule { pace, verifier, every, status, publish }.run());
    seen
}

struct Schedule {
    pace: Pace,
    verifier: Program,
    every: watch::Receiver<Option<Duration>>,
    status: watch::Receiver<Arc<Status>>,
    publish: watch::Sender<Option<Arc<Verified>>>,
}

fn is_primary(status: &Arc<Status>) -> bool {
    let own = status.members.iter().find(|row| row.name == status.member);
    status.primary.as_ref() == Some(&status.member) && own.is_some_and(|row| row.role == Role::Primary)
}

impl Schedule {
    async fn run(mut self) {
        while let Some(every) = self.turn().await {
            let (mut wanted, mut status) = (self.every.clone(), self.status.clone());
            tokio::select! {
                () = self.keep(every) => {}
                _ = async { wanted.wait_for(|wanted| *wanted != Some(every)).await.is_ok() } => {}
                _ = async { status.wait_for(|status| !is_primary(status)).await.is_ok() } => {}
            }
            self.publish.send_replace(None);
        }
    }

    /// Waits until there is a schedule and this member is the primary; `None`: the member ends.
    async fn turn(&mut self) -> Option<Duration> {
        loop {
            let every = *self.every.wait_for(Option::is_some).await.ok()?;
            let status = &mut self.status;
            tokio::select! {
                is_there = async { status.wait_for(is_primary).await.is_ok() } => {
                    return every.filter(|_| is_there);
                }
                changed = self.every.changed() => changed.ok()?,
            }
        }
    }

    async fn keep(&self, every: Duration) {
        let mut known = BTreeSet::new();
        let mut wait = self.pace.first.min(every);
        loop {
            tokio::time::sleep(wait).await;
            let begun = Instant::now();
            let verified = self.verify().await;
            match News::of(&verified, &mut known) {
                Some(News::Failed(news)) => warn!("verify: {news}; see: mainstay verify"),
                Some(News::Well) => info!("verify: every check is well again"),
                None => {}
            }
            wait = if verified.ok { every } else { self.pace.again.min(every) };
            wait = wait.saturating_sub(begun.elapsed());
            self.publish.send_replace(Some(Arc::new(verified)));
        }
    }

    /// Whoever drops this kills what runs.
    async fn verify(&self) -> Verified {
        let at_unix_ms = clock::unix_ms();
        let outcome = match tokio::time::timeout(self.pace.patience, self.carry_out()).await {
            Ok(Ok(output)) => Verified::of(at_unix_ms, &output),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("it took longer than {:?} and was killed", self.pace.patience)),
        };
        outcome.unwrap_or_else(|why| Verified::without_report(at_unix_ms, why))
    }

    async fn carry_out(&self) -> Result<Vec<u8>, String> {
        let program = self.verifier.program.display().to_string();
        let mut command = self.command();
        let failed = |error: &dyn std::fmt::Display| format!("{program} cannot be started: {error}");
        // A disk that hangs keeps the program from being read.
        let child = blocking(move || command.spawn()).await.map_err(|error| failed(&error))?;
        let mut child: Child = child.map_err(|error| failed(&error))?;
        // Held while it runs: it ends when this does.
        let input = child.stdin.take();
        let output = read(child.stdout.take(), MOST_OUTPUT);
        let complaints = read(child.stderr.take(), MOST_COMPLAINTS);
        let (output, complaints, status) = tokio::join!(output, complaints, child.wait());
        drop(input);
        let status = status.map_err(|error| format!("it cannot be waited for: {error}"))?;
        if output.len() as u64 == MOST_OUTPUT {
            return Err(format!("it printed more than {MOST_OUTPUT} bytes"));
        }
        // With failed checks the exit code is 1, and there is a report.
        if output.is_empty() {
            let complaints = String::from_utf8_lossy(&complaints);
            let first = complaints.lines().next().unwrap_or("it said nothing");
            return Err(format!("it printed no report ({status}): {first}"));
        }
        Ok(output)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.verifier.program);
        command
            .args(&self.verifier.arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// At most `most` bytes; a program that prints more finds nobody to read it.
async fn read(from: Option<impl AsyncRead + Unpin>, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What could not be read is missing in the report, which then is none.
        let _ = from.take(most).read_to_end(&mut bytes).await;
    }
    bytes
}

/// What the log has not said yet.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// Checks begin to fail.
    Failed(String),
    /// All are well again.
    Well,
}

impl News {
    /// `known` are the checks that had failed before, and becomes those that fail now.
    fn of(verified: &Verified, known: &mut BTreeSet<String>) -> Option<News> {
        let failed = verified.failed.iter().map(Failed::name).collect();
        let before = std::mem::replace(known, failed);
        let new = verified.failed.iter().filter(|failed| !before.contains(&failed.name()));
        let new: Vec<String> =
            new.map(|failed| format!("{} fails: {}", failed.name(), failed.finding)).collect();
        match new.is_empty() {
            false => Some(News::Failed(new.join("; "))),
            true => (verified.ok && !before.is_empty()).then_some(News::Well),
        }
    }
}

#[cfg(test)]
mod tests;
