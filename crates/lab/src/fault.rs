//! The faults, each done from outside: by signals, by the network, by the disk, or by an operator's wrong hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::cluster::Cluster;
use crate::heal::Undo;
use crate::member::Member;
use crate::process::{self, Kind, Process};
use crate::program;
use crate::{clock, interrupt};

/// What was sent SIGKILL goes at once, unless a disk holds it or a thread of it is being traced.
const KILL_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    KillPostmaster,
    KillPostgres,
    KillBackend,
    KillMachine,
    KillMember,
    KillGuard,
    KillSqlProxy,
    KillVip,
    StopVip,
    StopPostgres,
    StopMember,
    HangMainLoop,
    StopGuardAndMember,
    StopMachine,
    StopWalreceiver,
    LinkDown,
    PacketsLost,
    CutOutgoing,
    CutFromMembers,
    CutLink,
    ClosePort,
    FreezeDisk,
    FillDisk,
    DeleteData,
    PromoteByHand,
}

/// The words of scenarios, each with its meaning.
pub const WORDS: &[(&str, Fault, &str)] = &[
    ("kill-postmaster", Fault::KillPostmaster, "SIGKILL to the postmaster alone"),
    ("kill-postgres", Fault::KillPostgres, "SIGKILL to every process of PostgreSQL"),
    ("kill-backend", Fault::KillBackend, "SIGKILL to one session's process"),
    ("kill-machine", Fault::KillMachine, "SIGKILL to member, guard and PostgreSQL"),
    ("kill-member", Fault::KillMember, "SIGKILL to the member's process alone"),
    ("kill-guard", Fault::KillGuard, "SIGKILL to the guard alone"),
    ("kill-sql-proxy", Fault::KillSqlProxy, "SIGKILL to the SQL proxy alone"),
    ("kill-vip", Fault::KillVip, "SIGKILL to the process that holds the virtual address"),
    ("stop-vip", Fault::StopVip, "SIGSTOP to it"),
    ("stop-postgres", Fault::StopPostgres, "SIGSTOP to every process of PostgreSQL"),
    ("stop-member", Fault::StopMember, "SIGSTOP to the member's process alone"),
    (
        "hang-main-loop",
        Fault::HangMainLoop,
        "the thread of the member's main loop stands still, its others go on",
    ),
    ("stop-guard-and-member", Fault::StopGuardAndMember, "SIGSTOP to both; PostgreSQL goes on"),
    ("stop-machine", Fault::StopMachine, "SIGSTOP to member, guard and PostgreSQL"),
    ("stop-walreceiver", Fault::StopWalreceiver, "SIGSTOP to the process that receives WAL"),
    ("link-down", Fault::LinkDown, "the cable is pulled, and the member sees it"),
    ("packets-lost", Fault::PacketsLost, "the cable is pulled behind the switch"),
    ("cut-outgoing", Fault::CutOutgoing, "what it sends to other members vanishes; clients still reach it"),
    ("cut-from-members", Fault::CutFromMembers, "nothing passes to or from other members; clients reach it"),
    ("cut-link", Fault::CutLink, "nothing passes between two members"),
    (
        "close-port",
        Fault::ClosePort,
        "`close-port 5432 of m1 to m2`: what m2 sends to that port of m1 has no answer",
    ),
    ("freeze-disk", Fault::FreezeDisk, "every write to its data directory waits"),
    ("fill-disk", Fault::FillDisk, "no room is left under its data directory"),
    ("delete-data", Fault::DeleteData, "the data directory is deleted under the running server"),
    ("promote-by-hand", Fault::PromoteByHand, "somebody calls pg_ctl promote"),
];

impl Fault {
    pub fn parse(word: &str) -> Option<Fault> {
        WORDS.iter().find(|(name, _, _)| *name == word).map(|(_, fault, _)| *fault)
    }

    pub fn word(self) -> &'static str {
        WORDS.iter().find(|(_, fault, _)| *fault == self).map_or("", |(name, _, _)| name)
    }
}

