use std::collections::{BTreeMap, BTreeSet};

use mainstay_core::record::{Member, Phase, Tenure};
use mainstay_core::sync::{SyncSet, Voter};
use mainstay_core::{Epoch, Incarnation, MemberId, Timeline};
use mainstay_net::sql_status::{SqlLatency, SqlPool};
use serde_json::json;

use super::*;
use crate::inventory::Room;

fn scrape() -> Scrape {
    let row = |name: &str, role: &str, heard: Option<u64>| {
        json!({
            "name": name, "kind": "data", "role": role, "votes": true, "address": "127.0.0.1:1", "http": null,
            "epoch": 4, "timeline": 2, "lag_bytes": if role == "standby" { Some(2048) } else { None },
            "sync": role == "standby", "pid": 1, "guard_pid": 1, "postgres": null, "reason": "so", "heard_ms": heard,
        })
    };
    let status = json!({
        "cluster": "a \"quoted\\ name", "member": "m1", "epoch": 4, "phase": "open", "primary": "m1", "writable": true,
        "endpoints": { "rw": "", "ro": "", "members": {} }, "lease": null, "at_risk_bytes": 0, "leads": true,
        "members": [row("m1", "primary", Some(0)), row("m2", "standby", Some(120)), row("m3", "unknown", Some(9_000))],
        "cancelled_switchover": null, "store_leader": "m1", "reason": "so", "warnings": ["w"],
    });
    let name = |text: &str| MemberId::new(text).expect("a name");
    let member = |id: u64| Member {
        kind: Kind::Data,
        votes: true,
        raft_id: id,
        address: "127.0.0.1:1".parse().expect("an address"),
        postgres: None,
        http: None,
        leaving: false,
        next_key: None,
        key_serial: 0,
        key: String::new(),
        priority: 0,
    };
    let sync = SyncSet { voters: [Voter { member: name("m2"), incarnation: Incarnation(1) }].into(), k: 1 };
    let tenure = Tenure {
        epoch: Epoch(4),
        holder: name("m1"),
        incarnation: Incarnation(1),
        timeline: Timeline(2),
        sync: sync.clone(),
        names: sync,
        sync_serial: 0,
        request: 0,
    };
    let record = Record {
        phase: Phase::Open,
        base: Some(tenure),
        members: ["m1", "m2", "m3"].into_iter().zip(1..).map(|(text, id)| (name(text), member(id))).collect(),
        ..Record::default()
    };
    Scrape {
        status: Arc::new(serde_json::from_value(status).expect("a status")),
        record: Arc::new(record),
        is_primary: true,
        is_live: true,
        loop_age: Duration::from_millis(35),
        lease_remaining: Some(Duration::from_millis(2_113)),
        postgresql_is_up: Some(true),
        slots: vec![("mainstay_m2".to_owned(), 4096)],
        inventory: Inventory {
            room: Some(Room { free: 1 << 33, size: 1 << 35 }),
            certificates: vec![("server", 1_900_000_000)],
        },
        verified: Some(Arc::new(Verified { at_unix_ms: 1_790_000_000_500, ok: true, ..Verified::default() })),
        openings: Openings::default().count(&[]),
        sql_proxy: Some(proxy()),
    }
}

fn proxy() -> SqlStatus {
    let counts = (0..33).map(|power| u64::from(power == 10)).collect();
    let query = SqlLatency { count: 1, sum_us: 700, powers_of_two_us: counts, ..SqlLatency::default() };
    let pool = SqlPool {
        database: "app".to_owned(),
        user: "shop".to_owned(),
        access: "rw".to_owned(),
        clients_waiting: 3,
        query,
        ..SqlPool::default()
    };
    SqlStatus { holds: true, pools: vec![pool], ..SqlStatus::default() }
}

#[test]
fn the_sql_proxy_is_among_them() {
    let samples = check(&render(&scrape()));
    assert_eq!(samples.get("mainstay_sql_holds"), Some(&1.0));
    let text = render(&scrape());
    for line in [
        "mainstay_sql_pool_clients{database=\"app\",user=\"shop\",access=\"rw\",state=\"waiting\"} 3",
        "mainstay_sql_query_seconds_bucket{database=\"app\",user=\"shop\",access=\"rw\",le=\"0.000512\"} 0",
        "mainstay_sql_query_seconds_bucket{database=\"app\",user=\"shop\",access=\"rw\",le=\"0.001024\"} 1",
        "mainstay_sql_query_seconds_sum{database=\"app\",user=\"shop\",access=\"rw\"} 0.0007",
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "{line} in\n{text}");
    }
}

