//! What a unit file says, as far as the supervisor does it. A directive that it does not know is an error: it would be tested
//! by nobody, and nobody would notice.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Directives of the unit that mean nothing to a member in the lab, each with the reason.
const NOT_DONE: &[(&str, &str)] = &[
    ("Description", "for people"),
    ("Documentation", "for people"),
    ("Wants", "other units"),
    ("After", "other units"),
    ("RequiresMountsFor", "other units"),
    ("WantedBy", "other units"),
    ("ConditionPathExists", "the lab's members are configured"),
    ("NotifyAccess", "the socket is the member's own"),
    ("Delegate", "the lab's processes share one control group, below which the guard makes its own"),
    ("OOMPolicy", "memory is not short"),
    ("OOMScoreAdjust", "memory is not short"),
    ("LimitMEMLOCK", "root is not limited"),
    ("LimitRTPRIO", "root is not limited"),
    ("LimitNOFILE", "the lab's members are small"),
    ("TasksMax", "the lab's members are small"),
    ("ExecReload", "a scenario asks the member itself"),
    ("LockPersonality", "a filter of system calls"),
    ("SystemCallArchitectures", "a filter of system calls"),
];

/// Who gets SIGTERM, and who SIGKILL at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillMode {
    /// The main process gets both.
    Process,
    /// SIGTERM is for the main process, SIGKILL for everything.
    Mixed,
    /// Everything gets both.
    ControlGroup,
}

/// Which ends are followed by a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    No,
    OnFailure,
    Always,
}

/// Times are systemd's defaults where the file has none.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// Program and arguments.
    pub exec_start: Vec<String>,
    pub exec_stop_post: Vec<Vec<String>>,
    pub notifies: bool,
    pub restart: Restart,
    pub restart_pause: Duration,
    /// Exit codes that are as good as 0.
    pub success_codes: Vec<i32>,
    pub kill_mode: KillMode,
    /// `None`: no sign of life is wanted.
    pub watchdog: Option<Duration>,
    pub abort_timeout: Duration,
    pub start_timeout: Duration,
    pub stop_timeout: Duration,
    /// For `setpriv --bounding-set`; empty: all capabilities are kept.
    pub bounding_set: String,
}

impl Unit {
    pub fn read(path: &Path) -> Result<Unit> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Unit::parse(&text).with_context(|| format!("{} is not understood", path.display()))
    }

    pub fn parse(text: &str) -> Result<Unit> {
        let mut unit = Unit {
            exec_start: Vec::new(),
            exec_stop_post: Vec::new(),
            notifies: false,
            restart: Restart::No,
            restart_pause: Duration::from_millis(100),
            success_codes: vec![0],
            kill_mode: KillMode::ControlGroup,
            watchdog: None,
            abort_timeout: Duration::from_secs(90),
            start_timeout: Duration::from_secs(90),
            stop_timeout: Duration::from_secs(90),
            bounding_set: String::new(),
        };
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';', '[']) {
                continue;
            }
            let (name, value) = line.split_once('=').with_context(|| format!("`{line}` is no directive"))?;
            unit.take(name, value).with_context(|| format!("`{line}`"))?;
        }
        ensure!(!unit.exec_start.is_empty(), "there is no ExecStart");
        Ok(unit)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<()> {
        let words = || value.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        match name {
            "Type" => self.notifies = value == "notify",
            "ExecStart" => self.exec_start = words(),
            "ExecStopPost" => self.exec_stop_post.push(words()),
            "Restart" => {
                self.restart = match value {
                    "always" => Restart::Always,
                    "on-failure" => Restart::OnFailure,
                    "no" => Restart::No,
                    _ => bail!("only always, on-failure and no are known"),
                }
            }
            "RestartSec" => self.restart_pause = duration(value)?,
            // Nothing but "never give up" is done here.
            "StartLimitIntervalSec" => ensure!(value == "0", "only 0 is known"),
            "SuccessExitStatus" => {
                self.success_codes.push(value.parse().context("only one number is known")?)
            }
            "KillMode" => {
                self.kill_mode = match value {
                    "process" => KillMode::Process,
                    "mixed" => KillMode::Mixed,
                    "control-group" => KillMode::ControlGroup,
                    _ => bail!("only process, mixed and control-group are known"),
                }
            }
            "WatchdogSec" => self.watchdog = Some(duration(value)?),
            "TimeoutAbortSec" => self.abort_timeout = duration(value)?,
            "TimeoutStartSec" => self.start_timeout = duration(value)?,
            "TimeoutStopSec" => self.stop_timeout = duration(value)?,
            "CapabilityBoundingSet" => self.bounding_set = bounding_set(value)?,
            _ if NOT_DONE.iter().any(|(known, _)| *known == name) => {}
            _ => bail!("the supervisor does not know it; do it there, or say there why not"),
        }
        Ok(())
    }
}

/// Seconds without a unit, as systemd has it.
fn duration(text: &str) -> Result<Duration> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().with_context(|| format!("`{text}` is no time"))?;
    Ok(match unit {
        "" | "s" => Duration::from_secs(number),
        "ms" => Duration::from_millis(number),
        "min" => Duration::from_secs(number * 60),
        _ => bail!("`{text}` is no time; s, ms and min are known"),
    })
}

/// `~CAP_A CAP_B`: all but these, as `setpriv` writes it.
fn bounding_set(value: &str) -> Result<String> {
    let names = value.strip_prefix('~').context("only a list of what is taken away is known")?;
    let one = |name: &str| {
        let name = name.strip_prefix("CAP_").with_context(|| format!("{name} is no capability"))?;
        Ok(format!("-{}", name.to_lowercase()))
    };
    Ok(names.split_whitespace().map(one).collect::<Result<Vec<_>>>()?.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_unit_is_understood() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/mainstay.service"));
        let unit = Unit::read(path).unwrap();
        assert_eq!(unit.exec_start, ["/usr/bin/mainstay", "run"]);
        assert_eq!((unit.kill_mode, unit.restart), (KillMode::Process, Restart::Always));
        assert!(unit.notifies && unit.watchdog.is_some());
        assert_eq!(unit.success_codes, [0, 75]);
        assert!(unit.bounding_set.contains("-sys_boot,"), "{}", unit.bounding_set);
        // The lease is 3 s, of which 2 s are left in the worst case: a member that crashes must be back before.
        assert!(unit.restart_pause <= Duration::from_millis(200));
    }

    #[test]
    fn what_nobody_would_test_is_refused() {
        let error = Unit::parse("[Service]\nExecStart=/bin/true\nPrivateTmp=yes\n").unwrap_err();
        assert!(format!("{error:#}").contains("PrivateTmp"), "{error:#}");
        assert!(Unit::parse("[Service]\n").is_err());
        assert!(Unit::parse("[Service]\nExecStart=/bin/true\nRestartSec=2h\n").is_err());
    }
}
