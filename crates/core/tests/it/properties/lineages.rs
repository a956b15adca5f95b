//! `lineage::compare` against a model that looks at every single byte.

use mainstay_core::lineage::{Beyond, Extent, Fork, History, compare};
use mainstay_core::{Lsn, Timeline};
use proptest::prelude::*;

use super::cases;

/// Up to four timelines within a few bytes, so that forks meet; most begin with timeline 1.
fn any_history() -> impl Strategy<Value = History> {
    let first = prop_oneof![9 => Just(1u32), 1 => Just(2u32)];
    (first, prop::collection::vec((1u32..3, 0u64..4), 0..4)).prop_map(|(first, steps)| {
        let mut history = vec![Fork { timeline: Timeline(first), begin: Lsn(0) }];
        let (mut timeline, mut begin) = (first, 0);
        for (number, bytes) in steps {
            (timeline, begin) = (timeline + number, begin + bytes);
            history.push(Fork { timeline: Timeline(timeline), begin: Lsn(begin) });
        }
        history
    })
}

/// By which timelines the byte at `position` came about.
fn origin(history: &[Fork], position: u64) -> &[Fork] {
    let begun = history.iter().take_while(|fork| fork.begin <= Lsn(position)).count();
    &history[..begun]
}

proptest! {
    #![proptest_config(cases(4096))]

    #[test]
    fn compare_agrees_with_a_look_at_every_byte(
        lineage in any_history(),
        local in any_history(),
        more in 0u64..6,
    ) {
        let end = local.last().map_or(0, |fork| fork.begin.0) + more;
        let extent = Extent { history: local.clone(), end: Lsn(end) };
        let standing = compare(&lineage, &extent);

        let shared = (0..end).take_while(|at| origin(&lineage, *at) == origin(&local, *at)).count() as u64;
        let related = lineage[0] == local[0];
        prop_assert_eq!(standing.position, Lsn(if related { shared } else { 0 }));

        let is_prefix = shared == end && lineage.starts_with(&local);
        let goes_on = local.len() > lineage.len() && local.starts_with(&lineage);
        let timelines: Vec<Timeline> = local.iter().skip(lineage.len()).map(|fork| fork.timeline).collect();
        let expected = if !related {
            Beyond::Unrelated
        } else if is_prefix {
            Beyond::Nothing
        } else if goes_on {
            Beyond::Extension { timelines }
        } else {
            Beyond::Diverged { timeline: extent.timeline(), bytes: end - shared }
        };
        prop_assert_eq!(standing.beyond, expected);
    }
}