/// Reads the text format strictly, as Prometheus' own checker does, and answers the samples by name and labels.
fn check(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'));
    let (mut families, mut samples) = (BTreeMap::new(), BTreeMap::new());
    let (mut helped, mut current) = (BTreeSet::new(), None);
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help text");
            assert!(!help.is_empty() && helped.insert(name), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert!(helped.contains(name), "the type follows the help: {line}");
            assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
            assert!(families.insert(name, kind).is_none(), "a family in two places: {line}");
            current = Some(name);
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest));
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let family = of_histogram.filter(|name| families.get(name) == Some(&"histogram")).unwrap_or(name);
            assert_eq!(Some(family), current, "a sample outside of its family: {line}");
            check_labels(labels, line);
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(value.is_finite() && value >= 0.0, "{line}");
            assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    for (name, kind) in families {
        assert!(
            name.starts_with("mainstay_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{name}"
        );
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        for unit in ["_ms", "milliseconds", "_kb", "minutes", "percent"] {
            assert!(!name.contains(unit), "{name} is not in a base unit");
        }
    }
    samples
}

/// `name="value",…}` with what must be escaped escaped.
fn check_labels(labels: &str, line: &str) {
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("a label: {line}"));
        assert!(
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{line}"
        );
        let mut end = None;
        let mut characters = value.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => assert!(matches!(characters.next(), Some((_, '\\' | '"' | 'n'))), "{line}"),
                '"' => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        rest = &value[end.unwrap_or_else(|| panic!("an open label: {line}")) + 1..];
        rest = match rest {
            "}" => "",
            _ => rest.strip_prefix(',').unwrap_or_else(|| panic!("after a label: {line}")),
        };
    }
}

#[test]
fn every_line_is_in_prometheus_format() {
    let samples = check(&render(&scrape()));
    for (series, value) in [
        ("mainstay_up", 1.0),
        ("mainstay_role{role=\"primary\"}", 1.0),
        ("mainstay_role{role=\"standby\"}", 0.0),
        ("mainstay_lease_remaining_seconds", 2.113),
        ("mainstay_member_lag_bytes{member=\"m2\"}", 2048.0),
        ("mainstay_member_heard_seconds{member=\"m2\"}", 0.12),
        ("mainstay_voters", 3.0),
        ("mainstay_voters_heard", 2.0),
        ("mainstay_sync_standbys", 1.0),
        ("mainstay_sync_standbys_wanted", 2.0),
        ("mainstay_sync_acknowledgements_wanted", 1.0),
        ("mainstay_verify_ok", 1.0),
        ("mainstay_verify_failed_checks", 0.0),
        ("mainstay_verify_last_run_timestamp_seconds", 1_790_000_000.5),
        ("mainstay_openings_total{cause=\"switchover\"}", 0.0),
        ("mainstay_certificate_expiry_timestamp_seconds{certificate=\"server\"}", 1.9e9),
        ("mainstay_member_info{cluster=\"a \\\"quoted\\\\ name\",member=\"m1\"}", 1.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series} in {samples:#?}");
    }
    let roles = samples.iter().filter(|(series, _)| series.starts_with("mainstay_role{"));
    assert_eq!(roles.map(|(_, value)| value).sum::<f64>(), 1.0, "exactly one role");
}

#[test]
fn what_is_not_known_is_left_out() {
    let mut scrape = scrape();
    (scrape.lease_remaining, scrape.postgresql_is_up) = (None, None);
    scrape.inventory = Inventory::default();
    scrape.slots.clear();
    scrape.verified = None;
    scrape.record = Arc::default();
    let text = render(&scrape);
    check(&text);
    for name in [
        "lease_remaining",
        "postgresql_up",
        "data_free",
        "certificate",
        "sync_standbys ",
        "last_opening",
        "verify",
    ] {
        assert!(!text.contains(&format!("mainstay_{name}")), "{name}");
    }
}
