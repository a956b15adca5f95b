use std::sync::Arc;
use std::time::Duration;

use mainstay_core::record::{Phase, Record, Tenure};
use mainstay_core::sync::{SyncSet, Voter};
use mainstay_core::view::Lease;
use mainstay_core::{Epoch, Incarnation, MemberId, Now, Timeline};
use mainstay_guard::Phase as GuardPhase;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::guard_link::GuardState;
use crate::heartbeat::Heartbeat;
use crate::lease::LeaseState;
use crate::status::Status;

const EPOCH: u64 = 4;
const LEASE: Duration = Duration::from_secs(3);

fn name(text: &str) -> MemberId {
    MemberId::new(text).expect("a name")
}

/// Three members with two voters of which one acknowledges, seen by `me`.
fn status(me: &str, role: &str) -> Status {
    let row = |name: &str, role: &str, lag: Option<u64>| {
        json!({
            "name": name, "kind": if role == "witness" { "witness" } else { "data" }, "role": role, "votes": true,
            "address": "127.0.0.1:1", "http": null, "epoch": EPOCH, "timeline": 2, "lag_bytes": lag,
            "sync": role == "standby", "pid": 1, "guard_pid": 1, "postgres": null,
            "reason": format!("{name} is {role}"), "heard_ms": 0,
        })
    };
    let mut rows =
        vec![row("m1", "primary", None), row("m2", "standby", Some(2048)), row("m3", "standby", None)];
    rows.retain(|row| row["name"] != me);
    rows.push(row(me, role, (role == "standby").then_some(2048)));
    let endpoints = json!({ "rw": "", "ro": "", "members": {} });
    serde_json::from_value(json!({
        "cluster": "c", "member": me, "epoch": EPOCH, "phase": "open", "primary": "m1", "writable": true,
        "endpoints": endpoints, "members": rows, "lease": null, "at_risk_bytes": 0, "leads": false,
        "cancelled_switchover": null, "store_leader": "m1", "reason": "as things are", "warnings": [],
    }))
    .expect("a status")
}

fn sync(k: u32) -> SyncSet {
    let voter = |member| Voter { member: name(member), incarnation: Incarnation(1) };
    SyncSet { voters: [voter("m2"), voter("m3")].into(), k }
}

fn moment(me: &str, role: &str) -> Moment {
    let now = Now::from_millis(1_000_000);
    let deadline = now.plus(LEASE / 2);
    Moment {
        now,
        status: Arc::new(status(me, role)),
        lease: (role == "primary").then_some(Lease {
            epoch: Epoch(EPOCH),
            deadline,
            renewed_at: now,
            rests_on: None,
        }),
        opened: (role == "primary").then_some(EPOCH),
        sync: sync(1),
        hangs_for: None,
    }
}

#[track_caller]
fn holds(question: Question, lag: Option<u64>, moment: &Moment) -> bool {
    let verdict = judge(question, lag, moment);
    assert!(!verdict.why.is_empty() && !verdict.why.contains('\n'), "{question:?}: {verdict:?}");
    verdict.holds
}

/// The questions that are answered with yes.
fn answered(moment: &Moment) -> Vec<Question> {
    use Question::*;
    let all = [
        Primary,
        Replica,
        Sync,
        Quorum,
        Async,
        ReadOnly,
        ReadOnlySync,
        ReadOnlyQuorum,
        Health,
        Readiness,
        Liveness,
    ];
    all.into_iter().filter(|question| holds(*question, None, moment)).collect()
}

#[test]
fn each_role_answers_its_own_questions() {
    use Question::*;
    let primary = [Primary, ReadOnly, ReadOnlySync, ReadOnlyQuorum, Health, Readiness, Liveness];
    assert_eq!(answered(&moment("m1", "primary")), primary);
    let quorum = [Replica, Quorum, ReadOnly, ReadOnlyQuorum, Health, Readiness, Liveness];
    assert_eq!(answered(&moment("m2", "standby")), quorum);
    assert_eq!(answered(&moment("m3", "witness")), [Health, Readiness, Liveness]);
    for role in ["starting", "rejoining", "unknown"] {
        assert_eq!(answered(&moment("m2", role)), [Liveness], "{role}");
    }
    let mut shut = status("m1", "primary");
    shut.writable = false;
    let shut = Moment { status: Arc::new(shut), ..moment("m1", "primary") };
    assert_eq!(answered(&shut), [Health, Liveness], "the gate is shut");
}

