//! What a member sees, and what the shipped `decide` makes of it.
//!
//! The model has no clock: every timer may have run out or not. So each member decides three times, with a memory in
//! which everything has just happened, with one in which it was some seconds ago, and with one in which it is long ago.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::rc::Rc;
use std::time::Duration;

use mainstay_core::action::{Action, Job, Kill};
use mainstay_core::decide::{Memory, decide};
use mainstay_core::lease;
use mainstay_core::record::{Command, EndCause};
use mainstay_core::sync::Voter;
use mainstay_core::view::{
    Directory, Failure, Health, MemberState, Peer, PeerServer, Primary, RestartNeed, RunOut, Running, Scan,
    Streaming, Upstream, View, Walsender,
};
use mainstay_core::{Epoch, Incarnation, Lsn, MemberId, Now, Timeline};

use super::acts::Act;
use super::records::Records;
use super::wal::Wal;
use super::world::{Lease, MEMBERS, Member, NOBODY, NOTHING, Server, State, Touch, Work};
use crate::explore::{Plain, fingerprint};

/// Longer than a member waits for reports or streaming, and shorter than it takes to give up a directory.
const SOME_SECONDS: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(3_600);

/// What is seen of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PeerSight {
    heard: bool,
    incarnation: u8,
    server: Server,
    opened: u8,
    upstream_epoch: u8,
    wal: Wal,
    /// It receives from its upstream.
    streaming: bool,
    /// Its walreceiver is pointed at this member.
    attached: bool,
}

/// Everything that a view is made of: equal sights lead to equal decisions.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Sight {
    me: u8,
    record: u32,
    run_out: u8,
    own: Member,
    streaming: bool,
    peers: [PeerSight; MEMBERS as usize],
}

pub(super) struct Minds {
    names: Vec<MemberId>,
    decisions: HashMap<u128, Rc<[Vec<Act>]>, BuildHasherDefault<Plain>>,
    /// A decision that ends nothing although a server writes that nobody opened.
    pub(super) tolerated: bool,
}

pub(super) fn incarnation_of(member: u8, count: u8) -> Incarnation {
    Incarnation(u32::from(member) * 16 + u32::from(count))
}

fn lsn(wal: Wal) -> Lsn {
    Lsn(u64::from(wal.len()))
}

fn epoch(number: u8) -> Epoch {
    Epoch(u64::from(number))
}

pub(super) fn small(epoch: Epoch) -> u8 {
    u8::try_from(epoch.0).expect("epochs are bounded")
}

impl Minds {
    pub(super) fn new(names: Vec<MemberId>) -> Minds {
        Minds { names, decisions: HashMap::default(), tolerated: false }
    }

    pub(super) fn number(&self, member: &MemberId) -> u8 {
        let place = self.names.iter().position(|name| name == member).expect("only members are named");
        u8::try_from(place).expect("three members")
    }

    pub(super) fn name(&self, member: u8) -> &MemberId {
        &self.names[usize::from(member)]
    }

    /// What `me` may do now, one list per decision.
    pub(super) fn decide(&mut self, records: &mut Records, state: &State, me: u8) -> Rc<[Vec<Act>]> {
        let sight = sight(records, state, me);
        let key = fingerprint(&sight);
        if let Some(known) = self.decisions.get(&key) {
            return known.clone();
        }
        let view = self.view(records, &sight);
        let mut decisions = Vec::new();
        let young = self.young(&view, &sight);
        let aged = [SOME_SECONDS, LONG].map(|age| aged(&young, &view, age));
        for mut memory in [young].into_iter().chain(aged) {
            let decision = decide(&view, &mut memory);
            let stray = sight.own.server == Server::Stray;
            self.tolerated |=
                stray && !decision.actions.iter().any(|action| matches!(action, Action::Kill { .. }));
            let acts = self.acts(records, decision.actions);
            if !acts.is_empty() && !decisions.contains(&acts) {
                decisions.push(acts);
            }
        }
        let decisions: Rc<[Vec<Act>]> = decisions.into();
        self.decisions.insert(key, decisions.clone());
        decisions
    }

    fn young(&self, view: &View, sight: &Sight) -> Memory {
        let mut memory =
            Memory { saw_open: view.running().and_then(|running| running.opened), ..Memory::default() };
        if let Server::Down(last) = sight.own.server
            && last > 0
        {
            memory.saw_open = Some(epoch(last));
        }
        if sight.own.failed_open > 0 {
            let cause = EndCause::NotOpened { why: "no progress".to_owned() };
            memory.ending = Some((epoch(sight.own.failed_open), cause));
        }
        // Whom to give up is decided by one clock for each voter: a state knows it, lest it be both.
        let lost = |voter: &&Voter| sight.own.lost & (1 << self.number(&voter.member)) != 0;
        for voter in view.record.sync().into_iter().flat_map(|sync| &sync.voters).filter(lost) {
            memory.lost_since.insert(voter.clone(), Now(1));
        }
        memory
    }

