//! What each job does, step by step.

mod copy;
mod follow;
mod open;
mod seal;
mod upkeep;

use mainstay_core::action::Job;

use super::lane::Next;
use crate::disk::Files;
use crate::guard::GuardRequest;
use crate::mutant::ShellMutant;
use crate::queue::{MICROSECOND, MS, SECOND, Time};
use crate::world::World;

impl World {
    pub(super) fn perform_step(&mut self, machine: usize, lane: usize, job: &Job, step: u8) -> Next {
        // Work on an open primary is for that opening alone: the server may be another one by now.
        if let Job::StopForSwitchover { epoch, .. }
        | Job::StopInPlace { epoch, .. }
        | Job::SetNames { epoch, .. }
        | Job::OpenGate { epoch }
        | Job::Checkpoint { epoch } = job
            && self.machines[machine].server.as_ref().and_then(|server| server.opened) != Some(*epoch)
        {
            let stopped = matches!(job, Job::StopForSwitchover { .. } | Job::StopInPlace { .. }) && step > 3;
            return if stopped { Next::Done } else { Next::Fail(format!("epoch {epoch} is not open here")) };
        }
        match job {
            Job::Initdb => self.initdb_step(machine, step),
            Job::Start { upstream: _ } => self.start_step(machine, lane, step),
            Job::Seal { epoch } => self.seal_step(machine, step, *epoch),
            Job::Open { epoch, timeline, sync } => {
                self.open_step(machine, lane, step, (*epoch, *timeline, sync))
            }
            Job::Follow { member, epoch } => self.follow_step(machine, lane, step, (member, *epoch)),
            Job::Rewind { member, .. } => self.rewind_step(machine, lane, step, member),
            Job::Clone { member, .. } => self.clone_step(machine, lane, step, member),
            Job::StopForSwitchover { to, .. } => self.stop_step(machine, lane, step, Some(to)),
            Job::StopInPlace { .. } => self.stop_step(machine, lane, step, None),
            Job::StopForRestart { id, number } => self.stop_standby_step(machine, lane, step, (*id, *number)),
            Job::SetNames { sync, .. } => self.names_step(machine, lane, step, sync),
            Job::OpenGate { .. } => self.gate_step(machine, lane, step),
            Job::Checkpoint { epoch } => self.checkpoint_step(machine, step, *epoch),
        }
    }

    /// Writes a state file. The change is durable now, and the next step comes only after the time that takes: a process that
    /// dies in between has written and not acted.
    fn write(&mut self, machine: usize, change: impl FnOnce(&mut Files)) -> Next {
        let disk = &self.machines[machine].disk;
        if disk.stalled_since.is_some() {
            return Next::Stay(20 * MS);
        }
        if disk.full {
            return Next::Fail("no space left on device".to_owned());
        }
        let takes = disk.sync_time(&mut self.random);
        change(&mut self.machines[machine].files);
        Next::Go(takes)
    }

    /// How long the step has lasted.
    fn waited(&self, machine: usize, lane: usize) -> Time {
        let since =
            self.machines[machine].member.as_ref().map_or(self.now, |member| member.lanes[lane].since);
        self.now.saturating_sub(since)
    }

    /// Asks the guard for `request` and waits for its answer.
    fn through_guard(&mut self, machine: usize, lane: usize, request: GuardRequest) -> Next {
        match self.ask_guard(machine, lane, request) {
            None => Next::Stay(2 * MS),
            Some(Ok(())) => Next::Go(100 * MICROSECOND),
            Some(Err(error)) => Next::Fail(error),
        }
    }

    /// Ends the server, whatever it does, and waits until nothing of it is left.
    fn end_server(&mut self, machine: usize, lane: usize) -> Next {
        use mainstay_core::view::Server;
        let server = self.member(machine).view.server.clone();
        match server {
            Server::Down { .. } => Next::Go(0),
            _ if self.waited(machine, lane) > 10 * SECOND => Next::Fail("PostgreSQL does not end".to_owned()),
            Server::Running(_) => {
                self.request_guard(machine, GuardRequest::Kill);
                Next::Stay(50 * MS)
            }
            Server::Unknown | Server::Ending => Next::Stay(10 * MS),
        }
    }

    /// Starts the server as it is configured. Empty history files above the newest real one are removed before.
    fn start_down(&mut self, machine: usize, lane: usize) -> Next {
        let keep = self.mutated(ShellMutant::DummiesKept);
        if let Some(content) = &mut self.machines[machine].data.content
            && !keep
        {
            let newest = self.wal.timeline(content.written);
            content.histories.retain(|number| *number <= newest);
        }
        if self.machines[machine].files.mark.is_some() && !self.mutated(ShellMutant::HalfChangedStarted) {
            return Next::Fail("the directory is half changed".to_owned());
        }
        self.through_guard(machine, lane, GuardRequest::Start)
    }
}
