//! Machines that join the cluster, leave it and come back, and some that are lost for good and replaced.

use mainstay_consensus::sim_disk::SimDisk;
use mainstay_consensus::{Identity, create};
use mainstay_core::MemberId;
use mainstay_core::record::{Command, Invitation, Joining, Kind, Member};

use super::Fault;
use crate::disk::{Directory, Files};
use crate::event::Event;
use crate::member::RaftReplica;
use crate::mutant::ShellMutant;
use crate::queue::{MS, SECOND, Time};
use crate::random::Random;
use crate::world::World;

/// The first format that knows of changes of the members.
const MEMBERS_CHANGE: u32 = 2;
/// A newcomer that is not let in gives up.
const PATIENCE: Time = 20 * SECOND;
/// How long people wait for a member to come back by itself, once everything is put right.
const STRANDED: Time = 20 * SECOND;
/// How long whoever is to go may take once everything is put right.
const WITHIN: Time = 150 * SECOND;

/// One who changes who belongs to the cluster; in some runs only, and with draws of its own.
#[derive(Clone, Debug)]
pub(crate) struct Registrar {
    random: Random,
    until: Time,
    newcomer: Option<Newcomer>,
    /// Counts keys: none is used twice.
    keys: u64,
    lost: bool,
}

#[derive(Clone, Debug)]
struct Newcomer {
    machine: usize,
    invitation: Invitation,
    since: Time,
}

/// Who founds the cluster, and who stands ready to join.
pub(crate) fn spares(seed: u64) -> Option<(usize, Vec<Kind>)> {
    let mut random = drawing(seed);
    if !random.chance(0.2) {
        return None;
    }
    let founders = [1, 2, 3, 3][random.index(4)];
    let spare = |random: &mut Random| if random.chance(0.2) { Kind::Witness } else { Kind::Data };
    let count = random.between(2, 3);
    Some((founders, (0..count).map(|_| spare(&mut random)).collect()))
}

fn drawing(seed: u64) -> Random {
    Random::new(seed ^ 0x6A6F_696E_6572)
}

impl Registrar {
    pub(crate) fn new(seed: u64, until: Time) -> Registrar {
        Registrar { random: drawing(seed.rotate_left(17)), until, newcomer: None, keys: 0, lost: false }
    }
}

impl World {
    pub(super) fn registrar_acts(&mut self) {
        let Some(mut registrar) = self.registrar.take() else { return };
        self.fault_after(registrar.random.between(100, 900) * MS, Fault::Register);
        if self.observer.record.format >= MEMBERS_CHANGE {
            self.tidy(&mut registrar);
            if registrar.newcomer.is_some() {
                self.let_in(&mut registrar);
            } else if self.now < registrar.until && registrar.random.chance(0.25) {
                self.begin_something(&mut registrar);
            }
        }
        self.registrar = Some(registrar);
    }

    fn begin_something(&mut self, registrar: &mut Registrar) {
        let spares: Vec<usize> = (0..self.machines.len()).filter(|machine| self.is_spare(*machine)).collect();
        let leaver = self.some_member(&mut registrar.random);
        match registrar.random.below(10) {
            0..=5 if !spares.is_empty() => {
                let machine = spares[registrar.random.index(spares.len())];
                let replaces = leaver.filter(|_| registrar.random.chance(0.4));
                self.invite(registrar, machine, replaces);
            }
            6 => self.lose_for_good(registrar),
            _ => {
                if let Some(member) = leaver {
                    self.submit(&Command::Leave { member });
                }
            }
        }
    }

    /// One that is to stay and is not the primary.
    fn some_member(&self, random: &mut Random) -> Option<MemberId> {
        let record = &self.observer.record;
        let mut staying = record.staying().map(|(member, _)| member).filter(|m| Some(*m) != record.primary());
        let index = random.index(record.staying().count().max(1));
        staying.nth(index).cloned()
    }

    /// Nothing of an earlier life is left on it, and no row of the record is its own.
    fn is_spare(&self, machine: usize) -> bool {
        let place = &self.machines[machine];
        place.raft_id.is_none() && place.is_idle() && !self.observer.record.members.contains_key(&place.id)
    }

    fn invite(&mut self, registrar: &mut Registrar, machine: usize, replaces: Option<MemberId>) {
        registrar.keys += 1;
        let id = format!("invitation {}", registrar.keys);
        let place = &mut self.machines[machine];
        place.key = format!("key {} of {}", registrar.keys, place.id);
        let invitation = Invitation {
            secret_sha256: format!("secret of {id}"),
            id,
            kind: place.kind,
            member: None,
            replaces,
            expires_at_unix_ms: self.now / MS + 30_000,
            used_by: None,
        };
        registrar.newcomer = Some(Newcomer { machine, invitation, since: self.now });
    }