/// PA-02, PA-34: what a standby is to commits can be asked for, and changes with the sync set.
#[test]
fn a_standby_says_how_much_of_what_was_acknowledged_it_has() {
    let all = Moment { sync: sync(2), ..moment("m2", "standby") };
    let (one, lone) = (moment("m2", "standby"), Moment { sync: SyncSet::lone(), ..moment("m2", "standby") });
    assert!(holds(Question::Sync, None, &all) && holds(Question::Quorum, None, &all));
    assert!(!holds(Question::Sync, None, &one) && holds(Question::Quorum, None, &one));
    assert!(!holds(Question::Async, None, &all) && !holds(Question::Async, None, &one));
    let mut unasked = status("m2", "standby");
    unasked.members.iter_mut().for_each(|row| row.sync = false);
    let unasked = Moment { status: Arc::new(unasked), ..lone };
    assert!(holds(Question::Async, None, &unasked) && holds(Question::Replica, None, &unasked));
    assert!(!holds(Question::Sync, None, &unasked) && !holds(Question::Quorum, None, &unasked));
    assert!(!holds(Question::ReadOnlySync, None, &unasked) && holds(Question::ReadOnly, None, &unasked));
}

/// Nobody is sent to a machine that somebody works on; its PostgreSQL may serve all the same.
#[test]
fn a_standby_in_maintenance_is_drained() {
    let mut maintained = status("m2", "standby");
    maintained.members.iter_mut().for_each(|row| row.maintenance = row.name == name("m2"));
    let maintained = Moment { status: Arc::new(maintained), ..moment("m2", "standby") };
    assert_eq!(answered(&maintained), [Question::Health, Question::Liveness]);
}

#[test]
fn a_standby_that_is_too_far_behind_or_does_not_know_is_left_out() {
    let standby = moment("m2", "standby");
    for (lag, wanted) in [(0, false), (2047, false), (2048, true), (1 << 30, true)] {
        assert_eq!(holds(Question::Replica, Some(lag), &standby), wanted, "{lag}");
        assert_eq!(holds(Question::Readiness, Some(lag), &standby), wanted, "{lag}");
    }
    let mut deaf = status("m2", "standby");
    deaf.members.iter_mut().for_each(|row| row.lag_bytes = None);
    let deaf = Moment { status: Arc::new(deaf), ..standby };
    assert!(!holds(Question::Replica, Some(1 << 30), &deaf) && holds(Question::Replica, None, &deaf));
    assert!(holds(Question::ReadOnly, Some(0), &moment("m1", "primary")), "a primary is behind nobody");
}

#[test]
fn a_primary_is_one_by_its_lease_and_its_guard_whatever_the_loop_said() {
    let primary = moment("m1", "primary");
    let lease = primary.lease.expect("held");
    let late = Moment { now: lease.deadline, ..primary.clone() };
    let other = Moment { lease: Some(Lease { epoch: Epoch(EPOCH - 1), ..lease }), ..primary.clone() };
    let none = Moment { lease: None, ..primary.clone() };
    let ended = Moment { opened: None, ..primary.clone() };
    let mut deposed = status("m1", "primary");
    deposed.primary = Some(name("m2"));
    let deposed = Moment { status: Arc::new(deposed), ..primary.clone() };
    for (what, moment) in
        [("late", late), ("other", other), ("none", none), ("ended", ended), ("deposed", deposed)]
    {
        for question in [Question::Primary, Question::ReadOnly, Question::Readiness] {
            assert!(!holds(question, None, &moment), "{what}: {question:?}");
        }
    }
    // While both speak for it, a hanging loop does not take it out of service, though it is no longer live.
    let hanging = Moment { hangs_for: Some(Duration::from_secs(9)), ..primary };
    assert!(holds(Question::Primary, None, &hanging) && !holds(Question::Liveness, None, &hanging));
}

#[test]
fn what_a_hanging_loop_said_of_a_standby_is_not_believed() {
    let hanging = Moment { hangs_for: Some(Duration::from_secs(9)), ..moment("m2", "standby") };
    assert_eq!(answered(&hanging), []);
    let hanging = Moment { hangs_for: Some(Duration::from_secs(9)), ..moment("m3", "witness") };
    assert_eq!(answered(&hanging), []);
}

/// The member's real answers over TCP, from channels that nobody writes to any more: a main loop that hangs.
struct Server {
    address: std::net::SocketAddr,
    heartbeat: Heartbeat,
    _senders: Box<dyn std::any::Any>,
}

