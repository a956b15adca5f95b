//! The end of every story: each acknowledged row is there exactly once, and every member holds the same rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::tally::{History, Outcome};
use crate::{clock, interrupt, pgbench, sql};

const SQL_PATIENCE: Duration = Duration::from_secs(30);
/// After everything a member of a healthy cluster replays within milliseconds; on a busy machine within seconds.
const REPLAY_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What a client's history says against what is in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub acknowledged: usize,
    /// Acknowledged, and not there: the first of them.
    pub lost: BTreeSet<i64>,
    pub duplicated: BTreeSet<i64>,
    /// Refused, yet there: a client that tries again would have it twice.
    pub failed_but_present: usize,
    /// Without an answer, and there.
    pub unknown_and_present: usize,
    pub unknown: usize,
    pub failed: usize,
}

impl Verdict {
    /// `counts`: how often each id is in the table.
    pub fn of(history: &History, counts: &BTreeMap<i64, i64>) -> Verdict {
        let mut verdict = Verdict { duplicated: twice(counts), ..Verdict::default() };
        for attempt in &history.attempts {
            let is_there = counts.contains_key(&attempt.id);
            match attempt.outcome {
                Outcome::Acknowledged => {
                    verdict.acknowledged += 1;
                    if !is_there {
                        verdict.lost.insert(attempt.id);
                    }
                }
                Outcome::Failed => {
                    verdict.failed += 1;
                    verdict.failed_but_present += usize::from(is_there);
                }
                Outcome::Unknown => {
                    verdict.unknown += 1;
                    verdict.unknown_and_present += usize::from(is_there);
                }
            }
        }
        verdict
    }

    pub fn errors(&self) -> usize {
        self.failed + self.unknown
    }

    pub fn is_good(&self) -> bool {
        self.lost.is_empty() && self.duplicated.is_empty()
    }
}

fn twice(counts: &BTreeMap<i64, i64>) -> BTreeSet<i64> {
    counts.iter().filter(|(_, count)| **count > 1).map(|(id, _)| *id).collect()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged, {} errors, {} lost, {} duplicated",
            self.acknowledged,
            self.errors(),
            self.lost.len(),
            self.duplicated.len()
        )?;
        if self.failed_but_present > 0 {
            write!(f, ", {} failed but present", self.failed_but_present)?;
        }
        Ok(())
    }
}

/// Looks at the client's rows on the present primary.
pub fn rows(cluster: &Cluster, number: i64, history: &History) -> Result<Verdict> {
    let primary = cluster.primary().context("nobody is the primary: the rows cannot be looked up")?;
    let statement = format!("SELECT id, count(*) FROM lab_writes WHERE client = {number} GROUP BY id");
    let rows = sql::query(&sql::application(&primary.site), &statement, SQL_PATIENCE)?;
    let mut counts = BTreeMap::new();
    for row in rows {
        match row.as_slice() {
            [id, count] => counts.insert(id.parse::<i64>()?, count.parse::<i64>()?),
            _ => bail!("the table answers another form"),
        };
    }
    Ok(Verdict::of(history, &counts))
}

/// Every data member that streams has replayed what the primary has, and then holds the same.
///
/// A member that follows another history than it says would show here.
pub fn same_everywhere(cluster: &Cluster) -> Result<()> {
    let primary = cluster.primary().context("nobody is the primary")?;
    let on_primary = sql::administration(&primary.site);
    let summary = |config: &tokio_postgres::Config| -> Result<Vec<Vec<String>>> {
        let rows = "SELECT count(*), sum(hashint8extended(id, client)) FROM lab_writes";
        let mut all = sql::query(config, rows, SQL_PATIENCE)?;
        if cluster.has_pgbench {
            all.extend(sql::query(config, pgbench::SUMS, SQL_PATIENCE)?);
        }
        Ok(all)
    };
    let expected = summary(&on_primary)?;
    if let Some(sums) = expected.get(1)
        && sums.iter().any(|sum| *sum != sums[0])
    {
        bail!("pgbench's sums differ on {}: {sums:?}: a transaction was done by halves", primary.name());
    }
    let end = sql::query(&on_primary, "SELECT pg_current_wal_insert_lsn()", SQL_PATIENCE)?;
    let end = end.first().and_then(|row| row.first()).context("the primary tells no position")?.clone();
    // One that was replaced has what it had.
    let rows = cluster.status().map(|status| status.members).unwrap_or_default();
    let belongs = |name: &str| rows.iter().any(|row| row.name.as_str() == name);
    let others = cluster.data_members().filter(|member| member.name() != primary.name());
    for member in others.filter(|member| belongs(member.name())) {
        let config = sql::administration(&member.site);
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        let deadline = clock::now().plus(REPLAY_PATIENCE);
        let arrived = interrupt::wait_until(deadline, LOOK_INTERVAL, || {
            let rows = sql::query(&config, &replayed, SQL_PATIENCE).ok()?;
            (rows.first()?.first()? == "t").then_some(())
        })?;
        if arrived.is_none() {
            bail!("{} has not replayed up to {end} within {REPLAY_PATIENCE:?}", member.name());
        }
        let found = summary(&config)?;
        if found != expected {
            bail!("{} holds {found:?}, but {} holds {expected:?}", member.name(), primary.name());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Attempt;
    use mainstay_core::Now;

    #[test]
    fn lost_duplicated_and_failed_but_present_are_told_apart() {
        let attempt =
            |id, outcome| Attempt { id, begun: Now(0), ended: Now(1), outcome, error: None, code: None };
        let history = History {
            attempts: vec![
                attempt(1, Outcome::Acknowledged),
                attempt(2, Outcome::Acknowledged),
                attempt(3, Outcome::Failed),
                attempt(4, Outcome::Unknown),
                attempt(5, Outcome::Acknowledged),
            ],
            connected: Vec::new(),
        };
        let verdict = Verdict::of(&history, &BTreeMap::from([(1, 1), (2, 2), (3, 1), (4, 1)]));
        assert_eq!(verdict.lost, BTreeSet::from([5]));
        assert_eq!(verdict.duplicated, BTreeSet::from([2]));
        assert_eq!((verdict.failed_but_present, verdict.unknown_and_present), (1, 1));
        assert!(!verdict.is_good());
        assert_eq!(
            verdict.to_string(),
            "3 acknowledged, 2 errors, 1 lost, 1 duplicated, 1 failed but present"
        );
    }
}
