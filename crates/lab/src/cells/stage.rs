//! How far a cell has come: what its sessions wait for, and what they tell the player.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use mainstay_core::Now;

/// The parts of a cell, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Sessions get into the state in which the fault is to find them.
    Before,
    /// The fault was done.
    Struck,
    /// There is a primary that takes statements: the next one, or the old one again where nobody takes over.
    Stands,
    /// Sessions come to their end.
    Over,
}

#[derive(Debug)]
struct State {
    part: Part,
    stands_at: Option<Now>,
    /// How many sessions are where the fault is to find them.
    ready: usize,
}

/// Shared by the player and all sessions of a cell.
#[derive(Debug)]
pub(super) struct Stage {
    state: Mutex<State>,
    changed: Condvar,
    next_row: AtomicI64,
}

impl Stage {
    /// Rows of this cell have the numbers from `first_row` on.
    pub(super) fn new(first_row: i64) -> Stage {
        let state = State { part: Part::Before, stands_at: None, ready: 0 };
        Stage { state: Mutex::new(state), changed: Condvar::new(), next_row: AtomicI64::new(first_row) }
    }

    /// A number that no other row has.
    pub(super) fn row(&self) -> i64 {
        self.next_row.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn enter(&self, part: Part) {
        self.set(|state| state.part = state.part.max(part));
    }

    pub(super) fn stands(&self, at: Now) {
        self.set(|state| {
            state.part = state.part.max(Part::Stands);
            state.stands_at = state.stands_at.or(Some(at));
        });
    }

    pub(super) fn tell_ready(&self) {
        self.set(|state| state.ready += 1);
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    pub(super) fn part(&self) -> Part {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).part
    }

    pub(super) fn stands_at(&self) -> Option<Now> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stands_at
    }

    /// Waits until the cell has come so far.
    pub(super) fn wait_for(&self, part: Part) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(state, |state| state.part < part));
    }

    /// Whether so many sessions are ready within `patience`.
    pub(super) fn wait_ready(&self, count: usize, patience: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, patience, |state| state.ready < count);
        waited.is_ok_and(|(_, outcome)| !outcome.timed_out())
    }
}