/// Does the fault at every target, as nearly at once as signals allow.
pub fn perform(cluster: &mut Cluster, fault: Fault, targets: &[String]) -> Result<()> {
    for target in targets {
        let namespace = cluster.member(target)?.namespace.clone();
        cluster.segments.remember(&namespace);
    }
    match fault {
        Fault::KillPostmaster | Fault::KillBackend => {
            let pick = if fault == Fault::KillPostmaster { postmaster } else { session };
            let pids = targets.iter().map(|target| pick(cluster.member(target)?));
            process::signal(pids.collect::<Result<Vec<i32>>>()?, Signal::SIGKILL)
        }
        Fault::KillPostgres => kill(cluster, targets, |kind| kind == Kind::Postgres),
        Fault::KillMember => kill(cluster, targets, |kind| kind == Kind::Member),
        Fault::KillGuard => kill(cluster, targets, |kind| kind == Kind::Guard),
        Fault::KillSqlProxy => kill(cluster, targets, |kind| kind == Kind::SqlProxy),
        Fault::KillVip => kill(cluster, targets, |kind| kind == Kind::Vip),
        Fault::StopVip => stop(cluster, fault, targets, |process| process.kind == Kind::Vip),
        Fault::KillMachine => targets.iter().try_for_each(|target| cluster.member_mut(target)?.kill_all()),
        Fault::StopPostgres => stop(cluster, fault, targets, |process| process.kind == Kind::Postgres),
        Fault::StopMember => stop(cluster, fault, targets, |process| process.kind == Kind::Member),
        Fault::HangMainLoop => targets.iter().try_for_each(|target| hang(cluster.member(target)?)),
        Fault::StopGuardAndMember => {
            stop(cluster, fault, targets, |process| matches!(process.kind, Kind::Guard | Kind::Member))
        }
        Fault::StopMachine => stop(cluster, fault, targets, |_| true),
        Fault::StopWalreceiver => {
            stop(cluster, fault, targets, |process| title(process.pid).contains("walreceiver"))
        }
        Fault::LinkDown | Fault::PacketsLost => cut_off(cluster, fault, targets),
        Fault::CutOutgoing | Fault::CutFromMembers | Fault::CutLink => cut(cluster, fault, targets),
        Fault::ClosePort => bail!("close-port wants a port and two members; see close_port"),
        Fault::FreezeDisk | Fault::FillDisk => at_disk(cluster, fault, targets),
        Fault::DeleteData => {
            targets.iter().try_for_each(|target| delete(&cluster.member(target)?.site.data_directory))
        }
        Fault::PromoteByHand => targets.iter().try_for_each(|target| promote(cluster.member(target)?)),
    }
}

fn kill(cluster: &Cluster, targets: &[String], wanted: impl Fn(Kind) -> bool) -> Result<()> {
    let mut killed = Vec::new();
    for target in targets {
        let pids = cluster.member(target)?.pids(&wanted);
        anyhow::ensure!(!pids.is_empty(), "nothing of the kind runs on {target}");
        process::signal(pids.iter().copied(), Signal::SIGKILL)?;
        killed.extend(pids);
    }
    // What comes next may start them again, and finds none of them then, also where the machine is busy.
    let deadline = clock::now().plus(KILL_PATIENCE);
    let gone = || killed.iter().all(|pid| process::look(*pid).is_none()).then_some(());
    interrupt::wait_until(deadline, LOOK_INTERVAL, gone)?.context("what was killed does not end")
}

fn postmaster(member: &Member) -> Result<i32> {
    let found = member.process(Kind::Postgres);
    found.map(|process| process.pid).with_context(|| format!("no PostgreSQL runs on {}", member.name()))
}

/// A session of an application, or else a process that every server has: the postmaster treats both alike.
fn session(member: &Member) -> Result<i32> {
    let all = member.pids(|kind| kind == Kind::Postgres);
    let find = |what: &str| all.iter().copied().find(|pid| title(*pid).contains(what));
    find("postgres: app app").or_else(|| find("walwriter")).context("no session runs there")
}

