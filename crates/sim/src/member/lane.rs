//! Jobs run step by step; between any two steps the process may die, or another job may take the lane.

use mainstay_core::action::Job;
use mainstay_core::view::Failure;

use super::MemberEvent;
use crate::guard::GuardRequest;
use crate::queue::{SECOND, Time};
use crate::world::World;

/// Where a job is, and what it waits for.
#[derive(Default)]
pub(crate) struct Lane {
    pub(crate) job: Option<Job>,
    pub(crate) serial: u64,
    pub(crate) step: u8,
    /// When the step was begun.
    pub(crate) since: Time,
    /// A request that the guard has not answered.
    pub(crate) request: Option<u64>,
    /// A position, a life or a number that a later step needs.
    pub(crate) noted: u64,
}

/// What a step says.
pub(crate) enum Next {
    /// The next step, after this time.
    Go(Time),
    /// The same step again.
    Stay(Time),
    To(u8, Time),
    Done,
    Fail(String),
}

/// The server and its directory.
pub(crate) const RUN: usize = 0;
/// Sync set and gate.
pub(crate) const UPKEEP: usize = 1;

impl World {
    /// The same job goes on; another one takes its place between two steps.
    pub(super) fn run(&mut self, machine: usize, lane: usize, job: &Job) {
        let (serial, now) = (self.new_number(), self.now);
        let member = self.member(machine);
        if member.lanes[lane].job.as_ref() == Some(job) {
            return;
        }
        member.lanes[lane] =
            Lane { job: Some(job.clone()), serial, step: 0, since: now, request: None, noted: 0 };
        self.show_job(machine, lane);
        self.note(machine, || format!("job: {job}"));
        self.step(machine, lane, serial);
    }

    fn show_job(&mut self, machine: usize, lane: usize) {
        let member = self.member(machine);
        let job = member.lanes[lane].job.clone();
        if lane == RUN { member.view.job = job } else { member.view.upkeep = job }
    }

    pub(super) fn step(&mut self, machine: usize, lane: usize, serial: u64) {
        let current = &self.member(machine).lanes[lane];
        let Some(job) = current.job.clone().filter(|_| current.serial == serial) else { return };
        let (step, since) = (current.step, current.since);
        let next = if self.random.chance(self.weather.job_failures) {
            self.disturb(machine);
            Next::Fail("it was made to fail".to_owned())
        } else {
            self.perform_step(machine, lane, &job, step)
        };
        let now = self.now;
        // The step may have been what ended the process.
        let Some(member) = self.machines[machine].member.as_mut() else { return };
        let current = &mut member.lanes[lane];
        if current.serial != serial {
            return;
        }
        let delay = match next {
            Next::Stay(delay) => delay,
            Next::Go(delay) => {
                (current.step, current.since) = (step + 1, now + delay);
                delay
            }
            Next::To(to, delay) => {
                (current.step, current.since) = (to, now + delay);
                delay
            }
            Next::Done => return self.finish(machine, lane, &job, None),
            Next::Fail(error) => return self.finish(machine, lane, &job, Some(error)),
        };
        let steps = current.since != since;
        self.tell_member(machine, now + delay, MemberEvent::Step { lane, serial });
        if steps {
            self.ambush_in_work(machine);
        }
    }

    fn finish(&mut self, machine: usize, lane: usize, job: &Job, error: Option<String>) {
        let at = self.local_now(machine);
        let member = self.member(machine);
        member.lanes[lane].job = None;
        member.lanes[lane].request = None;
        let failures = &mut member.view.failures;
        let before =
            failures.iter().position(|failure| failure.job.same_kind(job)).map(|at| failures.remove(at));
        if let Some(error) = &error {
            let count = before.map_or(1, |failure| failure.count + 1);
            failures.push(Failure { job: job.clone(), at, count, error: error.clone() });
        }
        self.show_job(machine, lane);
        self.note(machine, || match error {
            Some(error) => format!("failed: {job}: {error}"),
            None => format!("done: {job}"),
        });
        self.wake(machine);
    }

    /// Takes the lane away from its job.
    pub(super) fn abort(&mut self, machine: usize, lane: usize) {
        self.member(machine).lanes[lane] = Lane::default();
        self.show_job(machine, lane);
    }

    /// Asks the guard once, and gives its answer when it is there.
    pub(super) fn ask_guard(
        &mut self,
        machine: usize,
        lane: usize,
        request: GuardRequest,
    ) -> Option<Result<(), String>> {
        let now = self.now;
        let member = self.member(machine);
        if member.guard.is_none() {
            return Some(Err("there is no guard".to_owned()));
        }
        let Some(number) = member.lanes[lane].request else {
            let number = self.request_guard(machine, request);
            self.member(machine).lanes[lane].request = Some(number);
            return None;
        };
        let answer = member.answers.remove(&number);
        if answer.is_some() {
            member.lanes[lane].request = None;
            return answer;
        }
        if now > member.lanes[lane].since + 2 * SECOND {
            return Some(Err("the guard does not answer".to_owned()));
        }
        None
    }
}
