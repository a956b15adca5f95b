//! The member process: the shipped core and replica, and around them the shell that performs what they decide.

mod addresses;
mod gossip;
mod job;
mod lane;
mod lease;
mod observe;
mod perform;
mod raft;
mod roster;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mainstay_core::decide::Memory;
use mainstay_core::lease::{Grantor, Holder};
use mainstay_core::record::{Command, Kind, Record};
use mainstay_core::view::{Directory, MemberState, RestartNeed, Running, Server, View};
use mainstay_core::{Epoch, MemberId, Now};

use crate::event::{Event, Life, MemberEvent, Message};
use crate::guard::{GuardRequest, GuardState, GuardWord};
use crate::machine::Process;
use crate::mutant::ShellMutant;
use crate::queue::{MICROSECOND, MS, SECOND, Time};
use crate::world::World;

pub(crate) use lane::{Lane, RUN};
pub(crate) use raft::{CLUSTER, RaftInput, RaftReplica};

/// How often the member decides when nothing happens.
const TICK: u64 = 100 * MS;

pub(crate) struct Member {
    pub(crate) life: Life,
    /// `None` while its disk does not let it take part.
    pub(crate) raft: Option<RaftReplica>,
    /// The newest epoch that was open when this process began; for the checkers.
    pub(crate) opened_before: Epoch,
    pub(crate) raft_inbox: VecDeque<RaftInput>,
    pub(crate) next_number: u64,
    pub(crate) view: View,
    pub(crate) memory: Memory,
    pub(crate) grantor: Grantor,
    pub(crate) promising: Option<Epoch>,
    /// Voters that find the lease of an epoch run out, and when they said so.
    pub(crate) expired: BTreeMap<MemberId, (Epoch, Now)>,
    pub(crate) holder: Option<Holder>,
    pub(crate) armed: Now,
    /// When this process learnt who votes by the record.
    pub(crate) learnt_at: Now,
    /// The newest change of the voters that this member has seen, and the newest that is on its disk.
    pub(crate) seen_serial: u64,
    pub(crate) durable_serial: u64,
    pub(crate) relinquished: Epoch,
    pub(crate) addresses: addresses::Addresses,
    /// The numbers of requests for the lease, and when they were sent.
    pub(crate) requests: VecDeque<(u64, Now)>,
    pub(crate) asked_run_out: Option<Now>,
    pub(crate) lanes: [Lane; 2],
    pub(crate) proposed: Option<(Command, Now)>,
    pub(crate) granting: Option<(Epoch, Now)>,
    /// An opening that the guard was asked for and has not answered, and the number of that request.
    pub(crate) opening: Option<(Epoch, u64)>,
    pub(crate) reading: Option<(u64, Now)>,
    pub(crate) guard: Option<Life>,
    pub(crate) guard_word: Option<GuardWord>,
    /// When the last request arrives at the guard.
    pub(crate) asked_at: Time,
    pub(crate) answers: BTreeMap<u64, Result<(), String>>,
    /// The main loop is busy; leases, consensus and jobs go on.
    pub(crate) busy_until: Time,
    pub(crate) deciding: bool,
    /// Members that have left are heard and told a little longer.
    pub(crate) left: Vec<(MemberId, u64, Now)>,
    /// Members that the record here does not show yet, from one that has a newer record.
    pub(crate) heard_of: BTreeMap<MemberId, u64>,
    /// When the last step of the log's own members was made.
    pub(crate) reconciled: Option<Now>,
    pub(crate) told: Option<MemberState>,
}

impl World {
    /// The init system starts the member, if the machine is up.
    pub(crate) fn start_member(&mut self, machine: usize) {
        let place = &self.machines[machine];
        if place.member.is_some() || !place.powered || place.raft_id.is_none() {
            return;
        }
        let Some((raft, record)) = self.open_raft(machine).filter(|_| place_works(&self.machines[machine]))
        else {
            self.queue.push(self.now + 300 * MS, Event::StartMember { machine });
            return;
        };
        let life = self.new_life();
        let now = self.local_now(machine);
        let promised = self.machines[machine].files.promised;
        let serial = self.machines[machine].files.serial;
        let mut grantor = Grantor::new(now, self.config.lease, promised);
        grantor.learn(now, &record);
        let shown = record.membership.serial;
        let member = Member {
            life,
            raft: Some(raft),
            opened_before: self.observer.newest_open(),
            raft_inbox: VecDeque::new(),
            next_number: u64::from(life) << 32,
            view: self.first_view(machine, record),
            memory: Memory::default(),
            grantor,
            promising: None,
            expired: BTreeMap::new(),
            holder: None,
            armed: Now(0),
            learnt_at: now,
            seen_serial: serial.max(shown),
            durable_serial: serial,
            relinquished: Epoch(0),
            addresses: addresses::Addresses::new(now.plus(mainstay_core::lease::usable(self.config.lease))),
            requests: VecDeque::new(),
            asked_run_out: None,
            lanes: [Lane::default(), Lane::default()],
            proposed: None,
            granting: None,
            opening: None,
            reading: None,
            guard: None,
            guard_word: None,
            asked_at: 0,
            answers: BTreeMap::new(),
            busy_until: 0,
            deciding: false,
            left: Vec::new(),
            heard_of: BTreeMap::new(),
            reconciled: None,
            told: None,
        };
        self.machines[machine].member = Some(Box::new(member));
        self.note(machine, || "member started".to_owned());
        self.refresh_directory(machine);
        for (what, within) in [
            (MemberEvent::Tick, TICK),
            (MemberEvent::RaftTick, 50 * MS),
            (MemberEvent::GossipTick, 50 * MS),
            (MemberEvent::RenewTick, 50 * MS),
            (MemberEvent::LeaseCheck, 50 * MS),
        ] {
            let at = self.now + self.random.below(within);
            self.tell_member(machine, at, what);
        }
        if self.machines[machine].kind == Kind::Data {
            let at = self.now + self.random.span_ms(2, 30);
            self.tell_member(machine, at, MemberEvent::ConnectGuard);
            self.tell_member(machine, at, MemberEvent::Observe);
        }
    }

