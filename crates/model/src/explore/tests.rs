use super::{Model, Outlook, Successor, Violation, explore};

/// A walk along the numbers by 1 and by 3, up to `end`; what stands at `pit` never gets on by itself.
struct Walk {
    end: u8,
    pit: Option<u8>,
    forbidden: Option<u8>,
}

impl Model for Walk {
    type State = u8;
    type Step = u8;

    fn initial(&mut self) -> Vec<u8> {
        vec![0]
    }

    fn successors(&mut self, state: &u8, into: &mut Vec<Successor<u8, u8>>) {
        for step in [1, 3].into_iter().filter(|step| state + step <= self.end) {
            let progress = self.pit != Some(*state);
            into.push(Successor { step, state: state + step, progress, violation: None });
        }
    }

    fn violation(&mut self, state: &u8) -> Option<Violation> {
        (self.forbidden == Some(*state)).then(|| Violation::new("not_there", state.to_string()))
    }

    fn outlook(&mut self, state: &u8) -> Outlook {
        if *state == self.end { Outlook::Goal } else { Outlook::MustReachGoal }
    }

    fn name(&self, step: &u8) -> String {
        format!("+{step}")
    }

    fn describe(&self, state: &u8) -> String {
        state.to_string()
    }
}

const WALK: Walk = Walk { end: 9, pit: None, forbidden: None };

#[test]
fn every_state_is_seen_once() {
    let report = explore(&mut { WALK }, 100);
    assert!(report.complete && report.violation.is_none(), "{report}");
    assert_eq!((report.states, report.transitions), (10, 16));
}

#[test]
fn the_way_to_a_violation_is_the_shortest() {
    let report = explore(&mut Walk { forbidden: Some(7), ..WALK }, 100);
    assert_eq!(report.violation.as_ref().map(|violation| violation.invariant), Some("not_there"));
    assert_eq!(report.trace.len(), 4, "three steps from the first state: {report}");
    assert!(report.trace.last().is_some_and(|last| last.ends_with("=>  7")), "{report}");
}

#[test]
fn a_state_that_never_gets_on_is_a_dead_end() {
    let report = explore(&mut Walk { pit: Some(5), ..WALK }, 100);
    assert_eq!(report.violation.as_ref().map(|violation| violation.invariant), Some("no_dead_end"));
    assert!(report.trace.last().is_some_and(|last| last.ends_with("=>  5")), "{report}");
}

#[test]
fn too_many_states_are_not_everything() {
    let report = explore(&mut { WALK }, 3);
    assert!(!report.complete && report.violation.is_none(), "{report}");
}
