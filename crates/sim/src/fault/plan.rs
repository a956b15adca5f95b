//! Which faults a seed has, and how often: each draws its own, so that some runs have only what others never see.

use super::Fault;
use crate::disk::SYNC_MAX;
use crate::machine::Process;
use crate::network::Weather;
use crate::queue::{MS, SECOND, Time};
use crate::random::Random;
use crate::world::World;

/// The kinds that a plan chooses between.
const KINDS: usize = 23;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    random: Random,
    /// How often each kind is drawn, against the others; 0 is never.
    weights: [u64; KINDS],
    /// Milliseconds between two faults.
    pause_ms: (u64, u64),
    /// Milliseconds that a fault lasts.
    lasts_ms: (u64, u64),
    /// No fault after this.
    until: Time,
    /// How likely a fault hits the primary rather than anyone.
    primary: f64,
    /// How likely a fault hits a member between two steps of its work.
    in_work: f64,
    /// How likely a fault hits the holder, or one that reports, when the record says so.
    on_record: f64,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            random: Random::new(0),
            weights: [0; KINDS],
            pause_ms: (0, 0),
            lasts_ms: (0, 0),
            until: 0,
            primary: 0.0,
            in_work: 0.0,
            on_record: 0.0,
        }
    }
}

impl Plan {
    pub(crate) fn drawn(seed: u64, until: Time) -> Plan {
        let mut random = Random::new(seed ^ 0x7061_6E69_6373);
        let mut weights = [0; KINDS];
        for weight in &mut weights {
            *weight = if random.chance(0.45) { random.between(1, 10) } else { 0 };
        }
        let busy = [(100, 800), (300, 2_500), (1_000, 6_000), (3_000, 12_000)];
        let lasting = [(20, 1_500), (200, 6_000), (1_000, 12_000), (5_000, 90_000)];
        let pause_ms = busy[random.index(busy.len())];
        let lasts_ms = lasting[random.index(lasting.len())];
        let primary = [0.0, 0.3, 0.7][random.index(3)];
        let in_work = [0.0, 0.0, 0.003, 0.02][random.index(4)];
        let on_record = [0.0, 0.0, 0.05, 0.3][random.index(4)];
        Plan { random, weights, pause_ms, lasts_ms, until, primary, in_work, on_record }
    }

    pub(super) fn random_index(&mut self, length: usize) -> usize {
        self.random.index(length)
    }

    fn kind(&mut self) -> Option<usize> {
        let total: u64 = self.weights.iter().sum();
        let mut drawn = self.random.below(total);
        self.weights.iter().position(|weight| {
            let hit = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            hit
        })
    }
}

impl World {
    pub(super) fn next_fault(&mut self) {
        let (low, high) = self.plan.pause_ms;
        let pause = self.plan.random.between(low, high) * MS;
        if self.now + pause >= self.plan.until {
            return;
        }
        self.fault_after(pause, Fault::Next);
        if let Some(kind) = self.plan.kind() {
            let (low, high) = self.plan.lasts_ms;
            let lasts = self.plan.random.span_ms(low, high);
            self.draw(kind, lasts);
        }
    }

    fn victim(&mut self) -> usize {
        let machines = self.machines.len();
        let any = self.plan.random.index(machines);
        let aimed = self.plan.random.chance(self.plan.primary);
        self.primary().filter(|_| aimed).unwrap_or(any)
    }

    /// Lets a fault happen now and its end after `lasts`.
    fn both(&mut self, fault: Fault, end: Fault, lasts: Time) {
        self.fault(fault);
        self.fault_after(lasts, end);
    }

