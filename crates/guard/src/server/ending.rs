//! Ending a server for certain: kill, and go on until nothing is left.

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid as RawPid;

use super::{Life, Server};
use crate::clock::boottime_ns;
use crate::guard::Guard;
use crate::pidfd::PidFd;
use crate::postmaster_file::is_postmaster_zombie;
use crate::process::{self, Process};
use crate::protocol::{Cause, Event, Message, Pid};

/// The pauses between two blows while something is left: short at first, since most processes die within milliseconds,
/// then long, since one that hangs on a device hangs for seconds.
const PAUSES_NS: [(u32, u64); 2] = [(20, 1_000_000), (60, 5_000_000)];
const LONGEST_PAUSE_NS: u64 = 50_000_000;
/// An init that waits for nobody, as in some containers, must not hold us up for ever: PostgreSQL then says itself that a
/// lock file is there.
const LONGEST_WAIT_FOR_INIT_NS: u64 = 10 * 1_000_000_000;

impl Server {
    /// Kills everything once. The postmaster first and by itself: with SIGKILL pending it forks no more, and no lock in
    /// the kernel's cgroup code can delay it. Stopping it first, so that it does not fork during the search, adds nothing.
    fn strike(&self) {
        self.signal_postmaster(Signal::SIGKILL);
        if let Some(cgroup) = &self.cgroup {
            // When it fails the search below does the same, only slower.
            let _ = cgroup.kill();
        }
        for process in own_descendants() {
            kill_same(process);
        }
    }
}

impl Guard {
    /// Kills everything, now; the rounds that follow see to it that nothing is left. The first cause stands.
    pub(crate) fn end(&mut self, cause: Cause) {
        let may_be_empty = cause == Cause::Leftovers;
        if matches!(self.server.life, Life::Ending { .. }) || (self.server.is_empty() && !may_be_empty) {
            return;
        }
        self.server.strike();
        let began_ns = boottime_ns();
        self.server.life =
            Life::Ending { cause, began_ns, next_blow_ns: began_ns + PAUSES_NS[0].1, blows: 1 };
        if cause == Cause::Deadline {
            self.journal.error("the lease ran out: the server was killed".to_owned());
        }
    }

    /// Goes on until nothing is left: strikes again after each pause, and looks whenever the last child is gone.
    pub(super) fn pursue(&mut self) {
        let Life::Ending { cause, began_ns, next_blow_ns, blows } = self.server.life else { return };
        if !self.server.has_children && self.is_nothing_left() && !self.waits_for_init(cause, began_ns) {
            self.became_empty(cause);
            return;
        }
        let now_ns = boottime_ns();
        if now_ns < next_blow_ns {
            return;
        }
        self.server.strike();
        let done_ns = boottime_ns();
        let pause_ns =
            PAUSES_NS.iter().find(|(count, _)| blows < *count).map_or(LONGEST_PAUSE_NS, |(_, pause)| *pause);
        // On a machine with thousands of processes the search itself is long; leave most of the processor to the dying.
        let next_blow_ns = done_ns + pause_ns.max(4 * (done_ns - now_ns));
        self.server.life = Life::Ending { cause, began_ns, next_blow_ns, blows: blows + 1 };
    }

    /// No child is left; whether the cgroup is empty too, and no process of an earlier life is in the data directory.
    fn is_nothing_left(&mut self) -> bool {
        let populated = match &self.server.cgroup {
            Some(cgroup) => cgroup.is_populated(),
            None => Ok(false),
        };
        let clear = self.server.victims.strike(&self.options.data_directory);
        match (populated, clear) {
            (Ok(populated), Ok(clear)) => !populated && clear,
            (Err(error), _) | (_, Err(error)) => {
                self.journal.warn(format!("cannot see whether anything is left: {error}"));
                false
            }
        }
    }

    /// Leftovers are not our children: a start would fail until their new parent has waited for the postmaster.
    fn waits_for_init(&self, cause: Cause, began_ns: u64) -> bool {
        cause == Cause::Leftovers
            && boottime_ns() - began_ns < LONGEST_WAIT_FOR_INIT_NS
            && is_postmaster_zombie(&self.options.data_directory).unwrap_or(false)
    }

    fn became_empty(&mut self, cause: Cause) {
        self.server.life = Life::Empty;
        self.server.postmaster = None;
        self.server.last_cause = Some(cause);
        self.lease.set_ended();
        let event = Event::Empty { cause, last_epoch_opened: self.lease.last_epoch_opened() };
        if let Some(pending) = self.server.launch.take()
            && let Some(refusal) = pending.refusal
        {
            self.door.send(pending.connection, &Message::Refused { id: pending.request, refusal });
        }
        self.door.broadcast(&event);
        self.journal.info(format!("nothing is left of the server ({cause:?})"));
    }
}

pub(super) fn own_descendants() -> Vec<Process> {
    // Nothing but a lack of descriptors can fail here, and then the next blow tries anew.
    let processes = process::all().unwrap_or_default();
    process::descendants(std::process::id() as Pid, &processes)
}

/// SIGKILL to the process that was seen, not to another that has got its pid since.
fn kill_same(seen: Process) {
    let process = PidFd::open(seen.pid);
    if !matches!(process::read(seen.pid), Ok(Some(now)) if now.start_time == seen.start_time) {
        return;
    }
    let _ = match process {
        Ok(Some(process)) => process.signal(Signal::SIGKILL),
        Ok(None) => Ok(()),
        // No descriptor to be had. That the pid changes hands within these microseconds is the smaller evil.
        Err(_) => signal::kill(RawPid::from_raw(seen.pid), Signal::SIGKILL).map_err(std::io::Error::from),
    };
}
