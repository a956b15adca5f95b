//! What operators have asked for and what it would take to go on without proof, as `status` shows it.

use std::collections::BTreeMap;

use mainstay_core::election::{self, Missing};
use mainstay_core::record::{Phase, Record};
use mainstay_core::view::View;
use mainstay_core::{Epoch, Incarnation, Lsn, MemberId, Timeline, lineage};
use serde::{Deserialize, Serialize};

use crate::facts::Facts;
use crate::status::Card;

/// What operators have asked for that is not done yet. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperationStatus {
    /// While the cluster is paused nobody is promoted and no PostgreSQL started by itself.
    pub pause: Option<PauseStatus>,
    /// Members that are neither promoted nor counted.
    pub maintenance: BTreeMap<MemberId, PauseStatus>,
    /// Members whose data is to be copied anew.
    pub reinit: Vec<MemberId>,
    pub scheduled: Option<ScheduledStatus>,
    /// A failover that was asked for and has not happened: its number.
    pub failover: Option<u64>,
    /// While there is no primary: what each data member is known to hold.
    pub holdings: Vec<Holding>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseStatus {
    pub by: String,
    pub since_unix_ms: u64,
    pub until_unix_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledStatus {
    pub id: u64,
    pub due_unix_ms: u64,
    pub to: Option<MemberId>,
}

/// What one data member has reported since the last epoch ended, and whether it could become the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    pub member: MemberId,
    /// The epoch that has ended.
    pub epoch: Epoch,
    /// `None`: it has not reported.
    pub incarnation: Option<Incarnation>,
    pub timeline: Option<Timeline>,
    /// Where its WAL ends.
    pub end: Option<Lsn>,
    /// How far it is behind the furthest position that anybody reported or was heard to hold.
    pub behind_bytes: Option<u64>,
    /// How long ago it was heard, in milliseconds; `None`: never by this member.
    pub heard_ms: Option<u64>,
    /// Whether it holds every acknowledged commit, by proof.
    pub proven: bool,
    /// What keeps it from being promoted, if anything.
    pub why: Option<String>,
    /// Whether an operator can have it promoted with `--accept-data-loss`.
    pub may_be_forced: bool,
    /// What would be missing then, as far as that is known.
    pub missing: Missing,
}

pub(crate) fn status(facts: &Facts, view: &View, own: &Card) -> OperationStatus {
    let record = &view.record;
    let operation = &record.operation;
    let pause = |pause: &mainstay_core::record::Pause| PauseStatus {
        by: pause.by.clone(),
        since_unix_ms: pause.since_unix_ms,
        until_unix_ms: pause.until_unix_ms,
    };
    OperationStatus {
        pause: operation.pause.as_ref().map(pause),
        maintenance: operation.maintenance.iter().map(|(name, row)| (name.clone(), pause(row))).collect(),
        reinit: operation.reinit.keys().cloned().collect(),
        scheduled: operation.scheduled.as_ref().map(|scheduled| ScheduledStatus {
            id: scheduled.id,
            due_unix_ms: scheduled.due_unix_ms,
            to: scheduled.to.clone(),
        }),
        failover: operation.failover.as_ref().map(|failover| failover.id),
        holdings: holdings(facts, view, own),
    }
}

/// The furthest that anybody was heard to hold of the newest timeline, also long ago.
pub(crate) fn furthest_heard(facts: &Facts, record: &Record, own: &Card) -> Lsn {
    let newest = record.lineage.last().map(|fork| fork.timeline);
    let cards = facts.peers.values().map(|(_, gossip)| &gossip.card).chain([own]);
    let inserted = cards.filter(|card| card.timeline == newest).filter_map(|card| card.inserted);
    let streaming = facts.peers.values().filter_map(|(_, gossip)| gossip.state.streaming);
    let flushed = streaming.filter(|s| Some(s.timeline) == newest).map(|streaming| streaming.flushed);
    inserted.chain(flushed).max().unwrap_or(Lsn::ZERO)
}

