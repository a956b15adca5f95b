//! The guard: it owns the postmaster, opens it under a grant, and ends it when the lease runs out.

use std::collections::BTreeSet;

use mainstay_core::{Epoch, Now, Timeline};

use crate::event::{Event, GuardEvent, KernelEvent, Life, MemberEvent, ServerEvent};
use crate::machine::Process;
use crate::mutant::ShellMutant;
use crate::queue::{MICROSECOND, MS, SECOND, Time};
use crate::world::World;

pub(crate) struct Guard {
    pub(crate) life: Life,
    /// The newest epoch that it was armed for.
    pub(crate) armed: Option<(Epoch, Now)>,
    /// The epoch under which the server was opened.
    pub(crate) opened: Option<Epoch>,
    pub(crate) last_opened: Option<Epoch>,
    pub(crate) state: GuardState,
    /// The member's newest connection.
    pub(crate) member: Option<Life>,
    /// When its last word arrives: a socket keeps the order.
    said_at: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuardState {
    Empty,
    Running(Life),
    Ending,
}

/// What the guard tells its member whenever it changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuardWord {
    pub(crate) state: GuardState,
    pub(crate) opened: Option<Epoch>,
    pub(crate) last_opened: Option<Epoch>,
    pub(crate) armed: Option<(Epoch, Now)>,
}

#[derive(Clone, Debug)]
pub(crate) enum GuardRequest {
    Hello,
    Start,
    Arm { epoch: Epoch, deadline: Now },
    Open { epoch: Epoch, dummies: BTreeSet<Timeline> },
    Reload,
    Kill,
    FastStop { kill_after: Time },
}

impl Guard {
    fn new(life: Life) -> Guard {
        Guard {
            life,
            armed: None,
            opened: None,
            last_opened: None,
            state: GuardState::Empty,
            member: None,
            said_at: 0,
        }
    }

    fn word(&self) -> GuardWord {
        GuardWord { state: self.state, opened: self.opened, last_opened: self.last_opened, armed: self.armed }
    }
}

impl World {
    /// A new guard. What an earlier one left behind is killed before anything is started.
    pub(crate) fn start_guard(&mut self, machine: usize) {
        let life = self.new_life();
        let mut guard = Guard::new(life);
        if self.machines[machine].server.is_some() && !self.mutated(ShellMutant::LeftoversTolerated) {
            guard.state = GuardState::Ending;
            self.machines[machine].guard = Some(guard);
            self.strike(machine);
        } else {
            self.machines[machine].guard = Some(guard);
        }
        self.note(machine, || "guard started".to_owned());
    }

    /// SIGKILL of the guard: the postmaster dies with it, busy backends live on for a little.
    pub(crate) fn kill_guard(&mut self, machine: usize) {
        let Some(guard) = self.machines[machine].guard.take() else { return };
        self.note(machine, || "guard killed".to_owned());
        self.machines[machine].stopped[Process::Guard.index()] = false;
        self.machines[machine].inbox[Process::Guard.index()].clear();
        self.postmaster_dies(machine);
        let at = self.now + self.random.between(100 * MICROSECOND, 3 * MS);
        self.tell_member(machine, at, MemberEvent::GuardDied { life: guard.life });
    }

    pub(crate) fn tell_member(&mut self, machine: usize, at: Time, what: MemberEvent) {
        if let Some(member) = &self.machines[machine].member {
            let life = member.life;
            self.queue.push(at, Event::Member { machine, life, what });
        }
    }

    pub(crate) fn guard_event(&mut self, machine: usize, what: GuardEvent) {
        self.guard_watches_clock(machine);
        match what {
            GuardEvent::Alarm => {}
            GuardEvent::PostmasterDied { server } | GuardEvent::StopTooSlow { server } => {
                if self.guard_mut(machine).state == GuardState::Running(server) {
                    self.guard_kills(machine);
                }
            }
            GuardEvent::Gone { server } => self.guard_sees_nothing_left(machine, server),
            GuardEvent::Request { from, number, request } => {
                let result = self.serve(machine, from, request);
                self.guard_tells(machine, from, MemberEvent::GuardAnswers { request: number, result });
            }
        }
    }

