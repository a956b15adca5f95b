//! The members of the cluster as this member knows them: from the record; before it is read, from the last time that it
//! was; before that, from the configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mainstay_core::MemberId;
use mainstay_core::record::{Command, Member, Record};
use mainstay_net::KeyFingerprint;
use mainstay_postgres::durable::{self, Access, FileError};

use crate::configuration::Configuration;

/// Members by their names.
pub type Roster = BTreeMap<MemberId, Member>;

/// Where the newest one is kept: without it a member that starts would know neither whom to dial nor whom to let in.
pub fn file(directory: &Path) -> PathBuf {
    directory.join("state").join("members.json")
}

/// A roster that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} is damaged: {source}; copy it from another member's directory")]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// The roster that was kept; without one, what the file says.
pub fn load(configuration: &Configuration) -> Result<Roster, RosterError> {
    let path = file(&configuration.directory);
    match durable::read(&path)? {
        Some(text) => serde_json::from_slice(&text).map_err(|source| RosterError::Damaged { path, source }),
        None => Ok(of_file(configuration)),
    }
}

pub fn keep(directory: &Path, roster: &Roster, access: Access) -> Result<(), FileError> {
    let text = serde_json::to_vec_pretty(roster).expect("members are representable in JSON");
    durable::write(&file(directory), &text, access)?;
    Ok(())
}

/// The members that the configuration file lists: those of a cluster that is made by hand, or this one alone.
fn of_file(configuration: &Configuration) -> Roster {
    match configuration.create_command() {
        Command::Create { members, .. } => members,
        _ => unreachable!("create_command makes a Create"),
    }
}

/// The record's members, with what a record of format 1 lacks from the file. Of `kept`, the roster as it was, come keys that
/// are newer than the record's: a member that starts may see an older record first, and must not forget whom it has to let in.
pub(crate) fn of_record(record: &Record, configuration: &Configuration, kept: &Roster) -> Roster {
    let mut roster = record.members.clone();
    for (name, row) in &mut roster {
        keep_newer_keys(row, kept.get(name));
        row.http = row.http.or_else(|| configuration.members.get(name).map(|known| known.http));
    }
    roster
}

fn keep_newer_keys(row: &mut Member, kept: Option<&Member>) {
    let newer = |kept: &&Member| kept.raft_id == row.raft_id && kept.key_serial > row.key_serial;
    if let Some(kept) = kept.filter(newer) {
        row.key.clone_from(&kept.key);
        row.next_key.clone_from(&kept.next_key);
        row.key_serial = kept.key_serial;
    }
}

/// The newest change of a key that the roster shows.
pub(crate) fn key_serial(roster: &Roster) -> u64 {
    roster.values().map(|row| row.key_serial).max().unwrap_or(0)
}

/// The keys of everybody who is let in; two of a member that changes its own. A key that cannot be read is nobody's.
pub(crate) fn keys(roster: &Roster) -> Vec<(MemberId, KeyFingerprint)> {
    let of = |(name, row): (&MemberId, &Member)| {
        row.keys().filter_map(|key| Some((name.clone(), key.parse().ok()?))).collect::<Vec<_>>()
    };
    roster.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, next_key: Option<&str>, key_serial: u64, raft_id: u64) -> Member {
        let row = serde_json::json!({
            "kind": "witness", "votes": true, "raft_id": raft_id, "address": "192.0.2.1:7400", "postgres": null, "key": key,
            "priority": 0, "http": "192.0.2.1:7480", "next_key": next_key, "key_serial": key_serial,
        });
        serde_json::from_value(row).expect("a member")
    }

    #[test]
    fn both_keys_of_a_member_are_let_in_and_an_older_record_takes_none_away() {
        let name = MemberId::new("m1").expect("a name");
        let key = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let kept: Roster = [(name.clone(), row(&key("a"), Some(&key("b")), 4, 1))].into();
        let fingerprints: Vec<String> = keys(&kept).into_iter().map(|(_, key)| key.to_string()).collect();
        assert_eq!((fingerprints, key_serial(&kept)), (vec![key("a"), key("b")], 4));
        let merged = |record: Member| {
            let mut record = record;
            keep_newer_keys(&mut record, kept.get(&name));
            (record.key, record.next_key, record.key_serial)
        };
        assert_eq!(merged(row(&key("a"), None, 0, 1)), (key("a"), Some(key("b")), 4), "an older record");
        assert_eq!(merged(row(&key("b"), None, 5, 1)), (key("b"), None, 5), "a newer one");
        assert_eq!(merged(row(&key("c"), None, 0, 2)), (key("c"), None, 0), "another member of that name");
    }
}
