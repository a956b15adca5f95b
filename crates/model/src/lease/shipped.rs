//! What the shipped rules are given: the records that the log leads to, and what a member sees that ends an epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_core::record::{Applied, Command, EndCause, Kind, Member, Record, Report, Settings};
use mainstay_core::view::{Directory, Health, RunOut, Server, View};
use mainstay_core::{Epoch, Incarnation, Lsn, MemberId, Now};

/// Granted, ended, granted to the next, ended: by the shipped commands.
pub(super) fn records(names: &[MemberId], lease_ms: u64) -> Vec<Arc<Record>> {
    let row = Member {
        kind: Kind::Data,
        votes: true,
        raft_id: 1,
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
        postgres: None,
        key: String::new(),
        priority: 0,
        http: None,
        leaving: false,
        next_key: None,
        key_serial: 0,
    };
    let members: BTreeMap<MemberId, Member> = names.iter().map(|name| (name.clone(), row.clone())).collect();
    let settings = Settings { lease_ms, ..Settings::default() };
    let (member, incarnation) = (names[0].clone(), Incarnation(1));
    let mut record = Record::default();
    record.apply(Command::Create { cluster: "model".to_owned(), settings, members });
    record.apply(Command::Found { member: member.clone(), incarnation, system_identifier: 1 });
    let mut records = Vec::new();
    for epoch in [1, 2] {
        let report = Report {
            epoch: Epoch(epoch - 1),
            incarnation,
            extent: mainstay_core::lineage::Extent { history: record.lineage.clone(), end: Lsn(1) },
            replayed: Lsn(1),
            unfit: None,
        };
        record.apply(Command::Report { member: member.clone(), report });
        let holder = member.clone();
        let granted = record.apply(Command::Grant { epoch: Epoch(epoch), holder, incarnation, request: 1 });
        assert_eq!(granted, Applied::Done, "the records of the model could not be made");
        records.push(Arc::new(record.clone()));
        record.apply(Command::End { epoch: Epoch(epoch), cause: EndCause::Crashed });
        records.push(Arc::new(record.clone()));
    }
    records
}

/// All that the rule of the expired lease looks at.
pub(crate) fn witness_view(me: &MemberId, record: Arc<Record>, run_out: RunOut) -> View {
    View {
        now: Now::from_millis(1_000_000),
        unix_ms: 0,
        me: me.clone(),
        leads: false,
        confirmed: Some(record.epoch),
        record,
        sealed: Epoch(0),
        directory: Directory::Absent,
        server: Server::Down { last_opened: None },
        scan: None,
        upstream: None,
        lease: None,
        run_out,
        names: None,
        gate_open: false,
        checkpointed: None,
        health: Health::default(),
        walsenders: Vec::new(),
        peers: BTreeMap::new(),
        job: None,
        upkeep: None,
        restart: Default::default(),
        stopped_for: None,
        addresses_until: None,
        failures: Vec::new(),
    }
}
