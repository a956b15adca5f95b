//! What operators ask for: pauses, maintenance, new copies, failovers, planned switchovers, and losses that they accept.

use mainstay_core::election::{self, Missing};
use mainstay_core::record::{Command, FORMAT, Failover, Forced, Operate, Pause, Phase, Report, Scheduled};
use mainstay_core::{Lsn, MemberId};

use super::Fault;
use crate::machine::{Machine, Process};
use crate::queue::{MS, SECOND, Time};
use crate::random::Random;
use crate::world::World;

/// One who works on the cluster while it has faults; in some runs only. It draws on its own, so that the faults of a seed are
/// those that they are without it.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    random: Random,
    until: Time,
}

impl Operator {
    pub(crate) fn drawn(seed: u64, until: Time) -> Option<Operator> {
        let mut random = Random::new(seed ^ 0x6F70_6572_6174_6F72);
        random.chance(0.35).then_some(Operator { random, until })
    }
}

impl World {
    pub(super) fn operator_acts(&mut self) {
        let Some(mut operator) = self.operator.take() else { return };
        let pause = operator.random.between(300, 9_000) * MS;
        // What was asked for may reach the record late, after everything is put right.
        let (pause, what) = if self.now < operator.until {
            (pause, self.wish(&mut operator.random))
        } else {
            (SECOND / 2, self.unfinished())
        };
        self.fault_after(pause.min(operator.until.saturating_sub(self.now).max(SECOND / 2)), Fault::Operate);
        self.operator = Some(operator);
        if let Some(what) = what {
            self.ask(&what);
        }
    }

    fn wish(&mut self, random: &mut Random) -> Option<Operate> {
        let data = self.data_members();
        let machine = *data.get(random.index(data.len().max(1)))?;
        let member = self.machines[machine].id.clone();
        let id = random.next();
        let until_unix_ms = random.chance(0.5).then(|| self.now / MS + random.between(500, 8_000));
        let pause = Pause { by: "operator".to_owned(), since_unix_ms: self.now / MS, until_unix_ms };
        let record = &self.observer.record;
        let to = random.chance(0.5).then(|| member.clone());
        Some(match random.below(10) {
            0 => Operate::Pause(pause),
            1 => Operate::Resume {},
            2 => Operate::Maintain { member, pause },
            3 => Operate::EndMaintenance { member },
            4 => {
                let incarnation = self.machines[machine].data.content.as_ref()?.incarnation;
                Operate::Reinit { member, incarnation }
            }
            5 | 6 => Operate::Failover(Failover { id, epoch: record.epoch, to }),
            7 => {
                Operate::Schedule(Scheduled { id, due_unix_ms: self.now / MS + random.between(0, 4_000), to })
            }
            _ => Operate::Force(self.acceptable_loss()?),
        })
    }

    /// Nobody is proven: the one that reported the most is taken as it is. Before that whoever does this makes sure that nothing
    /// of the old primary runs any more, by switching its machine off: what stands still may go on later.
    pub(crate) fn acceptable_loss(&self) -> Option<Forced> {
        let record = &self.observer.record;
        let proven = |(member, report): (&MemberId, &Report)| {
            election::may_be_promoted(record, member, report.incarnation).is_ok()
        };
        let ended = matches!(record.phase, Phase::Ended { .. });
        let runs_on = |machine: &Machine| {
            machine.server.as_ref().is_some_and(|server| server.executing && server.opened.is_some())
        };
        if !ended || record.reports.iter().any(proven) || self.machines.iter().any(runs_on) {
            return None;
        }
        let current = record.reports.iter().filter(|(_, report)| report.epoch == record.epoch);
        let (member, report) = current.max_by_key(|(_, report)| report.extent.end)?;
        Some(Forced {
            epoch: record.epoch,
            member: member.clone(),
            incarnation: report.incarnation,
            end: report.extent.end,
            heard: Lsn::ZERO,
            missing: Missing::default(),
        })
    }

    /// The member that leads, or else whichever lives: it may be one that has been taken out and does not know.
    pub(super) fn somebody(&self) -> Option<usize> {
        let lives = |machine: &usize| {
            let place = &self.machines[*machine];
            place.member.is_some() && place.runs(Process::Member)
        };
        let leads = |machine: &usize| {
            lives(machine) && self.machines[*machine].member.as_ref().is_some_and(|m| m.leads().is_some())
        };
        let machines = 0..self.machines.len();
        machines.clone().find(leads).or(machines.clone().find(lives))
    }

    pub(crate) fn ask(&mut self, what: &Operate) {
        let Some(through) = self.somebody() else { return };
        if self.observer.record.format < FORMAT {
            self.propose(through, &Command::RaiseFormat { to: FORMAT });
        }
        self.note(through, || format!("an operator asks: {what:?}"));
        self.propose(through, &Command::Operate(what.clone()));
    }

    /// The work is done: nothing is held back any more.
    pub(crate) fn operator_leaves(&mut self) {
        if let Some(operator) = &mut self.operator {
            operator.until = self.now;
            if !self.run_while(60 * SECOND, |world| world.unfinished().is_none()) {
                self.violated("primary_again", || {
                    "what an operator asks for does not reach the record".to_owned()
                });
            }
        }
    }

    /// What an operator has begun and not ended.
    fn unfinished(&self) -> Option<Operate> {
        let operation = &self.observer.record.operation;
        let maintained = operation.maintenance.keys().next().cloned();
        match (operation.pause.is_some(), maintained, &operation.scheduled) {
            (true, ..) => Some(Operate::Resume {}),
            (_, Some(member), _) => Some(Operate::EndMaintenance { member }),
            (.., Some(scheduled)) => Some(Operate::Withdraw { id: scheduled.id, why: "healed".to_owned() }),
            _ => None,
        }
    }
}
