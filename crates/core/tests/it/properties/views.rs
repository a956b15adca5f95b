//! Views that nobody thought of: what a member may see, with anything in it replaced by something else.

use mainstay_core::action::Job;
use mainstay_core::decide::Memory;
use mainstay_core::lineage::Extent;
use mainstay_core::record::{EndCause, Record};
use mainstay_core::sync::{SyncSet, Voter};
use mainstay_core::view::{
    Directory, Failure, Health, Lease, PeerServer, Primary, RunOut, Running, Scan, Server, Streaming,
    Upstream, View,
};
use mainstay_core::{Epoch, Incarnation, Lsn, MemberId, Now, Timeline};
use proptest::prelude::*;

use super::commands::{any_lsn, any_member, any_sync, any_voter, history_from};
use super::records::any_record;
use crate::cluster::{SYSTEM, seen_by};
use crate::notation::first_life;

const NOW: Now = Now(900_000_000_000);

/// One fact that is other than expected.
#[derive(Clone, Debug)]
enum Change {
    Confirmed(Option<u64>),
    Sealed(u64),
    Directory(u8),
    Server {
        kind: u8,
        opened: Option<u64>,
        in_recovery: Option<bool>,
        choice: u8,
        lsn: Lsn,
    },
    Scan {
        choice: u8,
        lsn: Lsn,
        other_life: bool,
    },
    Upstream(MemberId, u64),
    Lease(Option<(u64, u64)>),
    RunOut(u64, Vec<MemberId>),
    Names(Option<SyncSet>),
    Gate(bool),
    Checkpointed(bool),
    Health(u8, u64),
    Walsender(u8, Voter, Lsn),
    Peer(u8, MemberId, u64),
    Job(u8, MemberId),
    Failure(u8, MemberId, u32, u64),
    Addresses(u64),
    /// The wall clock, and whether this member leads the log.
    Wall(u64, bool),
}

fn any_change() -> impl Strategy<Value = Change> {
    let near = || 0u64..5;
    prop_oneof![
        prop::option::of(near()).prop_map(Change::Confirmed),
        near().prop_map(Change::Sealed),
        (0u8..8).prop_map(Change::Directory),
        (0u8..5, prop::option::of(near()), prop::option::of(any::<bool>()), any::<u8>(), any_lsn()).prop_map(
            |(kind, opened, in_recovery, choice, lsn)| Change::Server {
                kind,
                opened,
                in_recovery,
                choice,
                lsn
            }
        ),
        (any::<u8>(), any_lsn(), prop::bool::weighted(0.2))
            .prop_map(|(choice, lsn, other_life)| Change::Scan { choice, lsn, other_life }),
        (any_member(), near()).prop_map(|(member, epoch)| Change::Upstream(member, epoch)),
        prop::option::of((near(), 0u64..4_000)).prop_map(Change::Lease),
        (near(), prop::collection::vec(any_member(), 0..4))
            .prop_map(|(epoch, voters)| Change::RunOut(epoch, voters)),
        prop::option::of(any_sync()).prop_map(Change::Names),
        any::<bool>().prop_map(Change::Gate),
        any::<bool>().prop_map(Change::Checkpointed),
        (any::<u8>(), 0u64..30_000).prop_map(|(kind, ago)| Change::Health(kind, ago)),
        (any::<u8>(), any_voter(), any_lsn())
            .prop_map(|(kind, voter, lsn)| Change::Walsender(kind, voter, lsn)),
        (any::<u8>(), any_member(), 0u64..2_000)
            .prop_map(|(kind, member, ago)| Change::Peer(kind, member, ago)),
        (any::<u8>(), any_member()).prop_map(|(kind, member)| Change::Job(kind, member)),
        (any::<u8>(), any_member(), 1u32..5, 0u64..3_000)
            .prop_map(|(kind, member, count, ago)| Change::Failure(kind, member, count, ago)),
        (0u64..4_000).prop_map(Change::Addresses),
        (0u64..900_000, any::<bool>()).prop_map(|(ms, leads)| Change::Wall(ms, leads)),
    ]
}