async fn serve(status: Status, lease: Option<Lease>) -> Server {
    let (status_sender, status) = watch::channel(Arc::new(status));
    let (lease_sender, lease) = watch::channel(LeaseState { held: lease, ..LeaseState::default() });
    let (guard_sender, guard) = watch::channel(GuardState { status: Some(guard()), ..GuardState::default() });
    let record = Record { phase: Phase::Open, base: Some(tenure()), ..Record::default() };
    let (record_sender, record) = watch::channel(Arc::new(record));
    let (sql_sender, sql) = watch::channel(crate::observe::Sql::default());
    let (inventory_sender, inventory) = watch::channel(crate::inventory::Inventory::default());
    let (openings, heartbeat) = (Arc::default(), Heartbeat::new());
    let beats = heartbeat.clone();
    let seen = Seen {
        status,
        lease,
        guard,
        record,
        sql,
        inventory,
        openings,
        heartbeat: beats,
        reacher: Arc::default(),
        sql_proxy: crate::sql_proxy::operator::Operator::default(),
        verified: watch::channel(None).1,
        lease_length: LEASE,
        authority: "/nonexistent".into(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let router = super::super::public_router(seen);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let senders =
        Box::new((status_sender, lease_sender, guard_sender, record_sender, sql_sender, inventory_sender));
    Server { address, heartbeat, _senders: senders }
}

fn guard() -> mainstay_guard::Status {
    mainstay_guard::Status {
        guard_pid: 1,
        generation: None,
        now_ns: 0,
        phase: GuardPhase::Running,
        postmaster: Some(1),
        armed: None,
        opened: Some(EPOCH),
        last_epoch_opened: Some(EPOCH),
        last_exit: None,
        last_cause: None,
        remaining: Vec::new(),
        cgroup: None,
        warnings: Vec::new(),
    }
}

fn tenure() -> Tenure {
    Tenure {
        epoch: Epoch(EPOCH),
        holder: name("m1"),
        incarnation: Incarnation(1),
        timeline: Timeline(2),
        sync: sync(1),
        names: sync(1),
        sync_serial: 0,
        request: 0,
    }
}

impl Server {
    /// The status code and what follows the head.
    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
        (code, body.to_owned())
    }
}

/// Rule S5, routes never lie: the loop hangs with «primary» as its last word, and the lease runs out.
#[tokio::test]
async fn no_answer_is_primary_past_the_deadline_of_the_lease() {
    let deadline = clock::now().plus(Duration::from_millis(400));
    let lease = Lease { epoch: Epoch(EPOCH), deadline, renewed_at: clock::now(), rests_on: None };
    let server = serve(status("m1", "primary"), Some(lease)).await;
    let mut yes = 0;
    loop {
        let asked = clock::now();
        let (code, why) = server.ask("GET", "/primary").await;
        match code {
            200 => {
                assert!(asked < deadline, "asked {:?} too late: {why}", asked.since(deadline));
                yes += 1;
            }
            503 => {
                assert!(clock::now() >= deadline, "too early: {why}");
                assert_eq!(why, "the lease of epoch 4 is not held any more\n");
                break;
            }
            _ => panic!("{code}: {why}"),
        }
    }
    assert!(yes > 0, "it never was the primary");
    for path in ["/", "/master", "/leader", "/read-write", "/read-only", "/readiness"] {
        assert_eq!(server.ask("GET", path).await.0, 503, "{path}");
    }
}

#[tokio::test]
async fn load_balancers_ask_with_any_reading_method_and_are_told_what_is_wrong() {
    let server = serve(status("m2", "standby"), None).await;
    for method in ["GET", "OPTIONS"] {
        assert_eq!(server.ask(method, "/replica").await, (200, "m2 is standby\n".to_owned()), "{method}");
    }
    assert_eq!(server.ask("HEAD", "/replica?lag=2kB").await, (200, String::new()));
    assert_eq!(server.ask("OPTIONS", "/replica?lag=1kB").await.0, 503);
    let (code, why) = server.ask("GET", "/replica?zone=a").await;
    assert_eq!((code, why.as_str()), (400, "the parameter \"zone\" is not known; known here: lag\n"));
    assert_eq!(server.ask("GET", "/primary?lag=1").await.0, 400);
    assert_eq!(server.ask("GET", "/standby-leader").await.0, 404);
    assert_eq!(server.ask("POST", "/primary").await.0, 405);
    assert_eq!(server.ask("GET", "/liveness").await.0, 200);
    server.heartbeat.beat(clock::now().minus(LEASE * 2));
    let (code, why) = server.ask("GET", "/liveness").await;
    assert_eq!(code, 503);
    assert!(why.starts_with("the member's main loop has not turned for 6."), "{why}");
    assert_eq!(server.ask("GET", "/replica").await.0, 503);
}
