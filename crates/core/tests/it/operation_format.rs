//! What operators ask for, as members write it to disk and to each other: format 2 of the record.

use mainstay_core::election::Missing;
use mainstay_core::record::{
    ApiClient, Applied, ClientProof, Command, EndCause, Failover, Forced, OnCrash, Operate, Pause, Record,
    Refusal, Scheduled,
};
use mainstay_core::sync::SyncSet;
use mainstay_core::{Epoch, Incarnation, Lsn};

use crate::cluster;
use crate::notation::{first_life, member};
use crate::record_format::hold;

fn pause(until_unix_ms: Option<u64>) -> Pause {
    Pause { by: "operator at m1".to_owned(), since_unix_ms: 1_790_000_000_000, until_unix_ms }
}

fn forced() -> Forced {
    Forced {
        epoch: Epoch(1),
        member: member("m2"),
        incarnation: first_life(&member("m2")),
        end: Lsn(0x04FF_0000),
        heard: Lsn(0x0500_0800),
        missing: Missing::default(),
    }
}

fn client() -> ApiClient {
    let proof = ClientProof::Token { sha256: "ab".repeat(32) };
    ApiClient { proof, by: "root at m1".to_owned(), since_unix_ms: 1_790_000_000_000 }
}

/// One name, one proof: whoever takes a name away takes everything that could be proven under it.
#[test]
fn a_client_is_admitted_once_and_dismissed_by_name() {
    let mut record = cluster::opened(&["m1", "m2", "m3"], OnCrash::Failover);
    cluster::apply(&mut record, Command::RaiseFormat { to: 2 });
    let admit = |record: &mut Record, name: &str, client: ApiClient| {
        record.apply(Command::Operate(Operate::AdmitClient { name: name.to_owned(), client }))
    };
    let other = ApiClient { proof: ClientProof::Certificate { key: "sha256:00".to_owned() }, ..client() };
    assert_eq!(admit(&mut record, "grafana", client()), Applied::Done);
    assert_eq!(admit(&mut record, "grafana", client()), Applied::Already);
    let taken = Applied::Refused(Refusal::ClientTaken("grafana".to_owned()));
    assert_eq!(admit(&mut record, "grafana", other.clone()), taken);
    for number in 1..64 {
        assert_eq!(admit(&mut record, &format!("c{number}"), other.clone()), Applied::Done);
    }
    assert_eq!(admit(&mut record, "more", other), Applied::Refused(Refusal::TooManyClients { most: 64 }));
    let dismiss = Command::Operate(Operate::DismissClient { name: "grafana".to_owned() });
    assert_eq!(record.apply(dismiss.clone()), Applied::Done);
    assert_eq!(record.apply(dismiss), Applied::Already);
    assert!(!record.operation.clients.contains_key("grafana"));
}

fn wishes() -> Vec<Operate> {
    vec![
        Operate::Pause(pause(Some(1_790_000_600_000))),
        Operate::Maintain { member: member("m3"), pause: pause(None) },
        Operate::Reinit { member: member("m2"), incarnation: Incarnation(0xa2) },
        Operate::Schedule(Scheduled { id: 12, due_unix_ms: 1_790_000_060_000, to: Some(member("m2")) }),
        Operate::Failover(Failover { id: 13, epoch: Epoch(1), to: Some(member("m2")) }),
    ]
}

/// Everything is asked for, the primary is lost, and a loss is accepted.
fn full_record() -> Record {
    let mut record = cluster::opened(&["m1", "m2", "m3"], OnCrash::Failover);
    cluster::apply(&mut record, Command::RaiseFormat { to: 2 });
    let lone = SyncSet::lone();
    let go_alone = Command::SetSync { epoch: Epoch(1), serial: 2, sync: lone.clone(), names: lone };
    cluster::apply(&mut record, go_alone);
    for wish in wishes() {
        cluster::apply(&mut record, Command::Operate(wish));
    }
    let voters = [member("m2"), member("m3")].into();
    cluster::apply(
        &mut record,
        Command::End { epoch: Epoch(1), cause: EndCause::Expired { voters, serial: 0 } },
    );
    cluster::report(&mut record, &member("m2"), Lsn(0x04FF_0000));
    cluster::apply(&mut record, Command::Operate(Operate::Force(forced())));
    record
}

#[test]
fn what_operators_ask_for_is_written_in_format_2() {
    let record = full_record();
    let missing = record.operation.forced.as_ref().map(|forced| forced.missing.clone());
    assert_eq!(missing, Some(Missing { bytes: 0x1_0800, unheard: vec![member("m1")] }));
    hold("record-2-operation.json", &record);
    let mut commands: Vec<Command> = wishes().into_iter().map(Command::Operate).collect();
    let rest = [
        Operate::Resume {},
        Operate::EndMaintenance { member: member("m3") },
        Operate::ForgetReinit { member: member("m2") },
        Operate::Due { id: 12, epoch: Epoch(1) },
        Operate::Withdraw { id: 12, why: "there was no primary".to_owned() },
        Operate::Force(forced()),
        Operate::AdmitClient { name: "grafana".to_owned(), client: client() },
        Operate::DismissClient { name: "grafana".to_owned() },
    ];
    commands.extend(rest.map(Command::Operate));
    assert!(commands.iter().all(|command| command.format() == 2));
    hold("commands-2-operation.json", &commands);
}

/// The ledger says for good that an opening was forced, and what was missing; nothing of it is in force any more.
#[test]
fn a_forced_opening_stands_in_the_ledger() {
    let mut record = full_record();
    cluster::grant(&mut record, &member("m2"));
    cluster::open(&mut record, Lsn(0x04FF_0000));
    let row = record.ledger.last().expect("opened");
    assert_eq!(row.forced, Some(Missing { bytes: 0x1_0800, unheard: vec![member("m1")] }));
    assert_eq!((record.operation.forced.clone(), record.operation.failover.clone()), (None, None));
    assert!(record.operation.reinit.is_empty(), "the primary is not copied anew");
    hold("record-2-forced.json", &record);
}