    fn first_view(&self, machine: usize, record: Arc<Record>) -> View {
        let files = &self.machines[machine].files;
        View {
            now: self.local_now(machine),
            unix_ms: 0,
            me: self.machines[machine].id.clone(),
            record,
            leads: false,
            confirmed: None,
            sealed: files.sealed,
            directory: Directory::Unknown,
            server: Server::Unknown,
            scan: None,
            upstream: files.upstream.clone(),
            lease: None,
            run_out: Default::default(),
            names: None,
            gate_open: false,
            checkpointed: None,
            health: Default::default(),
            walsenders: Vec::new(),
            peers: BTreeMap::new(),
            job: None,
            upkeep: None,
            restart: RestartNeed { known: true, ..RestartNeed::default() },
            stopped_for: None,
            addresses_until: None,
            failures: Vec::new(),
        }
    }

    pub(crate) fn kill_member(&mut self, machine: usize) {
        if self.machines[machine].member.take().is_some() {
            self.note(machine, || "member killed".to_owned());
        }
        self.machines[machine].stopped[Process::Member.index()] = false;
        self.machines[machine].inbox[Process::Member.index()].clear();
    }

    /// The member whose event is being handled.
    pub(crate) fn member(&mut self, machine: usize) -> &mut Member {
        self.machines[machine].member.as_mut().expect("its events come only while it lives")
    }

    pub(crate) fn member_event(&mut self, machine: usize, what: MemberEvent) {
        match what {
            MemberEvent::Tick => {
                self.again(machine, TICK, MemberEvent::Tick);
                self.reconcile_members(machine);
                self.decide(machine);
            }
            MemberEvent::Decide => {
                self.member(machine).deciding = false;
                self.decide(machine);
            }
            MemberEvent::RaftTick => {
                self.again(machine, 50 * MS, MemberEvent::RaftTick);
                self.raft_input(machine, RaftInput::Tick);
            }
            MemberEvent::RaftSend(messages) => self.raft_send(machine, messages),
            MemberEvent::RaftReopen => self.reopen_raft(machine),
            MemberEvent::Observe => {
                self.again(machine, 100 * MS, MemberEvent::Observe);
                self.observe(machine);
            }
            MemberEvent::GossipTick => {
                self.again(machine, 250 * MS, MemberEvent::GossipTick);
                self.gossip(machine);
            }
            MemberEvent::RenewTick => self.renew(machine),
            MemberEvent::LeaseCheck => self.check_lease(machine),
            MemberEvent::PromiseDurable(epoch) => self.promise_durable(machine, epoch),
            MemberEvent::SerialDurable(serial) => self.serial_durable(machine, serial),
            MemberEvent::Step { lane, serial } => self.step(machine, lane, serial),
            MemberEvent::GuardSays(word) => self.guard_says(machine, word),
            MemberEvent::GuardAnswers { request, result } => {
                self.member(machine).answers.insert(request, result);
            }
            MemberEvent::GuardDied { life } => self.guard_died(machine, life),
            MemberEvent::AddressLetGo(epoch) => self.address_let_go(machine, epoch),
            MemberEvent::ConnectGuard => self.connect_guard(machine),
        }
    }

    /// The same again after a span of this machine's clock.
    pub(crate) fn again(&mut self, machine: usize, local: u64, what: MemberEvent) {
        let at = self.now + self.machines[machine].clock.real_span(local);
        self.tell_member(machine, at, what);
    }

    /// Something changed: decide soon.
    pub(crate) fn wake(&mut self, machine: usize) {
        let Some(member) = self.machines[machine].member.as_mut() else { return };
        if !member.deciding {
            member.deciding = true;
            let at = (self.now + 100 * MICROSECOND).max(member.busy_until);
            self.tell_member(machine, at, MemberEvent::Decide);
        }
    }

