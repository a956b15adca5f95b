//! One request, one answer. Nothing here waits for anything but the local disk, and for that only while nothing is open.

use nix::sys::signal::Signal;

use crate::clock::boottime_ns;
use crate::door::ConnectionId;
use crate::guard::Guard;
use crate::pidfd::PidFd;
use crate::process;
use crate::promotion::{StagedPromotion, write_history_dummies};
use crate::protocol::{
    Cause, Message, PROTOCOL, Phase, Pid, Refusal, Reply, Request, RequestLine, Role, Status, StopMode,
};

/// The deepest that a process of PostgreSQL stands below the postmaster: a backend, a shell, what that runs, and more.
const DEEPEST: usize = 64;

impl Guard {
    pub(crate) fn answer(&mut self, connection: ConnectionId, line: &[u8]) {
        // It may have been superseded by a request that came in the same round.
        if !self.door.is_open(connection) {
            return;
        }
        let (id, outcome) = match serde_json::from_slice::<RequestLine>(line) {
            Ok(RequestLine { id, request }) => (id, self.serve_request(connection, id, request)),
            Err(error) => (0, Err(Refusal::Malformed { error: error.to_string() })),
        };
        let greeted = self.door.role(connection).is_some();
        match outcome {
            Ok(Some(reply)) => self.door.send(connection, &Message::Reply { id, reply: Box::new(reply) }),
            // `start` is answered when exec has happened.
            Ok(None) => {}
            Err(refusal) => {
                self.door.send(connection, &Message::Refused { id, refusal });
                if !greeted {
                    self.door.close(connection);
                }
            }
        }
    }

    fn serve_request(
        &mut self,
        connection: ConnectionId,
        id: u64,
        request: Request,
    ) -> Result<Option<Reply>, Refusal> {
        let reply = match (self.door.role(connection), request) {
            (None, Request::Hello { protocol, generation, role }) => {
                self.greet(connection, protocol, generation, role)?
            }
            (None, _) | (Some(_), Request::Hello { .. }) => return Err(Refusal::Greeting),
            (Some(_), Request::Arm { epoch, deadline_ns }) => {
                Reply::Armed { deadline_ns: self.lease.arm(epoch, deadline_ns, boottime_ns())? }
            }
            (Some(_), Request::Status) => Reply::Status(self.status()),
            (Some(Role::Arm), _) => return Err(Refusal::Role),
            (Some(Role::Control), Request::Start(start)) => {
                self.start(&start, connection, id)?;
                return Ok(None);
            }
            (Some(Role::Control), Request::Open { epoch, history_dummies }) => {
                self.open(epoch, &history_dummies)?
            }
            (Some(Role::Control), Request::Stop { mode: StopMode::Fast, kill_after_ms }) => {
                Reply::Ending { empty: self.stop(kill_after_ms.saturating_mul(1_000_000)) }
            }
            (Some(Role::Control), Request::Kill) => {
                self.end(Cause::Killed);
                Reply::Ending { empty: self.server.is_empty() }
            }
            (Some(Role::Control), Request::Reload) => {
                self.running_postmaster()?;
                self.server.signal_postmaster(Signal::SIGHUP);
                Reply::Done
            }
            (Some(Role::Control), Request::Terminate { pids }) => {
                let postmaster = self.running_postmaster()?;
                Reply::Terminated {
                    signalled: pids.into_iter().filter(|pid| terminate(*pid, postmaster)).collect(),
                }
            }
            (Some(Role::Control), Request::Quit { kill }) => self.quit(kill)?,
        };
        Ok(Some(reply))
    }

    fn greet(
        &mut self,
        connection: ConnectionId,
        protocol: u32,
        generation: u64,
        role: Role,
    ) -> Result<Reply, Refusal> {
        if protocol != PROTOCOL {
            return Err(Refusal::Protocol { asked: protocol, supported: PROTOCOL });
        }
        let before = self.door.generation();
        self.door.greet(connection, generation, role)?;
        if before != Some(generation) {
            self.journal.info(format!("a member of generation {generation} took over (before: {before:?})"));
        }
        Ok(Reply::Status(self.status()))
    }

    /// The one way a server becomes writable. Between the last look at the clock and the rename nothing can block.
    fn open(&mut self, epoch: u64, history_dummies: &[String]) -> Result<Reply, Refusal> {
        self.running_postmaster()?;
        self.lease.may_open(epoch, boottime_ns())?;
        // A disk that hangs here makes the grant late, which is harmless: nothing is open yet.
        let user = self.server.user().cloned();
        let data_directory = self.options.data_directory.clone();
        write_history_dummies(&data_directory, history_dummies, user.as_ref())?;
        let promotion = StagedPromotion::write(&data_directory, user.as_ref())?;
        if let Err(refusal) = self.lease.may_open(epoch, boottime_ns()) {
            promotion.withdraw();
            return Err(refusal);
        }
        self.lease.set_opened(epoch);
        let published = promotion.publish();
        if self.lease.expire(boottime_ns()) {
            self.end(Cause::Deadline);
            promotion.withdraw();
            return Err(Refusal::VoidEpoch { epoch });
        }
        if let Err(refusal) = published {
            // Whether the file can be seen is not known, so the server counts as open, and as useless.
            self.end(Cause::Killed);
            promotion.withdraw();
            return Err(refusal);
        }
        self.server.signal_postmaster(Signal::SIGUSR1);
        self.journal.info(format!("opened under epoch {epoch}"));
        Ok(Reply::Done)
    }

    fn quit(&mut self, kill: bool) -> Result<Reply, Refusal> {
        if !self.server.is_empty() {
            if !kill {
                return Err(Refusal::NotEmpty { phase: self.server.phase() });
            }
            self.end(Cause::Killed);
        }
        self.quitting = true;
        Ok(Reply::Done)
    }

    fn running_postmaster(&self) -> Result<Pid, Refusal> {
        match (self.server.phase(), self.server.postmaster()) {
            (Phase::Running, Some(postmaster)) => Ok(postmaster),
            _ => Err(Refusal::NotRunning),
        }
    }

    fn status(&self) -> Status {
        Status {
            guard_pid: std::process::id() as Pid,
            generation: self.door.generation(),
            now_ns: boottime_ns(),
            phase: self.server.phase(),
            postmaster: self.server.postmaster(),
            armed: self.lease.armed(),
            opened: self.lease.opened(),
            last_epoch_opened: self.lease.last_epoch_opened(),
            last_exit: self.server.last_exit(),
            last_cause: self.server.last_cause(),
            remaining: self.server.remaining(),
            cgroup: self.server.cgroup().map(|cgroup| cgroup.path().to_owned()),
            warnings: self.warnings.clone(),
        }
    }
}

/// SIGTERM to `pid` if it is below the postmaster. The descriptor is opened before the look, so that what is signalled is
/// what was looked at.
fn terminate(pid: Pid, postmaster: Pid) -> bool {
    let Ok(Some(process)) = PidFd::open(pid) else { return false };
    is_below(pid, postmaster) && process.signal(Signal::SIGTERM).is_ok()
}

fn is_below(pid: Pid, postmaster: Pid) -> bool {
    let mut parent = pid;
    for _ in 0..DEEPEST {
        match process::read(parent) {
            Ok(Some(process)) if process.parent == postmaster => return true,
            Ok(Some(process)) if process.parent > 1 => parent = process.parent,
            _ => return false,
        }
    }
    false
}