    fn guard_mut(&mut self, machine: usize) -> &mut Guard {
        self.machines[machine].guard.as_mut().expect("its events come only while it lives")
    }

    /// The first thing after every waking: past the deadline everything is killed, and the epoch is void for good.
    fn guard_watches_clock(&mut self, machine: usize) {
        let now = self.local_now(machine);
        let without = self.mutated(ShellMutant::GuardWithoutDeadline);
        let guard = self.guard_mut(machine);
        let Some((epoch, deadline)) = guard.armed else { return };
        if now < deadline || guard.opened != Some(epoch) || without {
            return;
        }
        if matches!(guard.state, GuardState::Running(_)) {
            self.note(machine, || format!("guard: the lease of epoch {epoch} has run out"));
            self.guard_kills(machine);
        }
    }

    fn serve(&mut self, machine: usize, from: Life, request: GuardRequest) -> Result<(), String> {
        if let GuardRequest::Hello = request {
            let guard = self.guard_mut(machine);
            guard.member = guard.member.max(Some(from));
            self.guard_speaks(machine);
            return Ok(());
        }
        if self.guard_mut(machine).member != Some(from) {
            return Err("another member process has taken over".to_owned());
        }
        match request {
            GuardRequest::Hello => Ok(()),
            GuardRequest::Start => self.guard_starts(machine),
            GuardRequest::Arm { epoch, deadline } => self.guard_arms(machine, epoch, deadline),
            GuardRequest::Open { epoch, dummies } => self.guard_opens(machine, epoch, &dummies),
            GuardRequest::Reload => self.signal_server(machine, MS, ServerEvent::Reload),
            GuardRequest::Kill => {
                self.guard_kills(machine);
                Ok(())
            }
            GuardRequest::FastStop { kill_after } => {
                let at = self.now + kill_after;
                let guard = self.guard_mut(machine);
                if let GuardState::Running(server) = guard.state {
                    let life = guard.life;
                    let what = GuardEvent::StopTooSlow { server };
                    self.queue.push(at, Event::Guard { machine, life, what });
                }
                self.signal_server(machine, MS, ServerEvent::FastStop)
            }
        }
    }

    fn signal_server(&mut self, machine: usize, delay: Time, what: ServerEvent) -> Result<(), String> {
        let GuardState::Running(life) = self.guard_mut(machine).state else {
            return Err("PostgreSQL does not run".to_owned());
        };
        let at = self.now + self.random.between(delay / 10, delay);
        self.queue.push(at, Event::Server { machine, life, what });
        Ok(())
    }

    fn guard_starts(&mut self, machine: usize) -> Result<(), String> {
        if self.guard_mut(machine).state != GuardState::Empty {
            return Err("something of the old PostgreSQL is left".to_owned());
        }
        if self.machines[machine].server.is_some() {
            return Err("pre-existing shared memory block is still in use".to_owned());
        }
        let server = self.start_server(machine)?;
        let guard = self.guard_mut(machine);
        guard.state = GuardState::Running(server);
        guard.opened = None;
        self.guard_speaks(machine);
        Ok(())
    }

    fn guard_arms(&mut self, machine: usize, epoch: Epoch, deadline: Now) -> Result<(), String> {
        let now = self.local_now(machine);
        let late_grants = self.mutated(ShellMutant::LateGrantHonoured);
        let guard = self.guard_mut(machine);
        if let Some(opened) = guard.opened
            && opened < epoch
        {
            return Err(format!("the server opened under epoch {opened} lives still"));
        }
        match guard.armed {
            Some((armed, _)) if epoch < armed => return Err(format!("armed for epoch {armed} already")),
            Some((armed, until)) if epoch == armed && (now >= until && !late_grants) => {
                return Err(format!("the lease of epoch {epoch} has run out"));
            }
            Some((armed, until)) if epoch == armed => guard.armed = Some((epoch, deadline.max(until))),
            _ if now >= deadline => return Err("the deadline has passed".to_owned()),
            _ => guard.armed = Some((epoch, deadline)),
        }
        self.guard_sets_alarm(machine);
        Ok(())
    }

