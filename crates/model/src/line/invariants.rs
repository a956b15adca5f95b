//! What must hold in every state, and what must be reachable from it.

use mainstay_core::election;
use mainstay_core::record::{Command, EndCause, Phase, Record, Report, Tenure};
use mainstay_core::sync;
use mainstay_core::{Epoch, Lsn};

use super::Line;
use super::acts::commits;
use super::sight::{incarnation_of, small};
use super::wal::Wal;
use super::world::{MEMBERS, NOTHING, STRAY, Server, State, Touch};
use crate::explore::{Outlook, Violation};

/// What the proof depends on: the record, and of each live member its directory.
pub(super) type Survivors = (u32, [(u8, Wal); MEMBERS as usize]);

impl Line {
    pub(super) fn check(&mut self, state: &State) -> Option<Violation> {
        self.nothing_acknowledged_lost(state)
            .or_else(|| self.one_writer(state))
            .or_else(|| self.order_law(state))
            .or_else(|| self.voters_behind_fork(state))
            .or_else(|| self.kept_by_voters(state))
            .or_else(|| self.lineage(state))
            .or_else(|| timelines_unique(state).filter(|_| !self.scope.renumber))
            .or_else(|| self.no_write_without_lease())
    }

    fn tenure_in_place<'a>(&self, record: &'a Record, state: &State) -> Option<(&'a Tenure, u8)> {
        let tenure = record.tenure()?;
        let holder = self.minds.number(&tenure.holder);
        let incarnation = state.member(holder).incarnation;
        let same = incarnation > 0 && incarnation_of(holder, incarnation) == tenure.incarnation;
        same.then_some((tenure, holder))
    }

    /// S2: whoever is granted the lease holds every commit that was acknowledged or seen.
    fn nothing_acknowledged_lost(&self, state: &State) -> Option<Violation> {
        let record = self.records.record(state.record);
        let (tenure, holder) = self.tenure_in_place(record, state)?;
        let lost = state.kept & !commits(state.member(holder).wal.contents());
        (lost != 0).then(|| {
            let detail = format!("commits {lost:04b} are not at {}, epoch {}", tenure.holder, tenure.epoch);
            Violation::new("nothing_acknowledged_lost", detail)
        })
    }

    /// S1: at most one serves clients under the lease.
    fn one_writer(&self, state: &State) -> Option<Violation> {
        let serving: Vec<u8> = (0..MEMBERS)
            .filter(|member| {
                let own = state.member(*member);
                own.gate && matches!(own.server, Server::Opened(_))
            })
            .collect();
        (serving.len() > 1)
            .then(|| Violation::new("one_writer", format!("{serving:?} serve clients at once")))
    }

    /// What PostgreSQL on the primary was told last is safe against the record.
    fn order_law(&self, state: &State) -> Option<Violation> {
        let record = self.records.record(state.record);
        let (tenure, holder) = self.tenure_in_place(record, state)?;
        let own = state.member(holder);
        if !record.is_open() || own.told == NOTHING || Epoch(u64::from(own.opened())) != tenure.epoch {
            return None;
        }
        let told = self.records.set(own.told);
        (!sync::is_safe(told, &tenure.sync))
            .then(|| Violation::new("order_law", format!("{told:?} against {:?}", tenure.sync)))
    }

    /// The voters of `tenure` whose directories are as they were, by number.
    fn voters<'a>(&'a self, tenure: &'a Tenure, state: &'a State) -> impl Iterator<Item = u8> + 'a {
        let numbers =
            tenure.sync.voters.iter().map(|voter| (self.minds.number(&voter.member), voter.incarnation));
        let intact = numbers.filter(|(number, incarnation)| {
            let count = state.member(*number).incarnation;
            count > 0 && incarnation_of(*number, count) == *incarnation
        });
        intact.map(|(number, _)| number)
    }

    /// Nobody votes whose log goes on where the holder's does not: it would acknowledge what it does not have.
    fn voters_behind_fork(&self, state: &State) -> Option<Violation> {
        let record = self.records.record(state.record);
        let (tenure, holder) = self.tenure_in_place(record, state)?;
        let wal = state.member(holder).wal;
        let ahead = self.voters(tenure, state).find(|voter| {
            let own = state.member(*voter);
            own.wal.end_of(STRAY).is_none() && !own.wal.is_prefix_of(wal)
        })?;
        let detail = format!("m{} votes with {}", ahead + 1, state.member(ahead).wal);
        Some(Violation::new("voters_behind_fork", detail))
    }

    /// Behind an open gate everything acknowledged or seen is on k of the voters; those whose directory was lost count.
    fn kept_by_voters(&self, state: &State) -> Option<Violation> {
        let record = self.records.record(state.record);
        let (tenure, holder) = self.tenure_in_place(record, state)?;
        let own = state.member(holder);
        if !record.is_open() || !own.gate || own.opened() != small(tenure.epoch) {
            return None;
        }
        let intact: Vec<u8> = self.voters(tenure, state).collect();
        let gone = tenure.sync.voters.len() - intact.len();
        let held = |bit: u8| {
            let holding =
                intact.iter().filter(|voter| commits(state.member(**voter).wal.contents()) & bit != 0);
            holding.count() + gone >= tenure.sync.k as usize
        };
        let missing = (0..8).map(|place| 1u8 << place).find(|bit| state.kept & bit != 0 && !held(*bit))?;
        let detail = format!("commit {missing:04b} is on fewer than {} voters", tenure.sync.k);
        Some(Violation::new("kept_by_voters", detail))
    }

    /// S4: whoever was told to follow the primary of this epoch holds nothing but what the primary holds.
    fn lineage(&self, state: &State) -> Option<Violation> {
        let record = self.records.record(state.record);
        let (tenure, holder) = self.tenure_in_place(record, state)?;
        let primary = state.member(holder);
        if !record.is_open() || primary.opened() != small(tenure.epoch) {
            return None;
        }
        let strays = (0..MEMBERS).find(|member| {
            let own = state.member(*member);
            let follows = own.upstream == holder && own.upstream_epoch == small(tenure.epoch);
            follows && own.server == Server::Standby && !own.wal.is_prefix_of(primary.wal)
        })?;
        let detail = format!("m{} follows with {}", strays + 1, state.member(strays).wal);
        Some(Violation::new("lineage", detail))
    }

    /// S3: a server that left recovery without the guard is ended before anything else is done about it.
    fn no_write_without_lease(&self) -> Option<Violation> {
        let detail = "a server that an outside hand promoted is left alone";
        self.minds.tolerated.then(|| Violation::new("no_write_without_lease", detail))
    }

    /// L1: with a majority of the machines and enough proof among them, a primary is open again. L2: every data member that
    /// is up streams from it.
    pub(super) fn prospect(&mut self, state: &State) -> Outlook {
        let record = self.records.record(state.record).clone();
        if let Some((tenure, holder)) = self.tenure_in_place(&record, state) {
            let own = state.member(holder);
            let works =
                own.up && own.touch == Touch::Full && own.server == Server::Opened(small(tenure.epoch));
            let follows = |member: u8| {
                let standby = state.member(member);
                let attached = state.is_streaming(member) && standby.upstream == holder;
                let witness = self.scope.witness && member == 2;
                member == holder
                    || witness
                    || !standby.up
                    || attached && standby.upstream_epoch == own.opened()
            };
            if works && record.is_open() && own.gate && (0..MEMBERS).all(follows) {
                return Outlook::Goal;
            }
        }
        let survivors = [0, 1, 2].map(|member| {
            let own = state.member(member);
            let usable = own.up && own.server != Server::Stray && own.wal.end_of(STRAY).is_none();
            if usable { (own.incarnation, own.wal) } else { (0, Wal::default()) }
        });
        let majority = (0..MEMBERS).filter(|member| state.member(*member).up).count() >= 2;
        let key = (state.record, survivors);
        if majority && self.is_provable(key) { Outlook::MustReachGoal } else { Outlook::Indifferent }
    }

    /// Whether anybody could be promoted if the epoch ended and everybody alive reported.
    fn is_provable(&mut self, key: Survivors) -> bool {
        if let Some(known) = self.provable.get(&key) {
            return *known;
        }
        let mut record = Record::clone(self.records.record(key.0));
        if let Some(epoch) = record.tenure().map(|tenure| tenure.epoch) {
            let voters = record.voters().cloned().collect();
            record.apply(Command::End { epoch, cause: EndCause::Expired { voters, serial: 0 } });
        }
        let ended = matches!(record.phase, Phase::Ended { .. });
        for (member, (incarnation, wal)) in (0..MEMBERS).zip(key.1) {
            if incarnation > 0 {
                let report = Report {
                    epoch: record.epoch,
                    incarnation: incarnation_of(member, incarnation),
                    extent: wal.extent(),
                    replayed: Lsn(u64::from(wal.len())),
                    unfit: None,
                };
                record.apply(Command::Report { member: self.minds.name(member).clone(), report });
            }
        }
        let provable = ended
            && (0..MEMBERS).zip(key.1).any(|(member, (incarnation, _))| {
                let incarnation_here = incarnation_of(member, incarnation);
                incarnation > 0
                    && election::may_be_promoted(&record, self.minds.name(member), incarnation_here).is_ok()
            });
        self.provable.insert(key, provable);
        provable
    }
}

/// S4: a timeline number means the same records everywhere. An outside hand may break that for the directory that it promoted.
fn timelines_unique(state: &State) -> Option<Violation> {
    let pairs = [(0, 1), (0, 2), (1, 2)];
    let (one, other) = pairs.into_iter().find(|(one, other)| {
        let (one, other) = (state.member(*one).wal, state.member(*other).wal);
        let stray = one.end_of(STRAY).or(other.end_of(STRAY)).is_some();
        !stray && one.has_other_records_on_a_timeline_of(other)
    })?;
    let detail = format!("{} and {}", state.member(one).wal, state.member(other).wal);
    Some(Violation::new("timelines_unique", detail))
}
