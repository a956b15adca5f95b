//! The cluster that scenarios begin with: records made by the shipped `apply`, and what each member sees of a healthy
//! cluster at that point. Scenarios then change what is different.
//!
//! `m1` made the data and is the primary of epoch 1 on timeline 3, which begins at 0/3000000; everybody holds the WAL up
//! to 0/5000000.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::lineage::{Extent, Fork};
use mainstay_core::record::{Applied, Command, Kind, Member, OnCrash, Record, Report, Settings};
use mainstay_core::sync::{SyncSet, Voter};
use mainstay_core::view::{
    Directory, Health, Lease, MemberState, Peer, PeerServer, Primary, RestartNeed, RunOut, Running, Scan,
    Server, Streaming, Upstream, View, Walsender,
};
use mainstay_core::{Epoch, Lsn, MemberId, Now};

use crate::notation::{first_life, member};

pub(crate) const SYSTEM: u64 = 7_000_000_000_000_000_001;
/// Where the data ends that `initdb` made.
const FIRST_END: Lsn = Lsn(0x0200_0000);
/// Where every opening after the first forks, if nothing else is said, and where everybody's WAL ends.
pub(crate) const END: Lsn = Lsn(0x0500_0000);
/// The wall clock, when a scenario begins.
pub(crate) const UNIX_MS: u64 = 1_790_000_000_000;
const FORK: Lsn = Lsn(0x0300_0000);
/// What an end-of-recovery record takes.
const END_OF_RECOVERY_BYTES: u64 = 0x100;

/// Applies what must be accepted.
pub(crate) fn apply(record: &mut Record, command: Command) {
    let text = format!("{command:?}");
    let applied = record.apply(command);
    assert_eq!(applied, Applied::Done, "{text}");
}

/// `m…` are data members, `w…` witnesses; all of them vote.
pub(crate) fn created(names: &[&str], on_crash: OnCrash) -> Record {
    let row = |(number, name): (usize, &&str)| {
        let kind = if name.starts_with('w') { Kind::Witness } else { Kind::Data };
        let address = |port: usize| format!("192.0.2.{}:{port}", number + 1).parse().expect("an address");
        let row = Member {
            kind,
            votes: true,
            raft_id: number as u64 + 1,
            address: address(7_400),
            postgres: (kind == Kind::Data).then(|| address(5_432)),
            key: format!("key of {name}"),
            priority: 100,
            http: None,
            leaving: false,
            next_key: None,
            key_serial: 0,
        };
        (member(name), row)
    };
    let members: BTreeMap<MemberId, Member> = names.iter().enumerate().map(row).collect();
    let settings = Settings { on_crash, ..Settings::default() };
    let mut record = Record::default();
    apply(&mut record, Command::Create { cluster: "main".to_owned(), settings, members });
    record
}

pub(crate) fn founded(names: &[&str], on_crash: OnCrash) -> Record {
    let mut record = created(names, on_crash);
    let founder = member("m1");
    let incarnation = first_life(&founder);
    apply(&mut record, Command::Found { member: founder, incarnation, system_identifier: SYSTEM });
    record
}

/// `m1` is the primary of epoch 1, with every other data member as a voter.
pub(crate) fn opened(names: &[&str], on_crash: OnCrash) -> Record {
    let mut record = founded(names, on_crash);
    report(&mut record, &member("m1"), FORK);
    grant(&mut record, &member("m1"));
    open(&mut record, FORK);
    let others: Vec<Voter> = record.data_members().skip(1).map(voter_of).collect();
    let full =
        SyncSet::new(others, mainstay_core::sync::wanted_acknowledgements(record.data_members().count()));
    // PostgreSQL is told first, the proof goes by it afterwards.
    let steps = [(0, SyncSet::lone()), (1, full.clone())];
    for (serial, sync) in steps.into_iter().filter(|_| !full.is_lone()) {
        apply(&mut record, Command::SetSync { epoch: Epoch(1), serial, sync, names: full.clone() });
    }
    record
}

fn voter_of(member: &MemberId) -> Voter {
    Voter { member: member.clone(), incarnation: first_life(member) }
}

/// What `member` holds if it has the whole lineage.
pub(crate) fn whole_report(record: &Record, member: &MemberId, end: Lsn) -> Report {
    Report {
        epoch: record.epoch,
        incarnation: first_life(member),
        extent: Extent { history: record.lineage.clone(), end },
        replayed: end,
        unfit: None,
    }
}

