//! What goes wrong, and how it is put right again.

mod operator;
mod people;
mod plan;
mod registrar;

use mainstay_core::record::Kind;

use crate::disk::SYNC_MAX;
use crate::event::{Event, KernelEvent, Life};
use crate::machine::Process;
use crate::network::Weather;
use crate::queue::{MS, SECOND, Time};
use crate::world::World;

pub(crate) use operator::Operator;
pub(crate) use plan::Plan;
pub(crate) use registrar::{Registrar, spares};

#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The plan draws another one.
    Next,
    /// Packets from the one node do not reach the other.
    Cut {
        from: usize,
        to: usize,
    },
    Join {
        from: usize,
        to: usize,
    },
    Weather(Weather),
    KillMember {
        machine: usize,
        for_: Time,
    },
    KillGuard {
        machine: usize,
    },
    /// SIGKILL for the postmaster; its children follow in their own time.
    KillPostmaster {
        machine: usize,
    },
    /// Member, guard and PostgreSQL.
    KillWhole {
        machine: usize,
        for_: Time,
    },
    PowerOff {
        machine: usize,
        for_: Time,
    },
    /// SIGSTOP.
    Stop {
        machine: usize,
        process: Process,
    },
    /// SIGCONT.
    Continue {
        machine: usize,
        process: Process,
    },
    Suspend {
        machine: usize,
    },
    Resume {
        machine: usize,
    },
    StallDisk {
        machine: usize,
    },
    DiskGoesOn {
        machine: usize,
    },
    FillDisk {
        machine: usize,
    },
    FreeDisk {
        machine: usize,
    },
    ClockRate {
        machine: usize,
    },
    Switchover {
        to: Option<usize>,
    },
    /// A fsync takes up to `sync_max` from now on.
    SlowDisk {
        machine: usize,
        sync_max: Time,
    },
    /// WAL piles up on the way: it takes so much longer.
    LagWal {
        from: usize,
        to: usize,
        lag: Time,
    },
    /// A proposal from before arrives late, or again.
    Echo,
    /// The data directory is replaced by an older one, out of a backup.
    RestoreData {
        machine: usize,
    },
    /// Somebody calls `pg_promote()`.
    OutsideHand {
        machine: usize,
    },
    /// The member's main loop does something else.
    Busy {
        machine: usize,
        for_: Time,
    },
    PauseReplay {
        machine: usize,
    },
    /// `rm -rf` of the data directory.
    RemoveData {
        machine: usize,
    },
    /// An operator does something.
    Operate,
    /// A member that has been taken out of the cluster stops.
    Retire {
        machine: usize,
        life: Life,
    },
    /// Whoever changes the members goes on.
    Register,
    /// Everything is put right.
    Heal,
}

impl World {
    pub(crate) fn fault_after(&mut self, delay: Time, fault: Fault) {
        self.queue.push(self.now + delay, Event::Fault(fault));
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        if self.trace.is_on() && !matches!(fault, Fault::Next | Fault::Operate | Fault::Register) {
            self.trace.line(self.now, "---", &format!("{fault:?}"));
        }
        match fault {
            Fault::Next => self.next_fault(),
            Fault::Cut { from, to } => {
                self.network.cut(from, to);
                self.disturb_link(from, to);
            }
            Fault::Join { from, to } => {
                self.network.heal(from, to);
                self.disturb_link(from, to);
            }
            Fault::Weather(weather) => {
                self.network.weather = weather;
                self.observer.weather_at = self.now;
            }
            Fault::KillMember { machine, for_ } => {
                self.disturb(machine);
                self.kill_member(machine);
                self.restart_member_after(machine, for_);
            }
            Fault::KillGuard { machine } => {
                self.disturb(machine);
                self.kill_guard(machine);
            }
            Fault::KillPostmaster { machine } => {
                self.disturb(machine);
                self.postmaster_dies(machine);
            }
            Fault::KillWhole { machine, for_ } => self.kill_whole(machine, for_),
            Fault::PowerOff { machine, for_ } => self.power_off(machine, for_),
            Fault::Stop { machine, process } => self.stop(machine, process),
            Fault::Continue { machine, process } => self.go_on(machine, process),
            Fault::Suspend { machine } => {
                self.disturb(machine);
                self.machines[machine].suspended = self.machines[machine].powered;
            }
            Fault::Resume { machine } => self.resume(machine),
            Fault::StallDisk { machine } => self.stall_disk(machine),
            Fault::DiskGoesOn { machine } => self.disk_goes_on(machine),
            Fault::FillDisk { machine } => self.fill_disk(machine, true),
            Fault::FreeDisk { machine } => self.fill_disk(machine, false),
            Fault::ClockRate { machine } => self.change_rate(machine),
            Fault::Switchover { to } => self.ask_for_switchover(to),
            Fault::SlowDisk { machine, sync_max } => {
                self.disturb(machine);
                self.machines[machine].disk.sync_max = sync_max;
            }
            Fault::LagWal { from, to, lag } => {
                self.disturb_link(from, to);
                self.network.lag_wal(from, to, lag);
            }
            Fault::Echo => self.echo(),
            Fault::OutsideHand { machine } => self.promote_by_hand(machine),
            Fault::Busy { machine, for_ } => self.keep_busy(machine, for_),
            Fault::PauseReplay { machine } => self.pause_replay(machine),
            Fault::RemoveData { machine } => self.lose_data(machine, false),
            Fault::RestoreData { machine } => self.lose_data(machine, true),
            Fault::Operate => self.operator_acts(),
            Fault::Retire { machine, life } => self.stop_for_good(machine, life),
            Fault::Register => self.registrar_acts(),
            Fault::Heal => self.heal(),
        }
    }

