//! The last decisions, each with the view that it was made from.

use std::collections::VecDeque;
use std::sync::Arc;

use mainstay_core::decide::{Decision, Memory};
use mainstay_core::view::View;
use serde::{Deserialize, Serialize};

use crate::clock;

/// How many decisions are kept; a failover takes about twenty.
const KEPT: usize = 200;

/// One decision as `explain` shows it. `view` and `memory` can be given to `decide --view`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Milliseconds since 1970.
    pub at_unix_ms: u64,
    pub epoch: u64,
    /// Sentences, the most important first.
    pub because: Vec<String>,
    pub decision: Decision,
    pub view: Arc<View>,
    pub memory: Memory,
}

/// A ring of decisions. A decision like the one before it is not kept again.
#[derive(Debug, Default)]
pub(crate) struct Explanations {
    ring: VecDeque<Explanation>,
}

impl Explanations {
    /// Notes a decision; says whether it differs from the one before.
    pub(crate) fn note(&mut self, decision: &Decision, view: &Arc<View>, memory: &Memory) -> bool {
        if self.ring.back().is_some_and(|last| is_same(&last.decision, decision)) {
            return false;
        }
        if self.ring.len() == KEPT {
            self.ring.pop_front();
        }
        self.ring.push_back(Explanation {
            at_unix_ms: clock::unix_ms(),
            epoch: view.record.epoch.0,
            because: decision.reasons.iter().map(ToString::to_string).collect(),
            decision: decision.clone(),
            view: Arc::clone(view),
            memory: memory.clone(),
        });
        true
    }

    pub(crate) fn last(&self, count: usize) -> Vec<Explanation> {
        self.ring.iter().rev().take(count).rev().cloned().collect()
    }
}

/// The same rules spoke and ask for the same; how long something has lasted may differ.
fn is_same(left: &Decision, right: &Decision) -> bool {
    let kinds = |decision: &Decision| decision.reasons.iter().map(std::mem::discriminant).collect::<Vec<_>>();
    left.actions == right.actions && kinds(left) == kinds(right)
}
