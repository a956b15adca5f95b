//! Sequences of faults that each rule is there for, with all rules in place.

use mainstay_sim::{Config, Script, run};

const SEEDS: u64 = 12;

#[test]
fn no_script_violates_an_invariant() {
    for script in Script::ALL {
        let config = Config { script: Some(*script), ..Config::default() };
        let reports: Vec<_> = (1..=SEEDS).map(|seed| run(seed, &config)).collect();
        for report in &reports {
            let again = format!("cargo xtask sim --script {} --seed {}", script.name(), report.seed);
            assert_eq!(report.violation, None, "reproduce: {again}");
        }
        let played = reports.iter().filter(|report| report.played).count();
        assert!(played * 2 > reports.len(), "{}: {played} of {SEEDS} runs came to its end", script.name());
    }
}
