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

/// The record's members, with what a record of format 1 lacks from the file.
pub(crate) fn of_record(record: &Record, configuration: &Configuration) -> Roster {
    let mut roster = record.members.clone();
    for (name, row) in &mut roster {
        row.http = row.http.or_else(|| configuration.members.get(name).map(|known| known.http));
    }
    roster
}

/// The keys of everybody who is let in. A key that cannot be read is nobody's.
pub(crate) fn keys(roster: &Roster) -> BTreeMap<MemberId, KeyFingerprint> {
    roster.iter().filter_map(|(name, row)| Some((name.clone(), row.key.parse().ok()?))).collect()
}
