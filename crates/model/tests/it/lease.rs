//! A lease of about two or three ticks on three machines, at both extremes of their clocks.

use mainstay_core::mutant::Mutant;
use mainstay_model::lease::{Lease, Scope};

use super::{caught, holds};

/// The holder's clock is slow, those of the others fast: as bad as it gets for the first epoch.
const EXTREME: Scope =
    Scope { fast: [false, true, true], lease_ticks: 3, late: false, next: false, heir: 1, restarts: 0 };

#[test]
fn messages_may_take_any_time() {
    holds(Lease::new(Scope { lease_ticks: 2, late: true, ..EXTREME }), 751_919);
}

#[test]
fn voters_and_holder_may_restart() {
    holds(Lease::new(Scope { restarts: 1, ..EXTREME }), 140_952);
}

#[test]
fn the_next_epoch_begins_at_any_time_after_the_request() {
    holds(Lease::new(Scope { next: true, restarts: 1, lease_ticks: 2, ..EXTREME }), 545_624);
}

#[test]
fn the_next_holder_may_have_the_slow_clock() {
    holds(Lease::new(Scope { fast: [true, false, true], next: true, ..EXTREME }), 159_464);
}

#[test]
fn no_clock_margin() {
    caught(Lease::new(EXTREME), Mutant::NoClockMargin, "lease_exclusive");
}

#[test]
fn renewed_by_one() {
    caught(Lease::new(EXTREME), Mutant::RenewedByOne, "lease_exclusive");
}

#[test]
fn promise_not_persisted() {
    caught(Lease::new(Scope { restarts: 1, ..EXTREME }), Mutant::PromiseNotPersisted, "lease_exclusive");
}

#[test]
fn grantor_answers_after_run_out() {
    caught(Lease::new(EXTREME), Mutant::GrantorAnswersAfterRunOut, "lease_exclusive");
}

#[test]
fn grantor_hurries() {
    caught(Lease::new(EXTREME), Mutant::GrantorHurries, "lease_exclusive");
}

#[test]
fn expiry_by_minority() {
    caught(Lease::new(EXTREME), Mutant::ExpiryByMinority, "lease_exclusive");
}

#[test]
fn grantor_forgets_restart() {
    caught(Lease::new(Scope { restarts: 1, ..EXTREME }), Mutant::GrantorForgetsRestart, "lease_exclusive");
}