    fn draw(&mut self, kind: usize, lasts: Time) {
        let machine = self.victim();
        match kind {
            0 => self.cut_link(machine, lasts, false),
            1 => self.cut_link(machine, lasts, true),
            2 => self.isolate(machine, lasts),
            3 => self.worsen_weather(lasts),
            4 => self.fault(Fault::KillMember { machine, for_: lasts / 2 }),
            5 => self.fault(Fault::KillGuard { machine }),
            6 => self.fault(Fault::KillWhole { machine, for_: lasts }),
            7 => self.fault(Fault::KillPostmaster { machine }),
            8 => self.fault(Fault::PowerOff { machine, for_: lasts }),
            9 => self.stop_for(machine, &[Process::Server], lasts),
            10 => self.stop_for(machine, &[Process::Member], lasts),
            11 => self.stop_for(machine, &[Process::Guard], lasts),
            12 => self.stop_for(machine, &[Process::Guard, Process::Member], lasts),
            13 => self.both(Fault::Suspend { machine }, Fault::Resume { machine }, lasts),
            14 => self.both(Fault::StallDisk { machine }, Fault::DiskGoesOn { machine }, lasts),
            15 => self.both(Fault::FillDisk { machine }, Fault::FreeDisk { machine }, lasts),
            16 => self.fault(Fault::ClockRate { machine }),
            20 => {
                let sync_max = self.plan.random.span_ms(20, 800);
                let slow = Fault::SlowDisk { machine, sync_max };
                self.both(slow, Fault::SlowDisk { machine, sync_max: SYNC_MAX }, lasts);
            }
            21 => {
                let to = self.random_data();
                let lag = self.plan.random.span_ms(100, 10_000);
                let late = Fault::LagWal { from: machine, to, lag };
                self.both(late, Fault::LagWal { from: machine, to, lag: 0 }, lasts * 3);
            }
            22 => {
                for _ in 0..self.plan.random.between(1, 8) {
                    let delay = self.plan.random.span_ms(1, 3_000);
                    self.fault_after(delay, Fault::Echo);
                }
            }
            17 => {
                let to = self.plan.random.chance(0.5).then(|| self.random_data());
                self.fault(Fault::Switchover { to });
            }
            18 => {
                let machine = self.random_data();
                let rare = self.plan.random.below(6);
                match rare {
                    0 => self.fault(Fault::OutsideHand { machine }),
                    1 => self.fault(Fault::RemoveData { machine }),
                    2 => self.fault(Fault::RestoreData { machine }),
                    _ => self.fault(Fault::PauseReplay { machine }),
                }
            }
            _ => self.fault(Fault::Busy { machine, for_: lasts.min(3 * SECOND) }),
        }
    }

    fn cut_link(&mut self, machine: usize, lasts: Time, both_ways: bool) {
        let nodes = self.network.nodes();
        let other = (machine + 1 + self.plan.random.index(nodes - 1)) % nodes;
        let (from, to) = if self.plan.random.chance(0.5) { (machine, other) } else { (other, machine) };
        self.both(Fault::Cut { from, to }, Fault::Join { from, to }, lasts);
        if both_ways {
            self.both(Fault::Cut { from: to, to: from }, Fault::Join { from: to, to: from }, lasts);
        }
    }

    /// Cuts a machine off from all others; clients may end up on either side.
    fn isolate(&mut self, machine: usize, lasts: Time) {
        for other in (0..self.network.nodes()).filter(|other| *other != machine) {
            let client = other >= self.machines.len();
            if client && self.plan.random.chance(0.5) {
                continue;
            }
            self.both(
                Fault::Cut { from: machine, to: other },
                Fault::Join { from: machine, to: other },
                lasts,
            );
            self.both(
                Fault::Cut { from: other, to: machine },
                Fault::Join { from: other, to: machine },
                lasts,
            );
        }
    }

    fn worsen_weather(&mut self, lasts: Time) {
        let levels = [0.0, 0.01, 0.05, 0.2, 0.4];
        let loss = levels[self.plan.random.index(levels.len())];
        let duplicate = levels[self.plan.random.index(levels.len())];
        let late = levels[self.plan.random.index(levels.len())];
        let weather = Weather { loss, duplicate, late };
        self.both(Fault::Weather(weather), Fault::Weather(Weather::FAIR), lasts);
    }

    fn stop_for(&mut self, machine: usize, processes: &[Process], lasts: Time) {
        for process in processes {
            let process = *process;
            self.both(Fault::Stop { machine, process }, Fault::Continue { machine, process }, lasts);
        }
    }

    /// A member has done one step of its work.
    pub(crate) fn ambush_in_work(&mut self, machine: usize) {
        if self.now < self.plan.until && self.plan.random.chance(self.plan.in_work) {
            self.ambush(machine);
        }
    }

    /// The record has changed, and `machine` is the one it speaks of.
    pub(crate) fn ambush_on_record(&mut self, machine: usize) {
        if self.now < self.plan.until && self.plan.random.chance(self.plan.on_record) {
            self.ambush(machine);
        }
    }

    fn ambush(&mut self, machine: usize) {
        let lasts = self.plan.random.span_ms(5, 5_000);
        let delay = if self.plan.random.chance(0.5) { 0 } else { self.plan.random.span_ms(1, 200) };
        let fault = match self.plan.random.below(10) {
            0 | 1 => Fault::KillMember { machine, for_: lasts / 2 },
            2 => Fault::KillGuard { machine },
            3 => Fault::KillPostmaster { machine },
            4 => Fault::KillWhole { machine, for_: lasts },
            5 => Fault::PowerOff { machine, for_: lasts },
            6 => Fault::OutsideHand { machine },
            7 => self.stopped_until(machine, Process::Guard, delay + lasts),
            8 => self.stopped_until(machine, Process::Member, delay + lasts),
            _ => {
                self.fault_after(delay + lasts, Fault::DiskGoesOn { machine });
                Fault::StallDisk { machine }
            }
        };
        self.fault_after(delay, fault);
    }

    fn stopped_until(&mut self, machine: usize, process: Process, lasts: Time) -> Fault {
        self.fault_after(lasts, Fault::Continue { machine, process });
        Fault::Stop { machine, process }
    }
}