    fn view(&self, records: &Records, sight: &Sight) -> View {
        let own = &sight.own;
        let now = Now::from_millis(10_000_000);
        let record = records.record(sight.record).clone();
        let incarnation = incarnation_of(sight.me, own.incarnation);
        let directory = match own.incarnation {
            0 => Directory::Marked { operation: "a change".to_owned() },
            _ => Directory::Valid { incarnation, system_identifier: 1 },
        };
        let scan =
            own.scanned.then(|| Scan { extent: own.wal.extent(), replayed: lsn(own.wal), incarnation });
        let lease_length = record.settings.lease();
        let held = match own.lease {
            Lease::Valid(held) => Some((held, now.plus(lease::usable(lease_length)))),
            Lease::Lapsed(held) => Some((held, now)),
            Lease::None => None,
        };
        let failures = match own.failed_open {
            0 => Vec::new(),
            failed => vec![self.failed_open(&record, failed, now)],
        };
        View {
            now,
            unix_ms: 0,
            me: self.name(sight.me).clone(),
            leads: false,
            confirmed: (own.confirmed > 0).then(|| epoch(own.confirmed)),
            sealed: epoch(own.sealed),
            directory,
            server: self.server(sight),
            scan,
            upstream: (own.upstream != NOBODY).then(|| Upstream {
                member: self.name(own.upstream).clone(),
                epoch: epoch(own.upstream_epoch),
            }),
            lease: held.map(|(held, deadline)| mainstay_core::view::Lease {
                epoch: epoch(held),
                deadline,
                renewed_at: now,
                rests_on: None,
            }),
            run_out: RunOut {
                epoch: epoch(sight.run_out),
                serial: 0,
                voters: if sight.run_out > 0 { record.voters().cloned().collect() } else { BTreeSet::new() },
            },
            names: (own.proven != NOTHING).then(|| records.set(own.proven).clone()),
            gate_open: own.gate,
            checkpointed: own.gate.then(|| epoch(own.opened())),
            health: Health::default(),
            walsenders: self.walsenders(sight),
            peers: self.peers(sight, now),
            job: self.job(own.work),
            upkeep: None,
            restart: RestartNeed::default(),
            stopped_for: None,
            addresses_until: None,
            failures,
            record,
        }
    }

    fn job(&self, work: Work) -> Option<Job> {
        Some(match work {
            Work::Nothing => return None,
            Work::Follow { member, epoch: number } => {
                Job::Follow { member: self.name(member).clone(), epoch: epoch(number) }
            }
            Work::Rewind { member, epoch: number } => {
                Job::Rewind { member: self.name(member).clone(), epoch: epoch(number) }
            }
            Work::Clone { member, epoch: number } => {
                Job::Clone { member: self.name(member).clone(), epoch: epoch(number) }
            }
        })
    }

    fn failed_open(&self, record: &mainstay_core::record::Record, failed: u8, now: Now) -> Failure {
        let tenure = record.tenure();
        let job = Job::Open {
            epoch: epoch(failed),
            timeline: tenure.map_or(Timeline(0), |tenure| tenure.timeline),
            sync: tenure.map(|tenure| tenure.sync.clone()).unwrap_or_default(),
        };
        let at = now.minus(Duration::from_secs(60));
        Failure { job, at, count: 1, error: "no progress".to_owned() }
    }

    fn server(&self, sight: &Sight) -> mainstay_core::view::Server {
        let own = &sight.own;
        let in_recovery = own.server == Server::Standby;
        if let Server::Down(last) = own.server {
            let last_opened = (last > 0).then(|| epoch(last));
            return mainstay_core::view::Server::Down { last_opened };
        }
        let primary = (!in_recovery).then(|| {
            let history = own.wal.history();
            let begin = history.last().map_or(Lsn(0), |fork| fork.begin);
            Primary { history, end_of_recovery: Lsn(begin.0 + 1), next_xid: 1, inserted: lsn(own.wal) }
        });
        mainstay_core::view::Server::Running(Running {
            opened: (own.opened() > 0).then(|| epoch(own.opened())),
            ready: true,
            in_recovery: Some(in_recovery),
            replayed: lsn(own.wal),
            streaming: streaming(sight.streaming, own.wal),
            primary,
        })
    }

    fn walsenders(&self, sight: &Sight) -> Vec<Walsender> {
        let attached = sight.peers.iter().zip(0u8..).filter(|(peer, _)| peer.attached && peer.streaming);
        attached
            .map(|(peer, member)| Walsender {
                pid: u32::from(member),
                application_name: format!("ms_{}", self.name(member)),
                voter: Some(Voter {
                    member: self.name(member).clone(),
                    incarnation: incarnation_of(member, peer.incarnation),
                }),
                streaming: true,
                flushed: lsn(peer.wal),
                stalled_since: None,
            })
            .collect()
    }