fn title(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

fn stop(
    cluster: &mut Cluster,
    fault: Fault,
    targets: &[String],
    wanted: impl Fn(&Process) -> bool,
) -> Result<()> {
    let mut all = Vec::new();
    for target in targets {
        let stopped: Vec<(i32, u64)> = cluster
            .member(target)?
            .processes()
            .into_iter()
            .filter(&wanted)
            .map(|process| (process.pid, process.started_ticks))
            .collect();
        anyhow::ensure!(!stopped.is_empty(), "nothing of the kind runs on {target}");
        all.extend(stopped);
    }
    process::signal(all.iter().map(|(pid, _)| *pid), Signal::SIGSTOP)?;
    cluster.outstanding.push(fault, Undo::Continue { stopped: all });
    Ok(())
}

fn cut_off(cluster: &mut Cluster, fault: Fault, targets: &[String]) -> Result<()> {
    for target in targets {
        let place = cluster.member(target)?.site.place;
        let undo = if fault == Fault::LinkDown {
            cluster.network.set_link(place, false)?;
            Undo::LinkUp { place }
        } else {
            cluster.network.set_attached(place, false)?;
            Undo::Attach { place }
        };
        cluster.outstanding.push(fault, undo);
    }
    Ok(())
}

fn cut(cluster: &mut Cluster, fault: Fault, targets: &[String]) -> Result<()> {
    let places: Vec<u8> =
        targets.iter().map(|target| Ok(cluster.member(target)?.site.place)).collect::<Result<_>>()?;
    let everybody: Vec<u8> = cluster.members.iter().map(|member| member.site.place).collect();
    let others = |place: u8| everybody.iter().copied().filter(move |other| *other != place);
    let mut pairs: Vec<(u8, Vec<u8>)> = Vec::new();
    match (fault, places.as_slice()) {
        (Fault::CutLink, [one, other]) => {
            pairs.extend([(*one, vec![*other]), (*other, vec![*one])]);
        }
        (Fault::CutLink, _) => bail!("cut-link needs two members"),
        _ => {
            for place in &places {
                pairs.push((*place, others(*place).collect()));
                if fault == Fault::CutFromMembers {
                    pairs.extend(others(*place).map(|other| (other, vec![*place])));
                }
            }
        }
    }
    for (from, to) in pairs {
        cluster.network.blackhole(from, &to, true)?;
        cluster.outstanding.push(fault, Undo::Routes { from, to });
    }
    Ok(())
}

/// Nothing that `from` sends to `port` of `of` has an answer.
pub fn close_port(cluster: &mut Cluster, port: u16, of: &str, from: &str) -> Result<()> {
    let (of, from) = (cluster.member(of)?.site.place, cluster.member(from)?.site.place);
    cluster.network.set_port(of, port, from, false)?;
    cluster.outstanding.push(Fault::ClosePort, Undo::OpenPort { of, port, from });
    Ok(())
}

fn at_disk(cluster: &mut Cluster, fault: Fault, targets: &[String]) -> Result<()> {
    for target in targets {
        let place = cluster.member(target)?.site.place;
        let disk = cluster.disks.get(&place).context("the cluster has no disks of its own")?;
        let undo = if fault == Fault::FreezeDisk {
            disk.freeze()?;
            Undo::Thaw { place }
        } else {
            disk.fill()?;
            Undo::Empty { place }
        };
        cluster.outstanding.push(fault, undo);
    }
    Ok(())
}

/// A signal would stop all threads; a debugger can stop one. The main loop runs on the first, whose number is the process's.
/// Nothing undoes it but the member's end.
fn hang(member: &Member) -> Result<()> {
    let process = member.process(Kind::Member).with_context(|| format!("{} does not run", member.name()))?;
    let thread = Pid::from_raw(process.pid);
    ptrace::seize(thread, ptrace::Options::empty())
        .and_then(|()| ptrace::interrupt(thread))
        .with_context(|| format!("cannot stop the main thread of {}", member.name()))
}

/// As `rm -r` does it while a server goes on making files.
fn delete(data: &Path) -> Result<()> {
    let mut last = Ok(());
    for _ in 0..20 {
        last = fs::remove_dir_all(data);
        if !data.exists() {
            return Ok(());
        }
    }
    last.with_context(|| format!("cannot delete {}", data.display()))
}

fn promote(member: &Member) -> Result<()> {
    let pid = postmaster(member)?;
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_else(|_| PathBuf::from("postgres"));
    let tool = program.with_file_name("pg_ctl").display().to_string();
    let data = member.site.data_directory.display().to_string();
    let user = ["--reuid=postgres", "--regid=postgres", "--init-groups"];
    let arguments: Vec<&str> =
        user.into_iter().chain([tool.as_str(), "promote", "-W", "-D", &data]).collect();
    program::run("setpriv", &arguments).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_one_word() {
        for (word, fault, _) in WORDS {
            assert_eq!(Fault::parse(word), Some(*fault));
            assert_eq!(fault.word(), *word);
        }
        assert_eq!(Fault::parse("kill"), None);
    }
}
