//! What is shipped keeps every invariant, and a seed says all.

#![allow(clippy::disallowed_methods, reason = "how many seeds is asked of the environment")]

use mainstay_sim::{Config, Options, run, run_many};

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn how_many_seeds() -> u64 {
    match std::env::var("MAINSTAY_SIM_SEEDS") {
        Ok(text) => text.parse().expect("MAINSTAY_SIM_SEEDS is a number"),
        Err(_) => 300,
    }
}

#[test]
fn no_seed_violates_an_invariant() {
    let seeds = how_many_seeds();
    let options = Options { from: 1, seeds, config: Config::default(), threads: threads() };
    let (failed, totals) = run_many(&options);
    let told: Vec<String> = failed
        .iter()
        .map(|report| format!("reproduce: cargo xtask sim --seed {}: {:?}", report.seed, report.violation))
        .collect();
    assert!(failed.is_empty(), "{}", told.join("\n"));
    // A world in which nothing happens proves nothing.
    assert_eq!(totals.runs, seeds);
    assert!(totals.openings > 3 * seeds && totals.acknowledged > 300 * seeds, "{totals:?}");
}

#[test]
fn without_faults_the_first_primary_stays() {
    let config = Config { faults: false, seconds: 120, ..Config::default() };
    let (failed, totals) = run_many(&Options { from: 1, seeds: 30, config, threads: threads() });
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!((totals.openings, totals.runs), (30, 30));
}

#[test]
fn two_runs_of_a_seed_are_the_same_to_the_last_byte() {
    let config = Config { trace: true, ..Config::default() };
    for seed in [3, 4, 5] {
        let (first, second) = (run(seed, &config), run(seed, &config));
        assert!(first.trace.lines().count() > 100);
        assert_eq!(first.trace, second.trace);
        assert_eq!((first.events, first.acknowledged), (second.events, second.acknowledged));
    }
}
