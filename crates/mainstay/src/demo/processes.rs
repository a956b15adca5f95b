//! The processes of a demo's members: found by their pid files, never by name.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::place::MemberPlace;

/// Starts the member's process, in a session of its own: it outlives this one.
pub(super) fn start(member: &MemberPlace) -> Result<()> {
    if let Some(pid) = member_pid(member) {
        bail!("{} runs already (process {pid})", member.name);
    }
    let log_directory = member.directory.join("log");
    let log = append(&log_directory.join("member.log"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--log-level", "debug", "--config"]).arg(member.configuration_file());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/").process_group(0);
    let child = command.spawn().with_context(|| format!("cannot start {}", member.name))?;
    // Not waited for: whoever started it may be gone when it ends. A later look at its pid file finds it.
    drop(child);
    Ok(())
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The member's own process, if it lives.
pub(super) fn member_pid(member: &MemberPlace) -> Option<Pid> {
    living(&member.directory.join("state/member.pid"), &member.directory)
}

/// Every process of the member: its own, the guard's, the SQL proxy's, and PostgreSQL's.
pub(super) fn all(member: &MemberPlace) -> Vec<Pid> {
    let guard = living(&member.directory.join("guard/guard.pid"), &member.directory);
    let proxy = mainstay_guard::Companion::pid_of(&member.directory.join("sql-proxy/lock"));
    let proxy = proxy.ok().flatten().map(Pid::from_raw);
    let postgres = mainstay_guard::leftovers(&member.data_directory()).unwrap_or_default();
    let postgres = postgres.into_iter().map(Pid::from_raw);
    member_pid(member).into_iter().chain(guard).chain(proxy).chain(postgres).collect()
}

/// The process in a pid file, if it still is the one that wrote it: its command line names the member's directory.
fn living(pid_file: &Path, directory: &Path) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let named = String::from_utf8_lossy(&command_line).contains(directory.to_str()?);
    (named && !is_zombie(pid)).then(|| Pid::from_raw(pid))
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Sends `signal` to all of them; one that has just ended is no error.
pub(super) fn signal(pids: &[Pid], signal: Signal) -> Result<()> {
    for pid in pids {
        match kill(*pid, signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => bail!("cannot send {signal} to process {pid}: {error}; are you root?"),
        }
    }
    Ok(())
}
