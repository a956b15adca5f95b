//! Members come and go in any order, beside anything else that is proposed: what must never happen to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use mainstay_core::MemberId;
use mainstay_core::record::{Applied, Command, Invitation, Joining, Kind, Member, OnCrash, Record};
use proptest::prelude::*;

use super::cases;
use super::commands::{Draft, any_draft, command};
use crate::cluster;
use crate::notation::member;

const NAMES: [&str; 6] = ["m1", "m2", "m3", "m4", "m5", "w"];

/// What is proposed about the members; mostly it fits the record.
#[derive(Clone, Debug)]
enum Proposal {
    Invite { id: u8, kind: Kind, named: Option<usize>, replaces: Option<usize> },
    Revoke(u8),
    Join { id: u8, kind: Kind, name: usize, key: u8, port: u16 },
    Leave(usize),
    Remove(usize),
    SetVoters { stale: u64, voters: BTreeSet<usize> },
    Settle { stale: u64 },
    Other(Draft),
}

fn any_proposal() -> impl Strategy<Value = Proposal> {
    let name = || 0..NAMES.len();
    let kind = || prop_oneof![3 => Just(Kind::Data), 1 => Just(Kind::Witness)];
    let stale = || prop_oneof![6 => Just(0u64), 1 => Just(1u64)];
    prop_oneof![
        4 => (0u8..4, kind(), prop::option::weighted(0.2, name()), prop::option::weighted(0.3, name()))
            .prop_map(|(id, kind, named, replaces)| Proposal::Invite { id, kind, named, replaces }),
        1 => (0u8..4).prop_map(Proposal::Revoke),
        6 => (0u8..4, kind(), name(), 0u8..8, 1u16..12)
            .prop_map(|(id, kind, name, key, port)| Proposal::Join { id, kind, name, key, port }),
        3 => name().prop_map(Proposal::Leave),
        4 => name().prop_map(Proposal::Remove),
        4 => (stale(), prop::collection::btree_set(name(), 0..4))
            .prop_map(|(stale, voters)| Proposal::SetVoters { stale, voters }),
        3 => stale().prop_map(|stale| Proposal::Settle { stale }),
        4 => any_draft().prop_map(Proposal::Other),
    ]
}

fn joining(id: u8, kind: Kind, name: usize, key: u8, port: u16) -> Joining {
    let at = |port: u16| SocketAddr::from(([192, 0, 2, 77], port));
    Joining {
        invitation: id.to_string(),
        secret_sha256: "ab".to_owned(),
        member: member(NAMES[name]),
        row: Member {
            kind,
            votes: true,
            raft_id: 1,
            address: at(port),
            postgres: (kind == Kind::Data).then(|| at(port + 1)),
            key: format!("key {key}"),
            priority: 100,
            http: None,
            leaving: true,
            next_key: Some("key nobody".to_owned()),
            key_serial: 9,
        },
        at_unix_ms: 10,
    }
}

fn proposed(record: &Record, proposal: Proposal) -> Command {
    let named = |name: usize| member(NAMES[name]);
    let serial = |stale: u64| record.membership.serial.saturating_sub(stale);
    match proposal {
        Proposal::Invite { id, kind, named: to, replaces } => Command::Invite {
            invitation: Invitation {
                id: id.to_string(),
                secret_sha256: "ab".to_owned(),
                kind,
                member: to.map(named),
                replaces: replaces.map(named),
                expires_at_unix_ms: 20,
                used_by: None,
            },
            at_unix_ms: 10,
        },
        Proposal::Revoke(id) => Command::Revoke { id: id.to_string() },
        Proposal::Join { id, kind, name, key, port } => Command::Join(joining(id, kind, name, key, port)),
        Proposal::Leave(name) => Command::Leave { member: named(name) },
        Proposal::Remove(name) => Command::Remove { member: named(name) },
        Proposal::SetVoters { stale, voters } => {
            Command::SetVoters { serial: serial(stale), voters: voters.into_iter().map(named).collect() }
        }
        Proposal::Settle { stale } => Command::SettleVoters { serial: serial(stale) },
        Proposal::Other(draft) => command(record, draft),
    }
}

/// What is true of the members of every record.
fn check_members(record: &Record) {
    assert!(record.voters().next().is_some(), "nobody votes");
    assert!(record.staying_data_members() > 0, "no data member stays");
    assert!(record.outgoing().all(|voter| record.members.contains_key(voter)));
    if let Some(tenure) = record.newest_tenure() {
        assert!(record.members.contains_key(&tenure.holder), "the holder is no member");
        let counted = tenure.sync.voters.iter().chain(&tenure.names.voters);
        for voter in counted {
            assert!(record.members.contains_key(&voter.member), "{voter:?} is counted and no member");
        }
    }
    let mut keys = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    let mut raft_ids = BTreeSet::new();
    for row in record.members.values() {
        assert!(keys.insert(&row.key) && raft_ids.insert(row.raft_id));
        for address in [Some(row.address), row.postgres, row.http].into_iter().flatten() {
            assert!(addresses.insert(address), "{address} is used twice");
        }
        assert!(row.raft_id < record.membership.next_raft_id);
    }
}

/// Who has ever been a member: the name, the key and the Raft id are those of one machine.
#[derive(Default)]
struct Seen {
    raft_ids: BTreeMap<u64, (MemberId, String)>,
}

impl Seen {
    fn take(&mut self, record: &Record) {
        for (name, row) in &record.members {
            let machine = (name.clone(), row.key.clone());
            let first = self.raft_ids.entry(row.raft_id).or_insert_with(|| machine.clone());
            assert_eq!(*first, machine, "Raft id {} was given twice", row.raft_id);
        }
    }
}

proptest! {
    #![proptest_config(cases(2048))]

    #[test]
    fn members_come_and_go_and_nothing_that_rests_on_them_breaks(
        proposals in prop::collection::vec(any_proposal(), 1..80),
    ) {
        let mut record = cluster::opened(&["m1", "m2", "m3"], OnCrash::Failover);
        cluster::apply(&mut record, Command::RaiseFormat { to: 2 });
        let mut seen = Seen::default();
        seen.take(&record);
        for proposal in proposals {
            let before = record.clone();
            let next = proposed(&record, proposal);
            let applied = record.apply(next.clone());
            if applied != Applied::Done {
                prop_assert_eq!(&before, &record, "{:?} changed the record and said {:?}", next, applied);
            }
            if let (Command::Join(joining), Applied::Done) = (&next, &applied) {
                // It is used up by the first: whoever comes next with it is refused, under any name.
                let mut again = joining.clone();
                (again.member, again.row.key) = (member("late"), "another".to_owned());
                let refused = record.clone().apply(Command::Join(again));
                prop_assert!(matches!(refused, Applied::Refused(_)), "{:?}", refused);
                let row = &record.members[&joining.member];
                prop_assert!(!row.votes && !row.leaving);
            }
            let serials = (before.membership.serial, record.membership.serial);
            let changed = before.voters().ne(record.voters());
            prop_assert_eq!(serials.1 - serials.0, u64::from(changed), "each change of the voters counts");
            check_members(&record);
            seen.take(&record);
        }
    }
}
