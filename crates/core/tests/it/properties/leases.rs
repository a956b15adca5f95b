//! One voter of the lease through restarts and delays: what it has said for good it keeps, and it never says it early.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_core::lease::{Answer, Grantor, Holder, usable};
use mainstay_core::record::{EndCause, OnCrash, Phase, Record};
use mainstay_core::{Epoch, Now};
use proptest::prelude::*;

use super::cases;
use crate::cluster;
use crate::notation::member;

const LEASE: Duration = Duration::from_millis(3_000);

#[derive(Clone, Copy, Debug)]
enum Event {
    Pass(u64),
    Renew(u64),
    /// The record as applied here; whether the epoch has ended in it.
    Learn(u64, bool),
    /// It says that the lease has run out, if it has: the promise is durable first.
    SayRunOut,
    /// It stops answering, and dies before the promise is durable: nothing was said.
    RunOutAndDie,
    Restart,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0u64..2_000).prop_map(Event::Pass),
        3 => (1u64..4).prop_map(Event::Renew),
        1 => (1u64..4, any::<bool>()).prop_map(|(epoch, ended)| Event::Learn(epoch, ended)),
        2 => Just(Event::SayRunOut),
        1 => Just(Event::RunOutAndDie),
        1 => Just(Event::Restart),
    ]
}

struct Voter {
    now: Now,
    grantor: Grantor,
    /// What its disk holds.
    durable: Epoch,
    answered: BTreeMap<Epoch, Now>,
}

impl Voter {
    fn restart(&mut self) {
        self.grantor = Grantor::new(self.now, LEASE, self.durable);
    }

    fn check_not_early(&self, epoch: Epoch) {
        if let Some(answered) = self.answered.get(&epoch) {
            assert!(self.now >= answered.plus(LEASE), "epoch {epoch} was promised at {answered:?}");
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Pass(ms) => self.now = self.now.plus(Duration::from_millis(ms)),
            Event::Renew(epoch) => {
                let epoch = Epoch(epoch);
                if self.grantor.renew(self.now, epoch) == Answer::Promised {
                    assert!(epoch > self.durable, "epoch {epoch} was said to have run out");
                    self.answered.insert(epoch, self.now);
                }
            }
            Event::Learn(epoch, ended) => {
                let phase = if ended { Phase::Ended { cause: EndCause::Crashed } } else { Phase::Open };
                self.grantor.learn(self.now, &Record { epoch: Epoch(epoch), phase, ..Record::default() });
            }
            Event::SayRunOut => {
                if let Some(epoch) = self.grantor.run_out(self.now) {
                    self.check_not_early(epoch);
                    self.durable = self.durable.max(epoch);
                    self.grantor.promise(epoch);
                    assert!(self.grantor.says_run_out(epoch));
                }
            }
            Event::RunOutAndDie => {
                self.grantor.run_out(self.now);
                self.restart();
            }
            Event::Restart => self.restart(),
        }
    }
}

proptest! {
    #![proptest_config(cases(4096))]

    #[test]
    fn a_voter_keeps_its_word_through_restarts_and_never_hurries(
        events in prop::collection::vec(any_event(), 1..40),
    ) {
        let now = Now::from_millis(60_000);
        let grantor = Grantor::new(now, LEASE, Epoch(0));
        let mut voter = Voter { now, grantor, durable: Epoch(0), answered: BTreeMap::new() };
        for event in events {
            voter.take(event);
        }
    }

    #[test]
    fn a_deadline_is_one_that_a_majority_has_promised(
        answers in prop::collection::vec((0usize..5, 61_000u64..70_000), 0..30),
        count in 1usize..6,
    ) {
        let record = cluster::created(&["m1", "m2", "m3", "m4", "m5"][..count], OnCrash::Failover);
        let requested = Now::from_millis(60_000);
        let mut holder = Holder::granted(Epoch(1), LEASE, requested);
        for (voter, sent) in &answers {
            holder.answered(&member(["m1", "m2", "m3", "m4", "m5"][*voter]), Now::from_millis(*sent));
        }
        // The latest sending time such that a majority has answered one sent then or later.
        let promised = |at: u64| {
            let newer = |voter: &usize| answers.iter().any(|(by, sent)| by == voter && *sent >= at);
            (0..count).filter(newer).count() > count / 2
        };
        let newest = answers.iter().map(|(_, sent)| *sent).filter(|at| promised(*at)).max();
        let from = newest.map_or(requested, Now::from_millis);
        prop_assert_eq!(holder.deadline(&record), from.plus(usable(LEASE)));
    }
}
