//! What is counted.

use std::collections::BTreeMap;

use super::super::Value;
use crate::counters::{During, Totals};
use crate::snapshot::Snapshot;

pub(super) const STATS: &[&str] = &[
    "database",
    "total_server_assignment_count",
    "total_xact_count",
    "total_query_count",
    "total_received",
    "total_sent",
    "total_xact_time",
    "total_query_time",
    "total_wait_time",
    "total_client_parse_count",
    "total_server_parse_count",
    "total_bind_count",
    "avg_server_assignment_count",
    "avg_xact_count",
    "avg_query_count",
    "avg_recv",
    "avg_sent",
    "avg_xact_time",
    "avg_query_time",
    "avg_wait_time",
    "avg_client_parse_count",
    "avg_server_parse_count",
    "avg_bind_count",
    "total_client_login_count",
    "total_servers_lost",
];
pub(super) const STATS_TOTALS: &[&str] = &[
    "database",
    "server_assignment_count",
    "xact_count",
    "query_count",
    "bytes_received",
    "bytes_sent",
    "xact_time",
    "query_time",
    "wait_time",
    "client_parse_count",
    "server_parse_count",
    "bind_count",
];

/// In the order of the columns.
pub(super) fn counts(totals: Totals) -> Vec<u64> {
    vec![
        totals.assigned,
        totals.transactions,
        totals.queries,
        totals.received_bytes,
        totals.sent_bytes,
        totals.transactions_us,
        totals.queries_us,
        totals.waited_us,
        totals.client_parses,
        totals.server_parses,
        totals.binds,
    ]
}

/// By the second, but for the times of transactions and queries: these are of one each.
pub(super) fn averages(During { counted, length }: During) -> Vec<u64> {
    let micros = length.as_micros().max(1);
    let by_second = |count: u64| u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX);
    let mut averages: Vec<u64> = counts(counted).into_iter().map(by_second).collect();
    averages[5] = counted.transactions_us.checked_div(counted.transactions).unwrap_or(0);
    averages[6] = counted.queries_us.checked_div(counted.queries).unwrap_or(0);
    averages
}

pub(super) fn stats(totals: Totals, recent: During) -> Vec<u64> {
    let mut row = counts(totals);
    row.extend(averages(recent));
    row.extend([totals.logins, totals.lost]);
    row
}

/// One row for each database, of all its users.
pub(super) fn by_database(seen: &Snapshot, row: impl Fn(Totals, During) -> Vec<u64>) -> Vec<Vec<Value>> {
    let mut sums: BTreeMap<String, (Totals, During)> = BTreeMap::new();
    for pool in &seen.pools {
        let (totals, recent) = sums.entry(pool.whose.name()).or_default();
        *totals = totals.plus(pool.totals);
        recent.add(pool.recent);
    }
    let row = |(name, (totals, recent)): (String, (Totals, During))| {
        std::iter::once(name.into()).chain(row(totals, recent).into_iter().map(Value::from)).collect()
    };
    sums.into_iter().map(row).collect()
}

pub(super) fn totals(seen: &Snapshot) -> Vec<Vec<Value>> {
    let sum = seen.pools.iter().fold(Totals::default(), |sum, pool| sum.plus(pool.totals));
    let names = STATS[1..].iter().map(|name| Value::from(*name));
    names.zip(counts(sum)).map(|(name, count)| vec![name, count.into()]).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_column_has_its_value() {
        let totals = Totals::default();
        assert_eq!(1 + stats(totals, During::default()).len(), STATS.len());
        assert_eq!(1 + counts(totals).len(), STATS_TOTALS.len());
    }

    #[test]
    fn averages_are_by_the_second_or_of_one() {
        let counted = Totals { queries: 40, queries_us: 4_000, sent_bytes: 100, ..Totals::default() };
        let row = averages(During { counted, length: Duration::from_secs(20) });
        assert_eq!((row[2], row[4], row[6]), (2, 5, 100));
    }
}
