//! The virtual address, as the shell of a member handles it: a process that the member gives orders to, and a kernel that counts.

use mainstay_core::{Epoch, Now};

use super::MemberEvent;
use crate::queue::MS;
use crate::world::World;

/// What the member's process knows of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    claimed: Option<Epoch>,
    known: Epoch,
    /// The newest epoch whose lease was given up, as the main loop remembers it.
    pub(crate) relinquished: Epoch,
    over: Epoch,
    released: Epoch,
    until: Option<Now>,
}

impl Addresses {
    /// Whatever an earlier process was told may last until then.
    pub(crate) fn new(until: Now) -> Addresses {
        Addresses {
            claimed: None,
            known: Epoch(0),
            relinquished: Epoch(0),
            over: Epoch(0),
            released: Epoch(0),
            until: Some(until),
        }
    }
}

impl World {
    /// Before each decision: what the process may hold, and until when it may.
    pub(super) fn follow_addresses(&mut self, machine: usize) {
        let usable = mainstay_core::lease::usable(self.config.lease);
        let member = self.member(machine);
        let relinquished = member.addresses.relinquished;
        let request = member.view.record.tenure().map(|tenure| tenure.request);
        let asked_here = member.requests.iter().any(|(number, _)| Some(*number) == request);
        member.addresses.known = mainstay_core::vip::known(&member.view, asked_here, member.addresses.known);
        let claim = mainstay_core::vip::claim(&member.view, member.addresses.known)
            .filter(|claim| claim.epoch > relinquished);
        let over = mainstay_core::vip::over(&member.view, relinquished);
        let (now, newest) = (member.view.now, member.view.record.epoch);
        let known = &mut member.addresses;
        let claimed = std::mem::replace(&mut known.claimed, claim.map(|claim| claim.epoch));
        if claim.is_some() || claimed.is_some() {
            known.until = Some(now.plus(usable));
        } else if known.released >= newest || known.until.is_some_and(|until| until <= now) {
            known.until = None;
        }
        member.view.addresses_until = known.until;
        let is_told = std::mem::replace(&mut known.over, over) != over;
        self.hold_address(machine);
        // A process that hangs lets nothing go: the kernel does, in time. No chance is drawn here, so that runs stay what they were.
        let hangs = (over.0 + machine as u64).is_multiple_of(5);
        if is_told && !hangs {
            let at = self.now + (1 + over.0 * 7 % 29) * MS;
            self.tell_member(machine, at, MemberEvent::AddressLetGo(over));
        }
    }

    /// By the newest deadline of the lease, if the member has said that the address may be here.
    pub(super) fn hold_address(&mut self, machine: usize) {
        let Some((epoch, deadline)) = self.deadline(machine) else { return };
        let now = self.local_now(machine);
        if self.member(machine).addresses.claimed == Some(epoch) && now < deadline {
            self.machines[machine].address = Some((epoch, deadline));
            self.check_one_address(machine);
        }
    }

    pub(super) fn address_let_go(&mut self, machine: usize, epoch: Epoch) {
        // It takes away whatever is there by its kind's hand, also what a process before it has put there.
        if self.member(machine).addresses.claimed.is_none_or(|claimed| claimed <= epoch) {
            self.machines[machine].address = None;
        }
        let released = &mut self.member(machine).addresses.released;
        *released = (*released).max(epoch);
        self.wake(machine);
    }
}
