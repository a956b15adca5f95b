//! What an operator alerts on, in Prometheus' text format.
//!
//! Names and units are Prometheus' conventions: base units, `_total` for what only grows, `_timestamp_seconds` for moments. A
//! sample that is not known is left out: a zero would be believed.

mod exposition;
mod openings;
mod sql_proxy;

use std::sync::Arc;
use std::time::Duration;

use mainstay_core::record::{Kind, Record};
use mainstay_core::sync::wanted_acknowledgements;
use mainstay_core::view::PEER_FRESH;
use mainstay_net::sql_status::SqlStatus;

use crate::inventory::Inventory;
use crate::status::{MemberStatus, Role, Status};
use crate::verify::Verified;
pub(crate) use exposition::CONTENT_TYPE;
use exposition::Exposition;
pub(crate) use openings::Openings;

/// Everything that one scrape is made from.
#[derive(Clone, Debug)]
pub(crate) struct Scrape {
    pub(crate) status: Arc<Status>,
    pub(crate) record: Arc<Record>,
    /// Whether `/primary` and `/liveness` would be answered with 200.
    pub(crate) is_primary: bool,
    pub(crate) is_live: bool,
    /// Since the main loop has turned.
    pub(crate) loop_age: Duration,
    /// Until the deadline of the lease, on its holder.
    pub(crate) lease_remaining: Option<Duration>,
    /// Whether PostgreSQL answers SQL; `None` on a witness.
    pub(crate) postgresql_is_up: Option<bool>,
    /// WAL that each slot keeps, in bytes.
    pub(crate) slots: Vec<(String, u64)>,
    pub(crate) inventory: Inventory,
    /// The newest verification of the cluster, on a primary that has made one.
    pub(crate) verified: Option<Arc<Verified>>,
    /// How often an epoch was opened, by how the one before it had ended.
    pub(crate) openings: Vec<(String, u64)>,
    /// What the SQL proxy beside this member tells, if there is one that does.
    pub(crate) sql_proxy: Option<SqlStatus>,
}

const ROLES: [Role; 7] = [
    Role::Primary,
    Role::Standby,
    Role::Witness,
    Role::Starting,
    Role::Rejoining,
    Role::Stopped,
    Role::Unknown,
];

/// Renders it all.
pub(crate) fn render(scrape: &Scrape) -> String {
    let mut text = Exposition::new();
    of_this_member(scrape, &mut text);
    of_its_machine(scrape, &mut text);
    of_the_cluster(scrape, &mut text);
    of_the_verification(scrape, &mut text);
    of_synchronous_replication(scrape, &mut text);
    of_each_member(&scrape.status, &mut text);
    of_addresses(&scrape.status, &mut text);
    if let Some(proxy) = &scrape.sql_proxy {
        sql_proxy::render(proxy, &mut text);
    }
    text.finish()
}