    /// Asked again and again, as somebody at the keyboard does; sometimes by two at once.
    fn let_in(&mut self, registrar: &mut Registrar) {
        let Some(newcomer) = registrar.newcomer.clone() else { return };
        let (machine, invitation) = (newcomer.machine, newcomer.invitation);
        if self.machines[machine].raft_id.is_some() || self.now > newcomer.since + PATIENCE {
            self.submit(&Command::Revoke { id: invitation.id });
            registrar.newcomer = None;
            return;
        }
        let given = self.observer.record.membership.invitations.iter().any(|given| given.id == invitation.id);
        if !given {
            self.submit(&Command::Invite { invitation, at_unix_ms: self.now / MS });
            return;
        }
        let place = &self.machines[machine];
        let row = Member { key: place.key.clone(), ..crate::run::member(machine, place.kind, 0) };
        let joining = Joining {
            invitation: invitation.id,
            secret_sha256: invitation.secret_sha256,
            member: place.id.clone(),
            row,
            at_unix_ms: self.now / MS,
        };
        self.submit(&Command::Join(joining));
    }

    /// What follows from the record: who stands in it sets out, and who does no more is cleared away.
    fn tidy(&mut self, registrar: &mut Registrar) {
        let late = self.now > registrar.until + STRANDED;
        for machine in 0..self.machines.len() {
            let place = &self.machines[machine];
            let row = self.observer.record.members.get(&place.id);
            let own = row.filter(|row| row.key == place.key).map(|row| row.raft_id);
            match (place.raft_id, own) {
                (None, Some(raft_id)) if place.is_idle() && place.powered => self.enroll(machine, raft_id),
                // It was let in after it had given up.
                (None, None) if row.is_some_and(|row| !row.leaving) => {
                    let member = place.id.clone();
                    self.submit(&Command::Leave { member });
                }
                (Some(raft_id), Some(own)) if own == raft_id && late && self.is_stranded(machine) => {
                    self.note(machine, || {
                        "cannot be told anything any more: it has to be replaced".to_owned()
                    });
                    self.wipe(machine);
                }
                (Some(raft_id), own) if own != Some(raft_id) && registrar.random.chance(0.2) => {
                    self.note(machine, || "is no member any more: cleared away".to_owned());
                    self.wipe(machine);
                }
                _ => {}
            }
        }
    }

    /// It was away while everybody whom it knew was replaced, or whoever leads the log now by another of that name: then nobody
    /// can tell it, and people have it replaced.
    fn is_stranded(&self, machine: usize) -> bool {
        let place = &self.machines[machine];
        let knows =
            |other: usize| self.machines[other].raft_id.is_some_and(|id| self.is_linked(machine, other, id));
        let mut others = (0..self.machines.len()).filter(|other| *other != machine && self.is_member(*other));
        let namesake_leads = self.leading_machine().is_some_and(|leader| {
            place.files.roster.contains_key(&self.machines[leader].id) && leader != machine && !knows(leader)
        });
        let alone = !others.any(knows);
        (alone || namesake_leads) && self.observer.record.has_majority(|voter| *voter != place.id)
    }

    /// What `join` does with the answer.
    fn enroll(&mut self, machine: usize, raft_id: u64) {
        self.note(machine, || format!("joins as {raft_id}"));
        let roster = self.observer.record.members.iter().map(|(name, row)| (name.clone(), row.raft_id));
        let roster = roster.collect();
        let place = &mut self.machines[machine];
        place.raft_id = Some(raft_id);
        place.files.roster = roster;
        let identity = Identity { cluster_id: crate::member::CLUSTER.to_owned(), raft_id };
        if let Err(error) = create(&mut place.raft_disk, &identity, &[], &[]) {
            // A full disk: asked again later.
            self.note(machine, || format!("cannot join: {error}"));
            self.wipe(machine);
            return;
        }
        self.disturb(machine);
        self.queue.push(self.now + SECOND / 10, Event::StartMember { machine });
    }

