//! The formats of the record and its commands, as members write them to disk and to each other. A change of these files is a
//! change of the format: older members must go on reading it, or [`FORMAT`] grows. A new cluster writes format 1, also after
//! [`FORMAT`] has grown, until every member reads the newer one.

use std::fs;
use std::path::Path;

use mainstay_core::record::{
    Command, EndCause, FORMAT, How, Invitation, Joining, Kind, Member, OnCrash, ParameterSet, Record,
};
use mainstay_core::sync::SyncSet;
use mainstay_core::{Epoch, Incarnation, Lsn};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster;
use crate::notation::{history, member};

/// Holds `value` against the file, both ways.
pub(crate) fn hold<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, value: &T) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = serde_json::to_string_pretty(value).expect("representable in JSON") + "\n";
    if std::env::var_os("MAINSTAY_BLESS").is_some() {
        fs::write(&path, &text).expect("a writable file");
    }
    let golden = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(text == golden, "{name}: written otherwise than before (the newest format is {FORMAT}):\n{text}");
    let read: T = serde_json::from_str(&golden).expect("what an earlier release has written");
    assert_eq!(read, *value);
}

/// A record in which nothing is empty: opened twice, with reports, a grant, and switchovers asked for and given up.
fn full_record() -> Record {
    let (m1, m2, m3) = (member("m1"), member("m2"), member("m3"));
    let mut record = cluster::opened(&["m1", "m2", "m3"], OnCrash::Restart);
    cluster::apply(&mut record, Command::RequestSwitchover { id: 4, epoch: Epoch(1), to: Some(m3.clone()) });
    cluster::apply(&mut record, Command::CancelSwitchover { id: 4, why: "m3 did not stream".to_owned() });
    cluster::apply(&mut record, Command::RequestSwitchover { id: 5, epoch: Epoch(1), to: None });
    let voters = [m2.clone(), m3.clone()].into();
    cluster::apply(
        &mut record,
        Command::End { epoch: Epoch(1), cause: EndCause::Expired { voters, serial: 0 } },
    );
    let mut unfit = cluster::whole_report(&record, &m1, cluster::END);
    unfit.unfit = Some("too little room for WAL on its disk".to_owned());
    cluster::apply(&mut record, Command::Report { member: m1, report: unfit });
    cluster::report(&mut record, &m2, cluster::END);
    cluster::report(&mut record, &m3, Lsn(0x04FF_FF00));
    cluster::grant(&mut record, &m2);
    record
}

#[test]
fn the_record_is_written_in_format_1() {
    let record = full_record();
    assert_eq!(record.format, 1);
    hold("record-1.json", &record);
}

/// A record in which nothing of format 2 is empty: an open invitation, a member that joined, one that leaves, voters that
/// are being changed.
#[test]
fn the_record_and_its_commands_are_written_in_format_2() {
    let mut record = cluster::opened(&["m1", "m2", "m3"], OnCrash::Failover);
    let commands = format_2();
    for command in &commands[..commands.len() - 4] {
        assert_eq!(command.format(), 2);
        cluster::apply(&mut record, command.clone());
    }
    assert_eq!(record.format, 2);
    hold("record-2.json", &record);
    hold("commands-2.json", &commands);
}

fn format_2() -> Vec<Command> {
    let invitation = |id: &str| Invitation {
        id: id.to_owned(),
        secret_sha256: "5e".repeat(32),
        kind: Kind::Data,
        member: Some(member("m4")),
        replaces: Some(member("m3")),
        expires_at_unix_ms: 1_790_000_600_000,
        used_by: None,
    };
    let row = Member {
        kind: Kind::Data,
        votes: false,
        raft_id: 0,
        address: "192.0.2.4:7400".parse().expect("an address"),
        postgres: Some("192.0.2.4:5432".parse().expect("an address")),
        key: "key of m4".to_owned(),
        priority: 100,
        http: Some("192.0.2.4:7480".parse().expect("an address")),
        leaving: false,
        next_key: None,
        key_serial: 0,
    };
    let joining = Joining {
        invitation: "i1".to_owned(),
        secret_sha256: "5e".repeat(32),
        member: member("m4"),
        row,
        at_unix_ms: 1_790_000_000_000,
    };
    let at_unix_ms = 1_790_000_000_000;
    vec![
        Command::RaiseFormat { to: 2 },
        Command::Invite { invitation: invitation("i1"), at_unix_ms },
        Command::Invite { invitation: Invitation { replaces: None, ..invitation("i2") }, at_unix_ms },
        Command::Join(joining),
        Command::SetVoters { serial: 0, voters: [member("m1"), member("m2"), member("m4")].into() },
        Command::Leave { member: member("m2") },
        Command::ChangeParameters { serial: 0, set: parameters(), by: "root at m1".to_owned(), at_unix_ms },
        Command::RequestRestart {
            id: 8,
            members: [member("m2")].into(),
            in_place: true,
            by: "root at m1".to_owned(),
        },
        Command::GiveTurn { id: 8, member: member("m2"), epoch: Epoch(1), how: How::Standby },
        Command::EndTurn { id: 8, number: 1 },
        Command::EndRestart { id: 8, why: Some("m2 leaves the cluster".to_owned()) },
        Command::RequestRestart { id: 9, members: [].into(), in_place: false, by: "root at m1".to_owned() },
        Command::GiveTurn { id: 9, member: member("m1"), epoch: Epoch(1), how: How::InPlace },
        Command::SettleVoters { serial: 1 },
        Command::Revoke { id: "i2".to_owned() },
        Command::Remove { member: member("m3") },
        Command::End { epoch: Epoch(1), cause: EndCause::RestartedInPlace },
    ]
}

