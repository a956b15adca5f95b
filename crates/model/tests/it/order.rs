//! One primary and its standbys; everything within PostgreSQL and around it in every order.

use mainstay_core::mutant::Mutant;
use mainstay_model::order::{Order, Proof, Scope};

use super::{caught, holds, violates};

/// Three data members: one acknowledgement is wanted.
const THREE: Scope = Scope { standbys: 2, in_flight: 2, reconnects: true, proof: Proof::Full };

/// Four data members: two are wanted, and one if there are no more voters. With reconnecting walsenders there are 7.7
/// million states, with a proposal under way 4.3 million; both hold, and take two minutes.
const FOUR: Scope = Scope { standbys: 3, in_flight: 0, reconnects: false, ..THREE };

#[test]
fn three_data_members() {
    holds(Order::new(THREE), 489_896);
}

#[test]
fn four_data_members() {
    holds(Order::new(FOUR), 331_864);
}

#[test]
fn a_new_connection_is_no_proof() {
    violates(Order::new(Scope { proof: Proof::NewConnection, ..THREE }), "order_law");
}

#[test]
fn the_checkpointer_must_have_read_the_names() {
    violates(Order::new(Scope { proof: Proof::WithoutCheckpointer, ..THREE }), "order_law");
}

#[test]
fn what_was_acknowledged_before_must_be_flushed() {
    violates(Order::new(Scope { proof: Proof::WithoutFlush, ..THREE }), "nothing_acknowledged_lost");
}

#[test]
fn names_before_record() {
    caught(Order::new(THREE), Mutant::NamesBeforeRecord, "order_law");
}

#[test]
fn record_before_names() {
    caught(Order::new(THREE), Mutant::RecordBeforeNames, "order_law");
}

#[test]
fn late_sync_accepted() {
    caught(Order::new(THREE), Mutant::LateSyncAccepted, "order_law");
}

#[test]
fn lone_ignored() {
    caught(Order::new(THREE), Mutant::LoneIgnored, "nothing_acknowledged_lost");
}

#[test]
fn one_report_suffices() {
    caught(Order::new(THREE), Mutant::OneReportSuffices, "nothing_acknowledged_lost");
}

#[test]
fn not_the_furthest() {
    caught(Order::new(THREE), Mutant::NotTheFurthest, "nothing_acknowledged_lost");
}

#[test]
fn mixture_ignored() {
    caught(Order::new(FOUR), Mutant::MixtureIgnored, "order_law");
}
