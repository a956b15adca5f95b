use mainstay_core::Epoch;
use serde_json::{Value, json};

use super::*;

const EPOCH: u64 = 4;
const LEASE: Duration = Duration::from_secs(3);

/// Three members of which m1 is the primary and m2 counts, seen by `me`.
fn status(me: &str) -> Value {
    let row = |name: &str, role: &str, lag: Option<u64>| {
        json!({
            "name": name, "kind": "data", "role": role, "votes": true, "address": "127.0.0.1:1", "http": null,
            "epoch": EPOCH, "timeline": 2, "lag_bytes": lag, "sync": name == "m2", "pid": 1, "guard_pid": 1,
            "postgres": {
                "pid": 7, "address": format!("10.0.0.{}:5432", &name[1..]), "port": 5432,
                "socket_dir": "/var/lib/mainstay/run", "data_dir": "/d", "version": "15",
            },
            "reason": format!("{name} is {role}"), "heard_ms": if name == me { 0 } else { 100 },
        })
    };
    let rows = [row("m1", "primary", None), row("m2", "standby", Some(2048)), row("m3", "standby", Some(16))];
    json!({
        "cluster": "c", "member": me, "epoch": EPOCH, "phase": "open", "primary": "m1", "writable": true,
        "endpoints": { "rw": "", "ro": "", "members": {} }, "members": rows,
        "lease": { "epoch": EPOCH, "holder": "m1", "length_ms": 3000, "remaining_ms": 2000 },
        "at_risk_bytes": 0, "leads": false, "cancelled_switchover": null, "store_leader": "m1",
        "reason": "as things are", "warnings": [],
    })
}

fn known(status: Value) -> Known {
    let now = Now::from_millis(1_000_000);
    let deadline = now.plus(Duration::from_millis(1_500));
    Known {
        now,
        status: Arc::new(serde_json::from_value(status).expect("a status")),
        status_age: Duration::from_millis(50),
        is_primary: Ok(()),
        held: Some(Lease { epoch: Epoch(EPOCH), deadline, renewed_at: now, rests_on: None }),
        leader_seen: now.minus(Duration::from_millis(70)),
        lease_length: LEASE,
        is_here: true,
    }
}

fn with(me: &str, change: impl FnOnce(&mut Value)) -> Known {
    let mut status = status(me);
    change(&mut status);
    known(status)
}

#[test]
fn the_holder_tells_its_own_socket_and_what_is_left_of_its_lease() {
    let routes = known(status("m1")).routes();
    let primary = routes.primary.expect("one");
    assert_eq!((primary.member.as_str(), primary.port, primary.lag_bytes), ("m1", 5432, Some(0)));
    assert_eq!(primary.socket_dir, Some("/var/lib/mainstay/run".into()));
    assert_eq!((routes.lease_ms, routes.epoch, routes.reason.as_str()), (1_500, EPOCH, ""));
    let standbys: Vec<_> = routes
        .standbys
        .iter()
        .map(|route| (route.member.as_str(), route.lag_bytes, route.is_sync, route.socket_dir.is_some()))
        .collect();
    assert_eq!(standbys, [("m2", Some(2048), true, false), ("m3", Some(16), false, false)]);
}

#[test]
fn a_holder_that_may_not_be_written_to_is_no_primary() {
    let mut known = known(status("m1"));
    known.is_primary = Err("the lease of epoch 4 is not held any more".to_owned());
    let routes = known.routes();
    assert_eq!((routes.primary, routes.lease_ms), (None, 0));
    assert!(routes.reason.contains("not held"), "{}", routes.reason);
}

#[test]
fn elsewhere_the_shorter_of_both_reckonings_counts() {
    // 2000 ms by the primary's word, which is 100 ms old in a status of 50 ms.
    let mut seen = known(status("m2"));
    let routes = seen.routes();
    assert_eq!((routes.lease_ms, routes.primary.map(|route| route.member)), (1_850, Some("m1".to_owned())));
    // The leader is silent: 2370 ms of a lease of 3 s are usable.
    seen.leader_seen = seen.now.minus(Duration::from_millis(1_370));
    assert_eq!(seen.routes().lease_ms, 1_000);
    seen.leader_seen = seen.now.minus(Duration::from_millis(2_370));
    let routes = seen.routes();
    assert_eq!((routes.lease_ms, routes.primary), (0, None));
    assert!(routes.reason.contains("does not know whether m1"), "{}", routes.reason);
    seen.leader_seen = Now(0);
    assert_eq!(seen.routes().primary, None, "the leader was never heard");
}

#[test]
fn a_member_that_is_cut_off_or_hangs_knows_no_primary() {
    let cut_off = with("m2", |status| {
        for row in [0, 2] {
            status["members"][row]["heard_ms"] = json!(2_500);
        }
    });
    let routes = cut_off.routes();
    assert_eq!((routes.primary, routes.lease_ms), (None, 0));
    assert!(routes.reason.contains("no majority"), "{}", routes.reason);
    let mut hanging = known(status("m2"));
    hanging.status_age = Duration::from_secs(2);
    let routes = hanging.routes();
    assert!(routes.primary.is_none() && routes.standbys.is_empty(), "{routes:?}");
}

#[test]
fn a_primary_that_hands_over_or_has_ended_is_none() {
    let shut = with("m2", |status| status["writable"] = json!(false)).routes();
    assert_eq!(shut.primary, None);
    assert_eq!(shut.reason, "m1 lets no applications in: m1 is primary");
    let ended = with("m2", |status| status["phase"] = json!("ended")).routes();
    assert_eq!((ended.primary, ended.reason.as_str()), (None, "as things are"));
}

#[test]
fn standbys_that_are_drained_leave_or_follow_an_older_epoch_are_left_out() {
    for (key, value) in [
        ("maintenance", json!(true)),
        ("leaving", json!(true)),
        ("epoch", json!(3)),
        ("role", json!("starting")),
    ] {
        let routes = with("m1", |status| status["members"][1][key] = value).routes();
        let standbys: Vec<_> = routes.standbys.iter().map(|route| route.member.as_str()).collect();
        assert_eq!(standbys, ["m3"], "{key}");
    }
}

#[test]
fn the_version_ignores_times_and_lags_alone() {
    let version = known(status("m1")).routes().version;
    let mut later = with("m1", |status| status["members"][1]["lag_bytes"] = json!(5));
    later.now = later.now.plus(Duration::from_millis(100));
    assert_eq!(later.routes().version, version);
    let others = [
        with("m1", |status| status["members"][1]["sync"] = json!(false)),
        with("m1", |status| status["members"][2]["role"] = json!("starting")),
        with("m1", |status| status["members"][2]["postgres"]["address"] = json!("10.0.0.9:5432")),
    ];
    for other in others {
        assert_ne!(other.routes().version, version);
    }
    assert!(version < 1 << 53);
}

#[test]
fn the_other_proxies_that_run_are_told() {
    let with_proxies = |me: &str| {
        with(me, |status| {
            for (member, pid) in [(0, Some(1)), (1, None), (2, Some(3))] {
                let address = format!("10.0.0.{}:6432", member + 1);
                status["members"][member]["sql_proxy"] = json!({ "pid": pid, "address": address });
            }
        })
    };
    let mut known = with_proxies("m1");
    assert_eq!(known.routes().proxies, ["10.0.0.3:6432".parse().unwrap()], "its own is no other");
    let version = known.routes().version;
    known.is_here = false;
    assert_eq!(known.routes().proxies.len(), 2, "one on an application's machine asks all");
    assert_ne!(known.routes().version, version);
}
