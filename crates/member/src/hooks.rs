//! The operator's programs that are told of a change of role: beside everything else, never in its way.
//!
//! One runs at a time, for a bounded time; of the changes that come meanwhile only the newest is kept. What a program does, or
//! whether it fails, changes nothing here but a line in the log.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use mainstay_core::record::Record;
use mainstay_core::{Epoch, MemberId, Timeline};
use mainstay_postgres::tools::RunAs;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::configuration::Configuration;
use crate::status::Role;

/// What is run, and for how long at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Program and arguments; empty: nothing.
    pub on_role_change: Vec<String>,
    pub timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Hooks {
        Hooks { on_role_change: Vec::new(), timeout: Duration::from_secs(30) }
    }
}

/// What the member is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleNow {
    pub(crate) role: Role,
    pub(crate) epoch: Epoch,
    pub(crate) timeline: Option<Timeline>,
    pub(crate) reason: String,
}

impl RoleNow {
    /// Whether a program is to be told: the role is another, or the epoch of a primary.
    fn differs(&self, newer: &RoleNow) -> bool {
        self.role != newer.role || newer.role == Role::Primary && self.epoch != newer.epoch
    }
}

/// Where the loop says what the member is; it never waits for what becomes of that.
pub(crate) struct Hook {
    now: watch::Sender<Option<RoleNow>>,
}

impl Hook {
    /// Runs the programs from now on, until the runtime ends.
    pub(crate) fn start(configuration: &Configuration, run_as: Option<RunAs>) -> Hook {
        let (member, cluster) = (configuration.me.clone(), configuration.cluster.clone());
        Hook::of(Runner { hooks: configuration.hooks.clone(), run_as, member, cluster })
    }

    fn of(runner: Runner) -> Hook {
        let (now, seen) = watch::channel(None);
        if !runner.hooks.on_role_change.is_empty() {
            tokio::spawn(run(runner, seen));
        }
        Hook { now }
    }

    pub(crate) fn tell(&self, role: Role, record: &Record, timeline: Option<Timeline>, reason: &str) {
        let settled = !matches!(role, Role::Starting | Role::Unknown);
        let now = RoleNow { role, epoch: record.epoch, timeline, reason: reason.to_owned() };
        self.now.send_if_modified(|before| {
            let news = settled && before.as_ref().is_none_or(|before| before.differs(&now));
            if news {
                *before = Some(now);
            }
            news
        });
    }
}

struct Runner {
    hooks: Hooks,
    run_as: Option<RunAs>,
    member: MemberId,
    cluster: String,
}

async fn run(runner: Runner, mut seen: watch::Receiver<Option<RoleNow>>) {
    let mut told: Option<RoleNow> = None;
    while seen.changed().await.is_ok() {
        let Some(now) = seen.borrow_and_update().clone() else { continue };
        // While a program ran it may have become something else and back again.
        if told.as_ref().is_some_and(|told| !told.differs(&now)) {
            continue;
        }
        runner.call(told.as_ref(), &now).await;
        told = Some(now);
    }
}

impl Runner {
    async fn call(&self, before: Option<&RoleNow>, now: &RoleNow) {
        let program = &self.hooks.on_role_change[0];
        let role = now.role.as_str();
        let mut child = match self.command(before, now).spawn() {
            Ok(child) => child,
            Err(error) => return warn!("on_role_change {program:?} cannot be started: {error}"),
        };
        let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        log_output(child.stdout.take());
        log_output(child.stderr.take());
        let ended = tokio::time::timeout(self.hooks.timeout, wait(&mut child)).await;
        // Whatever it left behind goes with it. The leader is not reaped before: its number is nobody else's yet.
        if let Some(group) = group.filter(|_| ended.is_err()) {
            let _ = killpg(group, Signal::SIGKILL);
        }
        match ended {
            Ok(Ok(status)) if status.success() => info!("on_role_change {program:?} was told of {role}"),
            Ok(Ok(status)) => warn!("on_role_change {program:?} failed at {role}: {status}"),
            Ok(Err(error)) => warn!("on_role_change {program:?} cannot be waited for: {error}"),
            Err(_) => {
                let _ = child.wait().await;
                warn!("on_role_change {program:?} took longer than {:?} and was killed", self.hooks.timeout);
            }
        }
    }