pub(crate) fn report(record: &mut Record, member: &MemberId, end: Lsn) {
    let report = whole_report(record, member, end);
    apply(record, Command::Report { member: member.clone(), report });
}

/// Grants the lease to `holder`, with the directory of its report.
pub(crate) fn grant(record: &mut Record, holder: &MemberId) {
    let incarnation = record.reports.get(holder).map_or(first_life(holder), |report| report.incarnation);
    let epoch = record.epoch.next();
    apply(record, Command::Grant { epoch, holder: holder.clone(), incarnation, request: 7 });
}

/// The holder of the grant is promoted at `fork`.
pub(crate) fn open(record: &mut Record, fork: Lsn) {
    let tenure = record.tenure().expect("granted").clone();
    let mut history = record.lineage.clone();
    history.push(Fork { timeline: tenure.timeline, begin: fork });
    apply(record, Command::Open { epoch: tenure.epoch, history, next_xid: 800, at_unix_ms: 0 });
}

/// What `me` sees of a cluster that is healthy but for what the record says.
pub(crate) fn seen_by(record: &Record, me: &MemberId, now: Now) -> View {
    let holds = record.tenure().is_some_and(|tenure| tenure.holder == *me);
    let primary = record.is_open() && holds;
    View {
        now,
        unix_ms: UNIX_MS,
        me: me.clone(),
        record: Arc::new(record.clone()),
        leads: false,
        confirmed: (record.format != 0).then_some(record.epoch),
        sealed: sealed(record, me),
        directory: directory(record, me),
        server: server(record, me),
        scan: scan(record, me),
        upstream: upstream(record, me),
        lease: holds.then(|| Lease {
            epoch: record.epoch,
            deadline: now.plus(Duration::from_millis(2_300)),
            renewed_at: now.minus(Duration::from_millis(50)),
            rests_on: None,
        }),
        run_out: RunOut::default(),
        names: record.base.as_ref().filter(|_| primary).map(|tenure| tenure.names.clone()),
        gate_open: primary,
        checkpointed: primary.then_some(record.epoch),
        health: Health::default(),
        walsenders: if primary { walsenders(record) } else { Vec::new() },
        peers: record.members.keys().filter(|name| *name != me).map(|name| peer(record, name, now)).collect(),
        job: None,
        upkeep: None,
        restart: looked_at(record),
        stopped_for: None,
        addresses_until: None,
        failures: Vec::new(),
    }
}

/// Every server runs with what is wanted.
fn looked_at(record: &Record) -> RestartNeed {
    RestartNeed { known: true, serial: record.parameters.serial, ..RestartNeed::default() }
}

fn runs_postgresql(record: &Record, me: &MemberId) -> bool {
    let data = record.members.get(me).is_some_and(|row| row.kind == Kind::Data);
    // Before the first opening only the founder has a directory.
    data && record.base.as_ref().is_some_and(|base| base.epoch > Epoch(0) || base.holder == *me)
}

fn reported<'a>(record: &'a Record, me: &MemberId) -> Option<&'a Report> {
    record.reports.get(me).filter(|report| report.epoch.next() >= record.epoch)
}

fn sealed(record: &Record, me: &MemberId) -> Epoch {
    let before = Epoch(record.epoch.0.saturating_sub(1));
    reported(record, me).map_or(before, |report| report.epoch)
}

fn directory(record: &Record, me: &MemberId) -> Directory {
    if !runs_postgresql(record, me) {
        return Directory::Absent;
    }
    let incarnation = reported(record, me).map_or(first_life(me), |report| report.incarnation);
    Directory::Valid { incarnation, system_identifier: SYSTEM }
}

fn last_end(record: &Record) -> Lsn {
    if record.epoch == Epoch(0) { FIRST_END } else { END }
}