/// A record in which nothing of format 3 is empty: one member is changing its key, another has changed its own.
#[test]
fn the_record_and_its_commands_are_written_in_format_3() {
    let mut record = cluster::opened(&["m1", "m2", "m3"], OnCrash::Failover);
    let key = |name: &str| format!("another key of {name}");
    let commands = vec![
        Command::RaiseFormat { to: 3 },
        Command::AcceptKey { member: member("m2"), key: key("m2"), serial: 0 },
        Command::DropKey { member: member("m2"), serial: 1 },
        Command::AcceptKey { member: member("m3"), key: key("m3"), serial: 0 },
    ];
    for command in &commands {
        cluster::apply(&mut record, command.clone());
    }
    assert!(commands[1..].iter().all(|command| command.format() == 3));
    hold("record-3.json", &record);
    hold("commands-3.json", &commands);
}

fn parameters() -> ParameterSet {
    let values = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
    ParameterSet {
        shared: values("max_connections", "200"),
        primary: values("work_mem", "8MB"),
        standby: values("work_mem", "64MB"),
        members: [(member("m1"), values("shared_buffers", "1GB"))].into(),
        hba: vec!["hostssl app app 192.0.2.0/24 scram-sha-256".to_owned()],
    }
}

#[test]
fn every_command_is_written_in_format_1() {
    let record = full_record();
    let (m2, m3) = (member("m2"), member("m3"));
    let report = record.reports.get(&m2).expect("reported").clone();
    let full = SyncSet::new(record.sync().expect("opened").voters.clone(), 1);
    let end = |cause| Command::End { epoch: Epoch(1), cause };
    hold(
        "commands-1.json",
        &vec![
            Command::Create {
                cluster: record.cluster.clone(),
                settings: record.settings.clone(),
                members: record.members.clone(),
            },
            Command::Found {
                member: m2.clone(),
                incarnation: Incarnation(0xa2),
                system_identifier: cluster::SYSTEM,
            },
            Command::Grant {
                epoch: Epoch(2),
                holder: m2.clone(),
                incarnation: Incarnation(0xa2),
                request: 7,
            },
            Command::Open {
                epoch: Epoch(2),
                history: history("1 3@0/3000000 5@0/5000000"),
                next_xid: 900,
                at_unix_ms: 1_790_000_000_000,
            },
            end(EndCause::Founded),
            end(EndCause::Crashed),
            end(EndCause::Hung { what: "PostgreSQL does not answer".to_owned() }),
            end(EndCause::Switchover { to: Some(m3.clone()) }),
            end(EndCause::Switchover { to: None }),
            end(EndCause::Restarted),
            end(EndCause::NotOpened { why: "no WAL was replayed for 5 s".to_owned() }),
            end(EndCause::DirectoryLost),
            end(EndCause::LeaseLost),
            end(EndCause::Expired { voters: [m2.clone(), m3.clone()].into(), serial: 0 }),
            Command::Report { member: m2, report },
            Command::SetSync { epoch: Epoch(1), serial: 2, sync: full, names: SyncSet::lone() },
            Command::RequestSwitchover { id: 5, epoch: Epoch(1), to: Some(m3) },
            Command::CancelSwitchover { id: 5, why: "m3 did not stream".to_owned() },
        ],
    );
}
