//! A lease of about two ticks whose voters change, the holder's clock slow and the others' fast.

use mainstay_core::mutant::Mutant;
use mainstay_model::voters::{Machines, Scope, Voters};

use super::{caught, holds};

const fn through(voters: &'static [Machines]) -> Scope {
    Scope { voters, lease_ticks: 2, restarts: 1, replaced: 0 }
}

const ONE_BECOMES_THREE: Scope = through(&[0b0001, 0b0111]);
const THREE_BECOME_ONE: Scope = through(&[0b0111, 0b0001]);
const TWO_BECOME_ONE: Scope = through(&[0b0011, 0b0010]);
/// The third machine gives way to the fourth.
const ONE_OF_THREE: Scope = through(&[0b0111, 0b1011]);
/// The rules never propose this; the record accepts it.
const ALL_AT_ONCE: Scope = through(&[0b0011, 0b1100]);
const ONE_AFTER_THE_OTHER: Scope = through(&[0b0001, 0b0010, 0b0100]);
/// The second machine leaves, and a new one of its name comes.
const NAMED_THE_SAME: Scope = Scope { restarts: 0, replaced: 1, ..through(&[0b0111, 0b0101, 0b0111]) };

#[test]
fn one_becomes_three() {
    holds(Voters::new(ONE_BECOMES_THREE), 12_914);
}

#[test]
fn three_become_one() {
    holds(Voters::new(THREE_BECOME_ONE), 26_321);
}

#[test]
fn two_become_one() {
    holds(Voters::new(TWO_BECOME_ONE), 2_714);
}

#[test]
fn one_of_three_is_swapped() {
    holds(Voters::new(ONE_OF_THREE), 151_576);
}

#[test]
fn all_are_swapped_at_once() {
    holds(Voters::new(ALL_AT_ONCE), 93_857);
}

#[test]
fn one_change_follows_the_other() {
    holds(Voters::new(ONE_AFTER_THE_OTHER), 13_314);
}

#[test]
fn a_new_machine_has_the_name_of_an_old_one() {
    holds(Voters::new(NAMED_THE_SAME), 22_432);
}

#[test]
fn outgoing_ignored() {
    caught(Voters::new(ONE_BECOMES_THREE), Mutant::OutgoingIgnored, "lease_exclusive");
}

#[test]
fn settled_too_soon() {
    caught(Voters::new(ONE_BECOMES_THREE), Mutant::SettledTooSoon, "lease_exclusive");
}

/// A holder that was started anew renews by the voters of an older record.
#[test]
fn serial_forgotten() {
    caught(Voters::new(ONE_OF_THREE), Mutant::SerialForgotten, "lease_exclusive");
}

#[test]
fn changed_unsettled() {
    caught(Voters::new(ONE_AFTER_THE_OTHER), Mutant::ChangedUnsettled, "lease_exclusive");
}

/// A settlement of an older change that comes late settles the newest.
#[test]
fn settled_unasked() {
    caught(Voters::new(ONE_AFTER_THE_OTHER), Mutant::SettledUnasked, "lease_exclusive");
}

#[test]
fn old_words_count() {
    caught(Voters::new(NAMED_THE_SAME), Mutant::OldWordsCount, "lease_exclusive");
}
