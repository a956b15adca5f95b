//! The keys by which members know each other, and how one is changed while the cluster runs.
//!
//! A change is two entries. [`Command::AcceptKey`](super::Command::AcceptKey) makes the new key count beside the old one. The
//! member shows it only once *every* other member has said that it has the entry on its disk: one that does not know the new key
//! would refuse a member that shows nothing else, and could not be told by it. Then
//! [`Command::DropKey`](super::Command::DropKey) ends what the old key was good for. Only the member itself proposes either, and
//! asks for another next key only if it can show the one before no more; the serial keeps out what comes late.

use super::{Applied, Member, Record, Refusal};
use crate::vocabulary::MemberId;

type Result = std::result::Result<Applied, Refusal>;

impl Member {
    /// The keys that are accepted as its own.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        [Some(self.key.as_str()), self.next_key.as_deref()].into_iter().flatten()
    }

    pub fn has_key(&self, key: &str) -> bool {
        self.keys().any(|own| own == key)
    }
}

impl Record {
    pub(super) fn accept_key(&mut self, member: MemberId, key: String, serial: u64) -> Result {
        let Some(row) = self.members.get(&member) else { return Err(Refusal::NotAMember(member)) };
        if row.next_key.as_ref() == Some(&key) {
            return Ok(Applied::Already);
        }
        if row.key_serial != serial {
            return Err(Refusal::OtherKeys(member));
        }
        let given_up =
            self.membership.left_behind.iter().find(|left| left.key == key).map(|left| &left.member);
        let taken = self.members.iter().find(|(_, row)| row.has_key(&key)).map(|(name, _)| name).or(given_up);
        if let Some(taken) = taken {
            return Err(Refusal::KeyTaken(taken.clone()));
        }
        self.change_keys(&member, |row| row.next_key = Some(key))
    }

    pub(super) fn drop_key(&mut self, member: &MemberId, serial: u64) -> Result {
        let Some(row) = self.members.get(member) else { return Err(Refusal::NotAMember(member.clone())) };
        if row.key_serial != serial {
            return Err(Refusal::OtherKeys(member.clone()));
        }
        let Some(next) = row.next_key.clone() else { return Ok(Applied::Already) };
        self.change_keys(member, |row| (row.key, row.next_key) = (next, None))
    }

    fn change_keys(&mut self, member: &MemberId, change: impl FnOnce(&mut Member)) -> Result {
        let Some(row) = self.members.get_mut(member) else { return Err(Refusal::NotAMember(member.clone())) };
        self.membership.key_changes += 1;
        row.key_serial = self.membership.key_changes;
        change(row);
        Ok(Applied::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, Kind};
    use super::*;

    fn member(name: &str) -> MemberId {
        MemberId::new(name).expect("a name")
    }

    fn row(raft_id: u64) -> Member {
        Member {
            kind: Kind::Witness,
            votes: true,
            raft_id,
            address: "192.0.2.1:7400".parse().expect("an address"),
            postgres: None,
            key: format!("key {raft_id}"),
            priority: 0,
            http: None,
            leaving: false,
            next_key: None,
            key_serial: 0,
        }
    }

    fn record() -> Record {
        let members = ["m1", "m2"].map(member).into_iter().zip(1..).map(|(name, id)| (name, row(id)));
        Record { format: 3, members: members.collect(), ..Record::default() }
    }

    fn accept(record: &mut Record, name: &str, key: &str, serial: u64) -> Applied {
        record.apply(Command::AcceptKey { member: member(name), key: key.to_owned(), serial })
    }

    fn drop_key(record: &mut Record, name: &str, serial: u64) -> Applied {
        record.apply(Command::DropKey { member: member(name), serial })
    }

    #[test]
    fn both_keys_count_until_the_old_one_is_dropped_and_what_comes_late_does_nothing() {
        let mut record = record();
        assert_eq!(accept(&mut record, "m1", "new", 0), Applied::Done);
        assert_eq!(accept(&mut record, "m1", "new", 0), Applied::Already);
        assert_eq!(record.members[&member("m1")].keys().collect::<Vec<_>>(), ["key 1", "new"]);
        assert_eq!(drop_key(&mut record, "m1", 0), Applied::Refused(Refusal::OtherKeys(member("m1"))));
        assert_eq!(drop_key(&mut record, "m1", 1), Applied::Done);
        assert_eq!(record.members[&member("m1")].keys().collect::<Vec<_>>(), ["new"]);
        // The old key comes back by no proposal that was under way.
        for serial in [0, 1] {
            let late = accept(&mut record, "m1", "key 1", serial);
            assert_eq!(late, Applied::Refused(Refusal::OtherKeys(member("m1"))));
            assert_eq!(
                drop_key(&mut record, "m1", serial),
                Applied::Refused(Refusal::OtherKeys(member("m1")))
            );
        }
        assert_eq!(accept(&mut record, "m2", "other", 0), Applied::Done);
        assert_eq!(record.members[&member("m2")].key_serial, 3, "one count for all members");
        assert_eq!(record.members[&member("m1")].key_serial, 2);
    }

    #[test]
    fn a_key_is_one_members_and_a_next_key_that_cannot_be_shown_is_exchanged() {
        let mut record = record();
        assert_eq!(accept(&mut record, "m1", "lost", 0), Applied::Done);
        for taken in ["key 2", "key 1"] {
            let refused = accept(&mut record, "m1", taken, 1);
            assert!(matches!(refused, Applied::Refused(Refusal::KeyTaken(_))), "{refused:?}");
        }
        let refused = accept(&mut record, "m2", "lost", 0);
        assert_eq!(refused, Applied::Refused(Refusal::KeyTaken(member("m1"))));
        assert_eq!(accept(&mut record, "m1", "another", 1), Applied::Done);
        assert_eq!(record.members[&member("m1")].keys().collect::<Vec<_>>(), ["key 1", "another"]);
        let stranger = accept(&mut record, "m9", "x", 0);
        assert_eq!(stranger, Applied::Refused(Refusal::NotAMember(member("m9"))));
    }

    #[test]
    fn nothing_of_it_is_written_in_an_older_format() {
        let mut record = Record { format: 2, ..record() };
        assert_eq!(accept(&mut record, "m1", "new", 0), Applied::Refused(Refusal::OldFormat));
        let written = serde_json::to_string(&record).expect("JSON");
        assert!(!written.contains("next_key") && !written.contains("key_"), "{written}");
        record.membership.next_raft_id = 7;
        assert_eq!(record.apply(Command::RaiseFormat { to: 3 }), Applied::Done);
        assert_eq!(record.membership.next_raft_id, 7, "no id is given twice");
    }
}