fn before(ms: u64) -> Now {
    Now(NOW.0 - ms * 1_000_000)
}

fn life(view: &View, other: bool) -> Incarnation {
    let first = if view.me.as_str().ends_with(|c: char| c.is_ascii_digit()) {
        first_life(&view.me)
    } else {
        Incarnation(1)
    };
    Incarnation(first.0 + if other { 0x10 } else { 0 })
}

fn job(kind: u8, member: MemberId, record: &Record) -> Job {
    let epoch = record.epoch;
    match kind % 9 {
        0 => Job::Follow { member, epoch },
        1 => Job::Clone { member, epoch },
        2 => Job::Rewind { member, epoch },
        3 => Job::Seal { epoch },
        4 => Job::StopForSwitchover { epoch, to: member },
        5 => Job::Open { epoch, timeline: Timeline(5), sync: SyncSet::lone() },
        6 => Job::Start { upstream: None },
        7 => Job::OpenGate { epoch },
        _ => Job::SetNames { epoch, sync: SyncSet::lone() },
    }
}

fn server(record: &Record, change: (u8, Option<u64>, Option<bool>, u8, Lsn)) -> Server {
    let (kind, opened, in_recovery, choice, lsn) = change;
    let opened = opened.map(Epoch);
    match kind {
        0 => Server::Unknown,
        1 => Server::Down { last_opened: opened },
        2 => Server::Ending,
        _ => {
            let mut history = history_from(record, choice, lsn);
            if let Some(tenure) = record.tenure().filter(|_| choice.is_multiple_of(2)) {
                history = record.lineage.clone();
                history.push(mainstay_core::lineage::Fork { timeline: tenure.timeline, begin: lsn });
            }
            let primary = Primary { history, end_of_recovery: lsn, next_xid: 700, inserted: lsn };
            Server::Running(Running {
                opened,
                ready: true,
                in_recovery,
                replayed: lsn,
                streaming: (choice & 64 == 0).then_some(Streaming { timeline: Timeline(3), flushed: lsn }),
                primary: (in_recovery == Some(false)).then_some(primary),
            })
        }
    }
}

fn take_peer(view: &mut View, kind: u8, member: &MemberId, ago: u64) {
    let Some(peer) = view.peers.get_mut(member) else { return };
    peer.heard_at = before(ago);
    match kind % 7 {
        0 => peer.state.server = PeerServer::Down,
        1 => peer.state.server = PeerServer::Primary,
        2 => peer.state.epoch = Epoch(u64::from(kind) % 4),
        3 => peer.state.streaming = None,
        4 => peer.state.incarnation = Some(Incarnation(0xbb)),
        5 => peer.state.checkpointed = kind & 32 != 0,
        _ => peer.state.heard_ms.values_mut().for_each(|ms| *ms = ago),
    }
}

fn take_health(health: &mut Health, kind: u8, at: Now) {
    match kind % 4 {
        0 => health.silent_since = Some(at),
        1 => (health.write_waits_since, health.device_idle_since) = (Some(at), Some(at)),
        2 => health.disk_full = true,
        _ => health.directory_gone = kind & 16 != 0,
    }
}

