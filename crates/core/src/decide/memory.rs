//! Since when things are as they are: all that a decision remembers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{follow, upkeep};
use crate::mutant::{Mutant, mutated};
use crate::record::{EndCause, Phase};
use crate::sync::Voter;
use crate::view::{Server, View};
use crate::vocabulary::{Epoch, Lsn, Now};

/// Crashes older than this are forgotten.
const CRASH_WINDOW: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Memory {
    /// The ended epoch that the record shows, and since when.
    pub ended_since: Option<(Epoch, Now)>,
    /// The ended epoch in which an operator last held everybody back, and when: patience counts from there.
    #[serde(default)]
    pub held_back_at: Option<(Epoch, Now)>,
    /// The grant that the record shows and nothing has opened yet, and since when.
    pub granted_since: Option<(Epoch, Now)>,
    /// Why this member is ending the epoch that it holds.
    pub ending: Option<(Epoch, EndCause)>,
    /// Voters of the record that are not live, and since when.
    #[serde(with = "pairs")]
    pub lost_since: BTreeMap<Voter, Now>,
    /// When this member last stepped down because its server hung.
    pub stepped_down_at: Option<Now>,
    /// Since when it is not known what of the server is there, or what is left of it is being ended.
    #[serde(default)]
    pub unsure_since: Option<Now>,
    /// Since when there is too little room for WAL.
    #[serde(default)]
    pub full_since: Option<Now>,
    /// When PostgreSQL died by itself here, by epoch.
    pub crashes: BTreeMap<Epoch, Now>,
    /// The epoch that is followed without streaming, and since when, its primary working all the time.
    pub not_streaming_since: Option<(Epoch, Now)>,
    /// The epoch whose primary the server was told to stream from, by this process and since it last streamed.
    #[serde(default)]
    pub told_to_follow: Option<Epoch>,
    /// How far the local standby had replayed when it was last looked at.
    #[serde(default)]
    pub replayed: Option<Lsn>,
    /// The switchover that was asked for, and since when it is seen.
    pub switchover_since: Option<(u64, Now)>,
    /// Whether this process has seen its server opened under this epoch; a server that died before was not its doing.
    pub saw_open: Option<Epoch>,
}

/// JSON's maps have text for keys: written as a list of pairs.
mod pairs {
    use super::{BTreeMap, Now, Voter};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<Voter, Now>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Voter, Now>, D::Error> {
        Ok(Vec::<(Voter, Now)>::deserialize(from)?.into_iter().collect())
    }
}

impl Memory {
    /// Brings the memory up to date with what is seen now.
    pub fn observe(&mut self, view: &View) {
        let record = &view.record;
        match record.phase {
            Phase::Ended { .. } if self.ended_since.is_none_or(|(epoch, _)| epoch != record.epoch) => {
                self.ended_since = Some((record.epoch, view.now));
            }
            Phase::Ended { .. } => {}
            _ => self.ended_since = None,
        }
        match record.phase {
            Phase::Granted if self.granted_since.is_none_or(|(epoch, _)| epoch != record.epoch) => {
                self.granted_since = Some((record.epoch, view.now));
            }
            Phase::Granted => {}
            _ => self.granted_since = None,
        }
        if self.ending.as_ref().is_some_and(|(epoch, _)| *epoch < record.epoch) {
            self.ending = None;
        }
        if let Some(running) = view.running()
            && let Some(opened) = running.opened
        {
            self.saw_open = Some(opened);
        }
        let unsure = matches!(view.server, Server::Unknown | Server::Ending);
        self.unsure_since = unsure.then(|| self.unsure_since.unwrap_or(view.now));
        self.full_since = view.health.disk_full.then(|| self.full_since.unwrap_or(view.now));
        self.crashes.retain(|_, at| view.now.since(*at) < CRASH_WINDOW);
        self.observe_voters(view);
        self.observe_streaming(view);
        match &record.switchover {
            Some(switchover) if self.switchover_since.is_none_or(|(id, _)| id != switchover.id) => {
                self.switchover_since = Some((switchover.id, view.now));
            }
            Some(_) => {}
            None => self.switchover_since = None,
        }
    }

    fn observe_voters(&mut self, view: &View) {
        let voters = match view.record.sync() {
            Some(sync) if super::holds_open(view) => &sync.voters,
            _ => {
                self.lost_since.clear();
                return;
            }
        };
        self.lost_since.retain(|voter, _| voters.contains(voter));
        for voter in voters {
            if upkeep::is_live(view, voter) {
                self.lost_since.remove(voter);
            } else {
                self.lost_since.entry(voter.clone()).or_insert(view.now);
            }
        }
    }

    fn observe_streaming(&mut self, view: &View) {
        let epoch = view.record.epoch;
        let follows = view.upstream.as_ref().is_some_and(|upstream| upstream.epoch == epoch);
        let streams = view.running().is_some_and(|running| running.streaming.is_some());
        if streams {
            self.told_to_follow = None;
        }
        // What is here already is replayed before anything is asked of the primary.
        let replayed = view.running().filter(|running| running.ready).map(|running| running.replayed);
        let moved = replayed.is_some() && self.replayed.is_some() && replayed > self.replayed;
        self.replayed = replayed;
        // While the primary is away nobody can stream; a copy of everything is no answer to a cut that has just healed.
        let source = view.upstream.as_ref().and_then(|up| follow::ready_source(view, &up.member, up.epoch));
        if !follows || streams || source.is_none() && !mutated(Mutant::CutCountsAsStuck) {
            self.not_streaming_since = None;
        } else if self.not_streaming_since.is_none_or(|(since_epoch, _)| since_epoch != epoch) || moved {
            self.not_streaming_since = Some((epoch, view.now));
        }
    }

    /// For how long those that are proven could have asked for the lease.
    pub fn candidates_for(&self, view: &View) -> Duration {
        let held_back = self.held_back_at.filter(|(epoch, _)| *epoch == view.record.epoch);
        let since = held_back.map_or(Duration::MAX, |(_, at)| view.now.since(at));
        self.ended_for(view).min(since)
    }

    pub fn ended_for(&self, view: &View) -> Duration {
        self.ended_since.map_or(Duration::ZERO, |(_, since)| view.now.since(since))
    }
}
