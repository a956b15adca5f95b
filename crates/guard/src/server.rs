//! The server's life: started, watched, stopped, and ended for certain.

mod ending;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid as RawPid;

use ending::own_descendants;

use crate::cgroup::Cgroup;
use crate::clock::boottime_ns;
use crate::door::ConnectionId;
use crate::guard::Guard;
use crate::launch::{Launch, Progress, Step};
use crate::leftovers::Victims;
use crate::process;
use crate::protocol::{Cause, Event, Exit, Message, Phase, Pid, Refusal, Remaining, Reply, RunAs, Start};

#[derive(Debug)]
pub(crate) struct Server {
    life: Life,
    /// Our child, not yet waited for: so its pid cannot come to mean another process.
    postmaster: Option<Pid>,
    launch: Option<PendingLaunch>,
    /// Exec happened, so that its end is worth an event.
    is_known: bool,
    user: Option<RunAs>,
    cgroup: Option<Cgroup>,
    victims: Victims,
    has_children: bool,
    last_exit: Option<Exit>,
    last_cause: Option<Cause>,
}

#[derive(Debug)]
enum Life {
    Empty,
    Starting,
    Running,
    Stopping { kill_at_ns: u64 },
    Ending { cause: Cause, began_ns: u64, next_blow_ns: u64, blows: u32 },
}

#[derive(Debug)]
struct PendingLaunch {
    launch: Launch,
    program: PathBuf,
    connection: ConnectionId,
    request: u64,
    /// Set once it has failed; answered when nothing is left of it, so that the next attempt is not refused.
    refusal: Option<Refusal>,
}

impl Server {
    pub(crate) fn new(cgroup: Option<Cgroup>) -> Server {
        Server {
            life: Life::Empty,
            postmaster: None,
            launch: None,
            is_known: false,
            user: None,
            cgroup,
            victims: Victims::default(),
            has_children: false,
            last_exit: None,
            last_cause: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.life, Life::Empty)
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.life {
            Life::Empty => Phase::Empty,
            Life::Starting => Phase::Starting,
            Life::Running => Phase::Running,
            Life::Stopping { .. } => Phase::Stopping,
            Life::Ending { .. } => Phase::Ending,
        }
    }

    pub(crate) fn postmaster(&self) -> Option<Pid> {
        self.postmaster
    }

    pub(crate) fn user(&self) -> Option<&RunAs> {
        self.user.as_ref()
    }

    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    pub(crate) fn last_exit(&self) -> Option<Exit> {
        self.last_exit
    }

    pub(crate) fn last_cause(&self) -> Option<Cause> {
        self.last_cause
    }

    pub(crate) fn launch_fd(&self) -> Option<BorrowedFd<'_>> {
        self.launch.as_ref().filter(|pending| pending.refusal.is_none()).map(|pending| pending.launch.as_fd())
    }

    pub(crate) fn wake_at_ns(&self) -> Option<u64> {
        match self.life {
            Life::Stopping { kill_at_ns } => Some(kill_at_ns),
            Life::Ending { next_blow_ns, .. } => Some(next_blow_ns),
            _ => None,
        }
    }

    /// What was killed and is still there. Empty while nothing is being ended.
    pub(crate) fn remaining(&self) -> Vec<Remaining> {
        if !matches!(self.life, Life::Ending { .. }) {
            return Vec::new();
        }
        let mut remaining = own_descendants();
        remaining.extend(self.victims.pids().into_iter().filter_map(|pid| process::read(pid).ok().flatten()));
        remaining.iter().map(|process| Remaining { pid: process.pid, state: process.state }).collect()
    }

    /// Sends a signal to the postmaster, if there is one.
    pub(crate) fn signal_postmaster(&self, signal: Signal) {
        if let Some(pid) = self.postmaster {
            // It is our child and not waited for, so at worst it is a zombie and takes no notice.
            let _ = signal::kill(RawPid::from_raw(pid), signal);
        }
    }

    /// Waits for all dead children, and answers how the postmaster ended if it is among them.
    fn reap(&mut self) -> Option<Exit> {
        let mut postmaster_exit = None;
        loop {
            let mut status = 0;
            // SAFETY: waitpid writes to `status`, which lives through the call. The library's own wrapper fails on a
            // signal that it has no name for, when the child is already reaped and its end would go unnoticed.
            let waited = Errno::result(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) });
            match waited {
                Ok(0) => self.has_children = true,
                Ok(pid) => {
                    if Some(pid) == self.postmaster {
                        self.postmaster = None;
                        postmaster_exit = Some(exit(pid, status));
                    }
                    continue;
                }
                Err(Errno::EINTR) => continue,
                // ECHILD: none is left, and as reaper of orphans we would have inherited any.
                Err(_) => self.has_children = false,
            }
            return postmaster_exit;
        }
    }
}