fn take(view: &mut View, change: Change) {
    let record = Record::clone(&view.record);
    match change {
        Change::Confirmed(epoch) => view.confirmed = epoch.map(Epoch),
        Change::Sealed(epoch) => view.sealed = Epoch(epoch),
        Change::Directory(kind) => {
            view.directory = match kind {
                0 => Directory::Unknown,
                1 => Directory::Absent,
                2 => Directory::Marked { operation: "rewind".to_owned() },
                3 => Directory::Foreign { why: "not ours".to_owned() },
                // Another cluster's directory has another incarnation, too.
                4 => Directory::Valid { incarnation: Incarnation(0xf0), system_identifier: SYSTEM + 5 },
                _ => Directory::Valid { incarnation: life(view, kind == 5), system_identifier: SYSTEM },
            };
        }
        Change::Server { kind, opened, in_recovery, choice, lsn } => {
            view.server = server(&record, (kind, opened, in_recovery, choice, lsn));
        }
        Change::Scan { choice, lsn, other_life } => {
            let extent = Extent { history: history_from(&record, choice, lsn), end: lsn };
            view.scan = Some(Scan { extent, replayed: lsn, incarnation: life(view, other_life) });
        }
        Change::Upstream(member, epoch) => view.upstream = Some(Upstream { member, epoch: Epoch(epoch) }),
        Change::Lease(lease) => {
            view.lease = lease.map(|(epoch, ms)| Lease {
                epoch: Epoch(epoch),
                deadline: Now(before(1_000).0 + ms * 1_000_000),
                renewed_at: before(ms),
                rests_on: None,
            });
        }
        Change::RunOut(epoch, voters) => {
            view.run_out = RunOut { epoch: Epoch(epoch), serial: 0, voters: voters.into_iter().collect() };
        }
        Change::Names(names) => view.names = names,
        Change::Gate(open) => view.gate_open = open,
        Change::Checkpointed(done) => view.checkpointed = done.then_some(record.epoch),
        Change::Health(kind, ago) => take_health(&mut view.health, kind, before(ago)),
        Change::Walsender(kind, voter, flushed) => match view.walsenders.first_mut() {
            Some(sender) if kind % 3 == 0 => sender.stalled_since = Some(before(u64::from(kind) * 10)),
            Some(sender) if kind % 3 == 1 => (sender.voter, sender.flushed) = (Some(voter), flushed),
            _ => view.walsenders.clear(),
        },
        Change::Peer(kind, member, ago) => take_peer(view, kind, &member, ago),
        Change::Wall(ms, leads) => (view.unix_ms, view.leads) = (view.unix_ms + ms, leads),
        Change::Addresses(ms) => view.addresses_until = Some(Now(before(2_000).0 + ms * 1_000_000)),
        Change::Job(kind, member) => view.job = Some(job(kind, member, &record)),
        Change::Failure(kind, member, count, ago) => {
            let job = job(kind, member, &record);
            view.failures.push(Failure { job, at: before(ago), count, error: "it failed".to_owned() });
        }
    }
}

/// What a member remembers of the seconds before.
pub(super) fn any_memory() -> impl Strategy<Value = Memory> {
    let ago = || (0u64..90_000).prop_map(before);
    let ending = prop_oneof![Just(EndCause::Crashed), Just(EndCause::Switchover { to: None })];
    (
        prop::option::of((0u64..4, ago())),
        prop::option::of((0u64..4, ending)),
        prop::collection::btree_map(any_voter(), ago(), 0..3),
        prop::collection::btree_map((0u64..9).prop_map(Epoch), ago(), 0..6),
        prop::option::of(ago()),
        prop::option::of(0u64..4),
    )
        .prop_map(|(since, ending, lost_since, crashes, stepped_down_at, saw_open)| Memory {
            ended_since: since.map(|(epoch, at)| (Epoch(epoch), at)),
            ending: ending.map(|(epoch, cause)| (Epoch(epoch), cause)),
            lost_since,
            crashes,
            stepped_down_at,
            not_streaming_since: since.map(|(epoch, at)| (Epoch(epoch), at)),
            switchover_since: since,
            saw_open: saw_open.map(Epoch),
            ..Memory::default()
        })
}

/// A member's view of a reachable record, with some facts replaced.
pub(super) fn any_view() -> impl Strategy<Value = View> {
    let me = prop::sample::select(&["m1", "m2", "m3"][..]).prop_map(crate::notation::member);
    (any_record(), me, prop::collection::vec(any_change(), 0..7)).prop_map(|(record, me, changes)| {
        let mut view = seen_by(&record, &me, NOW);
        for change in changes {
            take(&mut view, change);
        }
        view
    })
}