    /// Nothing of it is left; the machine itself may join again.
    pub(crate) fn wipe(&mut self, machine: usize) {
        self.disturb(machine);
        self.kill_member(machine);
        self.kill_guard(machine);
        if self.machines[machine].server.is_some() {
            self.strike_now(machine);
            self.postmaster_gone_with_data(machine);
        }
        let lies = self.mutated(ShellMutant::SyncLies);
        let place = &mut self.machines[machine];
        let full = place.disk.full;
        place.raft_id = None;
        place.key.clear();
        place.raft_disk = SimDisk::new();
        place.raft_disk.set_sync_lies(lies);
        place.raft_disk.set_capacity(full.then_some(0));
        place.files = Files::default();
        place.data = Directory::default();
    }

    /// A machine burns down: once in a run, and only while the others hold everything and can decide.
    fn lose_for_good(&mut self, registrar: &mut Registrar) {
        let record = &self.observer.record;
        let holder = record.tenure().map(|tenure| tenure.holder.clone());
        let candidates: Vec<usize> = (0..self.machines.len())
            .filter(|m| self.is_member(*m) && Some(&self.machines[*m].id) != holder.as_ref())
            .collect();
        let settled = record.outgoing().next().is_none() && record.voters().count() >= 3;
        let all_there = record.members.keys().all(|member| {
            self.machine_of(member).is_some_and(|m| self.is_member(m) && self.machines[m].powered)
        });
        let in_the_log = self.leader_voters().is_some_and(|voters| voters >= 3);
        if registrar.lost
            || !settled
            || !all_there
            || !in_the_log
            || !self.may_lose_data()
            || candidates.is_empty()
        {
            return;
        }
        registrar.lost = true;
        let machine = candidates[registrar.random.index(candidates.len())];
        self.note(machine, || "is lost for good".to_owned());
        self.observer.data_removed = true;
        self.wipe(machine);
        let member = self.machines[machine].id.clone();
        self.submit(&Command::Leave { member });
    }

    /// How many vote in the log, by the word of whoever leads it.
    fn leader_voters(&self) -> Option<usize> {
        let status = self.leader()?.status();
        status.voters_outgoing.is_empty().then_some(status.voters.len())
    }

    fn leader(&self) -> Option<&RaftReplica> {
        self.machines[self.leading_machine()?].member.as_ref()?.raft.as_ref()
    }

    /// Of several that think so, the newest.
    fn leading_machine(&self) -> Option<usize> {
        let term =
            |machine: &usize| self.machines[*machine].member.as_ref().and_then(|member| member.leads());
        (0..self.machines.len()).filter(|machine| term(machine).is_some()).max_by_key(term)
    }

    /// Whether the machine runs, or could, as the member of the record that bears its name.
    pub(crate) fn is_member(&self, machine: usize) -> bool {
        let place = &self.machines[machine];
        let row = self.observer.record.members.get(&place.id);
        row.is_some_and(|row| place.raft_id == Some(row.raft_id))
    }

    fn submit(&mut self, command: &Command) {
        if let Some(through) = self.somebody() {
            self.note(through, || format!("is asked: {command:?}"));
            self.propose(through, command);
        }
    }

    /// No more changes are begun; those that were are brought to their end.
    pub(crate) fn registrar_leaves(&mut self) {
        let Some(registrar) = &mut self.registrar else { return };
        registrar.until = self.now;
        let settled = self.run_while(WITHIN, |world| world.observer.excused || world.members_are_settled());
        if !settled {
            let record = &self.observer.record;
            let rows: Vec<String> = record
                .members
                .iter()
                .map(|(name, row)| {
                    format!("{name}: {} votes {} leaving {}", row.raft_id, row.votes, row.leaving)
                })
                .collect();
            let outgoing = &record.membership.outgoing;
            let log = self.leader().map(|replica| replica.status());
            let what = format!("outgoing {outgoing:?}, {}; the leader of the log: {log:?}", rows.join(", "));
            self.violated("members_settle", || what);
        }
    }

    fn members_are_settled(&self) -> bool {
        let record = &self.observer.record;
        let rows = &record.members;
        let none_between = rows.values().all(|row| !row.leaving) && record.outgoing().next().is_none();
        let all_there = rows.keys().all(|member| self.machine_of(member).is_some_and(|m| self.is_member(m)));
        let waiting = self.registrar.as_ref().is_some_and(|registrar| registrar.newcomer.is_some());
        // Of two one votes, of more all do.
        let votes = if rows.len() == 2 { 1 } else { rows.len() };
        let in_the_log = self.leader_voters() == Some(votes);
        none_between && all_there && !waiting && record.voters().count() == votes && in_the_log
    }
}