impl Guard {
    /// One round of looking after the server.
    pub(crate) fn watch_server(&mut self) {
        self.follow_launch();
        if let Some(exit) = self.server.reap() {
            // Its report may have come after the look above.
            self.follow_launch();
            self.postmaster_died(exit);
        }
        match self.server.life {
            Life::Stopping { kill_at_ns } if kill_at_ns <= boottime_ns() => {
                self.journal.warn("the server did not stop in its time: killing it".to_owned());
                self.end(Cause::Killed);
            }
            _ => {}
        }
        self.pursue();
    }

    /// Starts a server. The answer to the request comes when exec has happened or failed.
    pub(crate) fn start(
        &mut self,
        start: &Start,
        connection: ConnectionId,
        request: u64,
    ) -> Result<(), Refusal> {
        if self.quitting {
            return Err(Refusal::Quitting);
        }
        if !self.server.is_empty() {
            return Err(Refusal::NotEmpty { phase: self.server.phase() });
        }
        let data_directory = &self.options.data_directory;
        crate::promotion::require_standby_signal(data_directory)?;
        let failed = |step: &str, error: String| Refusal::StartFailed {
            program: start.program.clone(),
            step: step.to_owned(),
            error,
        };
        match crate::leftovers::leftovers(data_directory) {
            Ok(found) if found.is_empty() => {}
            Ok(_) => {
                // Somebody else has started a server here meanwhile.
                self.end(Cause::Leftovers);
                return Err(Refusal::NotEmpty { phase: self.server.phase() });
            }
            Err(error) => return Err(failed("look for leftovers", error.to_string())),
        }
        if self.options.use_cgroup {
            // Whoever tidies empty cgroups may have taken it away since the last start.
            self.server.cgroup = Cgroup::create(&self.options.directory);
        }
        let launch = Launch::fork(start, data_directory, self.server.cgroup.as_ref())
            .map_err(|error| failed("fork", error.to_string()))?;
        self.journal.info(format!("starting {} as process {}", start.program.display(), launch.pid));
        self.server.postmaster = Some(launch.pid);
        self.server.user = start.user.clone();
        self.server.is_known = false;
        self.server.life = Life::Starting;
        let program = start.program.clone();
        self.server.launch = Some(PendingLaunch { launch, program, connection, request, refusal: None });
        Ok(())
    }

    /// Asks for a fast shutdown, and kills after `kill_after_ns`. True: there is nothing to stop.
    pub(crate) fn stop(&mut self, kill_after_ns: u64) -> bool {
        let kill_at_ns = boottime_ns().saturating_add(kill_after_ns);
        match self.server.life {
            Life::Empty => return true,
            Life::Starting | Life::Running => self.server.life = Life::Stopping { kill_at_ns },
            Life::Stopping { kill_at_ns: earlier } => {
                self.server.life = Life::Stopping { kill_at_ns: kill_at_ns.min(earlier) };
            }
            Life::Ending { .. } => return false,
        }
        self.server.signal_postmaster(Signal::SIGINT);
        false
    }

    fn follow_launch(&mut self) {
        let Some(pending) = self.server.launch.as_mut().filter(|pending| pending.refusal.is_none()) else {
            return;
        };
        match pending.launch.progress() {
            Progress::Pending => {}
            Progress::Gone => {
                let reply = Box::new(Reply::Started { pid: pending.launch.pid });
                let (connection, id) = (pending.connection, pending.request);
                self.server.launch = None;
                self.server.is_known = true;
                if matches!(self.server.life, Life::Starting) {
                    self.server.life = Life::Running;
                }
                self.door.send(connection, &Message::Reply { id, reply });
            }
            Progress::Failed(step, error) => {
                let refusal = Refusal::StartFailed {
                    program: pending.program.clone(),
                    step: step.text().to_owned(),
                    error: error.desc().to_owned(),
                };
                self.journal.error(refusal.to_string());
                pending.refusal = Some(refusal);
                if step == Step::JoinCgroup {
                    // It was taken away, or its rules forbid us: better without than not at all.
                    self.options.use_cgroup = false;
                    self.server.cgroup = None;
                    self.warnings
                        .push("the server's cgroup cannot be used; restart the guard to try anew".to_owned());
                }
                self.end(Cause::Exited);
            }
        }
    }

    fn postmaster_died(&mut self, exit: Exit) {
        if !self.server.is_known {
            // It never was PostgreSQL; the answer to `start` says what it was.
            return;
        }
        self.server.last_exit = Some(exit);
        // The member can begin its part while the rest is being killed.
        self.door.broadcast(&Event::Exited(exit));
        match self.server.life {
            Life::Stopping { .. } => self.end(Cause::Stopped),
            _ => self.end(Cause::Exited),
        }
        self.journal.info(format!("the postmaster ended: {exit:?}"));
    }
}

fn exit(pid: Pid, status: i32) -> Exit {
    Exit {
        pid,
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
    }
}