    /// `sender` is the replica that the machine was when it sent it.
    pub(crate) fn message(&mut self, from: usize, sender: u64, to: usize, body: &Message) {
        if from != to && !self.is_linked(to, from, sender) {
            return;
        }
        match body {
            Message::Raft(bytes) => {
                let input = RaftInput::Step { from: sender, bytes: bytes.clone() };
                self.raft_input(to, input);
            }
            Message::Renew { epoch, sent } => self.answer_renewal(from, to, *epoch, *sent),
            Message::Renewed { epoch, sent, answer } => self.renewed(from, to, *epoch, *sent, *answer),
            Message::AskRunOut { epoch } => self.answer_run_out(from, to, *epoch),
            Message::RunOut { epoch, over } => self.note_run_out(from, to, *epoch, *over),
            Message::Gossip(state) => self.hear(from, to, state),
            Message::Roster { ids_given, roster } => self.hear_roster(to, *ids_given, roster),
        }
    }

    fn connect_guard(&mut self, machine: usize) {
        if self.machines[machine].guard.is_none() {
            self.start_guard(machine);
        }
        let guard = self.machines[machine].guard.as_ref().map(|guard| guard.life);
        self.member(machine).guard = guard;
        self.request_guard(machine, GuardRequest::Hello);
    }

    /// Sends a request to the guard; its number.
    pub(crate) fn request_guard(&mut self, machine: usize, request: GuardRequest) -> u64 {
        let number = self.new_number();
        let member = self.member(machine);
        let (from, guard) = (member.life, member.guard);
        if let Some(life) = guard {
            let arrives = self.now + self.random.between(30 * MICROSECOND, 500 * MICROSECOND);
            // A socket keeps the order.
            let member = self.member(machine);
            member.asked_at = member.asked_at.max(arrives);
            let at = member.asked_at;
            let what = crate::event::GuardEvent::Request { from, number, request };
            self.queue.push(at, Event::Guard { machine, life, what });
        }
        number
    }

    /// The guard is dead, and so is the postmaster: what is left of it is killed before there is another guard.
    fn guard_died(&mut self, machine: usize, life: Life) {
        let tolerated = self.mutated(ShellMutant::LeftoversTolerated);
        let member = self.member(machine);
        if member.guard != Some(life) {
            return;
        }
        member.guard = None;
        member.guard_word = None;
        member.armed = Now(0);
        member.opening = None;
        member.view.server = Server::Unknown;
        member.lanes.iter_mut().for_each(|lane| lane.request = None);
        if self.machines[machine].server.is_some() && !tolerated {
            self.strike(machine);
        }
        let at = self.now + self.random.span_ms(5, 100);
        self.tell_member(machine, at, MemberEvent::ConnectGuard);
    }

    fn guard_says(&mut self, machine: usize, word: GuardWord) {
        let keep_scan = self.mutated(ShellMutant::ScanKept);
        let member = self.member(machine);
        let view = &mut member.view;
        match word.state {
            GuardState::Empty => {
                if !matches!(view.server, Server::Down { .. }) && !keep_scan {
                    view.scan = None;
                }
                view.server = Server::Down { last_opened: word.last_opened };
                view.walsenders.clear();
                (view.names, view.gate_open, view.checkpointed) = (None, false, None);
            }
            GuardState::Ending => view.server = Server::Ending,
            GuardState::Running(life) => {
                let before = member.guard_word.map(|word| word.state);
                let same = before == Some(GuardState::Running(life));
                if let Server::Running(running) = &mut view.server
                    && same
                {
                    running.opened = word.opened;
                } else {
                    view.server = Server::Running(Running {
                        opened: word.opened,
                        ready: false,
                        in_recovery: None,
                        replayed: mainstay_core::Lsn::ZERO,
                        streaming: None,
                        primary: None,
                    });
                }
                if word.opened.is_some() && !keep_scan {
                    view.scan = None;
                }
            }
        }
        let first = member.guard_word.replace(word).is_none();
        if first {
            // Whether the gate is open is known from the file alone, after a restart.
            let open = self.machines[machine].files.hba == crate::disk::Hba::Open;
            self.member(machine).view.gate_open = open && word.opened.is_some();
        }
        self.resume_lease(machine);
        self.wake(machine);
    }

    /// What the directory is, from the mark and from what is there.
    pub(crate) fn refresh_directory(&mut self, machine: usize) {
        let place = &self.machines[machine];
        let trusting = self.mutated(ShellMutant::HalfChangedStarted);
        let directory = match (&place.files.mark, &place.data.content) {
            (Some(mark), None) => Directory::Marked { operation: (*mark).to_owned() },
            (Some(mark), _) if !trusting => Directory::Marked { operation: (*mark).to_owned() },
            (_, Some(content)) => Directory::Valid {
                incarnation: content.incarnation,
                system_identifier: content.system_identifier,
            },
            (None, None) => Directory::Absent,
        };
        let member = self.member(machine);
        if member.view.directory != directory {
            member.view.scan = None;
        }
        member.view.directory = directory;
    }

    /// A member that is killed is started again by the init system.
    pub(crate) fn restart_member_after(&mut self, machine: usize, delay: Time) {
        self.queue.push(self.now + delay.max(SECOND / 20), Event::StartMember { machine });
    }
}

fn place_works(place: &crate::machine::Machine) -> bool {
    place.disk.stalled_since.is_none() && !place.disk.full
}
