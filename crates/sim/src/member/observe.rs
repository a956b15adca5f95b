//! What the member sees of its own server, at the moments at which it looks.

use mainstay_core::view::{Health, Primary, Running, Server, Streaming, Walsender};

use crate::machine::Process;
use crate::postgres::{Receiver, Stage};
use crate::world::World;

impl World {
    /// One round of questions over SQL, and then one to the guard. The order matters: a server that is seen out of
    /// recovery was promoted by an outside hand only if the guard, asked *after* that, has not opened it.
    pub(crate) fn observe(&mut self, machine: usize) {
        let guard_answers = self.machines[machine].runs(Process::Guard);
        let Some(guard) = self.machines[machine].guard.as_ref().filter(|_| guard_answers) else { return };
        let opened = guard.opened;
        let Some(live) = self.machines[machine].live_server().filter(|live| live.is_ready()) else { return };
        let timeline_of = |tip| self.wal.timeline(tip);
        let content = self.machines[machine].data.content.as_ref().expect("a server has a directory");
        let primary = (live.stage == Stage::Primary).then(|| Primary {
            history: (*self.wal.history(live.inserted)).clone(),
            end_of_recovery: live.end_of_recovery,
            next_xid: live.next_xid,
            inserted: self.wal.end(live.inserted),
        });
        let streaming = matches!(live.receiver, Receiver::Streaming { .. }).then(|| Streaming {
            timeline: timeline_of(content.durable),
            flushed: self.wal.end(content.durable),
        });
        let running = Running {
            opened,
            ready: true,
            in_recovery: Some(live.in_recovery()),
            replayed: self.wal.end(live.replayed),
            streaming,
            primary,
        };
        let now = self.now;
        let clock = &self.machines[machine].clock;
        let walsenders = live.senders.iter().map(|sender| Walsender {
            pid: sender.pid,
            application_name: format!("ms_{}_{}", sender.voter.member, sender.voter.incarnation),
            voter: Some(sender.voter.clone()),
            streaming: true,
            flushed: sender.flushed,
            stalled_since: sender
                .behind_since
                .map(|since| clock.now(now).minus(std::time::Duration::from_nanos(now - since))),
        });
        let walsenders: Vec<Walsender> = walsenders.collect();
        let member = self.member(machine);
        if !matches!(member.view.server, Server::Running(_)) {
            return;
        }
        let changed = member.view.walsenders.len() != walsenders.len()
            || member.view.running().is_none_or(|before| {
                before.streaming.map(|s| s.timeline) != running.streaming.map(|s| s.timeline)
                    || before.in_recovery != running.in_recovery
            });
        member.view.walsenders = walsenders;
        member.view.server = Server::Running(running);
        if changed {
            self.wake(machine);
        }
    }

    /// Signs of life, as the probes see them.
    pub(super) fn health(&self, machine: usize) -> Health {
        let place = &self.machines[machine];
        let stopped = place.stopped[Process::Server.index()] && place.server.is_some();
        let stalled = place.disk.stalled_since.map(|_| place.disk.stalled_at);
        Health {
            silent_since: stopped.then(|| place.stopped_at[Process::Server.index()]),
            postmaster_state: stopped.then_some('T'),
            write_waits_since: stalled,
            device_idle_since: stalled,
            directory_gone: place.server.is_some() && place.data.content.is_none(),
            disk_full: place.disk.full,
        }
    }
}
