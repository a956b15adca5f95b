//! How a server ends: its postmaster dies, its children follow in their own time, and then nothing of it is left.

use super::Stage;
use crate::event::{Event, GuardEvent, KernelEvent, Life};
use crate::machine::Process;
use crate::queue::{MS, SECOND, Time};
use crate::world::World;

impl World {
    pub(super) fn server_exits(&mut self, machine: usize) {
        let server = self.server(machine);
        server.postmaster = false;
        let life = server.life;
        self.strike_now(machine);
        let at = self.now + self.random.span_ms(2, 20);
        self.queue.push(at, Event::Kernel { machine, what: KernelEvent::Gone { server: life } });
        self.tell_guard(machine, MS, GuardEvent::PostmasterDied { server: life });
    }

    /// The postmaster is gone; its children find out in their own time.
    pub(crate) fn postmaster_dies(&mut self, machine: usize) {
        let Some(server) = self.machines[machine].server.as_mut().filter(|server| server.postmaster) else {
            return;
        };
        server.postmaster = false;
        let (life, waits) = (server.life, server.sync_defined || server.stage != Stage::Primary);
        self.note(machine, || "postmaster died".to_owned());
        self.machines[machine].stopped[Process::Server.index()] = false;
        self.drop_receiver(machine);
        self.drop_senders(machine);
        let lives_on = if waits { 25 * MS } else { self.random.span_ms(20, 3_000) };
        let what = KernelEvent::OrphansDie { server: life };
        self.queue.push(self.now + lives_on, Event::Kernel { machine, what });
        self.release_inbox(machine, Process::Server);
        self.tell_guard(machine, 3 * MS, GuardEvent::PostmasterDied { server: life });
    }

    fn tell_guard(&mut self, machine: usize, within: Time, what: GuardEvent) {
        if let Some(guard) = &self.machines[machine].guard {
            let life = guard.life;
            let at = self.now + self.random.between(within / 5, within);
            self.queue.push(at, Event::Guard { machine, life, what });
        }
    }

    /// A write found no space: PostgreSQL panics.
    pub(crate) fn panics(&mut self, machine: usize) {
        self.note(machine, || "postgres panics: no space left on device".to_owned());
        self.postmaster_dies(machine);
    }

    pub(crate) fn kernel_event(&mut self, machine: usize, what: KernelEvent) {
        match what {
            KernelEvent::Boot => self.boot(machine),
            KernelEvent::OrphansDie { server } => {
                if self.has_server(machine, server) {
                    self.strike_now(machine);
                    let what = KernelEvent::Gone { server };
                    self.queue.push(self.now + 5 * MS, Event::Kernel { machine, what });
                }
            }
            KernelEvent::Struck { server } => {
                if self.has_server(machine, server) {
                    self.strike_now(machine);
                }
            }
            KernelEvent::Gone { server } => self.nothing_left(machine, server),
        }
    }

    pub(crate) fn has_server(&self, machine: usize, life: Life) -> bool {
        self.machines[machine].server.as_ref().is_some_and(|server| server.life == life)
    }

    /// No process of the server executes any more.
    pub(crate) fn strike_now(&mut self, machine: usize) {
        if self.machines[machine].server.as_ref().is_none_or(|server| !server.executing) {
            return;
        }
        self.observe_loss(machine);
        self.drop_receiver(machine);
        self.drop_senders(machine);
        self.drop_sessions(machine);
        let server = self.server(machine);
        server.executing = false;
        server.postmaster = false;
        self.machines[machine].stopped[Process::Server.index()] = false;
        self.machines[machine].inbox[Process::Server.index()].clear();
    }

    fn nothing_left(&mut self, machine: usize, server: Life) {
        if !self.has_server(machine, server) {
            return;
        }
        // A process in the kernel's hands does not die.
        if let Some(since) = self.machines[machine].disk.stalled_since {
            let again = self.now + if self.now > since + SECOND { 100 * MS } else { 20 * MS };
            self.queue.push(again, Event::Kernel { machine, what: KernelEvent::Gone { server } });
            return;
        }
        self.strike_now(machine);
        self.machines[machine].server = None;
        self.note(machine, || "nothing of postgres is left".to_owned());
        self.tell_guard(machine, MS, GuardEvent::Gone { server });
    }
}
