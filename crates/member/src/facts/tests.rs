use mainstay_core::Lsn;
use mainstay_core::lineage::Extent;
use mainstay_core::record::{Command, Kind, Member, Report, Settings};
use mainstay_core::sync::Voter;
use mainstay_core::view::Streaming;
use serde_json::json;

use super::*;
use crate::machinery::WorkError;

fn member(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

fn facts() -> Facts {
    Facts::new(member("m2"), Arc::default(), Epoch(1))
}

fn sync_of(name: &str) -> SyncSet {
    SyncSet::new([Voter { member: member(name), incarnation: Incarnation(0xa1) }], 1)
}

fn scan() -> Scan {
    Scan {
        extent: Extent { history: Vec::new(), end: Lsn(0x100) },
        replayed: Lsn(0x100),
        incarnation: Incarnation(0xa2),
    }
}

fn follow(epoch: u64) -> Job {
    Job::Follow { member: member("m1"), epoch: Epoch(epoch) }
}

fn rewind() -> Job {
    Job::Rewind { member: member("m1"), epoch: Epoch(2) }
}

fn clone() -> Job {
    Job::Clone { member: member("m1"), epoch: Epoch(2) }
}

fn fail(facts: &mut Facts, job: Job) {
    facts.take_finished(Finished { job, result: Some(Err(WorkError("it failed".to_owned()))) });
}

fn succeed(facts: &mut Facts, job: Job, outcome: Outcome) {
    facts.take_finished(Finished { job, result: Some(Ok(outcome)) });
}

fn guard(postmaster: Option<u32>, phase: &str, opened: Option<u64>) -> GuardState {
    let status = json!({
        "guard_pid": 10, "generation": 1, "now_ns": 1, "phase": phase, "postmaster": postmaster, "armed": null,
        "opened": opened, "last_epoch_opened": opened, "last_exit": null, "last_cause": null, "remaining": [],
        "cgroup": null, "warnings": [],
    });
    GuardState { status: Some(serde_json::from_value(status).unwrap()), ..GuardState::default() }
}

/// A cluster of one, whose lease of epoch 1 was granted to `m2` on the request 7.
fn granted() -> Arc<Record> {
    let me = member("m2");
    let row = Member {
        kind: Kind::Data,
        votes: true,
        raft_id: 1,
        address: "192.0.2.2:7400".parse().unwrap(),
        postgres: None,
        key: String::new(),
        priority: 100,
        http: None,
        leaving: false,
        next_key: None,
        key_serial: 0,
    };
    let mut record = Record::default();
    let members = [(me.clone(), row)].into();
    record.apply(Command::Create { cluster: "main".to_owned(), settings: Settings::default(), members });
    let incarnation = Incarnation(0xa2);
    record.apply(Command::Found { member: me.clone(), incarnation, system_identifier: 1 });
    let extent = Extent { history: record.lineage.clone(), end: Lsn(0x100) };
    let report = Report { epoch: Epoch(0), incarnation, extent, replayed: Lsn(0x100), unfit: None };
    record.apply(Command::Report { member: me.clone(), report });
    record.apply(Command::Grant { epoch: Epoch(1), holder: me, incarnation, request: 7 });
    assert_eq!(record.tenure().unwrap().epoch, Epoch(1));
    Arc::new(record)
}

#[test]
fn names_count_as_unproven_once_a_change_of_them_broke_off() {
    let set_names = Job::SetNames { epoch: Epoch(1), sync: sync_of("m1") };
    let stop = Job::StopForSwitchover { epoch: Epoch(1), to: member("m1") };
    for job in [set_names, stop] {
        for result in [None, Some(Err(WorkError("it failed".to_owned())))] {
            let mut facts = facts();
            facts.names = Some(sync_of("m1"));
            facts.take_finished(Finished { job: job.clone(), result });
            assert_eq!(facts.names, None, "{job}");
        }
    }
    let mut facts = facts();
    facts.names = Some(sync_of("m1"));
    fail(&mut facts, Job::Checkpoint { epoch: Epoch(1) });
    assert_eq!(facts.names, Some(sync_of("m1")), "a checkpoint has nothing to do with them");
}

#[test]
fn a_failed_switchover_has_shut_the_gate() {
    let mut facts = facts();
    facts.gate_open = Some(Epoch(1));
    fail(&mut facts, Job::StopForSwitchover { epoch: Epoch(1), to: member("m1") });
    assert_eq!(facts.gate_open, None);
}

#[test]
fn failures_are_counted_by_kind_until_work_of_that_kind_succeeds() {
    let mut facts = facts();
    fail(&mut facts, Job::Seal { epoch: Epoch(1) });
    fail(&mut facts, Job::Seal { epoch: Epoch(2) });
    fail(&mut facts, clone());
    let counts: Vec<u32> = facts.failures.iter().map(|failure| failure.count).collect();
    assert_eq!(counts, [2, 1]);
    assert_eq!(facts.failures[0].job, Job::Seal { epoch: Epoch(2) });
    succeed(&mut facts, Job::Seal { epoch: Epoch(3) }, Outcome::Sealed { epoch: Epoch(3), scan: scan() });
    assert_eq!(facts.failures.len(), 1);
}

#[test]
fn work_that_was_called_off_has_not_failed() {
    let mut facts = facts();
    facts.take_finished(Finished { job: clone(), result: None });
    assert!(facts.failures.is_empty());
}

#[test]
fn the_way_back_forgets_what_failed_on_it() {
    let mut facts = facts();
    fail(&mut facts, rewind());
    fail(&mut facts, clone());
    succeed(&mut facts, clone(), Outcome::Done);
    assert!(facts.failures.is_empty(), "a new directory has nothing to rewind");
    fail(&mut facts, rewind());
    succeed(&mut facts, follow(2), Outcome::Done);
    assert!(facts.failures.is_empty());
}

#[test]
fn sealing_raises_the_promise_and_following_ends_the_scan() {
    let mut facts = facts();
    facts.upstream = Some(Upstream { member: member("m1"), epoch: Epoch(1) });
    succeed(&mut facts, Job::Seal { epoch: Epoch(3) }, Outcome::Sealed { epoch: Epoch(3), scan: scan() });
    assert_eq!((facts.sealed, facts.upstream.clone(), facts.scan.clone()), (Epoch(3), None, Some(scan())));
    succeed(&mut facts, Job::Seal { epoch: Epoch(2) }, Outcome::Sealed { epoch: Epoch(2), scan: scan() });
    assert_eq!(facts.sealed, Epoch(3), "a promise is never lowered");
    succeed(&mut facts, follow(4), Outcome::Done);
    assert_eq!(facts.upstream, Some(Upstream { member: member("m1"), epoch: Epoch(4) }));
    assert_eq!(facts.scan, None, "what streams in changes what was found");
}

#[test]
fn another_server_than_before_knows_nothing_of_the_one_before_it() {
    let mut facts = facts();
    facts.take_guard(guard(Some(100), "running", None));
    (facts.names, facts.scan) = (Some(sync_of("m1")), Some(scan()));
    facts.take_guard(guard(Some(100), "running", Some(1)));
    assert!(facts.names.is_some() && facts.scan.is_some(), "it is the same one");
    facts.take_guard(guard(Some(101), "running", None));
    assert!(facts.names.is_none() && facts.scan.is_none());
}

#[test]
fn what_sql_said_of_an_earlier_server_is_not_said_of_this_one() {
    let mut facts = facts();
    facts.take_guard(guard(Some(100), "running", None));
    let postmaster = facts.guard.status.as_ref().unwrap().postmaster;
    let streaming = Some(Streaming { timeline: mainstay_core::Timeline(3), flushed: Lsn(0x200) });
    facts.sql = Sql { postmaster, ready: true, in_recovery: Some(true), streaming, ..Sql::default() };
    let running = |facts: &Facts| facts.view(None, None).running().cloned().unwrap();
    assert_eq!((running(&facts).ready, running(&facts).streaming), (true, streaming));
    facts.take_guard(guard(Some(101), "running", None));
    assert_eq!((running(&facts).ready, running(&facts).streaming), (false, None));
    facts.take_guard(guard(None, "empty", Some(1)));
    assert_eq!(facts.view(None, None).server, Server::Down { last_opened: Some(Epoch(1)) });
}

#[test]
fn a_lease_that_was_just_granted_counts_from_its_request() {
    let mut facts = facts();
    facts.record = granted();
    assert_eq!(facts.view(None, None).lease, None, "nobody here knows when it was asked for");
    let requested_at = Now::from_millis(5_000);
    facts.requests.insert(7, requested_at);
    let deadline = requested_at.plus(mainstay_core::lease::usable(facts.record.settings.lease()));
    let lease = Lease { epoch: Epoch(1), deadline, renewed_at: requested_at, rests_on: None };
    assert_eq!(facts.view(None, None).lease, Some(lease));
    let renewed = Lease { renewed_at: Now::from_millis(9_000), ..lease };
    facts.lease.held = Some(renewed);
    assert_eq!(facts.view(None, None).lease, Some(renewed));
    facts.me = member("m3");
    assert_eq!(facts.view(None, None).lease, None, "it is another one's");
}

#[test]
fn the_gate_of_an_earlier_epoch_is_shut() {
    let mut facts = facts();
    facts.record = granted();
    facts.gate_open = Some(Epoch(0));
    assert!(!facts.view(None, None).gate_open);
    facts.gate_open = Some(Epoch(1));
    assert!(facts.view(None, None).gate_open);
}

#[test]
fn a_member_says_that_it_is_primary_only_once_it_is_out_of_recovery() {
    let mut facts = facts();
    facts.record = granted();
    let said = |facts: &Facts| {
        let view = facts.view(None, None);
        let state = facts.state(&view, &Memory::default());
        (state.server, state.epoch)
    };
    assert_eq!(said(&facts), (PeerServer::Unknown, Epoch(0)));
    facts.take_guard(guard(Some(100), "running", None));
    facts.upstream = Some(Upstream { member: member("m1"), epoch: Epoch(3) });
    assert_eq!(said(&facts), (PeerServer::Standby, Epoch(3)));
    facts.take_guard(guard(Some(100), "running", Some(1)));
    assert_eq!(said(&facts), (PeerServer::Standby, Epoch(1)), "opened, but not seen out of recovery yet");
    let primary = mainstay_core::view::Primary {
        history: Vec::new(),
        end_of_recovery: Lsn(0x200),
        next_xid: 800,
        inserted: Lsn(0x200),
    };
    let postmaster = facts.guard.status.as_ref().unwrap().postmaster;
    facts.sql = Sql { postmaster, in_recovery: Some(false), primary: Some(primary), ..Sql::default() };
    assert_eq!(said(&facts), (PeerServer::Primary, Epoch(1)));
    facts.take_guard(guard(None, "empty", Some(1)));
    assert_eq!(said(&facts).0, PeerServer::Down);
}
