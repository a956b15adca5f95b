//! What holds for every record and every view, tried on many that nobody thought of.

mod commands;
mod decisions;
mod leases;
mod lineages;
mod memberships;
mod records;
mod syncs;
mod views;
mod wishes;

use proptest::test_runner::{Config, RngSeed};

/// The same cases on every run: a failure is a bug, never bad luck.
fn cases(count: u32) -> Config {
    Config {
        cases: count,
        rng_seed: RngSeed::Fixed(20_261_121),
        failure_persistence: None,
        ..Config::default()
    }
}