    fn change_rate(&mut self, machine: usize) {
        let (rate, now) = (self.random_rate(), self.now);
        self.machines[machine].clock.set_rate(now, rate);
        self.guard_sets_alarm(machine);
    }

    /// The member that has learnt that it is none any more, and what it has started.
    fn stop_for_good(&mut self, machine: usize, life: Life) {
        if self.machines[machine].member.as_ref().is_some_and(|member| member.life == life) {
            self.kill_whole(machine, 20 * SECOND);
        }
    }

    fn disturb_link(&mut self, from: usize, to: usize) {
        for node in [from, to] {
            if node < self.machines.len() {
                self.disturb(node);
            }
        }
    }

    fn kill_whole(&mut self, machine: usize, for_: Time) {
        self.disturb(machine);
        self.kill_member(machine);
        self.kill_guard(machine);
        self.strike(machine);
        self.restart_member_after(machine, for_);
    }

    /// Everything that was not on the disk is gone.
    fn power_off(&mut self, machine: usize, for_: Time) {
        self.disturb(machine);
        if !self.machines[machine].powered {
            return;
        }
        self.kill_member(machine);
        let seed = self.random.next();
        let place = &mut self.machines[machine];
        place.powered = false;
        place.address = None;
        place.suspended = false;
        place.while_suspended.clear();
        place.stopped = [false; 3];
        place.inbox.iter_mut().for_each(std::collections::VecDeque::clear);
        place.guard = None;
        place.server = None;
        place.disk.stalled_since = None;
        if let Some(content) = &mut place.data.content {
            content.written = content.durable;
        }
        place.raft_disk.crash(seed);
        let at = self.now + for_.max(SECOND / 2);
        self.queue.push(at, Event::Kernel { machine, what: KernelEvent::Boot });
    }

    fn stop(&mut self, machine: usize, process: Process) {
        self.disturb(machine);
        let now = self.local_now(machine);
        let place = &mut self.machines[machine];
        let there = match process {
            Process::Member => place.member.is_some(),
            Process::Guard => place.guard.is_some(),
            Process::Server => place.server.as_ref().is_some_and(|server| server.executing),
        };
        if there && !place.stopped[process.index()] {
            place.stopped[process.index()] = true;
            place.stopped_at[process.index()] = now;
        }
    }

    fn go_on(&mut self, machine: usize, process: Process) {
        self.disturb(machine);
        if !std::mem::take(&mut self.machines[machine].stopped[process.index()]) {
            return;
        }
        if process == Process::Guard {
            self.guard_is_late(machine);
            // It looks at the clock before it serves anyone.
            self.guard_sets_alarm(machine);
        }
        self.release_inbox(machine, process);
    }

    fn resume(&mut self, machine: usize) {
        self.disturb(machine);
        if !std::mem::take(&mut self.machines[machine].suspended) {
            return;
        }
        self.guard_is_late(machine);
        let alarm = self.random.below(3 * MS);
        if let Some(guard) = &self.machines[machine].guard {
            let (life, what) = (guard.life, crate::event::GuardEvent::Alarm);
            self.queue.push(self.now + alarm, Event::Guard { machine, life, what });
        }
        for event in std::mem::take(&mut self.machines[machine].while_suspended) {
            self.queue.push(self.now, event);
        }
    }

    fn keep_busy(&mut self, machine: usize, for_: Time) {
        self.disturb(machine);
        let until = self.now + for_;
        if let Some(member) = &mut self.machines[machine].member {
            member.busy_until = until;
        }
    }

    fn pause_replay(&mut self, machine: usize) {
        if let Some(server) = &mut self.machines[machine].server {
            server.replay_paused = server.in_recovery();
        }
    }

    fn stall_disk(&mut self, machine: usize) {
        self.disturb(machine);
        let now = self.local_now(machine);
        let disk = &mut self.machines[machine].disk;
        if disk.stalled_since.is_none() {
            (disk.stalled_since, disk.stalled_at) = (Some(self.now), now);
        }
    }

    fn disk_goes_on(&mut self, machine: usize) {
        self.disturb(machine);
        if self.machines[machine].disk.stalled_since.take().is_some() {
            self.raft_goes_on(machine);
        }
    }

    fn fill_disk(&mut self, machine: usize, full: bool) {
        self.disturb(machine);
        self.machines[machine].disk.full = full;
        self.machines[machine].raft_disk.set_capacity(full.then_some(0));
    }

    /// Everything is put right, and what is down is started.
    fn heal(&mut self) {
        self.weather = crate::world::Weather::default();
        self.network.heal_all();
        self.observer.weather_at = self.now;
        for machine in 0..self.machines.len() {
            self.disk_goes_on(machine);
            self.fill_disk(machine, false);
            self.machines[machine].disk.sync_max = SYNC_MAX;
            self.resume(machine);
            for process in Process::ALL {
                self.go_on(machine, process);
            }
            self.resume_replay(machine);
            if let Some(member) = &mut self.machines[machine].member {
                member.busy_until = 0;
            }
            self.boot(machine);
            if self.machines[machine].member.is_none() {
                self.queue.push(self.now + SECOND / 10, Event::StartMember { machine });
            }
            self.disturb(machine);
        }
    }

    /// Members that run PostgreSQL and live.
    pub(crate) fn random_data(&mut self) -> usize {
        let data: Vec<usize> =
            (0..self.machines.len()).filter(|m| self.machines[*m].kind == Kind::Data).collect();
        data[self.random.index(data.len())]
    }
}
