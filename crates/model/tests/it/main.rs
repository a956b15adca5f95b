//! Each model holds within its bounds, and an invariant catches each rule that is taken away from the core.

mod lease;
mod line;
mod order;
mod voters;

use mainstay_core::mutant::{Mutant, activate};
use mainstay_model::explore::{Model, Report, explore};

/// More than any of the models has within its bounds: memory is what ends an exploration that has none.
const MOST_STATES: usize = 12_000_000;

/// The model is exhausted without a violation. It had `states` when this was written; far fewer now would mean that
/// something keeps it from happening, not that it cannot go wrong.
fn holds<M: Model>(mut model: M, states: usize) {
    let report = explore(&mut model, MOST_STATES);
    tell(&report);
    assert!(report.complete && report.violation.is_none(), "{report}");
    assert!(report.states > states / 2, "{report}");
}

/// With the rule taken away the invariant is violated.
fn caught<M: Model>(model: M, mutant: Mutant, invariant: &str) {
    let _restored = Restored;
    activate(Some(mutant));
    violates(model, invariant);
}

fn violates<M: Model>(mut model: M, invariant: &str) {
    let report = explore(&mut model, MOST_STATES);
    tell(&report);
    assert_eq!(report.violation.as_ref().map(|violation| violation.invariant), Some(invariant), "{report}");
}

/// Tests that come after this one on the same thread have all rules again.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        activate(None);
    }
}

#[expect(
    clippy::print_stdout,
    reason = "shown with --nocapture: how much was explored, and the way to a violation"
)]
fn tell(report: &Report) {
    println!("{}: {report}", std::thread::current().name().unwrap_or("model"));
}
