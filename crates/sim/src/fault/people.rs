//! What people and their tools do: promote by hand, lose or restore a directory, ask for a switchover; and a proposal that
//! comes late.

use mainstay_core::Lsn;
use mainstay_core::record::Command;

use crate::disk::Content;
use crate::event::{Event, KernelEvent, ServerEvent};
use crate::machine::Process;
use crate::mutant::ShellMutant;
use crate::queue::MS;
use crate::world::World;

impl World {
    pub(super) fn promote_by_hand(&mut self, machine: usize) {
        if self.observer.data_removed {
            return;
        }
        self.observer.outside_hand = true;
        // Where it spoils the only proof of what was acknowledged, a person must decide.
        let record = &self.observer.record;
        let proof_left = record.is_open()
            && record.sync().is_some_and(|sync| !sync.is_lone())
            && self.primary() != Some(machine);
        self.observer.excused |= !proof_left;
        self.disturb(machine);
        if self.machines[machine].live_server().is_some() {
            self.at_server(machine, MS, ServerEvent::Promote);
        }
    }

    /// An operator asks the member that leads.
    pub(crate) fn ask_for_switchover(&mut self, to: Option<usize>) {
        let Some(primary) = self.primary() else { return };
        let id = self.random.next();
        let to = to.map(|machine| self.machines[machine].id.clone());
        let Some(member) = &self.machines[primary].member else { return };
        let epoch = member.view.record.epoch;
        self.observer.switchovers += 1;
        self.propose(primary, &Command::RequestSwitchover { id, epoch, to });
    }

    /// A network that held it back delivers a proposal to the leader, under another number than its repetitions.
    pub(super) fn echo(&mut self) {
        let leads =
            |place: &crate::machine::Machine| place.member.as_ref().is_some_and(|m| m.leads().is_some());
        let runs = |place: &crate::machine::Machine| place.runs(Process::Member) && leads(place);
        let leader = self.machines.iter().position(runs);
        let proposals = self.observer.proposals.len();
        if let Some(leader) = leader.filter(|_| proposals > 0) {
            let command = self.observer.proposals[self.plan.random_index(proposals)].clone();
            self.note(leader, || format!("late: {command:?}"));
            self.propose(leader, &command);
        }
    }

    /// One directory in a run, and only while the others prove what was acknowledged.
    pub(super) fn lose_data(&mut self, machine: usize, restored: bool) {
        if self.may_lose_data() {
            self.destroy_data(machine, restored);
        }
    }

    pub(super) fn may_lose_data(&self) -> bool {
        let record = &self.observer.record;
        let lone = record.sync().is_none_or(mainstay_core::sync::SyncSet::is_lone);
        let all_whole = self
            .data_members()
            .iter()
            .all(|m| self.machines[*m].data.content.as_ref().is_some_and(|content| !content.garbage));
        let open = record.is_open() && self.observer.gates.contains(&record.epoch);
        // Nor together with an outside hand, which may have spoilt the one that is left.
        !lone && open && !self.observer.data_removed && !self.observer.outside_hand && all_whole
    }

    /// The directory is gone, or is another one now.
    pub(crate) fn destroy_data(&mut self, machine: usize, restored: bool) {
        self.observer.data_removed = true;
        self.disturb(machine);
        self.note(machine, || format!("the data directory is lost, restored: {restored}"));
        if self.machines[machine].server.is_some() {
            self.strike_now(machine);
            self.postmaster_gone_with_data(machine);
        }
        if restored {
            self.restore_older(machine)
        } else {
            self.machines[machine].data.content = None
        }
        if self.machines[machine].member.is_some() {
            self.refresh_directory(machine);
        }
    }

    /// What a restore puts there: an earlier state, under a new incarnation, that follows nobody.
    fn restore_older(&mut self, machine: usize) {
        let Some(content) = self.machines[machine].data.content.clone() else { return };
        let (root, end) = (self.wal.end(self.wal.root()).0, self.wal.end(content.durable).0);
        let tip = self.wal.cut(content.durable, Lsn(self.random.between(root, end)));
        let kept = self.mutated(ShellMutant::IncarnationKept);
        let incarnation = if kept { content.incarnation } else { self.new_incarnation() };
        let branch = self.wal.branch(tip);
        let mut older = Content::new(incarnation, content.system_identifier, tip, branch);
        older.histories = content.histories;
        older.histories.retain(|number| *number <= self.wal.timeline(tip));
        self.machines[machine].data.content = Some(older);
        let files = &mut self.machines[machine].files;
        (files.upstream, files.conninfo) = (None, None);
        if let Some(member) = &mut self.machines[machine].member {
            member.view.upstream = None;
            member.view.scan = None;
        }
    }

    pub(super) fn postmaster_gone_with_data(&mut self, machine: usize) {
        let Some(server) = &self.machines[machine].server else { return };
        let server = server.life;
        let at = self.now + 5 * MS;
        self.queue.push(at, Event::Kernel { machine, what: KernelEvent::Gone { server } });
    }
}
