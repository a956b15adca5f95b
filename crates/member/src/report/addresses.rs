//! Virtual addresses, put together from what the members say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mainstay_core::MemberId;
use mainstay_core::view::View;

use super::fresh;
use crate::facts::Facts;
use crate::status::{AddressStatus, Card};

/// Every virtual address that a member knows of. Who has it says so; of two, the primary is believed.
pub(super) fn addresses(facts: &Facts, view: &View, own: &Card) -> Vec<AddressStatus> {
    let peers = facts.roster.keys().filter(|name| **name != view.me);
    let peers = peers.filter_map(|name| Some((name, fresh(facts, view.now, name)?.1)));
    let mut cards: Vec<(&MemberId, &Card)> = std::iter::once((&view.me, own)).chain(peers).collect();
    cards.sort_by_key(|(name, _)| (view.record.primary() != Some(*name), (*name).clone()));
    let mut found: BTreeMap<IpAddr, AddressStatus> = BTreeMap::new();
    for (name, card) in cards {
        for said in &card.addresses {
            let row = found.entry(said.address).or_insert_with(|| AddressStatus {
                address: said.address,
                follows: "primary".to_owned(),
                member: None,
                interface: None,
                held_ms: None,
                gap_ms: None,
                claimed_by: None,
                errors: BTreeMap::new(),
            });
            if said.is_held && row.member.is_none() {
                row.member = Some(name.clone());
                row.interface.clone_from(&said.interface);
                (row.held_ms, row.gap_ms) = (said.held_ms, said.gap_ms);
                row.claimed_by.clone_from(&said.claimed_by);
            }
            if let Some(error) = &said.error {
                row.errors.insert(name.clone(), error.clone());
            }
        }
    }
    found.into_values().collect()
}
