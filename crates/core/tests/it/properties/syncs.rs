//! `sync::plan` under interruptions: whatever happens on the way, the order law holds and the change arrives.

use mainstay_core::sync::{Step, SyncSet, Voter, is_safe, plan};
use mainstay_core::{Incarnation, MemberId};
use proptest::prelude::*;

use super::cases;

fn any_set() -> impl Strategy<Value = SyncSet> {
    let voter = (0u8..4, 0u32..2).prop_map(|(name, life)| Voter {
        member: MemberId::new(&format!("m{name}")).expect("a name"),
        incarnation: Incarnation(life),
    });
    (prop::collection::btree_set(voter, 0..6), 0u32..4)
        .prop_map(|(voters, wanted)| SyncSet::new(voters, wanted))
}

/// What happens between two steps.
#[derive(Clone, Debug)]
enum Event {
    /// The step is done.
    Done,
    /// PostgreSQL was told, but the proof did not come.
    Unproven,
    /// The member is started anew.
    Restart,
    /// Another set is wanted.
    Wanted(SyncSet),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Done),
        1 => Just(Event::Unproven),
        1 => Just(Event::Restart),
        1 => any_set().prop_map(Event::Wanted),
    ]
}

/// The primary and the record: what is proven, what the record says, and every value that may still be acted on.
#[derive(Debug)]
struct Change {
    proven: Option<SyncSet>,
    sync: SyncSet,
    names: SyncSet,
    acted_on: Vec<SyncSet>,
    target: SyncSet,
}

impl Change {
    fn take(&mut self, event: Event) {
        let step = plan(self.proven.as_ref(), &self.sync, &self.names, &self.target);
        match (event, step) {
            (Event::Restart, _) => self.proven = None,
            (Event::Wanted(target), _) => self.target = target,
            (_, Step::Done) => {}
            (Event::Done, Step::Names(names)) => {
                assert_eq!(names, self.names, "PostgreSQL is told only what the record says");
                self.acted_on = vec![names.clone()];
                self.proven = Some(names);
            }
            (_, Step::Names(names)) => {
                self.acted_on.push(names);
                self.proven = None;
            }
            (Event::Done, Step::Record { sync, names }) => {
                assert!(sync.is_consistent() && names.is_consistent());
                assert!(is_safe(&self.names, &sync) && is_safe(&names, &sync), "the record would refuse it");
                (self.sync, self.names) = (sync, names);
            }
            (Event::Unproven, Step::Record { .. }) => {}
        }
        for value in &self.acted_on {
            assert!(is_safe(value, &self.sync), "{value:?} against {:?}", self.sync);
        }
    }
}

proptest! {
    #![proptest_config(cases(2048))]

    #[test]
    fn a_change_arrives_whatever_happens_on_the_way(
        from in any_set(),
        target in any_set(),
        events in prop::collection::vec(any_event(), 0..20),
    ) {
        let mut change = Change {
            proven: Some(from.clone()),
            sync: from.clone(),
            names: from.clone(),
            acted_on: vec![from],
            target,
        };
        for event in events {
            change.take(event);
        }
        for _ in 0..6 {
            change.take(Event::Done);
        }
        prop_assert_eq!(&change.sync, &change.target);
        prop_assert_eq!(&change.names, &change.target);
        prop_assert_eq!(change.proven.as_ref(), Some(&change.target));
    }
}