fn holdings(facts: &Facts, view: &View, own: &Card) -> Vec<Holding> {
    let record = &view.record;
    if !matches!(record.phase, Phase::Ended { .. }) {
        return Vec::new();
    }
    let heard = furthest_heard(facts, record, own);
    record.data_members().map(|member| holding(facts, view, member, heard)).collect()
}

fn holding(facts: &Facts, view: &View, member: &MemberId, heard: Lsn) -> Holding {
    let record = &view.record;
    let report = record.reports.get(member).filter(|report| report.epoch == record.epoch);
    let proof = report.map(|report| election::may_be_promoted(record, member, report.incarnation));
    let proven = proof.as_ref().is_some_and(Result::is_ok);
    let held_back = election::held_back(record, member).filter(|_| proven);
    let why = match &proof {
        None => Some("it has not reported what it holds; is it running?".to_owned()),
        Some(Err(why)) => Some(why.to_string()),
        Some(Ok(())) => held_back.map(|why| why.to_string()),
    };
    let ago = |at| u64::try_from(view.now.since(at).as_millis()).unwrap_or(u64::MAX);
    let others = || facts.peers.get(member).map(|(heard_at, _)| ago(*heard_at));
    let position = report.map(|report| lineage::compare(&record.lineage, &report.extent).position);
    let missing = report.map(|report| election::missing(record, report, heard)).unwrap_or_default();
    Holding {
        member: member.clone(),
        epoch: record.epoch,
        incarnation: report.map(|report| report.incarnation),
        timeline: report.map(|report| report.extent.timeline()),
        end: report.map(|report| report.extent.end),
        behind_bytes: position.map(|_| missing.bytes),
        heard_ms: if *member == view.me { Some(0) } else { others() },
        proven,
        may_be_forced: matches!(&proof, Some(Err(why)) if why.may_be_overridden()),
        why,
        missing,
    }
}

/// What of it a person must not overlook.
pub(crate) fn warnings(operation: &OperationStatus) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(pause) = &operation.pause {
        let (since, until) = (words(pause.since_unix_ms), until(pause));
        warnings.push(format!(
            "PAUSED by {} since {since}, {until}: no failover and no start of PostgreSQL by itself; go on with: mainstay resume",
            pause.by
        ));
    }
    for (member, pause) in &operation.maintenance {
        let (since, until) = (words(pause.since_unix_ms), until(pause));
        warnings.push(format!(
            "{member} is in maintenance by {} since {since}, {until}; end it with: mainstay maintenance {member} --off",
            pause.by
        ));
    }
    for member in &operation.reinit {
        warnings.push(format!("the data of {member} is to be thrown away and copied anew"));
    }
    if let Some(scheduled) = &operation.scheduled {
        let to = scheduled.to.as_ref().map_or("the best standby", MemberId::as_str);
        let due = words(scheduled.due_unix_ms);
        warnings.push(format!(
            "a switchover to {to} is due at {due}; take it back with: mainstay switchover --cancel"
        ));
    }
    warnings
}

fn until(pause: &PauseStatus) -> String {
    pause
        .until_unix_ms
        .map_or_else(|| "until it is ended".to_owned(), |until| format!("until {}", words(until)))
}

/// A time as people write it, RFC 3339 in UTC.
pub fn words(unix_ms: u64) -> String {
    let (days, seconds) = (unix_ms / 86_400_000, unix_ms / 1_000 % 86_400);
    let (year, month, day) = civil(i64::try_from(days).unwrap_or(i64::MAX / 2));
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The date of a day since 1970-01-01, by Howard Hinnant's `civil_from_days`: years that begin in March have their leap day
/// at the end.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn times_are_written_as_people_do() {
        assert_eq!(words(0), "1970-01-01T00:00:00Z");
        assert_eq!(words(951_826_554_000), "2000-02-29T12:15:54Z");
        assert_eq!(words(1_790_000_000_000), "2026-09-21T14:13:20Z");
    }
}
