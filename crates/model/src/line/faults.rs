//! What goes wrong, as often as the bounds allow.

use super::sight::small;
use super::world::{Lease, MEMBERS, STRAY, Server, State, Touch, Work};
use super::{Happening, Line, Scope};
use crate::explore::Successor;

/// A fault: its name, whether the bounds have it, and what it does, if it can happen now.
type Fault = (&'static str, fn(&Scope) -> bool, fn(&Line, &mut State, u8) -> bool);

const FAULTS: &[Fault] = &[
    (
        "PostgreSQL dies",
        |scope| scope.crash,
        |_, state, member| {
            let own = state.member_mut(member);
            let lives = own.is_running();
            own.stop_server();
            own.scanned = false;
            lives
        },
    ),
    (
        "machine dies",
        |scope| scope.down,
        |line, state, member| {
            line.machine_down(state, member);
            true
        },
    ),
    (
        "process starts anew",
        |scope| scope.restart,
        |_, state, member| {
            restart(state, member);
            true
        },
    ),
    (
        "process starts anew with an old record",
        |scope| scope.restart && scope.lag,
        |line, state, member| {
            restart(state, member);
            let own = state.member_mut(member);
            own.touch = Touch::Lagging;
            own.view = line.first;
            true
        },
    ),
    (
        "cut off",
        |scope| scope.cut,
        |_, state, member| {
            let own = state.member_mut(member);
            let before = own.touch;
            own.touch = Touch::Cut;
            before == Touch::Full
        },
    ),
    (
        "lags",
        |scope| scope.lag,
        |_, state, member| {
            let own = state.member_mut(member);
            let before = own.touch;
            own.touch = Touch::Lagging;
            before == Touch::Full
        },
    ),
    (
        "link breaks",
        |scope| scope.link,
        |_, state, member| {
            let own = state.member_mut(member);
            let before = own.link;
            own.link = false;
            before && own.server == Server::Standby
        },
    ),
    (
        "directory lost",
        |scope| scope.wipe,
        |line, state, member| {
            let had = state.member(member).incarnation > 0;
            line.directory_gone(state, member);
            had
        },
    ),
    (
        "directory restored",
        |scope| scope.wipe,
        |line, state, member| {
            let wal = state.member(member).wal;
            let had = state.member(member).incarnation > 0;
            line.directory_gone(state, member);
            let own = state.member_mut(member);
            own.wal = wal.cut(2);
            own.newest_incarnation += 1;
            own.incarnation = own.newest_incarnation;
            had
        },
    ),
    (
        "rewind or clone fails",
        |scope| scope.fail,
        |_, state, member| {
            let own = state.member_mut(member);
            let under_way = matches!(own.work, Work::Rewind { .. });
            own.work = Work::Nothing;
            under_way
        },
    ),
    (
        "promoted by an outside hand",
        |scope| scope.stray,
        |_, state, member| {
            let own = state.member_mut(member);
            if own.server != Server::Standby || own.wal.is_full() {
                return false;
            }
            own.wal.push(own.wal.timeline() + 1, STRAY);
            own.server = Server::Stray;
            own.scanned = false;
            true
        },
    ),
];

impl Line {
    pub(super) fn faults(&mut self, state: &State, into: &mut Vec<Successor<State, Happening>>) {
        if !self.may_fail(state) {
            return;
        }
        for (name, wanted, happens) in FAULTS {
            if !wanted(&self.scope) {
                continue;
            }
            for member in (0..MEMBERS).filter(|member| state.member(*member).up) {
                let mut next = state.clone();
                if happens(self, &mut next, member) {
                    next.spent.faults += 1;
                    self.push(into, Happening::Fault(name, member), next, false);
                }
            }
        }
        self.lapse_unluckily(state, into);
    }

    /// The holder is well, but its renewals are not answered in time.
    fn lapse_unluckily(&mut self, state: &State, into: &mut Vec<Successor<State, Happening>>) {
        if !self.scope.late {
            return;
        }
        let Some(tenure) = self.records.record(state.record).tenure() else { return };
        let (holder, epoch) = (self.minds.number(&tenure.holder), small(tenure.epoch));
        if state.member(holder).lease != Lease::Valid(epoch) || state.member(holder).touch == Touch::Cut {
            return;
        }
        let mut next = state.clone();
        let own = next.member_mut(holder);
        own.lease = Lease::Lapsed(epoch);
        if let Server::Opened(_) = own.server {
            own.stop_server();
        }
        next.spent.faults += 1;
        self.push(into, Happening::Fault("lease lapses", holder), next, false);
    }
}

/// PostgreSQL and the guard live on. What is open stays armed; a grant that was not opened yet is void.
fn restart(state: &mut State, member: u8) {
    let own = state.member_mut(member);
    own.forget();
    if own.opened() == 0 {
        own.lease = Lease::None;
    }
}