fn of_this_member(scrape: &Scrape, text: &mut Exposition) {
    let status = &scrape.status;
    let own = status.members.iter().find(|row| row.name == status.member);
    let role = own.map_or(Role::Unknown, |row| row.role);
    text.gauge("mainstay_build_info", "The program's version; always 1.")
        .labelled(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.gauge("mainstay_member_info", "Which member of which cluster answers; always 1.")
        .labelled(&[("cluster", &status.cluster), ("member", status.member.as_str())], 1);
    text.gauge("mainstay_up", "Whether the member works: its main loop turns.").one(scrape.is_live);
    text.gauge("mainstay_main_loop_age_seconds", "How long ago the main loop turned.")
        .seconds(scrape.loop_age);
    let mut roles = text.gauge("mainstay_role", "1 for the role that this member has, 0 for the others.");
    for known in ROLES {
        roles.labelled(&[("role", known.as_str())], u64::from(known == role));
    }
    text.gauge("mainstay_primary", "Whether this member is the primary: what /primary answers.")
        .one(scrape.is_primary);
    if let Some(timeline) = own.and_then(|row| row.timeline) {
        text.gauge("mainstay_timeline", "PostgreSQL's timeline on this member.").one(timeline.0);
    }
    if let Some(remaining) = scrape.lease_remaining {
        text.gauge("mainstay_lease_remaining_seconds", "Until the lease must be renewed, on its holder.")
            .seconds(remaining);
    }
    if let Some(up) = scrape.postgresql_is_up {
        text.gauge("mainstay_postgresql_up", "Whether PostgreSQL answers SQL on this member.").one(up);
    }
    text.gauge("mainstay_warnings", "How many warnings the status of this member has.")
        .one(status.warnings.len() as u64);
}

fn of_its_machine(scrape: &Scrape, text: &mut Exposition) {
    let inventory = &scrape.inventory;
    if let Some(room) = inventory.room {
        text.gauge("mainstay_data_free_bytes", "What PostgreSQL may still write where its data is.")
            .one(room.free);
        text.gauge("mainstay_data_size_bytes", "The size of that file system.").one(room.size);
    }
    if !scrape.slots.is_empty() {
        let mut slots = text.gauge("mainstay_slot_retained_bytes", "WAL that PostgreSQL keeps for a slot.");
        for (slot, bytes) in &scrape.slots {
            slots.labelled(&[("slot", slot)], *bytes);
        }
    }
    if !inventory.certificates.is_empty() {
        let mut certificates = text
            .gauge("mainstay_certificate_expiry_timestamp_seconds", "When a certificate ends, in Unix time.");
        for (certificate, at) in &inventory.certificates {
            certificates.labelled(&[("certificate", certificate)], *at);
        }
    }
}

fn of_the_cluster(scrape: &Scrape, text: &mut Exposition) {
    let (status, record) = (&scrape.status, &scrape.record);
    text.gauge("mainstay_epoch", "The newest epoch that was granted.").one(status.epoch.0);
    text.gauge("mainstay_writable", "Whether a primary lets applications in, as far as this member knows.")
        .one(status.writable);
    text.gauge("mainstay_lease_length_seconds", "How long a lease is.").seconds(record.settings.lease());
    let mut openings = text.counter(
        "mainstay_openings_total",
        "How often a primary was opened since this process counts, by how the epoch before had ended.",
    );
    for (cause, count) in &scrape.openings {
        openings.labelled(&[("cause", cause)], *count);
    }
    if let Some(newest) = record.ledger.last() {
        text.gauge(
            "mainstay_last_opening_timestamp_seconds",
            "When the newest primary was opened, in Unix time.",
        )
        .seconds(Duration::from_millis(newest.at_unix_ms));
    }
    text.gauge("mainstay_consensus_leader_known", "Whether this member knows who leads the replicated log.")
        .one(status.store_leader.is_some());
    text.gauge("mainstay_consensus_leads", "Whether this member leads it.").one(status.leads);
    let heard =
        |row: &&MemberStatus| row.heard_ms.is_some_and(|ago| u128::from(ago) < (PEER_FRESH * 2).as_millis());
    let voters = || status.members.iter().filter(|row| row.votes);
    text.gauge("mainstay_voters", "How many members vote.").one(voters().count() as u64);
    text.gauge("mainstay_voters_heard", "How many of them this member hears, itself among them.")
        .one(voters().filter(heard).count() as u64);
}

/// Nothing where there are none.
fn of_addresses(status: &Status, text: &mut Exposition) {
    if status.addresses.is_empty() {
        return;
    }
    let mut held = text.gauge("mainstay_vip_held", "Whether this member has the virtual address.");
    for row in &status.addresses {
        let here = row.member.as_ref() == Some(&status.member);
        held.labelled(&[("address", &row.address.to_string())], u64::from(here));
    }
    let mut known =
        text.gauge("mainstay_vip_holder_known", "Whether any member is heard that has the virtual address.");
    for row in &status.addresses {
        known.labelled(&[("address", &row.address.to_string())], u64::from(row.member.is_some()));
    }
    let gaps: Vec<_> = status.addresses.iter().filter_map(|row| Some((row.address, row.gap_ms?))).collect();
    if gaps.is_empty() {
        return;
    }
    let mut gap = text.gauge(
        "mainstay_vip_last_gap_seconds",
        "For how long nobody had the virtual address when it moved last.",
    );
    for (address, ms) in gaps {
        gap.labelled_seconds(&[("address", &address.to_string())], Duration::from_millis(ms));
    }
}

/// Only the primary has it, and one that is no longer has none: an old finding would be alerted on for ever.
fn of_the_verification(scrape: &Scrape, text: &mut Exposition) {
    let Some(verified) = &scrape.verified else { return };
    text.gauge("mainstay_verify_ok", "Whether no check failed when the primary last verified the cluster.")
        .one(verified.ok);
    text.gauge("mainstay_verify_failed_checks", "How many checks failed then.")
        .one(verified.failed.len() as u64);
    text.gauge("mainstay_verify_last_run_timestamp_seconds", "When that began, in Unix time.")
        .seconds(Duration::from_millis(verified.at_unix_ms));
}

fn of_synchronous_replication(scrape: &Scrape, text: &mut Exposition) {
    let (status, record) = (&scrape.status, &scrape.record);
    text.gauge("mainstay_at_risk_bytes", "WAL lost if the primary's machine died now.")
        .one(status.at_risk_bytes);
    let data = record.members.values().filter(|row| row.kind == Kind::Data).count();
    text.gauge("mainstay_sync_standbys_wanted", "How many standbys there could be to acknowledge commits.")
        .one(data.saturating_sub(1) as u64);
    text.gauge("mainstay_sync_acknowledgements_wanted", "How many standbys a commit should wait for.")
        .one(wanted_acknowledgements(record.primary().map_or(data, |it| record.counted_data_members(it))));
    let Some(sync) = record.sync().filter(|_| record.is_open()) else { return };
    text.gauge("mainstay_sync_standbys", "How many standbys count for commits.")
        .one(sync.voters.len() as u64);
    text.gauge(
        "mainstay_sync_acknowledgements",
        "How many of them a commit waits for; 0: the primary is lone.",
    )
    .one(sync.k);
}

fn of_each_member(status: &Status, text: &mut Exposition) {
    let mut family = |name, help, value: &dyn Fn(&MemberStatus) -> Option<u64>| {
        let mut family = text.gauge(name, help);
        for row in &status.members {
            if let Some(value) = value(row) {
                family.labelled(&[("member", row.name.as_str())], value);
            }
        }
    };
    let serves = |row: &MemberStatus| matches!(row.role, Role::Primary | Role::Standby | Role::Witness);
    family("mainstay_member_up", "Whether the member serves.", &|row| Some(u64::from(serves(row))));
    family("mainstay_member_votes", "Whether it votes.", &|row| Some(u64::from(row.votes)));
    family("mainstay_member_sync", "Whether it counts for commits.", &|row| Some(u64::from(row.sync)));
    family("mainstay_member_lag_bytes", "How far a standby is behind.", &|row| row.lag_bytes);
    let mut heard = text.gauge("mainstay_member_heard_seconds", "How long ago it was heard.");
    for row in &status.members {
        if let Some(ago) = row.heard_ms {
            heard.labelled_seconds(&[("member", row.name.as_str())], Duration::from_millis(ago));
        }
    }
}

#[cfg(test)]
mod tests;
