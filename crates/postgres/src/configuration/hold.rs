//! Parameters that a standby must not have lower than its primary.
//!
//! PostgreSQL refuses to start a standby with less of these than `pg_control` says, and a standby that runs with less pauses
//! its replay. `pg_control` has the primary's values as far as they were replayed, so a member keeps to them.

use std::collections::BTreeMap;

use super::parameters;

/// With PostgreSQL's own defaults.
pub const LEAST_OF_A_STANDBY: [(&str, u64); 5] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_wal_senders", 10),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
];

/// A parameter whose lower value waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub name: &'static str,
    pub wanted: u64,
    pub kept: u64,
}

/// Raises in `parameters` what is below `least`, and says what it has raised.
pub fn hold(parameters: &mut BTreeMap<String, String>, least: &BTreeMap<&'static str, u64>) -> Vec<Held> {
    let mut held = Vec::new();
    for (name, default) in LEAST_OF_A_STANDBY {
        let own =
            parameters::defaults().find(|(own, _)| *own == name).and_then(|(_, value)| value.parse().ok());
        let wanted = match parameters.get(name).map(|value| value.trim().parse::<u64>()) {
            Some(Ok(wanted)) => wanted,
            Some(Err(_)) => continue,
            None => own.unwrap_or(default),
        };
        if let Some(kept) = least.get(name).copied().filter(|kept| *kept > wanted) {
            parameters.insert(name.to_owned(), kept.to_string());
            held.push(Held { name, wanted, kept });
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_values_wait_for_the_primary_and_higher_ones_do_not() {
        let least =
            BTreeMap::from([("max_connections", 100), ("max_wal_senders", 20), ("max_worker_processes", 12)]);
        let mut parameters = BTreeMap::from([
            ("max_connections".to_owned(), "50".to_owned()),
            ("max_wal_senders".to_owned(), "30".to_owned()),
        ]);
        let held = hold(&mut parameters, &least);
        let names: Vec<_> = held.iter().map(|held| (held.name, held.wanted, held.kept)).collect();
        assert_eq!(names, [("max_connections", 50, 100), ("max_worker_processes", 8, 12)]);
        assert_eq!(parameters["max_connections"], "100");
        assert_eq!(parameters["max_wal_senders"], "30");
        assert_eq!(parameters["max_worker_processes"], "12");
    }
}
