//! PostgreSQL's parameters and `pg_hba.conf` lines for the whole cluster.
//!
//! The record keeps what an operator wants; what each member writes follows from it and from the member's own file. A change
//! is a whole new set and names the one that it was made from: of two editors who began from the same set one is refused.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Applied, Record, Refusal};
use crate::vocabulary::MemberId;

/// How many changes can be looked at and rolled back to.
const HISTORY: usize = 20;
/// The longest set, all names and values together: it is copied with every snapshot, once for each change in the history.
const MOST_BYTES: usize = 16 * 1024;

/// Names, in lower case, and values as they stand in `postgresql.conf`.
pub type Values = BTreeMap<String, String>;

/// What the record keeps of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Parameters {
    /// Counts the changes.
    pub serial: u64,
    pub set: ParameterSet,
    /// The newest changes, the oldest first; the last one made `set`.
    pub history: VecDeque<ParameterChange>,
}

/// What is wanted of every member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterSet {
    /// Of every member.
    #[serde(default)]
    pub shared: Values,
    /// Of the primary alone, over `shared`.
    #[serde(default)]
    pub primary: Values,
    /// Of each standby, over `shared`.
    #[serde(default)]
    pub standby: Values,
    /// Of single members, over all of these.
    #[serde(default)]
    pub members: BTreeMap<MemberId, Values>,
    /// Lines of `pg_hba.conf` for applications, behind those of a member's own file.
    #[serde(default)]
    pub hba: Vec<String>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ParameterChange {
    pub serial: u64,
    /// Milliseconds since 1970 by the wall clock of the member that was asked.
    pub at_unix_ms: u64,
    /// The system user that asked, and at which member.
    pub by: String,
    /// The set that it made.
    pub set: ParameterSet,
}

impl Parameters {
    pub(super) fn is_default(&self) -> bool {
        *self == Parameters::default()
    }

    /// The set that the change with this number made; 0 is the empty one.
    pub fn at(&self, serial: u64) -> Option<ParameterSet> {
        if serial == 0 {
            return Some(ParameterSet::default());
        }
        self.history.iter().find(|change| change.serial == serial).map(|change| change.set.clone())
    }
}

impl ParameterSet {
    /// What is wanted of `member` in its role: a member's own value over its role's, over everybody's.
    pub fn of(&self, member: &MemberId, is_primary: bool) -> Values {
        let role = if is_primary { &self.primary } else { &self.standby };
        let own = self.members.get(member).into_iter().flatten();
        let layers = self.shared.iter().chain(role).chain(own);
        layers.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn bytes(&self) -> usize {
        let of = |values: &Values| values.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let members: usize = self.members.values().map(of).sum();
        let lines: usize = self.hba.iter().map(String::len).sum();
        of(&self.shared) + of(&self.primary) + of(&self.standby) + members + lines
    }
}

impl Record {
    pub(super) fn change_parameters(
        &mut self,
        serial: u64,
        set: ParameterSet,
        by: String,
        at_unix_ms: u64,
    ) -> Result<Applied, Refusal> {
        if self.parameters.set == set {
            return Ok(Applied::Already);
        }
        if serial != self.parameters.serial {
            return Err(Refusal::OtherParameters { now: self.parameters.serial });
        }
        if let Some(stranger) = set.members.keys().find(|member| !self.members.contains_key(*member)) {
            return Err(Refusal::NotAMember(stranger.clone()));
        }
        if set.bytes() > MOST_BYTES {
            return Err(Refusal::TooManyParameters { bytes: set.bytes(), most: MOST_BYTES });
        }
        let serial = serial + 1;
        self.parameters.serial = serial;
        self.parameters.set = set.clone();
        self.parameters.history.push_back(ParameterChange { serial, at_unix_ms, by, set });
        if self.parameters.history.len() > HISTORY {
            self.parameters.history.pop_front();
        }
        Ok(Applied::Done)
    }

    /// A member that is gone has no values of its own; one that comes later under its name is another one.
    pub(super) fn forget_parameters_of(&mut self, member: &MemberId) {
        self.parameters.set.members.remove(member);
    }
}