    pub(crate) fn guard_sets_alarm(&mut self, machine: usize) {
        let Some(guard) = &self.machines[machine].guard else { return };
        let Some((_, deadline)) = guard.armed else { return };
        let life = guard.life;
        let at = self.machines[machine].clock.shows_at(deadline).max(self.now);
        self.queue.push(at, Event::Guard { machine, life, what: GuardEvent::Alarm });
    }

    fn guard_opens(
        &mut self,
        machine: usize,
        epoch: Epoch,
        dummies: &BTreeSet<Timeline>,
    ) -> Result<(), String> {
        let now = self.local_now(machine);
        let without = self.mutated(ShellMutant::GuardWithoutDeadline);
        let guard = self.guard_mut(machine);
        let GuardState::Running(server) = guard.state else {
            return Err("PostgreSQL does not run".to_owned());
        };
        match guard.armed {
            Some((armed, deadline)) if armed == epoch && (now < deadline || without) => {}
            Some((armed, _)) if armed == epoch => {
                return Err(format!("the lease of epoch {epoch} has run out"));
            }
            _ => return Err(format!("not armed for epoch {epoch}")),
        }
        if guard.opened.is_some() || guard.last_opened >= Some(epoch) {
            return Err(format!("epoch {epoch} was opened here before"));
        }
        guard.opened = Some(epoch);
        guard.last_opened = Some(epoch);
        self.check_opens_what_is_granted(machine, epoch);
        if let Some(content) = &mut self.machines[machine].data.content {
            content.histories.extend(dummies);
        }
        if let Some(live) = self.machines[machine].server.as_mut().filter(|live| live.life == server) {
            live.opened = Some(epoch);
            live.opened_at = self.now;
        }
        self.note(machine, || format!("guard opens epoch {epoch}"));
        self.guard_speaks(machine);
        self.signal_server(machine, 2 * MS, ServerEvent::Promote)
    }

    pub(crate) fn guard_kills(&mut self, machine: usize) {
        let guard = self.guard_mut(machine);
        if !matches!(guard.state, GuardState::Running(_)) {
            return;
        }
        guard.state = GuardState::Ending;
        self.guard_speaks(machine);
        self.strike(machine);
    }

    /// SIGKILL for every process of the server, until none is left.
    pub(crate) fn strike(&mut self, machine: usize) {
        let Some(server) = &self.machines[machine].server else { return };
        let server = server.life;
        let struck = self.now + self.random.between(300 * MICROSECOND, 8 * MS);
        // Giving back touched shared memory takes its time.
        let slow = self.random.chance(0.05);
        let gone = struck + if slow { self.random.span_ms(100, 1_200) } else { self.random.span_ms(5, 60) };
        self.queue.push(struck, Event::Kernel { machine, what: KernelEvent::Struck { server } });
        self.queue.push(gone, Event::Kernel { machine, what: KernelEvent::Gone { server } });
    }

    fn guard_sees_nothing_left(&mut self, machine: usize, server: Life) {
        let guard = self.guard_mut(machine);
        if matches!(guard.state, GuardState::Running(life) if life != server) {
            return;
        }
        guard.state = GuardState::Empty;
        guard.opened = None;
        self.guard_speaks(machine);
    }

    /// Every change is told at once.
    pub(crate) fn guard_speaks(&mut self, machine: usize) {
        let guard = self.guard_mut(machine);
        if let (word, Some(listener)) = (guard.word(), guard.member) {
            self.guard_tells(machine, listener, MemberEvent::GuardSays(word));
        }
    }

    fn guard_tells(&mut self, machine: usize, listener: Life, what: MemberEvent) {
        let arrives = self.now + self.random.between(50 * MICROSECOND, MS);
        let listens = self.machines[machine].member.as_ref().is_some_and(|member| member.life == listener);
        let guard = self.guard_mut(machine);
        guard.said_at = guard.said_at.max(arrives);
        let at = guard.said_at;
        if listens && guard.member == Some(listener) {
            self.tell_member(machine, at, what);
        }
    }

    pub(crate) fn guard_is_late(&mut self, machine: usize) {
        let machine = &mut self.machines[machine];
        machine.guard_excused_until = self.now + SECOND / 20;
    }
}