/// The holder of an epoch that is not open, or not any more, has no server; a standby that has sealed does not stream.
fn server(record: &Record, me: &MemberId) -> Server {
    let last = record.base.as_ref().map(|base| (&base.holder, base.epoch));
    let held = last.is_some_and(|(holder, _)| holder == me);
    if !runs_postgresql(record, me) || held && !record.is_open() {
        let last_opened = last.filter(|(_, epoch)| held && *epoch > Epoch(0)).map(|(_, epoch)| epoch);
        return Server::Down { last_opened };
    }
    let end = reported(record, me).map_or(last_end(record), |report| report.extent.end);
    let mut running = Running {
        opened: None,
        ready: true,
        in_recovery: Some(true),
        replayed: end,
        streaming: None,
        primary: None,
    };
    if record.primary() == Some(me) {
        running.opened = Some(record.epoch);
        running.in_recovery = Some(false);
        let end_of_recovery = Lsn(record.floor().0 + END_OF_RECOVERY_BYTES);
        let history = record.lineage.clone();
        running.primary =
            Some(Primary { history, end_of_recovery, next_xid: 800, inserted: END.max(end_of_recovery) });
    } else if record.is_open() {
        running.streaming = streaming(record);
    }
    Server::Running(running)
}

fn streaming(record: &Record) -> Option<Streaming> {
    let timeline = record.lineage.last()?.timeline;
    record
        .is_open()
        .then_some(Streaming { timeline, flushed: END.max(Lsn(record.floor().0 + END_OF_RECOVERY_BYTES)) })
}

fn scan(record: &Record, me: &MemberId) -> Option<Scan> {
    let report = reported(record, me).filter(|_| !record.is_open())?;
    Some(Scan { extent: report.extent.clone(), replayed: report.replayed, incarnation: report.incarnation })
}

fn upstream(record: &Record, me: &MemberId) -> Option<Upstream> {
    let base = record.base.as_ref().filter(|base| base.holder != *me && base.epoch > Epoch(0))?;
    let follows = runs_postgresql(record, me) && sealed(record, me) < base.epoch;
    follows.then(|| Upstream { member: base.holder.clone(), epoch: base.epoch })
}

fn walsenders(record: &Record) -> Vec<Walsender> {
    let standbys = record.data_members().filter(|name| record.primary() != Some(name));
    let walsender = |(number, name): (usize, &MemberId)| {
        let voter = voter_of(name);
        Walsender {
            pid: 1_001 + u32::try_from(number).expect("few members"),
            application_name: format!("ms_{name}_{}", voter.incarnation),
            voter: Some(voter),
            streaming: true,
            flushed: streaming(record).map_or(END, |streaming| streaming.flushed),
            stalled_since: None,
        }
    };
    standbys.enumerate().map(walsender).collect()
}

fn peer(record: &Record, name: &MemberId, now: Now) -> (MemberId, Peer) {
    let primary = record.primary() == Some(name);
    let server = match server(record, name) {
        Server::Running(_) if primary => PeerServer::Primary,
        Server::Running(_) => PeerServer::Standby,
        _ => PeerServer::Down,
    };
    let standby = server == PeerServer::Standby;
    let follows = upstream(record, name).map(|upstream| upstream.epoch);
    let state = MemberState {
        incarnation: match directory(record, name) {
            Directory::Valid { incarnation, .. } => Some(incarnation),
            _ => None,
        },
        server,
        epoch: follows.or(primary.then_some(record.epoch)).unwrap_or_default(),
        streaming: streaming(record).filter(|_| standby && follows == Some(record.epoch)),
        replayed: if server == PeerServer::Down { Lsn::ZERO } else { last_end(record) },
        can_report: runs_postgresql(record, name),
        unfit: None,
        wal_kept_from: primary.then_some(FORK),
        checkpointed: primary,
        format: 0,
        ids_given: record.membership.next_raft_id,
        keys_kept: 0,
        restart: looked_at(record),
        heard_ms: record
            .members
            .keys()
            .filter(|other| *other != name)
            .map(|other| (other.clone(), 50))
            .collect(),
    };
    (name.clone(), Peer { heard_at: now.minus(Duration::from_millis(50)), state })
}

/// Time passes: those who were heard are heard on, and the lease that is held is renewed on.
pub(crate) fn pass(view: &mut View, time: Duration) {
    let fresh: Vec<MemberId> =
        view.peers.keys().filter(|name| view.fresh_peer(name).is_some()).cloned().collect();
    for name in fresh {
        let peer = view.peers.get_mut(&name).expect("just seen");
        peer.heard_at = peer.heard_at.plus(time);
    }
    if let Some(lease) = view.lease.as_mut().filter(|lease| view.now < lease.deadline) {
        lease.deadline = lease.deadline.plus(time);
        lease.renewed_at = lease.renewed_at.plus(time);
    }
    view.now = view.now.plus(time);
    view.unix_ms += u64::try_from(time.as_millis()).expect("a scenario is short");
}