    fn command(&self, before: Option<&RoleNow>, now: &RoleNow) -> Command {
        let (program, arguments) =
            self.hooks.on_role_change.split_first().expect("checked when it was started");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true).current_dir("/");
        let timeline = now.timeline.map(|timeline| timeline.0.to_string()).unwrap_or_default();
        command
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("MAINSTAY_ROLE", now.role.as_str())
            .env("MAINSTAY_OLD_ROLE", before.map_or("", |before| before.role.as_str()))
            .env("MAINSTAY_EPOCH", now.epoch.0.to_string())
            .env("MAINSTAY_TIMELINE", timeline)
            .env("MAINSTAY_REASON", &now.reason)
            .env("MAINSTAY_MEMBER", self.member.as_str())
            .env("MAINSTAY_CLUSTER", &self.cluster);
        if let Some(user) = self.run_as.as_ref().filter(|_| nix::unistd::geteuid().is_root()) {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }
}

async fn wait(child: &mut Child) -> std::io::Result<ExitStatus> {
    child.wait().await
}

/// Each line that it prints becomes one of the member's log.
fn log_output(output: Option<impl AsyncRead + Unpin + Send + 'static>) {
    let Some(output) = output else { return };
    tokio::spawn(async move {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            info!("on_role_change: {line}");
        }
    });
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let path = std::env::temp_dir().join(format!("mainstay-hooks-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).expect("made");
            Place(path)
        }

        async fn lines(&self, count: usize) -> Vec<String> {
            let until = Instant::now() + Duration::from_secs(20);
            loop {
                let text = std::fs::read_to_string(self.0.join("told")).unwrap_or_default();
                let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                if lines.len() >= count || Instant::now() > until {
                    return lines;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn hook(script: &str, timeout: Duration) -> Hook {
        let on_role_change = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let member = MemberId::new("m1").expect("a name");
        let hooks = Hooks { on_role_change, timeout };
        Hook::of(Runner { hooks, run_as: None, member, cluster: "main".to_owned() })
    }

    fn record(epoch: u64) -> Record {
        Record { epoch: Epoch(epoch), ..Record::default() }
    }

    #[tokio::test]
    async fn a_program_is_told_what_the_member_is_and_was() {
        let place = Place::new("told");
        let file = place.0.join("told");
        let told = format!(
            "echo $MAINSTAY_OLD_ROLE $MAINSTAY_ROLE $MAINSTAY_EPOCH $MAINSTAY_TIMELINE $MAINSTAY_MEMBER $MAINSTAY_CLUSTER $MAINSTAY_REASON >> {}",
            file.display()
        );
        let hook = hook(&told, Duration::from_secs(20));
        hook.tell(Role::Standby, &record(1), Some(Timeline(3)), "streaming from m2");
        assert_eq!(place.lines(1).await, ["standby 1 3 m1 main streaming from m2"]);
        // What it passes through on the way, and what is said twice, is no news.
        hook.tell(Role::Starting, &record(1), None, "promoting");
        hook.tell(Role::Standby, &record(1), Some(Timeline(3)), "streaming from m2");
        hook.tell(Role::Primary, &record(2), Some(Timeline(5)), "primary of epoch 2");
        let second = "standby primary 2 5 m1 main primary of epoch 2";
        assert_eq!(place.lines(2).await, ["standby 1 3 m1 main streaming from m2", second]);
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_its_children_and_only_the_newest_role_waits() {
        let place = Place::new("hangs");
        let (told, pid) = (place.0.join("told"), place.0.join("pid"));
        let script = format!(
            "echo $MAINSTAY_ROLE $MAINSTAY_EPOCH >> {}; if [ $MAINSTAY_EPOCH = 1 ]; then sleep 600 & echo $! > {}; wait; fi",
            told.display(),
            pid.display()
        );
        let hook = hook(&script, Duration::from_millis(700));
        hook.tell(Role::Primary, &record(1), None, "");
        assert_eq!(place.lines(1).await, ["primary 1"]);
        for epoch in 2..=4 {
            hook.tell(Role::Standby, &record(epoch), None, "");
            hook.tell(Role::Primary, &record(epoch), None, "");
        }
        assert_eq!(place.lines(2).await, ["primary 1", "primary 4"]);
        let child: i32 = std::fs::read_to_string(pid).expect("written").trim().parse().expect("a number");
        let until = Instant::now() + Duration::from_secs(20);
        let alive = || {
            let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        };
        while alive() {
            assert!(Instant::now() < until, "its child is left");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