    fn peers(&self, sight: &Sight, now: Now) -> BTreeMap<MemberId, Peer> {
        let heard = sight.peers.iter().zip(0u8..).filter(|(peer, _)| peer.heard);
        heard
            .map(|(peer, member)| {
                let server = match peer.server {
                    Server::Down(_) => PeerServer::Down,
                    Server::Standby => PeerServer::Standby,
                    Server::Opened(_) | Server::Zombie(_) | Server::Stray => PeerServer::Primary,
                };
                let follows = if peer.opened > 0 { peer.opened } else { peer.upstream_epoch };
                let state = MemberState {
                    incarnation: (peer.incarnation > 0).then(|| incarnation_of(member, peer.incarnation)),
                    server,
                    epoch: epoch(follows),
                    streaming: streaming(peer.streaming, peer.wal),
                    replayed: lsn(peer.wal),
                    can_report: peer.incarnation > 0,
                    unfit: None,
                    wal_kept_from: Some(Lsn(0)),
                    checkpointed: true,
                    format: 0,
                    ids_given: 0,
                    keys_kept: 0,
                    restart: RestartNeed::default(),
                    heard_ms: BTreeMap::new(),
                };
                (self.name(member).clone(), Peer { heard_at: now, state })
            })
            .collect()
    }

    fn acts(&self, records: &mut Records, actions: Vec<Action>) -> Vec<Act> {
        actions.into_iter().filter_map(|action| self.act(records, action)).collect()
    }

    fn act(&self, records: &mut Records, action: Action) -> Option<Act> {
        Some(match action {
            Action::Propose(command) => Act::Propose(records.command_number(command)),
            Action::RequestGrant { epoch, .. } => Act::Request(small(epoch)),
            Action::ReadRecord => Act::Read,
            Action::Relinquish { epoch } => Act::Relinquish(small(epoch)),
            Action::Kill { why: Kill::EpochOver | Kill::NotOpenedInTime | Kill::WrongTimeline }
            | Action::Kill { why: Kill::DirectoryGone | Kill::PromotedByOutsideHand }
            | Action::Kill { why: Kill::Hung | Kill::FailoverAsked } => Act::Kill,
            Action::EndWalsender { .. } => return None,
            Action::Run(job) | Action::Upkeep(job) => match job {
                Job::Seal { epoch } => Act::Seal(small(epoch)),
                Job::Start { .. } => Act::Start,
                Job::Open { epoch, timeline, sync } => Act::Open {
                    epoch: small(epoch),
                    timeline: u8::try_from(timeline.0).expect("timelines are bounded"),
                    set: records.set_number(sync),
                },
                Job::Follow { member, epoch } => {
                    Act::Follow { member: self.number(&member), epoch: small(epoch) }
                }
                Job::Rewind { member, epoch } => {
                    Act::Rewind { member: self.number(&member), epoch: small(epoch) }
                }
                Job::Clone { member, epoch } => {
                    Act::Clone { member: self.number(&member), epoch: small(epoch) }
                }
                Job::SetNames { sync, .. } => Act::SetNames(records.set_number(sync)),
                Job::OpenGate { epoch } => Act::OpenGate(small(epoch)),
                Job::Initdb
                | Job::StopForSwitchover { .. }
                | Job::StopForRestart { .. }
                | Job::StopInPlace { .. }
                | Job::Checkpoint { .. } => return None,
            },
        })
    }

    /// The grant that a request by `member` proposes.
    pub(super) fn grant(&self, records: &mut Records, state: &State, member: u8, number: u8) -> u32 {
        let own = state.member(member);
        records.command_number(Command::Grant {
            epoch: epoch(number),
            holder: self.name(member).clone(),
            incarnation: incarnation_of(member, own.incarnation),
            request: u64::from(own.life),
        })
    }
}

/// The same memory after the things that it remembers have been so for `age`.
fn aged(young: &Memory, view: &View, age: Duration) -> Memory {
    let since = Some((view.record.epoch, view.now.minus(age)));
    Memory { ended_since: since, not_streaming_since: since, ..young.clone() }
}

fn streaming(works: bool, wal: Wal) -> Option<Streaming> {
    works.then(|| Streaming { timeline: Timeline(u32::from(wal.timeline())), flushed: lsn(wal) })
}

fn sight(records: &Records, state: &State, me: u8) -> Sight {
    let own = *state.member(me);
    let numbers: [u8; MEMBERS as usize] = std::array::from_fn(|at| u8::try_from(at).expect("three members"));
    let peers = numbers.map(|number| {
        let peer = state.member(number);
        let heard = number != me && peer.up && peer.touch != Touch::Cut && own.touch != Touch::Cut;
        let attached = number != me && state.is_attached(number, me);
        let known = heard || attached;
        PeerSight {
            heard,
            incarnation: if known { peer.incarnation } else { 0 },
            server: if heard { peer.server } else { Server::Down(0) },
            opened: if heard { peer.opened() } else { 0 },
            upstream_epoch: if heard { peer.upstream_epoch } else { 0 },
            wal: if known { peer.wal } else { Wal::default() },
            streaming: known && state.is_streaming(number),
            attached,
        }
    });
    let epoch = records.record(state.record).tenure().map_or(0, |tenure| small(tenure.epoch));
    Sight {
        me,
        record: own.view,
        run_out: if state.run_out { epoch } else { 0 },
        own: Member { view: 0, touch: Touch::Full, life: 0, newest_incarnation: 0, told: NOTHING, ..own },
        streaming: state.is_streaming(me),
        peers,
    }
}
