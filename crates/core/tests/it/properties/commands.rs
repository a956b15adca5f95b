//! Commands that members might propose: mostly fitting to the record, often stale, sometimes nonsense.

use std::collections::BTreeSet;

use mainstay_core::lineage::{Extent, Fork, History};
use mainstay_core::record::{Command, EndCause, OnCrash, Record, Report};
use mainstay_core::sync::{SyncSet, Voter};
use mainstay_core::{Epoch, Incarnation, Lsn, MemberId, Timeline};
use proptest::prelude::*;

use super::wishes::wish;
use crate::cluster;
use crate::notation::{first_life, member};

/// `m4` is no member.
const NAMES: [&str; 4] = ["m1", "m2", "m3", "m4"];

pub(super) fn any_member() -> impl Strategy<Value = MemberId> {
    prop::sample::select(&NAMES[..]).prop_map(member)
}

/// Positions around the ones that the cluster begins with, few enough to meet each other.
pub(super) fn any_lsn() -> impl Strategy<Value = Lsn> {
    (2u64..8).prop_map(|n| Lsn(n * 0x0100_0000))
}

pub(super) fn any_life(member: &MemberId) -> impl Strategy<Value = Incarnation> + use<> {
    let first = first_life(member);
    prop_oneof![4 => Just(first), 1 => Just(Incarnation(first.0 + 0x10))]
}

pub(super) fn any_voter() -> impl Strategy<Value = Voter> {
    any_member().prop_flat_map(|member| {
        any_life(&member).prop_map(move |incarnation| Voter { member: member.clone(), incarnation })
    })
}

pub(super) fn any_sync() -> impl Strategy<Value = SyncSet> {
    (prop::collection::btree_set(any_voter(), 0..4), 0u32..4)
        .prop_map(|(voters, k): (BTreeSet<Voter>, u32)| SyncSet::new(voters, k))
}

/// What a command is made from; [`command`] fits it to the record.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    kind: u8,
    member: MemberId,
    incarnation: Incarnation,
    lsn: Lsn,
    /// How far the epoch is off, mostly not at all.
    stale: u64,
    choice: u8,
    sync: SyncSet,
    names: SyncSet,
}

/// What an operator asks for is rarer than what members do by themselves.
fn any_kind() -> impl Strategy<Value = u8> {
    prop_oneof![20 => 0u8..20, 1 => Just(20u8), 3 => Just(21u8)]
}

pub(super) fn any_draft() -> impl Strategy<Value = Draft> {
    let stale = prop_oneof![9 => Just(0u64), 1 => 1u64..3];
    (any_voter(), any_kind(), any_lsn(), stale, any::<u8>(), any_sync(), any_sync()).prop_map(
        |(voter, kind, lsn, stale, choice, sync, names)| Draft {
            kind,
            member: voter.member,
            incarnation: voter.incarnation,
            lsn,
            stale,
            choice,
            sync,
            names,
        },
    )
}

/// A directory's history: the lineage, a part of it, or one that left it for a timeline of its own.
pub(super) fn history_from(record: &Record, choice: u8, at: Lsn) -> History {
    let mut history = record.lineage.clone();
    match choice % 6 {
        0 | 1 => {}
        2 => history.truncate(history.len().saturating_sub(1).max(1)),
        3 => history.push(Fork { timeline: record.highest_timeline.next(), begin: at.max(record.floor()) }),
        4 => {
            let timeline = record.newest_tenure().map_or(Timeline(2), |tenure| tenure.timeline);
            history.push(Fork { timeline, begin: at.max(record.floor()) });
        }
        _ => history = vec![Fork { timeline: Timeline(9), begin: at }],
    }
    history
}

pub(super) fn command(record: &Record, draft: Draft) -> Command {
    let Draft { kind, member, incarnation, lsn, stale, choice, sync, names } = draft;
    let epoch = Epoch(record.epoch.0.saturating_sub(stale));
    match kind {
        0 => {
            let made = cluster::created(&["m1", "m2", "m3"], OnCrash::Failover);
            let cluster = if choice.is_multiple_of(2) { made.cluster } else { "other".to_owned() };
            Command::Create { cluster, settings: made.settings, members: made.members }
        }
        1 => {
            // Another cluster's number only where there is one already: views speak of directories of this one.
            let other = record.system_identifier.is_some() && choice.is_multiple_of(2);
            Command::Found { member, incarnation, system_identifier: cluster::SYSTEM + u64::from(other) }
        }
        2..=5 => Command::Grant {
            epoch: epoch.next(),
            holder: member,
            incarnation,
            request: u64::from(choice % 3),
        },
        6..=8 => {
            let mut history = record.lineage.clone();
            let reserved = record.tenure().map_or(Timeline(7), |tenure| tenure.timeline);
            let timeline = if choice.is_multiple_of(8) { reserved.next() } else { reserved };
            history.push(Fork { timeline, begin: lsn });
            Command::Open { epoch, history, next_xid: 700, at_unix_ms: 0 }
        }
        9..=11 => Command::End { epoch, cause: cause(choice, member) },
        12..=15 => {
            let history = history_from(record, choice, lsn);
            let end = lsn.max(history.last().map_or(Lsn::ZERO, |fork| fork.begin));
            let report =
                Report { epoch, incarnation, extent: Extent { history, end }, replayed: lsn, unfit: None };
            Command::Report { member, report }
        }
        16 | 17 => {
            let serial = record.base.as_ref().map_or(0, |base| base.sync_serial);
            let serial = serial.saturating_sub(u64::from(choice.is_multiple_of(5)));
            let known = record.sync().filter(|_| choice.is_multiple_of(2)).cloned();
            Command::SetSync { epoch, serial, sync: known.unwrap_or(sync), names }
        }
        18 => Command::RequestSwitchover {
            id: u64::from(choice % 3),
            epoch,
            to: choice.is_multiple_of(2).then_some(member),
        },
        20 => Command::RaiseFormat { to: 2 },
        21 => wish(record, epoch, (member, incarnation, lsn), choice),
        _ => Command::CancelSwitchover { id: u64::from(choice % 3), why: "asked for".to_owned() },
    }
}

fn cause(choice: u8, member: MemberId) -> EndCause {
    let voters = ["m1", "m2", "m3", "m4"]
        .iter()
        .take(usize::from(choice) / 8 % 5)
        .map(|name| crate::notation::member(name));
    match choice % 8 {
        0..=2 => EndCause::Expired { voters: voters.collect(), serial: 0 },
        3 => EndCause::Crashed,
        4 => EndCause::Restarted,
        5 => EndCause::NotOpened { why: "no progress".to_owned() },
        6 => EndCause::DirectoryLost,
        _ => EndCause::Switchover { to: Some(member) },
    }
}
